//! Makes a file's unwind table of its `.eh_frame` and `.debug_frame`.
//!
//! The file is foreign: every part has a bound, what is damaged is left out and counted, and the
//! time is that of the file's budget. Memory is a few times the size of the sections.

pub mod caller;

use std::hash::Hash;

use foldhash::HashMap;
use gimli::{
    CieOrFde, CommonInformationEntry, DebugFrame, EhFrame, EndianSlice, LittleEndian,
    UnwindContext, UnwindSection,
};
use memtrace_common::unwind::{
    CFA_GAP, CFA_RULE, CFA_UNSUPPORTED, FP_SAME, MAX_ROWS, MAX_RULES, Row, Rule,
};

use self::caller::{Base, Caller};
use super::arch::Bytes;
use super::sections::Input;
use super::table::{Refused, RowSource, UnwindTable};
use crate::elf::Budget;

/// Entries that many functions share are evaluated again for each: longer ones are left out.
/// Compilers write some twenty bytes.
const MAX_COMMON_ENTRY: usize = 4096;

/// Common entries that are remembered.
const MAX_COMMON_ENTRIES: usize = 65_536;

/// A function with a longer entry is left out: it is evaluated in one go. Compilers write some
/// hundred bytes, for the largest functions some thousand.
const MAX_FUNCTION_ENTRY: usize = 1 << 20;

/// What the smallest entry costs, in bytes.
const LEAST_WORK: usize = 32;

/// Rows before those that change nothing are left out.
const MOST_ENTRIES: usize = 2 * MAX_ROWS as usize;

/// Bytes of entries after which the clock is looked at: some ten milliseconds at the very worst.
const CLOCK_EVERY: usize = 64 << 10;

/// Rows of one function after which the clock is looked at.
const CLOCK_EVERY_ROWS: usize = 1 << 16;

/// Builds a file's table.
///
/// # Errors
/// When there are more rows than can be, or it takes too long, in words.
pub fn build(input: &Input, budget: &Budget) -> Result<UnwindTable, Refused> {
    let mut rows = Rows::new(input, budget);
    let mut source = RowSource::None;
    if let Some(section) = &input.eh_frame {
        let frames = EhFrame::from(EndianSlice::new(&section.bytes, LittleEndian));
        rows.add_section(&frames, &[])?;
        if rows.follows_other {
            // Hardly any file has such a row. All have to be read with that in mind.
            rows.entries.clear();
            rows.damaged = 0;
            rows.add_section(&frames, &[])?;
        }
        rows.sort();
        if !rows.entries.is_empty() {
            source = RowSource::EhFrame;
        }
    }
    if let Some(section) = &input.debug_frame {
        let mut frames = DebugFrame::from(EndianSlice::new(&section.bytes, LittleEndian));
        frames.set_address_size(8);
        let covered = std::mem::take(&mut rows.entries);
        rows.add_section(&frames, &covered)?;
        if !rows.entries.is_empty() {
            source = match source {
                RowSource::EhFrame => RowSource::Both,
                _ => RowSource::DebugFrame,
            };
        }
        rows.entries.extend(covered);
        rows.sort();
    }
    rows.add_code();
    rows.into_table(source)
}

/// Rows on their way.
struct Rows<'input> {
    input: &'input Input,
    base: u64,
    entries: Vec<Row>,
    rules: Vec<Rule>,
    numbers: HashMap<Rule, u16>,
    /// Bytes of entries that were evaluated since the clock was looked at.
    work: usize,
    damaged: u64,
    from_code: u64,
    is_partial: bool,
    budget: &'input Budget,
    /// Whether to say of each row what became of the other register: some row needs it.
    follows_other: bool,
}

