//! Faults by tracepoints and software events. Nothing here reads the kernel's memory, so this
//! backend works under lockdown too, where others are refused.
//!
//! It needs the BTF tracepoints `page_fault_user` and `page_fault_kernel` (which x86-64 has and
//! arm64 does not), `mm_page_alloc`, `mm_page_free` and `rss_stat`, and the software events for
//! minor and major faults on every CPU. The kernel must not batch `rss_stat`, which it does up to
//! 6.1.
//!
//! It sees every write fault of a thread, by user code or inside a system call: which pages it
//! copied, their origin as fork or file, its latency, its registers, and the memory written to.
//!
//! It cannot see:
//! - copies that come without an exception of the thread itself: another process's writes (ptrace,
//!   `/proc/PID/mem`, `process_vm_writev`), and the kernel's through pages that it holds on to
//!   (`O_DIRECT`, `io_uring`);
//! - copies of hugetlb pages, which come from an allocator of their own: they look like `reuse`;
//! - whether KSM had merged a page: its origin is then fork;
//! - huge mappings that are split: `Counters::split` stays 0.

use aya_ebpf::macros::{btf_tracepoint, perf_event};
use aya_ebpf::programs::{BtfTracePointContext, PerfEventContext};
use core::ffi::c_void;

use crate::task::{Task, field};
use crate::thread::{self, Thread};
use crate::window::{self, Opening, Resident};
use crate::{arch, globals};

/// Allocation flags. The loader checks them against the running kernel's own.
const GFP_MOVABLE: u32 = 0x08;
const GFP_ZERO: u32 = 0x100;
const GFP_DIRECT_RECLAIM: u32 = 0x400;
const GFP_NORETRY: u32 = 0x1_0000;

/// `rss_stat` members. The loader checks them too.
const MM_FILEPAGES: u32 = 0;
const MM_ANONPAGES: u32 = 1;
const MM_SWAPENTS: u32 = 2;
const MM_SHMEMPAGES: u32 = 3;

/// `page_fault_user(address, regs, error_code)`: user code faulted.
#[btf_tracepoint(function = "page_fault_user")]
fn page_fault_user(ctx: BtfTracePointContext) -> Option<()> {
    let (task, thread) = thread::current()?;
    let (address, present) = user_write(&ctx, thread, task)?;
    let opening = Opening {
        address,
        ip: field(ctx.arg::<*const c_void>(1), &globals::REGS_IP),
        present,
        by_kernel: false,
    };
    window::open(thread, task, opening);
    Some(())
}

/// `page_fault_kernel(address, regs, error_code)`: the kernel faulted, mostly on user memory
/// inside a system call.
#[btf_tracepoint(function = "page_fault_kernel")]
fn page_fault_kernel(ctx: BtfTracePointContext) -> Option<()> {
    let (task, thread) = thread::current()?;
    let (address, present) = user_write(&ctx, thread, task)?;
    let opening = Opening {
        address,
        ip: task.user_ip(),
        present,
        by_kernel: true,
    };
    window::open(thread, task, opening);
    Some(())
}

/// The address of a fault, and whether the page was present; `None` when it is not a write to user
/// memory. Settles the window before in any case.
#[inline(always)]
fn user_write(ctx: &BtfTracePointContext, thread: *mut Thread, task: Task) -> Option<(u64, bool)> {
    window::abandon(thread, task);
    let address: u64 = ctx.arg(0);
    let error: u64 = ctx.arg(2);
    if !arch::is_write(error) || arch::is_kernel_address(address) {
        return None;
    }
    Some((address, arch::is_present(error)))
}

/// `mm_page_alloc(page, order, gfp_flags, migratetype)`: the kernel allocated a page.
#[btf_tracepoint(function = "mm_page_alloc")]
fn mm_page_alloc(ctx: BtfTracePointContext) -> Option<()> {
    let page: u64 = ctx.arg(0);
    let order: u32 = ctx.arg(1);
    let gfp: u32 = ctx.arg(2);
    // What user memory is made of is movable; pages for page tables and for interrupts are not.
    if gfp & GFP_MOVABLE == 0 || page == 0 {
        return None;
    }
    if order == 0 && (gfp & GFP_DIRECT_RECLAIM == 0 || gfp & GFP_NORETRY != 0) {
        // Read ahead into the page cache.
        return None;
    }
    let (task, thread) = thread::current()?;
    window::page_allocated(thread, task, page, order != 0 || gfp & GFP_ZERO != 0);
    Some(())
}

/// `mm_page_free(page, order)`: the kernel gave a page back.
#[btf_tracepoint(function = "mm_page_free")]
fn mm_page_free(ctx: BtfTracePointContext) -> Option<()> {
    let (_, thread) = thread::current()?;
    window::page_freed(thread, ctx.arg(0));
    Some(())
}

/// `rss_stat(mm, member)`: a process's count of resident pages of one kind changed.
#[btf_tracepoint(function = "rss_stat")]
fn rss_stat(ctx: BtfTracePointContext) -> Option<()> {
    let (task, thread) = thread::current()?;
    let count = match ctx.arg::<u32>(1) {
        MM_FILEPAGES => Resident::File,
        MM_ANONPAGES => Resident::Anonymous,
        MM_SWAPENTS => Resident::Swap,
        MM_SHMEMPAGES => Resident::Shared,
        _ => return None,
    };
    window::rss_changed(thread, task, ctx.arg(0), count);
    Some(())
}

/// A fault ended, minor or major.
#[perf_event]
fn fault_end(ctx: PerfEventContext) -> Option<()> {
    let (task, thread) = thread::current()?;
    // SAFETY: the context is the kernel's, and has the address of a page fault there.
    let address = unsafe { (*ctx.ctx).addr };
    let copied = window::close(thread, task, address)?;
    let registers = if copied.by_kernel() {
        task.user_registers()
    } else {
        // SAFETY: the kernel gives the registers of the fault with the context.
        arch::registers(unsafe { &(*ctx.ctx).regs })
    };
    copied.send(&ctx, registers);
    Some(())
}
