//! Who is traced: the processes that the user named and, unless told otherwise, their descendants.
//!
//! Descendants that exist at attach are found by [`visit`], which the kernel calls for every
//! thread; those to come are taken by [`forked`], before they have run. The hooks are attached
//! first, so whatever is forked meanwhile is taken by one of the two, and the loader repeats the
//! search until it finds nothing new. Both may meet the same thread: its entry is inserted whole,
//! and only who inserts it counts.
//!
//! A process is known by its slot in the table, not by its pid: the slot is not given away before
//! the loader has read what its last owner did.

use aya_ebpf::helpers::generated::{bpf_get_current_comm, bpf_ktime_get_ns};
use aya_ebpf::programs::BtfTracePointContext;
use aya_log_ebpf::debug;
use core::ffi::c_void;
use core::ptr::write_volatile;
use memtrace_common::process::{
    Counters, MAX_PROCESSES, NO_SLOT, ProcessSlot, SLOT_CLAIMED, SLOT_EXITED, SLOT_FREE, SLOT_LIVE,
};
use memtrace_common::record::{ProcessRecord, RecordKind};

use crate::maps::{EVENTS, FOUND, NEXT_SLOT, PROCESSES, ROOTS, Thread, count_health, traced_pids};
use crate::task::Task;
use crate::window;
use crate::{atomic, globals};

/// [`Thread::life`]: traced, and counted in its process's `threads`.
pub const COUNTED: u64 = 1;
/// [`Thread::life`]: ended, and no longer counted.
pub const GONE: u64 = 2;

/// How many slots are looked at for a free one. The table is far larger than the number of
/// processes, so that the first nearly always is.
const SLOT_PROBES: u32 = 64;

/// A thread or process was made by a thread that may be traced.
#[inline(always)]
pub fn forked(ctx: &BtfTracePointContext, parent: Task, child: Task) -> Option<()> {
    // SAFETY: the lookup gave a live value, which only its own thread and this hook write.
    let parent_thread = unsafe { &*Thread::of(parent)? };
    if parent_thread.life != COUNTED {
        return None;
    }
    if child.pid() == parent_thread.pid {
        return take(child, parent_thread.slot, parent_thread.pid).map(drop);
    }
    if globals::FOLLOW.load() == 0 {
        return None;
    }
    let comm = current_comm();
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let new = NewProcess {
        parent_pid: parent_thread.pid,
        parent_slot: parent_thread.slot,
        now_ns: now,
        forked_ns: now,
        // A child has what its parent has from its first fault on.
        interpreter: PROCESSES
            .get_ptr(parent_thread.slot)
            // SAFETY: the lookup gave a live map value.
            .map_or(0, |parent| unsafe { (*parent).interpreter }),
        comm,
    };
    let slot = new_process(child, &new)?;
    debug!(
        ctx,
        "fork: {} -> {} slot {}",
        new.parent_pid,
        child.pid(),
        slot
    );
    Some(())
}

/// A traced process may have replaced its program.
#[inline(always)]
pub fn execed(ctx: &BtfTracePointContext) -> Option<()> {
    let task = Task::current();
    let thread = Thread::of(task)?;
    window::abandon(thread, task);
    // SAFETY: the lookup gave a live value of this thread, which nobody else writes now.
    let slot = unsafe { (*thread).slot };
    let process = PROCESSES.get_ptr_mut(slot)?;
    // SAFETY: the slot is this process's until it is released; exec runs on its only thread.
    unsafe {
        // A thread other than the first takes over the process's pid when it execs.
        (*thread).tid = task.tid();
        (*process).comm = current_comm();
        (*process).interpreter = 0;
        (*process).execs += 1;
    }
    debug!(ctx, "exec: {} slot {}", task.pid(), slot);
    // SAFETY: the helper has no preconditions.
    announce(RecordKind::Exec, slot, unsafe { bpf_ktime_get_ns() });
    Some(())
}

/// A thread that may be traced ends.
#[inline(always)]
pub fn exited(ctx: &BtfTracePointContext) -> Option<()> {
    let task = Task::current();
    let thread = Thread::of(task)?;
    window::abandon(thread, task);
    let slot = leave(thread)?;
    debug!(ctx, "exit: {} slot {}", task.pid(), slot);
    Some(())
}

