//! What of an ELF file its unwind table is built from.
//!
//! The file is foreign: it is read within a budget, and what cannot be read is said in words.

use std::fs::File;

use gimli::BaseAddresses;
use sha2::{Digest as _, Sha256};

use super::arch::{self, Architecture};
use super::code::Code;
use super::table::{Refused, TableIdentity};
use crate::elf::{
    self, Budget, Facts, Headers, PT_GNU_EH_FRAME, PT_LOAD, Sections, Source, Unreadable, Wanted,
};

/// Bytes of a section; the largest libraries that are known have a third of this.
const MAX_SECTION: u64 = 64 << 20;

/// Bytes that are hashed before the clock is looked at.
const PIECE: usize = 1 << 20;

/// Segments of code; programs have one or two.
const MAX_SEGMENTS: usize = 64;

/// What of an ELF file its unwind table is built from.
pub struct Input {
    /// The processor that the code is for.
    pub(super) architecture: &'static Architecture,
    build_id: Option<Vec<u8>>,
    /// Addresses of code, in the file's own numbering: first, and one past the last.
    pub(super) code: Vec<(u64, u64)>,
    pub(super) eh_frame: Option<Section>,
    pub(super) debug_frame: Option<Section>,
    /// What the addresses in the sections may be relative to.
    pub(super) bases: BaseAddresses,
    /// Code that neither section says anything of.
    pub(super) uncovered: Code,
    text: u64,
    got: u64,
}

/// A section's contents.
pub(super) struct Section {
    address: u64,
    pub(super) bytes: Vec<u8>,
}

impl Input {
    /// Reads what matters of `file`, and where that has neither section, `.debug_frame` of
    /// `debug_file`, and no more than `budget` permits.
    ///
    /// # Errors
    /// When it is not an ELF file of this processor, or cannot be read, in words.
    pub fn read(file: &File, debug_file: Option<&File>, budget: &Budget) -> Result<Self, Refused> {
        let debug_file = debug_file.map(|file| budget.of(file));
        // Where the budget was the reason, what could not be read for lack of it is not.
        Self::parse(&budget.of(file), debug_file.as_ref(), budget)
            .map_err(|refused| budget.why().map_or(refused, Refused))
    }

    fn parse<S: Source>(
        file: &S,
        debug_file: Option<&S>,
        budget: &Budget,
    ) -> Result<Self, Refused> {
        let headers = Headers::read(file)
            .filter(Headers::is_64_bit)
            .ok_or_else(|| {
                Refused("it is not an ELF file of 64 bits that can be read".to_owned())
            })?;
        let machine = headers.machine();
        let architecture = arch::native()
            .filter(|native| native.machine == machine)
            .ok_or_else(|| {
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
            debug_frame = separate_debug_frame(debug_file);
        }
        let mut input = Self {
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
            uncovered: Code::default(),
            text,
            got,
        };
        input.uncovered = Code::read(file, &headers, &sections, &input, budget);
        Ok(input)
    }

    /// Of made-up sections, for tests.
    #[cfg(test)]
    pub fn of_sections(code: Vec<(u64, u64)>, eh_frame: Vec<u8>, debug_frame: Vec<u8>) -> Self {
        let section = |bytes| {
            Some(Section {
                address: 0x10_0000,
                bytes,
            })
        };
        Self {
            architecture: &arch::x86_64::ARCHITECTURE,
            build_id: None,
            code,
            eh_frame: section(eh_frame),
            debug_frame: section(debug_frame),
            bases: BaseAddresses::default(),
            uncovered: Code::default(),
            text: 0,
            got: 0,
        }
    }

    /// The file's build id, if it has one.
    #[must_use]
    pub fn build_id(&self) -> Option<&[u8]> {
        self.build_id.as_deref()
    }

    /// A name for the table: SHA-256 over the build id and everything that the table is built from.
    /// A file can claim any build id; only files with the same table have the same identity.
    ///
    /// # Errors
    /// When `budget` does not have the time.
    pub fn identity(&self, budget: &Budget) -> Result<TableIdentity, Refused> {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            for piece in bytes.chunks(PIECE) {
                if budget.has_time() {
                    hash.update(piece);
                }
            }
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
        let (numbers, bytes) = self.uncovered.contents();
        for number in numbers {
            part(&number.to_le_bytes());
        }
        part(bytes);
        budget
            .why()
            .map_or_else(|| Ok(hash.finalize().into()), |why| Err(Refused(why)))
    }

    /// Bytes of its sections, and of code that is not covered.
    #[must_use]
    pub fn size(&self) -> u64 {
        let sections = [&self.eh_frame, &self.debug_frame];
        let sizes = sections.into_iter().flatten();
        let sizes = sizes.map(|section| section.bytes.len() as u64);
        sizes.sum::<u64>() + self.uncovered.size()
    }
}

/// What is looked for in files, to know how much there is to read.
#[must_use]
pub fn wanted() -> Wanted {
    let both = |name| [String::from(name), old_name(name)];
    Wanted {
        sections: SECTIONS.into_iter().flat_map(both).collect(),
        ..Wanted::default()
    }
}

/// Bytes of what a file's table would be built from, by what its headers say, and bytes of those.
#[must_use]
pub fn size_of(facts: &Facts) -> u64 {
    let sizes = SECTIONS.into_iter().map(|name| {
        let size = facts.section_size(name);
        let size = if size > 0 {
            size
        } else {
            facts.section_size(&old_name(name))
        };
        size.min(MAX_SECTION)
    });
    sizes.sum::<u64>().saturating_add(facts.cost)
}

/// The sections that a table is built from.
const SECTIONS: [&str; 2] = [".eh_frame", ".debug_frame"];

/// The name that a section had when it was compressed in the old way.
fn old_name(name: &str) -> String {
    name.replacen('.', ".z", 1)
}

/// A section by its name, or by the one that it had when it was compressed in the old way.
fn find<'sections>(sections: &'sections Sections, name: &str) -> Option<elf::Section<'sections>> {
    sections
        .find(name)
        .or_else(|| sections.find(&old_name(name)))
}

/// A section's contents, with its address; `None` where there is none, or an empty one, as in debug
/// files.
fn section(
    file: &impl Source,
    sections: &Sections,
    name: &str,
) -> Result<Option<Section>, Refused> {
    let Some(section) = find(sections, name) else {
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

/// `.debug_frame` of a separate debug file.
fn separate_debug_frame(file: &impl Source) -> Option<Section> {
    let headers = Headers::read(file).filter(Headers::is_64_bit)?;
    let sections = Sections::read(file, &headers)?;
    section(file, &sections, ".debug_frame").ok()?
}

#[cfg(test)]
mod tests;
