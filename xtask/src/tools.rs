//! Python programs from `PyPI` that tests and benches run, in a virtual environment of their own
//! under `target/`: nothing of the machine's is changed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::host;
use crate::progress::Log;

/// How somebody gets them.
pub const REMEDY: &str = "`cargo xtask pythons` gets it";

/// The folder under `target/`.
const FOLDER: &str = "python-tools";

/// What is installed. uWSGI is built from source: it embeds the interpreter.
const PACKAGES: [&str; 9] = [
    "uwsgi==2.0.31",
    "gunicorn==23.0.0",
    "greenlet==3.2.4",
    "numpy>=1.26,<3",
    "pyahocorasick==2.2.0",
    "py-spy==0.4.1",
    // What reads reports.
    "hdrhistogram==0.10.8",
    "prometheus-client==0.26.0",
    "duckdb==2.0.1",
];

/// Says what was installed, once it was installed as a whole.
const COMPLETE: &str = "complete";

/// What an interpreter needs to have for all of that: pip, and its headers for uWSGI.
const SUITABLE: &str = "import ensurepip, os, sys, sysconfig, venv\n\
    ok = os.path.exists(os.path.join(sysconfig.get_paths()['include'], 'Python.h'))\n\
    sys.exit(0 if ok and sys.version_info >= (3, 9) else 1)";

/// Debian's packages that make the system's interpreter suitable.
const DEBIAN: [&str; 4] = ["python3", "python3-dev", "python3-venv", "gcc"];

/// pyenv's versions that are tried, in this order.
const PYENV: [&str; 4] = ["3.12.", "3.11.", "3.10.", "3.13."];

/// The folder of the environment.
pub fn folder() -> Result<PathBuf> {
    Ok(host::target_directory()?.join(FOLDER))
}

/// A program of the environment, or else of the machine.
pub fn program(name: &str) -> Option<PathBuf> {
    let own = folder().ok()?.join("bin").join(name);
    if host::is_executable(&own) {
        return Some(own);
    }
    host::find_program(name)
}

/// Whether everything is there.
pub fn is_complete() -> bool {
    let marker = folder().map(|folder| std::fs::read_to_string(folder.join(COMPLETE)));
    matches!(marker, Ok(Ok(text)) if text == packages())
}

/// What is installed, in a few words.
pub fn names() -> String {
    let names = PACKAGES.map(|package| package.split(['=', '>']).next().unwrap_or(package));
    names.join(", ")
}

/// Debian's packages without which no interpreter of this machine can have the environment; none
/// when there is one that can.
pub fn packages_needed() -> Vec<&'static str> {
    if suitable().is_some() {
        Vec::new()
    } else {
        DEBIAN.to_vec()
    }
}

/// Installs everything, unless it is there.
pub fn install(log: &mut Log) -> Result<()> {
    if is_complete() {
        return Ok(());
    }
    let folder = folder()?;
    let python = suitable().with_context(|| {
        format!(
            "no Python here has pip, venv and its C headers, which uWSGI needs to be built: \
             install them with your system's package manager (Debian: {})",
            DEBIAN.join(" ")
        )
    })?;
    log.run(
        Command::new(&python)
            .args(["-m", "venv", "--clear"])
            .arg(&folder),
    )?;
    log.run(
        Command::new(folder.join("bin/python3"))
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
            ])
            .args(PACKAGES),
    )
    .context("some Python programs that tests and benches run could not be installed")?;
    host::write_atomically(&folder.join(COMPLETE), packages().as_bytes())
}

fn packages() -> String {
    PACKAGES.join("\n")
}

/// An interpreter that can have the environment.
fn suitable() -> Option<PathBuf> {
    let mut candidates = of_pyenv();
    candidates.push(PathBuf::from("/usr/bin/python3"));
    candidates.into_iter().find(|python| runs(python, SUITABLE))
}

/// Whether an interpreter can make environments, and put packages into them.
pub fn makes_environments(python: &Path) -> bool {
    runs(python, "import ensurepip, venv")
}

fn runs(python: &Path, script: &str) -> bool {
    let output = Command::new(python).args(["-c", script]).output();
    output.is_ok_and(|output| output.status.success())
}

fn of_pyenv() -> Vec<PathBuf> {
    let root = std::env::var_os("PYENV_ROOT")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".pyenv")));
    let entries = root.and_then(|root| std::fs::read_dir(root.join("versions")).ok());
    let mut found: Vec<_> = entries.into_iter().flatten().flatten().collect();
    found.sort_by_key(std::fs::DirEntry::file_name);
    let rank = |entry: &std::fs::DirEntry| {
        let name = entry.file_name();
        let name = name.to_str()?.to_owned();
        PYENV.iter().position(|version| name.starts_with(version))
    };
    let mut ranked: Vec<_> = found
        .iter()
        .filter_map(|entry| Some((rank(entry)?, entry.path().join("bin/python3"))))
        .collect();
    ranked.sort();
    ranked.into_iter().map(|(_, path)| path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_installed_is_told_without_versions() {
        assert_eq!(
            names(),
            "uwsgi, gunicorn, greenlet, numpy, pyahocorasick, py-spy, hdrhistogram, \
             prometheus-client, duckdb"
        );
    }
}
