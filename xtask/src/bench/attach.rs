//! `cargo xtask bench attach`: how long it takes from memtrace's start until it traces.
//!
//! On an idle machine, and beside two busy loops for each CPU, at ordinary priority: a service that
//! has a problem is busy.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;

use super::machine::Machine;
use super::summary::Summary;
use super::{Common, Programs};
use crate::tracing::ATTACHED;

/// Where `--write-docs` writes.
const DOCS: &str = "docs/bench-attach.md";

/// What its log says of the CPU time that it has used by then.
const CPU_TIME: &str = " ms of CPU time";

/// The most that attaching may take, in milliseconds: CPU time on an idle machine, and wall time
/// there and on a busy one.
const CPU_LIMIT: f64 = 350.0;
const IDLE_LIMIT: f64 = 500.0;
const BUSY_LIMIT: f64 = 1500.0;

/// How long it takes until memtrace traces, idle and beside busy loops.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub(super) common: Common,
    /// Times that memtrace attaches in each case, after one that warms up
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
struct Results {
    bench: &'static str,
    machine: Machine,
    rounds: u32,
    busy_loops: usize,
    idle: Figures,
    busy: Figures,
}

/// Milliseconds until memtrace traced.
#[derive(Debug, Serialize)]
struct Figures {
    wall_ms: Summary,
    cpu_ms: Summary,
}

/// One attachment, in milliseconds.
struct Attached {
    wall: f64,
    cpu: f64,
}

/// A process that is ended when it is not needed any more.
struct Ended(Child);

impl Ended {
    fn start(program: &str, arguments: &[&str]) -> Result<Self> {
        let started = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        Ok(Self(
            started.with_context(|| format!("cannot run {program}"))?,
        ))
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the bench.
pub fn run(args: &Args, programs: &Programs) -> Result<ExitCode> {
    let rounds = if args.common.quick { 2 } else { args.rounds };
    let idle = attachments(programs, rounds)?;
    let busy_loops = 2 * std::thread::available_parallelism().map_or(1, usize::from);
    let busy = {
        let _loops = (0..busy_loops)
            .map(|_| Ended::start("sh", &["-c", "while :; do :; done"]))
            .collect::<Result<Vec<_>>>()?;
        attachments(programs, rounds)?
    };
    let results = Results {
        bench: "attach",
        machine: Machine::describe(),
        rounds,
        busy_loops,
        idle,
        busy,
    };
    let page = markdown(&results);
    super::publish(&args.common, &results, &page, DOCS)
}

fn attachments(programs: &Programs, rounds: u32) -> Result<Figures> {
    attach(programs)?;
    let all = (0..rounds)
        .map(|_| attach(programs))
        .collect::<Result<Vec<_>>>()?;
    let summary = |of: fn(&Attached) -> f64| Summary::of(all.iter().map(of));
    Ok(Figures {
        wall_ms: summary(|one| one.wall).context("nothing was measured")?,
        cpu_ms: summary(|one| one.cpu).context("nothing was measured")?,
    })
}

/// Attaches to a process that sleeps.
fn attach(programs: &Programs) -> Result<Attached> {
    let target = Ended::start("sleep", &["60"])?;
    let start = Instant::now();
    let mut memtrace = Command::new(&programs.memtrace)
        .args(["-v", "--duration", "100ms", "--pid"])
        .arg(target.0.id().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run memtrace")?;
    let messages = memtrace.stderr.take().context("standard error is a pipe")?;
    let (mut wall, mut cpu) = (None, None);
    let mut said = String::new();
    for line in BufReader::new(messages).lines() {
        let line = line?;
        if line.starts_with(ATTACHED) {
            wall = Some(start.elapsed().as_secs_f64() * 1000.0);
        }
        cpu = cpu.or_else(|| cpu_time(&line));
        said.push_str(&line);
        said.push('\n');
    }
    let status = memtrace.wait()?;
    ensure!(status.success(), "memtrace: {status}\n{said}");
    let (Some(wall), Some(cpu)) = (wall, cpu) else {
        bail!("memtrace did not say when it had attached:\n{said}");
    };
    Ok(Attached { wall, cpu })
}

/// The CPU time that a line of memtrace's log is about, in milliseconds.
fn cpu_time(line: &str) -> Option<f64> {
    let before = line.strip_suffix(CPU_TIME)?;
    before.rsplit(' ').next()?.parse().ok()
}

/// One page: machine, figures, and what they had to reach.
fn markdown(results: &Results) -> String {
    let mut out = String::from("# How long attaching takes\n\n");
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "Made by `cargo xtask bench attach --write-docs`. memtrace attaches to a process that sleeps, \
         {} times after one that warms up, on a machine that does nothing else, and beside {} busy \
         loops at ordinary priority. Wall time is from memtrace's start until it says that it traces, \
         CPU time is what it has used by then. Figures are medians, with minimum and maximum.\n\n{}\n\
         | machine | wall time, ms | limit | CPU time, ms | limit |\n|---|---|---|---|---|\n",
        results.rounds,
        results.busy_loops,
        results.machine.markdown(),
    );
    for (name, figures, wall_limit, cpu_limit) in [
        ("idle", &results.idle, IDLE_LIMIT, Some(CPU_LIMIT)),
        ("busy", &results.busy, BUSY_LIMIT, None),
    ] {
        let cpu_limit = cpu_limit.map_or("-".to_owned(), |limit| judged(&figures.cpu_ms, limit));
        let _ = writeln!(
            out,
            "| {name} | {} | {} | {} | {cpu_limit} |",
            figures.wall_ms.show(0, false),
            judged(&figures.wall_ms, wall_limit),
            figures.cpu_ms.show(0, false),
        );
    }
    out
}

fn judged(figures: &Summary, limit: f64) -> String {
    let kept = if figures.median <= limit {
        "kept"
    } else {
        "**not kept**"
    };
    format!("{limit:.0}: {kept}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_time_is_read_from_the_log() {
        let line = "[.. INFO  memtrace::session] attached in 412 ms, 298 ms of CPU time";
        assert_eq!(cpu_time(line), Some(298.0));
        assert_eq!(cpu_time("memtrace: tracing 12; Ctrl-C to finish"), None);
        assert_eq!(cpu_time("loaded in 2 ms of CPU time, or so"), None);
    }

    #[test]
    fn the_page_says_which_limits_were_kept() {
        let figures = |wall, cpu| Figures {
            wall_ms: Summary::of([wall]).expect("a value"),
            cpu_ms: Summary::of([cpu]).expect("a value"),
        };
        let page = markdown(&Results {
            bench: "attach",
            machine: Machine::describe(),
            rounds: 1,
            busy_loops: 4,
            idle: figures(499.0, 351.0),
            busy: figures(1600.0, 400.0),
        });
        let rows: Vec<_> = page.lines().filter(|line| line.contains("kept")).collect();
        assert_eq!(rows.len(), 2);
        assert!(rows[0].contains("500: kept") && rows[0].contains("350: **not kept**"));
        assert!(rows[1].contains("1500: **not kept**"));
    }
}
