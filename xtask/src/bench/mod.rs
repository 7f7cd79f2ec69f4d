//! `cargo xtask bench`: what tracing costs.
//!
//! A bench is a module with its arguments and a `run`. They share [`fixture`] (the program that is
//! traced), [`tracer`] (who traces it), [`summary`] (medians) and [`machine`] (where it was
//! measured).
//!
//! The machines that this runs on are noisy, so variants are never measured one after the other in
//! blocks: a round runs each once, in turn, and each is compared with the untraced run of its own
//! round. The first round warms up and is thrown away.

mod answer;
mod fixture;
mod machine;
mod python;
mod storm;
mod summary;
mod tracer;
mod unwind;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;

use crate::host;

/// Measure what tracing costs.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// Children copy 100,000 pages each, as fast as they can
    Storm(storm::Args),
    /// Children read preloaded Python objects, at known depths of calls
    Python(python::Args),
    /// A program without frame pointers copies at known depths of calls
    Unwind(unwind::Args),
}

/// What every bench takes.
#[derive(clap::Args)]
struct Common {
    /// Write the figures to this file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the table, with the machine described, to docs/
    #[arg(long)]
    write_docs: bool,
    /// A few small rounds: shows that the bench works, measures nothing
    #[arg(long, conflicts_with = "write_docs")]
    quick: bool,
    /// Measure this memtrace instead of building the project's
    #[arg(long, value_name = "FILE")]
    memtrace: Option<PathBuf>,
    /// Use this fixture instead of building the project's
    #[arg(long, value_name = "FILE", hide = true)]
    fixture: Option<PathBuf>,
}

/// The programs of a bench.
struct Programs {
    memtrace: PathBuf,
    fixture: PathBuf,
}

/// Runs a bench.
pub fn run(args: &Args) -> Result<ExitCode> {
    let common = match &args.bench {
        Bench::Storm(storm) => &storm.common,
        Bench::Python(python) => &python.common,
        Bench::Unwind(unwind) => &unwind.common,
    };
    let programs = Programs::build(common)?;
    if !host::is_root() {
        return again_as_root(&programs);
    }
    match &args.bench {
        Bench::Storm(storm) => storm::run(storm, &programs),
        Bench::Python(python) => python::run(python, &programs),
        Bench::Unwind(unwind) => unwind::run(unwind, &programs),
    }
}

impl Programs {
    fn build(common: &Common) -> Result<Self> {
        let or_build = |given: &Option<PathBuf>, build: fn() -> Result<PathBuf>| match given {
            Some(path) => path
                .canonicalize()
                .with_context(|| format!("there is no {}", path.display())),
            None => build(),
        };
        Ok(Self {
            memtrace: or_build(&common.memtrace, host::build_memtrace)?,
            fixture: or_build(&common.fixture, host::build_fixture)?,
        })
    }
}

/// Runs this command under sudo, with what was built here: cargo itself stays the user's.
fn again_as_root(programs: &Programs) -> Result<ExitCode> {
    if host::find_program("sudo").is_none() {
        bail!("tracing needs root, and there is no sudo here: run this as root");
    }
    let mut command = Command::new("sudo");
    command
        .arg(std::env::current_exe().context("cannot find this program's file")?)
        .args(std::env::args_os().skip(1));
    for (option, path) in [
        ("--memtrace", &programs.memtrace),
        ("--fixture", &programs.fixture),
    ] {
        if !std::env::args_os().any(|given| given == option) {
            command.arg(option).arg(path);
        }
    }
    let status = command.status().context("cannot run sudo")?;
    Ok(status
        .code()
        .map_or(ExitCode::from(2), |code| ExitCode::from(code as u8)))
}
