//! From what has been gathered to the [`Profile`] that reports show.
//!
//! A profile can be made at any moment of a trace, and always adds up. While a trace is running,
//! some copies have been counted by the BPF side whose records have not been read yet, or whose
//! stacks have not been named: those are *pending*, and have call sites of that name. When the
//! trace is over, whatever was counted and has no record is *lost*.

mod memory;
mod processes;
mod roles;
mod sites;
mod warnings;
use std::sync::Arc;

use foldhash::HashMap;
use memtrace_common::process::Health;

use crate::advice::advise;
use crate::fold::Tally;
use crate::interpreter::tracker::Seen;
use crate::memory::Accounts;
use crate::process::ended::Others;
use crate::process::facts::ProcessFacts;
use crate::process::processes::{OTHERS, ProcessId};
use crate::profile::{
    CallSite, CommandExit, Host, ModuleUnwind, Profile, SCHEMA, Unchanged, type_rows,
};

/// What has been gathered of the traced processes at one moment, as plain data.
#[derive(Clone, Debug, Default)]
pub struct Gathered {
    /// The processes, by first appearance.
    pub processes: Vec<(ProcessId, ProcessFacts)>,
    /// The interpreters and runtimes of those that have any.
    pub interpreters: HashMap<ProcessId, Seen>,
    /// The sum of those that have ended and are not kept one by one.
    pub others: Option<Others>,
    /// How much memory they had; `None` where that was not looked at.
    pub accounts: Option<Accounts>,
    /// Their copies.
    pub tally: Tally,
    /// Names of the types of objects, by [`TypeId`](crate::interpreter::names::TypeId).
    pub types: Vec<Arc<str>>,
    /// The files that they have mapped.
    pub modules: Vec<ModuleUnwind>,
}

impl Gathered {
    /// All processes, and the sum of others as one.
    fn all(&self) -> impl Iterator<Item = (ProcessId, &ProcessFacts)> {
        let processes = self.processes.iter().map(|(id, facts)| (*id, facts));
        let others = self.others.iter();
        processes.chain(others.map(|others| (OTHERS, &others.facts)))
    }
}

/// What does not change while a trace runs.
#[derive(Clone, Debug)]
pub struct Run {
    /// Where and how the trace is made.
    pub host: Host,
    /// The COMMAND; empty when there is none.
    pub command: Vec<String>,
    /// When it began, RFC 3339.
    pub started_at: String,
    /// The same moment, in nanoseconds of `CLOCK_MONOTONIC`.
    pub started_ns: u64,
    /// Whether arguments of processes are in the report.
    pub arguments: bool,
    /// Whether the backend sees writes that split a huge mapping.
    pub sees_splits: bool,
    /// What limits the report and was known before the trace.
    pub notes: Vec<String>,
}

/// How far a trace has come, and how it went.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// From its start to this moment, in nanoseconds.
    pub duration_ns: u64,
    /// What the BPF side says went wrong.
    pub health: Health,
    /// Records that could not be decoded.
    pub undecodable: u64,
    /// How COMMAND ended; `None` while it runs.
    pub command_exit: Option<CommandExit>,
}

/// When a profile is made.
#[derive(Clone, Debug)]
pub enum Moment {
    /// While the trace runs.
    Running,
    /// After its last record, and when all stacks have been named.
    Over {
        /// What became of copied pages, by process; empty when they were not compared.
        unchanged: HashMap<ProcessId, Unchanged>,
    },
}

/// All that a profile is made of. It can be made on another thread than the one that traces.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// What does not change.
    pub run: Arc<Run>,
    /// What has been gathered.
    pub gathered: Gathered,
    /// How far the trace had come.
    pub progress: Progress,
    /// When it was taken.
    pub moment: Moment,
}

impl Snapshot {
    /// Makes the profile.
    #[must_use]
    pub fn profile(&self) -> Profile {
        summarize(&self.gathered, &self.run, &self.progress, &self.moment)
    }
}

/// Makes the profile. The counters must have been read after the last record was.
#[must_use]
pub fn summarize(gathered: &Gathered, run: &Run, progress: &Progress, moment: &Moment) -> Profile {
    let page_size = run.host.page_size;
    let missing = sites::Missing::of(gathered, moment);
    let pids = gathered.all().map(|(id, facts)| (id, facts.pid)).collect();
    let mut processes = processes::processes(gathered, run, moment, &missing);
    roles::account(&mut processes, gathered, run);
    let roles = roles::roles(gathered, run, &processes);
    for (row, (id, _)) in processes.iter_mut().zip(&gathered.processes) {
        row.role = roles.id(*id).map(str::to_owned);
    }
    let totals = processes::totals(&processes, gathered, (run, progress), moment, &missing);
    let mut call_sites = sites::call_sites(gathered, &missing, &pids);
    for site in &mut call_sites {
        site.bytes = site.pages * page_size;
        site.share = site.pages as f64 / totals.copied_pages.max(1) as f64;
    }
    sort(&mut call_sites);
    let mut warnings = warnings::of_losses(gathered, progress);
    warnings.extend(run.host.unwind_why.clone());
    warnings.extend(run.notes.iter().cloned());
    warnings.extend(warnings::of_files(&processes));
    warnings.extend(warnings::of_bounds(gathered));
    warnings.extend(warnings::of_cut_stacks(&call_sites, totals.copied_pages));
    let mut profile = Profile {
        schema: SCHEMA.to_owned(),
        memtrace: env!("CARGO_PKG_VERSION").to_owned(),
        host: run.host.clone(),
        command: run.command.clone(),
        command_exit: progress.command_exit.clone(),
        started_at: run.started_at.clone(),
        duration_s: progress.duration_ns as f64 / 1e9,
        totals,
        processes,
        types: type_rows(&call_sites),
        call_sites,
        modules: gathered.modules.clone(),
        advice: Vec::new(),
        timeline: Some(memory::timeline(
            gathered,
            &roles,
            run,
            progress.duration_ns,
        )),
        roles: roles.list,
        sampling: gathered.accounts.as_ref().map(memory::sampling),
        no_cache: gathered
            .accounts
            .as_ref()
            .and_then(|accounts| accounts.no_caches.clone()),
        warnings,
    };
    // What would help is said of the whole, and once.
    if let Moment::Over { .. } = moment {
        profile.advice = advise(&profile);
    }
    profile
}

/// Sorts by pages, the most first; equal ones have a fixed order.
fn sort(call_sites: &mut [CallSite]) {
    let key = |site: &CallSite| {
        let (cause, phase) = (site.cause, site.phase);
        (cause, phase, site.object_type.clone(), site.field_offset)
    };
    let ways = |site: &CallSite| (site.app.clone(), site.caller.clone());
    call_sites.sort_by(|a, b| {
        let by_pages = b.pages.cmp(&a.pages).then_with(|| a.site.cmp(&b.site));
        let by_site = by_pages.then_with(|| ways(a).cmp(&ways(b)));
        by_site.then_with(|| key(a).cmp(&key(b)))
    });
}

#[cfg(test)]
mod tests;
