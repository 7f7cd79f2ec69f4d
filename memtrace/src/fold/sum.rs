//! What copies are summed up to.

use std::ops::{Index, IndexMut};

use foldhash::HashMap;

use super::times::Bins;
use crate::distribution::Distribution;
use crate::process::processes::ProcessId;
use crate::unchanged::{Compared, PageSample};

/// What is known of the copies of one kind and stack, or call site.
#[derive(Clone, Debug, Default)]
pub struct Sum {
    /// Copied pages by process.
    pub processes: HashMap<ProcessId, u64>,
    /// From the fault's entry to its end, in nanoseconds.
    pub latency: Distribution,
    /// From the start of the process to the copy, in milliseconds.
    pub age: Distribution,
    /// Copied pages by time, see [`Times`](super::times::Times).
    pub bins: Bins,
    /// Some of the pages, until they are compared.
    pub sample: PageSample,
    /// What has become of them.
    pub compared: Compared,
}

impl Sum {
    /// Adds everything that `other` has.
    pub fn absorb(&mut self, other: &Self) {
        for (&process, &pages) in &other.processes {
            *self.processes.entry(process).or_default() += pages;
        }
        self.latency.merge(&other.latency);
        self.age.merge(&other.age);
        self.bins.absorb(&other.bins);
        self.sample.absorb(&other.sample);
        self.compared.absorb(other.compared);
    }
}

/// Names a [`Sum`] in [`Sums`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SumIndex(usize);

/// All sums. A sum that was merged into another is reused.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    list: Vec<Sum>,
    free: Vec<SumIndex>,
}

impl Sums {
    /// A new, empty sum.
    pub fn add(&mut self) -> SumIndex {
        self.free.pop().unwrap_or_else(|| {
            self.list.push(Sum::default());
            SumIndex(self.list.len() - 1)
        })
    }

    /// All of them, those that are not used included.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Sum> {
        self.list.iter_mut()
    }

    /// Moves everything from one sum into another; the first may be handed out again.
    ///
    /// # Panics
    /// When an index is not one that was handed out.
    pub fn merge(&mut self, from: SumIndex, into: SumIndex) {
        if from != into {
            let gathered = std::mem::take(&mut self.list[from.0]);
            self.list[into.0].absorb(&gathered);
            self.free.push(from);
        }
    }
}

impl Index<SumIndex> for Sums {
    type Output = Sum;

    fn index(&self, SumIndex(index): SumIndex) -> &Sum {
        &self.list[index]
    }
}

impl IndexMut<SumIndex> for Sums {
    fn index_mut(&mut self, SumIndex(index): SumIndex) -> &mut Sum {
        &mut self.list[index]
    }
}
