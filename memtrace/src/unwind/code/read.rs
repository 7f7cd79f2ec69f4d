//! Reads the code that no unwind table covers, and where functions start in it.

use gimli::{CieOrFde, DebugFrame, EhFrame, EndianSlice, LittleEndian, UnwindSection};

use super::Code;
use crate::elf::{Budget, Headers, PT_LOAD, Sections, Source, Symbol};
use crate::unwind::arch::Bytes;
use crate::unwind::sections::Input;

/// Bytes of code that are followed; a file with more that nothing covers is left as it is.
const MAX_CODE: u64 = 16 << 20;

/// What is shorter fills space between functions.
const LEAST: u64 = 16;

/// What has no symbol and is shorter fills space between functions that are aligned to lines of the
/// cache.
const LEAST_WITHOUT_SYMBOL: u64 = 64;

/// Bytes of a symbol table that are read whatever there is to be found by it.
const LEAST_SYMBOLS: u64 = 64 << 10;

/// Bytes of a symbol table that are read for each byte of code; musl's own have half of that, with
/// names.
const SYMBOLS_PER_BYTE: u64 = 16;

/// Entries of unwind tables after which the clock is looked at.
const CLOCK_EVERY: usize = 4096;

/// Code of a file: address, offset, size.
type Part = (u64, u64, u64);

impl Code {
    /// What there is of it in `file`, of which `input` has the tables. Nothing when there is too
    /// much, or the budget does not permit it: tables are worth more.
    pub fn read(
        file: &impl Source,
        headers: &Headers,
        sections: &Sections,
        input: &Input,
        budget: &Budget,
    ) -> Self {
        Self::try_read(file, headers, sections, input, budget).unwrap_or_default()
    }

    fn try_read(
        file: &impl Source,
        headers: &Headers,
        sections: &Sections,
        input: &Input,
        budget: &Budget,
    ) -> Option<Self> {
        let covered = covered(input, budget)?;
        let mut parts = gaps(&code(headers, sections), &covered);
        let notable = parts.iter().map(|part| part.2);
        let notable = notable.filter(|&size| size >= LEAST_WITHOUT_SYMBOL);
        // A damaged file may say that its code is as large as all memory, and more than once.
        let notable = notable.fold(0, u64::saturating_add);
        if notable > MAX_CODE {
            return None;
        }
        let most = LEAST_SYMBOLS + SYMBOLS_PER_BYTE * notable;
        if 2 * (notable + 2 * most) > file.left() {
            return None;
        }
        let mut code = Self {
            entry: Some(headers.entry()).filter(|&entry| entry != 0),
            functions: functions(file, sections, &parts, most),
            ..Self::default()
        };
        parts.retain(|&part| part.2 >= LEAST_WITHOUT_SYMBOL || code.has_start(part));
        for (address, offset, size) in parts {
            let mut bytes = vec![0; usize::try_from(size).ok()?];
            file.fill(&mut bytes, offset).ok()?;
            code.add(address, &bytes);
        }
        Some(code)
    }

    fn has_start(&self, (address, _, size): Part) -> bool {
        let first = self
            .functions
            .partition_point(|&(start, _)| start < address);
        let function = self.functions.get(first).map(|function| function.0);
        let mut starts = function.into_iter().chain(self.entry);
        starts.any(|start| start >= address && start - address < size)
    }
}

/// The code of a file, by its sections, or where it has none by its segments.
fn code(headers: &Headers, sections: &Sections) -> Vec<Part> {
    let by_section = sections
        .iter()
        .filter(|section| section.is_code() && section.has_contents);
    let mut code: Vec<Part> = by_section
        .map(|section| (section.address, section.offset, section.size))
        .collect();
    if sections.iter().next().is_none() {
        let segments = headers.programs_of(PT_LOAD);
        let segments = segments.filter(|segment| segment.executable);
        code.extend(segments.map(|segment| (segment.address, segment.offset, segment.file_size)));
    }
    code.sort_unstable();
    code
}

/// What of `code` is not `covered`. Both are sorted, by where they begin.
fn gaps(code: &[Part], covered: &[(u64, u64)]) -> Vec<Part> {
    let mut gaps = Vec::new();
    let mut from = 0;
    for &(address, offset, size) in code {
        let Some(end) = address.checked_add(size) else {
            continue;
        };
        let mut add = |from: u64, to: u64| {
            if to.saturating_sub(from) >= LEAST {
                gaps.push((from, offset.saturating_add(from - address), to - from));
            }
        };
        from = address.max(from);
        let first = covered.partition_point(|&(_, last)| last <= from);
        for &(begin, last) in &covered[first..] {
            if begin >= end {
                break;
            }
            add(from, begin);
            from = from.max(last);
        }
        add(from, end);
        from = from.max(end);
    }
    gaps
}

