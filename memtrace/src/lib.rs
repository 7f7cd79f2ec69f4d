//! memtrace: which code paths make the shared memory of a prefork server private.
//!
//! See ARCHITECTURE.md for the way from a fault to a report.

mod advice;
mod cause;
pub mod cli;
mod clock;
mod collect;
mod command;
mod distribution;
mod elf;
mod fold;
mod foreign;
mod host;
pub mod inspection;
mod intake;
mod interpreter;
mod keeper;
#[cfg(test)]
mod made_up;
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

use std::process::ExitCode;

#[cfg(test)]
#[path = "../tests/skipped/mod.rs"]
mod skipped;

use anyhow::{Context as _, Result};

pub use crate::options::Options;
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
    Ok(ExitCode::SUCCESS)
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
