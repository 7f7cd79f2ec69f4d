//! `cargo xtask ebpf`: builds the BPF object that is committed beside the loader.
//!
//! The object depends on its sources and on the toolchain alone, not on where the checkout or
//! cargo's home are, nor on anybody's cargo configuration: `--check` compares bit for bit.

mod fingerprint;
mod strip;
mod toolchain;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use self::fingerprint::{Fingerprint, sha256};
use self::toolchain::{TARGET, Toolchain};
use crate::host;

/// The object, from the project's top.
const OBJECT: &str = "memtrace/bpf/memtrace.bpf.o";

/// What it was made from.
const RECORD: &str = "memtrace/bpf/memtrace.bpf.json";

/// The package and its binary.
const PACKAGE: &str = "memtrace-ebpf";

/// What the compiler is told, whatever cargo's configuration says. The cfg is what aya-ebpf
/// expects; v3 is the oldest instruction set with the atomics that the programs use; the BTF is
/// made from the debug information.
const RUSTFLAGS: [&str; 4] = [
    "-Clink-arg=--btf",
    "-Cdebuginfo=2",
    "-Ctarget-cpu=v3",
    "--cfg=bpf_target_arch=\"x86_64\"",
];

/// The profile, so that changes to the workspace's own do not reach the object.
const PROFILE: [&str; 7] = [
    "profile.release.opt-level=3",
    "profile.release.lto=true",
    "profile.release.codegen-units=1",
    "profile.release.debug=2",
    "profile.release.debug-assertions=false",
    "profile.release.overflow-checks=false",
    "profile.release.panic=\"abort\"",
];

/// Lints that do not fit BPF: what is not inlined is a call with five arguments at most, which the
/// verifier may refuse, and aya hands an entry point its context by value.
const BPF_LINTS: [&str; 4] = [
    "-A",
    "clippy::inline_always",
    "-A",
    "clippy::needless_pass_by_value",
];

/// Build the BPF object that is committed beside the loader.
#[derive(clap::Args)]
pub struct Args {
    /// Rebuild in a temporary directory and compare bit for bit; exit 1 when it differs
    #[arg(long)]
    check: bool,
    /// Lint the BPF programs with clippy, and build nothing
    #[arg(long, conflicts_with = "check")]
    lint: bool,
    /// Install what is missing: Debian packages, and bpf-linker into .bpf-toolchain
    #[arg(long)]
    install: bool,
}

/// Builds the object, unless what is there was made from the same sources by the same tools.
pub fn run(args: &Args) -> Result<ExitCode> {
    let project = host::project();
    let toolchain = Toolchain::find(args.install)?;
    if args.lint {
        return lint(&toolchain, args.install);
    }
    let mut now = Fingerprint::of_sources(&project, flags())?;
    now.toolchain = toolchain.versions()?;
    if args.check {
        return check(&project, &toolchain, now);
    }
    let (object, record) = (project.join(OBJECT), project.join(RECORD));
    if let (Ok(bytes), Ok(recorded)) = (fs::read(&object), Fingerprint::read(&record)) {
        now.object = sha256(&bytes);
        if now == recorded {
            eprintln!("xtask: {OBJECT} is up to date");
            return Ok(ExitCode::SUCCESS);
        }
    }
    let metadata = Metadata::read()?;
    let bytes = build(
        &toolchain,
        &metadata,
        &metadata.target_directory.join("bpf"),
    )?;
    now.object = sha256(&bytes);
    host::write_atomically(&object, &bytes)?;
    host::write_atomically(&record, &now.to_json()?)?;
    eprintln!("xtask: wrote {OBJECT}, {} bytes", bytes.len());
    Ok(ExitCode::SUCCESS)
}

