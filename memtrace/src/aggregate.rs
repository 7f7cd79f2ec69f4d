//! Folds faults into call sites.
//!
//! A fault's stack is found by its process's mappings and its id. A new stack is symbolized when
//! there is time; until then its faults are summed up under the stack, after that under its call
//! site, so that memory grows with the number of call sites and not with that of stacks.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use memtrace_common::process::{MAX_PROCESSES, ProcessSlot, SLOT_EXITED};
use memtrace_common::record::{Cause, Origin};

use crate::collect::{Event, Fault, Lifecycle, TakenStack};
use crate::distribution::Distribution;
use crate::probe::SharedArray;
use crate::process::maps::AddressSpace;
use crate::process::traced::{ProcessId, Processes, SpaceId};
use crate::profile::{Frame, Language, Site, Unknown};
use crate::symbolize::{Symbolizer, blame};

/// Stacks that are symbolized together, which is faster than one by one.
const STACKS_AT_ONCE: usize = 64;

/// What tells the faults of one stack or call site apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    /// What the write was.
    pub cause: Cause,
    /// What the page was.
    pub origin: Origin,
}

/// What is known of the faults of one kind and stack, or call site.
#[derive(Debug, Default)]
pub struct Sum {
    /// Copied pages by process.
    pub processes: HashMap<ProcessId, u64>,
    /// In nanoseconds.
    pub latency: Distribution,
    /// In milliseconds.
    pub age: Distribution,
}

impl Sum {
    fn absorb(&mut self, other: &Self) {
        for (&process, &pages) in &other.processes {
            *self.processes.entry(process).or_default() += pages;
        }
        self.latency.merge(&other.latency);
        self.age.merge(&other.age);
    }
}

/// A stack with faults, symbolized or not yet.
pub struct Stack {
    key: StackKey,
    /// Named functions, leaf first; empty until it is symbolized.
    pub frames: Arc<[Arc<Frame>]>,
    /// Whether frames are missing at its root.
    pub truncated: bool,
    /// Copied pages by kind, and where they are summed up.
    pub kinds: Vec<(Kind, u64, SumIndex)>,
    /// The blamed call site, once it is symbolized.
    pub site: Option<SiteIndex>,
    /// Whether its frames were lost on their way from the kernel.
    pub lost: bool,
    /// The mappings it was taken with, until it is symbolized.
    space: Option<AddressSpace>,
}

/// Index into [`Aggregator::sums`].
pub type SumIndex = usize;
/// Index into [`Aggregator::sites`].
pub type SiteIndex = usize;
type StackIndex = usize;

/// Which stack a fault has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum StackKey {
    /// One that was taken, by its id; its leaf, in case that the rest was lost.
    Taken { id: u64, ip: u64 },
    /// None was; only the instruction is known.
    Instruction { ip: u64, why: Unknown },
}

/// Everything that was seen, folded.
#[derive(Default)]
pub struct Aggregator {
    /// The traced processes.
    pub processes: Processes,
    /// Every stack with faults.
    pub stacks: Vec<Stack>,
    /// Every call site.
    pub sites: Vec<Site>,
    /// What [`Stack::kinds`] refer to.
    pub sums: Vec<Sum>,
    symbolizer: Symbolizer,
    taken: HashMap<u64, TakenStack>,
    by_key: HashMap<(SpaceId, StackKey), StackIndex>,
    unresolved: VecDeque<StackIndex>,
    site_index: HashMap<Site, SiteIndex>,
    /// Where the faults of a call site and kind are summed up.
    pub site_sums: HashMap<(SiteIndex, Kind), SumIndex>,
    free_sums: Vec<SumIndex>,
    frames: HashSet<Arc<Frame>>,
}

impl Aggregator {
    /// Nothing seen yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one record. `table` is the BPF side's table of processes.
    pub fn take(&mut self, event: Event, table: &SharedArray<ProcessSlot>) {
        match event {
            Event::Fault(fault) => self.fault(&fault, table),
            Event::Stack { id, stack } => {
                self.taken.insert(id, stack);
            }
            Event::Code(_) => {}
            Event::Process { what, slot } => self.lifecycle(what, slot, table),
        }
    }

    fn lifecycle(&mut self, what: Lifecycle, slot: u32, table: &SharedArray<ProcessSlot>) {
        let Some(entry) = table.read(slot as usize) else {
            return;
        };
        match what {
            Lifecycle::Fork => {
                self.processes.add(slot, &entry);
            }
            Lifecycle::Exec => {
                let id = self.processes.add(slot, &entry);
                self.processes.execed(id, &entry);
            }
            Lifecycle::Exit => self.exited(slot, &entry, table),
        }
    }

