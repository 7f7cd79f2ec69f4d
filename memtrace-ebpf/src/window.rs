//! One fault's window: opened when the fault enters the kernel, marked with what the kernel does
//! in it, closed when it ends.
//!
//! A thread has at most one window. Any exception of the thread settles the one before: a fault
//! that failed leaves a window that nothing closes, and its marks must not count for another. A
//! fault that succeeded and whose end was not seen (the kernel skips a program when another one is
//! interrupted on the same CPU) is known by the thread's own fault counts, which the kernel raises
//! by one for each fault that it completes: such a copy is counted, without latency and stack.

use aya_ebpf::bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::programs::{BtfTracePointContext, PerfEventContext};
use aya_log_ebpf::trace;
use core::ffi::c_void;
use memtrace_common::config::UNWIND_OFF;
use memtrace_common::interpreter::python::Layout;
use memtrace_common::process::{ProcessSlot, SLOT_LIVE};
use memtrace_common::record::{
    Cause, FAULT_NO_END, FAULT_NO_STACK, FaultRecord, Origin, RecordKind,
};

use crate::atomic;
use crate::cause::{self, Judged};
use crate::maps::{EVENTS, PROCESSES, SCRATCH, Thread};
use crate::origin::{self, Outcome};
use crate::task::{Task, field};
use crate::{globals, python, stack};

/// Error code of a page fault: the page was present.
const PF_PROT: u64 = 1 << 0;
/// Error code of a page fault: it was a write.
const PF_WRITE: u64 = 1 << 1;

/// Allocation flags. The loader checks them against the running kernel's own.
const GFP_MOVABLE: u32 = 0x08;
const GFP_ZERO: u32 = 0x100;
const GFP_DIRECT_RECLAIM: u32 = 0x400;
const GFP_NORETRY: u32 = 0x1_0000;

/// `rss_stat` members.
const MM_FILEPAGES: u32 = 0;
const MM_ANONPAGES: u32 = 1;
const MM_SWAPENTS: u32 = 2;
const MM_SHMEMPAGES: u32 = 3;

/// Bytes in a page, as a shift.
const PAGE_SHIFT: u32 = 12;

/// [`Window::marks`]: there is an open window. The other marks are those of [`origin`].
const OPEN: u32 = 1 << 31;
/// [`Window::marks`]: the kernel wrote, on behalf of a system call.
const BY_KERNEL: u32 = 1 << 30;

/// A fault, while it lasts.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Window {
    /// The address written to.
    address: u64,
    /// The user-mode instruction.
    ip: u64,
    /// When it began.
    opened_ns: u64,
    /// The page that was allocated, as the kernel's pointer; only compared.
    page: u64,
    /// The thread's completed faults when it began.
    faults: u64,
    /// What is known so far.
    marks: u32,
    _pad: u32,
}

impl Window {
    /// No fault.
    pub const CLOSED: Self = Self {
        address: 0,
        ip: 0,
        opened_ns: 0,
        page: 0,
        faults: 0,
        marks: 0,
        _pad: 0,
    };
}

/// Who faulted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// User code.
    User,
    /// The kernel, for a system call.
    Kernel,
}

/// A fault enters the kernel. The context's arguments: address, registers, error code.
#[inline(always)]
pub fn open(ctx: &BtfTracePointContext, mode: Mode) -> Option<()> {
    let task = Task::current();
    let thread = Thread::of(task)?;
    abandon(thread, task);
    let address: u64 = ctx.arg(0);
    let error: u64 = ctx.arg(2);
    // The upper half is the kernel's own memory.
    if error & PF_WRITE == 0 || address >> 63 != 0 {
        return None;
    }
    let present = if error & PF_PROT == 0 {
        0
    } else {
        origin::PRESENT
    };
    // SAFETY: the lookup gave a live value; only its own thread writes the window. The helper has
    // no preconditions.
    unsafe {
        let window = &mut (*thread).window;
        window.address = address;
        match mode {
            Mode::User => {
                window.ip = field(ctx.arg::<*const c_void>(1), &globals::REGS_IP);
                window.marks = OPEN | present;
            }
            Mode::Kernel => {
                window.ip = task.user_ip();
                window.marks = OPEN | BY_KERNEL | present;
            }
        }
        window.page = 0;
        window.faults = task.faults();
        window.opened_ns = bpf_ktime_get_ns();
    }
    Some(())
}

