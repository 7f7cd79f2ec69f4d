//! The functions of an ELF file by address: how far each goes, and all its names.
//!
//! What is named must be right, so a symbol names what it covers and nothing beyond: after it may be
//! functions whose symbols have been removed. How far one goes that has no size, as those of
//! functions that were written in assembler often have none, is taken from `.eh_frame` where a
//! function begins at the same address. Where the file still has the symbols of functions that are
//! not exported, it is as far as the next symbol, the next function of `.eh_frame`, or the end of the
//! section. Else it is not known, and the symbol names its own address alone.

use super::budget::Source;
use super::extents::Extents;
use super::headers::{Headers, half, read, wide, word};
use super::sections::{SHT_DYNSYM, SHT_SYMTAB, Section, Sections};

/// Functions in one file. A file with more counts as one without: they are held in memory, of 16
/// bytes each.
pub const MAX_FUNCTIONS: usize = 1 << 20;

/// Bytes of a name. Of a longer one, the beginning.
pub const MAX_NAME: usize = 8192;

/// Names that are looked at of one function.
pub const MAX_ALIASES: usize = 64;

/// Symbols that are read at once.
const PIECE: u64 = 4096;

/// Bytes of a name that are read first.
const SHORT: usize = 256;

const STT_NOTYPE: u8 = 0;
const STT_FUNC: u8 = 2;
const STT_GNU_IFUNC: u8 = 10;
const STB_LOCAL: u8 = 0;

/// The functions of a file, in the order of their addresses.
#[derive(Debug)]
pub struct Functions {
    tables: Vec<Table>,
    symbols: Vec<Symbol>,
}

/// A function at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Where it begins.
    pub start: u64,
    /// All its names, at least one, at most [`MAX_ALIASES`]; not escaped.
    pub names: Vec<String>,
}

/// A symbol of a function.
#[derive(Clone, Copy, Debug)]
struct Symbol {
    start: u64,
    /// Bytes of the function; 0 while that is not known.
    size: u32,
    /// Counted through all tables.
    number: u32,
}

/// A table of symbols in the file.
#[derive(Clone, Copy, Debug)]
struct Table {
    wide: bool,
    offset: u64,
    /// Symbols in it.
    count: u64,
    names: u64,
    names_size: u64,
}

/// A symbol as it is in the file.
struct Entry {
    name: u32,
    kind: u8,
    binding: u8,
    section: u16,
    value: u64,
    size: u64,
}

impl Functions {
    /// `None` when `file` is not an ELF file that can be read, or has too many functions. Without
    /// symbols it has none.
    #[must_use]
    pub fn read(file: &impl Source) -> Option<Self> {
        let headers = Headers::read(file)?;
        let sections = Sections::read(file, &headers)?;
        let sections: Vec<_> = sections.iter().collect();
        let tables: Vec<_> = [SHT_SYMTAB, SHT_DYNSYM]
            .into_iter()
            .filter_map(|kind| Table::find(&sections, kind, headers.is_64_bit()))
            .collect();
        let mut has_locals = false;
        let mut symbols = Vec::new();
        let mut first = 0;
        for table in &tables {
            table.each(file, |index, entry| {
                let section = sections.get(usize::from(entry.section));
                if !entry.is_function() || !section.is_some_and(Section::is_code) {
                    return true;
                }
                has_locals |= entry.binding == STB_LOCAL && entry.kind == STT_FUNC;
                symbols.push(Symbol {
                    start: entry.value,
                    size: u32::try_from(entry.size).unwrap_or(u32::MAX),
                    number: u32::try_from(first + index).unwrap_or(u32::MAX),
                });
                symbols.len() <= MAX_FUNCTIONS
            })?;
            first += table.count;
        }
        symbols.shrink_to_fit();
        // By number at last: the same file gives the same order.
        symbols.sort_unstable_by_key(|each| (each.start, u32::MAX - each.size, each.number));
        let mut functions = Self { tables, symbols };
        if functions.symbols.iter().any(|each| each.size == 0) {
            functions.forget_labels();
            let extents = Extents::read(file, &headers);
            functions.measure(file, &sections, extents.as_ref(), has_locals);
        }
        Some(functions)
    }

