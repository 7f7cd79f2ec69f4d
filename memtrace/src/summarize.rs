//! From everything that was folded to the [`Profile`] that reports show.

use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use memtrace_common::process::{Counters, Health};
use memtrace_common::record::Origin;

use crate::aggregate::{Aggregator, Kind, SiteIndex};
use crate::cause::Verdict;
use crate::process::traced::{ProcessId, Traced};
use crate::profile::{
    ByCause, ByOrigin, CallSite, CommandExit, Frame, Host, Lost, NotCopied, Process, Profile,
    SCHEMA, StackPages, Totals, Truncated, Unchanged, Unrecorded, type_rows,
};
use crate::report::escape::escape;

/// What the profile says of the run itself.
pub struct Run {
    /// Where and how.
    pub host: Host,
    /// The COMMAND, empty when there was none.
    pub command: Vec<String>,
    /// How it ended.
    pub command_exit: Option<CommandExit>,
    /// RFC 3339.
    pub started_at: String,
    /// Start, in nanoseconds of `CLOCK_MONOTONIC`.
    pub started_ns: u64,
    /// From start to end, in nanoseconds.
    pub duration_ns: u64,
    /// What the BPF side says went wrong.
    pub health: Health,
    /// Records that could not be decoded.
    pub undecodable: u64,
    /// What became of copied pages, by process; empty when they were not compared.
    pub unchanged: HashMap<ProcessId, Unchanged>,
    /// What limits the report and was known before.
    pub notes: Vec<String>,
}

/// Makes the profile. All stacks must have been symbolized, and the counters be final.
#[must_use]
pub fn summarize(folded: Aggregator, run: Run) -> Profile {
    let page_size = run.host.page_size;
    let processes = processes(&folded, &run);
    let totals = totals(&processes, &folded, &run);
    let mut warnings = warnings(&folded, &run);
    warnings.extend(run.host.unwind_why.clone());
    warnings.extend(run.host.unwind_why.clone());
    warnings.extend(run.notes);
    let modules = folded.unwinder.modules();
    let mut call_sites = call_sites(folded);
    for site in &mut call_sites {
        site.bytes = site.pages * page_size;
        site.share = site.pages as f64 / totals.copied_pages.max(1) as f64;
    }
    warnings.extend(cut_stacks(&call_sites, totals.copied_pages));
    let key = |site: &CallSite| (site.cause, site.object_type.clone(), site.field_offset);
    call_sites.sort_by(|a, b| {
        let by_pages = b.pages.cmp(&a.pages).then_with(|| a.site.cmp(&b.site));
        by_pages.then_with(|| key(a).cmp(&key(b)))
    });
    Profile {
        modules,
        schema: SCHEMA.to_owned(),
        memtrace: env!("CARGO_PKG_VERSION").to_owned(),
        host: run.host,
        command: run.command,
        command_exit: run.command_exit,
        started_at: run.started_at,
        duration_s: run.duration_ns as f64 / 1e9,
        totals,
        processes,
        types: type_rows(&call_sites),
        call_sites,
        advice: Vec::new(),
        warnings,
    }
}

fn processes(folded: &Aggregator, run: &Run) -> Vec<Process> {
    let all = folded.processes.all();
    let mut causes = vec![ByCause::default(); all.len()];
    for ((_, kind), &sum) in &folded.site_sums {
        for (&process, &pages) in &folded.sums[sum].processes {
            causes[process].add(kind.verdict.cause.into(), pages);
        }
    }
    let with_causes = all.iter().zip(causes);
    with_causes
        .enumerate()
        .map(|(id, (traced, by_cause))| Process {
            interpreter: folded.tracker.seen(id),
            unchanged: run
                .unchanged
                .get(&id)
                .copied()
                .filter(|unchanged| unchanged.compared_pages > 0),
            ..process(traced, by_cause, run)
        })
        .collect()
}

