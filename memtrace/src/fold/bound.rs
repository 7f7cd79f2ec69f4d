//! A bound on stacks.
//!
//! Code that is made at run time, or takes paths without end, has more stacks than anybody can look
//! at. Beyond [`MOST_STACKS`] the rarest are added up: what is kept of them is their call site, and
//! what decides about causes. Sums hold.

use foldhash::{HashMap, HashSet};

use super::{Fold, StackIndex, StackName};
use crate::profile::{Frame, Site, Truncated};
use crate::symbolize::Blamed;

/// Stacks that are kept.
pub const MOST_STACKS: usize = 50_000;

/// Stacks beyond that after which the rarest are added up, since it takes long to find them.
const SLACK: usize = MOST_STACKS / 8;

/// Call sites that are told apart by more than their own function, file and line.
pub const MOST_SITES: usize = MOST_STACKS;

impl Fold {
    /// A call site; one that is new, without what led to it where there are `most`, so that there are
    /// no more of them than places in the code.
    pub(super) fn bounded(&self, blamed: Blamed, most: usize) -> Blamed {
        if self.tally.sites.len() < most || self.site_index.contains_key(&blamed) {
            return blamed;
        }
        Blamed {
            app: None,
            caller: None,
            ..blamed
        }
    }

    /// Adds up the rarest stacks when there are too many.
    pub(super) fn keep_bound(&mut self) {
        self.keep_most(MOST_STACKS, SLACK);
    }

    /// [`Fold::keep_bound`], with a bound of `most` stacks and `slack` more.
    pub(super) fn keep_most(&mut self, most: usize, slack: usize) {
        if self.named <= most + slack {
            return;
        }
        let pages = |stack: &super::Stack| -> u64 {
            let cells = stack.cells.iter();
            cells.map(|&cell| self.tally.cells[cell].pages).sum()
        };
        let stacks = self.tally.stacks.iter().enumerate();
        let mut rarest: Vec<(u64, StackIndex, StackName)> = stacks
            .filter_map(|(index, stack)| Some((pages(stack), index, stack.name?)))
            .filter(|(_, _, name)| name.truncated != Some(Truncated::Others))
            .collect();
        rarest.sort_unstable_by_key(|&(pages, index, _)| (pages, index));
        rarest.truncate(self.named - most);
        let mut moved = HashMap::default();
        for (_, stack, name) in rarest {
            let others = self.others_of(name);
            let other_name = self.tally.stacks[others].name.unwrap_or(name);
            self.move_cells(stack, others, other_name);
            self.by_name.remove(&name);
            self.tally.stacks[stack].name = None;
            self.free.stacks.push(stack);
            self.named -= 1;
            self.tally.folded += 1;
            moved.insert(stack, others);
        }
        for stack in self.by_key.values_mut().flat_map(HashMap::values_mut) {
            if let Some(others) = moved.get(stack) {
                *stack = *others;
            }
        }
        self.drop_unused_frames();
    }

    /// The stack that stands for others like this one.
    fn others_of(&mut self, name: StackName) -> StackIndex {
        let blamed = blamed(&self.tally.sites[name.site].site);
        let frames = self
            .frames
            .intern(&mut self.tally.frame_lists, vec![blamed], &[]);
        let others = StackName {
            frames,
            truncated: Some(Truncated::Others),
            ..name
        };
        if let Some(&known) = self.by_name.get(&others) {
            return known;
        }
        let stack = self.add_stack();
        self.tally.stacks[stack].name = Some(others);
        self.by_name.insert(others, stack);
        stack
    }

    fn drop_unused_frames(&mut self) {
        let names = self.tally.stacks.iter().filter_map(|stack| stack.name);
        let used: HashSet<_> = names.map(|name| name.frames).collect();
        self.frames.keep(&mut self.tally.frame_lists, &used);
    }
}

/// What is kept of a stack that was added up.
fn blamed(site: &Site) -> Frame {
    Frame {
        function: site.function.clone(),
        file: site.file.clone(),
        line: site.line,
        module: site.module.clone(),
        address: 0,
        language: site.language,
        inlined: false,
        unknown: None,
    }
}
