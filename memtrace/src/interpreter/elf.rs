//! Exported symbols of an ELF file, found by the hash table that it has for the dynamic linker.
//!
//! No table is read as a whole: a look-up reads a few words, so a file that exports nothing of
//! interest is dismissed after two or three reads however large it is. All reads are `pread`s of a
//! bounded size; a file that is truncated meanwhile is a short read. Only files of 64 bits and of
//! this machine's byte order are looked at.
//!
//! Bounds: [`MAX_SEGMENTS`], [`MAX_DYNAMIC`], [`MAX_SECTIONS`], [`MAX_NAMES`]; a look-up follows
//! at most [`MAX_CHAIN`] symbols of a chain.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Program headers that are looked at.
const MAX_SEGMENTS: usize = 256;
/// Entries of the dynamic section that are looked at.
const MAX_DYNAMIC: usize = 1024;
/// Section headers; the sections of a file with more are not looked at.
const MAX_SECTIONS: usize = 1024;
/// Bytes of section names that are read.
const MAX_NAMES: u64 = 64 << 10;
/// Symbols of one chain of a hash table that are looked at.
const MAX_CHAIN: u32 = 256;

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PF_X: u32 = 1;
const DT_HASH: u64 = 4;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_STRSZ: u64 = 10;
const DT_SYMENT: u64 = 11;
const DT_GNU_HASH: u64 = 0x6fff_fef5;
const SYMBOL: u64 = 24;
/// Pages are this large or larger; segments are mapped from the start of one.
const PAGE: u64 = 4096;

/// Where an ELF file is loaded, and where its tables of symbols are.
#[derive(Debug)]
pub struct Elf {
    segments: Vec<Segment>,
    symbols: Option<Symbols>,
    sections: Sections,
}

/// A part of the file that is loaded.
#[derive(Debug)]
struct Segment {
    offset: u64,
    address: u64,
    size: u64,
    executable: bool,
}

/// Offsets in the file.
#[derive(Debug)]
struct Symbols {
    table: u64,
    names: u64,
    names_size: u64,
    gnu_hash: Option<u64>,
    hash: Option<u64>,
}

#[derive(Debug)]
struct Sections {
    offset: u64,
    count: usize,
    /// Which one has the sections' names.
    names: usize,
}

impl Elf {
    /// `None` when `file` is not an ELF file of 64 bits and this machine's byte order, or its program
    /// headers cannot be read.
    pub fn read(file: &File) -> Option<Self> {
        let header = read(file, 0, 64)?;
        let order = if cfg!(target_endian = "little") { 1 } else { 2 };
        if !header.starts_with(b"\x7fELF") || header[4] != 2 || header[5] != order {
            return None;
        }
        if half(&header, 54)? != 56 {
            return None;
        }
        let count = usize::from(half(&header, 56)?).min(MAX_SEGMENTS);
        let programs = read(file, wide(&header, 32)?, count * 56)?;
        let mut elf = Self {
            segments: Vec::new(),
            symbols: None,
            sections: Sections {
                offset: wide(&header, 40)?,
                count: usize::from(half(&header, 60)?),
                names: usize::from(half(&header, 62)?),
            },
        };
        if half(&header, 58)? != 64 {
            elf.sections.count = 0;
        }
        let mut dynamic = None;
        for entry in programs.chunks_exact(56) {
            let segment = Segment {
                offset: wide(entry, 8)?,
                address: wide(entry, 16)?,
                size: wide(entry, 32)?,
                executable: word(entry, 4)? & PF_X != 0,
            };
            match word(entry, 0)? {
                PT_LOAD => elf.segments.push(segment),
                PT_DYNAMIC => dynamic = Some(segment),
                _ => {}
            }
        }
        elf.symbols = dynamic.and_then(|dynamic| elf.read_dynamic(file, &dynamic));
        Some(elf)
    }

    /// What must be added to the file's addresses, given that what is at `offset` of the file is
    /// mapped executable at `start`. Wraps around.
    pub fn bias(&self, start: u64, offset: u64) -> Option<u64> {
        let segment = self.segments.iter().find(|segment| {
            segment.executable
                && segment.offset / PAGE * PAGE <= offset
                && offset < segment.offset.saturating_add(segment.size)
        })?;
        let address = segment
            .address
            .wrapping_add(offset)
            .wrapping_sub(segment.offset);
        Some(start.wrapping_sub(address))
    }

    /// The address, as the file has it, of a symbol that it defines and exports.
    pub fn symbol(&self, file: &File, name: &str) -> Option<u64> {
        let symbols = self.symbols.as_ref()?;
        match (symbols.gnu_hash, symbols.hash) {
            (Some(table), _) => symbols.by_gnu_hash(file, table, name),
            (None, Some(table)) => symbols.by_hash(file, table, name),
            (None, None) => None,
        }
    }

    /// The address, as the file has it, of a section.
    pub fn section(&self, file: &File, name: &str) -> Option<u64> {
        let Sections {
            offset,
            count,
            names,
        } = self.sections;
        if count > MAX_SECTIONS || names >= count {
            return None;
        }
        let table = read(file, offset, count * 64)?;
        let strings = &table[names * 64..][..64];
        let size = wide(strings, 32)?.min(MAX_NAMES);
        let strings = read(file, wide(strings, 24)?, size as usize)?;
        let mut entries = table.chunks_exact(64);
        let entry = entries.find(|entry| {
            let text = word(entry, 0).and_then(|at| strings.get(at as usize..));
            text.and_then(|text| text.strip_prefix(name.as_bytes()))
                .is_some_and(|rest| rest.first() == Some(&0))
        })?;
        wide(entry, 16).filter(|&address| address != 0)
    }

