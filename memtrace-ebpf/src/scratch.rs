//! Room that each CPU has: for what is too large for a program's own stack, and for what is
//! remembered from one copy to the next. It is data only;
//! whoever uses it knows what it means.

use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::macros::btf_map;
use core::mem::{offset_of, size_of};
use memtrace_common::hash::mix;
use memtrace_common::interpreter::MAX_SCRIPT_FRAMES;
use memtrace_common::record::{
    FUNCTION_FILE_BYTES, FUNCTION_LINES_BYTES, FUNCTION_NAME_BYTES, FunctionRecord, MAX_FRAMES,
    ScriptFrame, StackRecord,
};
use memtrace_common::unwind::{Mapping, PackedRow};

use crate::memory::{self, Words};
use crate::registers::Registers;

/// Room for the words of a stack: a power of two, so that an index can be masked.
pub const WORDS: usize = 512;
const _: () = assert!(MAX_FRAMES + MAX_SCRIPT_FRAMES * FRAME_WORDS as usize <= WORDS);

/// Words of a script frame in a stack.
pub const FRAME_WORDS: u64 = (size_of::<ScriptFrame>() / 8) as u64;

/// Bytes of the native stack that are read at once.
pub const PIECE: u64 = 1024;

/// Bytes of script frames that are read at once, at most.
pub const CHUNK: u64 = 4096;

/// Words of the stack that are remembered of a walk: two of each frame.
pub const CHECKS: usize = 256;

/// Rows that are remembered, a power of two. Most return addresses are seen again and again, and
/// searching the tables takes a cache miss or two for each.
pub const KNOWN_ROWS: usize = 1024;

/// Words of [`Scratch::around`]: four before the address, and four from it on.
pub const AROUND: usize = 8;

/// Types that are remembered, a power of two.
pub const TYPES: usize = 16;

/// What one CPU has.
#[btf_map]
static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// Rows that were found lately, on each CPU.
#[btf_map]
pub static KNOWN: PerCpuArray<[KnownRow; KNOWN_ROWS], 1> = PerCpuArray::new();

/// A stack's record as it is sent, and room to work in.
#[repr(C)]
pub struct Scratch {
    /// The record's fixed part.
    pub record: StackRecord,
    /// Its frames: native ones, and behind them script frames.
    pub frames: [u64; WORDS],
    /// When the loader is woken.
    pub wakeups: Wakeups,
    /// Where the walk over native frames is.
    pub walk: Walk,
    /// The walk that the native frames are of.
    pub last: LastWalk,
    /// What it read of the stack.
    pub checks: [Check; CHECKS],
    /// What a walk over script frames has found.
    pub script: ScriptWalk,
    /// Room for CPython.
    pub python: Python,
    /// A function, which may be sent.
    pub function: FunctionRoom,
    /// What the write was.
    pub judged: Judged,
    /// Memory around the address written to.
    pub around: [u64; AROUND],
    /// A piece of the target's memory, and room so that a field behind it is still within.
    pub piece: [u64; (CHUNK / 8) as usize + 16],
}
const _: () = assert!(
    offset_of!(Scratch, frames) == size_of::<StackRecord>(),
    "record and frames are sent as one piece"
);

/// When the loader is woken.
#[repr(C)]
pub struct Wakeups {
    /// Fault records written on this CPU, to wake the loader now and then.
    pub records: u64,
    /// Other than 0 to wake it with the next one.
    pub due: u64,
}

/// Where the walk over native frames is. It is in this room because the verifier then knows nothing
/// of the values, and need not follow each of the steps.
#[repr(C)]
pub struct Walk {
    /// The frame that was found last.
    pub frame: Registers,
    /// 1 when a frame was found by the other register.
    pub by_other: u64,
    /// 1 when the address is one to which a call returns, 0 when it is an instruction itself.
    pub is_return: u64,
    /// The process's set of mappings.
    pub set: u64,
    /// The mapping that an address was found in last.
    pub mapping: Mapping,
    /// The address that [`Scratch::piece`] was read from.
    pub piece: u64,
    /// How many bytes it holds.
    pub size: u64,
    /// Frames so far.
    pub len: u64,
    /// The hash over them.
    pub hash: u64,
    /// The hash over them, their number and why it ended.
    pub stack_hash: u64,
    /// Why it ended, a [`StackEnd`](memtrace_common::unwind::StackEnd), coded.
    pub end: u64,
    /// Words that have been read of the stack.
    pub checks: Checks,
    /// Where a search is.
    pub search: Search,
}

/// How many words have been read of the stack; and while they are compared, how many have been.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Checks {
    /// Read.
    pub read: u64,
    /// Compared.
    pub compared: u64,
}

/// Where a binary search is: what is looked for is from `low` on, and before `high`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Search {
    /// See [`Search`].
    pub low: u64,
    /// See [`Search`].
    pub high: u64,
}

