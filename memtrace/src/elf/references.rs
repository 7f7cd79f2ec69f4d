//! Which functions of a stripped program name a text: code that a compiler makes for x86-64 refers
//! to it by `lea`, relative to itself.

use super::budget::Source;
use super::headers::{EM_X86_64, Headers, word};
use super::layout::Layout;
use super::sections::{Section, Sections};

/// Bytes of a section that are read.
const MAX_SECTION: u64 = 64 << 20;

/// Bytes of `lea` with a place relative to itself.
const LEA: usize = 7;

/// The head of `.eh_frame_hdr` where it has a table of pairs, of 32 bits each, relative to itself:
/// its version and how its fields are encoded.
const HEAD: [u8; 4] = [1, 0x1b, 0x03, 0x3b];

/// Where the functions begin, in the file, that refer to one of `texts`; a text that is only the end
/// of another one does not count. All code is read, so `file` should have a budget. `None` where
/// that cannot be, or the file does not say where its functions begin.
#[must_use]
pub fn functions_that_name(file: &impl Source, texts: &[&str]) -> Option<Vec<u64>> {
    let headers = Headers::read(file).filter(|headers| headers.machine() == EM_X86_64)?;
    let sections = Sections::read(file, &headers)?;
    let read = |name| {
        let section: Section<'_> = sections.find(name)?;
        Some((section.address, section.contents(file, MAX_SECTION).ok()?))
    };
    let (at, constants) = read(".rodata")?;
    let places: Vec<u64> = (texts.iter())
        .flat_map(|text| places_of(text, &constants))
        .map(|place| at.wrapping_add(place as u64))
        .collect();
    if places.is_empty() {
        return Some(Vec::new());
    }
    let (at, table) = read(".eh_frame_hdr")?;
    let starts = starts(&table, at)?;
    let (at, code) = read(".text")?;
    let layout = Layout::of(&headers);
    let users = users(&code, at, &places).filter_map(|user| {
        let after = starts.partition_point(|&start| start <= user);
        layout.offset_of(*starts.get(after.checked_sub(1)?)?)
    });
    Some(users.collect())
}

/// Where a whole text is.
fn places_of<'a>(text: &'a str, constants: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let ended = [text.as_bytes(), b"\0"].concat();
    let windows = constants.windows(ended.len()).enumerate();
    let found = windows.filter(move |(_, window)| **window == *ended);
    let is_whole = |&at: &usize| {
        at.checked_sub(1)
            .is_none_or(|before| constants[before] == 0)
    };
    found.map(|(at, _)| at).filter(is_whole)
}

/// Addresses of the instructions that refer to one of `places`.
fn users(code: &[u8], at: u64, places: &[u64]) -> impl Iterator<Item = u64> {
    code.windows(LEA)
        .enumerate()
        .filter_map(move |(from, bytes)| {
            let is_lea = bytes[0] & 0xfb == 0x48 && bytes[1] == 0x8d && bytes[2] & 0xc7 == 0x05;
            if !is_lea {
                return None;
            }
            let user = at.wrapping_add(from as u64);
            let by = i64::from(word(bytes, 3)?.cast_signed());
            let place = user.wrapping_add(LEA as u64).wrapping_add_signed(by);
            places.contains(&place).then_some(user)
        })
}

/// Addresses where functions begin, in their order, by the table of `.eh_frame_hdr`.
fn starts(table: &[u8], at: u64) -> Option<Vec<u64>> {
    let rest = table.strip_prefix(&HEAD)?.get(4..)?;
    let count = word(rest, 0)? as usize;
    let pairs = rest.get(4..)?.chunks_exact(8).take(count);
    let start = |pair: &[u8]| {
        let by = i64::from(word(pair, 0)?.cast_signed());
        Some(at.wrapping_add_signed(by))
    };
    let mut starts: Vec<u64> = pairs.filter_map(start).collect();
    starts.sort_unstable();
    Some(starts)
}
