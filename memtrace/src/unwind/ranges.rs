//! Which indices of a shared array are in use, in ranges.
//!
//! A BPF program may read what is given back for a moment longer, and the record of a process that
//! was forked with it may not have been read yet: it is free only a while later.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// For how long a range that was given back is not handed out again.
pub const QUARANTINE: Duration = Duration::from_secs(1);

/// Free ranges of indices.
pub struct Ranges {
    /// Length by first index; neighbours are merged.
    free: BTreeMap<u32, u32>,
    /// First index, length, and when it was given back.
    quarantine: VecDeque<(u32, u32, Instant)>,
}

impl Ranges {
    /// All indices below `len` are free.
    #[must_use]
    pub fn new(len: u32) -> Self {
        Self {
            free: (len > 0).then_some((0, len)).into_iter().collect(),
            quarantine: VecDeque::new(),
        }
    }

    /// Hands out `len` adjacent indices, and returns the first; `None` when there are not that
    /// many.
    ///
    /// What was given back is free again [`QUARANTINE`] later, and only once all records since then
    /// have been read: `all_read` is when that was last so.
    pub fn take(&mut self, len: u32, all_read: Instant) -> Option<u32> {
        while let Some(&(first, len, since)) = self.quarantine.front()
            && all_read.saturating_duration_since(since) >= QUARANTINE
        {
            self.quarantine.pop_front();
            self.merge(first, len);
        }
        let (&first, &room) = self
            .free
            .iter()
            .find(|&(_, &room)| len > 0 && room >= len)?;
        self.free.remove(&first);
        if room > len {
            self.free.insert(first + len, room - len);
        }
        Some(first)
    }

    /// Gives back a range that was handed out, whole.
    pub fn give_back(&mut self, first: u32, len: u32, now: Instant) {
        self.quarantine.push_back((first, len, now));
    }

    fn merge(&mut self, mut first: u32, mut len: u32) {
        if let Some(behind) = self.free.remove(&(first + len)) {
            len += behind;
        }
        let before = self.free.range(..first).next_back();
        if let Some((&start, &before)) = before
            && start + before == first
        {
            self.free.remove(&start);
            (first, len) = (start, before + len);
        }
        self.free.insert(first, len);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a model: who has each index.
        #[test]
        fn an_index_is_not_handed_out_twice(
            steps in proptest::collection::vec((any::<bool>(), 1_u32..40, 0_u64..1500), 1..200),
        ) {
            let mut ranges = Ranges::new(100);
            let mut now = Instant::now();
            let mut taken: Vec<(u32, u32)> = Vec::new();
            let mut resting: Vec<(u32, u32, Instant)> = Vec::new();
            for (give, len, pause) in steps {
                now += Duration::from_millis(pause);
                if give && !taken.is_empty() {
                    let (first, len) = taken.remove(len as usize % taken.len());
                    ranges.give_back(first, len, now);
                    resting.push((first, len, now));
                    continue;
                }
                resting.retain(|&(_, _, since)| now - since < QUARANTINE);
                let used = |index: u32| {
                    let mut both = taken.iter().copied().chain(resting.iter().map(|r| (r.0, r.1)));
                    both.any(|(first, len)| (first..first + len).contains(&index))
                };
                let fits = |first: u32| (first..first + len).all(|index| index < 100 && !used(index));
                let expected = (0..100).find(|&first| fits(first));
                prop_assert_eq!(ranges.take(len, now), expected);
                taken.extend(expected.map(|first| (first, len)));
            }
        }
    }

    #[test]
    fn what_is_not_there_is_not_handed_out() {
        assert_eq!(Ranges::new(0).take(1, Instant::now()), None);
        assert_eq!(Ranges::new(5).take(0, Instant::now()), None);
        assert_eq!(Ranges::new(5).take(6, Instant::now()), None);
    }
}
