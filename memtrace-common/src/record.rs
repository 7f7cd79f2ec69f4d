//! What the BPF side sends through the ring buffer.
//!
//! Every record begins with its kind in the first byte. Records of one process are in order: its
//! [`RecordKind::Fork`] comes before its first [`FaultRecord`], its [`RecordKind::Exit`] after the
//! last, and its slot is not given to another process until the loader has read that and released
//! it. So a slot number alone says whose a record is.

use crate::{assert_layout, coded};

/// The most frames that a stack holds; a deeper one is cut and marked [`STACK_TRUNCATED`].
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

/// Flag of a [`FaultRecord`]: the fault's end was not seen, so its latency is not known and its
/// stack is only the faulting instruction.
pub const FAULT_NO_END: u8 = 1;
/// Flag of a [`FaultRecord`]: the fault was a major one.
pub const FAULT_MAJOR: u8 = 2;
/// Flag of a [`FaultRecord`]: the process had no stack taken (`--unwind off`).
pub const FAULT_NO_STACK: u8 = 4;
/// Flag of a [`StackRecord`]: there were more frames than [`MAX_FRAMES`].
pub const STACK_TRUNCATED: u8 = 1;

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
    /// The thread, as the kernel's pid.
    pub tid: u32,
    /// From the fault's entry to its end, in nanoseconds, saturating; 0 with [`FAULT_NO_END`].
    pub latency_ns: u32,
    /// Entry of the fault, in nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// The address written to.
    pub address: u64,
    /// The user-mode instruction: the one that wrote, or for [`Cause::Kernel`] the one after the
    /// system call.
    pub ip: u64,
    /// The stack, see [`StackRecord::id`]; 0 when none was taken.
    pub stack_id: u64,
    /// Reserved for the type of the object written to; 0.
    pub object_type: u64,
}
assert_layout!(FaultRecord, size = 56);

/// A stack that this trace has not seen before; `frames` addresses of 8 bytes follow, leaf first.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct StackRecord {
    /// [`RecordKind::Stack`].
    pub kind: u8,
    /// `STACK_*` bits.
    pub flags: u8,
    /// How many frames follow, at most [`MAX_FRAMES`].
    pub frames: u16,
    /// The process that it was taken in: its index in the process table.
    pub slot: u32,
    /// Hash over all frames; never 0.
    pub id: u64,
}
assert_layout!(StackRecord, size = 16);

/// Something happened to a process of the traced set: it was found or forked
/// ([`RecordKind::Fork`]), replaced its program ([`RecordKind::Exec`]), or its last thread ended
/// ([`RecordKind::Exit`]). Who it is stands in its slot of the process table.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ProcessRecord {
    /// The [`RecordKind`], coded.
    pub kind: u8,
    /// Reserved, zero.
    pub reserved: [u8; 3],
    /// The process: its index in the process table.
    pub slot: u32,
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
}
assert_layout!(ProcessRecord, size = 16);
