//! `cargo xtask bench python`: what it costs to know the stack and the cause of a Python copy.
//!
//! Two questions. What does a copied page cost with everything on, in a child that reads preloaded
//! objects, by the depth of its calls? And on a plain list walk, what do other tools cost that
//! could be asked the same, and what do they answer?

mod table;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use serde_json::Value;

use super::fixture::Fixture;
use super::machine::Machine;
use super::summary::Summary;
use super::tracer::{Finished, Running, Tracer};
use super::{Common, Programs};
use crate::host;

/// The program that is traced.
const STORM: &str = include_str!("storm.py");

/// Where `--write-docs` writes.
const DOCS: &str = "docs/bench-python.md";

/// Depths of Python calls, and how many times as long a copy may last there.
const DEPTHS: [(u32, f64); 3] = [(10, 1.45), (30, 1.5), (60, 1.6)];

/// Everything that memtrace does by itself.
const EVERYTHING: Tracer = Tracer::Memtrace("auto");

/// Tracers that are asked about the list walk.
const WALKERS: [Tracer; 3] = [EVERYTHING, Tracer::PySpy, Tracer::Bpftrace];

/// Children read preloaded Python objects, at known depths of calls.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub(super) common: Common,
    /// Rounds that count, after one that warms up
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Pages that each child copies
    #[arg(long, default_value_t = 25_600, value_parser = clap::value_parser!(u32).range(1..))]
    pages: u32,
    /// Children of a list walk, one after the other
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=100))]
    children: u32,
    /// The interpreter; by default the system's
    #[arg(long, value_name = "FILE")]
    python: Option<PathBuf>,
}

/// How much is done.
#[derive(Clone, Copy, Debug, Serialize)]
struct Size {
    rounds: u32,
    pages: u32,
    children: u32,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
struct Results {
    bench: &'static str,
    machine: Machine,
    python: String,
    size: Size,
    depths: Vec<Depth>,
    /// Records that memtrace lost in all rounds, at any depth.
    lost: Option<u64>,
    /// Copied pages that memtrace counted, of those that were copied.
    seen_share: Option<Summary>,
    walk: Walk,
}

/// One depth of calls.
#[derive(Debug, Serialize)]
struct Depth {
    /// Python frames on the stack.
    frames: u32,
    untraced_ns: Summary,
    traced_ns: Summary,
    /// Of the run with the untraced one of the same round.
    ratio: Summary,
    limit: f64,
}

/// The list walk.
#[derive(Debug, Serialize)]
struct Walk {
    untraced_ms: Summary,
    tracers: Vec<Walked>,
}

/// One tracer on the list walk.
#[derive(Debug, Serialize)]
struct Walked {
    tracer: String,
    /// Why there are no figures.
    unavailable: Option<String>,
    ms: Option<Summary>,
    slowdown: Option<Summary>,
    /// In the last round.
    seen: Option<u64>,
    answer: Option<String>,
}

/// One run of the program.
#[derive(Clone, Debug)]
struct Run {
    forks: Vec<Fork>,
    tracer: Option<Finished>,
}

/// What one child says.
#[derive(Clone, Copy, Debug)]
struct Fork {
    depth: Option<u32>,
    ns: f64,
    pages: f64,
}

impl Run {
    /// Nanoseconds per copied page at a depth.
    fn at(&self, depth: u32) -> Option<f64> {
        let fork = self.forks.iter().find(|fork| fork.depth == Some(depth))?;
        Some(fork.ns / fork.pages)
    }

    /// Milliseconds of all children together.
    fn ms(&self) -> f64 {
        self.forks.iter().map(|fork| fork.ns).sum::<f64>() / 1e6
    }

