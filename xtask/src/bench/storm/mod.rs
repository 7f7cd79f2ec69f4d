//! `cargo xtask bench storm`: children copy pages as fast as they can.
//!
//! What it asks: what a tracer adds to each copied page, whether it loses any, what it uses itself,
//! how long the report takes, and whether processes that are not traced notice. With `--compare` it
//! asks only what another memtrace adds, and how much less or more that is.

mod compare;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::Value;

use super::fixture::Fixture;
use super::machine::Machine;
use super::summary::Summary;
use super::tracer::{Finished, Running, Tracer};
use super::{Common, Programs};

/// What processes of the fixture are called: the kernel keeps 15 bytes of a name.
const COMM: &str = "memtrace-fixtur";

/// Where `--write-docs` writes.
const DOCS: &str = "docs/bench-storm.md";

const OFF: Tracer = Tracer::Memtrace("off");
const FP: Tracer = Tracer::Memtrace("fp");

/// What memtrace does unless it is told otherwise.
const DEFAULT: Tracer = Tracer::Memtrace("auto");

/// All that are compared, in the order of a round. The first run of a round is untraced.
const TRACERS: [Tracer; 5] = [OFF, FP, DEFAULT, Tracer::Perf, Tracer::Bpftrace];

/// Children copy pages as fast as they can.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub(super) common: Common,
    /// Rounds that count, after one that warms up
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Children of a run, one after the other
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    forks: u32,
    /// Pages that each child copies; twice as much memory is needed
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    pages: u32,
    /// Measure only what this memtrace and the project's add, in turn, and how they differ
    #[arg(long, value_name = "FILE", conflicts_with = "write_docs")]
    compare: Option<PathBuf>,
}

/// How much is done.
#[derive(Clone, Copy, Debug, Serialize)]
struct Size {
    rounds: u32,
    forks: u32,
    pages: u32,
    distinct_stacks: u32,
    stacks_pages: u32,
    stacks_rounds: u32,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
struct Results {
    bench: &'static str,
    machine: Machine,
    size: Size,
    /// Nanoseconds per copied page when nobody traces.
    untraced_ns: Summary,
    tracers: Vec<TracerResult>,
    not_traced: NotTraced,
    stacks: Stacks,
}

/// One tracer. Added and slowdown compare with the untraced run of the same round.
#[derive(Debug, Serialize)]
struct TracerResult {
    tracer: String,
    /// Why there are no figures.
    unavailable: Option<String>,
    figures: Option<Figures>,
}

#[derive(Debug, Serialize)]
struct Figures {
    ns: Summary,
    added_ns: Summary,
    slowdown: Summary,
    /// Events that the tracer saw, of the pages that were copied in truth.
    seen_share: Option<Summary>,
    /// Events that it lost, over all rounds; `None` where it does not say.
    lost: Option<u64>,
    own: Own,
}

/// What the tracer itself used.
#[derive(Debug, Serialize)]
struct Own {
    cpu_ms: Summary,
    cpu_ns_per_page: Summary,
    peak_rss_mib: Summary,
    peak_anonymous_mib: Summary,
    stop_ms: Summary,
}

/// A process that is not traced, while memtrace traces another.
#[derive(Debug, Serialize)]
struct NotTraced {
    untraced_ns: Summary,
    beside_memtrace_ns: Summary,
    slowdown: Summary,
}

/// Copies over many distinct stacks.
#[derive(Debug, Serialize)]
struct Stacks {
    seen_share: Option<Summary>,
    lost: Option<u64>,
    own: Own,
}

/// One run of the fixture.
#[derive(Clone, Debug)]
struct Run {
    /// Per page, where the children say how long they took.
    ns: Option<f64>,
    /// Copied, in truth.
    pages: u64,
    tracer: Option<Finished>,
}

/// Measures, and prints the table.
pub fn run(args: &Args, programs: &Programs) -> Result<ExitCode> {
    let size = size(args);
    let scratch = tempfile::tempdir().context("cannot create a temporary directory")?;
    let bench = Bench {
        programs,
        other: args.compare.as_deref(),
        size,
        scratch: scratch.path(),
    };
    if let Some(other) = &args.compare {
        let results = bench.compare(other)?;
        return super::publish(&args.common, &results, &compare::markdown(&results), DOCS);
    }
    let results = bench.measure()?;
    super::publish(&args.common, &results, &table::markdown(&results), DOCS)
}

fn size(args: &Args) -> Size {
    if args.common.quick {
        return Size {
            rounds: 1,
            forks: 2,
            pages: 10_000,
            distinct_stacks: 1_000,
            stacks_pages: 20_000,
            stacks_rounds: 1,
        };
    }
    Size {
        rounds: args.rounds,
        forks: args.forks,
        pages: args.pages,
        distinct_stacks: 10_000,
        stacks_pages: 1_000_000,
        stacks_rounds: args.rounds.min(3),
    }
}

struct Bench<'a> {
    programs: &'a Programs,
    /// The memtrace that the project's is compared with.
    other: Option<&'a Path>,
    size: Size,
    scratch: &'a Path,
}

