//! What waits to be built, and what comes next.
//!
//! Nobody must wait long for a small file because somebody else has large ones. So each is due when
//! it was asked for, and later by what it costs: a small one is built before the large ones that
//! were asked for a little earlier, but not before those that have waited longer than they cost.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

/// By how much each byte puts a file off. A table is built at about a hundredth of that.
const PER_BYTE: Duration = Duration::from_nanos(10);

/// By how much any file is put off, at most.
const MOST: Duration = Duration::from_secs(2);

/// What waits, the one that is due first on top.
pub struct Queue<T> {
    waiting: BinaryHeap<Reverse<Waiting<T>>>,
    asked: u64,
}

struct Waiting<T> {
    due: Instant,
    /// Of two that are due together, the one that was asked for first.
    number: u64,
    what: T,
}

impl<T> Queue<T> {
    /// Nothing waits.
    #[must_use]
    pub fn new() -> Self {
        Self {
            waiting: BinaryHeap::new(),
            asked: 0,
        }
    }

    /// Adds what was asked for at `now` and costs `bytes`.
    pub fn push(&mut self, what: T, bytes: u64, now: Instant) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let off = PER_BYTE.saturating_mul(bytes).min(MOST);
        self.asked += 1;
        self.waiting.push(Reverse(Waiting {
            due: now + off,
            number: self.asked,
            what,
        }));
    }

    /// Takes what is due first.
    pub fn pop(&mut self) -> Option<T> {
        Some(self.waiting.pop()?.0.what)
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

impl<T> Waiting<T> {
    fn key(&self) -> (Instant, u64) {
        (self.due, self.number)
    }
}

impl<T> PartialEq for Waiting<T> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<T> Eq for Waiting<T> {}

impl<T> PartialOrd for Waiting<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Waiting<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_files_come_first_and_equal_ones_in_turn() {
        let mut queue = Queue::new();
        let now = Instant::now();
        for (name, bytes) in [("large", 60 << 20), ("b", 4096), ("c", 4096), ("a", 100)] {
            queue.push(name, bytes, now);
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, ["a", "b", "c", "large"]);
        assert!(queue.is_empty());
    }

    #[test]
    fn what_waits_longest_is_not_passed_for_ever() {
        let mut queue = Queue::new();
        let now = Instant::now();
        queue.push("enormous", u64::MAX, now);
        queue.push("soon", 1, now + MOST / 2);
        queue.push("later", 1, now + MOST + Duration::from_millis(1));
        assert_eq!(queue.pop(), Some("soon"));
        assert_eq!(queue.pop(), Some("enormous"));
        assert_eq!(queue.pop(), Some("later"));
    }
}
