//! The table of offsets that a runtime of 3.13 and later begins with, `_Py_DebugOffsets`.
//!
//! The table has groups of words, each group beginning with the size of the structure that it is
//! about. Groups grow between minor versions, so each version has its own description here,
//! checked against the tables of 3.13.0, 3.13.5 and 3.14.10. Within a minor version it does not
//! change, while the offsets in it do.

use memtrace_common::interpreter::python::{
    FRAMES_IN_CHUNKS, FREE_THREADED, Layout, NO_FIELD, REFCOUNT_32, SHIM_FRAMES,
};

use super::offsets::{self, Offsets};

/// What the table begins with.
pub(super) const COOKIE: [u8; 8] = *b"xdebugpy";
/// Words of the table that are read, cookie included; it has more.
pub(super) const WORDS: usize = 56;

/// `_PyRuntime`, an interpreter: they hold whole tables of objects and are large.
const MAX_STATE: u64 = 16 << 20;
/// Any other structure.
const MAX_STRUCTURE: u64 = 64 << 10;
/// A frame's fields, see [`Layout::frame_size`].
const MAX_FRAME: u32 = 128;

/// Words of each group, its size included, in the table's order.
struct Groups {
    runtime: usize,
    interpreter: usize,
    thread: usize,
    frame: usize,
    code: usize,
    object: usize,
    kind: usize,
    /// In the interpreter's group, `next`; `threads_head` follows.
    interpreter_next: usize,
}

const V3_13: Groups = Groups {
    runtime: 3,
    interpreter: 13,
    thread: 9,
    frame: 6,
    code: 10,
    object: 2,
    kind: 4,
    interpreter_next: 2,
};

/// A frame's `stackpointer` and `tlbc_index`, and others that are not needed here, came in.
const V3_14: Groups = Groups {
    interpreter: 16,
    frame: 8,
    code: 11,
    ..V3_13
};

/// One structure of the table.
struct Group<'table> {
    what: &'static str,
    words: &'table [u64],
    most: u64,
}

impl Group<'_> {
    /// The offset at `index` of a field of `size` bytes, which must be inside the structure.
    fn field(&self, index: usize, size: u64) -> Result<u32, String> {
        let structure = self.words[0];
        let offset = self.words[index];
        let end = offset.checked_add(size);
        if structure > self.most || end.is_none_or(|end| end > structure) {
            return Err(format!(
                "its table of offsets has a field at {offset} in a {} of {structure} bytes",
                self.what
            ));
        }
        Ok(offset as u32)
    }
}

/// The version in a table of `words`, as `PY_VERSION_HEX`.
pub(super) fn version(words: &[u64; WORDS]) -> Option<u32> {
    u32::try_from(words[1]).ok()
}

/// What the table says of each structure.
struct Structures<'table> {
    runtime: Group<'table>,
    interpreter: Group<'table>,
    /// In the interpreter's group, `next`; `threads_head` follows.
    interpreter_next: usize,
    thread: Group<'table>,
    frame: Group<'table>,
    code: Group<'table>,
    object: Group<'table>,
    kind: Group<'table>,
}

impl<'table> Structures<'table> {
    /// Takes the table apart.
    fn of(words: &'table [u64; WORDS], groups: &Groups) -> Self {
        let mut rest = &words[3..];
        let mut next = |what, count, most| {
            let (words, after) = rest.split_at(count);
            rest = after;
            Group { what, words, most }
        };
        Self {
            runtime: next("runtime", groups.runtime, MAX_STATE),
            interpreter: next("interpreter", groups.interpreter, MAX_STATE),
            interpreter_next: groups.interpreter_next,
            thread: next("thread state", groups.thread, MAX_STRUCTURE),
            frame: next("frame", groups.frame, MAX_STRUCTURE),
            code: next("code object", groups.code, MAX_STRUCTURE),
            object: next("object", groups.object, MAX_STRUCTURE),
            kind: next("type", groups.kind, MAX_STRUCTURE),
        }
    }

    /// The layout, as far as it depends on the table: flags, pools and a frame's size are not
    /// filled in.
    fn layout(&self, version: u32) -> Result<Layout, String> {
        let Self {
            runtime,
            interpreter,
            interpreter_next,
            thread,
            frame,
            code,
            object,
            kind,
        } = self;
        Ok(Layout {
            runtime: 0,
            type_type: 0,
            code_type: 0,
            version,
            flags: 0,
            current: NO_FIELD,
            thread_local: NO_FIELD,
            interpreters_head: runtime.field(2, 8)?,
            interpreter_next: interpreter.field(*interpreter_next, 8)?,
            threads_head: interpreter.field(*interpreter_next + 1, 8)?,
            thread_next: thread.field(2, 8)?,
            thread_id: thread.field(5, 8)?,
            frame: thread.field(4, 8)?,
            frame_indirect: NO_FIELD,
            frame_code: frame.field(2, 8)?,
            frame_previous: frame.field(1, 8)?,
            frame_instruction: frame.field(3, 8)?,
            frame_owner: frame.field(5, 1)?,
            owner_shim: offsets::OWNER_SHIM,
            frame_size: 0,
            instruction_size: 8,
            code_filename: code.field(1, 8)?,
            code_name: code.field(2, 8)?,
            code_qualname: code.field(3, 8)?,
            code_first_line: code.field(5, 4)?,
            code_lines: code.field(4, 8)?,
            // The array is one of no fixed size at the end.
            code_bytecode: code.field(9, 0)?,
            object_type: object.field(1, 8)?,
            type_flags: kind.field(3, 8)?,
            type_name: kind.field(1, 8)?,
            pool_size: 0,
        })
    }
}

