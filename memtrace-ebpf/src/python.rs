//! Python frames of the running thread, and the code objects that they run.

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::helpers::generated::{bpf_loop, bpf_ringbuf_output};
use core::ffi::c_void;
use core::hint::black_box;
use core::mem::size_of;
use memtrace_common::interpreter::{
    ENTRY_BYTE, FRAMES_IN_CHUNKS, Interpreter, MAX_PYTHON_FRAMES, NO_FIELD, SHIM_FRAMES,
};
use memtrace_common::record::{
    CODE_FILENAME_BYTES, CODE_LINES_BYTES, CODE_NAME_BYTES, CodeRecord, FRAME_IS_ENTRY,
    PYTHON_DAMAGED, PYTHON_TRUNCATED, RecordKind,
};

use crate::maps::{CHUNK, CODES_SENT, EVENTS, INTERPRETERS, SCRATCH, Scratch};
use crate::memory::{self, PAGE_SIZE, is_pointer, mix};
use crate::stack::WORDS;
use crate::task::Task;

/// Words of a thread state that are read: up to behind its thread's id.
const STATE_WORDS: u64 = 24;
/// Words of a code object that are read: up to behind its table of lines.
const CODE_WORDS: u64 = 20;
/// Words of a Python frame in a stack: see `PythonFrame`.
const FRAME_WORDS: u64 = 3;

/// A field of a frame is at most this far from its start: one of words, and one of bytes.
const WORD_MASK: u32 = 0x78;
/// As above.
const BYTE_MASK: u32 = 0x7f;
/// Frames are aligned, and lie in one piece.
const CHUNK_MASK: u64 = CHUNK - 8;
/// Where in [`Scratch::piece`] the last frame can begin.
const LAST_FRAME: u64 = CHUNK - 128;
/// Bytes that are read before a frame when there is no better guess.
const FEW_FRAMES: u64 = 256;
/// Frames that are taken in one step. More would only take the verifier longer.
const FRAMES_AT_ONCE: u32 = 16;

/// Odd, so that no two instructions become the same.
const INSTRUCTION_SPREAD: u64 = 0xc2b2_ae3d_27d4_eb4f;

/// The most interpreters, and threads of one, that are searched for the running thread.
const MAX_SEARCHED: u32 = 256;

/// Where the walk over Python frames is.
#[repr(C)]
pub struct Walk {
    /// The next frame.
    frame: u64,
    /// The interpreter whose thread states are searched.
    searched: u64,
    /// Index of the entry of the table of interpreters.
    interpreter: u64,
    /// Words of the stack so far; where the Python frames among them begin, and where they end at
    /// the latest.
    len: u64,
    start: u64,
    end: u64,
    /// The hash over all frames.
    hash: u64,
    /// `PYTHON_*`.
    flags: u64,
    /// The address that [`Scratch::piece`] was read from, and where in it the last frame begins.
    piece: u64,
    before: u64,
    /// The last frame that was taken. The next walk reads as far as this: what is read costs,
    /// whether it is used or not.
    lowest: u64,
    /// The thread's own pointer, while its thread state is searched; then what was found.
    thread: u64,
}

impl Walk {
    /// Bits for the stack's record.
    #[inline(always)]
    pub fn flags(&self) -> u8 {
        self.flags as u8
    }

    /// Python frames so far.
    #[inline(always)]
    pub fn frames(&self) -> u64 {
        (self.len - self.start) / FRAME_WORDS
    }

    /// The interpreter that is walked.
    #[inline(always)]
    pub fn interpreter(&self) -> u64 {
        self.interpreter
    }

    /// Words of the stack so far.
    #[inline(always)]
    pub fn len(&self) -> u64 {
        self.len
    }
}

/// The interpreter of a process: index, and what is known of it.
#[inline(always)]
pub fn interpreter(index: u64) -> Option<&'static Interpreter> {
    if index == 0 {
        return None;
    }
    let python = INTERPRETERS.get_ptr(index as u32)?;
    // SAFETY: the lookup gave a live map value, which the loader writes before any process refers
    // to it.
    Some(unsafe { &*python })
}