    fn read_dynamic(&self, file: &File, dynamic: &Segment) -> Option<Symbols> {
        let size = dynamic.size.min(MAX_DYNAMIC as u64 * 16) as usize;
        let entries = read(file, dynamic.offset, size)?;
        let value = |tag| {
            entries
                .chunks_exact(16)
                .take_while(|entry| wide(entry, 0) != Some(0))
                .find(|entry| wide(entry, 0) == Some(tag))
                .and_then(|entry| wide(entry, 8))
        };
        if value(DT_SYMENT).is_some_and(|size| size != SYMBOL) {
            return None;
        }
        let place = |tag| value(tag).and_then(|address| self.offset_of(address));
        Some(Symbols {
            table: place(DT_SYMTAB)?,
            names: place(DT_STRTAB)?,
            names_size: value(DT_STRSZ)?,
            gnu_hash: place(DT_GNU_HASH),
            hash: place(DT_HASH),
        })
    }

    fn offset_of(&self, address: u64) -> Option<u64> {
        self.segments.iter().find_map(|segment| {
            let inside = address.checked_sub(segment.address)?;
            (inside < segment.size).then(|| segment.offset.checked_add(inside))?
        })
    }
}

impl Symbols {
    /// Looks `name` up in the table of `DT_GNU_HASH`: four words, a Bloom filter, buckets, and
    /// for each symbol its hash, of which the lowest bit ends the bucket.
    fn by_gnu_hash(&self, file: &File, table: u64, name: &str) -> Option<u64> {
        let hash = name.bytes().fold(5381_u32, |hash, byte| {
            hash.wrapping_mul(33).wrapping_add(u32::from(byte))
        });
        let header = read(file, table, 16)?;
        let buckets = word(&header, 0).filter(|&buckets| buckets > 0)?;
        let first = word(&header, 4)?;
        let filter_size = word(&header, 8).filter(|&size| size > 0)?;
        let shift = word(&header, 12)?;
        let filter = table.checked_add(16)?;
        let at = filter.checked_add(u64::from(hash / 64 % filter_size) * 8)?;
        let bits = wide(&read(file, at, 8)?, 0)?;
        let second = hash.checked_shr(shift).unwrap_or(0);
        if bits >> (hash % 64) & bits >> (second % 64) & 1 == 0 {
            return None;
        }
        let bucket = filter.checked_add(u64::from(filter_size) * 8)?;
        let chain = bucket.checked_add(u64::from(buckets) * 4)?;
        let at = bucket.checked_add(u64::from(hash % buckets) * 4)?;
        let mut symbol = word(&read(file, at, 4)?, 0)?;
        for _ in 0..MAX_CHAIN {
            let at = chain.checked_add(u64::from(symbol.checked_sub(first)?) * 4)?;
            let found = word(&read(file, at, 4)?, 0)?;
            if found | 1 == hash | 1
                && let Some(address) = self.defined(file, symbol, name)
            {
                return Some(address);
            }
            if found & 1 == 1 {
                return None;
            }
            symbol = symbol.checked_add(1)?;
        }
        None
    }

    /// Looks `name` up in the table of `DT_HASH`: numbers of buckets and symbols, buckets, and
    /// for each symbol the next one of its bucket.
    fn by_hash(&self, file: &File, table: u64, name: &str) -> Option<u64> {
        let hash = name.bytes().fold(0_u32, |hash, byte| {
            let hash = (hash << 4).wrapping_add(u32::from(byte));
            let high = hash & 0xf000_0000;
            (hash ^ (high >> 24)) & !high
        });
        let header = read(file, table, 8)?;
        let buckets = word(&header, 0).filter(|&buckets| buckets > 0)?;
        let number = |index: u64| {
            let at = table.checked_add(8)?.checked_add(index * 4)?;
            word(&read(file, at, 4)?, 0)
        };
        let mut symbol = number(u64::from(hash % buckets))?;
        for _ in 0..MAX_CHAIN {
            if symbol == 0 {
                return None;
            }
            if let Some(address) = self.defined(file, symbol, name) {
                return Some(address);
            }
            symbol = number(u64::from(buckets) + u64::from(symbol))?;
        }
        None
    }

    /// The address of the symbol of this number if it has this name and is not of another file.
    fn defined(&self, file: &File, symbol: u32, name: &str) -> Option<u64> {
        let at = self.table.checked_add(u64::from(symbol) * SYMBOL)?;
        let entry = read(file, at, SYMBOL as usize)?;
        let at = u64::from(word(&entry, 0)?);
        if half(&entry, 6)? == 0 || at.checked_add(name.len() as u64 + 1)? > self.names_size {
            return None;
        }
        let found = read(file, self.names.checked_add(at)?, name.len() + 1)?;
        let same = found.strip_prefix(name.as_bytes()) == Some(&[0][..]);
        same.then(|| wide(&entry, 8))?
    }
}

/// Exactly `size` bytes at `offset`.
fn read(file: &File, offset: u64, size: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; size];
    file.read_exact_at(&mut bytes, offset).ok()?;
    Some(bytes)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn wide(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests;
