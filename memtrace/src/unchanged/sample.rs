//! A few pages of each call site, which tell what became of all of them.
//!
//! [`CopiedPages`] compares pages by process; which call site copied a page it
//! does not know. So each call site keeps a sample of its own.

use std::collections::{BTreeMap, BinaryHeap};

use super::found::{Compared, Findings};
use super::relatives::Relatives;
use super::{CopiedPages, hash};
use crate::process::processes::{ProcessId, Processes};

/// Pages of a call site that are compared, at most.
pub const SAMPLED: usize = 64;

/// Pages of all call sites that are compared, at most: 128 MiB of each side with small pages.
const MOST_COMPARED: usize = 1 << 15;

/// A uniform sample of the pages that were copied somewhere: those with the smallest hashes. So two
/// samples together give the sample of both.
#[derive(Clone, Debug, Default)]
pub struct PageSample {
    /// The largest hash first.
    pages: BinaryHeap<Sampled>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Sampled {
    hash: u64,
    process: ProcessId,
    page: u64,
}

impl PageSample {
    /// Adds a page of a process, by its number.
    pub fn add(&mut self, process: ProcessId, page: u64) {
        self.insert(Sampled {
            hash: hash(process, page),
            process,
            page,
        });
    }

    /// Adds everything that `other` has.
    pub fn absorb(&mut self, other: &Self) {
        other.pages.iter().for_each(|&page| self.insert(page));
    }

    /// Forgets all pages.
    pub fn clear(&mut self) {
        self.pages = BinaryHeap::new();
    }

    fn insert(&mut self, new: Sampled) {
        let is_full = self.pages.len() >= SAMPLED;
        if is_full && self.pages.peek().is_some_and(|largest| new >= *largest) {
            return;
        }
        // A page that is copied twice counts once.
        if self.pages.iter().any(|known| *known == new) {
            return;
        }
        if is_full {
            self.pages.pop();
        }
        self.pages.push(new);
    }

    fn len(&self) -> usize {
        self.pages.len()
    }
}

/// Compares the pages of samples, as [`CopiedPages::compare`] does; returns what was found of each.
/// Where there are too many, those that come first are compared.
#[must_use]
pub fn compare_samples(
    processes: &Processes,
    copied: &CopiedPages,
    samples: &[&PageSample],
) -> Vec<Compared> {
    let mut of_process: BTreeMap<ProcessId, Vec<(usize, Vec<u64>)>> = BTreeMap::new();
    let mut left = MOST_COMPARED;
    for (at, sample) in samples.iter().enumerate() {
        left = match left.checked_sub(sample.len()) {
            Some(left) => left,
            None => break,
        };
        for Sampled { process, page, .. } in &sample.pages {
            let parts = of_process.entry(*process).or_default();
            match parts.last_mut() {
                Some((last, pages)) if *last == at => pages.push(*page),
                _ => parts.push((at, vec![*page])),
            }
        }
    }
    let mut found = vec![Compared::default(); samples.len()];
    let mut relatives = Relatives::new(processes, copied);
    for (process, parts) in of_process {
        if !processes.lives(process) {
            for (at, pages) in parts {
                let in_time = pages
                    .iter()
                    .filter_map(|&page| copied.found_at_exit(process, page));
                found[at].absorb(in_time.collect::<Findings>().compared);
            }
            continue;
        }
        let Ok(family) = relatives.family(process) else {
            continue;
        };
        for (at, mut pages) in parts {
            pages.sort_unstable();
            found[at].absorb(relatives.look(&family, &pages).compared);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample(pages: &[(ProcessId, u64)]) -> PageSample {
        let mut sample = PageSample::default();
        for &(process, page) in pages {
            sample.add(process, page);
        }
        sample
    }

    fn sorted(sample: PageSample) -> Vec<Sampled> {
        sample.pages.into_sorted_vec()
    }

    proptest! {
        #[test]
        fn two_samples_give_the_sample_of_both(
            one in proptest::collection::vec((0..5usize, 0..400u64), 0..300),
            other in proptest::collection::vec((0..5usize, 0..400u64), 0..300),
        ) {
            let mut merged = sample(&one);
            merged.absorb(&sample(&other));
            let both = sample(&[one.clone(), other.clone()].concat());
            prop_assert_eq!(sorted(merged), sorted(both.clone()));
            let mut different = [one, other].concat();
            different.sort_unstable();
            different.dedup();
            prop_assert_eq!(both.len(), different.len().min(SAMPLED));
        }
    }
}
