//! When in the life of its process a page was copied, which is not always known when it is.
//!
//! - What a child copies between its fork and its exec, it copies for an instant. Whether there will
//!   be an exec shows later. So what a child copies in its first [`YOUTH`] is counted apart, until it
//!   has replaced its program, ended, or grown older.
//! - Whether a process is on its way out is told by its stack, which has no name at first; and not
//!   every process that seems to be ends: handlers of an exit start workers, servers tidy up and go
//!   on. So that is counted apart, too, until the process has ended, or has stayed for [`LINGERS`].
//!
//! Sums hold meanwhile.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use foldhash::{HashMap, HashSet};

use super::{Cell, CellIndex, Copy, Fold, Kind, Observation, SiteIndex, StackIndex, StackName};
use crate::process::processes::ProcessId;
use crate::profile;

/// How soon after its fork a child replaces its program, if that is what it was forked for.
pub const YOUTH: Duration = Duration::from_secs(2);

/// A process that seemed to be on its way out and has not ended for so long goes on.
const LINGERS: Duration = Duration::from_secs(5);

/// Cells that are counted apart, at most: beyond that, the process that copied first is taken for
/// one that does what it seems to do.
const MOST_OPEN: usize = 8192;

/// When in the life of its process a page was copied, as far as that is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Phase {
    /// It went on with its program.
    #[default]
    Run,
    /// It had been forked an instant before, and what it would do was not known.
    Young(ProcessId),
    /// The same, and its stack seems to say that it was on its way out. This is not [`Self::Leaving`]:
    /// what becomes of the two may differ, and a sum has copies of one kind only.
    YoungLeaving(ProcessId),
    /// Its stack has no name yet.
    Unnamed(ProcessId),
    /// It seems to be on its way out, and has not ended yet.
    Leaving(ProcessId),
    /// It went on with its program, although its stack seems to say that it was on its way out.
    Stays,
    /// It was about to replace its program.
    BeforeExec,
    /// It was on its way out.
    Exit,
}

impl Phase {
    /// The phase of copies with this one whose stack has a name now; `leaves` says whether that is of
    /// a process on its way out.
    fn named(self, leaves: bool) -> Self {
        match self {
            Self::Unnamed(process) if leaves => Self::Leaving(process),
            Self::Unnamed(_) => Self::Run,
            Self::Stays if !leaves => Self::Run,
            other => other,
        }
    }

    /// The phase that a copy is of, by that.
    pub(super) fn of(self, leaves: bool) -> Self {
        match self.named(leaves) {
            Self::Run if leaves => Self::Exit,
            Self::Young(process) if leaves => Self::YoungLeaving(process),
            Self::Stays => Self::Run,
            other => other,
        }
    }

    /// What a report has, at this moment: whatever is open is what it seems to be.
    #[must_use]
    pub fn settled(self) -> Self {
        match self {
            Self::Young(_) | Self::Unnamed(_) | Self::Stays => Self::Run,
            Self::YoungLeaving(_) | Self::Leaving(_) => Self::Exit,
            settled => settled,
        }
    }

    /// The process of which more must be known, if it will be another one.
    fn open_for(self) -> Option<ProcessId> {
        match self {
            Self::Young(process)
            | Self::YoungLeaving(process)
            | Self::Unnamed(process)
            | Self::Leaving(process) => Some(process),
            Self::Run | Self::Stays | Self::BeforeExec | Self::Exit => None,
        }
    }
}

impl From<Phase> for profile::Phase {
    fn from(phase: Phase) -> Self {
        match phase.settled() {
            Phase::BeforeExec => Self::BeforeExec,
            Phase::Exit => Self::Exit,
            _ => Self::Run,
        }
    }
}

/// What becomes of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It has ended.
    Ended,
    /// It has replaced its program.
    Execed,
}

/// The cells whose phase is open.
#[derive(Default)]
pub(super) struct Open {
    /// None of them is empty.
    cells: HashMap<ProcessId, HashSet<(StackIndex, Observation)>>,
    /// In all.
    count: usize,
    /// Processes, by their first such copy; some have none any more, or are there again.
    order: VecDeque<ProcessId>,
    /// Since when processes seem to be on their way out.
    leaving: HashMap<ProcessId, Instant>,
    /// Those that seemed to be for so long that they go on.
    staying: HashSet<ProcessId>,
}

impl Open {
    /// Notes a cell, if its phase is open.
    pub(super) fn note(&mut self, stack: StackIndex, seen: Observation) {
        let Some(process) = seen.phase.open_for() else {
            return;
        };
        let cells = self.cells.entry(process).or_insert_with(|| {
            self.order.push_back(process);
            HashSet::default()
        });
        self.count += usize::from(cells.insert((stack, seen)));
        if let Phase::Leaving(_) = seen.phase {
            self.leaving.entry(process).or_insert_with(Instant::now);
        }
    }

    /// Forgets a cell, which is not there any more.
    pub(super) fn forget(&mut self, stack: StackIndex, seen: Observation) {
        let Some(process) = seen.phase.open_for() else {
            return;
        };
        if let Some(cells) = self.cells.get_mut(&process) {
            self.count -= usize::from(cells.remove(&(stack, seen)));
            if cells.is_empty() {
                self.cells.remove(&process);
            }
        }
    }