impl<'input> Rows<'input> {
    fn new(input: &'input Input, budget: &'input Budget) -> Self {
        let first = input.code.iter().map(|&(start, _)| start).min();
        Self {
            input,
            base: first.unwrap_or(0) & !0xfff,
            entries: Vec::new(),
            rules: Vec::new(),
            numbers: HashMap::default(),
            work: 0,
            damaged: 0,
            from_code: 0,
            is_partial: false,
            budget,
            follows_other: false,
        }
    }

    /// Adds the rows of all functions of a section that do not begin where `covered`, sorted, has
    /// something.
    fn add_section<'data, S>(&mut self, frames: &S, covered: &[Row]) -> Result<(), Refused>
    where
        S: UnwindSection<Bytes<'data>>,
        S::Offset: Hash + Eq,
    {
        let bases = &self.input.bases;
        let mut context = UnwindContext::new();
        let mut common: HashMap<S::Offset, gimli::Result<CommonInformationEntry<Bytes<'data>>>> =
            HashMap::default();
        let mut entries = frames.entries(bases);
        loop {
            self.look_at_clock(LEAST_WORK)?;
            let entry = match entries.next() {
                Ok(Some(CieOrFde::Fde(entry))) => entry,
                Ok(Some(CieOrFde::Cie(_))) => continue,
                Ok(None) => return Ok(()),
                Err(_) => {
                    // Where the next one begins is not known.
                    self.damaged += 1;
                    return Ok(());
                }
            };
            if common.len() >= MAX_COMMON_ENTRIES {
                common.clear();
            }
            let function = entry.parse(|frames, bases, offset| {
                let known = common
                    .entry(offset)
                    .or_insert_with(|| frames.cie_from_offset(bases, offset));
                known.clone()
            });
            let size = function.as_ref().map_or(0, |function| {
                function.entry_len() + function.cie().entry_len()
            });
            self.look_at_clock(size)?;
            let added = function
                .ok()
                .filter(|function| {
                    function.cie().entry_len() <= MAX_COMMON_ENTRY
                        && function.entry_len() <= MAX_FUNCTION_ENTRY
                })
                .and_then(|function| self.add_function(frames, &function, &mut context, covered));
            if added.is_none() {
                self.damaged += 1;
                self.has_budget()?;
            }
            if self.entries.len() >= MOST_ENTRIES {
                return Err(too_many_rows());
            }
        }
    }

    /// Counts what one function costs, and looks at the clock after some.
    fn look_at_clock(&mut self, work: usize) -> Result<(), Refused> {
        self.work += work;
        if self.work >= CLOCK_EVERY {
            self.work = 0;
            self.budget.has_time();
        }
        self.has_budget()
    }

    fn has_budget(&self) -> Result<(), Refused> {
        self.budget.why().map_or(Ok(()), |why| Err(Refused(why)))
    }

