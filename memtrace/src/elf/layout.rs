//! Where a file's contents are loaded, and what it says of its debug information.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::budget::Source;
use super::headers::{Headers, PT_LOAD, Program};
use super::sections::Sections;

/// Where an ELF file's contents are loaded, and what it knows about itself.
///
/// For offsets, addresses, shift and bias see [the module](super).
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Layout {
    pub(super) segments: Vec<Program>,
    /// 8 to 64 bytes.
    pub build_id: Option<Vec<u8>>,
    /// Whether it has debug information of its own.
    pub has_debug_info: bool,
    /// Whether it names another file that completes its debug information. Such names are not
    /// followed in a file that a traced process chose: they could name anything on this machine.
    pub has_debug_link: bool,
}

impl Layout {
    /// `None` when `file` is not an ELF file of this machine's byte order, or its headers cannot
    /// be read.
    #[must_use]
    pub fn read(file: &impl Source) -> Option<Self> {
        let headers = Headers::read(file)?;
        let sections = Sections::read(file, &headers);
        Some(Self::new(file, &headers, sections.as_ref()))
    }

    /// The same of headers that were read. Sections are not needed to run, so a file without them is
    /// a good one.
    pub(super) fn new(file: &impl Source, headers: &Headers, sections: Option<&Sections>) -> Self {
        let mut layout = Self {
            build_id: headers.build_id(file),
            ..Self::of(headers)
        };
        for section in sections.into_iter().flat_map(Sections::iter) {
            match section.name {
                b".debug_info" => layout.has_debug_info = section.has_contents,
                b".gnu_debuglink" | b".gnu_debugaltlink" | b".debug_sup" => {
                    layout.has_debug_link = true;
                }
                _ => {}
            }
        }
        layout
    }

    /// Only where the contents are loaded.
    pub(super) fn of(headers: &Headers) -> Self {
        Self {
            segments: headers.programs_of(PT_LOAD).copied().collect(),
            ..Self::default()
        }
    }

    /// The address of what is at `offset`.
    #[must_use]
    pub fn address_of(&self, offset: u64) -> Option<u64> {
        // Segments are mapped in whole pages, so one page of the file can show in two mappings.
        // What runs is in the executable one.
        let covering = |executable| {
            let mut segments = self.segments.iter();
            segments.find(|each| each.executable == executable && each.has(offset))
        };
        let segment = covering(true).or_else(|| covering(false))?;
        Some(offset.wrapping_add(segment.shift()))
    }

    /// The shift of code in the `size` bytes from `offset` on, which are mapped in one.
    ///
    /// A segment need not begin where a page does, so what is at `offset` itself can belong to
    /// another segment.
    pub(super) fn shift_of(&self, offset: u64, size: u64) -> Option<u64> {
        let end = offset.saturating_add(size);
        let segment = self.segments.iter().find(|each| {
            each.executable
                && each.offset < end
                && offset < each.offset.saturating_add(each.file_size)
        })?;
        Some(segment.shift())
    }

    /// The bias of a file of which what is from `offset` on is mapped executable at `mapped`.
    #[must_use]
    pub fn bias_of(&self, mapped: Range<u64>, offset: u64) -> Option<u64> {
        let shift = self.shift_of(offset, mapped.end.checked_sub(mapped.start)?)?;
        Some(mapped.start.wrapping_sub(offset.wrapping_add(shift)))
    }

    /// The offset of what is at `address`, where the file has it.
    pub(super) fn offset_of(&self, address: u64) -> Option<u64> {
        self.segments.iter().find_map(|segment| {
            let offset = address.wrapping_sub(segment.shift());
            (address >= segment.address && segment.has(offset)).then_some(offset)
        })
    }
}

impl Program {
    /// What to add to the offset of something in it to get its address.
    fn shift(&self) -> u64 {
        self.address.wrapping_sub(self.offset)
    }

    /// Whether it has what is at `offset`.
    fn has(&self, offset: u64) -> bool {
        self.offset <= offset && offset - self.offset < self.file_size
    }
}