/// Appends the Python frames of the running thread to the stack, which has `len` words so far.
/// Returns the hash over all.
#[inline(always)]
pub fn walk(scratch: &mut Scratch, python: &Interpreter, index: u64, len: u64, hash: u64) -> u64 {
    let start = &mut scratch.python;
    start.interpreter = index;
    start.len = len;
    start.start = len;
    start.end = len + MAX_PYTHON_FRAMES as u64 * FRAME_WORDS;
    start.hash = mix(hash, index);
    memory::set(&mut start.flags, 0);
    // No piece yet: no frame is in it.
    start.piece = u64::MAX;
    memory::set(&mut start.before, 0);
    start.thread = Task::current().thread_pointer();
    scratch.python.frame = match first_frame(scratch, python) {
        Some(frame) => frame,
        None => return scratch.python.hash,
    };
    let step: unsafe extern "C" fn(u32, *mut c_void) -> i64 = step;
    // SAFETY: the helper calls the function with the pointer given, and so does the call.
    unsafe {
        // Most often one piece has them all. Each has at least one; some may be the interpreter's
        // own.
        if step(0, core::ptr::null_mut()) == 0 {
            bpf_loop(
                2 * MAX_PYTHON_FRAMES as u32,
                step as *mut c_void,
                core::ptr::null_mut(),
                0,
            );
        }
    }
    if scratch.python.len > len {
        // Which code object is innermost decides the call site, and one that was freed can be
        // followed by another at the same address and instruction.
        let code = scratch.frames[len as usize & (WORDS - 1)] & !FRAME_IS_ENTRY;
        let print = print(scratch, python, code);
        scratch.python.hash = mix(scratch.python.hash, print);
    }
    scratch.python.hash
}

/// The innermost frame of the running thread.
#[inline(always)]
fn first_frame(scratch: &mut Scratch, python: &Interpreter) -> Option<u64> {
    let thread = scratch.python.thread;
    let has_state = (python.current != NO_FIELD
        && read_state(
            scratch,
            python,
            memory::word(python.runtime + u64::from(python.current)),
            thread,
        ))
        || if python.thread_local == NO_FIELD {
            let state = search_state(scratch);
            read_state(scratch, python, state, thread)
        } else {
            let state = memory::word(thread + u64::from(python.thread_local));
            read_state(scratch, python, state, thread)
        };
    if !has_state {
        return None;
    }
    let frame = memory::word_at(&scratch.state, python.frame);
    if python.frame_indirect == NO_FIELD || frame == 0 {
        Some(frame)
    } else {
        Some(memory::word(frame + u64::from(python.frame_indirect)))
    }
}

/// Reads a thread state; returns whether it is that of the thread. A fork keeps the thread's
/// pointer, so it is right in a child too.
#[inline(always)]
fn read_state(scratch: &mut Scratch, python: &Interpreter, state: u64, thread: u64) -> bool {
    // SAFETY: the buffer has more than that many words.
    let read = is_pointer(state)
        && unsafe { memory::read(scratch.state.as_mut_ptr(), STATE_WORDS * 8, state) };
    read && memory::word_at(&scratch.state, python.thread_id) == thread
}

/// Searches all thread states for that of the running thread; 0 when there is none. Only where the
/// C library is not one whose thread-local values can be read.
#[inline(always)]
fn search_state(scratch: &mut Scratch) -> u64 {
    let Some(python) = interpreter(scratch.python.interpreter) else {
        return 0;
    };
    // The interpreter, and then its thread states, are where the frames will be.
    scratch.python.searched = memory::word(python.runtime + u64::from(python.interpreters_head));
    scratch.python.frame = 0;
    let step: unsafe extern "C" fn(u32, *mut c_void) -> i64 = search_step;
    // SAFETY: the helper calls the function with the pointer given.
    unsafe {
        bpf_loop(MAX_SEARCHED, step as *mut c_void, core::ptr::null_mut(), 0);
    }
    scratch.python.searched = 0;
    core::mem::replace(&mut scratch.python.frame, 0)
}

/// One step of [`search_state`]: on to the next thread state, or the next interpreter's first.
unsafe extern "C" fn search_step(_: u32, _: *mut c_void) -> i64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return 1;
    };
    // SAFETY: the lookup gave this CPU's value, which only this program uses now.
    let walk = unsafe { &mut (*scratch).python };
    let Some(python) = interpreter(walk.interpreter) else {
        return 1;
    };
    if walk.frame != 0 {
        if memory::word(walk.frame + u64::from(python.thread_id)) == walk.thread {
            return 1;
        }
        walk.frame = memory::word(walk.frame + u64::from(python.thread_next));
        if walk.frame == 0 {
            walk.searched = memory::word(walk.searched + u64::from(python.interpreter_next));
        }
    } else if walk.searched != 0 {
        walk.frame = memory::word(walk.searched + u64::from(python.threads_head));
        if walk.frame == 0 {
            walk.searched = memory::word(walk.searched + u64::from(python.interpreter_next));
        }
    } else {
        return 1;
    }
    0
}

/// One step of [`walk`]: reads the memory that the next frame is in, and takes all frames that lie
/// in it. 0 to go on.
unsafe extern "C" fn step(_: u32, _: *mut c_void) -> i64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return 1;
    };
    // SAFETY: the lookup gave this CPU's value, which only this program uses now.
    let scratch = unsafe { &mut *scratch };
    let Some(python) = interpreter(scratch.python.interpreter) else {
        return 1;
    };
    if scratch.python.frame == 0 {
        return 1;
    }
    let walk = &mut scratch.python;
    if walk.frame.wrapping_sub(walk.piece) > walk.before && read_piece(scratch, python).is_none() {
        scratch.python.flags |= u64::from(PYTHON_DAMAGED);
        return 1;
    }
    take_frames(scratch, python);
    i64::from(scratch.python.flags != 0 || scratch.python.frame == 0)
}