/// What the walk that was completed last began with, and what came out.
#[repr(C)]
pub struct LastWalk {
    /// The instruction it began with.
    pub ip: u64,
    /// The stack pointer it began with.
    pub sp: u64,
    /// The frame pointer it began with.
    pub fp: u64,
    /// The set of mappings.
    pub set: u64,
    /// Frames.
    pub len: u64,
    /// The hash over them.
    pub hash: u64,
    /// Why it ended.
    pub end: u64,
    /// Where the outermost frame begins: one past the highest address that was read, as a rule.
    pub top: u64,
    /// Words to compare; 0 when no walk is remembered.
    pub checks: u64,
}

/// A word of the stack that a walk depends on.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Check {
    /// Where it is.
    pub address: u64,
    /// What it was.
    pub value: u64,
}

/// A row, and what it was found for.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct KnownRow {
    /// The address.
    pub pc: u64,
    /// The set of mappings; 0 when no row is remembered here.
    pub set: u64,
    /// The row.
    pub row: PackedRow,
}

/// What a walk over script frames has found, whatever the interpreter.
#[repr(C)]
pub struct ScriptWalk {
    /// The interpreter's handle.
    pub interpreter: u64,
    /// Words of the stack so far.
    pub len: u64,
    /// Where the script frames among them begin.
    pub start: u64,
    /// Where they end at the latest.
    pub end: u64,
    /// The hash over all frames.
    pub hash: u64,
    /// `SCRIPT_*`.
    pub flags: u64,
}

impl ScriptWalk {
    /// Begins behind the `len` words of native frames, whose hash is `hash`.
    #[inline(always)]
    pub fn begin(&mut self, interpreter: u64, len: u64, hash: u64) {
        self.interpreter = interpreter;
        self.len = len;
        self.start = len;
        self.end = len + MAX_SCRIPT_FRAMES as u64 * FRAME_WORDS;
        self.hash = mix(hash, interpreter);
        memory::set(&mut self.flags, 0);
    }

    /// Script frames so far.
    #[inline(always)]
    pub fn frames(&self) -> u64 {
        (self.len - self.start) / FRAME_WORDS
    }
}

/// Room for CPython.
#[repr(C)]
pub struct Python {
    /// The next frame.
    pub frame: u64,
    /// The interpreter whose thread states are searched.
    pub searched: u64,
    /// The address that [`Scratch::piece`] was read from.
    pub piece: u64,
    /// Where in it the last frame begins.
    pub before: u64,
    /// The last frame that was recorded. The next walk reads as far as this: what is read costs,
    /// whether it is used or not.
    pub lowest: u64,
    /// The thread's own pointer.
    pub thread: u64,
    /// A thread state.
    pub state: Words,
    /// A pool's header, or what a block in it begins with.
    pub pool: [u64; 8],
    /// Types that were seen lately: address and interpreter, and flags.
    pub types: [(u64, u64); TYPES],
    /// A type.
    pub class: Words,
}

/// What a write was.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Judged {
    /// Address of the object's type; 0 where there is none.
    pub object_type: u64,
    /// Bytes from the object's or block's start.
    pub offset: i32,
    /// [`Cause`](memtrace_common::record::Cause), as far as memory tells, coded.
    pub cause: u8,
    /// What made it so, an [`Evidence`](memtrace_common::record::Evidence), coded.
    pub evidence: u8,
    _pad: [u8; 2],
}

impl Judged {
    /// Puts together what all constructors have. Codes and not the enumerations, of which memory
    /// that the verifier knows nothing of cannot be made.
    #[inline(always)]
    pub fn new(cause: u8, evidence: u8, object_type: u64, offset: i32) -> Self {
        Self {
            object_type,
            offset,
            cause,
            evidence,
            _pad: [0; 2],
        }
    }
}

/// What an interpreter keeps of a function, and its record as it is sent.
#[repr(C)]
pub struct FunctionRoom {
    /// The interpreter's own object.
    pub words: Words,
    /// The record's fixed part; the others are right behind it.
    pub record: FunctionRecord,
    /// Its name.
    pub name: [u64; FUNCTION_NAME_BYTES / 8],
    /// Its file's name.
    pub file: [u64; FUNCTION_FILE_BYTES / 8],
    /// Its table of lines.
    pub lines: [u64; FUNCTION_LINES_BYTES / 8],
}

/// This CPU's room. The programs that use it do not nest on a CPU. Whoever calls a function that
/// asks for it too has no use for it until that returns.
#[inline(always)]
pub fn scratch() -> Option<&'static mut Scratch> {
    // SAFETY: the lookup gave this CPU's value, which only the running program uses now.
    SCRATCH.get_ptr_mut(0).map(|room| unsafe { &mut *room })
}
