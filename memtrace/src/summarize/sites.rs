//! Call sites: from the sums of stacks, and for what has no stack yet or never will.

use std::collections::BTreeMap;
use std::sync::Arc;

use foldhash::HashMap;
use memtrace_common::record::Origin;

use super::{Gathered, Moment};
use crate::fold::sum::Sum;
use crate::fold::{FramesIndex, Kind, SiteIndex, Tally};
use crate::process::processes::ProcessId;
use crate::profile::{CallSite, SampleUnchanged, StackPages, Truncated, Unrecorded};
use crate::unchanged::Compared;

/// Copies without a stack that can be shown, by process and [`Origin`] code.
#[derive(Debug, Default)]
pub struct Missing {
    /// Counted by the BPF side; their records have been dropped.
    pub lost: HashMap<ProcessId, [u64; 4]>,
    /// Counted, and their records or the names of their stacks are on their way.
    pub pending: HashMap<ProcessId, [u64; 4]>,
}

impl Missing {
    /// What is missing at this moment.
    pub fn of(gathered: &Gathered, moment: &Moment) -> Self {
        let mut missing = Self {
            lost: HashMap::default(),
            pending: gathered.tally.unnamed_pages(),
        };
        for (id, process) in gathered.all() {
            let (lost, pending) = match moment {
                Moment::Over { .. } => (process.missing(), [0; 4]),
                Moment::Running => process.lost_and_pending(),
            };
            for (pages, by_process) in [(lost, &mut missing.lost), (pending, &mut missing.pending)]
            {
                if pages != [0; 4] {
                    let sum = by_process.entry(id).or_default();
                    *sum = std::array::from_fn(|origin| sum[origin] + pages[origin]);
                }
            }
        }
        missing
    }

    /// Lost and pending pages of one process.
    pub fn of_process(&self, id: ProcessId) -> (u64, u64) {
        let sum = |by_process: &HashMap<ProcessId, [u64; 4]>| {
            by_process.get(&id).map_or(0, |pages| pages.iter().sum())
        };
        (sum(&self.lost), sum(&self.pending))
    }
}

/// The pid of each process.
pub type Pids = HashMap<ProcessId, u32>;

/// All call sites, in no particular order; `bytes` and `share` are still 0.
pub fn call_sites(gathered: &Gathered, missing: &Missing, pids: &Pids) -> Vec<CallSite> {
    let tally = &gathered.tally;
    let mut stacks: HashMap<(SiteIndex, Kind), Stacks> = HashMap::default();
    for stack in &tally.stacks {
        let Some(name) = &stack.name else { continue };
        for cell in stack.cells.iter().map(|&cell| &tally.cells[cell]) {
            let Some(kind) = cell.kind else { continue };
            let of_site = stacks.entry((name.site, kind.settled())).or_default();
            *of_site.entry((name.frames, name.truncated)).or_default() += cell.pages;
        }
    }
    let mut sums = sums(tally);
    let mut call_sites: Vec<CallSite> = stacks
        .into_iter()
        .filter_map(|((site, kind), stacks)| {
            let sum = sums.remove(&(site, kind))?;
            let stacks = by_pages(stacks, tally);
            let verdict = kind.verdict;
            let object_type = kind.object_type.map(|id| &gathered.types[id.index()]);
            Some(CallSite {
                site: tally.sites[site].site.clone(),
                app: tally.sites[site].app.clone(),
                caller: tally.sites[site].caller.clone(),
                cause: verdict.cause.into(),
                cause_reason: verdict.why.map(|why| why.to_string()),
                evidence: verdict.evidence,
                phase: kind.phase.into(),
                origin: kind.origin.into(),
                object_type: object_type.cloned(),
                field_offset: kind.field_offset,
                pages: stacks.iter().map(|stack| stack.pages).sum(),
                bytes: 0,
                share: 0.0,
                processes: by_pid(&sum.processes, pids),
                latency_ns: sum.latency,
                age_ms: sum.age,
                unchanged: unchanged(sum.compared),
                stacks,
            })
        })
        .collect();
    call_sites.extend(without_stack(&missing.lost, Unrecorded::Lost, pids));
    call_sites.extend(without_stack(&missing.pending, Unrecorded::Pending, pids));
    call_sites
}

/// What the copies of each call site are summed up to. Those of children that may yet replace their
/// program are counted apart, and added here.
fn sums(tally: &Tally) -> HashMap<(SiteIndex, Kind), Sum> {
    let mut sums: HashMap<(SiteIndex, Kind), Sum> = HashMap::default();
    for (&(site, kind), &sum) in &tally.site_sums {
        let settled = sums.entry((site, kind.settled())).or_default();
        settled.absorb(&tally.sums[sum]);
    }
    sums
}

fn unchanged(found: Compared) -> Option<SampleUnchanged> {
    (found.pages > 0).then_some(SampleUnchanged {
        unchanged_pages: found.unchanged,
        compared_pages: found.pages,
        changed_pages: found.changed,
        compared_with_child_pages: found.with_child,
    })
}

fn by_pid(pages: &HashMap<ProcessId, u64>, pids: &Pids) -> BTreeMap<u32, u64> {
    let mut by_pid = BTreeMap::new();
    for (process, &pages) in pages {
        *by_pid.entry(pids[process]).or_default() += pages;
    }
    by_pid
}

/// Pages by stack, and by why it is truncated.
type Stacks = HashMap<(FramesIndex, Option<Truncated>), u64>;

/// The most pages first.
fn by_pages(stacks: Stacks, tally: &Tally) -> Vec<StackPages> {
    let mut stacks: Vec<_> = stacks
        .into_iter()
        .map(|((frames, why), pages)| StackPages {
            pages,
            truncated: why.is_some(),
            truncated_why: why,
            frames: Arc::clone(&tally.frame_lists[frames]),
        })
        .collect();
    stacks.sort_by(|a, b| {
        let by_pages = b.pages.cmp(&a.pages);
        by_pages.then_with(|| names(a).cmp(names(b)))
    });
    stacks
}

fn names(stack: &StackPages) -> impl Iterator<Item = &str> {
    stack.frames.iter().map(|frame| &*frame.function)
}

/// A call site for each origin of copies without a stack: they are counted all the same.
fn without_stack(
    pages: &HashMap<ProcessId, [u64; 4]>,
    why: Unrecorded,
    pids: &Pids,
) -> impl Iterator<Item = CallSite> {
    Origin::ALL.iter().filter_map(move |&origin| {
        let of_origin = |(&process, pages): (&ProcessId, &[u64; 4])| {
            let pages = pages[origin as usize];
            (pages > 0).then_some((process, pages))
        };
        let processes: HashMap<ProcessId, u64> = pages.iter().filter_map(of_origin).collect();
        let processes = by_pid(&processes, pids);
        (!processes.is_empty()).then(|| CallSite::unrecorded(why, origin.into(), processes))
    })
}