fn process(traced: &Traced, mut by_cause: ByCause, run: &Run) -> Process {
    let since_start = |ns: u64| ns.saturating_sub(run.started_ns) as f64 / 1e9;
    let text = |bytes: &[u8]| escape(&String::from_utf8_lossy(bytes)).into_owned();
    let Counters {
        copied: [fork, ksm, file, hugetlb],
        reuse,
        zero,
        first_touch,
        ..
    } = traced.counters;
    let copied_pages = fork + ksm + file + hugetlb;
    let lost_faults = traced.lost().map(|(_, pages)| pages).sum();
    by_cause.unknown += lost_faults;
    Process {
        pid: traced.pid,
        ppid: traced.ppid,
        comm: text(&traced.comm),
        cmdline: traced.cmdline.iter().map(|arg| text(arg)).collect(),
        forked_at_s: traced.forked_ns.map(since_start),
        exited_at_s: traced.exited_ns.map(since_start),
        copied_pages,
        copied_bytes: copied_pages * run.host.page_size,
        copy_on_read_pages: by_cause.copy_on_read(),
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
            // No tracepoint tells of it.
            split: None,
        },
        lost_faults,
        unchanged: None,
        interpreter: None,
        memory: None,
    }
}

fn totals(processes: &[Process], folded: &Aggregator, run: &Run) -> Totals {
    let mut totals = Totals {
        not_copied: NotCopied {
            reuse: Some(0),
            zero: Some(0),
            first_touch: Some(0),
            split: None,
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
    totals.unchanged = sum_unchanged(run.unchanged.values());
    totals.unchanged_pages = totals.unchanged.map(|sum| sum.unchanged_pages);
    let lost_stacks = folded.stacks.iter().filter(|stack| stack.lost);
    totals.lost = Lost {
        faults: totals.lost.faults,
        stacks: lost_stacks
            .flat_map(|stack| &stack.cells)
            .map(|&cell| folded.cells[cell].pages)
            .sum(),
        processes: run.health.processes_lost,
        threads: run.health.threads_lost,
    };
    totals
}

/// `None` when no page was compared.
fn sum_unchanged<'a>(all: impl Iterator<Item = &'a Unchanged>) -> Option<Unchanged> {
    let sum = all.fold(Unchanged::default(), |sum, one| Unchanged {
        unchanged_pages: sum.unchanged_pages + one.unchanged_pages,
        compared_pages: sum.compared_pages + one.compared_pages,
        comparable_pages: sum.comparable_pages + one.comparable_pages,
        gone_pages: sum.gone_pages + one.gone_pages,
    });
    (sum.compared_pages > 0).then_some(sum)
}

fn call_sites(mut folded: Aggregator) -> Vec<CallSite> {
    let mut stacks: HashMap<(SiteIndex, Kind), Stacks> = HashMap::new();
    for stack in &folded.stacks {
        let Some(site) = stack.site else { continue };
        for cell in stack.cells.iter().map(|&cell| &folded.cells[cell]) {
            let Some(kind) = cell.kind else { continue };
            // Stacks that differ in an instruction only are the same by now.
            let known = stacks.entry((site, kind)).or_default();
            let key = (Interned(Arc::clone(&stack.frames)), stack.truncated);
            *known.entry(key).or_default() += cell.pages;
        }
    }
    let all = folded.processes.all();
    let by_pid = |pages: &HashMap<usize, u64>| {
        let mut by_pid = BTreeMap::new();
        for (&process, &pages) in pages {
            *by_pid.entry(all[process].pid).or_default() += pages;
        }
        by_pid
    };
    let mut call_sites: Vec<CallSite> = stacks
        .into_iter()
        .filter_map(|((site, kind), stacks)| {
            let stacks = by_pages(stacks);
            let sum = &mut folded.sums[*folded.site_sums.get(&(site, kind))?];
            let Verdict {
                cause,
                evidence,
                why,
            } = kind.verdict;
            let object_type = kind.object_type;
            Some(CallSite {
                site: folded.sites[site].clone(),
                cause: cause.into(),
                cause_reason: why.map(|why| why.to_string()),
                evidence,
                origin: kind.origin.into(),
                object_type: object_type.map(|id| Arc::clone(folded.names.type_name(id))),
                field_offset: kind.field_offset,
                pages: stacks.iter().map(|stack| stack.pages).sum(),
                bytes: 0,
                share: 0.0,
                processes: by_pid(&sum.processes),
                latency_ns: std::mem::take(&mut sum.latency),
                age_ms: std::mem::take(&mut sum.age),
                stacks,
            })
        })
        .collect();
    call_sites.extend(lost_sites(all));
    call_sites
}

/// Frames of which equal ones are the same object, so that their addresses tell them apart.
struct Interned(Arc<[Arc<Frame>]>);

impl Interned {
    fn addresses(&self) -> impl Iterator<Item = *const Frame> {
        self.0.iter().map(Arc::as_ptr)
    }
}

impl PartialEq for Interned {
    fn eq(&self, other: &Self) -> bool {
        self.addresses().eq(other.addresses())
    }
}

impl Eq for Interned {}

impl Hash for Interned {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.addresses().for_each(|address| address.hash(state));
    }
}

