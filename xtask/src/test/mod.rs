//! `cargo xtask test`: every test, those that need root too.
//!
//! Those are the integration test `privileged`. Without root its tests skip themselves, with a
//! line on standard error each; here they run as root: directly, or through sudo. What they need
//! and this machine lacks is installed before, and what was skipped all the same is summed up at
//! the end.

mod tally;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::{IsTerminal as _, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};

use self::tally::Tally;
use crate::host::{self, Artifact};
use crate::setup::{Choice, Wanted};
use crate::{pythons, tools};

/// The integration test whose tests trace processes.
const PRIVILEGED: &str = "privileged";

/// What makes the tests use the fixture that is built here.
const FIXTURE: &str = "MEMTRACE_FIXTURE";

/// What tells the tests where the interpreters of `cargo xtask pythons` are, and the programs.
const PYTHONS: &str = "MEMTRACE_PYTHON_ROOTS";
const PYTHON_TOOLS: &str = "MEMTRACE_PYTHON_TOOLS";

/// What tells the tests in which file they say that they skip themselves.
const SKIPS: &str = "MEMTRACE_SKIPS";

/// Run every test, those that need root too.
#[derive(clap::Args)]
pub struct Args {
    /// Leave out the tests that need root
    #[arg(long)]
    unprivileged: bool,
    #[command(flatten)]
    setup: Choice,
}

impl Args {
    fn wanted(&self) -> Wanted {
        if self.unprivileged {
            Wanted::UnprivilegedTests
        } else {
            Wanted::Tests
        }
    }
}

/// Runs the tests; fails when one fails.
pub fn run(args: &Args) -> Result<ExitCode> {
    if args.setup.shows(args.wanted())? {
        return Ok(ExitCode::SUCCESS);
    }
    args.setup.install_or_say(args.wanted());
    let mut run = Run::new()?;
    let mut passed = run.step("tests that need no privileges", unprivileged());
    passed &= run.step("examples in the documentation", Ok(documentation()));
    if args.unprivileged {
        eprintln!("xtask: SKIPPED, as asked: the tests that need root");
    } else if host::is_root() {
        passed &= run.step("tests that need root", privileged());
    } else if host::find_program("sudo").is_some() {
        passed &= run.step("tests that need root", through_sudo());
    } else {
        let why = "they need root, and there is no sudo here";
        run.tally.not_started(count(&mut build_privileged()?)?, why);
    }
    run.end(passed)
}

/// The tests of one command of ours.
struct Run {
    tally: Tally,
    skips: PathBuf,
    /// The folder of that file.
    _folder: tempfile::TempDir,
}

impl Run {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot create a temporary directory")?;
        let skips = folder.path().join("skips");
        fs::write(&skips, "").with_context(|| format!("cannot write {}", skips.display()))?;
        Ok(Self {
            tally: Tally::default(),
            skips,
            _folder: folder,
        })
    }

    /// Runs some of the tests; whether they passed. A command for which something could not be
    /// built has failed: the others are still run and summed up.
    fn step(&mut self, what: &str, command: Result<Command>) -> bool {
        let result = command.and_then(|mut command| {
            eprintln!("xtask: {what}: {}", host::show(&command));
            self.run(&mut command)
        });
        match result {
            Ok(()) => true,
            Err(error) => {
                eprintln!("xtask: {error:#}");
                false
            }
        }
    }

    /// Runs a command with its output shown, and looks for the harness's figures in it. Standard
    /// error stays as it is, so that cargo shows there how far it is.
    fn run(&mut self, command: &mut Command) -> Result<()> {
        let shown = host::show(command);
        let mut child = command
            .env(SKIPS, &self.skips)
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run `{shown}`"))?;
        let output = child.stdout.take().context("its output was asked for")?;
        pass_on(output, &mut std::io::stdout(), &mut self.tally)?;
        let status = child.wait()?;
        if !status.success() {
            bail!("`{shown}` failed: {status}");
        }
        Ok(())
    }

    /// Sums up.
    fn end(mut self, passed: bool) -> Result<ExitCode> {
        let text = fs::read_to_string(&self.skips)
            .with_context(|| format!("cannot read {}", self.skips.display()))?;
        self.tally.skips(&text);
        eprintln!("{}", self.tally.shown());
        if passed {
            eprintln!("xtask: all tests that ran passed");
            return Ok(ExitCode::SUCCESS);
        }
        eprintln!("xtask: there are failed tests, see above");
        Ok(ExitCode::FAILURE)
    }
}

