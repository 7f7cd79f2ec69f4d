//! Where functions begin and end by the unwind information of a file, `.eh_frame`.
//!
//! Compilers describe every function there, also those that have no symbol any more. It is asked
//! about symbols that do not say how long their function is.

use super::budget::Source;
use super::headers::{Headers, PT_GNU_EH_FRAME, Program, read, word};
use super::layout::Layout;

/// Bytes of the sorted table that are read: a million functions.
pub const MAX_TABLE: u64 = 8 << 20;

/// What the table must begin with to be read: its version, and how its three numbers are encoded.
/// Linkers write it in no other way; of the first number the size alone matters.
const VERSION: u8 = 1;
const PC_RELATIVE_4: u8 = 0x1b;
const UNSIGNED_4: u8 = 0x03;
const TABLE_RELATIVE_4: u8 = 0x3b;
/// Bytes before the entries.
const HEADER: usize = 12;
/// Bytes of an entry: where a function begins, and where its description is.
const ENTRY: usize = 8;

/// The starts of functions, in order.
#[derive(Debug)]
pub(super) struct Extents {
    table: Vec<u8>,
    /// The table's own address, to which the entries are relative.
    base: u64,
    layout: Layout,
}

impl Extents {
    /// `None` where the file has no such table, or one that is made in an unusual way.
    pub(super) fn read(file: &impl Source, headers: &Headers) -> Option<Self> {
        let program: &Program = headers.programs_of(PT_GNU_EH_FRAME).last()?;
        let size = program.file_size.min(MAX_TABLE) as usize;
        let table = read(file, program.offset, size)?;
        let header = table.first_chunk::<HEADER>()?;
        if header[..4] != [VERSION, PC_RELATIVE_4, UNSIGNED_4, TABLE_RELATIVE_4] {
            return None;
        }
        Some(Self {
            table,
            base: program.address,
            layout: Layout::of(headers),
        })
    }

    fn entries(&self) -> &[[u8; ENTRY]] {
        let entries = self.table.get(HEADER..).unwrap_or_default();
        entries.as_chunks().0
    }

    /// The address that is `at` bytes into an entry.
    fn address(&self, entry: [u8; ENTRY], at: usize) -> u64 {
        let relative = word(&entry, at).unwrap_or_default().cast_signed();
        self.base.wrapping_add_signed(relative.into())
    }

    /// The first function that begins after `address`.
    pub(super) fn next_after(&self, address: u64) -> Option<u64> {
        let entries = self.entries();
        let next = entries.partition_point(|&entry| self.address(entry, 0) <= address);
        entries.get(next).map(|&entry| self.address(entry, 0))
    }

    /// Where the function ends that begins at exactly `start`.
    pub(super) fn end_of(&self, file: &impl Source, start: u64) -> Option<u64> {
        let entries = self.entries();
        let found = entries.binary_search_by_key(&start, |&entry| self.address(entry, 0));
        let at = self.address(entries[found.ok()?], 4);
        let bytes = read(file, self.layout.offset_of(at)?, 16)?;
        // Its length, its common part, start and size. How these two are encoded is said
        // elsewhere; if the start comes out right, the size is encoded likewise.
        let begins = at.wrapping_add(8);
        let begins = begins.wrapping_add_signed(word(&bytes, 8)?.cast_signed().into());
        if word(&bytes, 0)? == u32::MAX || begins != start {
            return None;
        }
        start.checked_add(word(&bytes, 12)?.into())
    }
}
