//! memtrace: which code paths make the shared memory of a prefork server private.
//!
//! See ARCHITECTURE.md for the way from a fault to a report.

mod cause;
mod choice;
pub mod cli;
mod clock;
mod collect;
mod command;
mod diff;
mod distribution;
mod elf;
mod fold;
mod foreign;
mod gate;
mod host;
pub mod inspection;
mod intake;
mod interpreter;
mod keeper;
#[cfg(test)]
mod made_up;
mod memory;
mod options;
mod plan;
mod preflight;
mod probe;
mod process;
pub mod profile;
mod report;
mod session;
pub mod signals;
mod summarize;
mod symbolize;
mod targets;
mod unchanged;
mod unwind;
mod views;

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

#[cfg(test)]
#[path = "../tests/skipped/mod.rs"]
mod skipped;

use anyhow::{Context as _, Result};

use crate::gate::Verdict;
pub use crate::options::{DiffOptions, Options, ReportOptions, Task};
use crate::plan::Plan;
use crate::preflight::Facts;
pub use crate::process::opener;
use crate::report::Destinations;
use crate::session::{Session, Step};
use crate::summarize::Snapshot;
pub use crate::unwind::inspect as unwind_tables;
use crate::views::progress::Progress;
use crate::views::{Audience, View};

/// Listens for the signals that end memtrace. Must be called before anything else.
///
/// # Errors
/// When the system has no descriptors or no threads left.
pub fn hear_signals() -> std::io::Result<()> {
    signals::install(report::remove_unfinished)
}

/// Traces as `options` say and writes the reports. For the exit code, see `--help`.
///
/// # Errors
/// When the machine does not permit it, the target is not there, or a report cannot be written;
/// each error says what to do. [`signals::Interrupted`] when a signal came before tracing began.
pub fn run(options: &Options) -> Result<ExitCode> {
    let options = &choice::made(options)?;
    let facts = Facts::gather(options.trace.target.pids());
    let (plan, missing) = match Plan::of(&options.trace, options.verbosity, &facts) {
        Ok(plan) => (Some(plan), Vec::new()),
        Err(missing) => (None, missing),
    };
    let destinations = Destinations::open(&options.output, facts.owns_all());
    let (notes, destinations) = preflight::check(&options.trace, destinations, &facts, &missing)?;
    let plan = plan.context("this machine has nothing that copies can be seen by")?;
    signals::check()?;
    let profile = trace(options, &plan, notes)?.profile();
    profile::sums::check(&profile)
        .context("memtrace has miscounted, which is a fault of its own")?;
    report::render(&profile, &options.output, &destinations)?;
    let verdict = options.gate.map(|limit| limit.check(&profile));
    Ok(exit_code(verdict))
}

/// Compares two reports as `options` say. For the exit code, see `--help`.
///
/// # Errors
/// When one of them cannot be read, or the comparison cannot be written; each error says what to do.
pub fn compare(options: &DiffOptions) -> Result<ExitCode> {
    let owns_all = Facts::gather(&[]).owns_all();
    let destinations = preflight::destinations(
        options.output.open(owns_all),
        "the comparison would be lost",
    )?;
    let [base, new] = [&options.base, &options.new].map(|path| read(path));
    let (base, new) = (base?, new?);
    signals::check()?;
    let names = [&options.base, &options.new].map(|path| path.display().to_string());
    let difference = diff::compare((&base, &names[0]), (&new, &names[1]));
    options.output.write(&difference, &destinations)?;
    let verdict = options.gate.map(|growth| growth.check(&difference));
    Ok(exit_code(verdict))
}

/// Shows a saved report as `options` say.
///
/// # Errors
/// When it cannot be read, or shown; each error says what to do.
pub fn show(options: &ReportOptions) -> Result<()> {
    let owns_all = Facts::gather(&[]).owns_all();
    let destinations = Destinations::open(&options.output, owns_all);
    let destinations = preflight::destinations(destinations, "nothing is written")?;
    let profile = read(&options.file)?;
    signals::check()?;
    report::render_again(&profile, &options.output, &destinations)?;
    Ok(())
}

/// Reads a saved report.
fn read(path: &Path) -> Result<profile::Profile> {
    let shown = foreign::shown(path.as_os_str().as_encoded_bytes(), foreign::MAX_PATH);
    let file = File::open(path).with_context(|| {
        format!("cannot open '{shown}'; name a report that memtrace has written as JSON")
    })?;
    profile::read(file).with_context(|| format!("cannot use '{shown}'"))
}

/// Says what came of a limit, on standard error, and with which status to leave.
fn exit_code(verdict: Option<Verdict>) -> ExitCode {
    let (text, code) = match verdict {
        None | Some(Verdict::Kept(None)) => return ExitCode::SUCCESS,
        Some(Verdict::Kept(Some(text))) => (text, ExitCode::SUCCESS),
        Some(Verdict::Broken(text)) => (text, ExitCode::from(1)),
        Some(Verdict::Unknown(text)) => (text, ExitCode::from(2)),
    };
    // Standard error may be a terminal that has been closed.
    let _ = writeln!(std::io::stderr(), "memtrace: {text}");
    code
}

/// Traces until something ends it.
fn trace(options: &Options, plan: &Plan, notes: Vec<String>) -> Result<Snapshot> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    runtime.block_on(async {
        let started = Session::start(&options.trace, plan, notes);
        if started.is_err() {
            // Ctrl-C also reaches COMMAND at its gate, and that it ended is not the reason then.
            signals::check()?;
        }
        let mut session = started?;
        let progress = Progress::on_terminal().map(|line| Box::new(line) as Box<dyn View>);
        let mut audience = Audience::new(progress.into_iter().collect());
        let ended = loop {
            match session.next().await {
                Ok(Step::Tick) => {
                    if session.is_calm() && audience.is_waiting() {
                        audience.show(|| session.snapshot());
                    }
                }
                Ok(Step::Ended(why)) => break Ok(why),
                Err(error) => break Err(error),
            }
        };
        audience.leave();
        session.finish(ended?).await
    })
}
