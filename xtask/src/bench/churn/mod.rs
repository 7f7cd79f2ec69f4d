//! `cargo xtask bench churn`: processes and programs come and go for as long as one likes.
//!
//! What it asks: whether memtrace's memory stays what it is after some minutes, whether it loses
//! anything, whether its report has every process and page, and how large the report gets.

mod table;

use std::fs;
use std::io::BufReader;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use memtrace::profile::{CauseName, Profile};
use serde::Serialize;
use serde_json::Value;

use super::fixture::{Fixture, News};
use super::machine::Machine;
use super::summary::Summary;
use super::tracer::watch::status_bytes;
use super::tracer::{Finished, OUTPUT, Tracer, said};
use super::{Common, Programs};

/// What processes of the fixture are called: the kernel keeps 15 bytes of a name.
const COMM: &str = "memtrace-fixtur";

/// Where `--write-docs` writes.
const DOCS: &str = "docs/bench-churn.md";

/// The function in which the children copy.
const OF_CHILDREN: &str = "dirty_in_churn";

/// The function in which the children of the programs copy.
const OF_PROGRAMS: &str = "dirty_in_brief_program";

/// Children forked in a second, which copy and exit.
const FORKS: u32 = 50;

/// Children in a second that become another program.
const EXECS: u32 = 20;

/// Pages that each child, and each child of those programs, copies.
const PAGES: u32 = 50;

/// Memory may grow for so long at most: until everything has been met, and bounds have been.
const GROWING: Duration = Duration::from_mins(5);

const MIB: f64 = 1024.0 * 1024.0;

/// Processes come and go.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub(super) common: Common,
    /// How long, in minutes
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=1440))]
    minutes: u64,
    /// Exit with status 1 when a limit is missed
    #[arg(long)]
    check: bool,
}

/// How much is done, and how often memory is looked at.
#[derive(Clone, Copy, Debug, Serialize)]
struct Size {
    seconds: u64,
    /// Between two looks.
    look_seconds: u64,
    /// Looks that make one line of the table.
    looks_a_line: usize,
}

impl Size {
    fn of(args: &Args) -> Self {
        if args.common.quick {
            return Self {
                seconds: 20,
                look_seconds: 1,
                looks_a_line: 4,
            };
        }
        Self {
            seconds: args.minutes * 60,
            look_seconds: 10,
            looks_a_line: 6,
        }
    }

    /// How long memory may grow: a third of a short run.
    fn growing_seconds(self) -> u64 {
        GROWING.as_secs().min(self.seconds / 3)
    }
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
struct Results {
    bench: &'static str,
    machine: Machine,
    size: Size,
    lines: Vec<Line>,
    report: Report,
    own: Own,
    limits: Vec<table::Limit>,
}

/// What memtrace used at a moment, in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Memory {
    rss: u64,
    anonymous: u64,
    peak: u64,
}

/// A line of the table: medians of some looks, and how far the fixture was at the last of them.
#[derive(Clone, Copy, Debug, Serialize)]
struct Line {
    seconds: u64,
    processes: u64,
    copied_pages: u64,
    rss_mib: f64,
    anonymous_mib: f64,
    peak_mib: f64,
}

/// What memtrace's report says, beside the truth.
#[derive(Clone, Copy, Debug, Serialize)]
struct Report {
    bytes: u64,
    /// Records, stacks, processes and threads.
    lost: u64,
    /// Processes, each row as many as it stands for.
    processes: u64,
    processes_in_truth: u64,
    /// Copied pages of call sites in the functions that made them, beside the truth.
    by_children: Named,
    by_programs: Named,
    /// By how much the sums over processes and over call sites differ from the total.
    sums_differ_by: u64,
}

/// Copied pages that have the name of the function that copied them, and all that it copied.
#[derive(Clone, Copy, Debug, Serialize)]
struct Named {
    named: u64,
    in_truth: u64,
}

/// What memtrace itself used.
#[derive(Clone, Copy, Debug, Serialize)]
struct Own {
    cpu_ms: u64,
    cpu_share: f64,
    stop_ms: u64,
}

/// Measures, and prints the table.
pub fn run(args: &Args, programs: &Programs) -> Result<ExitCode> {
    let results = measure(Size::of(args), programs)?;
    let page = table::markdown(&results);
    let code = super::publish(&args.common, &results, &page, DOCS)?;
    let missed = results.limits.iter().any(|limit| !limit.is_reached());
    Ok(if args.check && missed {
        eprintln!("xtask: a limit is missed, see the table above");
        ExitCode::from(1)
    } else {
        code
    })
}

fn measure(size: Size, programs: &Programs) -> Result<Results> {
    let scratch = tempfile::tempdir().context("cannot create a temporary directory")?;
    let arguments = [
        "churn".to_owned(),
        format!("--seconds={}", size.seconds),
        format!("--forks={FORKS}"),
        format!("--execs={EXECS}"),
        format!("--pages={PAGES}"),
        format!("--tell={}", size.look_seconds * 1000),
    ];
    let mut fixture = Fixture::start(&programs.fixture, arguments)?;
    let memtrace = Tracer::Memtrace("auto");
    let running = memtrace.attach(&programs.memtrace, fixture.pid, COMM, scratch.path())?;
    fixture.begin()?;
    let (lines, done) = watch(&mut fixture, running.pid(), size)?;
    let finished = running.finish()?;
    fixture.exit()?;
    let report = report(&scratch.path().join(OUTPUT), &finished, &done)?;
    Ok(Results {
        bench: "churn",
        machine: Machine::describe(),
        size,
        limits: table::limits(size, &lines, &report),
        lines,
        report,
        own: Own {
            cpu_ms: finished.cpu.as_millis() as u64,
            cpu_share: finished.cpu.as_secs_f64() / size.seconds as f64,
            stop_ms: finished.stop.as_millis() as u64,
        },
    })
}

