//! User stacks: taken into per-CPU room, hashed over all frames, and sent once.
//!
//! The kernel's own stack maps are not used: they keep a stack by a short hash, and lose it when
//! another one has the same.

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::helpers::generated::{bpf_probe_read_user, bpf_ringbuf_output};
use aya_ebpf::programs::PerfEventContext;
use core::ffi::c_void;
use core::mem::{offset_of, size_of};
use memtrace_common::process::ProcessSlot;
use memtrace_common::record::{MAX_FRAMES, RecordKind, STACK_TRUNCATED, StackRecord};

use crate::atomic;
use crate::maps::{EVENTS, SCRATCH, STACKS_SENT, Scratch};
use crate::task::Task;

/// Takes the user stack of the fault that ended; returns its id, or 0 when there is none.
///
/// `by_kernel` says that the kernel faulted: the context's registers are then its own.
#[inline(always)]
pub fn take(ctx: &PerfEventContext, by_kernel: bool, slot: u32, process: *mut ProcessSlot) -> u64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return 0;
    };
    let (ip, fp) = if by_kernel {
        Task::current().user_ip_and_fp()
    } else {
        // SAFETY: the kernel gives the registers of the fault with the context.
        unsafe { ((*ctx.ctx).regs.rip, (*ctx.ctx).regs.rbp) }
    };
    // SAFETY: the lookup gave this CPU's value, and programs of this kind do not nest on a CPU.
    let (id, frames) = walk(unsafe { &mut (*scratch).frames }, ip, fp);
    if STACKS_SENT.get_ptr(id).is_none() {
        send(scratch, slot, process, id, frames);
    }
    id
}

/// Follows the chain of frame pointers: each points to the caller's, with the return address
/// behind it. Returns the stack's hash, never 0, and how many frames there are.
///
/// Two steps of multiply and shift a frame: stacks that differ in one bit differ in half of the
/// hash.
#[inline(always)]
fn walk(frames: &mut [u64; MAX_FRAMES], ip: u64, mut fp: u64) -> (u64, usize) {
    frames[0] = ip;
    let mut hash = mix(0, ip);
    let mut len = 1;
    while len < MAX_FRAMES {
        let mut pair = [0u64; 2];
        // SAFETY: the buffer is as long as said; an address that is not there gives an error.
        let failed = fp & 7 != 0
            || unsafe { bpf_probe_read_user(pair.as_mut_ptr().cast(), 16, fp as *const c_void) }
                != 0;
        let [caller, return_address] = pair;
        if failed || return_address == 0 {
            break;
        }
        frames[len] = return_address;
        hash = mix(hash, return_address);
        len += 1;
        if caller <= fp {
            // Callers are further up the stack; anything else is no frame pointer.
            break;
        }
        fp = caller;
    }
    hash = mix(hash, len as u64);
    hash ^= hash >> 32;
    (if hash == 0 { 1 } else { hash }, len)
}

#[inline(always)]
fn mix(hash: u64, value: u64) -> u64 {
    let hash = (hash ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ hash >> 29
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