/// Rebuilds and compares; says what differs.
fn check(project: &Path, toolchain: &Toolchain, mut now: Fingerprint) -> Result<ExitCode> {
    let committed = fs::read(project.join(OBJECT)).with_context(|| {
        format!("cannot read {OBJECT}, so there is nothing to check: run `cargo xtask ebpf`")
    })?;
    let recorded = Fingerprint::read(&project.join(RECORD))?;
    let scratch = tempfile::tempdir().context("cannot create a temporary directory")?;
    let rebuilt = build(toolchain, &Metadata::read()?, scratch.path())?;
    now.object = sha256(&rebuilt);

    let mut found = recorded.source_changes(&now);
    if recorded.object != sha256(&committed) {
        found.push(format!("{OBJECT} is not the object that {RECORD} records"));
    }
    if rebuilt != committed {
        found.extend(recorded.toolchain_changes(&now));
        found.push(difference(&committed, &rebuilt));
    }
    if found.is_empty() {
        eprintln!("xtask: {OBJECT} is what its sources make, bit for bit");
        return Ok(ExitCode::SUCCESS);
    }
    for line in &found {
        eprintln!("xtask: {line}");
    }
    eprintln!("xtask: {OBJECT} is stale: run `cargo xtask ebpf` and commit what it writes");
    Ok(ExitCode::FAILURE)
}

/// Where two objects differ first.
fn difference(committed: &[u8], rebuilt: &[u8]) -> String {
    let at = committed
        .iter()
        .zip(rebuilt)
        .take_while(|(old, new)| old == new)
        .count();
    format!(
        "{OBJECT}: committed {} bytes, rebuilt {} bytes, the first difference is at byte {at}",
        committed.len(),
        rebuilt.len()
    )
}

/// Everything that the compiler is told and that is the same on every machine.
fn flags() -> Vec<String> {
    RUSTFLAGS
        .iter()
        .chain(&PROFILE)
        .map(ToString::to_string)
        .collect()
}

/// Builds the object in `target` and strips it.
fn build(toolchain: &Toolchain, metadata: &Metadata, target: &Path) -> Result<Vec<u8>> {
    let mut command = host::cargo();
    command.args(["build", "--release"]);
    isolate(&mut command, toolchain, metadata, target);
    if let Err(error) = host::run(&mut command) {
        bail!("the BPF object was not built, and {OBJECT} is as it was: {error:#}");
    }
    let built = target.join(TARGET).join("release").join(PACKAGE);
    let bytes = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    strip::strip_dwarf(&bytes)
}

/// Runs clippy on the BPF programs; fails when it finds something.
fn lint(toolchain: &Toolchain, install: bool) -> Result<ExitCode> {
    let metadata = Metadata::read()?;
    let mut command = Command::new(toolchain.clippy(install)?);
    command.arg("clippy").current_dir(host::project());
    isolate(
        &mut command,
        toolchain,
        &metadata,
        &metadata.target_directory.join("bpf"),
    );
    command.args(["--", "-D", "warnings"]).args(BPF_LINTS);
    match host::run(&mut command) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("xtask: {error:#}");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Makes a cargo command work on the BPF package, for the BPF target, into `target`, and with
/// nothing that configures builds for the host.
fn isolate(command: &mut Command, toolchain: &Toolchain, metadata: &Metadata, target: &Path) {
    for (name, _) in std::env::vars_os() {
        if is_build_setting(&name) {
            command.env_remove(name);
        }
    }
    let mut rustflags: Vec<OsString> = RUSTFLAGS.iter().map(OsString::from).collect();
    let mut linker = OsString::from("-Clinker=");
    linker.push(&toolchain.linker);
    rustflags.push(linker);
    rustflags.extend(metadata.path_remaps());
    command
        .env("RUSTC", &toolchain.rustc)
        // `asm_experimental_arch` and the atomics need unstable features.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags.join("\u{1f}".as_ref()))
        .args(["--locked", "--package", PACKAGE, "--target", TARGET])
        .args(PROFILE.iter().flat_map(|setting| ["--config", setting]))
        .arg("--target-dir")
        .arg(target);
    if toolchain.build_std {
        command.arg("-Zbuild-std=core");
    }
}

/// Whether an environment variable shapes what cargo builds.
fn is_build_setting(name: &OsString) -> bool {
    let name = name.to_string_lossy();
    [
        "CARGO_BUILD_",
        "CARGO_PROFILE_",
        "CARGO_TARGET_",
        "RUSTC",
        "RUSTFLAGS",
    ]
    .iter()
    .any(|prefix| name.starts_with(prefix))
}

/// What `cargo metadata` says and this needs.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_root: PathBuf,
    target_directory: PathBuf,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    source: Option<String>,
    manifest_path: PathBuf,
}