/// The runs of one variant, one a round; or why there are none.
type Column = Result<Vec<Run>, String>;

impl Bench<'_> {
    fn measure(&self) -> Result<Results> {
        let mut untraced = Vec::new();
        let mut traced: Vec<(Tracer, Column)> = TRACERS
            .iter()
            .map(|tracer| (*tracer, tracer.missing().map_or(Ok(Vec::new()), Err)))
            .collect();
        let (mut alone, mut beside) = (Vec::new(), Vec::new());
        for round in 0..=self.size.rounds {
            self.announce(round);
            untraced.push(self.storm(None, false)?);
            for (tracer, column) in &mut traced {
                self.add_run(*tracer, column)?;
            }
            alone.push(self.storm(None, true)?);
            beside.push(self.storm(Some(DEFAULT), true)?);
        }
        // The warm-up.
        for column in [&mut untraced, &mut alone, &mut beside] {
            column.remove(0);
        }
        let results = traced.into_iter().map(|(tracer, mut column)| {
            if let Ok(runs) = &mut column {
                runs.remove(0);
            }
            tracer_result(tracer, column, &untraced)
        });
        Ok(Results {
            bench: "storm",
            machine: Machine::describe(),
            size: self.size,
            tracers: results.collect::<Result<_>>()?,
            not_traced: NotTraced {
                untraced_ns: time(&alone)?,
                beside_memtrace_ns: time(&beside)?,
                slowdown: pairs(&beside, &alone, |with, without| with / without)?,
            },
            untraced_ns: time(&untraced)?,
            stacks: self.stacks()?,
        })
    }

    fn announce(&self, round: u32) {
        if round == 0 {
            eprintln!("xtask: warm-up");
        } else {
            eprintln!("xtask: round {round} of {}", self.size.rounds);
        }
    }

    /// Runs the storm under `tracer`. Another's failure is a result, memtrace's an error.
    fn add_run(&self, tracer: Tracer, column: &mut Column) -> Result<()> {
        let Ok(runs) = column else {
            return Ok(());
        };
        match self.storm(Some(tracer), false) {
            Ok(run) => runs.push(run),
            Err(error) if matches!(tracer, Tracer::Memtrace(_)) => return Err(error),
            Err(error) => *column = Err(format!("{error:#}")),
        }
        Ok(())
    }

    /// One storm; with `elsewhere`, it is another process than the traced one that storms.
    fn storm(&self, tracer: Option<Tracer>, elsewhere: bool) -> Result<Run> {
        let (forks, pages) = (self.size.forks.to_string(), self.size.pages.to_string());
        let mut args = vec![
            "storm", "--forks", &forks, "--pages", &pages, "--rounds", "1",
        ];
        if elsewhere {
            args.push("--untraced-observer");
        }
        self.once(&args, tracer)
    }

    fn stacks(&self) -> Result<Stacks> {
        let (distinct, pages) = (
            self.size.distinct_stacks.to_string(),
            self.size.stacks_pages.to_string(),
        );
        let mut args = vec!["stacks", "--distinct", &distinct, "--pages", &pages];
        let region = self.size.stacks_pages.min(100_000).to_string();
        args.extend(["--region-pages", &region]);
        let mut runs = Vec::new();
        for round in 1..=self.size.stacks_rounds {
            eprintln!(
                "xtask: {distinct} distinct stacks, round {round} of {}",
                self.size.stacks_rounds
            );
            runs.push(self.once(&args, Some(FP))?);
        }
        Ok(Stacks {
            seen_share: seen_share(&runs),
            lost: lost(&runs),
            own: own(&runs)?,
        })
    }

    fn once(&self, args: &[&str], tracer: Option<Tracer>) -> Result<Run> {
        let mut fixture = Fixture::start(&self.programs.fixture, args)?;
        let running = tracer
            .map(|tracer| {
                let memtrace = match (tracer, self.other) {
                    (Tracer::OtherMemtrace(_), Some(other)) => other,
                    _ => &self.programs.memtrace,
                };
                tracer.attach(memtrace, fixture.pid, COMM, self.scratch)
            })
            .transpose()?;
        let done = fixture.go()?;
        let tracer = running.map(Running::finish).transpose()?;
        fixture.exit()?;
        let pages = done["copied"]
            .as_u64()
            .filter(|pages| *pages > 0)
            .with_context(|| format!("the fixture copied nothing: {done}"))?;
        Ok(Run {
            ns: ns_per_page(&done),
            pages,
            tracer,
        })
    }
}

/// Nanoseconds per copied page, over all children.
fn ns_per_page(done: &Value) -> Option<f64> {
    let forks = done["forks"].as_array()?;
    let sum = |field: &str| {
        forks
            .iter()
            .map(|fork| fork[field].as_u64())
            .sum::<Option<u64>>()
    };
    let pages = sum("pages")?;
    (pages > 0).then_some(sum("ns")? as f64 / pages as f64)
}

