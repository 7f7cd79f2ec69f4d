//! What is kept of the looks at one process.

use memtrace_common::process::Counters;
use memtrace_common::record::Origin;

use super::sizes::Sizes;
use crate::profile::{ExitSizes, MappingSizes, Memory, MemorySample, PrivateGrowth};

/// Looks that are kept of one process, at most; beyond that, every other one goes.
pub const MOST_SAMPLES: usize = 120;

/// One look at a process.
#[derive(Clone, Debug)]
pub struct Look {
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// What was found.
    pub sizes: Sizes,
    /// What had been counted for it by then.
    pub counted: Counted,
}

/// What had been counted for a process by some moment, in pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Copied pages that are part of what is resident.
    copied: u64,
    /// Of these, pages of files.
    of_files: u64,
    /// Pages that are new.
    new: u64,
    /// How often it had replaced its program.
    pub execs: u32,
}

impl Counted {
    /// By what the BPF side has counted.
    pub fn of(counters: &Counters, execs: u32) -> Self {
        let copied = |origin: Origin| counters.copied[origin as usize];
        Self {
            // Pages of hugetlb are of a pool, and not resident.
            copied: copied(Origin::Fork) + copied(Origin::Ksm) + copied(Origin::File),
            of_files: copied(Origin::File),
            new: counters.first_touch + counters.zero,
            execs,
        }
    }

    /// Bytes that had been copied by then.
    fn copied_bytes(&self) -> u64 {
        self.copied.saturating_mul(procfs::page_size())
    }
}

/// The looks at one process, while it ran one program.
#[derive(Clone, Debug)]
pub struct History {
    /// The first.
    pub first: Look,
    /// The last.
    pub last: Look,
    /// All, or every second, fourth, ... of them.
    samples: Vec<Look>,
    /// Of so many looks one is kept.
    every: usize,
    /// Looks since the last one that was kept.
    skipped: usize,
    /// By kind of mapping, when it was first looked at and at the end.
    pub mappings: [Vec<MappingSizes>; 2],
    /// Processor time when it was first and last looked at, in nanoseconds.
    pub cpu_ns: [Option<u64>; 2],
}

impl History {
    /// After the first look.
    pub fn new(first: Look) -> Self {
        Self {
            last: first.clone(),
            samples: vec![first.clone()],
            first,
            every: 1,
            skipped: 0,
            mappings: [Vec::new(), Vec::new()],
            cpu_ns: [None, None],
        }
    }

    /// Adds a look; at most `most` are kept.
    pub fn add(&mut self, look: Look, most: usize) {
        if look.counted.execs != self.last.counted.execs {
            // What another program had is no beginning.
            *self = Self {
                cpu_ns: self.cpu_ns,
                ..Self::new(look)
            };
            return;
        }
        self.skipped += 1;
        if self.skipped >= self.every {
            self.skipped = 0;
            self.samples.push(look.clone());
            while self.samples.len() > most.max(2) {
                self.every *= 2;
                let mut at = 0;
                self.samples.retain(|_| {
                    at += 1;
                    at % 2 == 1
                });
            }
        }
        self.last = look;
    }

    /// Nothing will be added any more.
    pub fn ended(&mut self) {
        self.samples.shrink_to_fit();
    }

    /// What is kept, by time, the last look included.
    pub fn looks(&self) -> impl Iterator<Item = &Look> {
        let is_there = self.samples.last().map(|look| look.at_ns) == Some(self.last.at_ns);
        self.samples.iter().chain((!is_there).then_some(&self.last))
    }

    /// Seconds between two looks, on average; `None` where there was one.
    pub fn interval_s(&self) -> Option<(f64, usize)> {
        let looks = (self.samples.len() - 1) * self.every + self.skipped;
        let ns = self.last.at_ns.saturating_sub(self.first.at_ns);
        (looks > 0).then(|| (ns as f64 / 1e9 / looks as f64, looks))
    }

    /// As a report has it; times are since `started_ns`.
    pub fn memory(&self, started_ns: u64, at_exit: Option<ExitSizes>) -> Memory {
        let since = |look: &Look| look.at_ns.saturating_sub(started_ns) as f64 / 1e9;
        let samples = self.looks().map(|look| MemorySample {
            t_s: since(look),
            sizes: look.sizes.shown.clone(),
        });
        let [mappings_at_start, mappings] = self.mappings.clone();
        Memory {
            start: self.first.sizes.shown.clone(),
            start_s: since(&self.first),
            start_copied: self.first.counted.copied_bytes(),
            end: self.last.sizes.shown.clone(),
            end_s: since(&self.last),
            samples: samples.collect(),
            mappings_at_start,
            mappings,
            at_exit,
            growth: growth(&self.first, &self.last),
        }
    }
}

