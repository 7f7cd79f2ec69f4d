//! One fault's window: opened when the fault enters the kernel, marked with what the kernel does
//! in it, closed when it ends.
//!
//! Backends call these functions with plain values, each about the running thread and after the
//! gate (see [`thread`](crate::thread)). What the marks decide is in [`memtrace_common::origin`].
//!
//! A thread has at most one window. Any exception of the thread settles the one before: a fault
//! that failed leaves a window that nothing closes, and its marks must not count for another. A
//! fault that succeeded and whose end was not seen (the kernel skips a program when another one is
//! interrupted on the same CPU) is known by the thread's own fault counts, which the kernel raises
//! by one for each fault that it completes: such a copy is counted, without latency and stack.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_log_ebpf::trace;
use memtrace_common::config::UNWIND_OFF;
use memtrace_common::origin::{
    ALLOCATED, FREED, HUGETLB, Outcome, PRESENT, RSS_ANON, RSS_FILE, SWAPPED_IN, ZEROED, outcome,
};
use memtrace_common::process::{ProcessSlot, SLOT_LIVE};
use memtrace_common::record::{Cause, FAULT_NO_END, FaultRecord, Origin, RecordKind};

use crate::arch::PAGE_SHIFT;
use crate::cause::Judged;
use crate::interpreter::Interpreter;
use crate::maps::PROCESSES;
use crate::registers::Registers;
use crate::task::Task;
use crate::thread::Thread;
use crate::{atomic, globals, ring, sample, stack};

/// Mark: there is an open window. The other marks are those of [`memtrace_common::origin`].
const OPEN: u32 = 1 << 31;
/// Mark: the kernel wrote, on behalf of a system call.
const BY_KERNEL: u32 = 1 << 30;

/// A write fault on user memory, as it enters the kernel.
pub struct Opening {
    /// The address written to.
    pub address: u64,
    /// The user-mode instruction.
    pub ip: u64,
    /// Whether the page was present.
    pub present: bool,
    /// Whether the kernel wrote, on behalf of a system call.
    pub by_kernel: bool,
}

/// Which of a process's counts of resident pages changed.
#[derive(Clone, Copy)]
pub enum Resident {
    /// That of pages of files.
    File,
    /// That of anonymous pages.
    Anonymous,
    /// That of pages in swap.
    Swap,
    /// That of pages of shared memory.
    Shared,
}

/// A copy that has been counted, and whose record has not been sent.
pub struct Copied {
    thread: *mut Thread,
    process: *mut ProcessSlot,
    origin: Origin,
    address: u64,
    by_kernel: bool,
    latency_ns: u32,
}

/// A fault enters the kernel. Whatever exception it is, [`abandon`] has been called for it.
#[inline(always)]
pub fn open(thread: *mut Thread, task: Task, opening: Opening) {
    let mut marks = OPEN;
    if opening.present {
        marks |= PRESENT;
    }
    if opening.by_kernel {
        marks |= BY_KERNEL;
    }
    // SAFETY: callers pass a live value; only its own thread writes the window. The helper has no
    // preconditions.
    unsafe {
        let window = &mut (*thread).window;
        window.address = opening.address;
        window.ip = opening.ip;
        window.marks = marks;
        window.page = 0;
        window.faults = task.faults();
        if !opening.present {
            window.hugetlb_pages = task.hugetlb_pages();
        }
        window.opened_ns = bpf_ktime_get_ns();
    }
}

/// The kernel allocated a page for user memory. `page` is its address, or whatever else tells it
/// from others; `zeroed` says that it does not get old contents.
#[inline(always)]
pub fn page_allocated(thread: *mut Thread, task: Task, page: u64, zeroed: bool) {
    // SAFETY: callers pass a live value; only its own thread writes the window.
    let window = unsafe { &mut (*thread).window };
    if window.marks & OPEN == 0 {
        return;
    }
    if task.faults() != window.faults {
        // The fault is over: this page is for something else.
        abandon(thread, task);
        return;
    }
    if window.marks & (ALLOCATED | FREED) == ALLOCATED {
        // The new page comes first; a second one is for the page cache.
        return;
    }
    window.page = page;
    let zeroed = if zeroed { ZEROED } else { 0 };
    // What was counted before may have been reclaim on the way to this page.
    let cleared = FREED | ZEROED | RSS_ANON | RSS_FILE;
    window.marks = window.marks & !cleared | ALLOCATED | zeroed;
}