/// The addresses that a file's tables say something of, sorted; those that overlap are one. `None`
/// when time is up.
fn covered(input: &Input, budget: &Budget) -> Option<Vec<(u64, u64)>> {
    let mut ranges = Vec::new();
    if let Some(section) = &input.eh_frame {
        let frames = EhFrame::from(EndianSlice::new(&section.bytes, LittleEndian));
        add_covered(&frames, input, budget, &mut ranges)?;
    }
    if let Some(section) = &input.debug_frame {
        let mut frames = DebugFrame::from(EndianSlice::new(&section.bytes, LittleEndian));
        frames.set_address_size(8);
        add_covered(&frames, input, budget, &mut ranges)?;
    }
    ranges.sort_unstable();
    ranges.dedup_by(|next, range| {
        let is_one = next.0 <= range.1;
        if is_one {
            range.1 = range.1.max(next.1);
        }
        is_one
    });
    Some(ranges)
}

fn add_covered<'data, S>(
    frames: &S,
    input: &Input,
    budget: &Budget,
    ranges: &mut Vec<(u64, u64)>,
) -> Option<()>
where
    S: UnwindSection<Bytes<'data>>,
{
    let mut entries = frames.entries(&input.bases);
    let mut last = None;
    let mut count = 0_usize;
    // Behind a damaged entry nothing is read, when rows are made of them either.
    while let Ok(Some(entry)) = entries.next() {
        count += 1;
        if count.is_multiple_of(CLOCK_EVERY) && !budget.has_time() {
            return None;
        }
        let CieOrFde::Fde(entry) = entry else {
            continue;
        };
        let function = entry.parse(|frames, bases, offset| match &last {
            Some((at, common)) if *at == offset => Ok::<_, gimli::Error>(Clone::clone(common)),
            _ => {
                let common = frames.cie_from_offset(bases, offset)?;
                last = Some((offset, common.clone()));
                Ok(common)
            }
        });
        if let Ok(function) = function {
            let range = (function.initial_address(), function.end_address());
            if range.0 < range.1 {
                ranges.push(range);
            }
        }
    }
    Some(())
}

/// Where functions start and end in these parts of the code, sorted, by symbol tables of at most
/// `most` bytes.
fn functions(
    file: &impl Source,
    sections: &Sections,
    parts: &[Part],
    most: u64,
) -> Vec<(u64, u64)> {
    let mut functions = Vec::new();
    for (table, names) in [(".symtab", ".strtab"), (".dynsym", ".dynstr")] {
        let contents = |name| {
            let section = sections.find(name)?;
            section.contents(file, most).ok()
        };
        let Some(symbols) = contents(table) else {
            continue;
        };
        let names = contents(names);
        let symbols = Symbol::all(&symbols).filter(|symbol| symbol.is_function);
        let symbols = symbols.filter(|symbol| is_in(parts, symbol.address));
        let symbols = symbols.filter(|symbol| is_whole(symbol, names.as_deref()));
        let range = |symbol: Symbol| (symbol.address, symbol.address.saturating_add(symbol.size));
        functions.extend(symbols.map(range));
    }
    functions.sort_unstable();
    functions.dedup();
    functions
}

fn is_in(parts: &[Part], address: u64) -> bool {
    let after = parts.partition_point(|part| part.0 <= address);
    let part = after.checked_sub(1).map(|at| parts[at]);
    part.is_some_and(|(start, _, size)| address - start < size)
}

/// Whether a function begins at its symbol: compilers give one, too, to the part of a function that
/// they expect not to run and put elsewhere.
fn is_whole(symbol: &Symbol, names: Option<&[u8]>) -> bool {
    const COLD: &[u8] = b".cold";
    let Some(names) = names else {
        return !symbol.is_local;
    };
    let name = names.get(symbol.name as usize..).unwrap_or_default();
    let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
    !name.windows(COLD.len()).any(|part| part == COLD)
}

#[cfg(test)]
impl Code {
    /// All code of a file, whatever its tables cover.
    pub fn of_all(file: &std::fs::File) -> Self {
        let headers = Headers::read(file).expect("headers");
        let sections = Sections::read(file, &headers).expect("sections");
        let parts = gaps(&code(&headers, &sections), &[]);
        let mut code = Self {
            entry: Some(headers.entry()).filter(|&entry| entry != 0),
            functions: functions(file, &sections, &parts, u64::MAX),
            ..Self::default()
        };
        for (address, offset, size) in parts {
            let mut bytes = vec![0; size as usize];
            file.fill(&mut bytes, offset).expect("its code");
            code.add(address, &bytes);
        }
        code
    }
}
