//! `cargo xtask bench unwind`: what it costs to know a copy's native stack.
//!
//! A program without frame pointers copies pages at known depths of calls: all on one stack, or
//! each on another one. The same program with frame pointers is what others need to follow it at
//! all.

mod table;

use std::fs;
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
const SOURCE: &str = include_str!("deep.c");

/// Where `--write-docs` writes.
const DOCS: &str = "docs/bench-unwind.md";

/// Depths of calls.
const DEPTHS: [u32; 3] = [5, 20, 50];

/// Files whose tables are built, and for how many milliseconds at most.
const FILES: [&str; 3] = [
    "/usr/bin/python3",
    "/lib/x86_64-linux-gnu/libc.so.6",
    "/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
];

/// So many processes must not need more memory than one, but for a twentieth.
const MANY: u32 = 100;

/// A program without frame pointers and one with, and which tracer traces which.
const COLUMNS: [Column; 6] = [
    Column::new(Tracer::Memtrace("off"), false),
    Column::new(Tracer::Memtrace("auto"), false),
    Column::new(Tracer::PerfDwarf, false),
    Column::new(Tracer::Memtrace("fp"), true),
    Column::new(Tracer::Perf, true),
    Column::new(Tracer::Bpftrace, true),
];

/// Native stacks by depth of calls: tables, frame pointers, and other tools.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub(super) common: Common,
    /// Rounds that count, after one that warms up
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Pages that each child copies
    #[arg(long, default_value_t = 25_600, value_parser = clap::value_parser!(u32).range(1..))]
    pages: u32,
}

/// Which tracer traces which program.
#[derive(Clone, Copy, Debug)]
struct Column {
    tracer: Tracer,
    frame_pointers: bool,
}

impl Column {
    const fn new(tracer: Tracer, frame_pointers: bool) -> Self {
        Self {
            tracer,
            frame_pointers,
        }
    }
}

/// How stacks differ from one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Pattern {
    /// All pages on one stack.
    Repeated,
    /// Each page on another one.
    Varied,
}

impl Pattern {
    fn argument(self) -> &'static str {
        match self {
            Self::Repeated => "one",
            Self::Varied => "varied",
        }
    }
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
struct Results {
    bench: &'static str,
    machine: Machine,
    rounds: u32,
    pages: u32,
    rows: Vec<Figures>,
    tables: Option<Tables>,
    memory: Memory,
}

/// One tracer at one depth.
#[derive(Debug, Serialize)]
struct Figures {
    pattern: Pattern,
    depth: u32,
    tracer: String,
    frame_pointers: bool,
    /// Why there are no figures.
    unavailable: Option<String>,
    /// Nanoseconds per copied page more than untraced, in the same round.
    added_ns: Option<Summary>,
    /// Copies that it lost, of those that were made, in the last round.
    lost_share: Option<f64>,
    /// Copies whose stack leads to the program's start, in the last round.
    whole_share: Option<f64>,
}

/// What it costs to build unwind tables.
#[derive(Debug, Serialize)]
struct Tables {
    files: usize,
    rows: u64,
    ms: f64,
}

/// Memory of memtrace in bytes: its own, and its maps in the kernel.
#[derive(Debug, Serialize)]
struct Memory {
    one: u64,
    many: u64,
}

/// Measures, and prints the table.
pub fn run(args: &Args, programs: &Programs) -> Result<ExitCode> {
    let scratch = tempfile::tempdir().context("cannot create a temporary directory")?;
    let (rounds, pages) = if args.common.quick {
        (1, 2_000)
    } else {
        (args.rounds, args.pages)
    };
    let bench = Bench {
        programs,
        rounds,
        pages,
        scratch: scratch.path(),
        without: compile(scratch.path(), "deep", "-fomit-frame-pointer")?,
        with: compile(scratch.path(), "deepfp", "-fno-omit-frame-pointer")?,
    };
    let mut rows = Vec::new();
    for pattern in [Pattern::Repeated, Pattern::Varied] {
        for depth in DEPTHS {
            rows.extend(bench.at(pattern, depth)?);
        }
    }
    let results = Results {
        bench: "unwind",
        machine: Machine::describe(),
        rounds,
        pages,
        rows,
        tables: tables()?,
        memory: bench.memory()?,
    };
    super::publish(&args.common, &results, &table::markdown(&results), DOCS)
}

fn compile(folder: &Path, name: &str, option: &str) -> Result<PathBuf> {
    let source = folder.join("deep.c");
    host::write_atomically(&source, SOURCE.as_bytes())?;
    let program = folder.join(name);
    let mut command = Command::new("gcc");
    command
        .args(["-O2", "-fno-optimize-sibling-calls", option, "-o"])
        .args([&program, &source]);
    host::run(&mut command).context("the program that is traced cannot be compiled")?;
    Ok(program)
}

