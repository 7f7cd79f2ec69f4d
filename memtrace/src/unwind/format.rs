//! An unwind table as a file: header, rows, rules, checksum; little-endian.
//!
//! The checksum guards against damage, not against somebody who can write to the file.

use std::fmt::Write as _;

use memtrace_common::unwind::{CFA_GAP, CFA_KIND, CFA_RULE, MAX_ROWS, MAX_RULES, Row, Rule};

use super::table::{RowSource, TableIdentity, UnwindTable};

const MAGIC: &[u8; 8] = b"memtrunw";

/// Changes when rows mean something else, or are built differently.
const VERSION: u32 = 3;

/// Bytes of magic, version, source, counts, base, rows from code, damaged, identity.
const HEADER: usize = 8 + 4 + 4 + 4 + 4 + 8 + 8 + 8 + 32;
const ROW: usize = 8;
const RULE: usize = 16;
const CHECKSUM: usize = 4;

/// Bytes of the largest such file.
pub const MAX_SIZE: u64 =
    (HEADER + CHECKSUM) as u64 + MAX_ROWS as u64 * ROW as u64 + MAX_RULES as u64 * RULE as u64;

/// The name of the file for a table.
#[must_use]
pub fn file_name(identity: &TableIdentity) -> String {
    let mut name = String::new();
    for byte in identity {
        // Writing to a string does not fail.
        let _ = write!(name, "{byte:02x}");
    }
    name
}

/// The bytes of a table.
#[must_use]
pub fn encode(identity: &TableIdentity, table: &UnwindTable) -> Vec<u8> {
    let size = HEADER + table.rows.len() * ROW + table.rules.len() * RULE + CHECKSUM;
    let mut bytes = Vec::with_capacity(size);
    bytes.extend_from_slice(MAGIC);
    for number in [
        VERSION,
        source_code(table.source),
        table.rows.len() as u32,
        table.rules.len() as u32,
    ] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(&table.base.to_le_bytes());
    bytes.extend_from_slice(&table.from_code.to_le_bytes());
    bytes.extend_from_slice(&table.damaged.to_le_bytes());
    bytes.extend_from_slice(identity);
    for row in &table.rows {
        bytes.extend_from_slice(&row.pc.to_le_bytes());
        bytes.extend_from_slice(&row.cfa.to_le_bytes());
        bytes.extend_from_slice(&row.fp.to_le_bytes());
    }
    for rule in &table.rules {
        bytes.extend_from_slice(&rule.cfa_offset.to_le_bytes());
        bytes.extend_from_slice(&rule.fp_offset.to_le_bytes());
        bytes.extend_from_slice(&rule.flags.to_le_bytes());
        bytes.extend_from_slice(&rule.other_offset.to_le_bytes());
    }
    let checksum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

/// The table of this name that is in `bytes`; `None` when they are anything else.
#[must_use]
pub fn decode(bytes: &[u8], identity: &TableIdentity) -> Option<UnwindTable> {
    let (content, checksum) = bytes.split_last_chunk::<CHECKSUM>()?;
    if crc32fast::hash(content) != u32::from_le_bytes(*checksum) {
        return None;
    }
    let rest = content.strip_prefix(MAGIC)?;
    let (version, rest) = half(rest)?;
    let (source, rest) = half(rest)?;
    let (rows, rest) = half(rest)?;
    let (rules, rest) = half(rest)?;
    let (base, rest) = rest.split_first_chunk()?;
    let (from_code, rest) = rest.split_first_chunk()?;
    let (damaged, rest) = rest.split_first_chunk()?;
    let rest = rest.strip_prefix(identity)?;
    if version != VERSION || rows > MAX_ROWS || rules > MAX_RULES {
        return None;
    }
    let (row_bytes, rule_bytes) = rest.split_at_checked(rows as usize * ROW)?;
    if rule_bytes.len() != rules as usize * RULE {
        return None;
    }
    let table = UnwindTable {
        base: u64::from_le_bytes(*base),
        rows: row_bytes.as_chunks().0.iter().copied().map(row).collect(),
        rules: rule_bytes.as_chunks().0.iter().map(rule).collect(),
        source: source_of(source)?,
        from_code: u64::from_le_bytes(*from_code),
        // Such a one is not kept.
        is_partial: false,
        damaged: u64::from_le_bytes(*damaged),
    };
    is_sound(&table).then_some(table)
}

/// Whether a table can be used.
fn is_sound(table: &UnwindTable) -> bool {
    let is_known =
        |row: &Row| row.cfa & CFA_KIND != CFA_RULE || usize::from(row.cfa >> 3) < table.rules.len();
    table.rows.is_sorted_by(|row, next| row.pc < next.pc)
        && table.rows.iter().all(is_known)
        && table.rows.last().is_none_or(|last| last.cfa == CFA_GAP)
}

fn half(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (half, rest) = bytes.split_first_chunk()?;
    Some((u32::from_le_bytes(*half), rest))
}

fn row(bytes: [u8; ROW]) -> Row {
    Row {
        pc: u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
        cfa: u16::from_le_bytes([bytes[4], bytes[5]]),
        fp: i16::from_le_bytes([bytes[6], bytes[7]]),
    }
}

fn rule(bytes: &[u8; RULE]) -> Rule {
    let part = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
    Rule {
        cfa_offset: i32::from_le_bytes(part(0)),
        fp_offset: i32::from_le_bytes(part(4)),
        flags: u32::from_le_bytes(part(8)),
        other_offset: i32::from_le_bytes(part(12)),
    }
}

fn source_code(source: RowSource) -> u32 {
    match source {
        RowSource::None => 0,
        RowSource::EhFrame => 1,
        RowSource::DebugFrame => 2,
        RowSource::Both => 3,
    }
}

fn source_of(code: u32) -> Option<RowSource> {
    Some(match code {
        0 => RowSource::None,
        1 => RowSource::EhFrame,
        2 => RowSource::DebugFrame,
        3 => RowSource::Both,
        _ => return None,
    })
}
