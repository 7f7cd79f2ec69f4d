//! The table of traced processes: one memory-mapped array, written by the BPF side and read by the
//! loader without a system call.
//!
//! A slot is [`SLOT_FREE`] until the BPF side claims it for a new process ([`SLOT_LIVE`]),
//! [`SLOT_EXITED`] when the last thread has ended, and [`SLOT_FREE`] again when the loader has read
//! the counters and released it. Counters are exact whatever happens to the ring buffer.

use crate::assert_layout;

/// How many processes can be in the table at once: live ones, and exited ones that the loader has
/// not released yet. A process for which there is no slot is counted, see
/// [`Health::processes_lost`].
pub const MAX_PROCESSES: u32 = 16_384;

/// In place of a slot number, when there is not one.
pub const NO_SLOT: u32 = u32::MAX;

/// [`ProcessSlot::state`]: not in use.
pub const SLOT_FREE: u64 = 0;
/// [`ProcessSlot::state`]: being filled in, so that nobody else may read it yet.
pub const SLOT_CLAIMED: u64 = 1;
/// [`ProcessSlot::state`]: of a process that is being traced.
pub const SLOT_LIVE: u64 = 2;
/// [`ProcessSlot::state`]: of a process that has ended; the loader may release it.
pub const SLOT_EXITED: u64 = 3;

/// One traced process.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub struct ProcessSlot {
    /// `SLOT_*`.
    pub state: u64,
    /// Live threads.
    pub threads: u64,
    /// The process, as the kernel's tgid.
    pub pid: u32,
    /// The parent when it was found or forked, as the kernel's tgid.
    pub parent_pid: u32,
    /// The parent's slot, or [`NO_SLOT`]. Only good until the parent's slot is released.
    pub parent_slot: u32,
    /// How often it replaced its program since it was found: the *generation* of what is known
    /// about it. See [`ProcessSlot::program`].
    pub execs: u32,
    /// When it was forked, in nanoseconds of `CLOCK_MONOTONIC`; 0 for a process found at attach.
    pub forked_ns: u64,
    /// When its last thread ended, in nanoseconds of `CLOCK_MONOTONIC`; 0 while it lives.
    pub exited_ns: u64,
    /// The kernel's `start_boottime` of the process, in nanoseconds of `CLOCK_BOOTTIME`. With the
    /// pid it says who the process is. /proc/PID/stat shows it in ticks.
    pub start_boottime_ns: u64,
    /// Its interpreter, as [`Handle::in_slot`](crate::interpreter::Handle::in_slot) says: the
    /// handle, and the generation that it is about. Without a handle while it is not known to have
    /// one. Written by the loader, inherited at fork, and without a handle again after exec.
    pub interpreter: u64,
    /// Its set of mappings, a [`SetHandle`](crate::unwind::SetHandle);
    /// [`SetHandle::none`](crate::unwind::SetHandle::none) while its mappings are not known.
    /// Written by the loader, inherited at fork, and none again after exec.
    pub mappings: u64,
    /// Number of the program that it runs, from [`program_number`]; see there. Inherited at fork,
    /// and another after exec. The loader may replace it by another number that was made so.
    ///
    /// **Exec and the loader.** The loader looks at /proc and then stores what it found, and an
    /// exec may come between the two. So exec says first that it begins and last that it is over,
    /// with fully ordered instructions between: `interpreter` with the next generation, then
    /// `mappings`, `program`, and at the end `execs`. The loader, which stores what it knows about
    /// one generation, reads the other way round: `execs`, the word that it will replace, and the
    /// generation in `interpreter`. It goes on if both are its own, and replaces the word only if
    /// it is still the one that was read.
    ///
    /// - If all of an exec came before: `execs` is another.
    /// - If it had begun when the word was read: `interpreter` is another.
    /// - If it begins after that: the word is replaced, and then exec's store follows; or exec's
    ///   store came first, and the word is not the one that was read. (`mappings` and `program`
    ///   never have a value twice, and `interpreter` has its generation.)
    /// - If the exec that began the loader's own generation is not over: `execs` is another. So
    ///   nothing that the loader stores for a generation is overwritten by the exec before it.
    pub program: u64,
    /// Name of the thread group's leader at fork or exec, as the kernel keeps it.
    pub comm: [u8; 16],
    /// What was counted for it.
    pub counters: Counters,
    /// Processor time that its threads had when the last one ended, in nanoseconds; 0 while it lives,
    /// and where the kernel does not say when the last one ends (before 6.16).
    pub cpu_ns: u64,
    /// Pages that it had then, by the kernel's counters `MM_FILEPAGES`, `MM_ANONPAGES`, `MM_SWAPENTS`
    /// and `MM_SHMEMPAGES`, in that order; all 0 under the same conditions. What CPUs have not added
    /// to these counters yet is not in here.
    pub resident: [u64; 4],
}
assert_layout!(ProcessSlot, size = 256);

