//! Copies of children that may yet replace their program.
//!
//! What a child copies between its fork and its exec, it copies for an instant. Whether there will
//! be an exec is not known when it copies. So what a child copies in its first [`YOUTH`] is counted
//! apart, until it has replaced its program, ended, or grown older. Sums hold meanwhile.

use std::collections::VecDeque;
use std::time::Duration;

use foldhash::{HashMap, HashSet};

use super::{Cell, CellIndex, Fold, Kind, Observation, SiteIndex, StackIndex};
use crate::process::processes::ProcessId;
use crate::profile;

/// How soon after its fork a child replaces its program, if that is what it was forked for.
pub const YOUTH: Duration = Duration::from_secs(2);

/// Cells that are counted apart, at most: beyond that the child that copied first is taken for one
/// that goes on.
const MOST_YOUNG: usize = 8192;

/// When in the life of its process a page was copied, as far as that is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Phase {
    /// It went on with its program.
    #[default]
    Run,
    /// It had been forked an instant before, and what it would do was not known.
    Young(ProcessId),
    /// It was about to replace its program.
    BeforeExec,
    /// It was on its way out.
    Exit,
}

impl Phase {
    /// The phase that a copy has by its stack and, otherwise, by what is known of the process.
    pub(super) fn of(self, leaves: bool) -> Self {
        if leaves { Self::Exit } else { self }
    }

    /// What a report has, at this moment: a child of which nothing else is known goes on.
    #[must_use]
    pub fn settled(self) -> Self {
        match self {
            Self::Young(_) => Self::Run,
            settled => settled,
        }
    }
}

impl From<Phase> for profile::Phase {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Run | Phase::Young(_) => Self::Run,
            Phase::BeforeExec => Self::BeforeExec,
            Phase::Exit => Self::Exit,
        }
    }
}

/// The cells of children that are young.
#[derive(Default)]
pub(super) struct Young {
    cells: HashMap<ProcessId, Vec<(StackIndex, Observation)>>,
    /// In all.
    count: usize,
    /// Children, by their first copy.
    order: VecDeque<ProcessId>,
}

impl Young {
    /// Notes a cell, if it is one of a young child.
    pub(super) fn note(&mut self, stack: StackIndex, seen: Observation) {
        let Phase::Young(process) = seen.phase else {
            return;
        };
        self.count += 1;
        let cells = self.cells.entry(process).or_insert_with(|| {
            self.order.push_back(process);
            Vec::new()
        });
        cells.push((stack, seen));
    }

    fn remove(&mut self, process: ProcessId) -> Vec<(StackIndex, Observation)> {
        let cells = self.cells.remove(&process).unwrap_or_default();
        self.count -= cells.len();
        cells
    }
}

impl Fold {
    /// Whether copies of a process are counted apart.
    #[must_use]
    pub fn is_young(&self, process: ProcessId) -> bool {
        self.young.cells.contains_key(&process)
    }

    /// Decides that copies which were counted apart are of this phase.
    pub fn settle(&mut self, process: ProcessId, phase: Phase) {
        let mut settled: HashSet<(SiteIndex, Kind)> = HashSet::default();
        for (stack, seen) in self.young.remove(process) {
            // It may have gone elsewhere with its stack, and is noted there, too.
            if let Some(index) = self.by_seen.remove(&(stack, seen)) {
                let cell = self.take_cell(stack, index);
                let was = cell.kind;
                self.add_settled(stack, Observation { phase, ..seen }, &cell);
                let site = self.tally.stacks[stack].name.map(|name| name.site);
                settled.extend(site.zip(was).filter(|(_, was)| was.phase == seen.phase));
            }
        }
        for (site, was) in settled {
            if let Some(sum) = self.tally.site_sums.remove(&(site, was)) {
                let into = self.tally.sum_of_site(site, Kind { phase, ..was });
                self.tally.sums.merge(sum, into);
            }
        }
    }

    /// Takes those children for ones that go on which have grown old, or are too many. The first
    /// are asked first.
    pub fn settle_old(&mut self, is_old: impl Fn(ProcessId) -> bool) {
        while let Some(&first) = self.young.order.front() {
            let is_known = self.is_young(first);
            if is_known && !is_old(first) && self.young.count <= MOST_YOUNG {
                return;
            }
            self.young.order.pop_front();
            self.settle(first, Phase::Run);
        }
    }

    fn take_cell(&mut self, stack: StackIndex, index: CellIndex) -> Cell {
        self.tally.stacks[stack].cells.retain(|&cell| cell != index);
        self.free.cells.push(index);
        let cell = &mut self.tally.cells[index];
        let taken = cell.clone();
        cell.pages = 0;
        taken
    }

    /// Adds the copies of a cell to what is seen as `seen`. Where the stack has a name, its call
    /// site's sums are the caller's to merge.
    fn add_settled(&mut self, stack: StackIndex, seen: Observation, cell: &Cell) {
        let name = self.tally.stacks[stack].name;
        let settled = name.map(|name| (name.site, seen.judge(name.writer)));
        let known = self.by_seen.get(&(stack, seen)).copied();
        let sum = match (settled, known) {
            (Some((site, kind)), _) => self.tally.sum_of_site(site, kind),
            (None, Some(known)) => {
                let into = self.tally.cells[known].sum;
                self.tally.sums.merge(cell.sum, into);
                into
            }
            (None, None) => cell.sum,
        };
        match known {
            Some(known) => self.tally.cells[known].pages += cell.pages,
            None => self.add_cell(
                stack,
                Cell {
                    seen,
                    kind: settled.map(|(_, kind)| kind),
                    sum,
                    pages: cell.pages,
                },
            ),
        }
    }
}