/// The kernel gave a page back.
#[inline(always)]
pub fn page_freed(thread: *mut Thread, page: u64) {
    // SAFETY: callers pass a live value; only its own thread writes the window.
    let window = unsafe { &mut (*thread).window };
    // A page that is tried again is freed and allocated anew: the allocation removes this mark.
    if window.marks & OPEN != 0 && window.page == page {
        window.marks |= FREED;
    }
}

/// A count of resident pages of the process with this `mm_struct` changed.
#[inline(always)]
pub fn rss_changed(thread: *mut Thread, task: Task, mm: u64, count: Resident) {
    // SAFETY: callers pass a live value; only its own thread writes the window.
    let window = unsafe { &mut (*thread).window };
    // Reclaim changes the counts of others.
    if window.marks & OPEN == 0 || task.mm() != mm {
        return;
    }
    match count {
        Resident::Anonymous => window.marks |= RSS_ANON,
        Resident::File | Resident::Shared => window.marks |= RSS_FILE,
        // What is present does not come back from swap: on its way to a new page the kernel wrote
        // another page of this process there.
        Resident::Swap if window.marks & PRESENT != 0 => {}
        Resident::Swap => {
            // The page allocated so far was for what swap gave back. A copy needs another.
            window.page = 0;
            window.marks = window.marks & (OPEN | BY_KERNEL | PRESENT) | SWAPPED_IN;
        }
    }
}

/// A fault on `address` ended: counts it. A copy must then be sent.
#[inline(always)]
pub fn close(thread: *mut Thread, task: Task, address: u64) -> Option<Copied> {
    // SAFETY: callers pass a live value; only its own thread writes the window.
    let window = unsafe { &mut (*thread).window };
    if window.marks & OPEN == 0 || (window.address ^ address) >> PAGE_SHIFT != 0 {
        return None;
    }
    let mut marks = window.marks;
    window.marks = 0;
    // Pages of hugetlb come without any other event.
    if marks & (PRESENT | ALLOCATED) == 0 && task.hugetlb_pages() != window.hugetlb_pages {
        marks |= HUGETLB;
    }
    let process = live_process(thread)?;
    let origin = settle(process, marks)?;
    // SAFETY: the helper has no preconditions.
    let latency = unsafe { bpf_ktime_get_ns() }.saturating_sub(window.opened_ns);
    Some(Copied {
        thread,
        process,
        origin,
        address,
        by_kernel: marks & BY_KERNEL != 0,
        latency_ns: if latency > u64::from(u32::MAX) {
            u32::MAX
        } else {
            latency as u32
        },
    })
}

impl Copied {
    /// Whether the kernel wrote, so that the fault's own registers are the kernel's.
    #[inline(always)]
    pub fn by_kernel(&self) -> bool {
        self.by_kernel
    }

    /// Finds out where the write came from and what it was, and sends the record. `registers` are
    /// those of the user's code.
    #[inline(always)]
    pub fn send(self, ctx: &impl EbpfContext, registers: Registers) {
        let Self {
            thread,
            process,
            address,
            by_kernel,
            ..
        } = self;
        // SAFETY: the process is a live map value.
        let interpreter = Interpreter::of(unsafe { (*process).interpreter });
        let stack_id = if globals::UNWIND.load() == UNWIND_OFF && interpreter.is_none() {
            0
        } else {
            stack::record(thread, process, registers, interpreter)
        };
        let judged = match interpreter {
            Some(interpreter) if !by_kernel => interpreter.judge(address),
            _ => Judged::unseen(unseen_cause(by_kernel)),
        };
        // SAFETY: the thread is a live value.
        let pid = unsafe { (*thread).pid };
        trace!(
            ctx,
            "copy: pid {} address {:x} stack {:x}", pid, address, stack_id
        );
        let seen = Seen {
            latency_ns: self.latency_ns,
            stack_id,
            flags: 0,
            judged,
        };
        send(thread, process, self.origin, seen);
    }
}

