//! Finds a compiler and a linker for BPF, or says (or does) what it takes to get them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::host;
use crate::install::{self, Step};

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

/// Debian's clippy for that compiler.
const DEBIAN_CLIPPY: [&str; 1] = ["rust-web-clippy"];

/// What bpf-linker's build script needs beside a Rust toolchain: LLVM is C++.
const DEBIAN_COMPILER: [&str; 1] = ["g++"];

/// Where Debian keeps the LLVM that `rustc-web` was built with.
const DEBIAN_LLVM: &str = "/usr/lib/llvm-22";

/// Where Debian's `rustc-web` puts the compiler.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// The file of the target directory that keeps what the installing commands print.
const LOG: &str = "toolchain";

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
        if !missing.is_empty() && !install {
            let what = match (&rustc, &linker) {
                (None, None) => "a compiler for BPF and bpf-linker",
                (None, _) => "a compiler for BPF",
                _ => "bpf-linker",
            };
            bail!(
                "building the BPF object needs {what}. `cargo xtask ebpf --install` gets what is \
                 missing with these commands:\n{}",
                install::show_steps(&missing)
            );
        }
        install::run_steps(LOG, missing)?;
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

    /// The `cargo-clippy` of the compiler: another's would look for a `core` of its own.
    pub fn clippy(&self, install: bool) -> Result<PathBuf> {
        let clippy = self.rustc.with_file_name("cargo-clippy");
        if host::is_executable(&clippy) {
            return Ok(clippy);
        }
        let steps = if self.rustc == Path::new(DEBIAN_RUSTC) {
            install::apt_steps(&DEBIAN_CLIPPY)?.unwrap_or_default()
        } else {
            Vec::new()
        };
        if steps.is_empty() {
            bail!(
                "{} is not here, so the BPF programs cannot be linted: add clippy to the \
                 toolchain of that compiler",
                clippy.display()
            );
        }
        if !install {
            bail!(
                "linting the BPF programs needs clippy. `cargo xtask ebpf --lint --install` gets \
                 it with these commands:\n{}",
                install::show_steps(&steps)
            );
        }
        install::run_steps(LOG, steps)?;
        Ok(clippy)
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
    let candidates: [&dyn Fn() -> Option<PathBuf>; 3] =
        [&|| named.clone(), &|| Some(DEBIAN_RUSTC.into()), &nightly];
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
        (source.is_file() && rustc != Path::new(DEBIAN_RUSTC)).then_some((rustc, true))
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

/// How to get a compiler here.
fn compiler_commands() -> Result<Vec<Step>> {
    let Some(apt) = install::apt_steps(&DEBIAN_PACKAGES)? else {
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
    let Some(mut steps) =
        install::apt_steps(&[&DEBIAN_PACKAGES[..], &DEBIAN_COMPILER[..]].concat())?
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
    let what = format!("building bpf-linker {LINKER_VERSION} from source, which takes minutes");
    let environment = [("LLVM_PREFIX", DEBIAN_LLVM)];
    steps.push(Step::new(&what, install, &environment));
    Ok(steps)
}