/// Takes frames of the piece of memory that was read.
///
/// This is the innermost loop, run for each frame of each copy: what it needs is in registers, and
/// a frame is one check of bounds.
#[inline(always)]
fn take_frames(scratch: &mut Scratch, python: &Interpreter) {
    let code_at = python.frame_code & WORD_MASK;
    let previous_at = python.frame_previous & WORD_MASK;
    let instruction_at = python.frame_instruction & WORD_MASK;
    let owner_at = python.frame_owner & BYTE_MASK;
    let narrow = python.instruction_size == 4;
    let always_entry = u64::from(python.flags & FRAMES_IN_CHUNKS == 0);
    // The smallest owner that has a meaning, of a byte; and what it means.
    let is_shim = python.flags & SHIM_FRAMES != 0;
    let owner_min = if is_shim {
        python.owner_shim
    } else if python.flags & ENTRY_BYTE != 0 {
        1
    } else {
        256
    };
    let Walk { piece, before, .. } = scratch.python;
    let mut frame = scratch.python.frame;
    let mut lowest = frame;
    let mut hash = scratch.python.hash;
    let mut len = scratch.python.len;
    for _ in 0..FRAMES_AT_ONCE {
        let at = frame.wrapping_sub(piece);
        if at > before {
            break;
        }
        // The verifier sees this bound.
        let at = at & CHUNK_MASK;
        // SAFETY: the buffer has room for a frame behind its last word, and fields are within it.
        let (code, previous, instruction, owner) = unsafe {
            let base = scratch.piece.as_ptr().byte_add(at as usize);
            let instruction = base.byte_add(instruction_at as usize);
            (
                base.byte_add(code_at as usize).read(),
                base.byte_add(previous_at as usize).read(),
                if narrow {
                    u64::from(instruction.cast::<u32>().read())
                } else {
                    instruction.read()
                },
                u32::from(*base.byte_add(owner_at as usize).cast::<u8>()),
            )
        };
        lowest = frame;
        frame = previous;
        let has_meaning = owner >= owner_min;
        if is_shim && has_meaning {
            // The frame before was the one that the interpreter's loop was entered with.
            let last = len.wrapping_sub(FRAME_WORDS);
            if last >= scratch.python.start {
                hash = mix(hash, FRAME_IS_ENTRY);
                scratch.frames[last as usize & (WORDS - 1)] |= FRAME_IS_ENTRY;
            }
        } else {
            if len >= scratch.python.end {
                scratch.python.flags |= u64::from(PYTHON_TRUNCATED);
                break;
            }
            let code = code & !7 | always_entry | u64::from(has_meaning);
            scratch.frames[len as usize & (WORDS - 1)] = code;
            scratch.frames[(len as usize + 1) & (WORDS - 1)] = instruction;
            len += FRAME_WORDS;
            hash = mix(hash, code ^ instruction.wrapping_mul(INSTRUCTION_SPREAD));
        }
        if frame == 0 {
            break;
        }
    }
    scratch.python.frame = frame;
    scratch.python.hash = hash;
    scratch.python.len = len;
    scratch.python.lowest = lowest;
}

/// Reads the next frame and what is before it: in chunks, callers' frames are there, as far down as
/// those of the walk before this one were. What is in the page before may not be there, and a read
/// that fails is slow.
#[inline(always)]
fn read_piece(scratch: &mut Scratch, python: &Interpreter) -> Option<()> {
    let frame = scratch.python.frame;
    let in_page = frame & (PAGE_SIZE - 1);
    let mut before = frame.wrapping_sub(scratch.python.lowest);
    if frame < scratch.python.lowest {
        before = FEW_FRAMES;
    }
    if before > in_page {
        before = in_page;
    }
    if before > LAST_FRAME {
        before = LAST_FRAME;
    }
    if python.flags & FRAMES_IN_CHUNKS == 0 {
        before = 0;
    }
    let before = before & !7;
    let size = black_box(before + u64::from(python.frame_size));
    if size > CHUNK {
        return None;
    }
    // SAFETY: the buffer has more than `CHUNK` bytes.
    if !unsafe { memory::read(scratch.piece.as_mut_ptr(), size, frame - before) } {
        return None;
    }
    scratch.python.piece = frame - before;
    scratch.python.before = before;
    Some(())
}

/// What tells a code object from others that were or will be at its address: where its names and
/// its lines are, and its first line. 0 when it cannot be read, or is no code object.
#[inline(always)]
fn print(scratch: &mut Scratch, python: &Interpreter, code: u64) -> u64 {
    try_print(scratch, python, code).unwrap_or(0)
}

