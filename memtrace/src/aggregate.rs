//! Folds faults into call sites.
//!
//! A fault's stack is found by its process's mappings and its id. A new stack is symbolized when
//! there is time; until then its faults are summed up under the stack, after that under its call
//! site, so that memory grows with the number of call sites and not with that of stacks. What the
//! kernel side did not decide about a write is decided then too, since it depends on who wrote.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use memtrace_common::process::{MAX_PROCESSES, ProcessSlot, SLOT_EXITED};
use memtrace_common::record::{Cause, Evidence, Origin};
use memtrace_common::unwind::StackEnd;

use crate::cause::{Area, Instructions, KernelView, Verdict, Write, judge};
use crate::collect::{Event, Fault, Lifecycle, TakenFunction, TakenStack};
use crate::distribution::Distribution;
use crate::interpreter::Instance;
use crate::interpreter::names::{Names, TypeId};
use crate::interpreter::tracker::{InstanceId, Tracker};
use crate::probe::{SharedArray, Tables};
use crate::process::maps::AddressSpace;
use crate::process::memory::RelativesMemory;
use crate::process::traced::{ProcessId, Processes, SpaceId};
use crate::profile::{Frame, Language, Site, Truncated, Unchanged, Unknown};
use crate::symbolize::merge::{Native, PythonFrame, merge};
use crate::symbolize::{Symbolizer, blame};
use crate::unchanged::CopiedPages;
use crate::unwind::Unwinder;

/// Stacks that are symbolized together, which is faster than one by one.
const STACKS_AT_ONCE: usize = 64;

/// What tells the faults of one call site apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    /// What the write was, and how that is known.
    pub verdict: Verdict,
    /// What the page was.
    pub origin: Origin,
    /// The type of the object written to.
    pub object_type: Option<TypeId>,
    /// Of a field: bytes from the start of the object.
    pub field_offset: Option<i32>,
}

/// What tells the faults of one stack apart: what the kernel side saw of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct SeenKind {
    cause: Cause,
    evidence: Evidence,
    origin: Origin,
    /// What was written to, where it matters.
    area: Option<Area>,
    object_type: Option<TypeId>,
    field_offset: Option<i32>,
}

impl SeenKind {
    /// Decides what the kernel side left open.
    fn judge(&self, write: Write, frames: &[Arc<Frame>]) -> Kind {
        let seen = KernelView {
            cause: self.cause,
            evidence: self.evidence,
        };
        Kind {
            verdict: judge(seen, self.area.unwrap_or(Area::Gone), write, frames),
            origin: self.origin,
            object_type: self.object_type,
            field_offset: self.field_offset,
        }
    }
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
    /// Why frames are missing at its root, if they are.
    pub truncated: Option<Truncated>,
    /// Its faults, by kind.
    pub cells: Vec<CellIndex>,
    /// The blamed call site, once it is symbolized.
    pub site: Option<SiteIndex>,
    /// Whether its frames were lost on their way from the kernel.
    pub lost: bool,
    /// The mappings that it was taken with, until it is symbolized.
    space: Option<AddressSpace>,
    /// What its leaf's instruction does to memory, once it is symbolized.
    write: Option<Write>,
}

/// A stack as it arrived, and the interpreter that ran its Python frames.
struct Arrived {
    stack: TakenStack,
    python: Option<(InstanceId, Arc<Instance>)>,
}

/// Faults of one stack and kind.
pub struct Cell {
    seen: SeenKind,
    /// What they are, once the stack is symbolized.
    pub kind: Option<Kind>,
    /// Copied pages.
    pub pages: u64,
    /// Where the rest is summed up.
    sum: SumIndex,
}

/// What a stack's end says of it; `None` when it is the end of the stack itself, as far as can be
/// known.
fn truncated(end: StackEnd) -> Option<Truncated> {
    match end {
        StackEnd::Outermost | StackEnd::FramePointers => None,
        StackEnd::Depth => Some(Truncated::Depth),
        StackEnd::Off => Some(Truncated::NotTaken),
        StackEnd::NoMapping => Some(Truncated::NoMapping),
        StackEnd::NoRowsYet => Some(Truncated::TablesNotBuilt),
        StackEnd::NoTable => Some(Truncated::NoTables),
        StackEnd::NoRoom => Some(Truncated::NoRoom),
        StackEnd::Gap => Some(Truncated::Gap),
        StackEnd::Unsupported => Some(Truncated::Unsupported),
        StackEnd::Unreadable => Some(Truncated::Unreadable),
        StackEnd::Damaged => Some(Truncated::Damaged),
    }
}