fn tracer_result(tracer: Tracer, column: Column, untraced: &[Run]) -> Result<TracerResult> {
    let (figures, unavailable) = match column {
        Err(why) => (None, Some(why)),
        Ok(runs) => {
            let figures = Figures {
                ns: time(&runs)?,
                added_ns: pairs(&runs, untraced, |with, without| with - without)?,
                slowdown: pairs(&runs, untraced, |with, without| with / without)?,
                seen_share: seen_share(&runs),
                lost: lost(&runs),
                own: own(&runs)?,
            };
            (Some(figures), None)
        }
    };
    Ok(TracerResult {
        tracer: tracer.name(),
        unavailable,
        figures,
    })
}

fn time(runs: &[Run]) -> Result<Summary> {
    Summary::of(runs.iter().filter_map(|run| run.ns)).context("no run was timed")
}

/// Compares each run with the untraced one of its round.
fn pairs(with: &[Run], without: &[Run], of: impl Fn(f64, f64) -> f64) -> Result<Summary> {
    let values = with
        .iter()
        .zip(without)
        .filter_map(|(with, without)| Some(of(with.ns?, without.ns?)));
    Summary::of(values).context("no run was timed")
}

fn seen_share(runs: &[Run]) -> Option<Summary> {
    let shares: Option<Vec<f64>> = runs
        .iter()
        .map(|run| Some(run.tracer.as_ref()?.said.seen? as f64 / run.pages as f64))
        .collect();
    Summary::of(shares?)
}

fn lost(runs: &[Run]) -> Option<u64> {
    runs.iter().map(|run| run.tracer.as_ref()?.said.lost).sum()
}

fn own(runs: &[Run]) -> Result<Own> {
    const MIB: f64 = 1024.0 * 1024.0;
    let of = |value: fn(&Finished) -> f64| {
        let finished = runs.iter().filter_map(|run| run.tracer.as_ref());
        Summary::of(finished.map(value)).context("there are no rounds")
    };
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let per_page = |run: &Run| Some(run.tracer.as_ref()?.cpu.as_nanos() as f64 / run.pages as f64);
    Ok(Own {
        cpu_ms: of(|finished| finished.cpu.as_secs_f64() * 1e3)?,
        cpu_ns_per_page: Summary::of(runs.iter().filter_map(per_page))
            .context("there are no rounds")?,
        peak_rss_mib: of(|finished| finished.peak_rss as f64 / MIB)?,
        peak_anonymous_mib: of(|finished| finished.peak_anonymous as f64 / MIB)?,
        stop_ms: Summary::of(
            runs.iter()
                .filter_map(|run| Some(ms(run.tracer.as_ref()?.stop))),
        )
        .context("there are no rounds")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::tracer::said::Said;
    use serde_json::json;

    fn run(ns: f64, seen: u64, lost: Option<u64>) -> Run {
        let tracer = Finished {
            said: Said {
                seen: Some(seen),
                lost,
                ..Said::default()
            },
            cpu: Duration::from_millis(10),
            peak_rss: 32 << 20,
            peak_anonymous: 16 << 20,
            stop: Duration::from_millis(250),
        };
        Run {
            ns: Some(ns),
            pages: 1000,
            tracer: Some(tracer),
        }
    }

    #[test]
    fn a_run_is_compared_with_the_untraced_one_of_its_own_round() {
        let untraced = [
            run(2000.0, 0, None),
            run(4000.0, 0, None),
            run(3000.0, 0, None),
        ];
        let traced = [
            run(2500.0, 0, None),
            run(4400.0, 0, None),
            run(3300.0, 0, None),
        ];
        let added = pairs(&traced, &untraced, |with, without| with - without).unwrap();
        assert_eq!(
            added,
            Summary {
                median: 400.0,
                min: 300.0,
                max: 500.0
            }
        );
    }

    #[test]
    fn losses_add_up_and_what_is_not_said_stays_unknown() {
        assert_eq!(lost(&[run(1.0, 1, Some(2)), run(1.0, 1, Some(3))]), Some(5));
        assert_eq!(lost(&[run(1.0, 1, Some(2)), run(1.0, 1, None)]), None);
        let share = seen_share(&[run(1.0, 990, None), run(1.0, 1010, None)]).unwrap();
        assert_eq!(
            share,
            Summary {
                median: 1.0,
                min: 0.99,
                max: 1.01
            }
        );
    }

    #[test]
    fn time_per_page_is_over_all_children() {
        let done = json!({"forks": [{"ns": 1000, "pages": 10}, {"ns": 5000, "pages": 20}]});
        assert_eq!(ns_per_page(&done), Some(200.0));
        assert_eq!(ns_per_page(&json!({"forks": []})), None);
        assert_eq!(ns_per_page(&json!({"forks": [{"pages": 10}]})), None);
    }
}
