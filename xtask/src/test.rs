//! `cargo xtask test`: every test, those that need root too.
//!
//! A test that needs root is an integration test marked `#[ignore = "needs root: ..."]`, so that
//! plain `cargo test` shows it as ignored, with the reason. Here those run as root: directly, or
//! through sudo.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::host::{self, Artifact};
use crate::install;

/// Programs that some tests run, and Debian's packages with them.
const PROGRAMS: [(&str, &str); 3] = [("gcc", "gcc"), ("g++", "g++"), ("python3", "python3")];

/// Run every test, those that need root too.
#[derive(clap::Args)]
pub struct Args {
    /// Leave out the tests that need root
    #[arg(long)]
    unprivileged: bool,
    /// Install missing programs that tests run (Debian packages)
    #[arg(long)]
    install: bool,
}

/// Runs the tests; fails when one fails.
pub fn run(args: &Args) -> Result<ExitCode> {
    programs(args.install)?;
    let mut passed = step("tests that need no privileges", &mut unprivileged());
    if args.unprivileged {
        eprintln!("xtask: left out, as asked: the tests that need root");
    } else if host::is_root() {
        passed &= step("tests that need root", &mut privileged());
    } else if host::find_program("sudo").is_some() {
        passed &= through_sudo()?;
    } else {
        eprintln!(
            "xtask: SKIPPED: the tests that need root, since this is not root and there is no \
             sudo. These were not run:"
        );
        host::run(privileged().arg("--list"))?;
    }
    if passed {
        eprintln!("xtask: all tests that ran passed");
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("xtask: there are failed tests, see above");
    Ok(ExitCode::FAILURE)
}

/// Says which programs are missing, or installs them.
fn programs(install: bool) -> Result<()> {
    let missing: Vec<_> = PROGRAMS
        .into_iter()
        .filter(|(program, _)| host::find_program(program).is_none())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing.iter().map(|(program, _)| *program).collect();
    let packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    let names = names.join(", ");
    match install::apt_steps(&packages)? {
        Some(steps) if install => install::run_steps(steps)?,
        Some(steps) => eprintln!(
            "xtask: {names}: not here, so the tests that use them skip themselves. `cargo xtask \
             test --install` gets them:\n{}",
            install::show_steps(&steps)
        ),
        None => eprintln!(
            "xtask: {names}: not here, so the tests that use them skip themselves. Install them \
             with your system's package manager"
        ),
    }
    Ok(())
}

/// All tests of the host's packages. The BPF package has no tests of its own and does not build
/// for the host; the object that is made from it is tested.
fn unprivileged() -> Command {
    let mut command = host::cargo();
    command.args([
        "test",
        "--workspace",
        "--exclude",
        "memtrace-ebpf",
        "--no-fail-fast",
    ]);
    command
}

/// The ignored integration tests, one at a time: they watch the whole machine's page faults.
fn privileged() -> Command {
    let mut command = host::cargo();
    command
        .args([
            "test",
            "--package",
            "memtrace",
            "--test",
            "*",
            "--no-fail-fast",
        ])
        .args(["--", "--ignored", "--test-threads=1"]);
    command
}

/// Runs the integration tests' binaries under sudo. Cargo itself stays the user's, so that no
/// file in the target directory becomes root's.
fn through_sudo() -> Result<bool> {
    let mut command = host::cargo();
    command.args(["test", "--package", "memtrace", "--test", "*", "--no-run"]);
    let binaries = host::build(&mut command, Artifact::IntegrationTests)?;
    eprintln!("xtask: sudo runs {} test binaries as root", binaries.len());
    let dir = host::project().join("memtrace");
    // Not `all`, which would stop at the first that fails.
    let failed = binaries.iter().filter(|binary| !under_sudo(binary, &dir));
    Ok(failed.count() == 0)
}

fn under_sudo(binary: &PathBuf, dir: &Path) -> bool {
    let mut command = Command::new("sudo");
    command
        .arg("-E")
        .arg(binary)
        .args(["--include-ignored", "--test-threads=1"])
        .current_dir(dir)
        .env("CARGO_MANIFEST_DIR", dir);
    step("as root", &mut command)
}

/// Runs a step of the tests; whether it passed.
fn step(what: &str, command: &mut Command) -> bool {
    eprintln!("xtask: {what}: {}", host::show(command));
    match host::run(command) {
        Ok(()) => true,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            false
        }
    }
}
