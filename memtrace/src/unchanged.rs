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
//! (`vfork`) does not count as the ancestor's.
//!
//! **What is compared.** Both run on meanwhile; a page that changes between the two reads counts as
//! changed, and so does one that the ancestor has written since the fork. Only pages that
//! /proc/PID/pagemap shows in memory on both sides are read (unless they go just before that), so
//! nothing is swapped or faulted in; two pages that are one in memory, such as those that KSM has
//! merged, are unchanged without reading. Reading does not stop, write or copy anything (see
//! [`image`]); the kernel only notes that the pages were used.
//!
//! **What is gone.** The memory of a process is given back before its end is announced, so pages of
//! processes that end before the trace does cannot be compared. With workers that live briefly this
//! is most of them, and the report must say so: `gone_pages`. Pages without a living ancestor count
//! as gone too, and so do those that on either side are unmapped, swapped out or never there, such
//! as an ancestor's page of a file that it never looked at.
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

pub mod compare;
pub mod image;
mod sample;

use std::collections::BTreeMap;
use std::rc::Rc;

use foldhash::HashMap;
use roaring::RoaringTreemap;

use self::compare::{Compared, Comparer};
use self::image::{Identity, Image};
pub use self::sample::{PageSample, compare_samples};
use crate::host;
use crate::process::processes::{OTHERS, ProcessId, Processes};
use crate::profile::Unchanged;

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
    /// Pages of memory that it no longer has; they are not in `kept`.
    gone: u64,
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
        }
    }

    /// Records that `process` copied the page at `address`; returns the page's number.
    pub fn add(&mut self, process: ProcessId, address: u64) -> u64 {
        let page = address >> self.page_bits;
        if self.halvings > 0 && !is_in_sample(hash(process, page), self.halvings) {
            return page;
        }
        if self.sets.entry(process).or_default().kept.insert(page) {
            self.kept += 1;
            if self.kept > self.limits.kept {
                self.halve();
            }
        }
        page
    }

    /// Records that `process` no longer has the memory that it had: it has ended, or replaced its
    /// program. Its pages cannot be compared any more; only their number is kept.
    pub fn gone(&mut self, process: ProcessId) {
        if let Some(set) = self.sets.get_mut(&process) {
            let pages = std::mem::take(&mut set.kept).len();
            set.gone += pages << self.halvings;
            self.kept -= pages;
        }
    }

    /// Adds up what is known of processes that have ended, under [`OTHERS`].
    pub fn add_up(&mut self, processes: &[ProcessId]) {
        let sets = processes.iter().filter_map(|id| self.sets.remove(id));
        let gone: u64 = sets.map(|set| set.gone).sum();
        if gone > 0 {
            self.sets.entry(OTHERS).or_default().gone += gone;
        }
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

    /// Compares what was copied with what the nearest living ancestors have at the same places,
    /// for every process that copied. Must be called once, when nothing is added any more and while
    /// the processes still live.
    #[must_use]
    pub fn compare(&self, processes: &Processes) -> HashMap<ProcessId, Unchanged> {
        let page_size = 1 << self.page_bits;
        let mut lineage = Lineage::new(processes);
        let with_pages = self.sets.iter().filter(|(_, set)| !set.kept.is_empty());
        let pairs: HashMap<ProcessId, Pair> = with_pages
            .filter_map(|(&id, _)| Some((id, lineage.pair(id)?)))
            .collect();
        let bound = self.bound(|id| pairs.contains_key(&id));
        let mut comparer = Comparer::new(page_size);
        // Kept from one process to the next, since most have the same ancestor.
        let mut ancestor: Option<(u32, Image)> = None;
        let mut all = HashMap::default();
        for (&id, set) in &self.sets {
            if set.kept.is_empty() && set.gone == 0 {
                continue;
            }
            let mut sample = Vec::new();
            let mut found = None;
            if let Some(pair) = pairs.get(&id) {
                let small = |&page: &u64| bound.is_none_or(|bound| hash(id, page) <= bound);
                sample.extend(set.kept.iter().filter(small));
                found = pair.compare(&sample, &mut ancestor, &mut comparer, page_size);
            }
            let kept = set.kept.len() << self.halvings;
            let unchanged = match found {
                Some(found) => estimate(kept, sample.len() as u64, found),
                None => Unchanged {
                    gone_pages: kept,
                    ..Unchanged::default()
                },
            };
            let gone_pages = unchanged.gone_pages + set.gone;
            all.insert(
                id,
                Unchanged {
                    gone_pages,
                    ..unchanged
                },
            );
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

/// What a sample of `size` pages says about `pages`. A process of which nothing is in the sample
/// may have been comparable in all its pages.
fn estimate(pages: u64, size: u64, found: Compared) -> Unchanged {
    let comparable_pages = match size {
        0 => pages,
        _ => (u128::from(pages) * u128::from(found.compared) / u128::from(size)) as u64,
    };
    Unchanged {
        unchanged_pages: found.unchanged,
        compared_pages: found.compared,
        comparable_pages,
        gone_pages: pages - comparable_pages,
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

/// A process and the ancestor that it is compared with.
struct Pair {
    own: Rc<Identity>,
    ancestor: Rc<Identity>,
}

impl Pair {
    /// `None` when either has ended meanwhile.
    fn compare(
        &self,
        pages: &[u64],
        last: &mut Option<(u32, Image)>,
        comparer: &mut Comparer,
        page_size: u64,
    ) -> Option<Compared> {
        if pages.is_empty() {
            return Some(Compared::default());
        }
        let pid = self.ancestor.pid();
        let ancestor = match last.take() {
            Some((known, image)) if known == pid => image,
            _ => Image::open(&self.ancestor, page_size).ok()?,
        };
        let (_, ancestor) = last.insert((pid, ancestor));
        let own = Image::open(&self.own, page_size).ok()?;
        Some(comparer.compare(pages, [&own, ancestor]))
    }
}

/// Who descends from whom, among living processes.
struct Lineage<'a> {
    processes: &'a Processes,
    /// By pid.
    known: HashMap<u32, Option<Rc<Identity>>>,
}

impl<'a> Lineage<'a> {
    fn new(processes: &'a Processes) -> Self {
        Self {
            processes,
            known: HashMap::default(),
        }
    }

    /// A process that lives, with the nearest living ancestor that has its image.
    fn pair(&mut self, id: ProcessId) -> Option<Pair> {
        let own = self.traced(id)?;
        let is_ancestor =
            |ancestor: &Rc<Identity>| ancestor.has_image_of(&own) && !ancestor.is_same_memory(&own);
        let mut next = id;
        // Nobody descends from itself, so this ends.
        while let Some(parent) = self.processes.parent(next) {
            if let Some(ancestor) = self.traced(parent).filter(is_ancestor) {
                return Some(Pair { own, ancestor });
            }
            next = parent;
        }
        // The process that has that pid now is a relative if it has the same image.
        let ppid = self.processes.parent_outside(next)?;
        let ancestor = self.with_pid(ppid).filter(is_ancestor)?;
        Some(Pair { own, ancestor })
    }

    fn traced(&mut self, id: ProcessId) -> Option<Rc<Identity>> {
        let process = self.processes.get(id);
        self.with_pid(process.pid)
            .filter(|identity| identity.started_at(process.times.start_boottime_ns))
    }

    fn with_pid(&mut self, pid: u32) -> Option<Rc<Identity>> {
        let known = self.known.entry(pid);
        known
            .or_insert_with(|| Identity::of(pid).map(Rc::new))
            .clone()
    }
}

#[cfg(test)]
mod tests;
