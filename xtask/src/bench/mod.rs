//! `cargo xtask bench`: what tracing costs.
//!
//! A bench is a module with its arguments and a `run` that measures and ends in [`publish`]. They
//! share [`fixture`] (the program that is traced), [`tracer`] (whoever traces it), [`summary`]
//! (medians) and [`machine`] (where it was measured).
//!
//! The machines that this runs on are noisy, so variants are never measured one after the other in
//! blocks: a round runs each once, in turn, and each is compared with the untraced run of its own
//! round. The first round warms up and is thrown away.

mod attach;
mod churn;
mod fixture;
mod machine;
mod python;
mod sample;
mod storm;
mod summary;
mod tracer;
mod unwind;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use serde::Serialize;

use crate::host;

/// Measure what tracing costs.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// Processes come and go for half an hour: memtrace's memory must not grow
    Churn(churn::Args),
    /// Children copy 100,000 pages each, as fast as they can
    Storm(storm::Args),
    /// Children read preloaded Python objects, at known depths of calls
    Python(python::Args),
    /// A program without frame pointers copies at known depths of calls
    Unwind(unwind::Args),
    /// memtrace attaches, on an idle and on a busy machine
    Attach(attach::Args),
    /// Processes with much memory work while memtrace looks at it, and while it does not
    Sample(sample::Args),
}

/// What can be said to every bench.
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
        Bench::Churn(churn) => &churn.common,
        Bench::Storm(storm) => &storm.common,
        Bench::Python(python) => &python.common,
        Bench::Unwind(unwind) => &unwind.common,
        Bench::Attach(attach) => &attach.common,
        Bench::Sample(sample) => &sample.common,
    };
    let programs = Programs::build(common)?;
    if !host::is_root() {
        return again_as_root(&programs);
    }
    if common.write_docs && machine::is_changed() {
        eprintln!(
            "xtask: files differ from the commit, and the page will say so: commit first to have \
             figures of a commit"
        );
    }
    match &args.bench {
        Bench::Churn(churn) => churn::run(churn, &programs),
        Bench::Storm(storm) => storm::run(storm, &programs),
        Bench::Python(python) => python::run(python, &programs),
        Bench::Unwind(unwind) => unwind::run(unwind, &programs),
        Bench::Attach(attach) => attach::run(attach, &programs),
        Bench::Sample(sample) => sample::run(sample, &programs),
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

/// Shows what was measured, and writes it where somebody asked for it: the figures as JSON, the
/// page `docs` of the project.
fn publish(common: &Common, results: &impl Serialize, page: &str, docs: &str) -> Result<ExitCode> {
    publish_in(&host::project(), common, results, page, docs)
}

fn publish_in(
    project: &Path,
    common: &Common,
    results: &impl Serialize,
    page: &str,
    docs: &str,
) -> Result<ExitCode> {
    if common.quick {
        eprintln!("xtask: --quick: the figures below show that the bench works, and nothing else");
    }
    println!("{page}");
    if let Some(path) = &common.json {
        let mut json = serde_json::to_vec_pretty(results)?;
        json.push(b'\n');
        host::write_atomically(&std::path::absolute(path)?, &json)?;
    }
    if common.write_docs {
        host::write_atomically(&project.join(docs), page.as_bytes())?;
        eprintln!("xtask: wrote {docs}");
    }
    Ok(ExitCode::SUCCESS)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn common(write_docs: bool, json: Option<PathBuf>) -> Common {
        Common {
            json,
            write_docs,
            quick: false,
            memtrace: None,
            fixture: None,
        }
    }

    #[test]
    fn a_page_and_figures_are_written_where_they_were_asked_for_and_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let docs = "docs/bench-unwind.md";
        let publish = |common: &Common| {
            publish_in(folder.path(), common, &[1, 2], "# A page\n", docs).unwrap();
        };
        publish(&common(false, None));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let json = folder.path().join("figures.json");
        publish(&common(true, Some(json.clone())));
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        assert_eq!(read(&folder.path().join(docs)), "# A page\n");
        let figures: Vec<u32> = serde_json::from_str(&read(&json)).unwrap();
        assert_eq!(figures, [1, 2]);
    }
}