/// The kernel allocated a page on this thread.
#[inline(always)]
pub fn page_allocated(page: u64, order: u32, gfp: u32) -> Option<()> {
    // What user memory is made of is movable; pages for page tables and for interrupts are not.
    if gfp & GFP_MOVABLE == 0 || page == 0 {
        return None;
    }
    if order == 0 && (gfp & GFP_DIRECT_RECLAIM == 0 || gfp & GFP_NORETRY != 0) {
        // Read ahead into the page cache.
        return None;
    }
    let task = Task::current();
    let thread = Thread::of(task)?;
    // SAFETY: the lookup gave a live value; only its own thread writes the window.
    let window = unsafe { &mut (*thread).window };
    if window.marks & OPEN == 0 {
        return None;
    }
    if task.faults() != window.faults {
        // The fault is over: this page is for something else.
        abandon(thread, task);
        return None;
    }
    if window.marks & (origin::ALLOCATED | origin::FREED) == origin::ALLOCATED {
        // The new page comes first; a second one is for the page cache.
        return None;
    }
    window.page = page;
    let zeroed = if order != 0 || gfp & GFP_ZERO != 0 {
        origin::ZEROED
    } else {
        0
    };
    // What was counted before may have been reclaim on the way to this page.
    let cleared = origin::FREED | origin::ZEROED | origin::RSS_ANON | origin::RSS_FILE;
    window.marks = window.marks & !cleared | origin::ALLOCATED | zeroed;
    Some(())
}

/// The kernel gave a page back on this thread.
#[inline(always)]
pub fn page_freed(page: u64) -> Option<()> {
    let thread = Thread::of(Task::current())?;
    // SAFETY: the lookup gave a live value; only its own thread writes the window.
    let window = unsafe { &mut (*thread).window };
    // A page that is tried again is freed and allocated anew: the allocation takes this mark back.
    if window.marks & OPEN != 0 && window.page == page {
        window.marks |= origin::FREED;
    }
    Some(())
}

/// A count of a process's resident pages changed on this thread.
#[inline(always)]
pub fn rss_changed(mm: u64, member: u32) -> Option<()> {
    let task = Task::current();
    let thread = Thread::of(task)?;
    // SAFETY: the lookup gave a live value; only its own thread writes the window.
    let window = unsafe { &mut (*thread).window };
    // Reclaim changes the counts of others.
    if window.marks & OPEN == 0 || task.mm() != mm {
        return None;
    }
    match member {
        MM_ANONPAGES => window.marks |= origin::RSS_ANON,
        MM_FILEPAGES | MM_SHMEMPAGES => window.marks |= origin::RSS_FILE,
        MM_SWAPENTS => {
            // The page allocated so far was for what swap gave back. A copy needs another.
            window.page = 0;
            window.marks = window.marks & (OPEN | BY_KERNEL | origin::PRESENT) | origin::SWAPPED_IN;
        }
        _ => {}
    }
    Some(())
}