#[inline(always)]
fn try_print(scratch: &mut Scratch, python: &Interpreter, code: u64) -> Option<u64> {
    let buffer = scratch.code.words.as_mut_ptr();
    // SAFETY: the buffer has more than that many words.
    if !is_pointer(code) || !unsafe { memory::read(buffer, CODE_WORDS * 8, code) } {
        return None;
    }
    let words = &scratch.code.words;
    let class = memory::word_at(words, python.object_type);
    if python.code_type != 0 && class != python.code_type {
        return None;
    }
    let name = memory::word_at(words, python.code_qualname);
    let filename = memory::word_at(words, python.code_filename);
    let lines = memory::word_at(words, python.code_lines);
    let first_line = memory::half_at(words, python.code_first_line);
    let record = &mut scratch.code.record;
    record.name = name;
    record.filename = filename;
    record.lines = lines;
    record.first_line = first_line;
    let hash = mix(
        mix(mix(mix(0, name), filename), lines),
        u64::from(first_line),
    );
    Some(if hash == 0 { 1 } else { hash })
}

/// Completes the Python frames of a stack that is about to be sent for the first time, and sends
/// the code objects that have not been.
#[inline(always)]
pub fn identify(scratch: &mut Scratch) {
    let frames = scratch.python.frames() as u32;
    let step: unsafe extern "C" fn(u32, *mut c_void) -> i64 = identify_step;
    // SAFETY: the helper calls the function with the pointer given.
    unsafe { bpf_loop(frames, step as *mut c_void, core::ptr::null_mut(), 0) };
}

/// One frame of [`identify`].
unsafe extern "C" fn identify_step(n: u32, _: *mut c_void) -> i64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return 1;
    };
    // SAFETY: the lookup gave this CPU's value, which only this program uses now.
    let scratch = unsafe { &mut *scratch };
    let Some(python) = interpreter(scratch.python.interpreter) else {
        return 1;
    };
    let start = scratch.python.start as usize + n as usize * FRAME_WORDS as usize;
    let code = scratch.frames[start & (WORDS - 1)] & !FRAME_IS_ENTRY;
    let print = print(scratch, python, code);
    scratch.frames[(start + 2) & (WORDS - 1)] = print;
    if print != 0 {
        send_code(scratch, code, print);
    }
    0
}

/// Sends a code object, unless it has been.
#[inline(always)]
fn send_code(scratch: &mut Scratch, code: u64, print: u64) {
    const FIXED: u64 = (size_of::<CodeRecord>() + CODE_NAME_BYTES + CODE_FILENAME_BYTES) as u64;
    let interpreter = scratch.python.interpreter;
    // User addresses have 47 bits.
    let key = code | interpreter << 47;
    if let Some(sent) = CODES_SENT.get_ptr(key) {
        // SAFETY: the lookup gave a live map value, which is read at once.
        if unsafe { *sent } == print {
            return;
        }
    }
    let room = &mut scratch.code;
    let slot = scratch.record.slot;
    room.record.kind = RecordKind::Code.code();
    room.record.reserved = 0;
    room.record.interpreter = interpreter as u16;
    room.record.slot = slot;
    room.record.code = code;
    room.record.print = print;
    room.record.name_size = part(room.record.name, &mut room.name);
    room.record.filename_size = part(room.record.filename, &mut room.filename);
    room.record.lines_size = part(room.record.lines, &mut room.lines);
    let lines = black_box(u64::from(room.record.lines_size));
    if lines > CODE_LINES_BYTES as u64 {
        return;
    }
    // SAFETY: the record and its parts are one behind the other, and as long as said. The map is a
    // ring buffer.
    let sent = unsafe {
        bpf_ringbuf_output(
            core::ptr::from_ref(&EVENTS).cast_mut().cast(),
            (&raw mut room.record).cast(),
            FIXED + lines,
            u64::from(BPF_RB_NO_WAKEUP),
        )
    };
    if sent == 0 {
        let _ = CODES_SENT.insert(key, print, 0);
    }
}

/// Reads the beginning of an object, up to the end of the page if it cannot be read whole; returns
/// how many bytes.
#[inline(always)]
fn part<const N: usize>(address: u64, room: &mut [u64; N]) -> u32 {
    let size = N as u64 * 8;
    // SAFETY: the room has that many bytes.
    if unsafe { memory::read(room.as_mut_ptr(), size, address) } {
        return size as u32;
    }
    let in_page = black_box(PAGE_SIZE - (address & (PAGE_SIZE - 1)));
    // SAFETY: as above, by the check.
    if in_page < size && unsafe { memory::read(room.as_mut_ptr(), in_page, address) } {
        return in_page as u32;
    }
    0
}