/// Builds tables as memtrace does, without its cache.
fn tables() -> Result<Option<Tables>> {
    let files: Vec<_> = FILES
        .iter()
        .filter(|file| Path::new(file).exists())
        .collect();
    if files.len() < FILES.len() {
        return Ok(None);
    }
    let mut command = host::cargo();
    command.args(["run", "--quiet", "--release", "--package", "memtrace"]);
    command
        .args(["--example", "unwind_tables", "--"])
        .args(&files);
    let said = host::capture(&mut command)?;
    let last = said.lines().last().unwrap_or_default();
    let figures = last.split_once(" rows in ").and_then(|(rows, time)| {
        let ms = time.strip_suffix("ms")?.parse().ok()?;
        Some((rows.parse().ok()?, ms))
    });
    let (rows, ms) = figures.with_context(|| format!("not as expected: {last}"))?;
    Ok(Some(Tables {
        files: files.len(),
        rows,
        ms,
    }))
}

struct Bench<'a> {
    programs: &'a Programs,
    rounds: u32,
    pages: u32,
    scratch: &'a Path,
    without: PathBuf,
    with: PathBuf,
}

impl Bench<'_> {
    fn program(&self, frame_pointers: bool) -> &Path {
        if frame_pointers {
            &self.with
        } else {
            &self.without
        }
    }

    /// All tracers in turn, each with the untraced run of its program in the same round.
    fn at(&self, pattern: Pattern, depth: u32) -> Result<Vec<Figures>> {
        let mut columns: Vec<_> = COLUMNS
            .iter()
            .map(|column| {
                let missing = column.tracer.missing();
                (column, missing.map_or(Ok(Vec::new()), Err))
            })
            .collect();
        for round in 0..=self.rounds {
            eprintln!(
                "xtask: {pattern:?}, depth {depth}: round {round} of {}",
                self.rounds
            );
            let untraced = [
                self.once(false, pattern, depth, None)?.0,
                self.once(true, pattern, depth, None)?.0,
            ];
            for (column, runs) in &mut columns {
                let Ok(measured) = runs else { continue };
                let fp = column.frame_pointers;
                match self.once(fp, pattern, depth, Some(column.tracer)) {
                    Ok((ns, finished)) => measured.push((ns - untraced[usize::from(fp)], finished)),
                    Err(error) => *runs = Err(format!("{error:#}")),
                }
            }
        }
        let pages = f64::from(2 * self.pages);
        let rows = columns.into_iter().map(|(column, runs)| {
            let mut row = Figures {
                pattern,
                depth,
                tracer: column.tracer.name(),
                frame_pointers: column.frame_pointers,
                unavailable: None,
                added_ns: None,
                lost_share: None,
                whole_share: None,
            };
            match runs {
                Err(why) => row.unavailable = Some(why),
                Ok(runs) => {
                    // Without the warm-up.
                    row.added_ns = Summary::of(runs.iter().skip(1).map(|(added, _)| *added));
                    let last = runs.last().and_then(|(_, finished)| finished.as_ref());
                    row.lost_share = last.and_then(|last| Some(last.said.lost? as f64 / pages));
                    row.whole_share = last.and_then(|last| last.said.whole_share);
                }
            }
            row
        });
        Ok(rows.collect())
    }

    /// Nanoseconds per page of one run.
    fn once(
        &self,
        frame_pointers: bool,
        pattern: Pattern,
        depth: u32,
        tracer: Option<Tracer>,
    ) -> Result<(f64, Option<Finished>)> {
        let arguments = [
            depth.to_string(),
            self.pages.to_string(),
            pattern.argument().to_owned(),
        ];
        let program = self.program(frame_pointers);
        let mut fixture = Fixture::start(program, &arguments)?;
        let comm = program.file_name().context("a program has a name")?;
        let running = tracer
            .map(|tracer| {
                let comm = comm.to_string_lossy();
                tracer.attach(&self.programs.memtrace, fixture.pid, &comm, self.scratch)
            })
            .transpose()?;
        let done = fixture.go()?;
        let finished = running.map(Running::finish).transpose()?;
        fixture.exit()?;
        let of = |name: &str| done[name].as_f64().filter(|value| *value > 0.0);
        let (Some(ns), Some(pages)) = (of("ns"), of("pages")) else {
            bail!("not as expected: {done}");
        };
        Ok((ns / pages, finished))
    }

    fn memory(&self) -> Result<Memory> {
        Ok(Memory {
            one: self.memory_for(1)?,
            many: self.memory_for(MANY)?,
        })
    }

    /// Memory of memtrace while it traces this many children that have copied something.
    fn memory_for(&self, children: u32) -> Result<u64> {
        let arguments = ["wait".to_owned(), children.to_string(), "100".to_owned()];
        let mut fixture = Fixture::start(self.program(false), &arguments)?;
        let tracer = Tracer::Memtrace("auto");
        let running = tracer.attach(&self.programs.memtrace, fixture.pid, "deep", self.scratch)?;
        let _: Value = fixture.go()?;
        let taken = memory_of(running.pid())?;
        running.finish()?;
        fixture.exit()?;
        Ok(taken)
    }
}

/// Resident memory of a process and that of its BPF maps, in bytes. Mapped arrays count in both.
fn memory_of(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let rss = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok())
        .context("the tracer's memory is not known")?;
    let mut maps = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // A descriptor may be closed meanwhile.
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        if text.contains("map_type:") {
            let lines = text.lines();
            maps += lines
                .filter_map(|line| line.strip_prefix("memlock:")?.trim().parse::<u64>().ok())
                .sum::<u64>();
        }
    }
    Ok(rss * 1024 + maps)
}
