//! Tables of lines: from an offset in the bytecode to a line of the file.
//!
//! 3.8 and 3.9 have pairs of steps (`co_lnotab`), 3.10 ranges of bytes (PEP 626), 3.11 and later
//! ranges of code units with columns (the location table). A table that was cut says nothing of
//! what is behind the cut.

/// How a table is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `co_lnotab` of 3.8 and 3.9: steps of address (unsigned) and line (signed).
    Steps,
    /// `co_linetable` of 3.10: ranges, each with a step of the line, or none.
    Ranges,
    /// `co_linetable` of 3.11 and later.
    Locations,
}

impl Format {
    /// That of a version of Python (major times 256 plus minor).
    #[must_use]
    pub fn of(version: u32) -> Self {
        match version {
            ..0x030a => Self::Steps,
            0x030a => Self::Ranges,
            _ => Self::Locations,
        }
    }
}

/// The line of the instruction at `offset` bytes of bytecode, in a function whose first line is
/// `first`. `cut` says that `table` is only a beginning. `None` when the instruction has no line,
/// or the table does not reach to it.
#[must_use]
pub fn line(format: Format, table: &[u8], cut: bool, first: u32, offset: u64) -> Option<u32> {
    let found = match format {
        Format::Steps => of_steps(table, cut, i64::from(first), offset),
        Format::Ranges => of_ranges(table, i64::from(first), offset),
        Format::Locations => of_locations(table, cut, i64::from(first), offset),
    };
    u32::try_from(found?).ok()
}

fn of_steps(table: &[u8], cut: bool, first: i64, offset: u64) -> Option<i64> {
    let (mut address, mut line) = (0, first);
    for step in table.chunks_exact(2) {
        address += u64::from(step[0]);
        if address > offset {
            return Some(line);
        }
        line += i64::from(step[1].cast_signed());
    }
    // The last line goes on to the end of the bytecode.
    (!cut).then_some(line)
}

fn of_ranges(table: &[u8], first: i64, offset: u64) -> Option<i64> {
    const NO_LINE: i8 = -128;
    let (mut end, mut line) = (0, first);
    for range in table.chunks_exact(2) {
        end += u64::from(range[0]);
        let step = range[1].cast_signed();
        if step != NO_LINE {
            line += i64::from(step);
        }
        if offset < end {
            return (step != NO_LINE).then_some(line);
        }
    }
    None
}

fn of_locations(table: &[u8], cut: bool, first: i64, offset: u64) -> Option<i64> {
    /// Bytes of a code unit.
    const UNIT: u64 = 2;
    /// Begins an entry; the bytes after it have this bit clear.
    const BEGIN: u8 = 128;
    let (mut end, mut line, mut at) = (0, first, 0);
    while let Some(&head) = table.get(at) {
        if head & BEGIN == 0 {
            return None;
        }
        let rest = &table[at + 1..];
        let size = match rest.iter().position(|byte| byte & BEGIN != 0) {
            Some(size) => size,
            // An entry that the cut goes through.
            None if cut => return None,
            None => rest.len(),
        };
        let kind = head >> 3 & 15;
        match kind {
            // With columns, or without: a step of any size.
            13 | 14 => line = line.checked_add(signed(&rest[..size]))?,
            10..=12 => line += i64::from(kind) - 10,
            _ => (),
        }
        end += (u64::from(head & 7) + 1) * UNIT;
        if offset < end {
            // 15: no line.
            return (kind != 15).then_some(line);
        }
        at += 1 + size;
    }
    None
}

/// A number of six bits a byte, lowest first, with the sign in its lowest bit.
fn signed(bytes: &[u8]) -> i64 {
    const MORE: u8 = 64;
    let mut number = 0_u32;
    for (at, &byte) in bytes.iter().enumerate().take(6) {
        number |= u32::from(byte & 63) << (6 * at);
        if byte & MORE == 0 {
            break;
        }
    }
    let size = i64::from(number >> 1);
    if number & 1 == 0 { size } else { -size }
}
