//! x86-64.

use aya_ebpf::bindings::pt_regs;
use memtrace_common::unwind::{CFA_FP, PackedRow, Row};

use crate::registers::Registers;

/// Bytes in a page, as a shift.
pub const PAGE_SHIFT: u32 = 12;

/// Bits of an address that a user program has.
pub const POINTER_BITS: u32 = 47;

/// Bit of a page fault's error code: the page was present.
const PF_PROT: u64 = 1 << 0;
/// Bit of a page fault's error code: it was a write.
const PF_WRITE: u64 = 1 << 1;

/// The frame of a function that keeps a frame pointer: the caller's frame pointer and the return
/// address are the two words that the frame pointer points to.
pub const FRAME_POINTER_ROW: PackedRow = Row {
    pc: 0,
    cfa: CFA_FP | 16,
    fp: -16,
}
.packed();

/// Offsets from the stack pointer, at the trampoline that a signal handler returns to, to the
/// interrupted code's frame pointer, stack pointer and instruction: the kernel's `ucontext`.
pub const SIGNAL_FP: u64 = 120;
/// See [`SIGNAL_FP`].
pub const SIGNAL_SP: u64 = 160;
/// See [`SIGNAL_FP`].
pub const SIGNAL_IP: u64 = 168;

/// Whether a fault with this error code found the page present.
#[inline(always)]
pub fn is_present(error: u64) -> bool {
    error & PF_PROT != 0
}

/// Whether a fault with this error code was a write.
#[inline(always)]
pub fn is_write(error: u64) -> bool {
    error & PF_WRITE != 0
}

/// Whether the kernel's own memory is at this address: it has the upper half.
#[inline(always)]
pub fn is_kernel_address(address: u64) -> bool {
    address >> 63 != 0
}

/// Where a function's return address is: right below its frame's CFA.
#[inline(always)]
pub fn return_address_at(cfa: u64) -> u64 {
    cfa - 8
}

/// The CFA at `pc` in an entry of the procedure linkage table. An entry pushes a word, which has
/// been done where the lower four bits of `pc` are at least `pushed_from`.
#[inline(always)]
pub fn linkage_cfa(pc: u64, sp: u64, pushed_from: u64) -> u64 {
    let pushed = pc & 15 >= pushed_from;
    sp.wrapping_add(if pushed { 16 } else { 8 })
}

/// The registers that the kernel gives with a perf event.
#[inline(always)]
pub fn registers(regs: &pt_regs) -> Registers {
    Registers {
        ip: regs.rip,
        sp: regs.rsp,
        fp: regs.rbp,
        other: regs.rbx,
    }
}
