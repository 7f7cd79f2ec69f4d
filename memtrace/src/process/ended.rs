//! The traced processes that have ended.
//!
//! A trace that lasts sees tens of thousands of them. Those that copied most are kept one by one;
//! the others are added up.

use std::collections::BTreeMap;

use super::facts::ProcessFacts;
use super::name::Name;
#[cfg(doc)]
use super::processes::OTHERS;
use super::processes::ProcessId;

/// Processes that have ended and are kept one by one.
pub const MOST_KEPT: usize = 1000;

/// Processes beyond [`MOST_KEPT`] after which some are added up: they are sought among all sums,
/// which takes long.
const SLACK: usize = 256;

/// The processes that have ended.
#[derive(Clone, Debug, Default)]
pub struct Ended {
    /// By first appearance.
    kept: BTreeMap<ProcessId, ProcessFacts>,
    others: Option<Others>,
}

/// Processes that were added up.
#[derive(Clone, Debug)]
pub struct Others {
    /// How many.
    pub count: u64,
    /// Their sums. Names are empty; it lasts from the first's start to the last's end.
    pub facts: ProcessFacts,
}

impl Ended {
    /// Adds a process that has just ended.
    pub fn add(&mut self, id: ProcessId, facts: ProcessFacts) {
        self.kept.insert(id, facts);
    }

    /// Those that are kept one by one, by first appearance.
    pub fn kept(&self) -> impl Iterator<Item = (ProcessId, &ProcessFacts)> {
        self.kept.iter().map(|(&id, facts)| (id, facts))
    }

    /// The sum of the others, if there are any; as a process they are [`OTHERS`].
    #[must_use]
    pub fn others(&self) -> Option<&Others> {
        self.others.as_ref()
    }

    /// Adds up those that copied least when there are too many; returns which.
    ///
    /// Whoever keeps something by process must add it up too, under [`OTHERS`].
    pub fn add_up(&mut self) -> Vec<ProcessId> {
        if self.kept.len() <= MOST_KEPT + SLACK {
            return Vec::new();
        }
        let copied = |facts: &ProcessFacts| facts.counters.copied.iter().sum::<u64>();
        let mut by_copies: Vec<_> = self.kept().map(|(id, facts)| (copied(facts), id)).collect();
        // Of those that copied the same, the earlier ones are added up.
        by_copies.sort_unstable();
        by_copies.truncate(self.kept.len() - MOST_KEPT);
        let ids: Vec<_> = by_copies.into_iter().map(|(_, id)| id).collect();
        for id in &ids {
            if let Some(facts) = self.kept.remove(id) {
                self.add_to_others(&facts);
            }
        }
        ids
    }

    fn add_to_others(&mut self, facts: &ProcessFacts) {
        match &mut self.others {
            None => {
                let nameless = ProcessFacts {
                    pid: 0,
                    ppid: 0,
                    name: Name::default(),
                    program: None,
                    container: None,
                    ..facts.clone()
                };
                self.others = Some(Others {
                    count: 1,
                    facts: nameless,
                });
            }
            Some(others) => {
                others.count += 1;
                others.facts.absorb(facts);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::facts::Times;

    fn process(pid: u32, pages: u64) -> ProcessFacts {
        let mut facts = ProcessFacts {
            pid,
            ppid: 1,
            name: Name::default(),
            container: None,
            times: Times {
                forked_ns: Some(u64::from(pid)),
                started_ns: u64::from(pid),
                start_boottime_ns: 0,
                exited_ns: Some(u64::from(pid) + 10),
            },
            counters: memtrace_common::process::Counters::ZERO,
            recorded: [pages, 0, 0, 0],
            last: None,
            program: None,
        };
        facts.counters.copied[0] = pages;
        facts
    }

    #[test]
    fn those_that_copied_least_are_added_up() {
        let mut ended = Ended::default();
        let count = MOST_KEPT + SLACK + 1;
        for id in 0..count {
            assert!(ended.add_up().is_empty());
            ended.add(id, process(id as u32 + 1, id as u64));
        }
        let gone = ended.add_up();
        let expected: Vec<ProcessId> = (0..=SLACK).collect();
        assert_eq!(gone, expected);
        assert_eq!(ended.kept().count(), MOST_KEPT);
        let others = ended.others().unwrap();
        let pages: u64 = expected.iter().map(|&id| id as u64).sum();
        assert_eq!(others.count, expected.len() as u64);
        assert_eq!(others.facts.counters.copied, [pages, 0, 0, 0]);
        assert_eq!(others.facts.recorded, [pages, 0, 0, 0]);
        assert_eq!(others.facts.times.started_ns, 1);
        assert_eq!(others.facts.times.exited_ns, Some(SLACK as u64 + 11));
    }
}
