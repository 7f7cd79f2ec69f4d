//! User stacks: taken into per-CPU room, hashed over all frames, and sent once.
//!
//! The kernel's own stack maps are not used: they keep a stack by a short hash, and lose it when
//! another one has the same.

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::helpers::generated::bpf_ringbuf_output;
use aya_ebpf::programs::PerfEventContext;
use core::hint::black_box;
use core::mem::{offset_of, size_of};
use memtrace_common::interpreter::MAX_SCRIPT_FRAMES;
use memtrace_common::interpreter::python::Layout;
use memtrace_common::process::ProcessSlot;
use memtrace_common::record::{MAX_FRAMES, RecordKind, ScriptFrame, StackRecord};

use crate::maps::{EVENTS, SCRATCH, STACKS_SENT, Scratch, Thread};
use crate::task::{Registers, Task};
use crate::{atomic, python, unwind};

/// Room for the words of a stack: a power of two, so that an index can be masked.
pub const WORDS: usize = 512;
const _: () = assert!(MAX_FRAMES + MAX_SCRIPT_FRAMES * size_of::<ScriptFrame>() / 8 <= WORDS);

/// Takes the user stack of the fault that ended; returns its id, or 0 when there is none.
///
/// `by_kernel` says that the kernel faulted: the context's registers are then its own. `python` is
/// the process's interpreter, with its number.
#[inline(always)]
pub fn take(
    ctx: &PerfEventContext,
    by_kernel: bool,
    thread: *mut Thread,
    process: *mut ProcessSlot,
    python: Option<(&Layout, u64)>,
) -> u64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: the lookup gave this CPU's value, and programs of this kind do not nest on a CPU.
    let scratch = unsafe { &mut *scratch };
    let registers = if by_kernel {
        Task::current().user_registers()
    } else {
        // SAFETY: the kernel gives the registers of the fault with the context.
        unsafe {
            let regs = &(*ctx.ctx).regs;
            Registers {
                ip: regs.rip,
                fp: regs.rbp,
                sp: regs.rsp,
                other: regs.rbx,
            }
        }
    };
    // SAFETY: callers pass a live map value.
    let (mut hash, frames) = unwind::walk(scratch, registers, unsafe { (*process).mappings });
    scratch.record.frames = frames as u16;
    scratch.record.script_frames = 0;
    scratch.record.interpreter = 0;
    if let Some((python, index)) = python {
        hash = python::walk(scratch, python, index, frames, hash);
        scratch.record.script_frames = scratch.python.frames() as u16;
        scratch.record.interpreter = index as u16;
    }
    let id = finish(hash);
    // SAFETY: callers pass a live value of the running thread.
    let (slot, known) = unsafe { ((*thread).slot, (*thread).last_stack == id) };
    // Most faults of a thread come from where the one before came from.
    if known || STACKS_SENT.get_ptr(id).is_some() || send(scratch, slot, process, id) {
        // SAFETY: as above.
        unsafe { (*thread).last_stack = id };
    }
    id
}

/// The hash as an id: never 0.
#[inline(always)]
fn finish(hash: u64) -> u64 {
    let hash = hash ^ hash >> 32;
    if hash == 0 { 1 } else { hash }
}

/// Sends a stack; remembers it only when it went, so that it is tried again otherwise. Returns
/// whether it went.
#[inline(always)]
fn send(scratch: &mut Scratch, slot: u32, process: *mut ProcessSlot, id: u64) -> bool {
    const HEADER: usize = size_of::<StackRecord>();
    const _: () = assert!(offset_of!(Scratch, frames) == HEADER, "sent as one piece");
    let record = &mut scratch.record;
    record.kind = RecordKind::Stack.code();
    record.slot = slot;
    record.id = id;
    record.reserved = [0; 3];
    record.flags = 0;
    record.end = scratch.walk.end as u8;
    let mut words = u64::from(record.frames);
    if record.interpreter != 0 {
        record.flags |= scratch.python.flags();
        words = scratch.python.len();
        python::identify(scratch);
    }
    // The verifier wants to see the bound.
    let words = black_box(words);
    if words > WORDS as u64 {
        return false;
    }
    // SAFETY: the lookup gave this CPU's value; the record and the words behind it are within it.
    // The map is a ring buffer.
    let sent = unsafe {
        bpf_ringbuf_output(
            core::ptr::from_ref(&EVENTS).cast_mut().cast(),
            core::ptr::from_mut(scratch).cast(),
            HEADER as u64 + words * 8,
            u64::from(BPF_RB_NO_WAKEUP),
        )
    };
    if sent == 0 {
        let _ = STACKS_SENT.insert(id, 1, 0);
    } else {
        // SAFETY: callers pass a live map value.
        unsafe { atomic::add(&raw mut (*process).counters.lost_stacks, 1) };
    }
    sent == 0
}