    /// Takes the last counters of a process that ended, and gives its slot back. Nothing is done
    /// twice: an exit can be found in the table before its record is read.
    fn exited(&mut self, slot: u32, entry: &ProcessSlot, table: &SharedArray<ProcessSlot>) {
        if entry.state == SLOT_EXITED
            && let Some(id) = self.processes.by_slot(slot)
        {
            self.processes.update(id, entry);
            self.processes.release(slot);
            table.release(slot);
        }
    }

    /// Takes from the table what lost records would have said: processes that are there and were
    /// not announced, and processes that ended before `before_ns` of `CLOCK_MONOTONIC`, of which no
    /// record may still be waiting to be read.
    pub fn catch_up(&mut self, table: &SharedArray<ProcessSlot>, before_ns: u64) {
        for slot in 0..MAX_PROCESSES {
            if !table.is_used(slot) {
                continue;
            }
            if let Some(entry) = table.read(slot as usize) {
                self.processes.add(slot, &entry);
                if entry.exited_ns < before_ns {
                    self.exited(slot, &entry, table);
                }
            }
        }
    }

    /// Reads the counters of all processes that are still in the table.
    pub fn update_counters(&mut self, table: &SharedArray<ProcessSlot>) {
        let slots: Vec<_> = self.processes.slots().collect();
        for (slot, id) in slots {
            if let Some(entry) = table.read(slot as usize) {
                self.processes.update(id, &entry);
            }
        }
    }

    fn fault(&mut self, fault: &Fault, table: &SharedArray<ProcessSlot>) {
        let known = self.processes.by_slot(fault.slot);
        let process = known.or_else(|| {
            // Its own record was lost; the table still has it.
            let entry = table.read(fault.slot as usize)?;
            Some(self.processes.add(fault.slot, &entry))
        });
        let Some(process) = process else { return };
        self.processes.count_record(process, fault.origin);
        let kind = Kind {
            cause: fault.cause,
            origin: fault.origin,
        };
        let stack = self.stack_of(process, fault);
        let sum = self.count(stack, kind);
        let sum = &mut self.sums[sum];
        *sum.processes.entry(process).or_default() += 1;
        if let Some(latency) = fault.latency_ns {
            sum.latency.record(u64::from(latency));
        }
        let age_ns = fault
            .time_ns
            .saturating_sub(self.processes.get(process).started_ns);
        sum.age.record(age_ns / 1_000_000);
    }

    /// Finds the stack of a fault, or makes it.
    fn stack_of(&mut self, process: ProcessId, fault: &Fault) -> StackIndex {
        let ip = fault.ip;
        let key = match fault.stack {
            Some(id) => StackKey::Taken { id, ip },
            None if fault.latency_ns.is_none() => StackKey::Instruction {
                ip,
                why: Unknown::NoEnd,
            },
            None => StackKey::Instruction {
                ip,
                why: Unknown::UnwindOff,
            },
        };
        let found = self.by_key.get(&(self.processes.space_id(process), key));
        if let Some(&stack) = found {
            return stack;
        }
        let lone = [ip];
        let taken = fault.stack.and_then(|id| self.taken.get(&id));
        let addresses = taken.map_or(&lone[..], |taken| &taken.native);
        // This may read the mappings again, and give the process another snapshot.
        let space = self.processes.space(process, addresses);
        let key = (self.processes.space_id(process), key);
        if let Some(&stack) = self.by_key.get(&key) {
            return stack;
        }
        let stack = self.stacks.len();
        self.stacks.push(Stack {
            key: key.1,
            frames: Arc::default(),
            truncated: false,
            kinds: Vec::new(),
            site: None,
            lost: false,
            space,
        });
        self.by_key.insert(key, stack);
        self.unresolved.push_back(stack);
        stack
    }

    /// Counts one page; returns where the rest is summed up.
    fn count(&mut self, stack: StackIndex, kind: Kind) -> SumIndex {
        let known = self.stacks[stack]
            .kinds
            .iter_mut()
            .find(|(k, ..)| *k == kind);
        if let Some((_, pages, sum)) = known {
            *pages += 1;
            return *sum;
        }
        let sum = match self.stacks[stack].site {
            Some(site) => self.sum_of_site(site, kind),
            None => self.new_sum(),
        };
        self.stacks[stack].kinds.push((kind, 1, sum));
        sum
    }