/// The offsets in the table of a runtime of `version`, as 0x030d for 3.13; `Ok(None)` when that is
/// a version whose table is not known.
///
/// # Errors
///
/// When the table cannot be right: what is wrong, as a clause.
pub(super) fn read(words: &[u64; WORDS], version: u32) -> Result<Option<Offsets>, String> {
    let groups = match version {
        0x030d => V3_13,
        0x030e => V3_14,
        _ => return Ok(None),
    };
    let structures = Structures::of(words, &groups);
    let mut layout = structures.layout(version)?;
    layout.flags = FRAMES_IN_CHUNKS | SHIM_FRAMES;
    match words[2] {
        0 => {
            layout.flags |= REFCOUNT_32;
            layout.pool_size = offsets::pool_size(version);
        }
        // The free-threaded build has mimalloc and no pools, and splits the count in two.
        1 => layout.flags |= FREE_THREADED,
        other => {
            return Err(format!(
                "its table of offsets says {other} for free-threaded"
            ));
        }
    }
    layout.frame_size = frame_size(&layout)?;
    Ok(Some(Offsets {
        layout,
        thread_interpreter: structures.thread.field(3, 8)?,
        key: offsets::key(version),
    }))
}

/// Bytes of a frame that are read.
fn frame_size(layout: &Layout) -> Result<u32, String> {
    let ends = [
        layout.frame_code + 8,
        layout.frame_previous + 8,
        layout.frame_instruction + 8,
        layout.frame_owner + 1,
    ];
    let size = ends.into_iter().fold(0, u32::max);
    if size > MAX_FRAME {
        return Err(format!(
            "its table of offsets spreads a frame over {size} bytes"
        ));
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What 3.14.10 has.
    const TABLE: [u64; WORDS] = [
        8_750_607_829_840_520_312,
        0x030e_0af0,
        0,
        316_616,
        784,
        808,
        225_864,
        7280,
        7272,
        7344,
        7360,
        7408,
        7688,
        7672,
        7680,
        16,
        7784,
        0,
        7800,
        7792,
        7992,
        0,
        832,
        0,
        8,
        16,
        72,
        152,
        160,
        232,
        32,
        88,
        8,
        0,
        56,
        80,
        74,
        64,
        0,
        216,
        112,
        120,
        128,
        136,
        68,
        52,
        96,
        104,
        208,
        0,
        16,
        8,
        416,
        24,
        88,
        168,
    ];

    #[test]
    fn the_table_of_3_14_is_read() {
        assert_eq!(TABLE[0].to_le_bytes(), COOKIE);
        assert_eq!(version(&TABLE), Some(0x030e_0af0));
        let Offsets {
            layout,
            thread_interpreter,
            key,
        } = read(&TABLE, 0x030e).unwrap().unwrap();
        assert_eq!((thread_interpreter, key), (16, 2336));
        assert_eq!(
            (layout.interpreters_head, layout.interpreter_next),
            (808, 7272)
        );
        assert_eq!((layout.threads_head, layout.thread_next), (7344, 8));
        assert_eq!((layout.thread_id, layout.frame), (152, 72));
        assert_eq!((layout.frame_code, layout.frame_previous), (0, 8));
        assert_eq!((layout.frame_instruction, layout.frame_owner), (56, 74));
        assert_eq!((layout.frame_size, layout.instruction_size), (75, 8));
        assert_eq!(
            (layout.code_filename, layout.code_name, layout.code_qualname),
            (112, 120, 128)
        );
        assert_eq!((layout.code_first_line, layout.code_lines), (68, 136));
        assert_eq!(
            (layout.code_bytecode, layout.type_flags, layout.type_name),
            (208, 168, 24)
        );
        assert_eq!(layout.flags, FRAMES_IN_CHUNKS | SHIM_FRAMES | REFCOUNT_32);
        assert_eq!(layout.pool_size, 16_384);
    }

    #[test]
    fn a_free_threaded_build_has_no_pools() {
        let mut table = TABLE;
        table[2] = 1;
        let layout = read(&table, 0x030e).unwrap().unwrap().layout;
        assert_eq!(layout.flags, FRAMES_IN_CHUNKS | SHIM_FRAMES | FREE_THREADED);
        assert_eq!(layout.pool_size, 0);
        table[2] = 7;
        assert!(read(&table, 0x030e).is_err());
    }

    #[test]
    fn the_table_of_another_version_is_not_guessed() {
        assert_eq!(read(&TABLE, 0x030f), Ok(None));
        assert_eq!(read(&TABLE, 0x030c), Ok(None));
    }

    #[test]
    fn a_field_outside_its_structure_is_refused() {
        for (index, offset) in [(5, 400_000), (27, 832), (34, u64::MAX), (36, 88)] {
            let mut table = TABLE;
            table[index] = offset;
            let why = read(&table, 0x030e).unwrap_err();
            assert!(why.contains("its table of offsets has a field at"), "{why}");
        }
    }

    proptest! {
        #[test]
        fn any_table_is_survived(
            words in proptest::collection::vec(any::<u64>(), WORDS),
            at in 0..WORDS, new in 0_u64..1 << 30,
        ) {
            let _ = read(&words.try_into().unwrap(), 0x030d);
            let mut table = TABLE;
            table[at] = new;
            for version in [0x030d, 0x030e] {
                if let Ok(Some(offsets)) = read(&table, version) {
                    prop_assert!(offsets.layout.frame_size <= MAX_FRAME);
                    prop_assert!(u64::from(offsets.layout.threads_head) < MAX_STATE);
                }
            }
        }
    }
}
