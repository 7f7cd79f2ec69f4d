//! `cargo xtask bench sample`: what looking at memory costs those who have much of it.
//!
//! Processes of 1 GB each write to their memory, and map and unmap some. How much they get done is
//! measured while memtrace traces them and looks at their memory every second, and while it traces them
//! and does not, in turn. What others do on the machine is more than what is looked for, so that what
//! counts is how much less is done near the looks, see [`dips`].

mod dips;

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};

use anyhow::{Context as _, Result};
use memtrace::profile::Profile;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use self::dips::Done;
use super::machine::Machine;
use super::summary::{Spread, Summary};
use super::{Common, Programs};
use crate::tracing::Tracing;

/// Where `--write-docs` writes.
const DOCS: &str = "docs/bench-sample.md";

/// The program that has the memory.
const WORK: &str = include_str!("work.py");

/// The most that looking may cost, as a part of what is done without.
const LIMIT: f64 = 0.01;

/// What looking at memory costs processes that have much of it.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub(super) common: Common,
    /// Pairs of measurements, after one that warms up
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Processes
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64))]
    processes: u32,
    /// Memory of each, in MB
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    megabytes: u32,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 15.0)]
    seconds: f64,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
struct Results {
    bench: &'static str,
    machine: Machine,
    processes: u32,
    megabytes: u32,
    seconds: f64,
    /// Pieces of memory written to in a second, without looks and with them.
    without: Summary,
    with: Summary,
    /// What was lost by looking, of each pair, as a part of what was done without.
    between: Spread,
    /// What was lost near looks, of each measurement with looks, as a part of all.
    lost: Spread,
}

