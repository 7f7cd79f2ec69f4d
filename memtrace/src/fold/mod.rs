//! Folds copied pages into stacks and call sites.
//!
//! [`Fold`] is told which process copied a page on which stack, and what the BPF side saw of the
//! write ([`Copy`]). A new stack waits to be named ([`Fold::take_unnamed`], [`Fold::set_name`]).
//! Until then its copies are summed up under the stack, afterwards under its call site. Stacks of one
//! name are one stack, whichever process they are of, and when there are too many, the rarest are
//! added up ([`bound`]): memory grows with the code that runs, and not with time. What the BPF side did
//! not decide about a write is decided when the stack is named, since it depends on who wrote.
//!
//! Nothing here reads a process, a file or the BPF side's tables. The [`Tally`] is the result at
//! any moment.

mod bound;
mod frames;
pub mod naming;
mod phase;
pub mod sum;
pub mod times;
use std::collections::VecDeque;
use std::sync::Arc;

use foldhash::{HashMap, HashSet};
use memtrace_common::record::{Cause, Evidence, Origin};

pub use self::bound::MOST_STACKS;
use self::frames::Frames;
use self::phase::Open;
pub use self::phase::{Fate, Phase, YOUTH};
use self::sum::{Sum, SumIndex, Sums};
use self::times::Times;
use crate::cause::{Area, KernelView, Verdict, Writer, judge};
use crate::interpreter::names::TypeId;
use crate::process::maps::AddressSpace;
use crate::process::processes::{OTHERS, ProcessId, Processes, SpaceId};
use crate::profile::{Frame, Truncated, Unknown};
use crate::symbolize::Blamed;
use crate::unchanged::{CopiedPages, PageSample, compare_samples};

/// One copied page.
#[derive(Clone, Copy, Debug)]
pub struct Copy {
    /// The process that copied it.
    pub process: ProcessId,
    /// What the BPF side saw of the write.
    pub seen: Observation,
    /// From the fault's entry to its end, in nanoseconds; `None` when the end was not seen.
    pub latency_ns: Option<u32>,
    /// When it was copied, in nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// From the start of the process to the copy, in milliseconds.
    pub age_ms: u64,
    /// The page's number, if pages are compared at the end.
    pub page: Option<u64>,
}

/// What the BPF side saw of a write, which tells the copies of one stack apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Observation {
    /// What the write was, as far as the BPF side decided.
    pub cause: Cause,
    /// What the cause was concluded from.
    pub evidence: Evidence,
    /// What the page was.
    pub origin: Origin,
    /// When in the life of the process, if the stack does not say otherwise.
    pub phase: Phase,
    /// What was written to, where it matters.
    pub area: Option<Area>,
    /// The type of the object written to.
    pub object_type: Option<TypeId>,
    /// For a field: bytes from the start of the object.
    pub field_offset: Option<i32>,
}

impl Observation {
    /// Decides what the BPF side left open.
    fn judge(&self, writer: Writer) -> Kind {
        let view = KernelView {
            cause: self.cause,
            evidence: self.evidence,
        };
        Kind {
            verdict: judge(view, self.area.unwrap_or(Area::Gone), writer),
            phase: self.phase.of(writer.leaves.holds(self.origin)),
            origin: self.origin,
            object_type: self.object_type,
            field_offset: self.field_offset,
        }
    }
}

/// What tells the copies of one call site apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    /// What the write was, and how that is known.
    pub verdict: Verdict,
    /// When in the life of the process.
    pub phase: Phase,
    /// What the page was.
    pub origin: Origin,
    /// The type of the object written to.
    pub object_type: Option<TypeId>,
    /// For a field: bytes from the start of the object.
    pub field_offset: Option<i32>,
}

impl Kind {
    /// As a report has it, see [`Phase::settled`].
    #[must_use]
    pub fn settled(self) -> Self {
        Self {
            phase: self.phase.settled(),
            ..self
        }
    }
}

/// Which stack a copy has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StackKey {
    /// One that was taken: its id, and its leaf in case the rest was lost.
    Taken {
        /// The stack's id.
        id: u64,
        /// The instruction that wrote.
        ip: u64,
    },
    /// None was taken; only the instruction is known.
    Instruction {
        /// The instruction that wrote.
        ip: u64,
        /// Why there is no stack.
        why: Unknown,
    },
}

/// A stack that waits to be named.
#[derive(Debug)]
pub struct Unnamed {
    /// Which it is.
    pub handle: Handle,
    /// The mappings that it was taken with.
    pub space: AddressSpace,
}

/// Which stack it is that has been handed out to be named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle {
    /// The stack.
    pub stack: StackIndex,
    /// How it arrived.
    pub key: StackKey,
    /// The number of the mappings that it was taken with.
    pub space: SpaceId,
}

