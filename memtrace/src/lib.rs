//! memtrace: which code paths turn the shared memory of a prefork server private.
//!
//! See ARCHITECTURE.md for the way from a fault to a report.

pub mod aggregate;
pub mod cause;
pub mod cli;
pub mod collect;
pub mod command;
pub mod distribution;
pub mod host;
pub mod interpreter;
pub mod options;
pub mod preflight;
pub mod probe;
pub mod process;
pub mod profile;
pub mod progress;
pub mod report;
pub mod session;
pub mod summarize;
pub mod symbolize;
pub mod unchanged;
pub mod unwind;

#[cfg(test)]
#[path = "../tests/skipped/mod.rs"]
mod skipped;

use anyhow::{Context as _, Result};

use crate::options::Options;
use crate::summarize::Run;

/// Does one run: traces as `options` say and writes the reports.
///
/// # Errors
/// When the machine does not permit it, what is to be traced is not there, or a report cannot be
/// written; each error says what to do.
pub fn run(options: &Options) -> Result<()> {
    let notes = preflight::check(options)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    let started_at = host::now_rfc3339();
    let traced = runtime.block_on(session::trace(options))?;
    let run = Run {
        host: host::describe(traced.unwind, traced.python),
        command: host::command_line(&options.target),
        command_exit: traced.command_exit,
        started_at,
        started_ns: traced.started_ns,
        duration_ns: traced.duration_ns,
        unchanged: traced.unchanged,
        health: traced.health,
        undecodable: traced.undecodable,
        notes,
    };
    let profile = summarize::summarize(traced.folded, run);
    report::sums::check(&profile)
        .context("memtrace has miscounted, which is a fault of its own")?;
    report::render(&profile, options)
}
