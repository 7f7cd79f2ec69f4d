//! Call sites: from the sums of stacks, and for what has no stack yet or never will.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use memtrace_common::record::{Cause, Origin};

use super::{Gathered, Moment};
use crate::distribution::Distribution;
use crate::fold::{FramesIndex, Kind, SiteIndex, Tally};
use crate::process::processes::ProcessId;
use crate::profile::{
    CallSite, CauseName, Frame, Language, OriginName, Site, StackPages, Truncated, Unknown,
};

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
            lost: HashMap::new(),
            pending: gathered.tally.unnamed_pages(),
        };
        for (id, process) in gathered.processes.iter().enumerate() {
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

/// All call sites, in no particular order; `bytes` and `share` are still 0.
pub fn call_sites(gathered: &Gathered, missing: &Missing) -> Vec<CallSite> {
    let tally = &gathered.tally;
    let mut stacks: HashMap<(SiteIndex, Kind), Stacks> = HashMap::new();
    for stack in &tally.stacks {
        let Some(name) = &stack.name else { continue };
        for cell in stack.cells.iter().map(|&cell| &tally.cells[cell]) {
            let Some(kind) = cell.kind else { continue };
            let of_site = stacks.entry((name.site, kind)).or_default();
            *of_site.entry((name.frames, name.truncated)).or_default() += cell.pages;
        }
    }
    let mut call_sites: Vec<CallSite> = stacks
        .into_iter()
        .filter_map(|((site, kind), stacks)| {
            let sum = &tally.sums[*tally.site_sums.get(&(site, kind))?];
            let stacks = by_pages(stacks, tally);
            let verdict = kind.verdict;
            let object_type = kind.object_type.map(|id| &gathered.types[id.index()]);
            Some(CallSite {
                site: tally.sites[site].clone(),
                cause: cause_name(verdict.cause),
                cause_reason: verdict.why.map(|why| why.to_string()),
                evidence: verdict.evidence,
                origin: origin_name(kind.origin),
                object_type: object_type.cloned(),
                field_offset: kind.field_offset,
                pages: stacks.iter().map(|stack| stack.pages).sum(),
                bytes: 0,
                share: 0.0,
                processes: by_pid(&sum.processes, gathered),
                latency_ns: sum.latency.clone(),
                age_ms: sum.age.clone(),
                stacks,
            })
        })
        .collect();
    call_sites.extend(without_stack(&missing.lost, &LOST, gathered));
    call_sites.extend(without_stack(&missing.pending, &PENDING, gathered));
    call_sites
}

fn by_pid(pages: &HashMap<ProcessId, u64>, gathered: &Gathered) -> BTreeMap<u32, u64> {
    let mut by_pid = BTreeMap::new();
    for (&process, &pages) in pages {
        *by_pid.entry(gathered.processes[process].pid).or_default() += pages;
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

/// What stands for copies without a stack.
struct Placeholder {
    site: &'static str,
    /// Why the cause is unknown.
    why: &'static str,
    /// Why the only frame has no name.
    unknown: Unknown,
}

const LOST: Placeholder = Placeholder {
    site: "[lost]",
    why: "the record of the copy was lost",
    unknown: Unknown::FaultLost,
};

const PENDING: Placeholder = Placeholder {
    site: "[pending]",
    why: "the record of the copy, or the names of its stack, had not been read yet",
    unknown: Unknown::Pending,
};

/// A call site for each origin of copies without a stack: they are counted all the same.
fn without_stack(
    pages: &HashMap<ProcessId, [u64; 4]>,
    placeholder: &Placeholder,
    gathered: &Gathered,
) -> Vec<CallSite> {
    let site = Site {
        function: placeholder.site.into(),
        file: None,
        line: None,
        module: None,
        language: Language::Native,
    };
    let frame = Arc::new(Frame {
        function: Arc::clone(&site.function),
        file: None,
        line: None,
        module: None,
        address: 0,
        language: Language::Native,
        inlined: false,
        unknown: Some(placeholder.unknown),
    });
    let of_origin = |&origin: &Origin| {
        let of_origin = |(&process, pages): (&ProcessId, &[u64; 4])| {
            let pages = pages[origin as usize];
            (pages > 0).then_some((process, pages))
        };
        let processes: HashMap<ProcessId, u64> = pages.iter().filter_map(of_origin).collect();
        let pages = processes.values().sum();
        (pages > 0).then(|| CallSite {
            site: site.clone(),
            cause: CauseName::Unknown,
            cause_reason: Some(placeholder.why.to_owned()),
            origin: origin_name(origin),
            evidence: None,
            object_type: None,
            field_offset: None,
            pages,
            bytes: 0,
            share: 0.0,
            processes: by_pid(&processes, gathered),
            latency_ns: Distribution::default(),
            age_ms: Distribution::default(),
            stacks: vec![StackPages {
                pages,
                truncated: true,
                truncated_why: Some(Truncated::NotTaken),
                frames: Arc::from([Arc::clone(&frame)]),
            }],
        })
    };
    Origin::ALL.iter().filter_map(of_origin).collect()
}

/// A cause, as reports spell it.
pub fn cause_name(cause: Cause) -> CauseName {
    match cause {
        Cause::Unknown => CauseName::Unknown,
        Cause::Refcount => CauseName::Refcount,
        Cause::Gc => CauseName::Gc,
        Cause::Allocator => CauseName::Allocator,
        Cause::Object => CauseName::Object,
        Cause::Data => CauseName::Data,
        Cause::Kernel => CauseName::Kernel,
        Cause::Remote => CauseName::Remote,
    }
}

/// An origin, as reports spell it.
fn origin_name(origin: Origin) -> OriginName {
    match origin {
        Origin::Fork => OriginName::Fork,
        Origin::Ksm => OriginName::Ksm,
        Origin::File => OriginName::File,
        Origin::Hugetlb => OriginName::Hugetlb,
    }
}