    /// Adds the rows of one function; `None` when they are damaged, and then none.
    fn add_function<'data, S>(
        &mut self,
        frames: &S,
        function: &gimli::FrameDescriptionEntry<Bytes<'data>>,
        context: &mut UnwindContext<usize>,
        covered: &[Row],
    ) -> Option<()>
    where
        S: UnwindSection<Bytes<'data>>,
    {
        let (start, end) = (function.initial_address(), function.end_address());
        let is_code = |&(first, last): &(u64, u64)| first <= start && end <= last;
        if start >= end {
            // Of a function that the linker dropped.
            return Some(());
        }
        if !self.input.code.iter().any(is_code) {
            return (start == 0).then_some(());
        }
        let before = self.entries.len();
        let start = self.pc(start)?;
        let end = self.pc(end)?;
        let known = covered.partition_point(|row| row.pc <= start);
        if known > 0 && covered[known - 1].cfa != CFA_GAP {
            return Some(());
        }
        let is_signal = function.is_signal_trampoline();
        let mut table = function.rows(frames, &self.input.bases, context).ok()?;
        loop {
            match table.next_row() {
                Ok(Some(row)) => {
                    let pc = self.pc(row.start_address()).filter(|&pc| pc < end);
                    let Some(pc) = pc else { continue };
                    let caller = Caller::of(frames, row, is_signal, self.input.architecture);
                    let row = self.row(pc, caller);
                    self.entries.push(row);
                    let rows = self.entries.len() - before;
                    let is_late = rows.is_multiple_of(CLOCK_EVERY_ROWS) && !self.budget.has_time();
                    if is_late || self.entries.len() >= MOST_ENTRIES {
                        // Whoever asked for this function finds out why.
                        return None;
                    }
                }
                Ok(None) => break,
                Err(_) => {
                    self.entries.truncate(before);
                    return None;
                }
            }
        }
        self.entries.push(plain(end, CFA_GAP));
        Some(())
    }

    fn pc(&self, address: u64) -> Option<u32> {
        u32::try_from(address.checked_sub(self.base)?).ok()
    }

    /// Sorts rows. Of several at one address only the first is kept, and a gap only where it is the
    /// only one.
    fn sort(&mut self) {
        self.entries.sort_by_key(|row| (row.pc, row.cfa == CFA_GAP));
        self.entries.dedup_by_key(|row| row.pc);
    }

    /// Adds rows for code that no section says anything of, made of the code itself. Where there is
    /// no time for it, there are none.
    fn add_code(&mut self) {
        let code = &self.input.uncovered;
        let Some(known) = code.known(self.input.architecture, self.budget) else {
            self.is_partial = true;
            return;
        };
        let before = self.entries.len();
        for known in known {
            let Some(pc) = self.pc(known.address) else {
                continue;
            };
            let row = self.row(pc, known.caller);
            self.entries.push(row);
        }
        let added = &self.entries[before..];
        let added = added.iter().filter(|row| row.cfa != CFA_GAP).count();
        self.from_code = added as u64;
        self.sort();
    }

    fn into_table(mut self, source: RowSource) -> Result<UnwindTable, Refused> {
        // What changes nothing needs no row.
        self.entries
            .dedup_by(|next, row| (next.cfa, next.fp) == (row.cfa, row.fp));
        if self.entries.len() > MAX_ROWS as usize {
            return Err(too_many_rows());
        }
        self.entries.shrink_to_fit();
        Ok(UnwindTable {
            base: self.base,
            rows: self.entries,
            rules: self.rules,
            source,
            from_code: self.from_code,
            is_partial: self.is_partial,
            damaged: self.damaged,
        })
    }

    /// The row that says where the caller's registers are, by a rule where that does not fit.
    fn row(&mut self, pc: u32, caller: Caller) -> Row {
        let mut registers = match caller {
            Caller::Without(cfa) => return plain(pc, cfa),
            Caller::At(registers) => registers,
        };
        self.follows_other |= registers.base == Base::Other;
        if !self.follows_other {
            registers.other = None;
        }
        if let Some((cfa, fp)) = registers.short() {
            return Row { pc, cfa, fp };
        }
        let number = registers.rule().and_then(|rule| self.number(rule));
        plain(
            pc,
            number.map_or(CFA_UNSUPPORTED, |number| number << 3 | CFA_RULE),
        )
    }

    /// The number of a rule; `None` when there are too many.
    fn number(&mut self, rule: Rule) -> Option<u16> {
        if let Some(&known) = self.numbers.get(&rule) {
            return Some(known);
        }
        let number = u16::try_from(self.rules.len()).ok()?;
        if u32::from(number) >= MAX_RULES {
            return None;
        }
        self.rules.push(rule);
        self.numbers.insert(rule, number);
        Some(number)
    }
}

fn too_many_rows() -> Refused {
    Refused("its unwind information has too many rows".to_owned())
}

/// A row of which only the CFA says anything.
fn plain(pc: u32, cfa: u16) -> Row {
    Row {
        pc,
        cfa,
        fp: FP_SAME,
    }
}

#[cfg(test)]
mod tests;