/// A stack's name: its functions, and what follows from them.
#[derive(Clone, Debug)]
pub struct Named {
    /// The functions, leaf first.
    pub frames: Vec<Frame>,
    /// Where each is in its file, which tells places in one function apart; missing ones are 0.
    pub places: Vec<u64>,
    /// The call site that is blamed.
    pub site: Blamed,
    /// Why frames are missing at its root, if they are.
    pub truncated: Option<Truncated>,
    /// Who wrote, and how.
    pub writer: Writer,
    /// Whether its frames were lost on their way from the kernel.
    pub lost: bool,
}

/// Index into [`Tally::stacks`].
pub type StackIndex = usize;
/// Index into [`Tally::cells`].
pub type CellIndex = usize;
/// Index into [`Tally::sites`].
pub type SiteIndex = usize;
/// Index into [`Tally::frame_lists`]: equal numbers are equal lists.
pub type FramesIndex = usize;

/// What was counted, as plain data. A clone is a snapshot: it shares the names.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Every stack with copies.
    pub stacks: Vec<Stack>,
    /// What [`Stack::cells`] refers to.
    pub cells: Vec<Cell>,
    /// Every call site.
    pub sites: Vec<Blamed>,
    /// The functions of named stacks, leaf first, each list once.
    pub frame_lists: Vec<Arc<[Arc<Frame>]>>,
    /// What cells and call sites refer to.
    pub sums: Sums,
    /// Where the copies of a call site and kind are summed up.
    pub site_sums: HashMap<(SiteIndex, Kind), SumIndex>,
    /// Stacks that were added up with others of their call site, since there were too many.
    pub folded: u64,
    /// When what happened.
    pub times: Times,
}

/// A stack with copies.
#[derive(Clone, Debug, Default)]
pub struct Stack {
    /// Its copies, by what was seen of them.
    pub cells: Vec<CellIndex>,
    /// What it is called, once it has been named.
    pub name: Option<StackName>,
}

/// What is kept of a [`Named`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StackName {
    /// Its functions.
    pub frames: FramesIndex,
    /// The blamed call site.
    pub site: SiteIndex,
    /// Why frames are missing at its root, if they are.
    pub truncated: Option<Truncated>,
    /// Whether its frames were lost on their way from the kernel.
    pub lost: bool,
    /// Who wrote, and how: this is part of what tells stacks apart.
    pub writer: Writer,
}

/// Copies of one stack that the BPF side saw alike.
#[derive(Clone, Debug)]
pub struct Cell {
    seen: Observation,
    /// What they are, once the stack has been named.
    pub kind: Option<Kind>,
    /// Copied pages.
    pub pages: u64,
    /// Where the rest is summed up.
    pub sum: SumIndex,
}

/// Everything that was counted, and indexes into it.
#[derive(Default)]
pub struct Fold {
    tally: Tally,
    by_seen: HashMap<(StackIndex, Observation), CellIndex>,
    by_key: HashMap<SpaceId, HashMap<StackKey, StackIndex>>,
    by_name: HashMap<StackName, StackIndex>,
    unnamed: VecDeque<Unnamed>,
    /// Stacks that have been handed out to be named.
    handed_out: u64,
    site_index: HashMap<Blamed, SiteIndex>,
    frames: Frames,
    open: Open,
    free: Free,
    named: usize,
}

/// Places in the tally that are not used any more.
#[derive(Default)]
struct Free {
    stacks: Vec<StackIndex>,
    cells: Vec<CellIndex>,
}

impl Fold {
    /// Nothing has been counted yet; the trace began at `started_ns` of `CLOCK_MONOTONIC`.
    #[must_use]
    pub fn since(started_ns: u64) -> Self {
        let tally = Tally {
            times: Times::since(started_ns),
            ..Tally::default()
        };
        Self {
            tally,
            ..Self::default()
        }
    }

    /// Counts a process that was forked, at a moment in nanoseconds of `CLOCK_MONOTONIC`.
    pub fn forked(&mut self, at_ns: u64) {
        let bin = self.tally.bin(at_ns);
        self.tally.times.forks.add(bin, 1);
    }

    /// Counts a process that ended.
    pub fn exited(&mut self, at_ns: u64) {
        let bin = self.tally.bin(at_ns);
        self.tally.times.exits.add(bin, 1);
    }

    /// Counts a process that replaced its program.
    pub fn execed(&mut self, at_ns: u64) {
        let bin = self.tally.bin(at_ns);
        self.tally.times.execs.add(bin, 1);
    }

    /// What was counted until now.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// What was counted, when nothing more will be.
    #[must_use]
    pub fn into_tally(self) -> Tally {
        self.tally
    }

    /// The stack of this key in processes with these mappings, if it is known.
    #[must_use]
    pub fn find_stack(&self, space: SpaceId, key: StackKey) -> Option<StackIndex> {
        self.by_key.get(&space)?.get(&key).copied()
    }

