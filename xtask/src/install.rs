//! What it takes to get programs that are missing: commands to show, or to run.

use std::io::IsTerminal as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use crate::host;
use crate::progress::{Log, Progress};

/// A command to run, what it does, and how somebody would type it.
pub struct Step {
    what: String,
    command: Command,
    shown: String,
}

impl Step {
    /// `command`, with `environment` set.
    pub fn new(what: &str, mut command: Command, environment: &[(&str, &str)]) -> Self {
        let mut shown = String::new();
        for (name, value) in environment {
            command.env(name, value);
            shown = format!("{shown}{name}={value} ");
        }
        shown += &host::show(&command);
        Self {
            what: what.to_owned(),
            command,
            shown,
        }
    }

    /// Runs it; its output goes to `log`.
    pub fn run(mut self, log: &mut Log) -> Result<()> {
        log.run(&mut self.command)
    }
}

/// Runs every step once, however often it is asked for. What they print goes to the file `name`.
pub fn run_steps(name: &str, steps: Vec<Step>) -> Result<()> {
    let mut once: Vec<Step> = Vec::new();
    for step in steps {
        if once.iter().all(|other| other.shown != step.shown) {
            once.push(step);
        }
    }
    if once.is_empty() {
        return Ok(());
    }
    let mut progress = Progress::new(name, once.len())?;
    for step in once {
        let what = step.what.clone();
        progress.step(&what, |log| step.run(log))?;
    }
    Ok(())
}

/// The steps as somebody would type them, a line each.
pub fn show_steps(steps: &[Step]) -> String {
    let mut lines: Vec<String> = Vec::new();
    for step in steps {
        let line = format!("  {}", step.shown);
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines.join("\n")
}

/// Whether this machine has Debian's package manager.
pub fn has_apt() -> bool {
    host::find_program("apt-get").is_some() && host::find_program("dpkg-query").is_some()
}

/// The commands that install those of `packages` that are missing, none when all are there;
/// `None` where there is no apt. Whoever is not root goes through sudo.
pub fn apt_steps(packages: &[&str]) -> Result<Option<Vec<Step>>> {
    if !has_apt() {
        return Ok(None);
    }
    Ok(Some(steps_for(&missing_packages(packages)?)))
}

/// The commands that install `packages`. None of the machine's own is removed for them.
pub fn steps_for(packages: &[&str]) -> Vec<Step> {
    if packages.is_empty() {
        return Vec::new();
    }
    let mut update = host::as_root("apt-get");
    update.args(["update", "-q"]);
    let mut install = host::as_root("env");
    install
        .args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "install"])
        .args(["-q", "-y", "--no-install-recommends", "--no-remove"])
        .args(packages);
    let what = format!("installing {}", count_of(packages));
    vec![
        Step::new("reading the lists of Debian's packages", update, &[]),
        Step::new(&what, install, &[]),
    ]
}

/// "2 Debian packages: gdb, ruby".
pub fn count_of(packages: &[&str]) -> String {
    let plural = if packages.len() == 1 { "" } else { "s" };
    let names = packages.join(", ");
    format!("{} Debian package{plural}: {names}", packages.len())
}

/// Those of `packages` that dpkg does not call installed.
pub fn missing_packages<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    if packages.is_empty() {
        return Ok(Vec::new());
    }
    // dpkg-query fails when it knows nothing of one of them, and still prints the others; what it
    // says of those is not news.
    let output = Command::new("dpkg-query")
        .args(["-W", "-f", "${Package} ${db:Status-Status}\n"])
        .args(packages)
        .output()
        .context("cannot run `dpkg-query`")?;
    Ok(not_installed(
        packages,
        &String::from_utf8_lossy(&output.stdout),
    ))
}

/// Those of `packages`, once each, that are not in dpkg's list with the word "installed".
fn not_installed<'a>(packages: &[&'a str], known: &str) -> Vec<&'a str> {
    let mut missing = Vec::new();
    for package in packages {
        let is_there = known
            .lines()
            .any(|line| line.strip_suffix(" installed") == Some(package));
        if !is_there && !missing.contains(package) {
            missing.push(*package);
        }
    }
    missing
}

/// How this process can install packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It is root.
    Root,
    /// sudo does it without a question.
    Sudo,
    /// sudo asks for a password, and there is a terminal to ask at.
    SudoAsks,
    /// Neither.
    Not,
}

impl Access {
    /// That of this process.
    pub fn find() -> Self {
        let silent = || {
            let mut ask = Command::new("sudo");
            ask.args(["-n", "true"]);
            ask.stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            ask.status().is_ok_and(|status| status.success())
        };
        Self::of(
            host::is_root(),
            host::find_program("sudo").is_some(),
            silent,
            std::io::stdin().is_terminal() && std::io::stderr().is_terminal(),
        )
    }

    fn of(root: bool, sudo: bool, silent: impl FnOnce() -> bool, terminal: bool) -> Self {
        if root {
            Self::Root
        } else if !sudo {
            Self::Not
        } else if silent() {
            Self::Sudo
        } else if terminal {
            Self::SudoAsks
        } else {
            Self::Not
        }
    }

    /// Lets sudo ask now, before a bar moves over the question.
    pub fn ask(self) -> Result<()> {
        if self == Self::SudoAsks {
            host::run(Command::new("sudo").arg("-v"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_packages_that_dpkg_does_not_call_installed_are_missing() {
        let known = "gcc installed\ngdb config-files\nruby not-installed\n";
        assert_eq!(
            not_installed(&["gcc", "gdb", "ruby", "make", "gdb"], known),
            ["gdb", "ruby", "make"]
        );
        assert_eq!(not_installed(&["gcc"], known), [""; 0]);
    }

    #[test]
    fn nothing_is_removed_and_nothing_asked_when_packages_are_installed() {
        let shown = show_steps(&steps_for(&["gdb", "ruby"]));
        assert!(shown.contains("apt-get install -q -y"), "{shown}");
        assert!(shown.contains("--no-remove gdb ruby"), "{shown}");
        assert!(shown.contains("DEBIAN_FRONTEND=noninteractive"), "{shown}");
        assert!(steps_for(&[]).is_empty());
    }

    #[test]
    fn packages_are_counted() {
        assert_eq!(count_of(&["gdb"]), "1 Debian package: gdb");
        assert_eq!(count_of(&["gdb", "ruby"]), "2 Debian packages: gdb, ruby");
    }

    #[test]
    fn sudo_is_used_where_it_asks_nothing_or_where_somebody_can_answer() {
        let not_called = || unreachable!("sudo was run");
        assert_eq!(Access::of(true, true, not_called, false), Access::Root);
        assert_eq!(Access::of(false, false, not_called, true), Access::Not);
        assert_eq!(Access::of(false, true, || true, false), Access::Sudo);
        assert_eq!(Access::of(false, true, || false, true), Access::SudoAsks);
        assert_eq!(Access::of(false, true, || false, false), Access::Not);
    }
}
