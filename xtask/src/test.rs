//! `cargo xtask test`: every test, those that need root too.
//!
//! Those are the integration test `privileged`. Without root its tests skip themselves, with a
//! line on standard error each; here they run as root: directly, or through sudo.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::host::{self, Artifact};
use crate::{install, pythons, tools};

/// The integration test whose tests trace processes.
const PRIVILEGED: &str = "privileged";

/// What makes the tests use the fixture that is built here.
const FIXTURE: &str = "MEMTRACE_FIXTURE";

/// What tells the tests where the interpreters of `cargo xtask pythons` are, and the programs.
const PYTHONS: &str = "MEMTRACE_PYTHON_ROOTS";
const PYTHON_TOOLS: &str = "MEMTRACE_PYTHON_TOOLS";

/// Programs that some tests run, and Debian's packages with them.
const PROGRAMS: [(&str, &str); 6] = [
    ("gcc", "gcc"),
    ("g++", "g++"),
    ("python3", "python3"),
    ("gdb", "gdb"),
    ("redis-server", "redis-server"),
    ("ruby", "ruby"),
];

/// Run every test, those that need root too.
#[derive(clap::Args)]
pub struct Args {
    /// Leave out the tests that need root
    #[arg(long)]
    unprivileged: bool,
    /// Install missing programs that tests run (Debian packages)
    #[arg(long)]
    install: bool,
    /// With --install: also build CPython without the GIL, which takes minutes
    #[arg(long, requires = "install")]
    free_threaded: bool,
}

/// Runs the tests; fails when one fails.
pub fn run(args: &Args) -> Result<ExitCode> {
    programs(args.install)?;
    if args.install && !args.unprivileged {
        // What cannot be had is said there; the tests that need it skip themselves, or fail in CI.
        pythons::install(args.free_threaded);
    }
    let mut passed = step("tests that need no privileges", &mut unprivileged()?);
    passed &= step("examples in the documentation", &mut documentation());
    if args.unprivileged {
        eprintln!("xtask: SKIPPED, as asked: the tests that need root");
    } else if host::is_root() {
        passed &= step("tests that need root", &mut privileged()?);
    } else if host::find_program("sudo").is_some() {
        passed &= through_sudo()?;
    } else {
        eprintln!(
            "xtask: SKIPPED: the tests that need root, since this is not root and there is no \
             sudo. These were not run:"
        );
        host::run(privileged()?.args(["--", "--list"]))?;
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

/// All tests of the host's packages, but for those that need root. The BPF package has no tests of
/// its own and does not build for the host; the object that is made from it is tested.
fn unprivileged() -> Result<Command> {
    let mut command = host::cargo();
    command
        .args([
            "test",
            "--workspace",
            "--exclude",
            "memtrace-ebpf",
            "--no-fail-fast",
        ])
        .args(["--lib", "--bins"]);
    for name in integration_tests()?
        .iter()
        .filter(|name| *name != PRIVILEGED)
    {
        command.args(["--test", name]);
    }
    Ok(command)
}

/// Cargo runs these on their own only.
fn documentation() -> Command {
    let mut command = host::cargo();
    command.args(["test", "--workspace", "--exclude", "memtrace-ebpf", "--doc"]);
    command
}

fn privileged() -> Result<Command> {
    let mut command = host::cargo();
    command
        .args(["test", "--package", "memtrace", "--test", PRIVILEGED])
        .env(FIXTURE, host::build_fixture()?)
        .env(PYTHONS, pythons::folder()?)
        .env(PYTHON_TOOLS, tools::folder()?);
    Ok(command)
}

/// Runs the tests that need root under sudo. Cargo itself stays the user's, so that no file in the
/// target directory becomes root's.
fn through_sudo() -> Result<bool> {
    let binary = host::build(
        privileged()?.arg("--no-run"),
        Artifact::IntegrationTest(PRIVILEGED),
    )?;
    let dir = host::project().join("memtrace");
    let mut command = under_sudo(&binary, &dir);
    command
        .env(FIXTURE, host::build_fixture()?)
        .env(PYTHONS, pythons::folder()?)
        .env(PYTHON_TOOLS, tools::folder()?);
    Ok(step("tests that need root", &mut command))
}

fn under_sudo(binary: &Path, dir: &Path) -> Command {
    let mut command = Command::new("sudo");
    command
        .args(["--preserve-env", "--"])
        .arg(binary)
        .current_dir(dir)
        .env("CARGO_MANIFEST_DIR", dir);
    command
}

/// The names of all integration tests of the workspace.
fn integration_tests() -> Result<BTreeSet<String>> {
    let metadata = host::metadata()?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let targets = packages.flat_map(|package| package["targets"].as_array().into_iter().flatten());
    Ok(targets
        .filter(|target| target["kind"][0] == "test")
        .filter_map(|target| target["name"].as_str().map(str::to_owned))
        .collect())
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