/// Passes on what tests print as it comes, and looks for the harness's figures in it.
fn pass_on(mut from: impl Read, to: &mut impl Write, tally: &mut Tally) -> Result<()> {
    let (mut bytes, mut line) = ([0; 4096], Vec::new());
    loop {
        let size = from.read(&mut bytes)?;
        if size == 0 {
            return Ok(());
        }
        // Nobody may be listening any more; the tests are run to their end.
        let _ = to.write_all(&bytes[..size]).and_then(|()| to.flush());
        for &byte in &bytes[..size] {
            if byte == b'\n' {
                tally.line(&String::from_utf8_lossy(&line));
                line.clear();
            } else {
                line.push(byte);
            }
        }
    }
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
    Ok(colour(command))
}

/// Cargo runs these on their own only.
fn documentation() -> Command {
    let mut command = host::cargo();
    command.args(["test", "--workspace", "--exclude", "memtrace-ebpf", "--doc"]);
    colour(command)
}

fn privileged() -> Result<Command> {
    Ok(colour(build_privileged()?))
}

fn build_privileged() -> Result<Command> {
    let mut command = host::cargo();
    command.args(["test", "--package", "memtrace", "--test", PRIVILEGED]);
    surroundings(&mut command)?;
    Ok(command)
}

/// Tells the tests where the programs are that they run.
fn surroundings(command: &mut Command) -> Result<()> {
    command
        .env(FIXTURE, host::build_fixture()?)
        .env(PYTHONS, pythons::folder()?)
        .env(PYTHON_TOOLS, tools::folder()?);
    Ok(())
}

/// The harness sees a pipe, and would show no colours even where there is a terminal behind it.
fn colour(mut command: Command) -> Command {
    if std::io::stdout().is_terminal() {
        command.args(["--", "--color", "always"]);
    }
    command
}

/// How many tests a command would run.
fn count(command: &mut Command) -> Result<usize> {
    command.args(["--", "--list", "--format", "terse"]);
    let listed = host::capture(command)?;
    let is_test = |line: &&str| line.ends_with(": test");
    Ok(listed.lines().filter(is_test).count())
}

/// Runs the tests that need root under sudo. Cargo itself stays the user's, so that no file in the
/// target directory becomes root's.
fn through_sudo() -> Result<Command> {
    let binary = host::build(
        build_privileged()?.arg("--no-run"),
        Artifact::IntegrationTest(PRIVILEGED),
    )?;
    let mut command = under_sudo(&binary, &host::project().join("memtrace"));
    surroundings(&mut command)?;
    if std::io::stdout().is_terminal() {
        command.args(["--color", "always"]);
    }
    Ok(command)
}

/// sudo has a `PATH` of its own, in which a user's interpreters and compilers are not; in the
/// user's, programs for root are not.
fn under_sudo(binary: &Path, dir: &Path) -> Command {
    let mut path = OsString::from("PATH=");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    path.push(":");
    path.push(host::ROOTS_FOLDERS.join(":"));
    let mut command = Command::new("sudo");
    command
        .args(["--preserve-env", "--", "env"])
        .args([path.as_os_str(), binary.as_os_str()])
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        args: Args,
    }

    fn parse(words: &[&str]) -> Result<Args, clap::Error> {
        let words = ["test"].iter().chain(words);
        Alone::try_parse_from(words).map(|alone| alone.args)
    }

    #[test]
    fn tests_without_root_want_less() {
        assert_eq!(parse(&[]).unwrap().wanted(), Wanted::Tests);
        let less = parse(&["--unprivileged"]).unwrap().wanted();
        assert_eq!(less, Wanted::UnprivilegedTests);
    }

    #[test]
    fn what_tests_print_is_passed_on_and_counted() {
        let text = "running 3 tests\n...\ntest result: ok. 3 passed; 0 failed\nand more";
        let (mut shown, mut tally) = (Vec::new(), Tally::default());
        pass_on(text.as_bytes(), &mut shown, &mut tally).unwrap();
        assert_eq!(shown, text.as_bytes());
        assert_eq!(tally.shown(), "xtask: 3 tests, none skipped");
    }

    #[test]
    fn tests_say_in_a_file_that_they_skip_themselves() {
        let mut run = Run::new().unwrap();
        let script = "printf 'one\\tthere is no gdb\\n' >> \"$MEMTRACE_SKIPS\"";
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            Ok(command)
        };
        assert!(run.step("some", shell(script)));
        assert!(!run.step("more", shell("exit 1")));
        assert!(!run.step("others", Err(anyhow::anyhow!("it was not built"))));
        run.tally.skips(&fs::read_to_string(&run.skips).unwrap());
        let shown = run.tally.shown();
        assert!(shown.ends_with("1 because there is no gdb"), "{shown}");
    }

    #[test]
    fn tests_under_sudo_find_the_users_programs_and_roots() {
        let command = under_sudo(Path::new("/a/test"), Path::new("/a"));
        let shown = host::show(&command);
        let own = std::env::var("PATH").unwrap();
        assert!(
            shown.starts_with(&format!("sudo --preserve-env -- env PATH={own}:/usr")),
            "{shown}"
        );
        assert!(shown.ends_with("/sbin /a/test"), "{shown}");
    }
}