    /// The stack of this key in processes with the mappings `space`, of which `space_id` is the
    /// number. A new one waits to be named.
    pub fn find_or_add_stack(
        &mut self,
        space_id: SpaceId,
        key: StackKey,
        space: impl FnOnce() -> AddressSpace,
    ) -> StackIndex {
        if let Some(known) = self.find_stack(space_id, key) {
            return known;
        }
        let stack = self.add_stack();
        let of_space = self.by_key.entry(space_id).or_default();
        of_space.insert(key, stack);
        self.unnamed.push_back(Unnamed {
            handle: Handle {
                stack,
                key,
                space: space_id,
            },
            space: space(),
        });
        stack
    }

    fn add_stack(&mut self) -> StackIndex {
        self.free.stacks.pop().unwrap_or_else(|| {
            self.tally.stacks.push(Stack::default());
            self.tally.stacks.len() - 1
        })
    }

    /// Forgets which stacks processes with these mappings had: there are none any more.
    pub fn forget_space(&mut self, space: SpaceId) {
        self.by_key.remove(&space);
    }

    /// Counts one page.
    ///
    /// # Panics
    /// When the stack is not one that was handed out.
    pub fn count(&mut self, stack: StackIndex, copy: &Copy) {
        let seen = self.with_phase(stack, copy);
        let sum = self.count_in_cell(stack, seen);
        let bin = self.tally.bin(copy.time_ns);
        self.tally.times.record(copy, bin);
        self.tally.sums[sum].record(copy, bin);
    }

    /// Counts one page in its cell; returns where the rest is summed up.
    fn count_in_cell(&mut self, stack: StackIndex, seen: Observation) -> SumIndex {
        if let Some(&cell) = self.by_seen.get(&(stack, seen)) {
            let cell = &mut self.tally.cells[cell];
            cell.pages += 1;
            return cell.sum;
        }
        let name = self.tally.stacks[stack].name;
        let settled = name.map(|name| (name.site, seen.judge(name.writer)));
        let sum = match settled {
            Some((site, kind)) => self.tally.sum_of_site(site, kind),
            None => self.tally.sums.add(),
        };
        let cell = Cell {
            seen,
            kind: settled.map(|(_, kind)| kind),
            pages: 1,
            sum,
        };
        self.add_cell(stack, cell);
        sum
    }

    fn add_cell(&mut self, stack: StackIndex, cell: Cell) {
        let seen = cell.seen;
        let index = if let Some(free) = self.free.cells.pop() {
            self.tally.cells[free] = cell;
            free
        } else {
            self.tally.cells.push(cell);
            self.tally.cells.len() - 1
        };
        self.tally.stacks[stack].cells.push(index);
        self.by_seen.insert((stack, seen), index);
        self.open.note(stack, seen);
    }

    /// Whether a stack waits to be named.
    #[must_use]
    pub fn has_unnamed(&self) -> bool {
        !self.unnamed.is_empty()
    }

    /// How many stacks there have been that needed a name, in all.
    #[must_use]
    pub fn stacks_ever(&self) -> u64 {
        self.handed_out + self.unnamed.len() as u64
    }

    /// How many of [`Fold::stacks_ever`], the first ones, have been handed out to be named.
    #[must_use]
    pub fn handed_out(&self) -> u64 {
        self.handed_out
    }

    /// Hands out stacks that wait to be named, the oldest first, at most `most`. Each must come
    /// back through [`Fold::set_name`].
    pub fn take_unnamed(&mut self, most: usize) -> Vec<Unnamed> {
        let several = self.unnamed.len().min(most);
        self.handed_out += several as u64;
        self.unnamed.drain(..several).collect()
    }

    /// Names a stack, and moves its copies to its call site. If there is one of that name, it is
    /// that one from now on: the same code in another process, or elsewhere in memory.
    ///
    /// # Panics
    /// When the stack is not one that was handed out.
    pub fn set_name(&mut self, handle: Handle, named: Named) {
        let name = StackName {
            frames: self
                .frames
                .intern(&mut self.tally.frame_lists, named.frames, &named.places),
            site: self.site(named.site),
            truncated: named.truncated,
            writer: named.writer,
            lost: named.lost,
        };
        let stack = handle.stack;
        let known = *self.by_name.entry(name).or_insert(stack);
        if known == stack {
            self.tally.stacks[stack].name = Some(name);
            self.named += 1;
        } else if let Some(of_space) = self.by_key.get_mut(&handle.space)
            && let Some(own) = of_space.get_mut(&handle.key)
        {
            *own = known;
        }
        self.move_cells(stack, known, name);
        if known != stack {
            self.free.stacks.push(stack);
        }
        self.keep_bound();
    }

