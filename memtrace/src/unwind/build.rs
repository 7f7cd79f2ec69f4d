//! Builds a file's unwind table from its `.eh_frame` and `.debug_frame`.
//!
//! The file is foreign: every part has a bound, what is damaged is left out and counted, and the time
//! is bounded too. Memory is a few times the size of the sections.

use std::collections::HashMap;
use std::fs::File;
use std::hash::Hash;
use std::time::{Duration, Instant};

use gimli::{
    BaseAddresses, CfaRule, CieOrFde, CommonInformationEntry, DebugFrame, EhFrame, EndianSlice,
    LittleEndian, RegisterRule, UnwindContext, UnwindSection, UnwindTableRow,
};
use memtrace_common::unwind::{
    CFA_END, CFA_FP, CFA_GAP, CFA_PLT, CFA_RULE, CFA_SIGNAL, CFA_SP, CFA_UNSUPPORTED, FP_LOST,
    FP_SAME, MAX_ROWS, MAX_RULES, OTHER_SAME, RULE_BASE_FP, RULE_BASE_OTHER, RULE_DEREF,
    RULE_FP_FROM_FP, RULE_FP_LOST, RULE_FP_SAVED, RULE_OTHER_SAME, RULE_OTHER_SAVED, Row, Rule,
};
use sha2::{Digest as _, Sha256};

use super::arch::{Architecture, Bytes, CfaExpression};
use super::table::{Refused, Source, Table};
use crate::elf::{Headers, PT_GNU_EH_FRAME, PT_LOAD, Sections, Unreadable};

/// Bytes of a section; the largest libraries that are known have a sixth of this.
const MAX_SECTION: u64 = 128 << 20;

/// Entries that many share are evaluated again for each: longer ones are left out. Compilers write
/// some twenty bytes.
const MAX_COMMON_ENTRY: usize = 4096;

/// Common entries that are remembered.
const MAX_COMMON_ENTRIES: usize = 65_536;

/// For how long one file is worked on; a library with a million functions takes a fifth of a second.
const MAX_TIME: Duration = Duration::from_secs(5);

/// Functions after which the clock is looked at.
const CLOCK_EVERY: u64 = 1024;

/// Segments of code; programs have one or two.
const MAX_SEGMENTS: usize = 64;

/// What of an ELF file its unwind table is built from.
pub struct Input {
    architecture: &'static Architecture,
    build_id: Option<Vec<u8>>,
    /// Addresses of code, in the file's own numbering: first, and one past the last.
    code: Vec<(u64, u64)>,
    eh_frame: Option<Section>,
    debug_frame: Option<Section>,
    bases: BaseAddresses,
    text: u64,
    got: u64,
}

struct Section {
    address: u64,
    bytes: Vec<u8>,
}

impl Input {
    /// Reads what matters of `file`. Where it has neither section, `.debug_frame` of `debug_file`.
    ///
    /// # Errors
    /// When it is no ELF file of an architecture that is known, or cannot be read, in words.
    pub fn read(file: &File, debug_file: Option<&File>) -> Result<Self, Refused> {
        let headers = Headers::read(file)
            .filter(Headers::is_64_bit)
            .ok_or_else(|| {
                Refused("it is not an ELF file of 64 bits that can be read".to_owned())
            })?;
        let machine = headers.machine();
        let architecture = Architecture::of(machine).ok_or_else(|| {
            Refused(format!(
                "memtrace cannot unwind code of the ELF machine {machine}"
            ))
        })?;
        let sections = Sections::read(file, &headers)
            .ok_or_else(|| Refused("its section headers cannot be read".to_owned()))?;
        let code = headers
            .programs_of(PT_LOAD)
            .filter(|segment| segment.executable)
            .filter_map(|segment| {
                let end = segment.address.checked_add(segment.memory_size)?;
                Some((segment.address, end))
            })
            .take(MAX_SEGMENTS)
            .collect();
        let header = headers.programs_of(PT_GNU_EH_FRAME).last();
        let address = |name| sections.find(name).map_or(0, |section| section.address);
        let (text, got) = (address(".text"), address(".got"));
        let eh_frame = section(file, &sections, ".eh_frame")?;
        let mut debug_frame = section(file, &sections, ".debug_frame")?;
        if let (None, None, Some(debug_file)) = (&eh_frame, &debug_frame, debug_file) {
            debug_frame = of_debug_file(debug_file);
        }
        Ok(Self {
            architecture,
            build_id: headers.build_id(file),
            code,
            bases: BaseAddresses::default()
                .set_text(text)
                .set_got(got)
                .set_eh_frame(eh_frame.as_ref().map_or(0, |section| section.address))
                .set_eh_frame_hdr(header.map_or(0, |header| header.address)),
            eh_frame,
            debug_frame,
            text,
            got,
        })
    }

