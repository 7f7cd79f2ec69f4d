//! Folds copied pages into stacks and call sites.
//!
//! [`Fold`] is told which process copied a page on which stack, and what the BPF side saw of the
//! write ([`Copy`]). A new stack waits to be named ([`Fold::take_unnamed`], [`Fold::set_name`]).
//! Until then its copies are summed up under the stack, afterwards under its call site, so that
//! memory grows with the number of call sites and not with that of stacks. What the BPF side did
//! not decide about a write is decided when the stack is named, since it depends on who wrote.
//!
//! Nothing here reads a process, a file or the BPF side's tables. The [`Tally`] is the result at
//! any moment.

pub mod naming;
pub mod sum;

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use memtrace_common::record::{Cause, Evidence, Origin};

use self::sum::{Sum, SumIndex, Sums};
use crate::cause::instruction::Write;
use crate::cause::{Area, KernelView, Verdict, judge};
use crate::interpreter::names::TypeId;
use crate::process::maps::AddressSpace;
use crate::process::processes::{ProcessId, SpaceId};
use crate::profile::{Frame, Site, Truncated, Unknown};

/// One copied page.
#[derive(Clone, Copy, Debug)]
pub struct Copy {
    /// The process that copied it.
    pub process: ProcessId,
    /// What the BPF side saw of the write.
    pub seen: Observation,
    /// From the fault's entry to its end, in nanoseconds; `None` when the end was not seen.
    pub latency_ns: Option<u32>,
    /// From the start of the process to the copy, in milliseconds.
    pub age_ms: u64,
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
    /// What was written to, where it matters.
    pub area: Option<Area>,
    /// The type of the object written to.
    pub object_type: Option<TypeId>,
    /// For a field: bytes from the start of the object.
    pub field_offset: Option<i32>,
}

