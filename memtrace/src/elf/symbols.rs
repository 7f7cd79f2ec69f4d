//! Exported symbols of an ELF file, found by the hash table that it has for the dynamic linker.
//!
//! No table of symbols is read as a whole: a look-up reads a few words, so a file that exports
//! nothing of interest is dismissed after two or three reads however large it is.

use super::budget::Source;
use super::headers::{Headers, PT_DYNAMIC, PT_INTERP, Program, half, read, wide, word};
use super::layout::Layout;

/// Entries of the dynamic section that are looked at. Libraries have about thirty.
pub const MAX_DYNAMIC: u64 = 1024;

/// Symbols of one chain of a hash table that are looked at. Linkers aim at one or two.
pub const MAX_CHAIN: u32 = 256;

const DT_HASH: u64 = 4;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_STRSZ: u64 = 10;
const DT_SYMENT: u64 = 11;
const DT_GNU_HASH: u64 = 0x6fff_fef5;
const DT_FLAGS_1: u64 = 0x6fff_fffb;
/// `DT_FLAGS_1`: the file is a program, not a library.
const DF_1_PIE: u64 = 0x0800_0000;
const STT_FUNC: u8 = 2;
const STT_GNU_IFUNC: u8 = 10;
const STB_LOCAL: u8 = 0;
/// Bytes of a symbol, in a file of 64 bits.
pub(super) const SYMBOL: u64 = 24;

/// A file's exported symbols and its sections, to be looked up by name.
#[derive(Debug)]
pub struct Symbols {
    pub(super) headers: Headers,
    pub(super) exported: Option<Exported>,
}

/// Where the tables of exported symbols are: offsets in the file.
#[derive(Debug)]
pub(super) struct Exported {
    symbols: u64,
    names: u64,
    names_size: u64,
    pub(super) gnu_hash: Option<u64>,
    hash: Option<u64>,
    /// Whether the file says that it is a program.
    is_program: bool,
}

/// A symbol that was found.
struct Found {
    address: u64,
    size: u64,
}

/// A symbol that a file defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Where its name begins in the table of names.
    pub name: u32,
    /// The address that the file gives to it.
    pub address: u64,
    /// Bytes that it has; 0 when that is not said.
    pub size: u64,
    /// Whether it is a function, or something that chooses one at run time.
    pub is_function: bool,
    /// Whether only the file itself sees it.
    pub is_local: bool,
}

impl Symbol {
    /// All symbols that a table of symbols of a file of 64 bits defines.
    pub fn all(table: &[u8]) -> impl Iterator<Item = Self> {
        let entries = table.chunks_exact(SYMBOL as usize);
        let defined = entries.filter(|entry| half(entry, 6).is_some_and(|section| section != 0));
        defined.filter_map(|entry| {
            let info = *entry.get(4)?;
            Some(Self {
                name: word(entry, 0)?,
                address: wide(entry, 8)?,
                size: wide(entry, 16)?,
                is_function: matches!(info & 15, STT_FUNC | STT_GNU_IFUNC),
                is_local: info >> 4 == STB_LOCAL,
            })
        })
    }
}

impl Symbols {
    /// `None` when `file` is not an ELF file of 64 bits and this machine's byte order, or its
    /// headers cannot be read.
    #[must_use]
    pub fn read(file: &impl Source) -> Option<Self> {
        Self::of(file, Headers::read(file)?)
    }

    /// The same of headers that were read.
    pub(super) fn of(file: &impl Source, headers: Headers) -> Option<Self> {
        let headers = Some(headers).filter(Headers::is_64_bit)?;
        let layout = Layout::of(&headers);
        let dynamic = headers.programs_of(PT_DYNAMIC).last();
        Some(Self {
            exported: dynamic.and_then(|dynamic| Exported::read(file, dynamic, &layout)),
            headers,
        })
    }

    /// The address, as the file has it, of a symbol that it defines and exports.
    #[must_use]
    pub fn symbol(&self, file: &impl Source, name: &str) -> Option<u64> {
        self.find(file, name).map(|found| found.address)
    }