    /// The file's build id, if it has one.
    #[must_use]
    pub fn build_id(&self) -> Option<&[u8]> {
        self.build_id.as_deref()
    }

    /// A name for the table: SHA-256 over the build id and everything that it is built from. A file
    /// can claim any build id; it is taken for another one only if their tables are the same.
    #[must_use]
    pub fn identity(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        part(self.build_id().unwrap_or_default());
        part(&self.architecture.machine.to_le_bytes());
        for number in self.code.iter().flat_map(|&(start, end)| [start, end]) {
            part(&number.to_le_bytes());
        }
        part(&self.text.to_le_bytes());
        part(&self.got.to_le_bytes());
        for section in [&self.eh_frame, &self.debug_frame] {
            let (address, bytes) = section.as_ref().map_or((0, &[][..]), |section| {
                (section.address, &section.bytes[..])
            });
            part(&address.to_le_bytes());
            part(bytes);
        }
        hash.finalize().into()
    }

    /// Builds the table.
    ///
    /// # Errors
    /// When there are more rows than can be, or it takes too long, in words.
    pub fn build(&self) -> Result<Table, Refused> {
        let base = self.code.iter().map(|&(start, _)| start).min().unwrap_or(0) & !0xfff;
        let mut rows = Rows {
            input: self,
            base,
            entries: Vec::new(),
            rules: Vec::new(),
            numbers: HashMap::new(),
            functions: 0,
            follows_other: false,
            damaged: 0,
            end: Instant::now() + MAX_TIME,
        };
        let mut source = Source::None;
        if let Some(section) = &self.eh_frame {
            let frames = EhFrame::from(EndianSlice::new(&section.bytes, LittleEndian));
            rows.take(&frames, &[])?;
            if rows.follows_other {
                // Hardly any file has such a row. All have to be read with that in mind.
                rows.entries.clear();
                (rows.functions, rows.damaged) = (0, 0);
                rows.take(&frames, &[])?;
            }
            rows.sort();
            if !rows.entries.is_empty() {
                source = Source::EhFrame;
            }
        }
        if let Some(section) = &self.debug_frame {
            let mut frames = DebugFrame::from(EndianSlice::new(&section.bytes, LittleEndian));
            frames.set_address_size(8);
            let covered = std::mem::take(&mut rows.entries);
            rows.take(&frames, &covered)?;
            if !rows.entries.is_empty() {
                source = match source {
                    Source::EhFrame => Source::Both,
                    _ => Source::DebugFrame,
                };
            }
            rows.entries.extend(covered);
            rows.sort();
        }
        // What changes nothing needs no row.
        rows.entries
            .dedup_by(|next, row| (next.cfa, next.fp) == (row.cfa, row.fp));
        if rows.entries.len() > MAX_ROWS as usize {
            return Err(Refused(
                "its unwind information has too many rows".to_owned(),
            ));
        }
        rows.entries.shrink_to_fit();
        Ok(Table {
            base,
            rows: rows.entries,
            rules: rows.rules,
            source,
            damaged: rows.damaged,
        })
    }
}

/// A section's bytes, with its address; `None` where there is none, or without contents, as in
/// debug files.
fn section(file: &File, sections: &Sections, name: &str) -> Result<Option<Section>, Refused> {
    let old = name.replacen('.', ".z", 1);
    let Some(section) = sections.find(name).or_else(|| sections.find(&old)) else {
        return Ok(None);
    };
    let bytes = section.contents(file, MAX_SECTION).map_err(|why| {
        let why = match why {
            Unreadable::Damaged => "cannot be read",
            Unreadable::TooLarge => "is too large",
            Unreadable::Compression => "is compressed in an unknown way",
        };
        Refused(format!("its section {name} {why}"))
    })?;
    let has_bytes = !bytes.is_empty();
    Ok(has_bytes.then_some(Section {
        address: section.address,
        bytes,
    }))
}

fn of_debug_file(file: &File) -> Option<Section> {
    let headers = Headers::read(file).filter(Headers::is_64_bit)?;
    let sections = Sections::read(file, &headers)?;
    section(file, &sections, ".debug_frame").ok()?
}