/// Bits of [`program_number`] that are the slot.
const SLOT_BITS: u32 = MAX_PROCESSES.ilog2();

/// A number for the program that the process in `slot` runs from `now_ns` on, which no other exec
/// and no other process that is found has: a slot has one of them at a time. (The upper bits of a
/// time that is more than 13 days are lost. The same slot would have to come by an exec at the same
/// nanosecond of another such period.) It is part of a stack's id, so that the stacks of a program
/// are known apart from those of any other; children that were forked run the same.
#[must_use]
#[inline(always)]
pub const fn program_number(now_ns: u64, slot: u32) -> u64 {
    now_ns << SLOT_BITS | slot as u64 & (MAX_PROCESSES as u64 - 1)
}

/// Faults of one process, each counted in exactly one field, except [`Counters::lost`] and
/// [`Counters::no_end`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Counters {
    /// Copied pages by [`Origin`](crate::record::Origin) code.
    pub copied: [u64; 4],
    /// Those of the copied pages whose record found no room in the ring buffer, by
    /// [`Origin`](crate::record::Origin) code.
    pub lost: [u64; 4],
    /// Those of the copied pages whose fault was not seen to end, so that latency and stack are not
    /// known.
    pub no_end: u64,
    /// Write-protection faults settled without a new page. In a process of several threads these
    /// are also faults on a page that another thread had just made writable: no event tells them
    /// apart.
    pub reuse: u64,
    /// The zero page, replaced by a page of zeroes.
    pub zero: u64,
    /// Write faults on an absent page that got no copy.
    pub first_touch: u64,
    /// Write faults that split a huge mapping. Only some backends see them: `backend` in
    /// memtrace-ebpf says which. 0 with the others, and the loader then reports it as not known.
    pub split: u64,
    /// Faults that gave the process no page and copied none, because another thread had settled
    /// them, or the kernel had.
    pub settled_elsewhere: u64,
    /// Stacks whose record found no room in the ring buffer.
    pub lost_stacks: u64,
}
assert_layout!(Counters, size = 120);

impl Counters {
    /// Nothing counted.
    pub const ZERO: Self = Self {
        copied: [0; 4],
        lost: [0; 4],
        no_end: 0,
        reuse: 0,
        zero: 0,
        first_touch: 0,
        split: 0,
        settled_elsewhere: 0,
        lost_stacks: 0,
    };

    /// Adds what another process has.
    pub fn absorb(&mut self, other: &Self) {
        // Without the rest pattern, so that a new field is not forgotten.
        let Self {
            copied,
            lost,
            no_end,
            reuse,
            zero,
            first_touch,
            split,
            settled_elsewhere,
            lost_stacks,
        } = other;
        for (sum, more) in self.copied.iter_mut().zip(copied) {
            *sum += more;
        }
        for (sum, more) in self.lost.iter_mut().zip(lost) {
            *sum += more;
        }
        for (sum, more) in [
            (&mut self.no_end, no_end),
            (&mut self.reuse, reuse),
            (&mut self.zero, zero),
            (&mut self.first_touch, first_touch),
            (&mut self.split, split),
            (&mut self.settled_elsewhere, settled_elsewhere),
            (&mut self.lost_stacks, lost_stacks),
        ] {
            *sum += more;
        }
    }
}

/// What went wrong on the BPF side, over all processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Health {
    /// Processes forked by traced ones that are not traced, because the table was full or the
    /// kernel had no memory for them. Those that were there before are in [`Search`].
    pub processes_lost: u64,
    /// Threads begun by traced ones that are not traced, because the kernel had no memory for them.
    pub threads_lost: u64,
    /// Fork, exec and exit records that found no room in the ring buffer. The process table still
    /// has what they would have said.
    pub lifecycle_lost: u64,
}
assert_layout!(Health, size = 24);

/// What the kernel's passes over all threads came to, at attach. It only rises: what one pass came
/// to is the difference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Search {
    /// Processes and threads that were added, or that another program was just adding.
    pub taken: u64,
    /// Processes for which there was no room.
    pub processes_refused: u64,
    /// Threads of traced processes for which there was no room.
    pub threads_refused: u64,
}
assert_layout!(Search, size = 24);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_that_begin_at_the_same_time_or_in_the_same_slot_have_different_numbers() {
        let numbers = [(7, 0), (7, 1), (7, MAX_PROCESSES - 1), (8, 0), (8, 1)]
            .map(|(now_ns, slot)| program_number(now_ns, slot));
        for (n, number) in numbers.iter().enumerate() {
            assert!(!numbers[n + 1..].contains(number), "{numbers:?}");
        }
    }
}
