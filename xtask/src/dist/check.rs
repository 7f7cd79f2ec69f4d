//! Tries what was made, as those will who use it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::{Made, deb, tarball, version};
use crate::host;

/// Debian's packages that look at the files.
pub const PACKAGES: [&str; 4] = ["lintian", "man-db", "zsh", "fish"];

/// A program that forks, and whose children write.
const FORKS: &str = "for i in 1 2 3; do (x=$i; :); done";

/// Tries all of it. What needs a program, or rights, that are not here is skipped, and said.
pub fn run(made: &Made) -> Result<()> {
    for (shell, file) in &made.completions {
        checked(shell, Command::new(shell).arg("-n").arg(file))?;
    }
    for page in &made.pages {
        // With -Z it formats and shows nothing; what is wrong with the page is on standard error.
        let mut man = Command::new("man");
        man.args(["--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z"]);
        checked("man", man.arg(page).env("LC_ALL", "C.UTF-8"))?;
    }
    lint(&made.package)?;

    let scratch = tempfile::tempdir().context("cannot create a temporary directory")?;
    let (installed, unpacked) = (scratch.path().join("deb"), scratch.path().join("tar"));
    deb::unpack(&made.package, &installed)?;
    tarball::unpack(&made.tarball, &unpacked)?;
    ensure!(
        installed.join("usr/share/man/man1/memtrace.1.gz").exists(),
        "the package lacks the manual"
    );
    for program in [
        installed.join("usr/bin/memtrace"),
        unpacked.join(tarball::name()).join("memtrace"),
    ] {
        try_out(&program)?;
    }
    Ok(())
}

/// Runs what looks at a file; anything that it says on standard error is a fault.
fn checked(program: &str, command: &mut Command) -> Result<()> {
    let shown = host::show(command);
    if host::find_program(program).is_none() {
        eprintln!("xtask: SKIPPED `{shown}`: {program} is not installed");
        return Ok(());
    }
    let output = command
        .output()
        .with_context(|| format!("cannot run `{shown}`"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() || !said.is_empty() {
        bail!("`{shown}` is not content ({}):\n{said}", output.status);
    }
    Ok(())
}

fn lint(package: &Path) -> Result<()> {
    if host::find_program("lintian").is_none() {
        eprintln!("xtask: SKIPPED lintian, which is not installed");
        return Ok(());
    }
    host::run(
        Command::new("lintian")
            .args(["--fail-on", "error,warning"])
            .arg(package),
    )
}

/// Asks a program for its version, and traces with it.
fn try_out(program: &PathBuf) -> Result<()> {
    let said = host::capture(Command::new(program).arg("--version"))?;
    ensure!(
        said.trim() == format!("memtrace {}", version()),
        "{} says it is {said}",
        program.display()
    );
    if !host::is_root() || !Path::new("/sys/kernel/btf/vmlinux").exists() {
        eprintln!("xtask: SKIPPED a trace: it needs root, and a kernel with BTF");
        return Ok(());
    }
    let mut trace = Command::new(program);
    trace.args(["-q", "-f", "json", "--", "sh", "-c", FORKS]);
    let output = trace.output().context("the program cannot be run")?;
    let said = String::from_utf8_lossy(&output.stderr);
    // Files are read in a sandbox, and what the C library calls may not get through.
    ensure!(
        output.status.success() && !said.contains("debug information"),
        "{} does not trace as it should ({}):\n{said}",
        program.display(),
        output.status
    );
    let report: Value = serde_json::from_slice(&output.stdout).context("the report is not JSON")?;
    let copied = report["totals"]["copied_pages"].as_u64().unwrap_or(0);
    let processes = report["processes"].as_array().map_or(0, Vec::len);
    ensure!(
        copied > 0 && processes == 4,
        "{} saw {copied} copied pages of {processes} processes, and there are 4",
        program.display()
    );
    let named = report["call_sites"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|site| {
            site["site"]["module"].is_string()
                && site["stacks"][0]["frames"][0]["unknown"].is_null()
        });
    ensure!(named, "{} names no function", program.display());
    eprintln!(
        "xtask: {} traced {processes} processes, {copied} copied pages",
        program.display()
    );
    Ok(())
}