/// Index into [`Aggregator::cells`].
pub type CellIndex = usize;
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
pub struct Aggregator {
    /// The traced processes.
    pub processes: Processes,
    /// Every stack with faults.
    pub stacks: Vec<Stack>,
    /// Every call site.
    pub sites: Vec<Site>,
    /// What [`Stack::cells`] refer to.
    pub cells: Vec<Cell>,
    /// What cells and call sites refer to.
    pub sums: Vec<Sum>,
    /// Which process has which interpreter.
    pub tracker: Tracker,
    /// Which process has which unwind tables.
    pub unwinder: Unwinder,
    /// Names of Python's functions and types.
    pub names: Names,
    /// Which pages were copied; `None` when they are not to be compared.
    pub copied: Option<CopiedPages>,
    symbolizer: Symbolizer,
    instructions: Instructions,
    taken: HashMap<u64, Arrived>,
    by_kind: HashMap<(StackIndex, SeenKind), CellIndex>,
    by_key: HashMap<(SpaceId, StackKey), StackIndex>,
    unresolved: VecDeque<StackIndex>,
    site_index: HashMap<Site, SiteIndex>,
    /// Where the faults of a call site and kind are summed up.
    pub site_sums: HashMap<(SiteIndex, Kind), SumIndex>,
    free_sums: Vec<SumIndex>,
    frames: HashSet<Arc<Frame>>,
}

impl Aggregator {
    /// Nothing seen yet. `python` says whether interpreters are looked for, `unchanged` whether
    /// copied pages are to be compared. `processes` has only the files that `unwinder` has been
    /// prepared for.
    #[must_use]
    pub fn new(processes: Processes, unwinder: Unwinder, python: bool, unchanged: bool) -> Self {
        Self {
            processes,
            stacks: Vec::new(),
            sites: Vec::new(),
            cells: Vec::new(),
            sums: Vec::new(),
            tracker: Tracker::new(python),
            unwinder,
            names: Names::default(),
            copied: unchanged.then(CopiedPages::default),
            symbolizer: Symbolizer::default(),
            instructions: Instructions::default(),
            taken: HashMap::new(),
            by_kind: HashMap::new(),
            by_key: HashMap::new(),
            unresolved: VecDeque::new(),
            site_index: HashMap::new(),
            site_sums: HashMap::new(),
            free_sums: Vec::new(),
            frames: HashSet::new(),
        }
    }

    /// Takes one record.
    pub fn take(&mut self, event: Event, tables: &Tables) {
        match event {
            Event::Fault(fault) => self.fault(&fault, tables),
            Event::Stack { id, stack } => {
                if stack.end == StackEnd::NoMapping
                    && let Some(process) = self.processes.by_slot(stack.slot)
                {
                    self.unwinder
                        .met_unmapped_code(stack.slot, process, &mut self.processes);
                }
                let python = self.tracker.instance(stack.interpreter);
                let python = python.map(|(id, instance)| (id, Arc::clone(instance)));
                self.taken.insert(id, Arrived { stack, python });
            }
            Event::Function(code) => self.code(&code),
            Event::Process { what, slot } => self.lifecycle(what, slot, tables),
        }
    }

    fn lifecycle(&mut self, what: Lifecycle, slot: u32, tables: &Tables) {
        let Some(entry) = tables.processes.read(slot as usize) else {
            return;
        };
        match what {
            Lifecycle::Fork => {
                self.found(slot, &entry, tables);
            }
            Lifecycle::Exec => {
                let id = self.found(slot, &entry, tables);
                self.processes.execed(id, &entry);
                self.tracker.execed(slot, id, &mut self.processes, tables);
                self.unwinder.execed(slot, id, &self.processes);
                self.memory_gone(id);
            }
            Lifecycle::Exit => self.exited(slot, &entry, tables),
        }
    }

