//! Looking up a name in a `dict` of another process.

use memtrace_common::interpreter::python::{FREE_THREADED, Layout};

use super::text::{Text, has_type_flag};
use crate::process::memory::ReadMemory;

/// `tp_flags`: a subclass of `dict`, or itself.
const DICT_SUBCLASS: u32 = 1 << 29;
/// Entries that are looked at; a class with more attributes is a made one.
const MAX_ENTRIES: u64 = 4096;
/// Entries that are read at a time.
const PIECE: u64 = 32;

/// What a `dict` at `address` has under the `str` `wanted`: the address of an object. `None` when
/// there is nothing, it is not a `dict`, or it could not be read.
pub(super) fn get(
    address: u64,
    wanted: &str,
    layout: &Layout,
    memory: &dyn ReadMemory,
) -> Option<u64> {
    if !has_type_flag(address, DICT_SUBCLASS, layout, memory) {
        return None;
    }
    let more = if layout.flags & FREE_THREADED == 0 {
        0
    } else {
        16
    };
    let keys = memory.word(address.checked_add(32 + more)?)?;
    let values = memory.word(address.checked_add(40 + more)?)?;
    let table = Table::read(keys, layout, memory)?;
    let (at, value) = table.find(wanted, layout, memory)?;
    if values == 0 {
        return (value != 0).then_some(value);
    }
    // The values are not beside the keys, which others share. From 3.13 on they have a header.
    let header = if layout.version < 0x030d { 0 } else { 8 };
    let value = memory.word(values.checked_add(header + at * 8)?)?;
    (value != 0).then_some(value)
}

/// The entries of a dict, in the order in which they were added.
struct Table {
    /// Address of the first.
    start: u64,
    count: u64,
    /// Words of one: hash (in tables not only of `str`, and up to 3.10), key, value.
    words: u64,
}

impl Table {
    fn read(keys: u64, layout: &Layout, memory: &dyn ReadMemory) -> Option<Self> {
        let (count, indices, indices_size, words) = if layout.version < 0x030b {
            let size = memory.word(keys.checked_add(8)?)?;
            let width = match size {
                ..=0xff => 1,
                0x100..=0xffff => 2,
                0x1_0000..=0xffff_ffff => 4,
                _ => 8,
            };
            let count = memory.word(keys.checked_add(32)?)?;
            (count, 40, size.checked_mul(width)?, 3)
        } else {
            const ANY_KEYS: u8 = 0;
            let mut sizes = [0; 2];
            memory
                .read(keys.checked_add(9)?, &mut sizes)
                .then_some(())?;
            let [indices_log2, kind] = sizes;
            let count = memory.word(keys.checked_add(24)?)?;
            let words = if kind == ANY_KEYS { 3 } else { 2 };
            let size = 1_u64.checked_shl(u32::from(indices_log2))?;
            (count, 32, size, words)
        };
        Some(Self {
            start: keys.checked_add(indices)?.checked_add(indices_size)?,
            count: count.min(MAX_ENTRIES),
            words,
        })
    }

    /// The entry with the key `wanted`: its index, and the value in it.
    fn find(&self, wanted: &str, layout: &Layout, memory: &dyn ReadMemory) -> Option<(u64, u64)> {
        let size = self.words * 8;
        let mut buffer = vec![0; (PIECE * size) as usize];
        for from in (0..self.count).step_by(PIECE as usize) {
            let count = PIECE.min(self.count - from);
            let bytes = &mut buffer[..(count * size) as usize];
            let at = self.start.checked_add(from * size)?;
            memory.read(at, bytes).then_some(())?;
            for (index, entry) in (from..).zip(bytes.chunks_exact(size as usize)) {
                // Key and value are last. A removed entry has neither.
                let (key, value) = (last_word(entry, 2)?, last_word(entry, 1)?);
                if key != 0
                    && Text::read(key, wanted.len(), layout, memory)
                        .is_some_and(|text| !text.cut && text.text == wanted)
                {
                    return Some((index, value));
                }
            }
        }
        None
    }
}

/// The word that is `from_end` words before the end of `bytes`.
fn last_word(bytes: &[u8], from_end: usize) -> Option<u64> {
    let at = bytes.len().checked_sub(from_end * 8)?;
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
