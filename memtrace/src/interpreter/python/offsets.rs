//! Where fields are in the versions that do not say so themselves: 3.8 to 3.12.
//!
//! The figures are from the debug information of `CPython` 3.8.18, 3.9.18, 3.10.13, 3.11.7 and
//! 3.12.1, built for x86-64; these structures are not changed within a minor version. The tests
//! walk the frames of running interpreters with them.

use memtrace_common::interpreter::python::{
    ENTRY_BYTE, FRAMES_IN_CHUNKS, Layout, NO_FIELD, REFCOUNT_32, SHIM_FRAMES,
};

/// All that depends on the version alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offsets {
    /// The fields that are offsets and flags; addresses are 0, `thread_local` is [`NO_FIELD`].
    pub(super) layout: Layout,
    /// In a thread state: its interpreter.
    pub(super) thread_interpreter: u32,
    /// In the runtime: `autoTSSkey`, a `Py_tss_t`: whether it is initialised, an `int`, and the
    /// key, a `pthread_key_t`. [`NO_FIELD`] when it is not known.
    pub(super) key: u32,
}

/// Python frames are the frames with an owner below this one: `FRAME_OWNED_BY_CSTACK` in 3.12 and
/// 3.13; in 3.14 `FRAME_OWNED_BY_INTERPRETER`, and that of the C stack follows.
pub(super) const OWNER_SHIM: u32 = 3;

/// `autoTSSkey` of 3.13 and later, whose own table does not have it: from the debug information
/// of 3.13.0, and of 3.14.10 where a live thread's key was found. Should a later release move it,
/// no thread shows the key, and threads are found by the runtime's list.
pub(super) fn key(version: u32) -> u32 {
    match version {
        0x030d => 2160,
        0x030e => 2336,
        _ => NO_FIELD,
    }
}

/// The offsets of a version, as 0x030a for 3.10; `None` when it is not one of 3.8 to 3.12.
pub(super) fn of(version: u32) -> Option<Offsets> {
    let (layout, key) = match version {
        0x0308 => (frame_objects(0x0308), 1392),
        0x0309 => (frame_objects(0x0309), 584),
        0x030a => (frame_objects(0x030a), 584),
        0x030b => (v3_11(), 592),
        0x030c => (v3_12(), 1544),
        _ => return None,
    };
    Some(Offsets {
        layout,
        thread_interpreter: 16,
        key,
    })
}

/// 3.8 to 3.10: frames are objects.
fn frame_objects(version: u32) -> Layout {
    // `f_lasti`; 3.10 dropped a field before it.
    let instruction = if version == 0x030a { 96 } else { 104 };
    Layout {
        runtime: 0,
        type_type: 0,
        code_type: 0,
        version,
        flags: 0,
        current: if version == 0x0308 { 1368 } else { 568 },
        thread_local: NO_FIELD,
        interpreters_head: 32,
        interpreter_next: 0,
        threads_head: 8,
        thread_next: 8,
        thread_id: 176,
        frame: 24,
        frame_indirect: NO_FIELD,
        frame_code: 32,
        frame_previous: 24,
        frame_instruction: instruction,
        frame_owner: NO_FIELD,
        owner_shim: NO_FIELD,
        frame_size: instruction + 4,
        instruction_size: 4,
        code_filename: 104,
        code_name: 112,
        code_qualname: 112,
        code_first_line: 40,
        // `co_lnotab` up to 3.9, `co_linetable` in 3.10.
        code_lines: 120,
        code_bytecode: NO_FIELD,
        object_type: 8,
        type_flags: 168,
        type_name: 24,
        pool_size: pool_size(version),
    }
}

/// Frames are in chunks, and the thread state has them by way of its `cframe`.
fn v3_11() -> Layout {
    Layout {
        version: 0x030b,
        flags: FRAMES_IN_CHUNKS | ENTRY_BYTE,
        current: 576,
        interpreters_head: 40,
        threads_head: 16,
        thread_id: 152,
        frame: 56,
        frame_indirect: 8,
        frame_code: 32,
        frame_previous: 48,
        frame_instruction: 56,
        // `is_entry`; the owner is the byte after it, and none of its values is a shim's.
        frame_owner: 68,
        frame_size: 69,
        instruction_size: 8,
        code_filename: 112,
        code_name: 120,
        code_qualname: 128,
        code_first_line: 72,
        code_lines: 136,
        code_bytecode: 184,
        ..frame_objects(0x030a)
    }
}

/// Shim frames replace `is_entry`, and the runtime does not have a current thread any more.
fn v3_12() -> Layout {
    Layout {
        version: 0x030c,
        flags: FRAMES_IN_CHUNKS | SHIM_FRAMES | REFCOUNT_32,
        current: NO_FIELD,
        threads_head: 72,
        thread_id: 136,
        frame_indirect: 0,
        frame_code: 0,
        frame_previous: 8,
        frame_owner: 70,
        owner_shim: OWNER_SHIM,
        frame_size: 71,
        code_first_line: 68,
        code_bytecode: 192,
        ..v3_11()
    }
}

/// Bytes of a pool: `POOL_SIZE` of `Objects/obmalloc.c` and, from 3.12, `pycore_obmalloc.h`.
/// Larger from 3.10 on, where the radix tree of arenas came.
pub(super) fn pool_size(version: u32) -> u32 {
    if version < 0x030a { 4096 } else { 16_384 }
}
