//! What the BPF side sends through the ring buffer.
//!
//! Every record begins with its kind in the first byte. Records of one process are in order: its
//! [`RecordKind::Fork`] comes before its first [`FaultRecord`], its [`RecordKind::Exit`] after the
//! last, and its slot is not given to another process until the loader has read that and released
//! it. So a slot number alone says whose a record is.

use crate::{assert_layout, coded};

/// The most frames that a stack holds; a deeper one is cut and marked
/// [`StackEnd::Depth`](crate::unwind::StackEnd::Depth).
pub const MAX_FRAMES: usize = 127;

coded! {
    /// What a record is: its first byte.
    RecordKind {
        /// A [`FaultRecord`].
        Fault = 1,
        /// A [`StackRecord`], followed by its frames.
        Stack = 2,
        /// A [`ProcessRecord`]: a process was found at attach, or forked.
        Fork = 3,
        /// A [`ProcessRecord`]: a process replaced its program.
        Exec = 4,
        /// A [`ProcessRecord`]: a process ended.
        Exit = 5,
        /// A [`FunctionRecord`], followed by what it was read from.
        Function = 6,
        /// A [`PagesRecord`], followed by its pages.
        Pages = 7,
    }
}

coded! {
    /// What the copied page was before.
    Origin {
        /// An anonymous page shared since a fork.
        Fork = 0,
        /// A page that KSM had merged.
        Ksm = 1,
        /// A page of a private file mapping, present or not.
        File = 2,
        /// A page of a hugetlb pool.
        Hugetlb = 3,
    }
}

coded! {
    /// What the write was that made the kernel copy.
    Cause {
        /// Not known; the report says why.
        Unknown = 0,
        /// An object's reference count.
        Refcount = 1,
        /// A garbage collector's header or mark.
        Gc = 2,
        /// Bookkeeping of malloc or of the interpreter's allocator.
        Allocator = 3,
        /// A field of an object.
        Object = 4,
        /// Anything else in writable data.
        Data = 5,
        /// The kernel wrote on behalf of a system call.
        Kernel = 6,
        /// Another process wrote (ptrace, /proc/PID/mem).
        Remote = 7,
    }
}

coded! {
    /// What was seen in memory at the moment of the write, and made its cause.
    Evidence {
        /// Memory was not looked at: the process has no interpreter, or the kernel wrote.
        None = 0,
        /// A reference count: a type follows it, and the count is a plausible one.
        Refcount = 1,
        /// The header that the collector has before an object, or the object's own bits for it.
        GcHeader = 2,
        /// The header of one of the interpreter's pools.
        PoolHeader = 3,
        /// Memory of an object that is being freed: its count is 0.
        Freed = 4,
        /// A field of an object; [`FaultRecord::offset`] says which.
        Field = 5,
        /// In a block of one of the interpreter's pools that is not an object: items of a list,
        /// keys of a dict, or free. [`FaultRecord::offset`] is from the block's start.
        Block = 6,
        /// Neither an object that could be recognised nor in a pool.
        Elsewhere = 7,
        /// The memory around the address could not be read.
        Unreadable = 8,
    }
}

/// Flag of a [`FaultRecord`]: the fault's end was not seen, so its latency is not known and its
/// stack is only the faulting instruction.
pub const FAULT_NO_END: u8 = 1;

/// Flag of a [`StackRecord`]: there were more script frames than
/// [`MAX_SCRIPT_FRAMES`](crate::interpreter::MAX_SCRIPT_FRAMES).
pub const SCRIPT_TRUNCATED: u8 = 2;
/// Flag of a [`StackRecord`]: script frames could not be read to the end.
pub const SCRIPT_DAMAGED: u8 = 4;

/// Bit of [`ScriptFrame::function`]: the interpreter's loop was entered with this frame, so that
/// its caller is compiled code.
pub const FRAME_IS_ENTRY: u64 = 1;