    /// Takes a process that may not be known yet.
    fn found(&mut self, slot: u32, entry: &ProcessSlot, tables: &Tables) -> ProcessId {
        if let Some(known) = self.processes.by_slot(slot) {
            return known;
        }
        let id = self.processes.add(slot, entry);
        self.tracker.add(slot, id, &mut self.processes, tables);
        self.unwinder.add(slot, id, &self.processes);
        id
    }

    /// Takes the last counters of a process that ended, and gives its slot back. Nothing is done
    /// twice: an exit can be found in the table before its record is read.
    fn exited(&mut self, slot: u32, entry: &ProcessSlot, tables: &Tables) {
        if entry.state == SLOT_EXITED
            && let Some(id) = self.processes.by_slot(slot)
        {
            self.processes.update(id, entry);
            self.tracker.ended(id);
            self.unwinder.ended(id);
            self.memory_gone(id);
            self.processes.release(slot);
            tables.processes.release(slot);
        }
    }

    /// A process has no longer the memory that it had.
    fn memory_gone(&mut self, process: ProcessId) {
        if let Some(copied) = &mut self.copied {
            copied.gone(process);
        }
    }

    /// Looks for interpreters where there may be new ones.
    pub fn look_for_interpreters(&mut self, tables: &Tables) {
        self.tracker.tick(&mut self.processes, tables);
        self.tracker.remapped(&mut self.processes, tables);
    }

    /// Keeps the unwind tables of processes up to date. `is_quiet` says that all records there were
    /// have been read.
    pub fn look_for_code(&mut self, is_quiet: bool) {
        self.unwinder.tick(&mut self.processes, is_quiet);
    }

    /// Takes from the table what lost records would have said: processes that are there and were
    /// not announced, and processes that ended before `before_ns` of `CLOCK_MONOTONIC`, of which no
    /// record may still be waiting to be read.
    pub fn catch_up(&mut self, tables: &Tables, before_ns: u64) {
        for slot in 0..MAX_PROCESSES {
            if !tables.processes.is_used(slot) {
                continue;
            }
            if let Some(entry) = tables.processes.read(slot as usize) {
                self.found(slot, &entry, tables);
                if entry.exited_ns < before_ns {
                    self.exited(slot, &entry, tables);
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

    /// Compares the copied pages of living processes with their ancestors'.
    #[must_use]
    pub fn compare_copied(&self) -> HashMap<ProcessId, Unchanged> {
        let copied = self.copied.as_ref();
        copied.map_or_else(HashMap::new, |copied| copied.compare(&self.processes))
    }

    /// Takes a code object: what is missing of it is read at once, while it may still be there.
    fn code(&mut self, code: &TakenFunction) {
        let Some((id, instance)) = self.tracker.instance(code.interpreter) else {
            return;
        };
        let process = self.processes.by_slot(code.slot);
        let relatives = process.map(|process| self.processes.relatives(process));
        let memory = RelativesMemory::new(relatives.into_iter().flatten());
        self.names.take_code((id, instance), code, &memory);
    }

    fn fault(&mut self, fault: &Fault, tables: &Tables) {
        let known = self.processes.by_slot(fault.slot);
        let process = known.or_else(|| {
            // Its own record was lost; the table still has it.
            let entry = tables.processes.read(fault.slot as usize)?;
            Some(self.found(fault.slot, &entry, tables))
        });
        let Some(process) = process else { return };
        self.processes.count_record(process, fault.origin);
        if let Some(copied) = &mut self.copied {
            copied.add(process, fault.address);
        }
        let seen = self.seen_kind(process, fault);
        let stack = self.stack_of(process, fault);
        let sum = self.count(stack, seen);
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

    fn seen_kind(&mut self, process: ProcessId, fault: &Fault) -> SeenKind {
        let object_type = fault.object_type.and_then(|address| {
            let (id, instance) = self.tracker.of(process)?;
            self.names.type_at((id, instance), address, || {
                Box::new(RelativesMemory::new(self.processes.relatives(process)))
            })
        });
        let area = (fault.cause == Cause::Unknown).then(|| {
            self.processes
                .space_ref(process)
                .map_or(Area::Gone, |space| Area::of(space, fault.address))
        });
        SeenKind {
            cause: fault.cause,
            evidence: fault.evidence,
            origin: fault.origin,
            area,
            object_type,
            field_offset: (fault.evidence == Evidence::Field).then_some(fault.offset),
        }
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
        let addresses = taken.map_or(&lone[..], |taken| &taken.stack.native);
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
            truncated: None,
            cells: Vec::new(),
            site: None,
            lost: false,
            space,
            write: None,
        });
        self.by_key.insert(key, stack);
        self.unresolved.push_back(stack);
        stack
    }

    /// Counts one page; returns where the rest is summed up.
    fn count(&mut self, stack: StackIndex, seen: SeenKind) -> SumIndex {
        if let Some(&cell) = self.by_kind.get(&(stack, seen)) {
            let cell = &mut self.cells[cell];
            cell.pages += 1;
            return cell.sum;
        }
        let Stack {
            site,
            write,
            frames,
            ..
        } = &self.stacks[stack];
        let settled = site.zip(*write).map(|(site, write)| {
            let kind = seen.judge(write, frames);
            (site, kind)
        });
        let sum = match settled {
            Some((site, kind)) => self.sum_of_site(site, kind),
            None => self.new_sum(),
        };
        let cell = self.cells.len();
        self.cells.push(Cell {
            seen,
            kind: settled.map(|(_, kind)| kind),
            pages: 1,
            sum,
        });
        self.stacks[stack].cells.push(cell);
        self.by_kind.insert((stack, seen), cell);
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
                Some((space.as_ref()?, &self.taken.get(id)?.stack.native[..]))
            });
            self.symbolizer.prepare(stacks);
            for index in some {
                self.resolve_stack(index);
            }
        }
    }