/// Settles a window that was not closed: see the module's text.
#[inline(always)]
pub fn abandon(thread: *mut Thread, task: Task) {
    // SAFETY: callers pass a live value of the running thread.
    let window = unsafe { &mut (*thread).window };
    let marks = window.marks;
    if marks & OPEN == 0 {
        return;
    }
    window.marks = 0;
    if marks & (ALLOCATED | FREED | ZEROED) != ALLOCATED
        || task.faults() != window.faults.wrapping_add(1)
    {
        return;
    }
    let Some(process) = live_process(thread) else {
        return;
    };
    if let Some(origin) = settle(process, marks) {
        // SAFETY: the slot is live.
        unsafe { atomic::add(&raw mut (*process).counters.no_end, 1) };
        let seen = Seen {
            latency_ns: 0,
            stack_id: 0,
            flags: FAULT_NO_END,
            judged: Judged::unseen(unseen_cause(marks & BY_KERNEL != 0)),
        };
        send(thread, process, origin, seen);
    }
}

/// The cause of a write when memory was not looked at.
#[inline(always)]
fn unseen_cause(by_kernel: bool) -> Cause {
    if by_kernel {
        Cause::Kernel
    } else {
        Cause::Unknown
    }
}

/// The process of a traced thread; `None` when all of it has ended: a thread's very last writes
/// can come after its slot was given back.
#[inline(always)]
fn live_process(thread: *mut Thread) -> Option<*mut ProcessSlot> {
    // SAFETY: callers pass a live value of the running thread; the slot is a live map value.
    unsafe {
        let process = PROCESSES.get_ptr_mut((*thread).slot)?;
        let alive = (*process).state == SLOT_LIVE && (*process).pid == (*thread).pid;
        alive.then_some(process)
    }
}

/// Counts a fault; returns the origin of the page when it was copied.
#[inline(always)]
fn settle(process: *mut ProcessSlot, marks: u32) -> Option<Origin> {
    // SAFETY: callers pass a live map value; counters are only changed atomically.
    unsafe {
        let counters = &raw mut (*process).counters;
        match outcome(marks) {
            Outcome::Copied(Origin::File) => {
                atomic::add(&raw mut (*counters).copied[Origin::File as usize], 1);
                return Some(Origin::File);
            }
            Outcome::Copied(_) => {
                atomic::add(&raw mut (*counters).copied[Origin::Fork as usize], 1);
                return Some(Origin::Fork);
            }
            Outcome::Reuse => atomic::add(&raw mut (*counters).reuse, 1),
            Outcome::Zero => atomic::add(&raw mut (*counters).zero, 1),
            Outcome::FirstTouch => atomic::add(&raw mut (*counters).first_touch, 1),
            Outcome::SettledElsewhere => {
                atomic::add(&raw mut (*counters).settled_elsewhere, 1);
            }
        }
    }
    None
}

/// What was seen of a copy's end.
struct Seen {
    latency_ns: u32,
    stack_id: u64,
    flags: u8,
    judged: Judged,
}

/// Sends a copy's record, or counts it as lost.
#[inline(always)]
fn send(thread: *mut Thread, process: *mut ProcessSlot, origin: Origin, seen: Seen) {
    // SAFETY: callers pass a live value of the running thread.
    let (slot, window) = unsafe { ((*thread).slot, &(*thread).window) };
    sample::copied(process, slot, window.address, origin);
    let sent = ring::send_fault(FaultRecord {
        kind: RecordKind::Fault.code(),
        origin: origin.code(),
        cause: seen.judged.cause,
        flags: seen.flags,
        slot,
        // SAFETY: callers pass a live map value, whose program only its last thread replaces.
        execs: unsafe { (*process).execs },
        latency_ns: seen.latency_ns,
        time_ns: window.opened_ns,
        address: window.address,
        ip: window.ip,
        stack_id: seen.stack_id,
        object_type: seen.judged.object_type,
        evidence: u32::from(seen.judged.evidence),
        offset: seen.judged.offset,
    });
    if !sent {
        // SAFETY: callers pass a live map value.
        unsafe {
            let lost = &raw mut (*process).counters.lost;
            // The origins that `settle` can give.
            match origin {
                Origin::File => atomic::add(&raw mut (*lost)[Origin::File as usize], 1),
                _ => atomic::add(&raw mut (*lost)[Origin::Fork as usize], 1),
            }
        }
    }
}
