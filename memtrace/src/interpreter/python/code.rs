//! Code objects: what a frame's function is called, and at which line it is.
//!
//! A code object is decoded once, when it is first seen; then nothing of its process is needed.

use std::sync::Arc;

use memtrace_common::interpreter::python::{Layout, NO_FIELD};

use super::lines::{self, Format};
use super::text::{Bytes, Text};
use crate::collect::TakenFunction;
use crate::interpreter::Function;
use crate::process::memory::ReadMemory;

/// Characters of a function's name that are read.
const MAX_NAME: usize = 1024;
/// Characters of a file's name that are read: the longest path there is.
const MAX_PATH: usize = 4096;
/// Bytes of a table of lines that are read; a million lines of code do not have more.
const MAX_LINES: usize = 4 << 20;
/// In place of a file whose name could not be had.
const NO_FILE: &str = "?";

/// A code object, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Code {
    /// The function's name, qualified where the version has it (3.11 and later); fit to show.
    pub(super) name: Arc<str>,
    /// The file's name as the code object has it, fit to show; `?` when it could not be had.
    pub(super) file: Arc<str>,
    /// The line that it begins with.
    pub(super) first_line: u32,
    /// The table of lines; `None` when it could not be had.
    lines: Option<Bytes>,
    /// How that is coded.
    format: Format,
    positions: Positions,
}

/// What a frame has to say where in a function it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Positions {
    /// An index, as `f_lasti` (up to 3.10).
    Indices,
    /// An address in the bytecode, which begins at this one; `None` when that is not known.
    Addresses(Option<u64>),
}

impl Code {
    /// From what the kernel side took. Parts that are empty or cut are read from `memory`, of the
    /// process or a relative, if that has the same code object there, which is told by the same
    /// pointers in it. `None` when no name could be had.
    #[must_use]
    pub(super) fn decode(
        taken: &TakenFunction,
        layout: &Layout,
        memory: &dyn ReadMemory,
    ) -> Option<Self> {
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
            format: Format::of(layout.version),
            positions: Positions::of(taken.function, layout),
        })
    }

    /// Where an instruction is: `Some(None)` before the first, else bytes of bytecode. `None` when
    /// it is an address far from the code: the free-threaded build from 3.14 on runs copies.
    #[expect(
        clippy::option_option,
        reason = "that it is unknown and that it is before the first are two things"
    )]
    fn offset(&self, position: u64) -> Option<Option<u64>> {
        /// Bytes of a code unit.
        const UNIT: u64 = 2;
        match self.positions {
            Positions::Indices => {
                let Ok(index) = u64::try_from(position as u32 as i32) else {
                    return Some(None);
                };
                Some(Some(match self.format {
                    Format::Steps => index,
                    Format::Ranges | Format::Locations => index * UNIT,
                }))
            }
            Positions::Addresses(start) => {
                let start = start?;
                match position.checked_sub(start) {
                    Some(offset) => Some(Some(offset)),
                    None if start - position <= UNIT => Some(None),
                    None => None,
                }
            }
        }
    }
}

impl Positions {
    /// Those of frames that run the code object at `code`.
    fn of(code: u64, layout: &Layout) -> Self {
        if layout.instruction_size == 4 {
            return Self::Indices;
        }
        let bytecode = u64::from(layout.code_bytecode);
        let is_known = layout.code_bytecode != NO_FIELD;
        Self::Addresses(code.checked_add(bytecode).filter(|_| is_known))
    }
}

impl Function for Code {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn file(&self) -> Option<&Arc<str>> {
        Some(&self.file)
    }

    /// Before the first instruction it is the line that the function begins with. `None` when the
    /// instruction has no line, is not in this code, or its line is behind where the table was cut.
    fn line(&self, position: u64) -> Option<u32> {
        let Some(offset) = self.offset(position)? else {
            return Some(self.first_line);
        };
        let Bytes { bytes, cut } = self.lines.as_ref()?;
        lines::line(self.format, bytes, *cut, self.first_line, offset)
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
