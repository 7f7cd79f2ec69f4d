//! The package for Debian, by cargo-deb, which reads what is in it from `memtrace/Cargo.toml`.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::version;
use crate::host;
use crate::install::{self, Step};
use crate::progress::Log;

/// The version of cargo-deb. Another one may lay out the package otherwise.
const CARGO_DEB: &str = "3.8.0";

/// What computes the package's dependencies, and packs it.
const PACKAGES: [&str; 2] = ["dpkg-dev", "xz-utils"];

/// Who made the package, until the project has an address.
const MAINTAINER: &str = "The memtrace authors <authors@memtrace.invalid>";

/// The revision of the package, of one version of memtrace.
const REVISION: &str = "1";

/// The folder of `target/` in which cargo-deb is.
fn tools() -> Result<PathBuf> {
    Ok(host::target_directory()?.join("dist-tools"))
}

/// How to get what is not here.
pub fn missing() -> Result<Vec<Step>> {
    let mut steps = install::apt_steps(&PACKAGES)?.unwrap_or_default();
    let root = tools()?;
    let own = root.join("bin/cargo-deb");
    let said = Command::new(&own).arg("--version").output();
    if said.is_ok_and(|it| String::from_utf8_lossy(&it.stdout).contains(CARGO_DEB)) {
        return Ok(steps);
    }
    let mut install = host::cargo();
    install
        .args(["install", "cargo-deb", "--version", CARGO_DEB, "--locked"])
        // It runs for a moment, and is built for a minute; xz packs.
        .args(["--debug", "--no-default-features", "--force", "--root"])
        .arg(&root);
    let what = format!("building cargo-deb {CARGO_DEB} from source");
    steps.push(Step::new(&what, install, &[]));
    Ok(steps)
}

/// Builds the program that is in the package, which uses the system's C library.
pub fn build() -> Command {
    let mut command = host::cargo();
    command.args(["build", "--release", "--locked"]).args([
        "--package",
        "memtrace",
        "--bin",
        "memtrace",
    ]);
    command
}

/// Makes the package in `folder` of the program, of completions that are in there, and of `pages`.
pub fn make(folder: &Path, pages: &[PathBuf], log: &mut Log) -> Result<PathBuf> {
    let of_package = changes(&version(), &date()?);
    let of_program = read(&host::project().join("CHANGELOG.md"))?;
    let mut files: Vec<(OsString, _)> = vec![
        ("changelog".into(), of_program),
        ("changelog.Debian".into(), of_package.into_bytes()),
    ];
    for page in pages {
        files.push((page.file_name().unwrap_or_default().to_owned(), read(page)?));
    }
    // Debian has these compressed.
    for (name, text) in files {
        let file = folder.join("debian").join(name);
        host::write_atomically(&file, &text)?;
        log.run(Command::new("gzip").args(["-9", "-n"]).arg(&file))?;
    }
    let package = folder.join(format!("memtrace_{}-{REVISION}_amd64.deb", version()));
    let mut command = host::cargo();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(tools()?.join("bin")).chain(std::env::split_paths(&path));
    command
        .env("PATH", std::env::join_paths(folders)?)
        .args(["deb", "--no-build", "--locked", "--package", "memtrace"])
        .args(["--maintainer", MAINTAINER, "--deb-revision", REVISION])
        .args(["--compress-system", "--output"])
        .arg(&package);
    log.run(&mut command)?;
    Ok(package)
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

/// The package's own list of changes, which Debian wants in this form.
fn changes(version: &str, date: &str) -> String {
    format!(
        "memtrace ({version}-{REVISION}) unstable; urgency=medium\n\n  \
         * What is new is in /usr/share/doc/memtrace/changelog.gz.\n\n \
         -- {MAINTAINER}  {date}\n"
    )
}

/// When the sources were changed last: the same sources make the same package.
fn date() -> Result<String> {
    let mut command = Command::new("git");
    command
        .args(["log", "-1", "--format=%cD"])
        .current_dir(host::project());
    let date = host::capture(&mut command).context("the package needs the date of its sources")?;
    Ok(date.trim().to_owned())
}

/// Unpacks the package into `folder`.
pub fn unpack(package: &Path, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    host::run(Command::new("dpkg-deb").arg("-x").args([package, folder]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_changes_has_debians_form() {
        let text = changes("1.2.3", "Sat, 14 Mar 2026 15:09:26 +0000");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "memtrace (1.2.3-1) unstable; urgency=medium");
        assert!(lines[2].starts_with("  * "), "{text}");
        assert!(
            lines[4].starts_with(" -- ")
                && lines[4].ends_with(">  Sat, 14 Mar 2026 15:09:26 +0000"),
            "{text}"
        );
    }
}
