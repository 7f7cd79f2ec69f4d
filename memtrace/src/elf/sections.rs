//! The sections of an ELF file, by name.

use std::io::Read as _;

use super::budget::Source;
use super::headers::{Headers, address, read, wide, word};

/// Section headers that are looked at. A file with more counts as one without sections.
pub const MAX_SECTIONS: usize = 8192;

/// Bytes of section names that are read.
pub const MAX_NAMES: u64 = 1 << 20;

/// Bytes of a section's name. Those that are looked for have half of that; a longer one, of which
/// the end would be searched for each section anew, counts as none.
pub const MAX_NAME: usize = 32;

/// Bytes that are decompressed at once; the budget is asked in between.
const PIECE: u64 = 64 << 10;

/// `sh_type`: all symbols.
pub(super) const SHT_SYMTAB: u32 = 2;
/// `sh_type`: the symbols that the dynamic linker reads.
pub(super) const SHT_DYNSYM: u32 = 11;
const SHT_NOBITS: u32 = 8;
const SHF_EXECINSTR: u64 = 1 << 2;
const SHF_COMPRESSED: u64 = 1 << 11;
const ELFCOMPRESS_ZLIB: u32 = 1;
/// Bytes of the header of compressed contents, in a file of 64 bits.
const COMPRESSION_HEADER: usize = 24;
/// Sections were compressed in another way before there was one for all; Go did so until 1.18.
const OLD_COMPRESSED: &[u8] = b".zdebug_";
/// What such contents begin with, before their size.
const OLD_MAGIC: &[u8] = b"ZLIB";

/// The section headers of a file and their names, read as a whole.
#[derive(Debug)]
pub struct Sections {
    wide: bool,
    table: Vec<u8>,
    entry: usize,
    names: Vec<u8>,
}

/// A section header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section<'sections> {
    /// Its name; empty when that cannot be read, or is longer than [`MAX_NAME`].
    pub name: &'sections [u8],
    /// The address that the file gives to it; 0 when it is not loaded.
    pub address: u64,
    /// Whether the file has its contents: it is not empty, and not left out as in a debug file.
    pub has_contents: bool,
    /// `sh_type`, what it is.
    pub(super) kind: u32,
    /// The number of the section that belongs to it: of symbols, that of their names.
    pub(super) link: usize,
    flags: u64,
    wide: bool,
    /// Where it is in the file.
    pub offset: u64,
    /// Bytes in the file.
    pub size: u64,
}

/// Why the contents of a section are not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// They are not where the header says, or damaged.
    Damaged,
    /// They are larger than the bound.
    TooLarge,
    /// They are compressed in a way that is not known here.
    Compression,
}

impl Sections {
    /// `None` when there are too many or they cannot be read. A file may have none: that is not an
    /// error.
    #[must_use]
    pub fn read(file: &impl Source, headers: &Headers) -> Option<Self> {
        let table = headers.sections;
        if table.count > MAX_SECTIONS {
            return None;
        }
        let mut sections = Self {
            wide: headers.is_64_bit(),
            table: table.read(file, MAX_SECTIONS)?,
            entry: table.entry,
            names: Vec::new(),
        };
        if table.count == 0 {
            return Some(sections);
        }
        let names = sections.iter().nth(headers.names)?;
        sections.names = read(file, names.offset, names.size.min(MAX_NAMES) as usize)?;
        Some(sections)
    }