/// One copied page.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct FaultRecord {
    /// [`RecordKind::Fault`].
    pub kind: u8,
    /// [`Origin`], coded.
    pub origin: u8,
    /// [`Cause`], coded.
    pub cause: u8,
    /// `FAULT_*` bits.
    pub flags: u8,
    /// The process: its index in the process table.
    pub slot: u32,
    /// Its process's [`ProcessSlot::execs`](crate::process::ProcessSlot::execs) then.
    pub execs: u32,
    /// From the fault's entry to its end, in nanoseconds, saturating; 0 with [`FAULT_NO_END`].
    pub latency_ns: u32,
    /// Entry of the fault, in nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// The address written to.
    pub address: u64,
    /// The user-mode instruction: the one that wrote, or for [`Cause::Kernel`] the one after the
    /// system call.
    pub ip: u64,
    /// The stack, see [`StackRecord::id`]. 0 without one: with [`FAULT_NO_END`], and where stacks
    /// are not recorded.
    pub stack_id: u64,
    /// Address of the type of the object written to; 0 where there is none.
    pub object_type: u64,
    /// [`Evidence`], coded.
    pub evidence: u32,
    /// With [`Evidence::Field`], [`Evidence::Block`]: bytes from the start of the object or block
    /// to the address.
    pub offset: i32,
}
assert_layout!(FaultRecord, size = 64);

/// A stack that this trace has not seen before. Behind it follow `frames` addresses of 8 bytes,
/// leaf first, then `script_frames` times a [`ScriptFrame`], innermost first.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct StackRecord {
    /// [`RecordKind::Stack`].
    pub kind: u8,
    /// `SCRIPT_*` bits.
    pub flags: u8,
    /// How many native frames follow, at most [`MAX_FRAMES`].
    pub frames: u16,
    /// The process that it was taken in: its index in the process table.
    pub slot: u32,
    /// Hash over all frames, the interpreter and the process's
    /// [`program`](crate::process::ProcessSlot::program); never 0.
    pub id: u64,
    /// How many script frames follow, at most
    /// [`MAX_SCRIPT_FRAMES`](crate::interpreter::MAX_SCRIPT_FRAMES).
    pub script_frames: u16,
    /// The process's interpreter, a [`Handle`](crate::interpreter::Handle); 0 without one.
    pub interpreter: u16,
    /// Why the native frames end, a [`StackEnd`](crate::unwind::StackEnd), coded.
    pub end: u8,
    /// Reserved, zero.
    pub reserved: [u8; 3],
}
assert_layout!(StackRecord, size = 24);

/// A function that an interpreter runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ScriptFrame {
    /// Address of what the interpreter keeps of the function (CPython: its code object), and
    /// [`FRAME_IS_ENTRY`].
    pub function: u64,
    /// Where in the function it is, as the frame has it: an address in the bytecode, or an index.
    pub position: u64,
    /// [`FunctionRecord::fingerprint`] when the stack was taken; 0 when it could not be read.
    pub fingerprint: u64,
}
assert_layout!(ScriptFrame, size = 24);

/// Bytes of the part of a [`FunctionRecord`] that is the function's name.
pub const FUNCTION_NAME_BYTES: usize = 256;
/// Bytes of the part of a [`FunctionRecord`] that is its file's name.
pub const FUNCTION_FILE_BYTES: usize = 512;
/// Bytes, at most, of the part of a [`FunctionRecord`] that is its table of lines.
pub const FUNCTION_LINES_BYTES: usize = 4096;