    fn remove(&mut self, process: ProcessId) -> HashSet<(StackIndex, Observation)> {
        let cells = self.cells.remove(&process).unwrap_or_default();
        self.count -= cells.len();
        cells
    }
}

impl Fold {
    /// The copy as it is counted: whoever saw it did not know what its stack says.
    pub(super) fn with_phase(&self, stack: StackIndex, copy: &Copy) -> Observation {
        let seen = copy.seen;
        if seen.phase != Phase::Run {
            return seen;
        }
        let process = copy.process;
        let leaves = self.leaves(stack, seen);
        let phase = match leaves {
            Some(false) => Phase::Run,
            _ if self.open.staying.contains(&process) => Phase::Stays,
            Some(true) => Phase::Leaving(process),
            None if self.open.count < MOST_OPEN => Phase::Unnamed(process),
            None => Phase::Run,
        };
        Observation { phase, ..seen }
    }

    /// Whether the stack of a copy is of a process on its way out; `None` while it has no name.
    fn leaves(&self, stack: StackIndex, seen: Observation) -> Option<bool> {
        let name = self.tally.stacks[stack].name?;
        Some(name.writer.leaves.holds(seen.origin))
    }

    /// What a copy of a stack that has this name now is to be counted as.
    pub(super) fn seen_with_name(seen: Observation, name: StackName) -> Observation {
        let leaves = name.writer.leaves.holds(seen.origin);
        Observation {
            phase: seen.phase.named(leaves),
            ..seen
        }
    }

    /// Whether copies of a process are counted apart.
    #[cfg(test)]
    pub fn is_open(&self, process: ProcessId) -> bool {
        self.open.cells.contains_key(&process)
    }

    /// Decides what copies are that were counted apart, of a process that has ended or replaced its
    /// program.
    pub fn settle(&mut self, process: ProcessId, fate: Fate) {
        self.open.leaving.remove(&process);
        self.open.staying.remove(&process);
        self.settle_as(process, |phase, _| match (fate, phase) {
            (Fate::Ended, _) => Phase::Run,
            (Fate::Execed, Phase::Young(_)) => Phase::BeforeExec,
            (Fate::Execed, _) => Phase::Stays,
        });
    }

    /// Decides about those processes that are not young any more, have seemed to be on their way out
    /// for long, or are too many. The first are asked first.
    pub fn settle_old(&mut self, is_young: impl Fn(ProcessId) -> bool) {
        self.settle_old_at(Instant::now(), is_young);
    }

    pub(super) fn settle_old_at(&mut self, now: Instant, is_young: impl Fn(ProcessId) -> bool) {
        // Those that are still there when all have been asked are asked again the next time.
        for _ in 0..self.open.order.len() {
            let Some(&first) = self.open.order.front() else {
                break;
            };
            let are_too_many = self.open.count > MOST_OPEN;
            if is_young(first) && !are_too_many {
                break;
            }
            self.open.order.pop_front();
            if are_too_many {
                self.settle_as(first, |_, _| Phase::Run);
                self.open.leaving.remove(&first);
            } else {
                self.settle_as(first, |phase, leaves| match (phase, leaves) {
                    (Phase::Young(process), None) => Phase::Unnamed(process),
                    (Phase::Young(process), Some(true)) => Phase::Leaving(process),
                    (Phase::Young(_), Some(false)) => Phase::Run,
                    (open, _) => open,
                });
            }
        }
        let staying: Vec<ProcessId> = self
            .open
            .leaving
            .extract_if(|_, since| now.saturating_duration_since(*since) >= LINGERS)
            .map(|(process, _)| process)
            .collect();
        for process in staying {
            self.open.staying.insert(process);
            self.settle_as(process, |phase, _| match phase {
                Phase::Leaving(_) | Phase::Unnamed(_) => Phase::Stays,
                other => other,
            });
        }
    }

    /// Gives the cells of a process that are open the phase that `decide` says, by the phase that
    /// they have and whether their stack is that of a process on its way out.
    fn settle_as(&mut self, process: ProcessId, decide: impl Fn(Phase, Option<bool>) -> Phase) {
        let mut moved: HashSet<(SiteIndex, Kind, Kind)> = HashSet::default();
        for (stack, seen) in self.open.remove(process) {
            let Some(&index) = self.by_seen.get(&(stack, seen)) else {
                continue;
            };
            let leaves = self.leaves(stack, seen);
            let phase = decide(seen.phase, leaves);
            if phase == seen.phase {
                self.open.note(stack, seen);
                continue;
            }
            self.by_seen.remove(&(stack, seen));
            let cell = self.take_cell(stack, index);
            let now = Observation { phase, ..seen };
            self.add_settled(stack, now, &cell);
            if let (Some(name), Some(was)) = (self.tally.stacks[stack].name, cell.kind)
                && was.phase.open_for().is_some()
            {
                moved.insert((name.site, was, now.judge(name.writer)));
            }
        }
        for (site, was, now) in moved {
            if was != now
                && let Some(sum) = self.tally.site_sums.remove(&(site, was))
            {
                let into = self.tally.sum_of_site(site, now);
                self.tally.sums.merge(sum, into);
            }
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
