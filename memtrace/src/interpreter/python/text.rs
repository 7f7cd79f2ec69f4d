//! `str` and `bytes` objects, from memory as it is.
//!
//! A `str` has its characters behind its header (compact), in one, two or four bytes each; a header
//! of its own for ASCII is shorter. Only instances of subclasses, and of some old ways to make one,
//! have them elsewhere. Everything is foreign: lengths are bounded before anything is allocated,
//! and characters are made fit to show.

use std::fmt::Write as _;

use memtrace_common::interpreter::python::{FREE_THREADED, Layout};

use crate::foreign::{MAX_NAME, MAX_PATH, shown_name, shown_path};
use crate::process::memory::ReadMemory;

/// `tp_flags`: a subclass of `bytes`, or itself.
const BYTES_SUBCLASS: u32 = 1 << 27;
/// `tp_flags`: a subclass of `str`, or itself.
const STR_SUBCLASS: u32 = 1 << 28;

/// Bytes of the longest header of a `str`, with the pointer to its characters.
const MAX_HEADER: usize = 80;

/// Replaces what was cut.
const CUT: char = '…';

/// The text of a `str`, or its beginning. Characters are as they are, not yet fit to show, but lone
/// surrogates are spelled out, as `\u{dc80}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// The characters.
    pub text: String,
    /// Whether there are more.
    pub cut: bool,
}

impl Text {
    /// From the beginning of a `str` object. `None` when it has no header, its characters are not
    /// behind it, or it is not a `str`.
    #[must_use]
    pub fn from_part(part: &[u8], layout: &Layout) -> Option<Self> {
        let header = Header::decode(part, layout)?;
        let Data::Behind(start) = header.data else {
            return None;
        };
        let data = part.get(start..)?;
        let wanted = header.length.saturating_mul(header.width as u64);
        let here = data.len() as u64 / header.width as u64 * header.width as u64;
        let data = &data[..wanted.min(here) as usize];
        // A text that is not empty, and of which nothing is here, could not be read.
        (wanted == 0 || !data.is_empty()).then(|| Self {
            text: characters(data, header.width),
            cut: here < wanted,
        })
    }

    /// Reads the `str` object at `address`, up to `most` characters. `None` when it could not be
    /// read or is not a `str`.
    #[must_use]
    pub fn read(
        address: u64,
        most: usize,
        layout: &Layout,
        memory: &dyn ReadMemory,
    ) -> Option<Self> {
        if !has_type_flag(address, STR_SUBCLASS, layout, memory) {
            return None;
        }
        // The empty text in ASCII has the shortest object: one byte behind its header.
        let mut bytes = [0; MAX_HEADER];
        let shortest = Shape::of(layout).ascii;
        let longest = Shape::of(layout).compact + 8;
        if !memory.read(address, &mut bytes[..longest])
            && !memory.read(address, &mut bytes[..shortest])
        {
            return None;
        }
        let header = Header::decode(&bytes[..longest], layout)?;
        let start = match header.data {
            Data::Behind(start) => address.checked_add(start as u64)?,
            Data::At(start) => start,
        };
        let length = header.length.min(most as u64);
        let mut data = vec![0; length as usize * header.width];
        (data.is_empty() || memory.read(start, &mut data)).then(|| Self {
            text: characters(&data, header.width),
            cut: length < header.length,
        })
    }

    /// Fit to show as a name.
    #[must_use]
    pub fn as_name(&self) -> String {
        self.marked(shown_name(self.text.as_bytes()))
    }

    /// Fit to show as a path.
    #[must_use]
    pub fn as_path(&self) -> String {
        self.marked(shown_path(self.text.as_bytes()))
    }

    fn marked(&self, mut shown: String) -> String {
        debug_assert!(shown.len() <= MAX_NAME.max(MAX_PATH) + CUT.len_utf8());
        if self.cut && !shown.ends_with(CUT) {
            shown.push(CUT);
        }
        shown
    }
}

/// The contents of a `bytes` object, or their beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    /// The contents.
    pub bytes: Box<[u8]>,
    /// Whether there are more.
    pub cut: bool,
}

impl Bytes {
    /// From the beginning of a `bytes` object; `None` when it has no header.
    #[must_use]
    pub fn from_part(part: &[u8], layout: &Layout) -> Option<Self> {
        let length = size(word(part, length_at(layout))?)?;
        let data = part.get(bytes_at(layout)..)?;
        let here = length.min(data.len() as u64);
        Some(Self {
            bytes: Box::from(&data[..here as usize]),
            cut: here < length,
        })
    }