/// What an interpreter keeps of a function, as it was when a stack with it was first seen: what the
/// function is called must be known even if it is freed at once, or its process ends. Each part is
/// memory as it is, from the start of the object that holds it; only the interpreter's half in the
/// loader can decode it. A part that could not be read has 0 bytes.
///
/// The parts follow, each at its own place: [`FUNCTION_NAME_BYTES`] of the name,
/// [`FUNCTION_FILE_BYTES`] of the file's name, and `lines_size` of the table of lines.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct FunctionRecord {
    /// [`RecordKind::Function`].
    pub kind: u8,
    /// Reserved, zero.
    pub reserved: u8,
    /// The process's interpreter, a [`Handle`](crate::interpreter::Handle).
    pub interpreter: u16,
    /// The process that it was seen in: its index in the process table.
    pub slot: u32,
    /// Its address: [`ScriptFrame::function`] without the flag.
    pub function: u64,
    /// Tells it from others that were or will be at this address; never 0.
    pub fingerprint: u64,
    /// Address of its qualified name.
    pub name: u64,
    /// Address of its file's name.
    pub file: u64,
    /// Address of its table of lines.
    pub lines: u64,
    /// Line that it begins with, as the interpreter has it.
    pub first_line: u32,
    /// Bytes that were read of the name.
    pub name_size: u32,
    /// Bytes that were read of the file's name.
    pub file_size: u32,
    /// Bytes that were read of the table of lines.
    pub lines_size: u32,
}
assert_layout!(FunctionRecord, size = 64);

/// Pages of a process that are kept for its end: a power of two.
pub const SAMPLED_PAGES: usize = 32;

/// Bit of [`PageHash::page`]: it was copied from a file.
pub const PAGE_IS_FILE: u64 = 1;

/// [`PageHash::hash`] of a page that is not in memory.
pub const PAGE_UNREAD: u64 = 0;

/// What some of the pages hold that a process copied, at its end. Behind it follow `count` times a
/// [`PageHash`]. It comes before the record of the end itself, and only of a process that has had
/// its parent's program all its life, from a fork during the trace on, and whose parent lives.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct PagesRecord {
    /// [`RecordKind::Pages`].
    pub kind: u8,
    /// Reserved, zero.
    pub reserved: u8,
    /// How many pages follow, at most [`SAMPLED_PAGES`]: fewer than it copied where looking at more
    /// would take too long.
    pub count: u16,
    /// The process: its index in the process table.
    pub slot: u32,
    /// How many copies the pages are a sample of.
    pub copies: u64,
}
assert_layout!(PagesRecord, size = 16);

/// A copied page at the end of its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PageHash {
    /// Where it begins, and [`PAGE_IS_FILE`].
    pub page: u64,
    /// [`of_page`](crate::hash::of_page) of what it holds, which is never [`PAGE_UNREAD`].
    pub hash: u64,
}
assert_layout!(PageHash, size = 16);

/// Something happened to a process of the traced set: it was found or forked
/// ([`RecordKind::Fork`]), replaced its program ([`RecordKind::Exec`]), or its last thread ended
/// ([`RecordKind::Exit`]). Its slot in the process table says who it is; the record says what may
/// have changed in the slot by the time when it is read.
///
/// A process that is found runs meanwhile. Its record says what it was taken as, and can come after
/// the record of its first exec.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ProcessRecord {
    /// The [`RecordKind`], coded.
    pub kind: u8,
    /// 1 for a process that was forked during the trace, 0 for one that was found.
    pub forked: u8,
    /// Reserved, zero.
    pub reserved: [u8; 2],
    /// The process: its index in the process table.
    pub slot: u32,
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// [`ProcessSlot::program`](crate::process::ProcessSlot::program).
    pub program: u64,
    /// [`ProcessSlot::execs`](crate::process::ProcessSlot::execs).
    pub execs: u32,
    /// [`ProcessSlot::parent_slot`](crate::process::ProcessSlot::parent_slot). The end of a process
    /// that forked comes after the record of its child; its beginning came before, unless it was
    /// being found at that moment.
    pub parent_slot: u32,
    /// [`ProcessSlot::comm`](crate::process::ProcessSlot::comm).
    pub comm: [u8; 16],
}
assert_layout!(ProcessRecord, size = 48);