/// Looks at memtrace's memory whenever the fixture says how far it is, until it is done; returns
/// what it says then.
fn watch(fixture: &mut Fixture, memtrace: u32, size: Size) -> Result<(Vec<Line>, Value)> {
    let mut lines = Vec::new();
    let mut looks = Vec::new();
    let mut looked = 0;
    loop {
        let (so_far, done) = match fixture.news()? {
            News::SoFar(so_far) => (so_far, false),
            News::Done(done) => (done, true),
        };
        looks.push(Memory::of(memtrace)?);
        looked += 1;
        if looks.len() == size.looks_a_line || done {
            let line = Line::of(looked * size.look_seconds, &so_far, &looks)?;
            eprintln!("xtask: {}", line.said());
            lines.push(line);
            looks.clear();
        }
        if done {
            ensure!(
                looked * size.look_seconds >= size.seconds,
                "the fixture ended after {looked} looks"
            );
            return Ok((lines, so_far));
        }
    }
}

impl Memory {
    fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/status");
        let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let memory = Self {
            rss: status_bytes(&status, "VmRSS:"),
            anonymous: status_bytes(&status, "RssAnon:"),
            peak: status_bytes(&status, "VmHWM:"),
        };
        // That of a zombie has none.
        ensure!(memory.rss > 0, "memtrace ended in the middle");
        Ok(memory)
    }
}

impl Line {
    fn of(seconds: u64, so_far: &Value, looks: &[Memory]) -> Result<Self> {
        let median = |of: fn(&Memory) -> u64| {
            let values = looks.iter().map(|look| of(look) as f64 / MIB);
            Some(Summary::of(values)?.median)
        };
        let memory = || {
            Some((
                median(|look| look.rss)?,
                median(|look| look.anonymous)?,
                median(|look| look.peak)?,
            ))
        };
        let (rss_mib, anonymous_mib, peak_mib) = memory().context("nobody looked")?;
        Ok(Self {
            seconds,
            processes: number(so_far, "forked")?,
            copied_pages: number(so_far, "copied")?,
            rss_mib,
            anonymous_mib,
            peak_mib,
        })
    }

    /// For whoever waits.
    fn said(&self) -> String {
        format!(
            "{}: {} processes, {} copied pages; memtrace has {:.1} MiB, {:.1} of them anonymous, at \
             most {:.1}",
            table::time(self.seconds),
            self.processes,
            self.copied_pages,
            self.rss_mib,
            self.anonymous_mib,
            self.peak_mib,
        )
    }
}

fn number(said: &Value, what: &str) -> Result<u64> {
    said[what]
        .as_u64()
        .with_context(|| format!("the fixture does not say `{what}`"))
}

fn report(path: &Path, finished: &Finished, done: &Value) -> Result<Report> {
    let file = fs::File::open(path).context("cannot read memtrace's report")?;
    let bytes = file.metadata()?.len();
    let profile = said::profile(BufReader::new(file))?;
    let by_programs = number(done, "copied_by_programs")?;
    Ok(Report {
        bytes,
        lost: finished.said.lost.context("memtrace says what it lost")?,
        processes: processes(&profile),
        // The one that forks them is traced too.
        processes_in_truth: number(done, "forked")? + 1,
        by_children: Named {
            named: pages_in(&profile, OF_CHILDREN),
            in_truth: number(done, "copied")? - by_programs,
        },
        by_programs: Named {
            named: pages_in(&profile, OF_PROGRAMS),
            in_truth: by_programs,
        },
        sums_differ_by: sums_differ_by(&profile),
    })
}

fn processes(profile: &Profile) -> u64 {
    let rows = profile.processes.iter();
    rows.map(|row| row.stands_for.unwrap_or(1)).sum()
}

/// Pages of call sites in a function of the fixture.
fn pages_in(profile: &Profile, function: &str) -> u64 {
    // The kernel also writes where a thread is preempted, whatever function it is in.
    let sites = profile.call_sites.iter().filter(|site| {
        site.site.function.rsplit("::").next() == Some(function) && site.cause != CauseName::Kernel
    });
    sites.map(|site| site.pages).sum()
}

fn sums_differ_by(profile: &Profile) -> u64 {
    let total = profile.totals.copied_pages;
    let of_processes = profile.processes.iter().map(|row| row.copied_pages).sum();
    let of_sites = profile.call_sites.iter().map(|site| site.pages).sum();
    total.abs_diff(of_processes).max(total.abs_diff(of_sites))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_line_has_medians_of_its_looks_and_the_last_figures() {
        let looks = [10, 90, 20].map(|mib| Memory {
            rss: mib << 20,
            anonymous: (mib / 2) << 20,
            peak: 90 << 20,
        });
        let so_far = json!({"forked": 900, "copied": 35_000});
        let line = Line::of(60, &so_far, &looks).unwrap();
        assert_eq!(
            line.said(),
            "1 min: 900 processes, 35000 copied pages; memtrace has 20.0 MiB, 10.0 of them \
             anonymous, at most 90.0"
        );
        assert!(Line::of(60, &json!({}), &looks).is_err());
    }

    #[test]
    fn short_runs_may_grow_for_a_third_of_their_time() {
        let size = |minutes: u64| Size {
            seconds: minutes * 60,
            look_seconds: 10,
            looks_a_line: 6,
        };
        assert_eq!(size(3).growing_seconds(), 60);
        assert_eq!(size(30).growing_seconds(), 300);
    }
}