    /// Pages of all children together.
    fn pages(&self) -> f64 {
        self.forks.iter().map(|fork| fork.pages).sum()
    }
}

/// Measures, and prints the table.
pub fn run(args: &Args, programs: &Programs) -> Result<ExitCode> {
    let scratch = tempfile::tempdir().context("cannot create a temporary directory")?;
    let script = scratch.path().join("storm.py");
    host::write_atomically(&script, STORM.as_bytes())?;
    let (python, version) = interpreter(args.python.as_deref())?;
    let size = if args.common.quick {
        Size {
            rounds: 1,
            pages: 2_000,
            children: 2,
        }
    } else {
        Size {
            rounds: args.rounds,
            pages: args.pages,
            children: args.children,
        }
    };
    let bench = Bench {
        programs,
        size,
        python: &python,
        script: &script,
        scratch: scratch.path(),
    };
    let (depths, traced) = bench.depths()?;
    let results = Results {
        bench: "python",
        machine: Machine::describe(),
        python: version,
        size,
        depths,
        lost: traced
            .iter()
            .map(|run| run.tracer.as_ref()?.said.lost)
            .sum(),
        seen_share: seen_share(&traced),
        walk: bench.walk()?,
    };
    super::publish(&args.common, &results, &table::markdown(&results), DOCS)
}

/// The interpreter itself, not a wrapper, and its version.
fn interpreter(given: Option<&Path>) -> Result<(PathBuf, String)> {
    let system = Path::new("/usr/bin/python3");
    let program = match given {
        Some(given) => given.to_owned(),
        None if system.exists() => system.to_owned(),
        None => {
            host::find_program("python3").context("there is no python3: name one by --python")?
        }
    };
    let mut ask = Command::new(&program);
    ask.args([
        "-c",
        "import sys; print(sys.executable); print('CPython', sys.version.split()[0])",
    ]);
    let said = host::capture(&mut ask)?;
    let Some((path, version)) = said.trim().split_once('\n') else {
        bail!(
            "{} does not say where it is and of which version: {said:?}",
            program.display()
        );
    };
    Ok((path.into(), version.to_owned()))
}

struct Bench<'a> {
    programs: &'a Programs,
    size: Size,
    python: &'a Path,
    script: &'a Path,
    scratch: &'a Path,
}

