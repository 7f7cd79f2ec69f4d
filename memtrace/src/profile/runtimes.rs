//! Runtimes of a profile's processes that are not read.

use std::collections::BTreeMap;

use super::{Profile, RuntimeSeen};

/// A runtime that is not read, in processes that copied pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadRuntime {
    /// Which.
    pub runtime: RuntimeSeen,
    /// How many processes have it and copied pages.
    pub processes: u64,
    /// Pages that these copied, whoever in them did it.
    pub pages: u64,
}

/// The runtimes that are not read and were mapped in processes that copied pages; first the one
/// whose processes copied most. A process with several counts for each of them.
#[must_use]
pub fn unread_runtimes(profile: &Profile) -> Vec<UnreadRuntime> {
    let mut sums: BTreeMap<&RuntimeSeen, (u64, u64)> = BTreeMap::new();
    let copied = |process: &&super::Process| process.copied_pages > 0;
    for process in profile.processes.iter().filter(copied) {
        for runtime in &process.runtimes {
            let (processes, pages) = sums.entry(runtime).or_default();
            // A profile may come from anywhere.
            *processes = processes.saturating_add(process.count());
            *pages = pages.saturating_add(process.copied_pages);
        }
    }
    let found = sums.into_iter().map(|(runtime, (processes, pages))| {
        let runtime = runtime.clone();
        UnreadRuntime {
            runtime,
            processes,
            pages,
        }
    });
    let mut found: Vec<_> = found.collect();
    found.sort_by_key(|unread| std::cmp::Reverse(unread.pages));
    found
}

#[cfg(test)]
mod tests {
    use super::super::sample::sample;
    use super::*;

    fn seen(name: &str) -> RuntimeSeen {
        RuntimeSeen {
            name: name.to_owned(),
            version: None,
        }
    }

    #[test]
    fn only_processes_that_copied_count() {
        let mut profile = sample();
        assert!(unread_runtimes(&profile).is_empty());
        let copied: Vec<_> = (profile.processes.iter_mut())
            .filter(|process| process.copied_pages > 0)
            .take(2)
            .collect();
        let [first, second] = &copied[..] else {
            panic!("the sample has two processes that copied");
        };
        let (first, second) = (first.copied_pages, second.copied_pages);
        for process in copied {
            process.runtimes = vec![seen("Lua")];
            if process.copied_pages == first {
                process.runtimes.push(seen("PHP"));
            }
        }
        let idle = profile.processes.iter_mut().find(|p| p.copied_pages == 0);
        if let Some(idle) = idle {
            idle.runtimes = vec![seen("R")];
        }
        let unread = |name, processes, pages| UnreadRuntime {
            runtime: seen(name),
            processes,
            pages,
        };
        let expected = [unread("Lua", 2, first + second), unread("PHP", 1, first)];
        assert_eq!(unread_runtimes(&profile), expected);
    }
}