    /// How many symbols are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.symbols.len()
    }

    /// The function that covers `address`, as the file itself numbers it.
    #[must_use]
    pub fn at(&self, file: &impl Source, address: u64) -> Option<Function> {
        let end = self
            .symbols
            .partition_point(|symbol| symbol.start <= address);
        let start = self.symbols[..end].last()?.start;
        let first = self.symbols[..end].partition_point(|symbol| symbol.start < start);
        let names: Vec<_> = self.symbols[first..end]
            .iter()
            .filter(|symbol| address - start < symbol.size.into())
            .take(MAX_ALIASES)
            .filter_map(|symbol| self.name(file, symbol))
            .filter(|name| !name.is_empty())
            .collect();
        (!names.is_empty()).then_some(Function { start, names })
    }

    fn name(&self, file: &impl Source, symbol: &Symbol) -> Option<String> {
        let mut index = u64::from(symbol.number);
        for table in &self.tables {
            if index < table.count {
                return table.name(file, index);
            }
            index -= table.count;
        }
        None
    }

    /// Drops symbols without a size that are inside a function of known size: they are labels in
    /// it.
    fn forget_labels(&mut self) {
        let mut outer = 0..0;
        self.symbols.retain(|symbol| {
            let end = symbol.start.saturating_add(symbol.size.into());
            if end > outer.end {
                outer = symbol.start..end;
            }
            symbol.size > 0 || symbol.start == outer.start || !outer.contains(&symbol.start)
        });
    }

    /// Finds out how far functions go whose symbols have no size.
    fn measure(
        &mut self,
        file: &impl Source,
        sections: &[Section<'_>],
        extents: Option<&Extents>,
        has_locals: bool,
    ) {
        let mut next_start = None;
        let mut end = self.symbols.len();
        while let Some(last) = self.symbols[..end].last() {
            let start = last.start;
            let first = self.symbols[..end].partition_point(|symbol| symbol.start < start);
            // The first of them has the largest size.
            let mut size = self.symbols[first].size.into();
            if size == 0 {
                let known = extents.and_then(|extents| extents.end_of(file, start));
                let stop = known.or_else(|| {
                    let section = sections.iter().find(|each| each.is_code_at(start))?;
                    let end = section.address.saturating_add(section.size);
                    let function = extents.and_then(|extents| extents.next_after(start));
                    let stop = [next_start, function]
                        .into_iter()
                        .flatten()
                        .fold(end, u64::min);
                    has_locals.then_some(stop)
                });
                size = stop.map_or(1, |stop: u64| stop.saturating_sub(start).max(1));
            }
            for symbol in &mut self.symbols[first..end] {
                symbol.size = match symbol.size {
                    0 => u32::try_from(size).unwrap_or(u32::MAX),
                    known => known,
                };
            }
            next_start = Some(start);
            end = first;
        }
    }
}

impl Section<'_> {
    fn is_code_at(&self, address: u64) -> bool {
        self.is_code() && address >= self.address && address - self.address < self.size
    }
}

impl Table {
    fn find(sections: &[Section<'_>], kind: u32, wide: bool) -> Option<Self> {
        let symbols = sections
            .iter()
            .find(|each| each.kind == kind && each.has_contents)?;
        let names = sections.get(symbols.link)?;
        let entry = if wide { 24 } else { 16 };
        Some(Self {
            wide,
            offset: symbols.offset,
            count: symbols.size / entry,
            names: names.offset,
            names_size: names.size,
        })
    }

    fn entry(&self) -> u64 {
        if self.wide { 24 } else { 16 }
    }

    /// Calls `take` for each symbol and its index; `None` when they cannot be read, or `take` has
    /// said false.
    fn each(&self, file: &impl Source, mut take: impl FnMut(u64, &Entry) -> bool) -> Option<()> {
        let mut index = 0;
        while index < self.count {
            let count = PIECE.min(self.count - index);
            let offset = self.offset.checked_add(index * self.entry())?;
            let piece = read(file, offset, (count * self.entry()) as usize)?;
            for entry in piece.chunks_exact(self.entry() as usize) {
                if !take(index, &self.parse(entry)?) {
                    return None;
                }
                index += 1;
            }
        }
        Some(())
    }

    fn parse(&self, entry: &[u8]) -> Option<Entry> {
        let info = *entry.get(if self.wide { 4 } else { 12 })?;
        let narrow = |at| word(entry, at).map(u64::from);
        let (value, size, section) = if self.wide {
            (wide(entry, 8)?, wide(entry, 16)?, half(entry, 6)?)
        } else {
            (narrow(4)?, narrow(8)?, half(entry, 14)?)
        };
        Some(Entry {
            name: word(entry, 0)?,
            kind: info & 0xf,
            binding: info >> 4,
            section,
            value,
            size,
        })
    }

    fn name(&self, file: &impl Source, index: u64) -> Option<String> {
        let offset = self.offset.checked_add(index * self.entry())?;
        let entry = self.parse(&read(file, offset, self.entry() as usize)?)?;
        let left = self.names_size.checked_sub(entry.name.into())?;
        let offset = self.names.checked_add(entry.name.into())?;
        for most in [SHORT, MAX_NAME] {
            let mut bytes = read(file, offset, left.min(most as u64) as usize)?;
            let end = bytes.iter().position(|&byte| byte == 0);
            if end.is_some() || most == MAX_NAME {
                bytes.truncate(end.unwrap_or(bytes.len()));
                return Some(String::from_utf8_lossy(&bytes).into_owned());
            }
        }
        None
    }
}

impl Entry {
    /// Whether it can be a function's: code that was written in assembler need not say so.
    fn is_function(&self) -> bool {
        matches!(self.kind, STT_NOTYPE | STT_FUNC | STT_GNU_IFUNC)
    }
}
