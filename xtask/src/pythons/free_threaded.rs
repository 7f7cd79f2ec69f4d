//! CPython without the GIL, which no Debian suite packages: built from the source package.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::suite::Apt;
use crate::host;
use crate::progress::Log;

/// What tests call it.
pub const NAME: &str = "free-threaded";

/// The suite and the source package.
const SUITE: &str = "trixie";
const SOURCE: &str = "python3.13";

/// Debian's packages that the build needs.
pub const BUILD: [&str; 6] = [
    "gcc",
    "make",
    "dpkg-dev",
    "zlib1g-dev",
    "libffi-dev",
    "libssl-dev",
];

/// Whether it is there.
pub fn is_there() -> bool {
    program().is_ok_and(|program| host::is_executable(&program))
}

/// The folder is used as it is, not entered by chroot: it is for this machine's libraries.
fn program() -> Result<PathBuf> {
    Ok(super::folder()?.join(NAME).join("bin/python3.13t"))
}

/// Builds it, unless it is there. What the build needs has to be installed.
pub fn install(log: &mut Log) -> Result<()> {
    if is_there() {
        return Ok(());
    }
    let folder = super::folder()?;
    fs::create_dir_all(&folder)?;
    let scratch = tempfile::tempdir_in(&folder).context("cannot create a folder")?;
    let apt = Apt::new(scratch.path(), SUITE)?;
    apt.update(log)?;
    log.run(apt.command().args(["source", SOURCE]))?;
    let source = fs::read_dir(scratch.path())?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.join("configure").exists())
        .context("the source package has no configure script")?;
    let prefix = folder.join(NAME);
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    log.run(
        Command::new("./configure")
            .args([
                "--disable-gil",
                "--quiet",
                "--disable-test-modules",
                "--with-ensurepip=no",
            ])
            .arg(format!("--prefix={}", prefix.display()))
            .current_dir(&source),
    )?;
    for arguments in [&["--silent"][..], &["--silent", "altinstall"]] {
        log.run(
            Command::new("make")
                .arg(format!("-j{jobs}"))
                .args(arguments)
                .env("PYTHONDONTWRITEBYTECODE", "1")
                .current_dir(&source),
        )?;
    }
    Ok(())
}
