//! User stacks: taken into per-CPU room, hashed over all frames, and sent once.
//!
//! The kernel's own stack maps are not used: they keep a stack by a short hash, and lose it when
//! another one has the same.

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::helpers::generated::{bpf_loop, bpf_ringbuf_output};
use aya_ebpf::programs::PerfEventContext;
use core::ffi::c_void;
use core::hint::black_box;
use core::mem::{offset_of, size_of};
use memtrace_common::config::UNWIND_OFF;
use memtrace_common::interpreter::{Interpreter, MAX_PYTHON_FRAMES};
use memtrace_common::process::ProcessSlot;
use memtrace_common::record::{MAX_FRAMES, PythonFrame, RecordKind, STACK_TRUNCATED, StackRecord};

use crate::maps::{EVENTS, PIECE, SCRATCH, STACKS_SENT, Scratch, Thread};
use crate::memory::{self, PAGE_SIZE, mix};
use crate::task::{Registers, Task};
use crate::{atomic, globals, python};

/// Room for the words of a stack: a power of two, so that an index can be masked.
pub const WORDS: usize = 512;
const _: () = assert!(MAX_FRAMES + MAX_PYTHON_FRAMES * size_of::<PythonFrame>() / 8 <= WORDS);

/// A frame pointer further up than this from the stack pointer is none: the register is used for
/// something else.
const MAX_STACK: u64 = 64 << 20;

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
    python: Option<(&Interpreter, u64)>,
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
            }
        }
    };
    let (mut hash, frames) = walk(scratch, registers);
    scratch.record.frames = frames as u16;
    scratch.record.python_frames = 0;
    scratch.record.interpreter = 0;
    if let Some((python, index)) = python {
        hash = python::walk(scratch, python, index, frames, hash);
        scratch.record.python_frames = scratch.python.frames() as u16;
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
/// behind it. Returns the stack's hash, and how many frames there are.
#[inline(always)]
fn walk(scratch: &mut Scratch, registers: Registers) -> (u64, u64) {
    let Registers { ip, fp, sp } = registers;
    scratch.frames[0] = ip;
    // No piece yet: no frame pointer is in it.
    let start = &mut scratch.walk;
    start.fp = fp;
    memory::set(&mut start.piece, 0);
    memory::set(&mut start.size, 0);
    start.len = 1;
    start.hash = mix(0, ip);
    // Code that was built without frame pointers has anything in that register.
    if globals::UNWIND.load() != UNWIND_OFF && fp.wrapping_sub(sp) < MAX_STACK {
        let step: unsafe extern "C" fn(u32, *mut c_void) -> i64 = step;
        // SAFETY: the helper calls the function with the pointer given.
        unsafe {
            bpf_loop(
                MAX_FRAMES as u32,
                step as *mut c_void,
                core::ptr::null_mut(),
                0,
            );
        }
    }
    let Walk { len, hash, .. } = scratch.walk;
    (mix(hash, len), len)
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
        // SAFETY: the buffer has `PIECE` bytes.
        if !unsafe { memory::read(scratch.piece.as_mut_ptr(), size, fp) } {
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
    record.reserved = 0;
    let is_cut = globals::UNWIND.load() == UNWIND_OFF || usize::from(record.frames) >= MAX_FRAMES;
    record.flags = if is_cut { STACK_TRUNCATED } else { 0 };
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
