//! The header of an ELF file and its program headers; and reading fields and pieces of a file.

use serde::{Deserialize, Serialize};

use super::budget::Source;

/// Program headers that are looked at, at most 256 bytes each. Programs have about ten. Each
/// address that is looked up may be compared with all of them.
pub const MAX_PROGRAMS: usize = 512;

/// Bytes of notes that are read, in all segments together.
pub const MAX_NOTES: u64 = 64 << 10;

/// Bytes of the largest entry of a table; larger ones are of no ELF that is known.
const MAX_ENTRY: usize = 256;

/// `e_machine`: x86-64.
pub const EM_X86_64: u16 = 62;
/// `p_type`: a segment that is loaded.
pub const PT_LOAD: u32 = 1;
/// `p_type`: what the dynamic linker reads.
pub const PT_DYNAMIC: u32 = 2;
/// `p_type`: names the dynamic linker.
pub const PT_INTERP: u32 = 3;
/// `p_type`: notes.
pub const PT_NOTE: u32 = 4;
/// `p_type`: the sorted table of `.eh_frame`.
pub const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
/// `p_flags`: code in it may run.
const PF_X: u32 = 1;
const NT_GNU_BUILD_ID: u32 = 3;

/// The header of an ELF file, and its program headers.
#[derive(Debug)]
pub struct Headers {
    wide: bool,
    machine: u16,
    entry: u64,
    programs: Vec<Program>,
    pub(super) sections: Table,
    /// Which section has the sections' names.
    pub(super) names: usize,
}

/// A program header: a part of the file, and where it is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// `p_type`, what it is.
    pub kind: u32,
    /// Whether code in it may run.
    pub executable: bool,
    /// Where it begins in the file.
    pub offset: u64,
    /// The address that the file gives to it.
    pub address: u64,
    /// Bytes in the file.
    pub file_size: u64,
    /// Bytes in memory; those that the file does not have are zero.
    pub memory_size: u64,
}

/// A table of a file: where it is, how many entries it has, and bytes in each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table {
    pub(super) offset: u64,
    pub(super) count: usize,
    pub(super) entry: usize,
}

impl Headers {
    /// `None` when `file` is not an ELF file of this machine's byte order, or its headers cannot
    /// be read.
    #[must_use]
    pub fn read(file: &impl Source) -> Option<Self> {
        let bytes = read(file, 0, 64).or_else(|| read(file, 0, 52))?;
        let order = if cfg!(target_endian = "little") { 1 } else { 2 };
        if !bytes.starts_with(b"\x7fELF") || bytes[5] != order {
            return None;
        }
        let wide = match bytes[4] {
            1 => false,
            2 if bytes.len() == 64 => true,
            _ => return None,
        };
        let half = |narrow, wide_at| half(&bytes, if wide { wide_at } else { narrow });
        let table = |at: Option<u64>, entry: Option<u16>, count: Option<u16>, smallest| {
            let entry = usize::from(entry?);
            (smallest..=MAX_ENTRY).contains(&entry).then_some(Table {
                offset: at?,
                count: usize::from(count?),
                entry,
            })
        };
        let programs = table(
            address(&bytes, wide, 28, 32),
            half(42, 54),
            half(44, 56),
            if wide { 56 } else { 32 },
        )?;
        // Sections are not needed to run, so a file without them is a good one.
        let sections = table(
            address(&bytes, wide, 32, 40),
            half(46, 58),
            half(48, 60),
            if wide { 64 } else { 40 },
        )
        .unwrap_or(Table {
            offset: 0,
            count: 0,
            entry: 64,
        });
        Some(Self {
            wide,
            machine: half(18, 18)?,
            entry: address(&bytes, wide, 24, 24)?,
            programs: programs
                .read(file, MAX_PROGRAMS)?
                .chunks_exact(programs.entry)
                .map_while(|entry| Program::parse(entry, wide))
                .collect(),
            sections,
            names: usize::from(half(50, 62)?),
        })
    }

    /// Whether it is of 64 bits; else it is of 32.
    #[must_use]
    pub fn is_64_bit(&self) -> bool {
        self.wide
    }

    /// `e_machine`, the architecture that it is for.
    #[must_use]
    pub fn machine(&self) -> u16 {
        self.machine
    }

    /// `e_entry`, the address of the first instruction that runs; 0 where there is none.
    #[must_use]
    pub fn entry(&self) -> u64 {
        self.entry
    }

    /// Its program headers, in the order of the file.
    #[cfg(test)]
    #[must_use]
    pub fn programs(&self) -> &[Program] {
        &self.programs
    }

    /// Its program headers of one `p_type`.
    pub fn programs_of(&self, kind: u32) -> impl Iterator<Item = &Program> {
        self.programs.iter().filter(move |each| each.kind == kind)
    }

    /// The GNU build id, 8 to 64 bytes; `None` when there is none.
    #[must_use]
    pub fn build_id(&self, file: &impl Source) -> Option<Vec<u8>> {
        let mut left = MAX_NOTES;
        self.programs_of(PT_NOTE).find_map(|segment| {
            let size = segment.file_size.min(left);
            left -= size;
            (size > 0).then(|| build_id(&read(file, segment.offset, size as usize)?))?
        })
    }
}

impl Program {
    fn parse(entry: &[u8], wide: bool) -> Option<Self> {
        let field = |narrow, wide_at| address(entry, wide, narrow, wide_at);
        Some(Self {
            kind: word(entry, 0)?,
            executable: word(entry, if wide { 4 } else { 24 })? & PF_X != 0,
            offset: field(4, 8)?,
            address: field(8, 16)?,
            file_size: field(16, 32)?,
            memory_size: field(20, 40)?,
        })
    }
}

impl Table {
    /// The first `most` entries.
    pub(super) fn read(&self, file: &impl Source, most: usize) -> Option<Vec<u8>> {
        read(file, self.offset, self.count.min(most) * self.entry)
    }
}

/// The GNU build id in a segment of notes.
pub(super) fn build_id(mut notes: &[u8]) -> Option<Vec<u8>> {
    loop {
        let name_size = word(notes, 0)? as usize;
        let size = word(notes, 4)? as usize;
        let kind = word(notes, 8)?;
        let name = notes.get(12..)?.get(..name_size)?;
        let at = 12 + name_size.next_multiple_of(4);
        let content = notes.get(at..)?.get(..size)?;
        if kind == NT_GNU_BUILD_ID && name == b"GNU\0" {
            return (8..=64).contains(&content.len()).then(|| content.to_vec());
        }
        notes = notes.get(at.checked_add(size.next_multiple_of(4))?..)?;
    }
}

/// Exactly `size` bytes at `offset`.
pub(super) fn read(file: &impl Source, offset: u64, size: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; size];
    file.fill(&mut bytes, offset).ok()?;
    Some(bytes)
}

/// The `u16` at `at`, in this machine's byte order.
pub(super) fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The `u32` at `at`.
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The `u64` at `at`.
pub(super) fn wide(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// A field that is as wide as an address, at `narrow` in a file of 32 bits and at `wide_at` in one
/// of 64.
pub(super) fn address(bytes: &[u8], is_wide: bool, narrow: usize, wide_at: usize) -> Option<u64> {
    if is_wide {
        wide(bytes, wide_at)
    } else {
        word(bytes, narrow).map(u64::from)
    }
}