/// The kernel frees a thread.
#[inline(always)]
pub fn freed(task: Task) {
    Thread::forget(task);
}

/// The kernel shows a thread: takes it when it belongs to the traced set and is not traced yet.
/// `ctx` is a `struct bpf_iter__task *`.
#[inline(always)]
pub fn visit(ctx: *mut c_void) -> Option<()> {
    // SAFETY: the context has two pointers: the iteration's state, and the task or null.
    let task = Task::from_ptr(unsafe { *ctx.cast::<*const c_void>().add(1) })?;
    if task.is_kernel_thread() || task.is_exiting() || is_traced(task) {
        return None;
    }
    let leader = task.group_leader()?;
    let pid = task.pid();
    let slot = if let Some(known) = Thread::of(leader) {
        // SAFETY: the lookup gave a live value.
        unsafe { (*known).slot }
    } else {
        let parent = leader.real_parent()?;
        let parent_thread = Thread::of(parent);
        let is_child = globals::FOLLOW.load() != 0 && parent_thread.is_some();
        if !is_child && ROOTS.get_ptr(pid).is_none() {
            return None;
        }
        let new = NewProcess {
            parent_pid: parent.pid(),
            // SAFETY: the lookup gave a live value.
            parent_slot: parent_thread.map_or(NO_SLOT, |parent| unsafe { (*parent).slot }),
            // SAFETY: the helper has no preconditions.
            now_ns: unsafe { bpf_ktime_get_ns() },
            forked_ns: 0,
            interpreter: 0,
            comm: leader.comm(),
        };
        // Another pass is needed in any case: what it forked may have a smaller pid.
        if let Some(found) = FOUND.get_ptr_mut(0) {
            // SAFETY: the lookup gave a live map value.
            unsafe { atomic::add(found, 1) };
        }
        new_process(leader, &new)?
    };
    let thread = take(task, slot, pid)?;
    if let Some(found) = FOUND.get_ptr_mut(0) {
        // SAFETY: the lookup gave a live map value.
        unsafe { atomic::add(found, 1) };
    }
    if task.is_exiting() {
        // Its exit hook may have run before it was taken, and would never be called again.
        leave(thread);
    }
    Some(())
}

/// Whether a thread is traced already.
#[inline(always)]
fn is_traced(task: Task) -> bool {
    // SAFETY: the lookup gave a live value.
    Thread::of(task).is_some_and(|thread| unsafe { (*thread).life } == COUNTED)
}

/// What a new slot is filled with, and when.
struct NewProcess {
    parent_pid: u32,
    parent_slot: u32,
    now_ns: u64,
    forked_ns: u64,
    interpreter: u64,
    comm: [u8; 16],
}

/// Gives the process of `leader` a slot and takes that thread; returns the slot.
#[inline(always)]
fn new_process(leader: Task, new: &NewProcess) -> Option<u32> {
    let Some((slot, process)) = claim_slot() else {
        count_health!(processes_lost);
        return None;
    };
    // SAFETY: the slot was claimed by this program, so nobody else writes it.
    unsafe {
        (*process).pid = leader.pid();
        (*process).parent_pid = new.parent_pid;
        (*process).parent_slot = new.parent_slot;
        // One more than there are, until it has been announced: its end must not come before that.
        (*process).threads = 1;
        (*process).execs = 0;
        (*process).forked_ns = new.forked_ns;
        (*process).exited_ns = 0;
        (*process).interpreter = new.interpreter;
        (*process).start_boottime_ns = leader.start_boottime();
        (*process).comm = new.comm;
        (*process).counters = Counters::ZERO;
        write_volatile(&raw mut (*process).state, SLOT_LIVE);
    }
    let traced = traced_pids(leader.pid())?;
    // SAFETY: the lookup gave a live map value.
    unsafe { atomic::add(traced, 1) };
    let thread = take(leader, slot, leader.pid());
    // SAFETY: the value is live.
    let Some(thread) = thread.filter(|&thread| unsafe { (*thread).slot } == slot) else {
        // There is no room, or the fork hook or another pass was faster and its slot holds.
        // SAFETY: as above.
        unsafe {
            atomic::add(traced, u64::MAX);
            write_volatile(&raw mut (*process).state, SLOT_FREE);
        }
        return None;
    };
    if leader.is_exiting() {
        // Its exit hook may have run before it was taken, and would never be called again.
        leave(thread);
    }
    announce(RecordKind::Fork, slot, new.now_ns);
    count_off(process, slot);
    Some(slot)
}