impl Bench<'_> {
    /// Untraced and traced runs in turn; the order changes with each round.
    fn depths(&self) -> Result<(Vec<Depth>, Vec<Run>)> {
        let depths: Vec<_> = DEPTHS.iter().map(|(depth, _)| depth.to_string()).collect();
        let mut args = vec!["depths", "--depths"];
        args.extend(depths.iter().map(String::as_str));
        let (mut untraced, mut traced) = (Vec::new(), Vec::new());
        for round in 0..=self.size.rounds {
            self.announce("depths", round);
            if round % 2 == 0 {
                untraced.push(self.once(&args, None)?);
                traced.push(self.once(&args, Some(EVERYTHING))?);
            } else {
                traced.push(self.once(&args, Some(EVERYTHING))?);
                untraced.push(self.once(&args, None)?);
            }
        }
        // The warm-up.
        untraced.remove(0);
        traced.remove(0);
        let rows = DEPTHS.iter().map(|&(depth, limit)| {
            let times = |runs: &[Run]| Summary::of(runs.iter().filter_map(|run| run.at(depth)));
            let ratios = traced
                .iter()
                .zip(&untraced)
                .filter_map(|(with, without)| Some(with.at(depth)? / without.at(depth)?));
            Ok(Depth {
                frames: depth,
                untraced_ns: times(&untraced).context("no run was timed")?,
                traced_ns: times(&traced).context("no run was timed")?,
                ratio: Summary::of(ratios).context("no run was timed")?,
                limit,
            })
        });
        let rows = rows.collect::<Result<_>>()?;
        Ok((rows, traced))
    }

    fn walk(&self) -> Result<Walk> {
        let children = self.size.children.to_string();
        let args = ["walk", "--children", &children];
        let mut untraced = Vec::new();
        let mut columns: Vec<_> = WALKERS
            .iter()
            .map(|tracer| (*tracer, tracer.missing().map_or(Ok(Vec::new()), Err)))
            .collect();
        for round in 0..=self.size.rounds {
            self.announce("list walk", round);
            untraced.push(self.once(&args, None)?);
            for (tracer, column) in &mut columns {
                let Ok(runs) = column else { continue };
                match self.once(&args, Some(*tracer)) {
                    Ok(run) => runs.push(run),
                    Err(error) if *tracer == EVERYTHING => return Err(error),
                    Err(error) => *column = Err(format!("{error:#}")),
                }
            }
        }
        untraced.remove(0);
        let tracers = columns.into_iter().map(|(tracer, column)| match column {
            Err(why) => Walked {
                tracer: tracer.name(),
                unavailable: Some(why),
                ms: None,
                slowdown: None,
                seen: None,
                answer: None,
            },
            Ok(mut runs) => {
                runs.remove(0);
                let pairs = runs.iter().zip(&untraced);
                let last = runs.last().and_then(|run| run.tracer.as_ref());
                Walked {
                    tracer: tracer.name(),
                    unavailable: None,
                    ms: Summary::of(runs.iter().map(Run::ms)),
                    slowdown: Summary::of(pairs.map(|(with, without)| with.ms() / without.ms())),
                    seen: last.and_then(|last| last.said.seen),
                    answer: last.and_then(|last| last.said.answer.clone()),
                }
            }
        });
        Ok(Walk {
            tracers: tracers.collect(),
            untraced_ms: Summary::of(untraced.iter().map(Run::ms)).context("no run was timed")?,
        })
    }

    fn announce(&self, what: &str, round: u32) {
        if round == 0 {
            eprintln!("xtask: {what}: warm-up");
        } else {
            eprintln!("xtask: {what}: round {round} of {}", self.size.rounds);
        }
    }

    fn once(&self, args: &[&str], tracer: Option<Tracer>) -> Result<Run> {
        let pages = self.size.pages.to_string();
        let mut command = vec!["-B".as_ref(), "-E".as_ref(), self.script.as_os_str()];
        command.extend(args.iter().map(|arg| std::ffi::OsStr::new(*arg)));
        command.extend(["--pages".as_ref(), std::ffi::OsStr::new(&pages)]);
        let mut program = Fixture::start(self.python, command)?;
        let comm = std::fs::read_to_string(format!("/proc/{}/comm", program.pid))
            .context("the program has gone")?;
        let running = tracer
            .map(|tracer| {
                tracer.attach(
                    &self.programs.memtrace,
                    program.pid,
                    comm.trim(),
                    self.scratch,
                )
            })
            .transpose()?;
        let done = program.go()?;
        let tracer = running.map(Running::finish).transpose()?;
        program.exit()?;
        let forks = forks(&done).with_context(|| format!("not as expected: {done}"))?;
        Ok(Run { forks, tracer })
    }
}

fn forks(done: &Value) -> Option<Vec<Fork>> {
    let one = |fork: &Value| {
        Some(Fork {
            depth: fork["depth"].as_u64().map(|depth| depth as u32),
            ns: fork["ns"].as_f64()?,
            pages: fork["pages"].as_f64().filter(|pages| *pages > 0.0)?,
        })
    };
    done["forks"].as_array()?.iter().map(one).collect()
}

fn seen_share(runs: &[Run]) -> Option<Summary> {
    let shares: Option<Vec<f64>> = runs
        .iter()
        .map(|run| Some(run.tracer.as_ref()?.said.seen? as f64 / run.pages()))
        .collect();
    Summary::of(shares?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_run_has_its_time_per_page_at_each_depth() {
        let done = json!({"forks": [
            {"ns": 1000, "pages": 10, "depth": 10},
            {"ns": 6000, "pages": 20, "depth": 30},
        ]});
        let run = Run {
            forks: forks(&done).unwrap(),
            tracer: None,
        };
        assert_eq!(run.at(30), Some(300.0));
        assert_eq!(run.at(60), None);
        assert!((run.ms() - 0.007).abs() < 1e-9);
        assert!(forks(&json!({"forks": [{"ns": 1}]})).is_none());
    }
}