/// Where the growth of private memory came from between two looks; `None` where a size is not known,
/// and where there is but one look.
fn growth(first: &Look, last: &Look) -> Option<PrivateGrowth> {
    if first.at_ns == last.at_ns {
        return None;
    }
    let (before, after) = (&first.sizes.shown, &last.sizes.shown);
    let more = |before: Option<u64>, after: Option<u64>| {
        Some(
            i64::try_from(after?)
                .ok()?
                .saturating_sub(i64::try_from(before?).ok()?),
        )
    };
    let private = more(before.private, after.private)?;
    let shared = more(before.shared, after.shared)?;
    let anonymous = more(before.anonymous, after.anonymous)?;
    let resident = more(before.rss, after.rss)?;
    let page = procfs::page_size() as i64;
    let pages = |of: fn(&Counted) -> u64| {
        (of(&last.counted).saturating_sub(of(&first.counted)) as i64).saturating_mul(page)
    };
    let copied = pages(|counted| counted.copied);
    let of_files = pages(|counted| counted.of_files);
    let mut new = pages(|counted| counted.new);
    // What was shared and is not, and was not copied by itself.
    let mut by_others = -shared - (copied - of_files);
    let mut files = resident - anonymous;
    // A page of a file that came and is mapped by others too is both, and neither is of interest.
    if by_others.signum() == -files.signum() {
        let both = by_others.abs().min(files.abs());
        by_others -= by_others.signum() * both;
        files -= files.signum() * both;
    }
    let mut rest = anonymous - new - of_files;
    // A huge page is touched once.
    let huge = last.sizes.huge as i64 - first.sizes.huge as i64;
    let more_new = rest.min(huge).max(0);
    new += more_new;
    rest -= more_new;
    Some(PrivateGrowth {
        private,
        copied,
        new,
        by_others,
        files,
        given_back: rest.min(0),
        unexplained: rest.max(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::MemorySizes;

    const PAGE: u64 = 4096;

    /// A look at a process with so many pages shared, private, anonymous and of files.
    fn look(at_ns: u64, [shared, private, anonymous]: [u64; 3], counted: Counted) -> Look {
        let bytes = |pages: u64| Some(pages * procfs::page_size());
        Look {
            at_ns,
            sizes: Sizes {
                shown: MemorySizes {
                    rss: bytes(shared + private),
                    shared: bytes(shared),
                    private: bytes(private),
                    anonymous: bytes(anonymous),
                    ..MemorySizes::default()
                },
                huge: 0,
            },
            counted,
        }
    }

    fn counted(copied: u64, of_files: u64, new: u64) -> Counted {
        Counted {
            copied,
            of_files,
            new,
            execs: 0,
        }
    }

    /// The growth between two looks, in pages.
    fn grown(first: [u64; 3], last: [u64; 3], counts: Counted) -> [i64; 7] {
        let found = growth(&look(1, first, Counted::default()), &look(2, last, counts)).unwrap();
        assert_eq!(found.private, found.parts(), "{found:?}");
        let PrivateGrowth {
            private,
            copied,
            new,
            by_others,
            files,
            given_back,
            unexplained,
        } = found;
        [
            private,
            copied,
            new,
            by_others,
            files,
            given_back,
            unexplained,
        ]
        .map(|bytes| bytes / procfs::page_size() as i64)
    }

    #[test]
    fn growth_is_told_apart_by_where_it_came_from() {
        assert_eq!(procfs::page_size(), PAGE);
        // 10 of 100 shared pages were copied, 5 are new.
        let found = grown([100, 0, 100], [90, 15, 105], counted(10, 0, 5));
        assert_eq!(found, [15, 10, 5, 0, 0, 0, 0]);
        // Another 20 were left to it.
        let found = grown([100, 0, 100], [70, 30, 100], counted(10, 0, 0));
        assert_eq!(found, [30, 10, 0, 20, 0, 0, 0]);
        // It forked a child, which shares all of it now.
        let found = grown([0, 100, 100], [100, 0, 100], counted(0, 0, 0));
        assert_eq!(found, [-100, 0, 0, -100, 0, 0, 0]);
        // It gave 8 of its own pages back.
        let found = grown([50, 20, 70], [50, 12, 62], counted(0, 0, 0));
        assert_eq!(found, [-8, 0, 0, 0, 0, -8, 0]);
        // It mapped 7 pages of a file that others have mapped, too.
        let found = grown([50, 20, 60], [57, 20, 60], counted(0, 0, 0));
        assert_eq!(found, [0; 7]);
        // It copied 3 pages of a file that only it had mapped.
        let found = grown([50, 20, 60], [50, 20, 63], counted(3, 3, 0));
        assert_eq!(found, [0, 3, 0, 0, -3, 0, 0]);
        // 6 pages are there, and nobody knows why.
        let found = grown([50, 20, 70], [50, 26, 76], counted(0, 0, 0));
        assert_eq!(found, [6, 0, 0, 0, 0, 0, 6]);
    }

    #[test]
    fn what_is_not_known_makes_no_growth() {
        let mut unread = look(2, [0; 3], Counted::default());
        unread.sizes.shown.private = None;
        assert_eq!(growth(&look(1, [1; 3], Counted::default()), &unread), None);
        let one = look(1, [1; 3], Counted::default());
        assert_eq!(growth(&one, &one), None);
    }

    #[test]
    fn looks_are_thinned_out_and_the_last_is_kept() {
        let mut history = History::new(look(0, [1; 3], Counted::default()));
        for at in 1..1000 {
            history.add(look(at, [1; 3], Counted::default()), 10);
            let looks: Vec<_> = history.looks().map(|look| look.at_ns).collect();
            assert!(looks.len() <= 11, "{looks:?}");
            assert_eq!((looks[0], looks[looks.len() - 1]), (0, at));
            assert!(looks.is_sorted());
            let (seconds, all) = history.interval_s().unwrap();
            assert!((seconds * 1e9 - 1.0).abs() < 0.2, "{seconds} after {all}");
        }
    }

    #[test]
    fn another_program_begins_anew() {
        let mut history = History::new(look(1, [9; 3], counted(5, 0, 0)));
        let other = Counted {
            execs: 1,
            ..Counted::default()
        };
        history.add(look(2, [1; 3], other), 10);
        assert_eq!(history.looks().count(), 1);
        assert_eq!(history.first.at_ns, 2);
    }
}