    /// Moves all copies of a stack to one that has this name.
    fn move_cells(&mut self, from: StackIndex, to: StackIndex, name: StackName) {
        for index in std::mem::take(&mut self.tally.stacks[from].cells) {
            let cell = self.tally.cells[index].clone();
            self.tally.cells[index].pages = 0;
            self.by_seen.remove(&(from, cell.seen));
            self.open.forget(from, cell.seen);
            self.free.cells.push(index);
            let seen = Self::seen_with_name(cell.seen, name);
            let kind = seen.judge(name.writer);
            let sum = self.tally.sum_of_site(name.site, kind);
            self.tally.sums.merge(cell.sum, sum);
            match self.by_seen.get(&(to, seen)) {
                Some(&known) => self.tally.cells[known].pages += cell.pages,
                None => self.add_cell(
                    to,
                    Cell {
                        seen,
                        kind: Some(kind),
                        sum,
                        ..cell
                    },
                ),
            }
        }
    }

    fn site(&mut self, site: Blamed) -> SiteIndex {
        let site = self.bounded(site, bound::MOST_SITES);
        if let Some(&known) = self.site_index.get(&site) {
            return known;
        }
        let new = self.tally.sites.len();
        self.tally.sites.push(site.clone());
        self.site_index.insert(site, new);
        new
    }

    /// What a report shows as one call site has one sample, in whatever phases it was counted.
    fn join_samples(&mut self) {
        let Tally {
            site_sums, sums, ..
        } = &mut self.tally;
        let mut first: HashMap<(SiteIndex, Kind), SumIndex> = HashMap::default();
        for (&(site, kind), &sum) in &*site_sums {
            let joined = *first.entry((site, kind.settled())).or_insert(sum);
            if joined != sum {
                let sample = std::mem::take(&mut sums[sum].sample);
                sums[joined].sample.absorb(&sample);
            }
        }
    }

    /// Compares samples of the pages of all call sites, and of stacks without a name, once.
    pub fn compare_samples(&mut self, processes: &Processes, copied: &CopiedPages) {
        self.join_samples();
        let mut sums: Vec<&mut Sum> = self.tally.sums.iter_mut().collect();
        // If not all can be compared, what copied most is.
        sums.sort_by_cached_key(|sum| std::cmp::Reverse(sum.processes.values().sum::<u64>()));
        let samples: Vec<&PageSample> = sums.iter().map(|sum| &sum.sample).collect();
        let found = compare_samples(processes, copied, &samples);
        for (sum, found) in sums.iter_mut().zip(found) {
            sum.compared = found;
            sum.sample.clear();
        }
    }

    /// Adds up processes that have ended under [`OTHERS`].
    pub fn add_up(&mut self, processes: &[ProcessId]) {
        if processes.is_empty() {
            return;
        }
        let gone: HashSet<&ProcessId> = processes.iter().collect();
        self.tally.times.add_up(processes);
        for sum in self.tally.sums.iter_mut() {
            let of_gone = sum
                .processes
                .extract_if(|process, _| gone.contains(process));
            let pages: u64 = of_gone.map(|(_, pages)| pages).sum();
            if pages > 0 {
                *sum.processes.entry(OTHERS).or_default() += pages;
            }
        }
    }
}

impl Tally {
    fn bin(&mut self, at_ns: u64) -> u16 {
        let sums = &mut self.sums;
        self.times.bin(at_ns, || Box::new(sums.iter_mut()))
    }

    fn sum_of_site(&mut self, site: SiteIndex, kind: Kind) -> SumIndex {
        let sums = &mut self.sums;
        *self
            .site_sums
            .entry((site, kind))
            .or_insert_with(|| sums.add())
    }

    /// Copied pages of stacks that have not been named yet, by process and by
    /// [`Origin`] code.
    #[must_use]
    pub fn unnamed_pages(&self) -> HashMap<ProcessId, [u64; 4]> {
        let mut pages: HashMap<ProcessId, [u64; 4]> = HashMap::default();
        let unnamed = self.stacks.iter().filter(|stack| stack.name.is_none());
        for cell in unnamed.flat_map(|stack| &stack.cells) {
            let Cell { seen, sum, .. } = &self.cells[*cell];
            for (&process, &copied) in &self.sums[*sum].processes {
                pages.entry(process).or_default()[seen.origin as usize] += copied;
            }
        }
        pages
    }
}

impl Sum {
    /// Adds a copy.
    fn record(&mut self, copy: &Copy, bin: u16) {
        self.bins.add(bin, 1);
        *self.processes.entry(copy.process).or_default() += 1;
        if let Some(latency) = copy.latency_ns {
            self.latency.record(u64::from(latency));
        }
        self.age.record(copy.age_ms);
        if let Some(page) = copy.page {
            self.sample.add(copy.process, page);
        }
    }
}

#[cfg(test)]
mod tests;
