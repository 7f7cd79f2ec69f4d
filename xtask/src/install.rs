//! What it takes to get programs that are missing: commands to show, or to run.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::host;

/// A command to run, and how somebody would type it.
pub struct Step {
    command: Command,
    shown: String,
}

impl Step {
    /// `command`, with `environment` set.
    pub fn new(mut command: Command, environment: &[(&str, &str)]) -> Self {
        let mut shown = String::new();
        for (name, value) in environment {
            command.env(name, value);
            shown = format!("{shown}{name}={value} ");
        }
        shown += &host::show(&command);
        Self { command, shown }
    }
}

/// Runs every step once, however often it is asked for, and shows each.
pub fn run_steps(steps: Vec<Step>) -> Result<()> {
    let mut done: Vec<String> = Vec::new();
    for mut step in steps {
        if !done.contains(&step.shown) {
            eprintln!("xtask: {}", step.shown);
            host::run(&mut step.command)?;
            done.push(step.shown);
        }
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

/// The commands that install those of `packages` that are missing, none when all are there;
/// `None` where there is no apt. What is not root goes through sudo.
pub fn apt_steps(packages: &[&str]) -> Result<Option<Vec<Step>>> {
    if host::find_program("apt-get").is_none() {
        return Ok(None);
    }
    let missing = missing_packages(packages)?;
    if missing.is_empty() {
        return Ok(Some(Vec::new()));
    }
    let mut update = host::as_root("apt-get");
    update.args(["update", "-q"]);
    let mut install = host::as_root("env");
    install
        .args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "install"])
        .args(["-q", "-y", "--no-install-recommends"])
        .args(missing);
    Ok(Some(vec![Step::new(update, &[]), Step::new(install, &[])]))
}

/// Those of `packages` that dpkg does not call installed.
fn missing_packages<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    // dpkg-query fails when it knows nothing of one of them, and still prints the others; what it
    // says of those is no news.
    let output = Command::new("dpkg-query")
        .args(["-W", "-f", "${Package} ${db:Status-Status}\n"])
        .args(packages)
        .output()
        .context("cannot run `dpkg-query`")?;
    let known = String::from_utf8_lossy(&output.stdout);
    Ok(packages
        .iter()
        .copied()
        .filter(|package| {
            !known
                .lines()
                .any(|line| line.strip_suffix(" installed") == Some(package))
        })
        .collect())
}
