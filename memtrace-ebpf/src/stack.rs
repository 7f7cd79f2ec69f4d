//! User stacks: taken into per-CPU room, hashed over all frames, and sent once.
//!
//! The kernel's own stack maps are not used: they keep a stack by a short hash, and lose it when
//! another one has the same.

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::helpers::generated::{bpf_loop, bpf_probe_read_user, bpf_ringbuf_output};
use aya_ebpf::programs::PerfEventContext;
use core::ffi::c_void;
use core::hint::black_box;
use core::mem::{offset_of, size_of};
use memtrace_common::process::ProcessSlot;
use memtrace_common::record::{MAX_FRAMES, RecordKind, STACK_TRUNCATED, StackRecord};

use crate::atomic;
use crate::maps::{EVENTS, PIECE, SCRATCH, STACKS_SENT, Scratch, Thread};
use crate::task::Task;

/// Bytes in a page.
const PAGE_SIZE: u64 = 4096;

/// Takes the user stack of the fault that ended; returns its id, or 0 when there is none.
///
/// `by_kernel` says that the kernel faulted: the context's registers are then its own.
#[inline(always)]
pub fn take(
    ctx: &PerfEventContext,
    by_kernel: bool,
    thread: *mut Thread,
    process: *mut ProcessSlot,
) -> u64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return 0;
    };
    let (ip, fp) = if by_kernel {
        Task::current().user_ip_and_fp()
    } else {
        // SAFETY: the kernel gives the registers of the fault with the context.
        unsafe { ((*ctx.ctx).regs.rip, (*ctx.ctx).regs.rbp) }
    };
    let (id, frames) = walk(scratch, ip, fp);
    // SAFETY: callers pass a live value of the running thread.
    let (slot, known) = unsafe { ((*thread).slot, (*thread).last_stack == id) };
    // Most faults of a thread come from where the one before came from.
    if known || STACKS_SENT.get_ptr(id).is_some() || send(scratch, slot, process, id, frames) {
        // SAFETY: as above.
        unsafe { (*thread).last_stack = id };
    }
    id
}

/// Where [`step`] is. In per-CPU room, since the verifier then knows nothing of the values, and
/// need not follow each of the steps.
#[repr(C)]
pub struct Walk {
    /// The frame pointer to follow next.
    fp: u64,
    /// The address that [`Scratch::piece`] was read from, and how many bytes it holds.
    piece: u64,
    size: u64,
    /// Frames so far, and the hash over them.
    len: u64,
    hash: u64,
}

/// Follows the chain of frame pointers: each points to the caller's, with the return address
/// behind it. Returns the stack's hash, never 0, and how many frames there are.
#[inline(always)]
fn walk(scratch: *mut Scratch, ip: u64, fp: u64) -> (u64, usize) {
    // SAFETY: the lookup gave this CPU's value, and programs of this kind do not nest on a CPU. The
    // helper calls the function with the pointer given.
    unsafe {
        (*scratch).frames[0] = ip;
        // No piece yet: no frame pointer is in it.
        (*scratch).walk = Walk {
            fp,
            piece: 0,
            size: 0,
            len: 1,
            hash: mix(0, ip),
        };
        let step: unsafe extern "C" fn(u32, *mut c_void) -> i64 = step;
        bpf_loop(
            MAX_FRAMES as u32,
            step as *mut c_void,
            core::ptr::null_mut(),
            0,
        );
        let Walk { len, hash, .. } = (*scratch).walk;
        let hash = mix(hash, len);
        let hash = hash ^ hash >> 32;
        (if hash == 0 { 1 } else { hash }, len as usize)
    }
}

/// One step of [`walk`]: 0 to go on.
unsafe extern "C" fn step(_: u32, _: *mut c_void) -> i64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return 1;
    };
    // SAFETY: the lookup gave this CPU's value, which only this program uses now.
    i64::from(try_step(unsafe { &mut *scratch }).is_none())
}

/// Takes the frame that the frame pointer points to; `None` at the end of the chain.
///
/// The target's memory is read in pieces: a read costs about 28 ns, one of [`PIECE`] bytes less
/// than twice that, and holds several frames.
#[inline(always)]
fn try_step(scratch: &mut Scratch) -> Option<()> {
    let walk = &mut scratch.walk;
    let fp = walk.fp;
    if fp & 7 != 0 {
        return None;
    }
    let mut at = fp.wrapping_sub(walk.piece);
    if fp < walk.piece || at + 16 > walk.size {
        // Up to the end of the page: what is behind may not be there, and a read that fails is
        // slow. A frame that lies across is read by itself.
        let in_page = PAGE_SIZE - (fp & (PAGE_SIZE - 1));
        let size = if in_page < 16 {
            16
        } else if in_page < PIECE {
            in_page
        } else {
            PIECE
        };
        // SAFETY: the buffer has `PIECE` bytes; an address that is not there gives an error.
        let failed = unsafe {
            let piece = scratch.piece.as_mut_ptr().cast();
            bpf_probe_read_user(piece, size as u32, fp as *const c_void)
        };
        if failed != 0 {
            return None;
        }
        walk.piece = fp;
        walk.size = size;
        at = 0;
    }
    // Never true. The verifier wants to see it of the very register that is used, which the
    // compiler must not replace by another.
    let at = black_box(at);
    if at > PIECE - 16 {
        return None;
    }
    // SAFETY: within the buffer, by the check above.
    let (caller, return_address) = unsafe {
        let frame = scratch.piece.as_ptr().byte_add(at as usize);
        (*frame, *frame.add(1))
    };
    let len = walk.len as usize;
    if return_address == 0 || len >= MAX_FRAMES {
        return None;
    }
    scratch.frames[len] = return_address;
    walk.hash = mix(walk.hash, return_address);
    walk.len = len as u64 + 1;
    // Callers are further up the stack; anything else is no frame pointer.
    if caller <= fp {
        return None;
    }
    walk.fp = caller;
    Some(())
}

/// Two steps of multiply and shift: stacks that differ in one bit differ in half of the hash.
#[inline(always)]
fn mix(hash: u64, value: u64) -> u64 {
    let hash = (hash ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ hash >> 29
}

/// Sends a stack; remembers it only when it went, so that it is tried again otherwise. Returns
/// whether it went.
#[inline(always)]
fn send(
    scratch: *mut Scratch,
    slot: u32,
    process: *mut ProcessSlot,
    id: u64,
    frames: usize,
) -> bool {
    const HEADER: usize = size_of::<StackRecord>();
    const _: () = assert!(offset_of!(Scratch, frames) == HEADER, "sent as one piece");
    let truncated = if frames >= MAX_FRAMES {
        STACK_TRUNCATED
    } else {
        0
    };
    // The verifier wants to see the bound.
    let frames = if frames > MAX_FRAMES {
        MAX_FRAMES
    } else {
        frames
    };
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
    sent == 0
}
