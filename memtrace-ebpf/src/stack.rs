//! User stacks: taken into per-CPU room, hashed over all frames, and sent once.
//!
//! The kernel's own stack maps are not used: they keep a stack by a short hash, and lose it when
//! another one has the same.

use aya_ebpf::bindings::BPF_F_USER_STACK;
use aya_ebpf::helpers::generated::{bpf_get_stack, bpf_ringbuf_output};
use aya_ebpf::programs::PerfEventContext;
use aya_ebpf::{EbpfContext, bindings::BPF_RB_NO_WAKEUP};
use core::mem::{offset_of, size_of};
use memtrace_common::process::ProcessSlot;
use memtrace_common::record::{MAX_FRAMES, RecordKind, STACK_TRUNCATED, StackRecord};

use crate::atomic;
use crate::maps::{EVENTS, SCRATCH, STACKS_SENT, Scratch};

/// Takes the user stack of the fault that ended; returns its id, or 0 when there is none.
#[inline(always)]
pub fn take(ctx: &PerfEventContext, slot: u32, process: *mut ProcessSlot) -> u64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: the lookup gave this CPU's value, and programs of this kind do not nest on a CPU;
    // the buffer is as long as said.
    let taken = unsafe {
        bpf_get_stack(
            ctx.as_ptr(),
            (&raw mut (*scratch).frames).cast(),
            (MAX_FRAMES * 8) as u32,
            u64::from(BPF_F_USER_STACK),
        )
    };
    if taken <= 0 {
        return 0;
    }
    let frames = taken as usize / 8;
    // SAFETY: as above.
    let id = hash(unsafe { &(*scratch).frames }, frames);
    if STACKS_SENT.get_ptr(id).is_none() {
        send(scratch, slot, process, id, frames);
    }
    id
}

/// A hash of all frames, never 0. Two rounds of multiply and shift a frame: a stack that differs
/// in one bit differs in half of the hash.
#[inline(always)]
fn hash(frames: &[u64; MAX_FRAMES], len: usize) -> u64 {
    let mut hash = len as u64;
    for (i, frame) in frames.iter().enumerate() {
        if i >= len {
            break;
        }
        hash = (hash ^ frame).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^= hash >> 29;
    }
    hash = hash.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash ^= hash >> 32;
    if hash == 0 { 1 } else { hash }
}

/// Sends a stack; remembers it only when it went, so that it is tried again otherwise.
#[inline(always)]
fn send(scratch: *mut Scratch, slot: u32, process: *mut ProcessSlot, id: u64, frames: usize) {
    const HEADER: usize = size_of::<StackRecord>();
    const _: () = assert!(offset_of!(Scratch, frames) == HEADER, "sent as one piece");
    let truncated = if frames >= MAX_FRAMES { STACK_TRUNCATED } else { 0 };
    // The verifier wants to see the bound.
    let frames = if frames > MAX_FRAMES { MAX_FRAMES } else { frames };
    // SAFETY: the lookup gave this CPU's value; the record and `frames` frames behind it are
    // within it. The map is a ring buffer.
    let sent = unsafe {
        (*scratch).record = StackRecord {
            kind: RecordKind::Stack.code(),
            flags: truncated,
            frames: frames as u16,
            slot,
            id,
        };
        bpf_ringbuf_output(
            core::ptr::from_ref(&EVENTS).cast_mut().cast(),
            scratch.cast(),
            (HEADER + frames * 8) as u64,
            u64::from(BPF_RB_NO_WAKEUP),
        )
    };
    if sent == 0 {
        let _ = STACKS_SENT.insert(id, 1, 0);
    } else {
        // SAFETY: callers pass a live map value.
        unsafe { atomic::add(&raw mut (*process).counters.lost_stacks, 1) };
    }
}
