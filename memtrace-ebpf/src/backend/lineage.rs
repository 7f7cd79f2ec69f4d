//! Who is traced, for all backends: the tracepoints of a process's life, and an iterator over those
//! that are there at attach. Every kernel that has BTF has them.

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use core::ffi::c_void;

use crate::task::Task;
use crate::{globals, lineage};

/// `sched_process_fork(parent, child)`: a process or thread was made; it has not run yet.
#[btf_tracepoint(function = "sched_process_fork")]
fn sched_process_fork(ctx: BtfTracePointContext) -> Option<()> {
    lineage::forked(&ctx, task(&ctx, 0)?, task(&ctx, 1)?)
}

/// `sched_process_exec(task, old_pid, bprm)`: a process replaced its program.
#[btf_tracepoint(function = "sched_process_exec")]
fn sched_process_exec(ctx: BtfTracePointContext) -> Option<()> {
    lineage::execed(&ctx)
}

/// `sched_process_exit(task)`, from Linux 6.16 on `sched_process_exit(task, group_dead)`: a thread
/// ends; its process does, if that says so, and its memory is still there.
#[btf_tracepoint(function = "sched_process_exit")]
fn sched_process_exit(ctx: BtfTracePointContext) -> Option<()> {
    // The verifier drops the second argument's use where there is none.
    let ends = globals::SAMPLES_PAGES.load() != 0 && ctx.arg::<u8>(1) != 0;
    lineage::exited(&ctx, ends)
}

/// `sched_process_free(task)`: nothing refers to a thread any more.
#[btf_tracepoint(function = "sched_process_free")]
fn sched_process_free(ctx: BtfTracePointContext) -> Option<()> {
    task(&ctx, 0).map(lineage::freed)
}

/// Visits every thread of the system and adds those that belong to the traced set. The loader
/// reads it again until a pass finds nothing new.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
extern "C" fn find_processes(ctx: *mut c_void) -> i32 {
    // SAFETY: the context is a `struct bpf_iter__task`, which has two pointers: the iteration's
    // state, and the task or null.
    if let Some(task) = Task::from_ptr(unsafe { *ctx.cast::<*const c_void>().add(1) }) {
        let _ = lineage::visit(task);
    }
    0
}

/// A tracepoint's argument that is a `struct task_struct *`.
#[inline(always)]
fn task(ctx: &BtfTracePointContext, n: usize) -> Option<Task> {
    Task::from_ptr(ctx.arg::<*const c_void>(n))
}