    /// All sections, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = Section<'_>> {
        let entries = self.table.chunks_exact(self.entry);
        entries.filter_map(|entry| self.parse(entry))
    }

    /// The first section of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Section<'_>> {
        let entries = self.table.chunks_exact(self.entry);
        let is_named = |entry: &&[u8]| {
            let at = word(entry, 0).unwrap_or(u32::MAX) as usize;
            let rest = self.names.get(at..).unwrap_or_default();
            let rest = rest.strip_prefix(name.as_bytes());
            rest.is_some_and(|rest| rest.first().is_none_or(|&byte| byte == 0))
        };
        entries
            .filter(is_named)
            .find_map(|entry| self.parse(entry))
            .filter(|section| !section.name.is_empty())
    }

    /// The name at `at` of the table of names.
    fn name(&self, at: usize) -> &[u8] {
        let rest = self.names.get(at..).unwrap_or_default();
        let window = &rest[..rest.len().min(MAX_NAME + 1)];
        let end = window.iter().position(|&byte| byte == 0);
        // The last one may lack its end.
        let end = end.or((window.len() <= MAX_NAME).then_some(window.len()));
        &window[..end.unwrap_or(0)]
    }

    fn parse(&self, entry: &[u8]) -> Option<Section<'_>> {
        let field = |narrow, wide_at| address(entry, self.wide, narrow, wide_at);
        let size = field(20, 32)?;
        let kind = word(entry, 4)?;
        Some(Section {
            name: self.name(word(entry, 0)? as usize),
            address: field(12, 16)?,
            has_contents: size != 0 && kind != SHT_NOBITS,
            kind,
            link: word(entry, if self.wide { 40 } else { 24 })? as usize,
            flags: field(8, 8)?,
            wide: self.wide,
            offset: field(16, 24)?,
            size,
        })
    }
}

impl Section<'_> {
    /// Whether it has code.
    #[must_use]
    pub fn is_code(&self) -> bool {
        self.flags & SHF_EXECINSTR != 0
    }

    fn is_compressed(&self) -> bool {
        self.flags & SHF_COMPRESSED != 0
    }

    /// How many bytes its contents have, or would have if they were what the file says.
    pub fn contents_size(&self, file: &impl Source) -> u64 {
        if !self.has_contents {
            return 0;
        }
        let size = if self.is_compressed() {
            let header = read(file, self.offset, COMPRESSION_HEADER);
            header.and_then(|header| wide(&header, 8))
        } else if self.name.starts_with(OLD_COMPRESSED) {
            let header = read(file, self.offset, OLD_MAGIC.len() + 8);
            let size = header.and_then(|header| header.last_chunk().copied());
            size.map(u64::from_be_bytes)
        } else {
            None
        };
        size.unwrap_or(self.size)
    }

    /// Its contents, at most `most` bytes, stored or compressed with zlib; empty when it
    /// [has none](Self::has_contents).
    ///
    /// # Errors
    /// When they cannot be read; compressed ones of a file of 32 bits never can.
    pub fn contents(&self, file: &impl Source, most: u64) -> Result<Vec<u8>, Unreadable> {
        if !self.has_contents {
            return Ok(Vec::new());
        }
        // Memory is only asked for when the file has something to fill it with.
        let length = file.size().map_err(|_| Unreadable::Damaged)?;
        if self.size > most.min(length) {
            return Err(Unreadable::TooLarge);
        }
        let stored = read(file, self.offset, self.size as usize).ok_or(Unreadable::Damaged)?;
        if self.is_compressed() {
            if !self.wide {
                return Err(Unreadable::Damaged);
            }
            let (format, size) = (word(&stored, 0), wide(&stored, 8));
            if format.is_some_and(|format| format != ELFCOMPRESS_ZLIB) {
                return Err(Unreadable::Compression);
            }
            return decompressed(file, stored.get(COMPRESSION_HEADER..), size, most);
        }
        match stored.strip_prefix(OLD_MAGIC) {
            Some(rest) if self.name.starts_with(OLD_COMPRESSED) => {
                let size = rest.first_chunk().map(|size| u64::from_be_bytes(*size));
                decompressed(file, rest.get(8..), size, most)
            }
            _ => Ok(stored),
        }
    }
}

/// What zlib made `stored` of, which was `size` bytes.
fn decompressed(
    file: &impl Source,
    stored: Option<&[u8]>,
    size: Option<u64>,
    most: u64,
) -> Result<Vec<u8>, Unreadable> {
    let (Some(stored), Some(size)) = (stored, size) else {
        return Err(Unreadable::Damaged);
    };
    if size > most {
        return Err(Unreadable::TooLarge);
    }
    let mut contents = Vec::new();
    let mut decoder = flate2::read::ZlibDecoder::new(stored);
    let mut left = size;
    while left > 0 {
        let piece = left.min(PIECE);
        if !file.spend(piece) {
            return Err(Unreadable::TooLarge);
        }
        let mut part = (&mut decoder).take(piece);
        let read = part.read_to_end(&mut contents);
        if read.map_err(|_| Unreadable::Damaged)? == 0 {
            break;
        }
        left -= piece;
    }
    Ok(contents)
}
