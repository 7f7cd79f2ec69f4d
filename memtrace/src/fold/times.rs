//! When pages were copied: counts in bins of equal width, which doubles when there are too many.

use foldhash::HashMap;

use super::Copy;
use super::sum::Sum;
use crate::distribution::Distribution;
use crate::process::processes::{OTHERS, ProcessId};
use crate::profile::MOST_BINS;

/// Width of a bin at first, in nanoseconds.
const FINEST_NS: u64 = 50_000_000;

/// Counts by bin, of the bins in which there is something, by time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bins(Vec<(u16, u64)>);

impl Bins {
    /// Adds to a bin.
    pub fn add(&mut self, bin: u16, more: u64) {
        // Records come nearly in the order of time.
        let at = match self.0.last() {
            Some(&(last, _)) if last < bin => self.0.len(),
            None => 0,
            Some(_) => self.0.partition_point(|&(at, _)| at < bin),
        };
        match self.0.get_mut(at) {
            Some((there, count)) if *there == bin => *count += more,
            _ => self.0.insert(at, (bin, more)),
        }
    }

    /// Adds everything that `other` has.
    pub fn absorb(&mut self, other: &Self) {
        for &(bin, count) in &other.0 {
            self.add(bin, count);
        }
    }

    /// Two bins are one from now on.
    fn halve(&mut self) {
        let fine = std::mem::take(&mut self.0);
        for (bin, count) in fine {
            self.add(bin / 2, count);
        }
    }

    /// Bins and their counts.
    pub fn iter(&self) -> impl Iterator<Item = (usize, u64)> {
        self.0.iter().map(|&(bin, count)| (usize::from(bin), count))
    }
}

/// What is known of the copies of one process, besides their number.
#[derive(Clone, Debug, Default)]
pub struct ProcessTimes {
    /// Copied pages.
    pub bins: Bins,
    /// From its start to the copy, in milliseconds.
    pub age: Distribution,
    /// The time that its copies took, in nanoseconds; of those whose end was seen.
    pub copying_ns: u64,
}

impl ProcessTimes {
    fn absorb(&mut self, other: &Self) {
        self.bins.absorb(&other.bins);
        self.age.merge(&other.age);
        self.copying_ns += other.copying_ns;
    }
}

/// When what happened.
#[derive(Clone, Debug)]
pub struct Times {
    started_ns: u64,
    /// Width of a bin, in nanoseconds.
    pub interval_ns: u64,
    /// By process.
    pub processes: HashMap<ProcessId, ProcessTimes>,
    /// Processes that were forked.
    pub forks: Bins,
    /// Processes that ended.
    pub exits: Bins,
    /// Programs that were replaced.
    pub execs: Bins,
}

impl Default for Times {
    fn default() -> Self {
        Self::since(0)
    }
}

impl Times {
    /// Nothing has happened since `started_ns` of `CLOCK_MONOTONIC`.
    #[must_use]
    pub fn since(started_ns: u64) -> Self {
        Self {
            started_ns,
            interval_ns: FINEST_NS,
            processes: HashMap::default(),
            forks: Bins::default(),
            exits: Bins::default(),
            execs: Bins::default(),
        }
    }

    /// The bin of a moment. Until it is among those that there may be, bins get wider, and so do
    /// those of `sums`.
    pub(super) fn bin<'a>(
        &mut self,
        at_ns: u64,
        sums: impl FnOnce() -> Box<dyn Iterator<Item = &'a mut Sum> + 'a>,
    ) -> u16 {
        let since = at_ns.saturating_sub(self.started_ns);
        if (since / self.interval_ns) as usize >= MOST_BINS {
            let mut doublings = 0;
            while (since / self.interval_ns) as usize >= MOST_BINS {
                self.interval_ns *= 2;
                doublings += 1;
            }
            let own = self.processes.values_mut().map(|times| &mut times.bins);
            let own = own.chain([&mut self.forks, &mut self.exits, &mut self.execs]);
            for bins in own.chain(sums().map(|sum| &mut sum.bins)) {
                for _ in 0..doublings {
                    bins.halve();
                }
            }
        }
        (since / self.interval_ns) as u16
    }

    /// Counts a copy for its process.
    pub(super) fn record(&mut self, copy: &Copy, bin: u16) {
        let times = self.processes.entry(copy.process).or_default();
        times.bins.add(bin, 1);
        times.age.record(copy.age_ms);
        times.copying_ns += u64::from(copy.latency_ns.unwrap_or(0));
    }

    /// Adds up processes under [`OTHERS`].
    pub(super) fn add_up(&mut self, processes: &[ProcessId]) {
        for process in processes {
            if let Some(gone) = self.processes.remove(process) {
                self.processes.entry(OTHERS).or_default().absorb(&gone);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_late_is_put_where_it_belongs() {
        let mut bins = Bins::default();
        for bin in [3, 5, 4, 5, 0] {
            bins.add(bin, 1);
        }
        assert_eq!(bins.0, [(0, 1), (3, 1), (4, 1), (5, 2)]);
        bins.halve();
        assert_eq!(bins.0, [(0, 1), (1, 1), (2, 3)]);
    }

    #[test]
    fn bins_get_wider_and_keep_their_sums() {
        let mut times = Times::since(1_000);
        let mut sum = Sum::default();
        for n in 0..100_000_u64 {
            let at_ns = 1_000 + n * FINEST_NS;
            let bin = times.bin(at_ns, || Box::new(std::iter::once(&mut sum)));
            assert!(usize::from(bin) < MOST_BINS);
            sum.bins.add(bin, 1);
            times.forks.add(bin, 1);
        }
        assert_eq!(sum.bins, times.forks);
        assert_eq!(
            sum.bins.iter().map(|(_, count)| count).sum::<u64>(),
            100_000
        );
        assert_eq!(times.interval_ns, FINEST_NS << 8);
        // All but the last are full.
        let counts: Vec<u64> = sum.bins.iter().map(|(_, count)| count).collect();
        assert!(counts[..counts.len() - 1].iter().all(|&count| count == 256));
        // What is said to be of before the trace is of its beginning.
        assert_eq!(times.bin(0, || Box::new(std::iter::empty())), 0);
    }
}
