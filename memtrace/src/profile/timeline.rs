//! What happened when.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::CauseName;

/// Most bins of a [`Timeline`].
pub const MOST_BINS: usize = 600;

/// What happened when, in bins of equal width from the beginning of the trace on. All lists have the
/// same length.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timeline {
    /// Seconds that a bin is wide.
    pub interval_s: f64,
    /// Copied bytes, by cause; causes without copies are absent. Copies without a record are not in
    /// here.
    pub by_cause: BTreeMap<CauseName, Vec<u64>>,
    /// Copied bytes and memory, by role; the roles are those of `roles`.
    pub by_role: Vec<RoleTimeline>,
    /// Copied bytes by pid, of the processes that copied most.
    #[serde(default)]
    pub by_process: BTreeMap<u32, Vec<u64>>,
    /// Processes that were forked.
    pub forks: Vec<u64>,
    /// Processes that ended.
    pub exits: Vec<u64>,
    /// Programs that were replaced.
    pub execs: Vec<u64>,
}

/// One role's part of a [`Timeline`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RoleTimeline {
    /// The role's [`id`](super::Role::id).
    pub role: String,
    /// Copied bytes.
    pub copied: Vec<u64>,
    /// Processes that were looked at.
    pub processes: Vec<u64>,
    /// The sum of what each of these shared with others; `None` where none was looked at.
    pub shared: Vec<Option<u64>>,
    /// The sum of their private memory.
    pub private: Vec<Option<u64>>,
}

impl Timeline {
    /// How many bins there are.
    #[must_use]
    pub fn bins(&self) -> usize {
        self.forks.len()
    }

    /// Copied bytes of all causes, by bin.
    #[must_use]
    pub fn copied(&self) -> Vec<u64> {
        let mut sums = vec![0u64; self.bins()];
        for bytes in self.by_cause.values() {
            for (sum, more) in sums.iter_mut().zip(bytes) {
                *sum = sum.saturating_add(*more);
            }
        }
        sums
    }
}