    /// Where an exported function's code is in the file, and how many bytes it has.
    #[must_use]
    pub fn code(&self, file: &impl Source, name: &str) -> Option<(u64, u64)> {
        let found = self.find(file, name)?;
        let offset = Layout::of(&self.headers).offset_of(found.address)?;
        Some((offset, found.size))
    }

    fn find(&self, file: &impl Source, name: &str) -> Option<Found> {
        let exported = self.exported.as_ref()?;
        match (exported.gnu_hash, exported.hash) {
            (Some(table), _) => exported.by_gnu_hash(file, table, name),
            (None, Some(table)) => exported.by_hash(file, table, name),
            (None, None) => None,
        }
    }

    /// The text that an exported symbol names, without the zero that ends it; `None` when there is
    /// no such symbol, or no end within `most` bytes.
    #[must_use]
    pub fn text(&self, file: &impl Source, name: &str, most: usize) -> Option<Vec<u8>> {
        let address = self.symbol(file, name)?;
        let offset = Layout::of(&self.headers).offset_of(address)?;
        // Near the end of a file there are fewer bytes.
        let left = file.size().ok()?.saturating_sub(offset);
        let mut text = read(file, offset, left.min(most as u64) as usize)?;
        let end = text.iter().position(|&byte| byte == 0)?;
        text.truncate(end);
        Some(text)
    }

    /// Whether the file is a program that is linked statically: it has all its code in itself, and
    /// exports nothing.
    #[must_use]
    pub fn is_static_program(&self) -> bool {
        let is_library = |exported: &Exported| !exported.is_program;
        self.headers.programs_of(PT_INTERP).next().is_none()
            && !self.exported.as_ref().is_some_and(is_library)
    }
}

impl Exported {
    fn read(file: &impl Source, dynamic: &Program, layout: &Layout) -> Option<Self> {
        let size = dynamic.file_size.min(MAX_DYNAMIC * 16) as usize;
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
        let place = |tag| value(tag).and_then(|address| layout.offset_of(address));
        Some(Self {
            symbols: place(DT_SYMTAB)?,
            names: place(DT_STRTAB)?,
            names_size: value(DT_STRSZ)?,
            gnu_hash: place(DT_GNU_HASH),
            hash: place(DT_HASH),
            is_program: value(DT_FLAGS_1).is_some_and(|flags| flags & DF_1_PIE != 0),
        })
    }

    /// Looks `name` up in the table of `DT_GNU_HASH`: four words, a Bloom filter, buckets, and
    /// for each symbol its hash, of which the lowest bit ends the bucket.
    fn by_gnu_hash(&self, file: &impl Source, table: u64, name: &str) -> Option<Found> {
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
                && let Some(found) = self.defined(file, symbol, name)
            {
                return Some(found);
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
    fn by_hash(&self, file: &impl Source, table: u64, name: &str) -> Option<Found> {
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
            if let Some(found) = self.defined(file, symbol, name) {
                return Some(found);
            }
            symbol = number(u64::from(buckets) + u64::from(symbol))?;
        }
        None
    }

    /// The symbol of this number if it has this name and is not of another file.
    fn defined(&self, file: &impl Source, symbol: u32, name: &str) -> Option<Found> {
        let at = self.symbols.checked_add(u64::from(symbol) * SYMBOL)?;
        let entry = read(file, at, SYMBOL as usize)?;
        let at = u64::from(word(&entry, 0)?);
        if half(&entry, 6)? == 0 || at.checked_add(name.len() as u64 + 1)? > self.names_size {
            return None;
        }
        let found = read(file, self.names.checked_add(at)?, name.len() + 1)?;
        let same = found.strip_prefix(name.as_bytes()) == Some(&[0][..]);
        let found = Found {
            address: wide(&entry, 8)?,
            size: wide(&entry, 16)?,
        };
        same.then_some(found)
    }
}