impl Metadata {
    fn read() -> Result<Self> {
        let mut command = host::cargo();
        command.args(["metadata", "--format-version", "1", "--locked"]);
        let text = host::capture(&mut command)?;
        serde_json::from_str(&text).context("cannot read what `cargo metadata` prints")
    }

    /// Flags that give every path in the object a name that is the same on every machine. A
    /// package's own directory is mapped, not the registry's, so that a mirror or a vendored copy
    /// makes the same object. The last match wins, so the workspace, which may hold a vendored
    /// copy, comes first.
    fn path_remaps(&self) -> Vec<OsString> {
        let remap = |from: &Path, to: &str| {
            let mut flag = OsString::from("--remap-path-prefix=");
            flag.push(from);
            flag.push(format!("={to}"));
            flag
        };
        let mut flags = vec![remap(&self.workspace_root, "/memtrace")];
        for package in self
            .packages
            .iter()
            .filter(|package| package.source.is_some())
        {
            if let Some(dir) = package.manifest_path.parent() {
                let name = format!("/dependency/{}-{}", package.name, package.version);
                flags.push(remap(dir, &name));
            }
        }
        flags
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::{Object as _, ObjectSection as _};

    /// Needs no BPF toolchain: whoever changes the sources and does not rebuild is told here.
    #[test]
    fn the_committed_object_is_made_from_the_present_sources() {
        let project = host::project();
        let recorded = Fingerprint::read(&project.join(RECORD)).unwrap();
        let now = Fingerprint::of_sources(&project, flags()).unwrap();
        let changes = recorded.source_changes(&now);
        assert!(
            changes.is_empty(),
            "{OBJECT} is stale, run `cargo xtask ebpf`:\n{}",
            changes.join("\n")
        );
        let object = fs::read(project.join(OBJECT)).unwrap();
        assert_eq!(
            recorded.object,
            sha256(&object),
            "{OBJECT} and {RECORD} do not belong together"
        );
    }

    #[test]
    fn the_committed_object_has_btf_and_a_license_and_no_dwarf() {
        let bytes = fs::read(host::project().join(OBJECT)).unwrap();
        let object = object::File::parse(&*bytes).unwrap();
        let names: Vec<_> = object
            .sections()
            .map(|section| section.name().unwrap().to_owned())
            .collect();
        for wanted in [".BTF", ".BTF.ext", "license"] {
            assert!(
                names.iter().any(|name| name == wanted),
                "no {wanted} in {names:?}"
            );
        }
        assert!(
            !names.iter().any(|name| name.contains("debug")),
            "DWARF in {names:?}"
        );
        let license = object.section_by_name("license").unwrap().data().unwrap();
        assert_eq!(license, b"Dual MIT/GPL\0");
    }

    #[test]
    fn nothing_that_configures_the_host_reaches_the_object() {
        for name in [
            "RUSTFLAGS",
            "RUSTC_WRAPPER",
            "CARGO_PROFILE_RELEASE_LTO",
            "CARGO_TARGET_DIR",
        ] {
            assert!(is_build_setting(&name.into()), "{name}");
        }
        for name in [
            "PATH",
            "CARGO_HOME",
            "CARGO_NET_OFFLINE",
            "RUSTUP_TOOLCHAIN",
        ] {
            assert!(!is_build_setting(&name.into()), "{name}");
        }
    }
}
