//! The proof of waste: copied pages that at the end still equal their ancestor's page were copied
//! for nothing.
//!
//! **Which pages.** [`CopiedPages`] keeps the page numbers that each process copied. A page counts
//! once however often it was copied; of a page of a hugetlb pool, only the small page at the
//! fault's address counts. At most [`MAX_KEPT`] pages are kept; beyond that a sample, half as dense
//! each time that it would grow too large again.
//!
//! **With whom.** The nearest ancestor that lives and has the same image: its executable and its
//! auxiliary vector are those of the process, until either execs. That ancestor is traced, or for
//! the topmost traced process its parent by /proc. Memory that an ancestor shares with the process
//! (`vfork`) does not count as the ancestor's. What no ancestor has is looked for in living children:
//! see [`relatives`].
//!
//! **What is compared.** Both run on meanwhile; a page that changes between the two reads counts as
//! changed, and so does one that the relative has written since the fork. Only pages that
//! /proc/PID/pagemap shows in memory on both sides are read (unless they go just before that), so
//! nothing is swapped or faulted in; two pages that are one in memory, such as those that KSM has
//! merged, are unchanged without reading. Reading does not stop, write or copy anything (see
//! [`image`]); the kernel only notes that the pages were used.
//!
//! **What is gone.** The memory of a process is given back before its end is announced, so most pages
//! of processes that end before the trace does cannot be compared; of some children a few are, in
//! time: see [`exits`]. Everything that is not compared has its reason, a [`Reason`], and is part of
//! `gone_pages`.
//!
//! **Samples.** A page is in a sample when the hash of its number and its process is small enough.
//! So a sample is uniform over the pages of all processes, larger ones contain smaller ones, and
//! the same trace gives the same sample. At most [`MAX_COMPARED`] pages are compared; of a process
//! that is sampled, `comparable_pages` and `gone_pages` are its pages in the proportion that was
//! found in its sample, and always add up to its pages.
//!
//! **Cost**, as `measure` in the tests printed it on a busy virtual machine with two CPUs
//! (optimised build): 44 ns for a page that is added in ascending order and 117 ns in random order,
//! both up to a million pages of eight processes; 40 to 60 ms once to halve a sample of a million;
//! 0.11 s to compare 65,536 pages, and 0.14 s when they must first be chosen from 262,144.

mod compare;
mod exits;
mod found;
mod image;
mod relatives;
mod sample;

use std::collections::BTreeMap;

use foldhash::HashMap;
use roaring::RoaringTreemap;

use self::exits::Exits;
pub use self::found::Compared;
use self::found::{Findings, Found, all_not};
use self::relatives::{Family, Relatives};
pub use self::sample::{PageSample, compare_samples};
use crate::collect::LastPages;
use crate::host;
use crate::process::processes::{OTHERS, ProcessId, Processes};
use crate::profile::{Reason, Unchanged};

/// Pages that are kept in all: 4 GiB of copies with small pages.
pub const MAX_KEPT: u64 = 1 << 20;

/// Pages that are compared in all: 256 MiB of each side with small pages.
pub const MAX_COMPARED: usize = 1 << 16;

/// Which pages each process has copied.
pub struct CopiedPages {
    limits: Limits,
    /// Bits of an address below the page number; a shift costs less than a division.
    page_bits: u32,
    /// By process.
    sets: BTreeMap<ProcessId, Pages>,
    /// Pages in all sets.
    kept: u64,
    /// How often the sample was halved: one page stands for two to the power of this.
    halvings: u32,
    exits: Exits,
}

/// How many pages may be kept and compared.
#[derive(Clone, Copy, Debug)]
struct Limits {
    kept: u64,
    compared: usize,
}

/// Pages of one process.
#[derive(Clone, Default)]
struct Pages {
    /// Page numbers.
    kept: RoaringTreemap,
    /// How often it copied a page, since it has the memory that it has.
    copies: u64,
    /// What was found of some of them, when it was about to end.
    last: Option<Findings>,
    /// Pages of memory that it no longer has; they are not in `kept`.
    past: Unchanged,
}

impl Default for CopiedPages {
    fn default() -> Self {
        Self::new()
    }
}

impl CopiedPages {
    /// No page yet.
    #[must_use]
    pub fn new() -> Self {
        Self::with_limits(Limits {
            kept: MAX_KEPT,
            compared: MAX_COMPARED,
        })
    }

    fn with_limits(limits: Limits) -> Self {
        Self {
            limits,
            page_bits: host::page_size().trailing_zeros(),
            sets: BTreeMap::new(),
            kept: 0,
            halvings: 0,
            exits: Exits::new(),
        }
    }

    /// Records that `process` copied the page at `address`; returns the page's number.
    pub fn add(&mut self, process: ProcessId, address: u64) -> u64 {
        let page = address >> self.page_bits;
        let set = self.sets.entry(process).or_default();
        set.copies += 1;
        if self.halvings > 0 && !is_in_sample(hash(process, page), self.halvings) {
            return page;
        }
        if set.kept.insert(page) {
            self.kept += 1;
            if self.kept > self.limits.kept {
                self.halve();
            }
        }
        page
    }