    /// Reads the `bytes` object at `address`. `None` when it could not be read, is not a `bytes`,
    /// or has more than `most` bytes.
    #[must_use]
    pub fn read(
        address: u64,
        most: usize,
        layout: &Layout,
        memory: &dyn ReadMemory,
    ) -> Option<Self> {
        if !has_type_flag(address, BYTES_SUBCLASS, layout, memory) {
            return None;
        }
        let length = memory.word(address.checked_add(length_at(layout) as u64)?)?;
        let length = usize::try_from(size(length)?).ok()?;
        if length > most {
            return None;
        }
        let mut bytes = vec![0; length].into_boxed_slice();
        let start = address.checked_add(bytes_at(layout) as u64)?;
        (bytes.is_empty() || memory.read(start, &mut bytes)).then_some(Self { bytes, cut: false })
    }
}

/// Whether the type of the object at `address` has a flag.
pub(super) fn has_type_flag(
    address: u64,
    flag: u32,
    layout: &Layout,
    memory: &dyn ReadMemory,
) -> bool {
    let flags = || {
        let object_type = memory.word(address.checked_add(u64::from(layout.object_type))?)?;
        memory.half(object_type.checked_add(u64::from(layout.type_flags))?)
    };
    flags().is_some_and(|flags| flags & flag != 0)
}

/// Where the parts of a `str` are, in bytes.
struct Shape {
    length: usize,
    state: usize,
    /// The characters, when they are ASCII and behind the header.
    ascii: usize,
    /// The characters, when they are behind the header and not ASCII; else their address.
    compact: usize,
}

impl Shape {
    fn of(layout: &Layout) -> Self {
        // Without the free-threaded build's longer header of objects. 3.12 dropped `wstr` and its
        // length.
        let (ascii, compact) = if layout.version < 0x030c {
            (48, 72)
        } else {
            (40, 56)
        };
        let more = more_header(layout);
        Self {
            length: 16 + more,
            state: 32 + more,
            ascii: ascii + more,
            compact: compact + more,
        }
    }
}

/// What the free-threaded build's header of an object has more.
fn more_header(layout: &Layout) -> usize {
    if layout.flags & FREE_THREADED == 0 {
        0
    } else {
        16
    }
}

/// In a `bytes`: its length.
fn length_at(layout: &Layout) -> usize {
    16 + more_header(layout)
}

/// In a `bytes`: its contents.
fn bytes_at(layout: &Layout) -> usize {
    32 + more_header(layout)
}

/// Where the characters are.
#[derive(Clone, Copy)]
enum Data {
    /// Behind the header, so many bytes from the object's start.
    Behind(usize),
    /// At an address.
    At(u64),
}

/// The header of a `str`.
struct Header {
    /// Characters.
    length: u64,
    /// Bytes of a character: 1, 2, 4.
    width: usize,
    data: Data,
}

impl Header {
    fn decode(bytes: &[u8], layout: &Layout) -> Option<Self> {
        let shape = Shape::of(layout);
        let length = size(word(bytes, shape.length)?)?;
        let state = u32::from_le_bytes(*bytes.get(shape.state..)?.first_chunk()?);
        // From 3.14 on it depends on the build what comes before the kind: two bits, a byte, or
        // two bytes. They hold a number of at most 3, so a wrong shift finds 0 for the kind.
        let shifts: &[u32] = if layout.version < 0x030e {
            &[0]
        } else {
            &[0, 6, 14]
        };
        let (state, width) = shifts.iter().find_map(|shift| {
            let state = state >> shift;
            let width = state >> 2 & 7;
            matches!(width, 1 | 2 | 4).then_some((state, width as usize))
        })?;
        let (compact, ascii) = (state >> 5 & 1 != 0, state >> 6 & 1 != 0);
        let data = match (compact, ascii) {
            (true, true) if width != 1 => return None,
            (true, true) => Data::Behind(shape.ascii),
            (true, false) => Data::Behind(shape.compact),
            (false, _) => Data::At(word(bytes, shape.compact)?),
        };
        Some(Self {
            length,
            width,
            data,
        })
    }
}

/// A length, which is signed in memory but never below 0.
fn size(word: u64) -> Option<u64> {
    i64::try_from(word).is_ok().then_some(word)
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn characters(data: &[u8], width: usize) -> String {
    let mut text = String::with_capacity(data.len());
    for bytes in data.chunks_exact(width) {
        let code = bytes
            .iter()
            .rev()
            .fold(0, |code: u32, &byte| code << 8 | u32::from(byte));
        match char::from_u32(code) {
            Some(char) => text.push(char),
            None if code <= 0xffff => {
                // Writing to a string does not fail.
                let _ = write!(text, "\\u{{{code:x}}}");
            }
            None => text.push(char::REPLACEMENT_CHARACTER),
        }
    }
    text
}
