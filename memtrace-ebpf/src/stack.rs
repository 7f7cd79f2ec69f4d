//! User stacks: put together in this CPU's room, hashed over all frames, and sent once for each
//! program.
//!
//! The kernel's own stack maps are not used: they keep a stack by a short hash, and lose it when
//! another one has the same.

use core::hint::black_box;
use core::mem::size_of;
use memtrace_common::hash::{finish, mix};
use memtrace_common::process::ProcessSlot;
use memtrace_common::record::{RecordKind, StackRecord};

use crate::interpreter::Interpreter;
use crate::maps::STACKS_SENT;
use crate::registers::Registers;
use crate::scratch::{WORDS, scratch};
use crate::thread::Thread;
use crate::{atomic, ring, unwind};

/// Records the user stack of the running thread, whose code is at `registers`; returns its id, or 0
/// when there is none.
#[inline(always)]
pub fn record(
    thread: *mut Thread,
    process: *mut ProcessSlot,
    registers: Registers,
    interpreter: Option<Interpreter>,
) -> u64 {
    try_record(thread, process, registers, interpreter).unwrap_or(0)
}

#[inline(always)]
fn try_record(
    thread: *mut Thread,
    process: *mut ProcessSlot,
    registers: Registers,
    interpreter: Option<Interpreter>,
) -> Option<u64> {
    // SAFETY: callers pass a live map value.
    let (mut hash, frames) = unwind::walk(registers, unsafe { (*process).mappings })?;
    if let Some(interpreter) = interpreter {
        hash = interpreter.walk(frames, hash)?;
    }
    // Here and not in the walk, whose result may be that of another process's walk: the stacks of
    // different programs are different ones, even where all addresses are the same.
    // SAFETY: callers pass a live map value.
    let id = finish(mix(hash, unsafe { (*process).program }));
    // SAFETY: callers pass a live value of the running thread.
    let (slot, known) = unsafe { ((*thread).slot, (*thread).last_stack == id) };
    // Most faults of a thread come from where the one before came from.
    if known
        || STACKS_SENT.get_ptr(id).is_some()
        || send(slot, process, id, frames, interpreter) == Some(true)
    {
        // SAFETY: callers pass a live value of the running thread.
        unsafe { (*thread).last_stack = id };
    }
    Some(id)
}

/// Sends a stack; remembers it only when it went, so that it is tried again otherwise. Returns
/// whether it went.
#[inline(always)]
fn send(
    slot: u32,
    process: *mut ProcessSlot,
    id: u64,
    frames: u64,
    interpreter: Option<Interpreter>,
) -> Option<bool> {
    let scratch = scratch()?;
    let record = &mut scratch.record;
    record.kind = RecordKind::Stack.code();
    record.slot = slot;
    record.id = id;
    record.reserved = [0; 3];
    record.flags = 0;
    record.end = scratch.walk.end as u8;
    record.frames = frames as u16;
    record.script_frames = 0;
    record.interpreter = 0;
    let mut words = frames;
    if let Some(interpreter) = interpreter {
        record.flags = scratch.script.flags as u8;
        record.script_frames = scratch.script.frames() as u16;
        record.interpreter = interpreter.handle() as u16;
        words = scratch.script.len;
        interpreter.identify();
    }
    let scratch = self::scratch()?;
    // The verifier wants to see the bound.
    let words = black_box(words);
    if words > WORDS as u64 {
        return None;
    }
    let size = size_of::<StackRecord>() as u64 + words * 8;
    // SAFETY: the record and the words behind it are within this CPU's room.
    let sent = unsafe { ring::send(core::ptr::from_mut(scratch).cast_const(), size) };
    if sent {
        let _ = STACKS_SENT.insert(id, 1, 0);
    } else {
        // SAFETY: callers pass a live map value.
        unsafe { atomic::add(&raw mut (*process).counters.lost_stacks, 1) };
    }
    Some(sent)
}