/// Rows on their way.
struct Rows<'input> {
    input: &'input Input,
    base: u64,
    entries: Vec<Row>,
    rules: Vec<Rule>,
    numbers: HashMap<Rule, u16>,
    functions: u64,
    damaged: u64,
    end: Instant,
    /// Whether to say of each row what became of the other register: some row needs it.
    follows_other: bool,
}

impl Rows<'_> {
    /// Adds the rows of all functions of a section that do not begin where `covered`, sorted, has
    /// something.
    fn take<'data, S>(&mut self, frames: &S, covered: &[Row]) -> Result<(), Refused>
    where
        S: UnwindSection<Bytes<'data>>,
        S::Offset: Hash + Eq,
    {
        let bases = &self.input.bases;
        let mut context = UnwindContext::new();
        let mut common: HashMap<S::Offset, gimli::Result<CommonInformationEntry<Bytes<'data>>>> =
            HashMap::new();
        let mut entries = frames.entries(bases);
        loop {
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
            self.functions += 1;
            if self.functions.is_multiple_of(CLOCK_EVERY) && Instant::now() > self.end {
                return Err(Refused(
                    "reading its unwind information takes too long".to_owned(),
                ));
            }
            if common.len() >= MAX_COMMON_ENTRIES {
                common.clear();
            }
            let function = entry.parse(|frames, bases, offset| {
                let known = common
                    .entry(offset)
                    .or_insert_with(|| frames.cie_from_offset(bases, offset));
                known.clone()
            });
            let Ok(function) = function else {
                self.damaged += 1;
                continue;
            };
            if function.cie().entry_len() > MAX_COMMON_ENTRY
                || self
                    .function(frames, &function, &mut context, covered)
                    .is_none()
            {
                self.damaged += 1;
            }
            if self.entries.len() > 2 * MAX_ROWS as usize {
                return Err(Refused(
                    "its unwind information has too many rows".to_owned(),
                ));
            }
        }
    }

    /// Adds the rows of one function; `None` when they are damaged, and then none.
    fn function<'data, S>(
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
                    let row = self.row(frames, row, is_signal, pc);
                    self.entries.push(row);
                }
                Ok(None) => break,
                Err(_) => {
                    self.entries.truncate(before);
                    return None;
                }
            }
        }
        self.entries.push(Row {
            pc: end,
            cfa: CFA_GAP,
            fp: FP_SAME,
        });
        Some(())
    }

    fn pc(&self, address: u64) -> Option<u32> {
        u32::try_from(address.checked_sub(self.base)?).ok()
    }

    /// Sorts rows; of several at one address only the first is kept, a gap only where there is no
    /// other.
    fn sort(&mut self) {
        self.entries.sort_by_key(|row| (row.pc, row.cfa == CFA_GAP));
        self.entries.dedup_by_key(|row| row.pc);
    }

    fn row<'data, S>(
        &mut self,
        frames: &S,
        row: &UnwindTableRow<usize>,
        is_signal: bool,
        pc: u32,
    ) -> Row
    where
        S: UnwindSection<Bytes<'data>>,
    {
        let plain = |cfa| Row {
            pc,
            cfa,
            fp: FP_SAME,
        };
        let arch = self.input.architecture;
        let expression = match row.cfa() {
            CfaRule::Expression(expression) => {
                expression.get(frames).ok().and_then(|it| arch.cfa(it))
            }
            CfaRule::RegisterAndOffset { .. } => None,
        };
        if is_signal {
            let interrupted = CfaExpression::InMemory {
                register: arch.stack_pointer,
                offset: arch.signal_stack_pointer,
            };
            return plain(if expression == Some(interrupted) {
                CFA_SIGNAL
            } else {
                CFA_UNSUPPORTED
            });
        }
        match row.register(arch.return_address) {
            Some(RegisterRule::Undefined) => return plain(CFA_END),
            Some(RegisterRule::Offset(offset)) if offset == arch.return_address_offset => {}
            _ => return plain(CFA_UNSUPPORTED),
        }
        let saved = Saved::of(frames, row, arch);
        let (register, offset, flags) = match (row.cfa(), expression) {
            (&CfaRule::RegisterAndOffset { register, offset }, _) => (register, offset, 0),
            (_, Some(CfaExpression::InMemory { register, offset })) => {
                (register, offset, RULE_DEREF)
            }
            (_, Some(CfaExpression::LinkageTable { threshold })) => {
                return plain((threshold as u16) << 3 | CFA_PLT);
            }
            _ => return plain(CFA_UNSUPPORTED),
        };
        let is_fp = register == arch.frame_pointer;
        let base = if is_fp {
            RULE_BASE_FP
        } else if register == arch.other {
            self.follows_other = true;
            RULE_BASE_OTHER
        } else if register == arch.stack_pointer {
            0
        } else {
            return plain(CFA_UNSUPPORTED);
        };
        let other = if self.follows_other {
            Other::of(row, arch)
        } else {
            Other::Lost
        };
        let kind = if is_fp { CFA_FP } else { CFA_SP };
        let short = u16::try_from(offset)
            .ok()
            .filter(|offset| offset.is_multiple_of(8));
        let is_short = flags == 0 && base != RULE_BASE_OTHER;
        match (short, saved.short(), other.short()) {
            (Some(offset), Some(fp), Some(other)) if is_short => Row {
                pc,
                cfa: offset | kind,
                fp: fp | other,
            },
            _ => self.long(offset, flags | base, saved, other).map_or_else(
                || plain(CFA_UNSUPPORTED),
                |number| plain(number << 3 | CFA_RULE),
            ),
        }
    }

    /// The number of a rule that does not fit in a row; `None` when it is too large, or there are too
    /// many.
    fn long(&mut self, offset: i64, flags: u32, saved: Saved, other: Other) -> Option<u16> {
        let (fp_offset, fp_flags) = match saved {
            Saved::Same => (0, 0),
            Saved::Lost => (0, RULE_FP_LOST),
            Saved::At(offset) => (offset, RULE_FP_SAVED),
            Saved::FromFp(offset) => (offset, RULE_FP_SAVED | RULE_FP_FROM_FP),
        };
        let (other_offset, other_flags) = match other {
            Other::Same => (0, RULE_OTHER_SAME),
            Other::Lost => (0, 0),
            Other::At(offset) => (offset, RULE_OTHER_SAVED),
        };
        let rule = Rule {
            cfa_offset: offset.try_into().ok()?,
            fp_offset: fp_offset.try_into().ok()?,
            flags: flags | fp_flags | other_flags,
            other_offset: other_offset.try_into().ok()?,
        };
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

/// Where the caller's frame pointer is.
#[derive(Clone, Copy)]
enum Saved {
    Same,
    Lost,
    /// From the CFA.
    At(i64),
    /// From the frame pointer.
    FromFp(i64),
}

impl Saved {
    fn of<'data, S>(frames: &S, row: &UnwindTableRow<usize>, arch: &Architecture) -> Self
    where
        S: UnwindSection<Bytes<'data>>,
    {
        match row.register(arch.frame_pointer) {
            None | Some(RegisterRule::SameValue) => Self::Same,
            Some(RegisterRule::Offset(offset)) => Self::At(offset),
            Some(RegisterRule::Expression(expression)) => {
                let place = expression.get(frames).ok().and_then(|it| arch.place(it));
                match place {
                    Some((register, offset)) if register == arch.frame_pointer => {
                        Self::FromFp(offset)
                    }
                    _ => Self::Lost,
                }
            }
            _ => Self::Lost,
        }
    }

    /// As a row has it, if it fits.
    fn short(self) -> Option<i16> {
        match self {
            Self::Same => Some(FP_SAME),
            Self::Lost => Some(FP_LOST),
            Self::At(offset) => i16::try_from(offset)
                .ok()
                .filter(|offset| offset % 8 == 0 && *offset != FP_SAME),
            Self::FromFp(_) => None,
        }
    }
}

/// Where the caller's other register is.
#[derive(Clone, Copy)]
enum Other {
    Same,
    Lost,
    /// From the CFA.
    At(i64),
}

impl Other {
    fn of(row: &UnwindTableRow<usize>, arch: &Architecture) -> Self {
        match row.register(arch.other) {
            None | Some(RegisterRule::SameValue) => Self::Same,
            Some(RegisterRule::Offset(offset)) => Self::At(offset),
            _ => Self::Lost,
        }
    }

    /// As a row has it, if it fits.
    fn short(self) -> Option<i16> {
        match self {
            Self::Same => Some(OTHER_SAME),
            Self::Lost => Some(0),
            Self::At(_) => None,
        }
    }
}

#[cfg(test)]
mod tests;
