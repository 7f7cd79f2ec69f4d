//! An archive for any distribution: the program, which needs no libraries, and what goes with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::describe::Completions;
use super::version;
use crate::host;
use crate::install::{self, Step};
use crate::progress::Log;

/// What the program is built for: musl is linked into it, so it runs whatever the C library is.
const TARGET: &str = "x86_64-unknown-linux-musl";

/// Of the project's own files.
const DOCUMENTS: [&str; 4] = ["README.md", "CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT"];

/// How to get what is not here.
pub fn missing() -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let mut rustc = Command::new("rustc");
    rustc.args(["--print", "target-libdir", "--target", TARGET]);
    rustc.current_dir(host::project());
    let libraries = PathBuf::from(host::capture(&mut rustc)?.trim());
    if !libraries.exists() {
        let mut add = Command::new("rustup");
        add.args(["target", "add", TARGET]);
        add.current_dir(host::project());
        steps.push(Step::new(
            "getting Rust's standard library for musl",
            add,
            &[],
        ));
    }
    steps.extend(install::apt_steps(&["tar", "gzip"])?.unwrap_or_default());
    Ok(steps)
}

/// Builds the program.
pub fn build() -> Command {
    let mut command = host::cargo();
    command
        .args(["build", "--release", "--locked", "--target", TARGET])
        .args(["--package", "memtrace", "--bin", "memtrace"]);
    command
}

/// The folder that the archive unpacks to.
pub fn name() -> String {
    format!("memtrace-{}-x86_64-linux", version())
}

/// Makes the archive in `folder`.
pub fn make(
    folder: &Path,
    completions: &Completions,
    pages: &[PathBuf],
    log: &mut Log,
) -> Result<PathBuf> {
    let content = folder.join(name());
    let built = host::target_directory()?
        .join(TARGET)
        .join("release/memtrace");
    copy(&built, &content)?;
    for file in DOCUMENTS {
        copy(&host::project().join(file), &content)?;
    }
    for (_, file) in completions {
        copy(file, &content.join("completions"))?;
    }
    for file in pages {
        copy(file, &content.join("man"))?;
    }
    for file in host::project().join("docs").read_dir()? {
        let file = file?.path();
        if file.extension().is_some_and(|end| end == "md") {
            copy(&file, &content.join("docs"))?;
        }
    }
    let archive = folder.join(format!("{}.tar.gz", name()));
    let mut tar = Command::new("tar");
    // Who made it, and where the files are in the folder, says nothing about them.
    tar.args(["--owner=0", "--group=0", "--numeric-owner", "--sort=name"])
        .arg("-C")
        .arg(folder)
        .arg("-czf")
        .args([archive.as_os_str(), name().as_ref()]);
    log.run(&mut tar)?;
    fs::remove_dir_all(&content).with_context(|| format!("cannot remove {}", content.display()))?;
    Ok(archive)
}

/// Unpacks the archive into `folder`.
pub fn unpack(archive: &Path, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    host::run(
        Command::new("tar")
            .arg("-C")
            .arg(folder)
            .arg("-xzf")
            .arg(archive),
    )
}

fn copy(file: &Path, folder: &Path) -> Result<()> {
    let name = file.file_name().context("a file has a name")?;
    fs::create_dir_all(folder)
        .and_then(|()| fs::copy(file, folder.join(name)))
        .with_context(|| format!("cannot copy {} to {}", file.display(), folder.display()))?;
    Ok(())
}
