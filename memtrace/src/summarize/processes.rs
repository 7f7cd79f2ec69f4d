//! The rows of processes, and the totals.

use foldhash::HashMap;
use memtrace_common::process::Counters;

use super::sites::Missing;
use super::{Gathered, Moment, Progress, Run};
use crate::fold::Phase;
use crate::foreign::escaped;
use crate::process::container::Container;
use crate::process::facts::ProcessFacts;
use crate::process::processes::ProcessId;
use crate::profile::{
    self, ByCause, ByOrigin, CauseName, Lost, NotCopied, Process, Totals, Unchanged,
};

/// A row for each process, by first appearance.
pub fn processes(
    gathered: &Gathered,
    run: &Run,
    moment: &Moment,
    missing: &Missing,
) -> Vec<Process> {
    let mut copied: HashMap<ProcessId, (ByCause, u64)> = HashMap::default();
    for ((_, kind), &sum) in &gathered.tally.site_sums {
        let cause = CauseName::from(kind.verdict.cause);
        let is_read = cause.is_copy_on_read() && kind.phase.settled() == Phase::Run;
        for (&process, &pages) in &gathered.tally.sums[sum].processes {
            let (by_cause, read) = copied.entry(process).or_default();
            by_cause.add(cause, pages);
            *read += if is_read { pages } else { 0 };
        }
    }
    let row = |(id, facts): (ProcessId, &ProcessFacts)| {
        let (mut by_cause, read) = copied.get(&id).cloned().unwrap_or_default();
        let (lost, pending) = missing.of_process(id);
        let seen = gathered.interpreters.get(&id);
        by_cause.add(CauseName::Unknown, lost + pending);
        Process {
            copy_on_read_pages: read,
            interpreter: seen.and_then(|seen| seen.interpreter.clone()),
            runtimes: seen
                .and_then(|seen| seen.runtimes.as_deref())
                .map_or_else(Vec::new, <[_]>::to_vec),
            unopened: seen
                .and_then(|seen| seen.unopened.as_deref())
                .map_or_else(Vec::new, <[_]>::to_vec),
            unchanged: moment.unchanged(id),
            lost_faults: lost,
            ..process(facts, by_cause, run)
        }
    };
    let mut rows: Vec<_> = gathered.all().map(row).collect();
    if let (Some(others), Some(row)) = (&gathered.others, rows.last_mut()) {
        row.stands_for = Some(others.count);
    }
    rows
}

impl Moment {
    fn unchanged(&self, process: ProcessId) -> Option<Unchanged> {
        match self {
            Self::Running => None,
            Self::Over { unchanged } => unchanged.get(&process).copied(),
        }
    }
}

fn process(facts: &ProcessFacts, by_cause: ByCause, run: &Run) -> Process {
    let since_start = |ns: u64| ns.saturating_sub(run.started_ns) as f64 / 1e9;
    let Counters {
        copied: [fork, ksm, file, hugetlb],
        reuse,
        zero,
        first_touch,
        split,
        settled_elsewhere,
        ..
    } = facts.counters;
    let copied_pages = fork + ksm + file + hugetlb;
    Process {
        pid: facts.pid,
        ppid: facts.ppid,
        comm: escaped(&facts.name.comm),
        before: facts.name.before.iter().map(|name| escaped(name)).collect(),
        cmdline: if run.arguments {
            facts.name.cmdline.iter().map(|arg| escaped(arg)).collect()
        } else {
            Vec::new()
        },
        forked_at_s: facts.times.forked_ns.map(since_start),
        exited_at_s: facts.times.exited_ns.map(since_start),
        copied_pages,
        copied_bytes: copied_pages * run.host.page_size,
        copy_on_read_pages: 0,
        by_origin: ByOrigin {
            fork,
            ksm,
            file,
            hugetlb,
            ..ByOrigin::default()
        },
        by_cause,
        not_copied: NotCopied {
            reuse: Some(reuse),
            zero: Some(zero),
            first_touch: Some(first_touch),
            split: run.sees_splits.then_some(split),
            settled_elsewhere: Some(settled_elsewhere),
        },
        lost_faults: 0,
        unchanged: None,
        interpreter: None,
        runtimes: Vec::new(),
        unopened: Vec::new(),
        memory: None,
        role: None,
        container: facts.container.as_deref().map(container),
        copying_s: None,
        cpu_s: None,
        cache: None,
        stands_for: None,
    }
}

fn container(container: &Container) -> profile::Container {
    profile::Container {
        id: container.id.clone(),
        pod: container.pod.clone(),
    }
}

/// The sums over all processes.
pub fn totals(
    processes: &[Process],
    gathered: &Gathered,
    (run, progress): (&Run, &Progress),
    moment: &Moment,
    missing: &Missing,
) -> Totals {
    let mut totals = Totals {
        not_copied: NotCopied {
            reuse: Some(0),
            zero: Some(0),
            first_touch: Some(0),
            split: run.sees_splits.then_some(0),
            settled_elsewhere: Some(0),
        },
        ..Totals::default()
    };
    for process in processes {
        totals.copied_pages += process.copied_pages;
        totals.copied_bytes += process.copied_bytes;
        totals.copy_on_read_pages += process.copy_on_read_pages;
        totals.by_origin.absorb(&process.by_origin);
        totals.by_cause.absorb(&process.by_cause);
        add_not_copied(&mut totals.not_copied, process.not_copied);
        totals.lost.faults += process.lost_faults;
    }
    if let Moment::Over { unchanged } = moment {
        totals.unchanged = sum_unchanged(unchanged.values());
        let compared = totals.unchanged.filter(|sum| sum.compared_pages > 0);
        totals.unchanged_pages = compared.map(|sum| sum.unchanged_pages);
    }
    totals.pending = missing.pending.values().flatten().sum();
    totals.lost = Lost {
        faults: totals.lost.faults,
        stacks: lost_stacks(gathered),
        processes: progress.health.processes_lost,
        threads: progress.health.threads_lost,
    };
    totals
}

/// Copied pages whose stack was lost on its way.
fn lost_stacks(gathered: &Gathered) -> u64 {
    let tally = &gathered.tally;
    let lost = |stack: &&crate::fold::Stack| stack.name.is_some_and(|name| name.lost);
    let stacks = tally.stacks.iter().filter(lost);
    stacks
        .flat_map(|stack| &stack.cells)
        .map(|&cell| tally.cells[cell].pages)
        .sum()
}

/// The sum of all; `None` when there are none.
fn sum_unchanged<'a>(all: impl Iterator<Item = &'a Unchanged>) -> Option<Unchanged> {
    all.copied().reduce(|mut sum, one| {
        sum.absorb(&one);
        sum
    })
}

fn add_not_copied(sum: &mut NotCopied, more: NotCopied) {
    let add = |sum: &mut Option<u64>, more: Option<u64>| {
        *sum = sum.zip(more).map(|(a, b)| a + b);
    };
    add(&mut sum.reuse, more.reuse);
    add(&mut sum.zero, more.zero);
    add(&mut sum.first_touch, more.first_touch);
    add(&mut sum.split, more.split);
    add(&mut sum.settled_elsewhere, more.settled_elsewhere);
}
