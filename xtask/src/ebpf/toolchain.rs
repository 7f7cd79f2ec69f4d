//! Finds a compiler and a linker for BPF, or says (or does) what it takes to get them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::host;

/// The target that the object is for.
pub const TARGET: &str = "bpfel-unknown-none";

/// The linker's version; another may order or optimize differently.
const LINKER_VERSION: &str = "0.13.0";

/// Debian 12's packages: a compiler with a ready `core` for BPF, and what bpf-linker is built
/// against.
const DEBIAN_PACKAGES: [&str; 5] = [
    "rustc-web",
    "libstd-rust-web-dev-bpf",
    "llvm-22-dev",
    "libpolly-22-dev",
    "libzstd-dev",
];

/// What bpf-linker's build script needs beside a Rust toolchain: LLVM is C++.
const DEBIAN_COMPILER: [&str; 1] = ["g++"];

/// Where Debian keeps the LLVM that `rustc-web` was built with.
const DEBIAN_LLVM: &str = "/usr/lib/llvm-22";

/// A compiler and a linker that make the object.
#[derive(Debug)]
pub struct Toolchain {
    /// The compiler, as `RUSTC`.
    pub rustc: PathBuf,
    /// bpf-linker.
    pub linker: PathBuf,
    /// No ready `core` for BPF: build it from rust-src.
    pub build_std: bool,
}

impl Toolchain {
    /// The toolchain of this machine. What is missing is installed when `install` says so, else
    /// it is an error that names the commands.
    pub fn find(install: bool) -> Result<Self> {
        let mut missing = Vec::new();
        let rustc = find_rustc();
        let linker = find_linker();
        if rustc.is_none() {
            missing.extend(compiler_commands()?);
        }
        if linker.is_none() {
            missing.extend(linker_commands()?);
        }
        missing.dedup_by_key(|command| command.shown.clone());
        if !missing.is_empty() && !install {
            let commands: Vec<_> = missing
                .iter()
                .map(|command| format!("  {}", command.shown))
                .collect();
            bail!(
                "building the BPF object needs {}. `cargo xtask ebpf --install` gets what is \
                 missing with these commands:\n{}",
                match (&rustc, &linker) {
                    (None, None) => "a compiler for BPF and bpf-linker",
                    (None, _) => "a compiler for BPF",
                    _ => "bpf-linker",
                },
                commands.join("\n")
            );
        }
        for command in &mut missing {
            eprintln!("xtask: {}", command.shown);
            host::run(&mut command.command)?;
        }
        let (rustc, build_std) = rustc
            .or_else(find_rustc)
            .context("the packages are installed, but /usr/bin/rustc cannot compile for BPF")?;
        let linker = linker
            .or_else(find_linker)
            .context("bpf-linker was installed, but does not say the version that was asked for")?;
        Ok(Self {
            rustc,
            linker,
            build_std,
        })
    }

    /// What each tool says of its version, for the record beside the object.
    pub fn versions(&self) -> Result<BTreeMap<String, String>> {
        Ok(BTreeMap::from([
            (
                "rustc".into(),
                host::capture(Command::new(&self.rustc).arg("-vV"))?,
            ),
            (
                "bpf-linker".into(),
                host::capture(Command::new(&self.linker).arg("--version"))?,
            ),
            (
                "cargo".into(),
                host::capture(host::cargo().arg("--version"))?,
            ),
        ]))
    }
}

/// The first compiler that can make BPF code, and whether it has to build `core` for it:
/// `MEMTRACE_BPF_RUSTC`, Debian's `rustc-web`, a nightly of rustup's with rust-src.
fn find_rustc() -> Option<(PathBuf, bool)> {
    let named = std::env::var_os("MEMTRACE_BPF_RUSTC").map(PathBuf::from);
    let nightly = || {
        let output = Command::new("rustup")
            .args(["which", "--toolchain", "nightly", "rustc"])
            .output()
            .ok()?;
        let path = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| PathBuf::from(path.trim()))
    };
    let candidates: [&dyn Fn() -> Option<PathBuf>; 3] = [
        &|| named.clone(),
        &|| Some("/usr/bin/rustc".into()),
        &nightly,
    ];
    candidates.iter().find_map(|candidate| {
        let rustc = candidate()?;
        let sysroot = Command::new(&rustc)
            .args(["--print", "sysroot"])
            .output()
            .ok()?;
        let sysroot = PathBuf::from(String::from_utf8(sysroot.stdout).ok()?.trim());
        let libraries = sysroot.join("lib/rustlib");
        if libraries.join(TARGET).is_dir() {
            return Some((rustc, false));
        }
        // A distribution's compiler may have rust-src too; only one that was asked for, or a
        // nightly, is trusted to match it.
        let source = libraries.join("src/rust/library/core/Cargo.toml");
        (source.is_file() && rustc != Path::new("/usr/bin/rustc")).then_some((rustc, true))
    })
}

