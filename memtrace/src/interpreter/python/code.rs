//! Code objects: what a frame's function is called, and at which line it is.

use std::sync::Arc;

use memtrace_common::interpreter::python::{Layout, NO_FIELD};

use super::lines::{self, Format};
use super::text::{Bytes, Text};
use crate::collect::TakenFunction;
use crate::process::memory::ReadMemory;

/// Characters of a function's name that are read.
const MAX_NAME: usize = 1024;
/// Characters of a file's name that are read: the longest path there is.
const MAX_PATH: usize = 4096;
/// Bytes of a table of lines that are read; a million lines of code do not have more.
const MAX_LINES: usize = 4 << 20;
/// Stands for a file whose name could not be had.
const NO_FILE: &str = "?";

/// A code object, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Code {
    /// The function's name, qualified where the version has it (3.11 and later); fit to show.
    pub name: Arc<str>,
    /// The file's name as the code object has it, fit to show; `?` when it could not be had.
    pub file: Arc<str>,
    /// The line that it begins with.
    pub first_line: u32,
    /// The table of lines; `None` when it could not be had.
    lines: Option<Bytes>,
}

impl Code {
    /// From what the kernel side took. Parts that are empty or cut are read from `memory`, of the
    /// process or a relative, if that has the same code object there, which is told by the same
    /// pointers in it. `None` when no name could be had.
    #[must_use]
    pub fn decode(taken: &TakenFunction, layout: &Layout, memory: &dyn ReadMemory) -> Option<Self> {
        let name = Text::from_part(&taken.name.1, layout);
        let file = Text::from_part(&taken.file.1, layout);
        let lines = Bytes::from_part(&taken.lines.1, layout);
        let whole = |text: &Option<Text>| text.as_ref().is_some_and(|text| !text.cut);
        let complete = whole(&name) && whole(&file) && lines.as_ref().is_some_and(|l| !l.cut);
        let same = !complete && is_same(taken, layout, memory);
        let text = |part: Option<Text>, address, most| match part {
            Some(part) if !part.cut || !same => Some(part),
            part if same => Text::read(address, most, layout, memory).or(part),
            part => part,
        };
        let lines = match lines {
            Some(part) if !part.cut || !same => Some(part),
            part if same => Bytes::read(taken.lines.0, MAX_LINES, layout, memory).or(part),
            part => part,
        };
        let name = text(name, taken.name.0, MAX_NAME)?;
        let file = text(file, taken.file.0, MAX_PATH);
        Some(Self {
            name: name.as_name().into(),
            file: file.map_or_else(|| NO_FILE.into(), |file| file.as_path().into()),
            first_line: taken.first_line,
            lines,
        })
    }

    /// The line of an instruction, given as the frame has it
    /// ([`TakenFrame::position`](crate::collect::TakenFrame::position)), in the code object
    /// at `code_address`. Before the first instruction it is [`Code::first_line`]. `None` when the
    /// instruction has no line, is not in this code, or its line is behind where the table was cut.
    #[must_use]
    pub fn line(&self, code_address: u64, instruction: u64, layout: &Layout) -> Option<u32> {
        let Some(offset) = offset(code_address, instruction, layout)? else {
            return Some(self.first_line);
        };
        let Bytes { bytes, cut } = self.lines.as_ref()?;
        let format = Format::of(layout.version);
        lines::line(format, bytes, *cut, self.first_line, offset)
    }
}

/// Where an instruction is: `Some(None)` before the first, else bytes of bytecode. `None` when it
/// is an address far from the code: the free-threaded build from 3.14 on runs copies.
#[expect(
    clippy::option_option,
    reason = "that it is unknown and that it is before the first are two things"
)]
fn offset(code_address: u64, instruction: u64, layout: &Layout) -> Option<Option<u64>> {
    /// Bytes of a code unit.
    const UNIT: u64 = 2;
    if layout.instruction_size == 4 {
        let index = instruction as u32 as i32;
        let Ok(index) = u64::try_from(index) else {
            return Some(None);
        };
        return Some(Some(match Format::of(layout.version) {
            Format::Steps => index,
            Format::Ranges | Format::Locations => index * UNIT,
        }));
    }
    if layout.code_bytecode == NO_FIELD {
        return None;
    }
    let start = code_address.checked_add(u64::from(layout.code_bytecode))?;
    match instruction.checked_sub(start) {
        Some(offset) => Some(Some(offset)),
        None if start - instruction <= UNIT => Some(None),
        None => None,
    }
}

/// Whether the code object is still there: it points to the same parts.
fn is_same(taken: &TakenFunction, layout: &Layout, memory: &dyn ReadMemory) -> bool {
    let word = |offset: u32| memory.word(taken.function.checked_add(u64::from(offset))?);
    let half = |offset: u32| memory.half(taken.function.checked_add(u64::from(offset))?);
    taken.name.0 != 0
        && word(layout.code_qualname) == Some(taken.name.0)
        && word(layout.code_filename) == Some(taken.file.0)
        && word(layout.code_lines) == Some(taken.lines.0)
        && half(layout.code_first_line) == Some(taken.first_line)
        && (layout.code_type == 0 || word(layout.object_type) == Some(layout.code_type))
}