    /// Records that `process` no longer has the memory that it had, for this reason. Its pages
    /// cannot be compared any more; only their number is kept.
    pub fn gone(&mut self, process: ProcessId, why: Reason) {
        if let Some(set) = self.sets.get_mut(&process) {
            let pages = set.pages(self.halvings);
            set.past.absorb(&match set.last.take() {
                Some(found) => found.of(pages),
                None => all_not(why, pages),
            });
            set.copies = 0;
            self.kept -= std::mem::take(&mut set.kept).len();
        }
    }

    /// Compares what `process` held when it was about to end, with what its parent has.
    pub fn last_pages(&mut self, process: ProcessId, last: &LastPages, processes: &Processes) {
        if let Some(set) = self.sets.get_mut(&process) {
            set.last = Some(self.exits.look(process, last, processes));
        }
    }

    /// What was found of a page of a process that has ended, if it was compared in time.
    fn found_at_exit(&self, process: ProcessId, page: u64) -> Option<Found> {
        self.exits.of(process, page)
    }

    /// Adds up what is known of processes that have ended, under [`OTHERS`].
    pub fn add_up(&mut self, processes: &[ProcessId]) {
        for id in processes {
            if let Some(set) = self.sets.remove(id) {
                let others = self.sets.entry(OTHERS).or_default();
                others.past.absorb(&set.past);
            }
        }
    }

    /// Whether `process` copied a page, or that is not known any more.
    fn may_have_copied(&self, process: ProcessId, page: u64) -> bool {
        if self.halvings > 0 && !is_in_sample(hash(process, page), self.halvings) {
            return true;
        }
        let set = self.sets.get(&process);
        set.is_some_and(|set| set.kept.contains(page))
    }

    /// Drops every other page, by hash, until few enough are kept.
    fn halve(&mut self) {
        while self.kept > self.limits.kept && self.halvings < u64::BITS - 1 {
            self.halvings += 1;
            self.kept = 0;
            for (&process, set) in &mut self.sets {
                let old = std::mem::take(&mut set.kept);
                let stay = |&page: &u64| is_in_sample(hash(process, page), self.halvings);
                set.kept.extend(old.into_iter().filter(stay));
                self.kept += set.kept.len();
            }
        }
    }

    /// Compares what was copied with what living relatives have at the same places, for every
    /// process that copied. Must be called once, when nothing is added any more and while the
    /// processes still live.
    #[must_use]
    pub fn compare(&self, processes: &Processes) -> HashMap<ProcessId, Unchanged> {
        let mut relatives = Relatives::new(processes, self);
        let with_pages = self.sets.iter().filter(|(_, set)| !set.kept.is_empty());
        let families: HashMap<ProcessId, Result<Family, Reason>> = with_pages
            .map(|(&id, _)| {
                let family = relatives.family(id);
                let alone = family.as_ref().ok().and_then(Family::why_alone);
                (id, alone.map_or(family, Err))
            })
            .collect();
        let bound = self.bound(|id| families.get(&id).is_some_and(Result::is_ok));
        let mut all = HashMap::default();
        for (&id, set) in &self.sets {
            let mut unchanged = set.past;
            if let Some(family) = families.get(&id) {
                let pages = set.pages(self.halvings);
                let found = family.as_ref().map(|family| {
                    let small = |&page: &u64| bound.is_none_or(|bound| hash(id, page) <= bound);
                    let sample: Vec<u64> = set.kept.iter().filter(small).collect();
                    relatives.look(family, &sample).of(pages)
                });
                unchanged.absorb(&found.unwrap_or_else(|&why| all_not(why, pages)));
            }
            if unchanged.comparable_pages + unchanged.gone_pages > 0 {
                all.insert(id, unchanged);
            }
        }
        all
    }

    /// The largest hash of a page that is compared, so that not too many are in all; `None` when a
    /// bound is not needed.
    fn bound(&self, has_pair: impl Fn(ProcessId) -> bool) -> Option<u64> {
        let mut hashes: Vec<u64> = Vec::new();
        for (&id, set) in self.sets.iter().filter(|&(&id, _)| has_pair(id)) {
            hashes.extend(set.kept.iter().map(|page| hash(id, page)));
        }
        if hashes.len() <= self.limits.compared {
            return None;
        }
        let last = self.limits.compared.checked_sub(1);
        Some(last.map_or(0, |last| *hashes.select_nth_unstable(last).1))
    }
}

impl Pages {
    /// How many pages these are, as far as `halvings` of the sample tell: not more than copies.
    fn pages(&self, halvings: u32) -> u64 {
        (self.kept.len() << halvings).min(self.copies)
    }
}

/// A hash of a page of a process. The process is part of it because workers copy the same pages: so
/// different ones are looked at in each.
fn hash(process: ProcessId, page: u64) -> u64 {
    // The finalizer of SplitMix64: every bit of the input reaches every bit of the result.
    let mut bits = page ^ (process as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

fn is_in_sample(hash: u64, halvings: u32) -> bool {
    hash <= u64::MAX >> halvings
}

#[cfg(test)]
mod tests;