/// The processes that have the memory.
struct Workers {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Workers {
    fn start(processes: u32, megabytes: u32) -> Result<Self> {
        let mut child = Command::new("/usr/bin/python3")
            .args(["-c", WORK, &processes.to_string(), &megabytes.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run /usr/bin/python3")?;
        let orders = child.stdin.take().context("standard input is a pipe")?;
        let output = child.stdout.take().context("standard output is a pipe")?;
        let mut workers = Self {
            child,
            orders,
            answers: BufReader::new(output).lines(),
        };
        workers.answer()?;
        Ok(workers)
    }

    fn answer(&mut self) -> Result<String> {
        let answer = self.answers.next().context("the workers have ended")?;
        Ok(answer?)
    }

    fn ask<A: DeserializeOwned>(&mut self, order: &str) -> Result<A> {
        writeln!(self.orders, "{order}")?;
        Ok(serde_json::from_str(&self.answer()?)?)
    }

    /// What they get done while memtrace traces them and looks at them that often.
    fn traced(&mut self, programs: &Programs, seconds: f64, sample: &str) -> Result<Turn> {
        let pid = self.child.id().to_string();
        let folder = TempDir::new()?;
        let report = folder.path().join("report.json");
        let mut memtrace = Command::new(&programs.memtrace);
        memtrace.args(["--no-unchanged", "--sample", sample, "--pid", &pid]);
        let tracing = Tracing::start(memtrace.arg("--output").arg(&report))?;
        // First looks are no part of what is repeated.
        std::thread::sleep(std::time::Duration::from_secs(1));
        let fork: Result<(u32, f64)> = self.ask("fork");
        let done: Result<Done> = self.ask(&seconds.to_string());
        tracing.finish()?;
        let (done, (forked, at)) = (done?, fork?);
        let rate = done.values().sum::<u64>() as f64 / seconds;
        let looks = looks(&report, forked, at)?;
        let lost = dips::lost(&done, &looks);
        Ok(Turn { rate, lost })
    }
}

/// What was measured in one turn.
struct Turn {
    /// Pieces of memory in a second.
    rate: f64,
    /// What was lost near looks, as a part of all; `None` where that cannot be told.
    lost: Option<f64>,
}

/// When memory was looked at, in seconds by the monotonic clock. A process that was forked at a known
/// moment tells when the trace began.
fn looks(report: &Path, forked: u32, at: f64) -> Result<Vec<f64>> {
    let profile: Profile = serde_json::from_reader(BufReader::new(File::open(report)?))?;
    let mut processes = profile.processes.iter();
    let known = processes.find(|process| process.pid == forked);
    let forked_at = known.and_then(|known| known.forked_at_s);
    let began = at - forked_at.context("memtrace has not seen a fork")?;
    let memory = profile.processes.iter().flat_map(|process| &process.memory);
    let samples = memory.flat_map(|memory| &memory.samples);
    Ok(samples.map(|sample| began + sample.t_s).collect())
}

impl Drop for Workers {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the bench.
pub fn run(args: &Args, programs: &Programs) -> Result<ExitCode> {
    let (rounds, megabytes, seconds) = if args.common.quick {
        (2, 50, 1.0)
    } else {
        (args.rounds, args.megabytes, args.seconds)
    };
    let mut workers = Workers::start(args.processes, megabytes)?;
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let mut off = || workers.traced(programs, seconds, "off");
        // Whoever is first has what the other left behind.
        let (one, other) = if round % 2 == 0 {
            let off = off()?;
            (off, workers.traced(programs, seconds, "1s")?)
        } else {
            let on = workers.traced(programs, seconds, "1s")?;
            (workers.traced(programs, seconds, "off")?, on)
        };
        if round > 0 {
            without.push(one.rate);
            with.push(other);
        }
    }
    let pairs = without.iter().zip(&with);
    let between = pairs.map(|(off, on)| (off - on.rate) / off);
    let nothing = "nothing was measured";
    let results = Results {
        bench: "sample",
        machine: Machine::describe(),
        processes: args.processes,
        megabytes,
        seconds,
        between: Spread::of(between).context(nothing)?,
        lost: Spread::of(with.iter().filter_map(|turn| turn.lost)).context(nothing)?,
        without: Summary::of(without.iter().copied()).context(nothing)?,
        with: Summary::of(with.iter().map(|turn| turn.rate)).context(nothing)?,
    };
    let page = markdown(&results);
    super::publish(&args.common, &results, &page, DOCS)
}

/// One page: machine, figures, and what they had to reach.
fn markdown(results: &Results) -> String {
    let mut out = String::from("# What looking at memory costs\n\n");
    let (lost, lost_of_many) = percent(&results.lost);
    let (between, between_of_many) = percent(&results.between);
    // What is not told apart from the limit has not kept it.
    let most = results.lost.of_median.map_or(f64::NAN, |[_, high]| high);
    let kept = if most <= LIMIT {
        "kept"
    } else {
        "**not kept**"
    };
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "Made by `cargo xtask bench sample --write-docs`. {} processes of {} MB each write to their \
         memory, and map and unmap some, for {} s at a time, while memtrace traces them with \
         `--sample 1s`, and with `--sample off`, in turn. Figures are medians, with minimum and \
         maximum.\n\n{}\n\
         | pieces of 64 pages a second, without | with looks | lost, % |\n|---|---|---|\n\
         | {} | {} | {between} |\n\n\
         {between_of_many} How fast the machine is changes by more than what is looked for, so what \
         is done in each hundredth of a second near a look (30 ms before to 60 ms after it began) is \
         compared with what is done in the third of a second before and after:\n\n\
         | lost near looks, % of all that is done | limit, % |\n|---|---|\n\
         | {lost} | {:.0}: {kept} |\n\n{lost_of_many}\n",
        results.processes,
        results.megabytes,
        results.seconds,
        results.machine.markdown(),
        results.without.show(0, false),
        results.with.show(0, false),
        LIMIT * 100.0,
    );
    out
}

/// A spread of parts, in per cent, and a sentence on where its median lies.
fn percent(spread: &Spread) -> (String, String) {
    let Summary { median, min, max } = spread.summary;
    let percent = Summary {
        median: median * 100.0,
        min: min * 100.0,
        max: max * 100.0,
    };
    let of_many = spread.of_median.map_or_else(
        || "There are too few measurements to say where the median of many more lies.".to_owned(),
        |[low, high]| {
            let (low, high) = (low * 100.0, high * 100.0);
            format!("The median of many more lies between {low:+.2}% and {high:+.2}%.")
        },
    );
    (percent.show(2, true), of_many)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_says_whether_the_limit_was_kept() {
        let page = |lost: f64, measurements: usize| {
            let lost = vec![lost; measurements];
            markdown(&Results {
                bench: "sample",
                machine: Machine::describe(),
                processes: 8,
                megabytes: 1000,
                seconds: 5.0,
                without: Summary::of([1000.0]).expect("a value"),
                with: Summary::of([990.0]).expect("a value"),
                between: Spread::of([0.0]).expect("a value"),
                lost: Spread::of(lost).expect("a value"),
            })
        };
        assert!(page(0.004, 8).contains("1: kept"));
        assert!(page(0.02, 8).contains("1: **not kept**"));
        // Too few to say anything.
        assert!(page(0.004, 2).contains("1: **not kept**"));
    }
}
