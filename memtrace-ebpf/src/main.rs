//! memtrace's BPF programs: entry points only.
//!
//! Who is traced is decided in [`lineage`]; what a fault was in [`window`]; what the kernel said
//! about its page in [`origin`]; where it came from in [`stack`], [`unwind`] and [`python`]; what was written in
//! [`cause`]. [`maps`] has every map and its size. Offsets and switches are globals that the loader sets, see [`globals`].
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(
    internal_features,
    reason = "see `atomic`: there is no other way to the BPF atomics"
)]

mod atomic;
mod cause;
mod globals;
mod lineage;
mod maps;
mod memory;
mod origin;
mod python;
mod stack;
mod task;
mod unwind;
mod window;

use aya_ebpf::macros::{btf_tracepoint, perf_event};
use aya_ebpf::programs::{BtfTracePointContext, PerfEventContext};
use core::ffi::c_void;

use crate::task::Task;

/// `page_fault_user(address, regs, error_code)`: user code faulted.
#[btf_tracepoint(function = "page_fault_user")]
fn page_fault_user(ctx: BtfTracePointContext) -> Option<()> {
    window::open(&ctx, window::Mode::User)
}

/// `page_fault_kernel(address, regs, error_code)`: the kernel faulted, mostly on user memory
/// inside a system call.
#[btf_tracepoint(function = "page_fault_kernel")]
fn page_fault_kernel(ctx: BtfTracePointContext) -> Option<()> {
    window::open(&ctx, window::Mode::Kernel)
}

/// `mm_page_alloc(page, order, gfp_flags, migratetype)`: the kernel took a page.
#[btf_tracepoint(function = "mm_page_alloc")]
fn mm_page_alloc(ctx: BtfTracePointContext) -> Option<()> {
    window::page_allocated(ctx.arg(0), ctx.arg(1), ctx.arg(2))
}

/// `mm_page_free(page, order)`: the kernel gave a page back.
#[btf_tracepoint(function = "mm_page_free")]
fn mm_page_free(ctx: BtfTracePointContext) -> Option<()> {
    window::page_freed(ctx.arg(0))
}

/// `rss_stat(mm, member)`: a process's count of resident pages of one kind changed.
#[btf_tracepoint(function = "rss_stat")]
fn rss_stat(ctx: BtfTracePointContext) -> Option<()> {
    window::rss_changed(ctx.arg(0), ctx.arg(1))
}

/// A minor fault ended.
#[perf_event]
fn fault_end_minor(ctx: PerfEventContext) -> Option<()> {
    window::close(&ctx, 0)
}

/// A major fault ended.
#[perf_event]
fn fault_end_major(ctx: PerfEventContext) -> Option<()> {
    window::close(&ctx, memtrace_common::record::FAULT_MAJOR)
}

/// `sched_process_fork(parent, child)`: a process or thread was made; it has not run yet.
#[btf_tracepoint(function = "sched_process_fork")]
fn sched_process_fork(ctx: BtfTracePointContext) -> Option<()> {
    lineage::forked(&ctx, Task::from_arg(&ctx, 0)?, Task::from_arg(&ctx, 1)?)
}

/// `sched_process_exec(task, old_pid, bprm)`: a process replaced its program.
#[btf_tracepoint(function = "sched_process_exec")]
fn sched_process_exec(ctx: BtfTracePointContext) -> Option<()> {
    lineage::execed(&ctx)
}

/// `sched_process_exit(task, ...)`: a thread ends.
#[btf_tracepoint(function = "sched_process_exit")]
fn sched_process_exit(ctx: BtfTracePointContext) -> Option<()> {
    lineage::exited(&ctx)
}

/// `sched_process_free(task)`: nothing refers to a thread any more.
#[btf_tracepoint(function = "sched_process_free")]
fn sched_process_free(ctx: BtfTracePointContext) -> Option<()> {
    Task::from_arg(&ctx, 0).map(lineage::freed)
}

/// Visits every thread of the system and takes those that belong to the traced set. The loader
/// reads it again until a pass finds nothing new.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
extern "C" fn find_processes(ctx: *mut c_void) -> i32 {
    let _ = lineage::visit(ctx);
    0
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses an object in which this could be reached.
    loop {}
}

/// What the kernel reads to permit helpers that are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