/// A fault ended.
#[inline(always)]
pub fn close(ctx: &PerfEventContext, flags: u8) -> Option<()> {
    let thread = Thread::of(Task::current())?;
    // SAFETY: the lookup gave a live value; only its own thread writes the window. The context is
    // the kernel's, and has the address of a page fault there.
    let (window, address) = unsafe { (&mut (*thread).window, (*ctx.ctx).addr) };
    if window.marks & OPEN == 0 || (window.address ^ address) >> PAGE_SHIFT != 0 {
        return None;
    }
    let marks = window.marks;
    window.marks = 0;
    let process = live_process(thread)?;
    let Some(origin) = settle(process, marks) else {
        return Some(());
    };
    // SAFETY: the helper has no preconditions.
    let latency = unsafe { bpf_ktime_get_ns() }.saturating_sub(window.opened_ns);
    let latency_ns = if latency > u64::from(u32::MAX) {
        u32::MAX
    } else {
        latency as u32
    };
    let by_kernel = marks & BY_KERNEL != 0;
    let python = interpreter(process);
    let (stack_id, no_stack) = if globals::UNWIND.load() == UNWIND_OFF && python.is_none() {
        (0, FAULT_NO_STACK)
    } else {
        (stack::take(ctx, by_kernel, thread, process, python), 0)
    };
    let judged = match python {
        Some((python, _)) if !by_kernel => cause::judge(python, address),
        _ => Judged::unseen(if by_kernel {
            Cause::Kernel
        } else {
            Cause::Unknown
        }),
    };
    // SAFETY: the lookup gave a live value.
    let pid = unsafe { (*thread).pid };
    trace!(
        ctx,
        "copy: pid {} address {:x} stack {:x}", pid, address, stack_id
    );
    emit(
        thread,
        process,
        origin,
        Seen {
            latency_ns,
            stack_id,
            flags: flags | no_stack,
            judged,
        },
    )
}

/// The interpreter of a process, if its frames are to be taken, with its number.
#[inline(always)]
fn interpreter(process: *mut ProcessSlot) -> Option<(&'static Layout, u64)> {
    if globals::PYTHON.load() == 0 {
        return None;
    }
    // SAFETY: callers pass a live map value.
    let index = unsafe { (*process).interpreter };
    Some((python::interpreter(index)?, index))
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
    let committed = origin::ALLOCATED;
    if marks & (committed | origin::FREED | origin::ZEROED) != committed
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
            judged: Judged::unseen(if marks & BY_KERNEL == 0 {
                Cause::Unknown
            } else {
                Cause::Kernel
            }),
        };
        let _ = emit(thread, process, origin, seen);
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
        match origin::outcome(marks) {
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
            Outcome::Aborted => atomic::add(&raw mut (*counters).aborted, 1),
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

/// Sends a copy's record.
#[inline(always)]
fn emit(thread: *mut Thread, process: *mut ProcessSlot, origin: Origin, seen: Seen) -> Option<()> {
    // SAFETY: callers pass a live value of the running thread.
    let (thread, window) = unsafe { (&*thread, &(*thread).window) };
    let Some(mut entry) = EVENTS.reserve_untyped::<FaultRecord>(0) else {
        // SAFETY: callers pass a live map value.
        unsafe {
            let lost = &raw mut (*process).counters.lost;
            // The same two as in `settle`.
            match origin {
                Origin::File => atomic::add(&raw mut (*lost)[Origin::File as usize], 1),
                _ => atomic::add(&raw mut (*lost)[Origin::Fork as usize], 1),
            }
        };
        return None;
    };
    entry.write(FaultRecord {
        kind: RecordKind::Fault.code(),
        origin: origin.code(),
        cause: seen.judged.cause.code(),
        flags: seen.flags,
        slot: thread.slot,
        tid: thread.tid,
        latency_ns: seen.latency_ns,
        time_ns: window.opened_ns,
        address: window.address,
        ip: window.ip,
        stack_id: seen.stack_id,
        object_type: seen.judged.object_type,
        evidence: u32::from(seen.judged.evidence.code()),
        offset: seen.judged.offset,
    });
    entry.submit(u64::from(wakeup()));
    Some(())
}

/// Whether to wake the loader with this record: now and then, since each wake-up costs the target.
#[inline(always)]
fn wakeup() -> u32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return BPF_RB_NO_WAKEUP;
    };
    // SAFETY: the lookup gave this CPU's value.
    let (records, wake) = unsafe {
        (*scratch).records = (*scratch).records.wrapping_add(1);
        let wake = (*scratch).wake != 0;
        (*scratch).wake = 0;
        ((*scratch).records, wake)
    };
    let due = wake || records & u64::from(globals::WAKEUP_RECORDS.load() - 1) == 0;
    if due {
        BPF_RB_FORCE_WAKEUP
    } else {
        BPF_RB_NO_WAKEUP
    }
}