impl Observation {
    /// Decides what the BPF side left open.
    fn judge(&self, write: Write, frames: &[Arc<Frame>]) -> Kind {
        let view = KernelView {
            cause: self.cause,
            evidence: self.evidence,
        };
        Kind {
            verdict: judge(view, self.area.unwrap_or(Area::Gone), write, frames),
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
    /// What the page was.
    pub origin: Origin,
    /// The type of the object written to.
    pub object_type: Option<TypeId>,
    /// For a field: bytes from the start of the object.
    pub field_offset: Option<i32>,
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
    /// The stack.
    pub stack: StackIndex,
    /// How it arrived.
    pub key: StackKey,
    /// The mappings that it was taken with.
    pub space: AddressSpace,
}

/// A stack's name: its functions, and what follows from them.
#[derive(Clone, Debug)]
pub struct Named {
    /// The functions, leaf first.
    pub frames: Vec<Frame>,
    /// The call site that is blamed.
    pub site: Site,
    /// Why frames are missing at its root, if they are.
    pub truncated: Option<Truncated>,
    /// What its leaf's instruction does to memory.
    pub write: Write,
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
    pub sites: Vec<Site>,
    /// The functions of named stacks, leaf first, each list once.
    pub frame_lists: Vec<Arc<[Arc<Frame>]>>,
    /// What cells and call sites refer to.
    pub sums: Sums,
    /// Where the copies of a call site and kind are summed up.
    pub site_sums: HashMap<(SiteIndex, Kind), SumIndex>,
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
#[derive(Clone, Copy, Debug)]
pub struct StackName {
    /// Its functions.
    pub frames: FramesIndex,
    /// The blamed call site.
    pub site: SiteIndex,
    /// Why frames are missing at its root, if they are.
    pub truncated: Option<Truncated>,
    /// Whether its frames were lost on their way from the kernel.
    pub lost: bool,
    write: Write,
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
    by_key: HashMap<(SpaceId, StackKey), StackIndex>,
    unnamed: VecDeque<Unnamed>,
    site_index: HashMap<Site, SiteIndex>,
    frames: HashSet<Arc<Frame>>,
    frame_lists: HashMap<ByAddress, FramesIndex>,
}

/// A stack's functions. Equal functions are one object, so addresses tell lists apart.
struct ByAddress(Arc<[Arc<Frame>]>);

impl ByAddress {
    fn addresses(&self) -> impl Iterator<Item = *const Frame> {
        self.0.iter().map(Arc::as_ptr)
    }
}

impl PartialEq for ByAddress {
    fn eq(&self, other: &Self) -> bool {
        self.addresses().eq(other.addresses())
    }
}

impl Eq for ByAddress {}

impl Hash for ByAddress {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.addresses().for_each(|address| address.hash(state));
    }
}

impl Fold {
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
        self.by_key.get(&(space, key)).copied()
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
        let stack = self.tally.stacks.len();
        self.tally.stacks.push(Stack::default());
        self.by_key.insert((space_id, key), stack);
        self.unnamed.push_back(Unnamed {
            stack,
            key,
            space: space(),
        });
        stack
    }

    /// Counts one page.
    ///
    /// # Panics
    /// When the stack is not one that was handed out.
    pub fn count(&mut self, stack: StackIndex, copy: &Copy) {
        let sum = self.count_in_cell(stack, copy.seen);
        self.tally.sums[sum].record(copy);
    }

    /// Counts one page in its cell; returns where the rest is summed up.
    fn count_in_cell(&mut self, stack: StackIndex, seen: Observation) -> SumIndex {
        if let Some(&cell) = self.by_seen.get(&(stack, seen)) {
            let cell = &mut self.tally.cells[cell];
            cell.pages += 1;
            return cell.sum;
        }
        let settled = self.tally.stacks[stack].name.map(|name| {
            let frames = &self.tally.frame_lists[name.frames];
            (name.site, seen.judge(name.write, frames))
        });
        let sum = match settled {
            Some((site, kind)) => self.tally.sum_of_site(site, kind),
            None => self.tally.sums.add(),
        };
        let cell = self.tally.cells.len();
        self.tally.cells.push(Cell {
            seen,
            kind: settled.map(|(_, kind)| kind),
            pages: 1,
            sum,
        });
        self.tally.stacks[stack].cells.push(cell);
        self.by_seen.insert((stack, seen), cell);
        sum
    }

    /// Whether a stack waits to be named.
    #[must_use]
    pub fn has_unnamed(&self) -> bool {
        !self.unnamed.is_empty()
    }

    /// Hands out stacks that wait to be named, the oldest first, at most `most`. Each must come
    /// back through [`Fold::set_name`].
    pub fn take_unnamed(&mut self, most: usize) -> Vec<Unnamed> {
        let several = self.unnamed.len().min(most);
        self.unnamed.drain(..several).collect()
    }

    /// Names a stack, and moves its copies to its call site.
    ///
    /// # Panics
    /// When the stack is not one that was handed out.
    pub fn set_name(&mut self, stack: StackIndex, named: Named) {
        let site = self.site(named.site);
        let frames = self.intern(named.frames);
        self.tally.stacks[stack].name = Some(StackName {
            frames,
            site,
            truncated: named.truncated,
            lost: named.lost,
            write: named.write,
        });
        let frames = Arc::clone(&self.tally.frame_lists[frames]);
        for cell in self.tally.stacks[stack].cells.clone() {
            let kind = self.tally.cells[cell].seen.judge(named.write, &frames);
            let sum = self.tally.sum_of_site(site, kind);
            let own = std::mem::replace(&mut self.tally.cells[cell].sum, sum);
            self.tally.sums.merge(own, sum);
            self.tally.cells[cell].kind = Some(kind);
        }
    }

    fn site(&mut self, site: Site) -> SiteIndex {
        if let Some(&known) = self.site_index.get(&site) {
            return known;
        }
        let new = self.tally.sites.len();
        self.tally.sites.push(site.clone());
        self.site_index.insert(site, new);
        new
    }

    fn intern(&mut self, frames: Vec<Frame>) -> FramesIndex {
        let frames: Arc<[Arc<Frame>]> = frames
            .into_iter()
            .map(|frame| {
                let known = self.frames.get(&frame).cloned();
                known.unwrap_or_else(|| {
                    let frame = Arc::new(frame);
                    self.frames.insert(Arc::clone(&frame));
                    frame
                })
            })
            .collect();
        let lists = &mut self.tally.frame_lists;
        let key = ByAddress(Arc::clone(&frames));
        *self.frame_lists.entry(key).or_insert_with(|| {
            lists.push(frames);
            lists.len() - 1
        })
    }
}

impl Tally {
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
        let mut pages: HashMap<ProcessId, [u64; 4]> = HashMap::new();
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
    fn record(&mut self, copy: &Copy) {
        *self.processes.entry(copy.process).or_default() += 1;
        if let Some(latency) = copy.latency_ns {
            self.latency.record(u64::from(latency));
        }
        self.age.record(copy.age_ms);
    }
}

#[cfg(test)]
mod tests;
