//! What happened when, and how memory was looked at.

use std::collections::BTreeMap;

use super::roles::Roles;
use super::{Gathered, Run};
use crate::fold::times::{Bins, Times};
use crate::memory::{Accounts, History};
use crate::process::processes::ProcessId;
use crate::profile::{CauseName, ExitSizes, MOST_BINS, RoleTimeline, Sampling, Timeline};

/// Processes whose copies are told by time, those that copied most.
const MOST_PROCESSES: usize = 50;

/// What a process had resident when it ended, of counts in pages.
pub fn exit_sizes(resident: [u64; 4], run: &Run) -> ExitSizes {
    let [file, anonymous, swap, shared_memory] =
        resident.map(|pages| pages.saturating_mul(run.host.page_size));
    ExitSizes {
        anonymous,
        file,
        shared_memory,
        swap,
    }
}

/// How memory was looked at.
pub fn sampling(accounts: &Accounts) -> Sampling {
    let intervals = accounts.histories.values();
    let intervals = intervals.filter_map(|history| history.interval_s());
    let (time, looks) = intervals.fold((0.0, 0), |(time, all), (seconds, looks)| {
        (time + seconds * looks as f64, all + looks)
    });
    Sampling {
        asked_s: accounts.interval.as_secs_f64(),
        used_s: (looks > 0 && !accounts.interval.is_zero()).then(|| time / looks as f64),
        reading_s: accounts.reading.as_secs_f64(),
    }
}

/// What happened when, in a trace of `duration_ns`.
pub fn timeline(gathered: &Gathered, roles: &Roles, run: &Run, duration_ns: u64) -> Timeline {
    let times = &gathered.tally.times;
    let bins = duration_ns.div_ceil(times.interval_ns) as usize;
    let grid = Grid {
        times,
        bins: bins.clamp(1, MOST_BINS),
        page: run.host.page_size,
        started_ns: run.started_ns,
    };
    let mut by_cause: BTreeMap<CauseName, Vec<u64>> = BTreeMap::new();
    for ((_, kind), &sum) in &gathered.tally.site_sums {
        let cause = CauseName::from(kind.verdict.cause);
        let bytes = by_cause.entry(cause).or_insert_with(|| vec![0; grid.bins]);
        grid.add_bytes(&gathered.tally.sums[sum].bins, bytes);
    }
    by_cause.retain(|_, bytes| bytes.iter().any(|&bytes| bytes > 0));
    let by_role = (0..roles.list.len()).map(|role| grid.role(role, roles, gathered));
    let mut copied: Vec<(u64, ProcessId)> = (times.processes.iter())
        .map(|(&id, times)| (times.bins.iter().map(|(_, pages)| pages).sum(), id))
        .collect();
    copied.sort_unstable_by_key(|&(pages, id)| (std::cmp::Reverse(pages), id));
    copied.truncate(MOST_PROCESSES);
    let facts = |id: ProcessId| {
        let at = gathered.processes.binary_search_by_key(&id, |(id, _)| *id);
        at.ok().map(|at| gathered.processes[at].1.pid)
    };
    let mut by_process: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    for (_, id) in copied {
        if let Some(pid) = facts(id) {
            let bytes = by_process.entry(pid).or_insert_with(|| vec![0; grid.bins]);
            grid.add_bytes(&times.processes[&id].bins, bytes);
        }
    }
    Timeline {
        interval_s: times.interval_ns as f64 / 1e9,
        by_role: by_role.collect(),
        by_cause,
        by_process,
        forks: grid.counts(&times.forks),
        exits: grid.counts(&times.exits),
        execs: grid.counts(&times.execs),
    }
}

/// The bins of a timeline.
struct Grid<'a> {
    times: &'a Times,
    bins: usize,
    page: u64,
    started_ns: u64,
}

impl Grid<'_> {
    /// Adds counts of pages to bytes.
    fn add_bytes(&self, pages: &Bins, bytes: &mut [u64]) {
        for (bin, pages) in pages.iter() {
            // What came when the trace was being ended is of its last moment.
            bytes[bin.min(self.bins - 1)] += pages * self.page;
        }
    }

    fn counts(&self, of: &Bins) -> Vec<u64> {
        let mut counts = vec![0; self.bins];
        for (bin, count) in of.iter() {
            counts[bin.min(self.bins - 1)] += count;
        }
        counts
    }

    fn role(&self, role: usize, roles: &Roles, gathered: &Gathered) -> RoleTimeline {
        let mut line = RoleTimeline {
            role: roles.list[role].id.clone(),
            copied: vec![0; self.bins],
            processes: vec![0; self.bins],
            shared: vec![None; self.bins],
            private: vec![None; self.bins],
        };
        let members = gathered.processes.iter();
        for (id, facts) in members.filter(|(id, _)| roles.of.get(id) == Some(&role)) {
            if let Some(times) = self.times.processes.get(id) {
                self.add_bytes(&times.bins, &mut line.copied);
            }
            let accounts = gathered.accounts.as_ref();
            if let Some(history) = accounts.and_then(|accounts| accounts.histories.get(id)) {
                self.add_memory(history, facts.times.exited_ns, &mut line);
            }
        }
        line
    }

    /// Adds what a process had in each bin: what was seen last by the end of that bin.
    fn add_memory(&self, history: &History, exited_ns: Option<u64>, line: &mut RoleTimeline) {
        let mut looks = history.looks().peekable();
        let mut now = None;
        for bin in 0..self.bins {
            let start = self.started_ns + bin as u64 * self.times.interval_ns;
            let end = start + self.times.interval_ns;
            while let Some(look) = looks.next_if(|look| look.at_ns < end || bin + 1 == self.bins) {
                now = Some(look);
            }
            let Some(look) = now else { continue };
            if exited_ns.is_some_and(|exited| exited < start) {
                break;
            }
            line.processes[bin] += 1;
            let add = |sum: &mut Option<u64>, more: Option<u64>| {
                if let Some(more) = more {
                    *sum = Some(sum.unwrap_or(0).saturating_add(more));
                }
            };
            add(&mut line.shared[bin], look.sizes.shown.shared);
            add(&mut line.private[bin], look.sizes.shown.private);
        }
    }
}
