//! promtool, out of Debian's package of Prometheus. It is unpacked below `target/` and not
//! installed: that would start a server as a service of the machine.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::host;
use crate::progress::Log;

/// Debian's package.
const PACKAGE: &str = "prometheus";

/// The program, if it is there.
pub fn program() -> Option<PathBuf> {
    let own = folder().ok()?.join("usr/bin/promtool");
    if host::is_executable(&own) {
        return Some(own);
    }
    host::find_program("promtool")
}

fn folder() -> Result<PathBuf> {
    Ok(host::target_directory()?.join("promtool"))
}

/// Fetches and unpacks it, unless it is there.
pub fn install(log: &mut Log) -> Result<()> {
    if program().is_some() {
        return Ok(());
    }
    let scratch = tempfile::tempdir().context("cannot create a temporary directory")?;
    let mut download = Command::new("apt-get");
    download
        .args(["download", "-q", PACKAGE])
        .current_dir(scratch.path());
    log.run(&mut download)?;
    let packages = fs::read_dir(scratch.path())?.flatten();
    let package = packages.map(|entry| entry.path()).next();
    let package = package.context("apt-get downloaded nothing")?;
    log.run(
        Command::new("dpkg-deb")
            .arg("-x")
            .args([package, folder()?]),
    )
}