/// bpf-linker of the wanted version: the project's own, else one in `PATH`.
fn find_linker() -> Option<PathBuf> {
    [
        Some(own_tools().join("bin/bpf-linker")),
        host::find_program("bpf-linker"),
    ]
    .into_iter()
    .flatten()
    .find(|linker| {
        Command::new(linker)
            .arg("--version")
            .output()
            .is_ok_and(|output| {
                String::from_utf8_lossy(&output.stdout).trim()
                    == format!("bpf-linker {LINKER_VERSION}")
            })
    })
}

/// The folder of the project's own for tools, ignored by git.
fn own_tools() -> PathBuf {
    host::project().join(".bpf-toolchain")
}

/// A command to run, and how somebody would type it.
struct Step {
    command: Command,
    shown: String,
}

impl Step {
    fn new(command: Command, environment: &[(&str, &str)]) -> Self {
        let mut command = command;
        let mut shown = String::new();
        for (name, value) in environment {
            command.env(name, value);
            shown = format!("{shown}{name}={value} ");
        }
        shown += &host::show(&command);
        Self { command, shown }
    }
}

/// How to get a compiler here.
fn compiler_commands() -> Result<Vec<Step>> {
    let Some(apt) = apt_commands(&DEBIAN_PACKAGES)? else {
        bail!(
            "there is no compiler for BPF here, and this is not Debian 12. Install a nightly \
             with its source (`rustup toolchain install nightly --component rust-src`), or name \
             a compiler in MEMTRACE_BPF_RUSTC"
        );
    };
    Ok(apt)
}

/// How to get bpf-linker here.
fn linker_commands() -> Result<Vec<Step>> {
    let root = own_tools();
    let Some(mut steps) = apt_commands(&[&DEBIAN_PACKAGES[..], &DEBIAN_COMPILER[..]].concat())?
    else {
        bail!(
            "bpf-linker {LINKER_VERSION} is not here, and this is not Debian 12. Install it with \
             an LLVM at least as new as the compiler's: `cargo install bpf-linker --version \
             {LINKER_VERSION} --root {}`, see its README for the LLVM features",
            root.display()
        );
    };
    let mut install = host::cargo();
    install
        .args([
            "install",
            "bpf-linker",
            "--version",
            LINKER_VERSION,
            "--locked",
        ])
        .args(["--no-default-features", "--features", "llvm-22", "--root"])
        .arg(&root);
    steps.push(Step::new(install, &[("LLVM_PREFIX", DEBIAN_LLVM)]));
    Ok(steps)
}

/// The commands that install those of `packages` that are missing; `None` where there is no apt.
fn apt_commands(packages: &[&str]) -> Result<Option<Vec<Step>>> {
    if host::find_program("apt-get").is_none() {
        return Ok(None);
    }
    let missing = missing_packages(packages)?;
    if missing.is_empty() {
        return Ok(Some(Vec::new()));
    }
    let apt = || {
        if host::is_root() {
            Command::new("apt-get")
        } else {
            let mut sudo = Command::new("sudo");
            sudo.arg("apt-get");
            sudo
        }
    };
    let mut update = apt();
    update.args(["update", "-q"]);
    let mut install = apt();
    install
        .args(["install", "-q", "-y", "--no-install-recommends"])
        .args(missing);
    Ok(Some(vec![
        Step::new(update, &[]),
        Step::new(install, &[("DEBIAN_FRONTEND", "noninteractive")]),
    ]))
}

/// Those of `packages` that dpkg does not call installed.
fn missing_packages<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    // dpkg-query fails when it knows nothing of one of them, and still prints the others.
    let output = Command::new("dpkg-query")
        .args(["-W", "-f", "${Package} ${db:Status-Status}\n"])
        .args(packages)
        .output()
        .context("cannot run `dpkg-query`")?;
    let known = String::from_utf8_lossy(&output.stdout);
    Ok(packages
        .iter()
        .copied()
        .filter(|package| {
            !known
                .lines()
                .any(|line| line == format!("{package} installed"))
        })
        .collect())
}
