//! What each tool says of a report, compared with what the profile says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::{Run, Written, npm, pprof, promtool};
use crate::{host, tools};

/// What reads reports in Python, and in JavaScript.
const IN_PYTHON: &str = include_str!("readers.py");
const IN_NODE: &str = include_str!("readers.mjs");

/// What a browser shows of an HTML report.
const PAGE: &str = "memtrace/tests/browser/check.mjs";

/// A program that is needed, or how one gets it.
type Program = Result<PathBuf, &'static str>;

fn or_package(program: Option<PathBuf>, remedy: &'static str) -> Program {
    program.ok_or(remedy)
}

/// All checks of these reports.
pub(super) fn check(written: &[Written], run: &mut Run) {
    let go = or_package(
        host::find_program("go"),
        "there is no go (apt-get install golang-go)",
    );
    let promtool = or_package(promtool::program(), "there is no promtool");
    let python = or_package(
        tools::program("python3").filter(|_| tools::is_complete()),
        tools::REMEDY,
    );
    let node = or_package(npm::node(), "the packages of npm are not installed");
    let chromium = or_package(
        host::find_program("chromium"),
        "there is no Chromium (apt-get install chromium)",
    );
    let firefox = or_package(
        host::find_program("firefox-esr"),
        "there is no Firefox (apt-get install firefox-esr)",
    );

    for it in written {
        let name = &it.name;
        with(run, &go, &format!("go tool pprof, {name}"), |go| {
            pprof::check(go, it)
        });
        with(run, &promtool, &format!("promtool, {name}"), |program| {
            metrics(program, it)
        });
        with(
            run,
            &python,
            &format!("libraries of Python, {name}"),
            |python| {
                let script = it.file("readers.py");
                host::write_atomically(&script, IN_PYTHON.as_bytes())?;
                let mut command = Command::new(python);
                command.arg(script).arg(&it.folder).arg(name);
                compare(it, &said(&mut command)?)
            },
        );
        let programs = match (&node, &chromium) {
            (Ok(node), Ok(chromium)) => Ok((node, chromium)),
            (Err(why), _) | (_, Err(why)) => Err(*why),
        };
        with(
            run,
            &programs,
            &format!("programs of npm, {name}"),
            |(node, chromium)| {
                let script = it.file("readers.mjs");
                host::write_atomically(&script, IN_NODE.as_bytes())?;
                let mut command = of_node(node, &script)?;
                command.arg(&it.folder).arg(name).arg(chromium);
                compare(it, &said(&mut command)?)
            },
        );
    }
    let pages: Vec<PathBuf> = written.iter().map(|it| it.file("html")).collect();
    for (kind, program) in [("chromium", &chromium), ("firefox", &firefox)] {
        let programs = match (&node, program) {
            (Ok(node), Ok(program)) => Ok((node, program)),
            (Err(why), _) | (_, Err(why)) => Err(*why),
        };
        with(
            run,
            &programs,
            &format!("the HTML reports in {kind}"),
            |(node, program)| {
                let pictures = written.first().map(|it| it.folder.join("pictures"));
                let mut command = of_node(node, &host::project().join(PAGE))?;
                command.arg(kind).arg(program).args(pictures).args(&pages);
                host::run(&mut command)?;
                Ok(String::new())
            },
        );
    }
}

/// Does a check that needs something, or skips it.
fn with<T>(
    run: &mut Run,
    needed: &Result<T, &'static str>,
    what: &str,
    work: impl FnOnce(&T) -> Result<String>,
) {
    match needed {
        Ok(program) => run.check(what, || work(program)),
        Err(why) => run.skip(what, why),
    }
}

/// A script of ours, with the packages of npm.
fn of_node(node: &Path, script: &Path) -> Result<Command> {
    let mut command = Command::new(node);
    command
        .arg(script)
        .env("NODE_PATH", npm::folder()?.join("node_modules"));
    Ok(command)
}

/// The figures that a script prints: a tool, what it counts, and the sum.
fn said(command: &mut Command) -> Result<Vec<(String, String, u64)>> {
    let text = host::capture(command)?;
    let line = |line: &str| {
        let mut words = line.split('\t');
        let (tool, counted) = (words.next()?, words.next()?);
        Some((
            tool.to_owned(),
            counted.to_owned(),
            words.next()?.parse().ok()?,
        ))
    };
    let said: Option<Vec<_>> = text.lines().map(line).collect();
    said.with_context(|| format!("it printed something else: {text}"))
}

/// Whether all tools say what the profile says; which they were.
fn compare(written: &Written, said: &[(String, String, u64)]) -> Result<String> {
    let mut tools: BTreeMap<&str, usize> = BTreeMap::new();
    for (tool, counted, sum) in said {
        let expected = written.expected(counted);
        let expected = expected.with_context(|| format!("{tool} counts {counted}"))?;
        ensure!(
            expected == *sum,
            "{tool} has {sum} {counted}, the profile {expected}"
        );
        *tools.entry(tool).or_default() += 1;
    }
    if tools.is_empty() {
        bail!("no tool said anything");
    }
    let tools: Vec<String> = tools.into_keys().map(str::to_owned).collect();
    Ok(tools.join(", "))
}

fn metrics(promtool: &Path, written: &Written) -> Result<String> {
    let path = written.file("prom");
    let text =
        std::fs::File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let output = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(text)
        .output()
        .context("cannot run promtool")?;
    // What it finds wrong is on standard error, also where it is only advice.
    let complaints = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{complaints}");
    ensure!(complaints.is_empty(), "{complaints}");
    Ok(String::new())
}

/// How long a tool's server may take to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