    fn new_sum(&mut self) -> SumIndex {
        self.free_sums.pop().unwrap_or_else(|| {
            self.sums.push(Sum::default());
            self.sums.len() - 1
        })
    }

    fn sum_of_site(&mut self, site: SiteIndex, kind: Kind) -> SumIndex {
        if let Some(&sum) = self.site_sums.get(&(site, kind)) {
            return sum;
        }
        let sum = self.new_sum();
        self.site_sums.insert((site, kind), sum);
        sum
    }

    /// Symbolizes stacks for about `budget`, the oldest first.
    pub fn resolve(&mut self, budget: Duration) {
        let start = Instant::now();
        while !self.unresolved.is_empty() && start.elapsed() < budget {
            let several = self.unresolved.len().min(STACKS_AT_ONCE);
            let some: Vec<StackIndex> = self.unresolved.drain(..several).collect();
            let stacks = some.iter().filter_map(|&index| {
                let Stack { key, space, .. } = &self.stacks[index];
                let StackKey::Taken { id, .. } = key else {
                    return None;
                };
                Some((space.as_ref()?, &self.taken.get(id)?.native[..]))
            });
            self.symbolizer.prepare(stacks);
            for index in some {
                self.resolve_stack(index);
            }
        }
    }

    fn resolve_stack(&mut self, index: StackIndex) {
        let stack = &mut self.stacks[index];
        let taken = match stack.key {
            StackKey::Taken { id, .. } => self.taken.get(&id),
            StackKey::Instruction { .. } => None,
        };
        let (lone, why) = match stack.key {
            StackKey::Taken { ip, .. } => ([ip], Unknown::StackLost),
            StackKey::Instruction { ip, why } => ([ip], why),
        };
        let addresses = taken.map_or(&lone[..], |taken| &taken.native);
        let space = stack.space.take().unwrap_or_else(AddressSpace::gone);
        let code = up_to_what_is_no_code(&space, addresses);
        let mut frames = self.symbolizer.symbolize(&space, code);
        let site = blame(&frames);
        if taken.is_none() {
            frames.push(missing_callers(why));
        }
        stack.lost = taken.is_none() && why == Unknown::StackLost;
        stack.truncated = code.len() < addresses.len() || taken.is_none_or(|taken| taken.truncated);
        stack.frames = frames
            .into_iter()
            .map(|frame| intern(&mut self.frames, frame))
            .collect();
        self.settle(index, site);
    }

    /// Puts the faults of a stack down to its call site.
    fn settle(&mut self, index: StackIndex, site: Site) {
        let known = self.site_index.get(&site).copied();
        let site = known.unwrap_or_else(|| {
            let new = self.sites.len();
            self.sites.push(site.clone());
            self.site_index.insert(site, new);
            new
        });
        self.stacks[index].site = Some(site);
        let mut kinds = std::mem::take(&mut self.stacks[index].kinds);
        for (kind, _, sum) in &mut kinds {
            let own = std::mem::replace(sum, self.sum_of_site(site, *kind));
            let gathered = std::mem::take(&mut self.sums[own]);
            self.sums[*sum].absorb(&gathered);
            self.free_sums.push(own);
        }
        self.stacks[index].kinds = kinds;
    }
}

fn intern(frames: &mut HashSet<Arc<Frame>>, frame: Frame) -> Arc<Frame> {
    if let Some(known) = frames.get(&frame) {
        return Arc::clone(known);
    }
    let frame = Arc::new(frame);
    frames.insert(Arc::clone(&frame));
    frame
}

/// The callers of a frame that is no code were found by following something that is no stack.
fn up_to_what_is_no_code<'a>(space: &AddressSpace, addresses: &'a [u64]) -> &'a [u64] {
    let no_code = |&address: &u64| {
        !space
            .find(address)
            .is_some_and(|mapping| mapping.executable)
    };
    match addresses.iter().position(no_code) {
        Some(at) if !space.is_gone() => &addresses[..=at],
        _ => addresses,
    }
}

/// Stands where a stack's callers are not known.
fn missing_callers(why: Unknown) -> Frame {
    Frame {
        function: "[unknown]".into(),
        file: None,
        line: None,
        module: None,
        address: 0,
        language: Language::Native,
        inlined: false,
        unknown: Some(why),
    }
}