    fn resolve_stack(&mut self, index: StackIndex) {
        let stack = &mut self.stacks[index];
        let (taken, ip, why) = match stack.key {
            StackKey::Taken { id, ip } => (self.taken.get(&id), ip, Unknown::StackLost),
            StackKey::Instruction { ip, why } => (None, ip, why),
        };
        let lone = [ip];
        let addresses = taken.map_or(&lone[..], |taken| &taken.stack.native);
        let space = stack.space.take().unwrap_or_else(AddressSpace::gone);
        let code = up_to_what_is_no_code(&space, addresses);
        let native = self.symbolizer.symbolize(&space, code);
        let python = taken.map_or_else(Vec::new, |taken| python_frames(&self.names, taken));
        let trust = match taken {
            Some(Arrived { stack, .. }) if self.unwinder.is_exact(stack.end) => Native::Exact,
            _ => Native::Guessed,
        };
        let mut frames = merge(native, python, trust);
        let site = blame(&frames);
        if taken.is_none() {
            frames.push(missing_callers(why));
        }
        stack.lost = taken.is_none() && why == Unknown::StackLost;
        stack.truncated = match taken {
            None => Some(Truncated::NotTaken),
            Some(Arrived { stack, .. }) if stack.script_truncated => Some(Truncated::Python),
            // Where there are Python frames and native ones are guessed, those say where the stack
            // begins.
            Some(Arrived { stack, .. }) if !stack.script.is_empty() && trust == Native::Guessed => {
                None
            }
            Some(_) if code.len() < addresses.len() => Some(Truncated::NoMapping),
            Some(Arrived { stack, .. }) => truncated(stack.end),
        };
        stack.frames = frames
            .into_iter()
            .map(|frame| intern(&mut self.frames, frame))
            .collect();
        stack.write = Some(self.instructions.at(&space, ip));
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
        let stack = &mut self.stacks[index];
        stack.site = Some(site);
        let Some(write) = stack.write else { return };
        let frames = Arc::clone(&stack.frames);
        for cell in stack.cells.clone() {
            let kind = self.cells[cell].seen.judge(write, &frames);
            let own = self.cells[cell].sum;
            let sum = self.sum_of_site(site, kind);
            let gathered = std::mem::take(&mut self.sums[own]);
            self.sums[sum].absorb(&gathered);
            self.free_sums.push(own);
            self.cells[cell].kind = Some(kind);
            self.cells[cell].sum = sum;
        }
    }
}

fn python_frames(names: &Names, taken: &Arrived) -> Vec<PythonFrame> {
    let Some((id, instance)) = &taken.python else {
        return Vec::new();
    };
    let frames = taken.stack.script.iter();
    frames
        .map(|frame| names.frame((*id, instance), frame))
        .collect()
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