/// Makes `task` a traced thread of the process in `slot`, unless it is one already.
///
/// Its entry is made whole in one step, so that whoever finds it finds its slot too.
#[inline(always)]
fn take(task: Task, slot: u32, pid: u32) -> Option<*mut Thread> {
    let process = PROCESSES.get_ptr_mut(slot)?;
    // Counted first: once there is an entry, the thread's end counts it off.
    // SAFETY: the lookup gave a live map value.
    unsafe { atomic::add(&raw mut (*process).threads, 1) };
    let new = Thread::new(slot, pid, task.tid());
    if new.insert(task) {
        return Thread::find(task);
    }
    let known = Thread::find(task);
    // SAFETY: the lookup gave a live value.
    if known.is_some_and(|known| unsafe { (*known).life } == GONE) {
        // Of a thread that ended, and whose place in memory this one has: now and then the kernel
        // does not call `freed`. One in a hundred was seen.
        Thread::forget(task);
        if new.insert(task) {
            return Thread::find(task);
        }
    }
    count_off(process, slot);
    if known.is_none() {
        count_health!(threads_lost);
    }
    known
}

/// Counts a thread as ended; with the last one, its process. Returns its slot, the first time.
#[inline(always)]
fn leave(thread: *mut Thread) -> Option<u32> {
    // SAFETY: the value is live, and `life` is only changed atomically.
    if !unsafe { atomic::replace(&raw mut (*thread).life, COUNTED, GONE) } {
        return None;
    }
    // SAFETY: the value is live.
    let slot = unsafe { (*thread).slot };
    count_off(PROCESSES.get_ptr_mut(slot)?, slot);
    Some(slot)
}

/// Takes one off the threads of a process, which ends with the last.
#[inline(always)]
fn count_off(process: *mut ProcessSlot, slot: u32) {
    // SAFETY: callers pass a live map value; the slot is this process's until the loader releases
    // it, which it does not before it has read the record.
    unsafe {
        if atomic::fetch_add(&raw mut (*process).threads, u64::MAX) != 1 {
            return;
        }
        if let Some(traced) = traced_pids((*process).pid) {
            atomic::add(traced, u64::MAX);
        }
        let now = bpf_ktime_get_ns();
        (*process).exited_ns = now;
        write_volatile(&raw mut (*process).state, SLOT_EXITED);
        announce(RecordKind::Exit, slot, now);
    }
}

/// Takes a free slot of the table.
#[inline(always)]
fn claim_slot() -> Option<(u32, *mut ProcessSlot)> {
    let next = NEXT_SLOT.get_ptr_mut(0)?;
    for _ in 0..SLOT_PROBES {
        // SAFETY: the lookup gave a live map value.
        let ticket = unsafe { atomic::fetch_add(next, 1) };
        let slot = ticket as u32 & (MAX_PROCESSES - 1);
        let process = PROCESSES.get_ptr_mut(slot)?;
        // SAFETY: as above.
        if unsafe { atomic::replace(&raw mut (*process).state, SLOT_FREE, SLOT_CLAIMED) } {
            return Some((slot, process));
        }
    }
    None
}

/// Name of the running thread.
#[inline(always)]
fn current_comm() -> [u8; 16] {
    let mut comm = [0u8; 16];
    // SAFETY: the buffer is as long as said.
    unsafe { bpf_get_current_comm(comm.as_mut_ptr().cast(), 16) };
    comm
}

/// Tells the loader at once: it has to read /proc while the process is there.
#[inline(always)]
fn announce(kind: RecordKind, slot: u32, time_ns: u64) {
    let record = ProcessRecord {
        kind: kind.code(),
        reserved: [0; 3],
        slot,
        time_ns,
    };
    if EVENTS.output_untyped::<ProcessRecord>(record, 0).is_err() {
        count_health!(lifecycle_lost);
    }
}