/// Pages by stack, and whether the stack was cut.
/// Pages by stack, and by why it is truncated.
type Stacks = HashMap<(Interned, Option<Truncated>), u64>;

/// The most pages first.
fn by_pages(stacks: Stacks) -> Vec<StackPages> {
    let mut stacks: Vec<_> = stacks
        .into_iter()
        .map(|((Interned(frames), why), pages)| StackPages {
            pages,
            truncated: why.is_some(),
            truncated_why: why,
            frames,
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

/// Copies whose records were lost are counted all the same: a call site for each origin.
fn lost_sites(processes: &[Traced]) -> Vec<CallSite> {
    let mut by_origin: BTreeMap<Origin, BTreeMap<u32, u64>> = BTreeMap::new();
    for process in processes {
        for (origin, pages) in process.lost() {
            *by_origin
                .entry(origin)
                .or_default()
                .entry(process.pid)
                .or_default() += pages;
        }
    }
    by_origin
        .into_iter()
        .map(|(origin, pages)| CallSite::unrecorded(Unrecorded::Lost, origin.into(), pages))
        .collect()
}

/// What [`Totals::lost`] does not say.
fn warnings(folded: &Aggregator, run: &Run) -> Vec<String> {
    let mut warnings = Vec::new();
    let all = folded.processes.all();
    let mut say = |count: u64, text: &str| {
        if count > 0 {
            warnings.push(format!("{count} {text}"));
        }
    };
    say(
        run.health.lifecycle_lost,
        "notices of processes that were forked, ended or replaced their program were lost: names \
         of functions may be missing",
    );
    let no_end = all.iter().map(|process| process.counters.no_end).sum();
    say(
        no_end,
        "copied pages have neither latency nor stack, since the end of the fault was not seen",
    );
    say(
        run.undecodable,
        "records could not be decoded: this memtrace and its BPF object do not fit together",
    );
    warnings
}

/// What to say when a notable part of the copies has stacks that end early for want of tables.
fn cut_stacks(call_sites: &[CallSite], copied_pages: u64) -> Option<String> {
    let mut by_reason: BTreeMap<Truncated, u64> = BTreeMap::new();
    for stack in call_sites.iter().flat_map(|site| &site.stacks) {
        if let Some(why) = stack.truncated_why {
            *by_reason.entry(why).or_default() += stack.pages;
        }
    }
    let (why, pages) = by_reason.into_iter().max_by_key(|&(_, pages)| pages)?;
    if pages * 100 < copied_pages.max(1) {
        return None;
    }
    let text = match why {
        Truncated::NoMapping => {
            "in code that had just been mapped when they were made, or in none: memtrace reads a \
             process's mappings again then, so later ones are whole"
        }
        Truncated::TablesNotBuilt => {
            "in a file whose unwind tables were still being built: the next trace has them"
        }
        Truncated::NoTables => {
            "in code without unwind tables; --unwind auto follows frame pointers there"
        }
        Truncated::Gap | Truncated::Unsupported => {
            "in code that its unwind tables do not cover, which is mostly written by hand"
        }
        Truncated::NoRoom => "in files for whose unwind tables there was no room",
        Truncated::Unreadable | Truncated::Damaged => "where the stack could not be followed",
        Truncated::Depth | Truncated::Python | Truncated::NotTaken | Truncated::Other(_) => {
            return None;
        }
    };
    Some(format!("{pages} copied pages have stacks that end {text}"))
}

fn add_not_copied(sum: &mut NotCopied, more: NotCopied) {
    let add = |sum: &mut Option<u64>, more: Option<u64>| {
        *sum = sum.zip(more).map(|(a, b)| a + b);
    };
    add(&mut sum.reuse, more.reuse);
    add(&mut sum.zero, more.zero);
    add(&mut sum.first_touch, more.first_touch);
    add(&mut sum.split, more.split);
}
