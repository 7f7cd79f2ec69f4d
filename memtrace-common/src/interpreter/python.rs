//! How a CPython in a traced process is laid out.

use crate::assert_layout;

/// In place of an offset, where this version does not have the field.
pub const NO_FIELD: u32 = u32::MAX;

/// [`Layout::flags`]: objects have the header of the free-threaded build: `ob_tid` at 0,
/// `ob_gc_bits` at 11, `ob_ref_local` at 12, `ob_ref_shared` at 16; no collector's header before
/// them.
pub const FREE_THREADED: u32 = 1;
/// [`Layout::flags`]: frames are not objects but lie in pieces of memory, one behind the
/// other (3.11 and later).
pub const FRAMES_IN_CHUNKS: u32 = 2;
/// [`Layout::flags`]: a reference count is the lower 32 bits of its word (3.12 and later).
pub const REFCOUNT_32: u32 = 4;
/// [`Layout::flags`]: frames that the interpreter itself pushes are marked by
/// [`Layout::frame_owner`] being at least [`Layout::owner_shim`] (3.12 and later). They are not
/// frames of Python functions; there is one wherever the interpreter's loop was entered.
pub const SHIM_FRAMES: u32 = 8;
/// [`Layout::flags`]: the byte at [`Layout::frame_owner`] says, other than 0, that the
/// interpreter's loop was entered with this frame (3.11's `is_entry`).
pub const ENTRY_BYTE: u32 = 16;

/// A CPython in an address space. Offsets are in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Layout {
    /// Address of `_PyRuntime`.
    pub runtime: u64,
    /// Address of `PyType_Type`.
    pub type_type: u64,
    /// Address of `PyCode_Type`; 0 when it is not known.
    pub code_type: u64,
    /// Major version times 256 plus minor: 0x030b is 3.11.
    pub version: u32,
    /// Flags above.
    pub flags: u32,
    /// In the runtime: the thread state that holds the interpreter's lock (up to 3.11), or
    /// [`NO_FIELD`].
    pub current: u32,
    /// From the thread's own pointer, where the C library keeps the thread state under the
    /// runtime's key, or [`NO_FIELD`].
    pub thread_local: u32,
    /// In the runtime: the first interpreter.
    pub interpreters_head: u32,
    /// In an interpreter: the next one.
    pub interpreter_next: u32,
    /// In an interpreter: the first thread state.
    pub threads_head: u32,
    /// In a thread state: the next one.
    pub thread_next: u32,
    /// In a thread state: what `pthread_self` gave, which is the thread's own pointer.
    pub thread_id: u32,
    /// In a thread state: the frame; or what points to it, see the next field.
    pub frame: u32,
    /// In what [`Layout::frame`] points to: the frame (3.11 and 3.12), or [`NO_FIELD`] where
    /// it is the frame itself.
    pub frame_indirect: u32,
    /// In a frame: the code object; its lower three bits must be masked out.
    pub frame_code: u32,
    /// In a frame: the caller's.
    pub frame_previous: u32,
    /// In a frame: the instruction, see [`Layout::instruction_size`].
    pub frame_instruction: u32,
    /// In a frame: a byte that says who owns it, or that it is an entry; or [`NO_FIELD`].
    pub frame_owner: u32,
    /// See [`SHIM_FRAMES`].
    pub owner_shim: u32,
    /// Bytes of a frame up to the end of the last of these fields; at most 128.
    pub frame_size: u32,
    /// 8: an address in the bytecode. 4: an index, as `f_lasti` (up to 3.10).
    pub instruction_size: u32,
    /// In a code object: the file's name, a `str`.
    pub code_filename: u32,
    /// In a code object: the function's name, a `str`.
    pub code_name: u32,
    /// In a code object: the qualified name, a `str` (3.11 and later); else as
    /// [`Layout::code_name`].
    pub code_qualname: u32,
    /// In a code object: the first line's number, an `int`.
    pub code_first_line: u32,
    /// In a code object: the table of lines, a `bytes`.
    pub code_lines: u32,
    /// In a code object: the bytecode itself (3.11 and later), or [`NO_FIELD`].
    pub code_bytecode: u32,
    /// In an object: its type.
    pub object_type: u32,
    /// In a type: its flags.
    pub type_flags: u32,
    /// In a type: its name, a C string.
    pub type_name: u32,
    /// Bytes of one of the allocator's pools, a power of two; 0 when there are none.
    pub pool_size: u32,
}
assert_layout!(Layout, size = 136);
