//! What is known about a traced process, as plain data.

use std::path::Path;
use std::sync::Arc;

use memtrace_common::process::{Counters, ProcessSlot};
#[cfg(doc)]
use memtrace_common::record::Origin;

use super::container::Container;
use super::name::Name;

/// What is known about one traced process, as plain data.
#[derive(Clone, Debug)]
pub struct ProcessFacts {
    /// The kernel's tgid.
    pub pid: u32,
    /// The parent's.
    pub ppid: u32,
    /// What it is called.
    pub name: Name,
    /// The container that it runs in, shared with the parent until an exec; `None` where it runs in
    /// none.
    pub container: Option<Arc<Container>>,
    /// When it began and ended.
    pub times: Times,
    /// What the BPF side counted, when its slot was last read.
    pub counters: Counters,
    /// Copied pages whose records arrived, by [`Origin`] code.
    pub recorded: [u64; 4],
    /// What it had when it ended; `None` while it lives, and where the kernel does not say.
    pub last: Option<Last>,
    /// The file of the program that it ran when it was found, whatever it has run since; `None` for
    /// one that was forked during the trace, and where it may not be known.
    pub program: Option<Arc<Path>>,
}

/// What a process had when it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Last {
    /// Processor time of its threads, in nanoseconds.
    pub cpu_ns: u64,
    /// Pages, as in [`ProcessSlot::resident`].
    pub resident: [u64; 4],
}

impl Last {
    /// What the table says of a process that has ended.
    #[must_use]
    pub fn of(entry: &ProcessSlot) -> Option<Self> {
        let (cpu_ns, resident) = (entry.cpu_ns, entry.resident);
        (cpu_ns > 0).then_some(Self { cpu_ns, resident })
    }
}

/// When a process began and ended, in nanoseconds of `CLOCK_MONOTONIC` unless stated otherwise.
#[derive(Clone, Copy, Debug, Default)]
#[expect(
    clippy::struct_field_names,
    reason = "a time without its unit is a riddle"
)]
pub struct Times {
    /// When it was forked; `None` when that was before the trace.
    pub forked_ns: Option<u64>,
    /// When it was started, even if that was before the trace.
    pub started_ns: u64,
    /// When it was started, in nanoseconds of `CLOCK_BOOTTIME`, as the kernel keeps it: together
    /// with the pid this says which process it is.
    pub start_boottime_ns: u64,
    /// When it ended; `None` while it lives.
    pub exited_ns: Option<u64>,
}

impl ProcessFacts {
    /// Adds up what can be: figures, and the time from the first's start to the last's end.
    pub fn absorb(&mut self, other: &Self) {
        self.counters.absorb(&other.counters);
        for (sum, more) in self.recorded.iter_mut().zip(other.recorded) {
            *sum += more;
        }
        let times = &mut self.times;
        times.forked_ns = times
            .forked_ns
            .zip(other.times.forked_ns)
            .map(|(a, b)| a.min(b));
        times.started_ns = times.started_ns.min(other.times.started_ns);
        times.exited_ns = times.exited_ns.max(other.times.exited_ns);
        // Only what is known of all is known of the sum.
        self.last = self.last.zip(other.last).map(|(sum, more)| Last {
            cpu_ns: sum.cpu_ns + more.cpu_ns,
            resident: std::array::from_fn(|i| sum.resident[i] + more.resident[i]),
        });
    }

    /// Copied pages that were counted and whose records have not arrived, by [`Origin`] code.
    #[must_use]
    pub fn missing(&self) -> [u64; 4] {
        std::array::from_fn(|origin| {
            self.counters.copied[origin].saturating_sub(self.recorded[origin])
        })
    }

    /// Splits [`ProcessFacts::missing`]: pages whose records found no room, and pages whose records
    /// are still on their way.
    #[must_use]
    pub fn lost_and_pending(&self) -> ([u64; 4], [u64; 4]) {
        let missing = self.missing();
        // The counters were read one after the other, while the BPF side may have changed them.
        let lost = std::array::from_fn(|origin| self.counters.lost[origin].min(missing[origin]));
        let pending = std::array::from_fn(|origin| missing[origin] - lost[origin]);
        (lost, pending)
    }
}
