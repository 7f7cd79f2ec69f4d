//! The few facts about an ELF file that decide how it is symbolized, read without trusting it.
//!
//! Every table is read with a bound of its own and with `pread`, so a file that is truncated
//! meanwhile is a short read and not a signal.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Program headers that are looked at.
const MAX_SEGMENTS: usize = 4096;
/// Section headers that are looked at; a file with more is taken to have no debug information.
const MAX_SECTIONS: usize = 8192;
/// Bytes of section names that are read.
const MAX_NAMES: u64 = 1 << 20;
/// Bytes of a notes segment that are read.
const MAX_NOTES: u64 = 64 << 10;

const PT_LOAD: u64 = 1;
const PT_NOTE: u64 = 4;
const PF_X: u64 = 1;
const SHT_NOBITS: u64 = 8;
const NT_GNU_BUILD_ID: u32 = 3;

/// Where an ELF file's contents are loaded, and what it knows about itself.
#[derive(Debug, Default)]
pub struct Layout {
    segments: Vec<Segment>,
    /// 8 to 64 bytes.
    pub build_id: Option<Vec<u8>>,
    /// Whether it has debug information of its own.
    pub has_debug_info: bool,
    /// Whether it names another file that completes its debug information. Such names are not
    /// followed in a file that a traced process chose: they could name anything on this machine.
    pub has_debug_link: bool,
}

#[derive(Debug, PartialEq, Eq)]
struct Segment {
    offset: u64,
    size: u64,
    address: u64,
    executable: bool,
}

impl Layout {
    /// `None` when `file` is not an ELF file of this machine's byte order, or its headers cannot
    /// be read.
    #[must_use]
    pub fn read(file: &File) -> Option<Self> {
        let header = Header::read(file)?;
        let mut layout = Self::default();
        layout.read_segments(file, &header)?;
        // Sections are not needed to run, so a file without them is a good one.
        let _ = layout.read_sections(file, &header);
        Some(layout)
    }

    /// The address that the file itself gives to what is at `file_offset`.
    #[must_use]
    pub fn address_of(&self, file_offset: u64) -> Option<u64> {
        // Segments are mapped in whole pages, so one page of the file can show in two mappings;
        // what runs is in the executable one.
        let covering = |executable| {
            self.segments.iter().find(|segment| {
                segment.executable == executable
                    && segment.offset <= file_offset
                    && file_offset - segment.offset < segment.size
            })
        };
        let segment = covering(true).or_else(|| covering(false))?;
        Some(segment.address.wrapping_add(file_offset - segment.offset))
    }

    /// What to add to file offsets of code in the `size` bytes from `file_offset` on, which are mapped
    /// in one, to get the addresses that the file itself gives. (A segment need not begin where a page
    /// does, so what is at `file_offset` itself may be another one's.)
    #[must_use]
    pub fn shift_of(&self, file_offset: u64, size: u64) -> Option<u64> {
        let end = file_offset.saturating_add(size);
        let segment = self.segments.iter().find(|segment| {
            segment.executable
                && segment.offset < end
                && file_offset < segment.offset.saturating_add(segment.size)
        })?;
        Some(segment.address.wrapping_sub(segment.offset))
    }

    fn read_segments(&mut self, file: &File, header: &Header) -> Option<()> {
        let wide = header.wide;
        for entry in header
            .programs
            .read(file, MAX_SEGMENTS)?
            .chunks_exact(header.programs.entry)
        {
            let field = |narrow, wide_at| address(entry, wide, narrow, wide_at);
            let segment = Segment {
                offset: field(4, 8)?,
                size: field(16, 32)?,
                address: field(8, 16)?,
                executable: number(entry, if wide { 4 } else { 24 }, 4)? & PF_X != 0,
            };
            match number(entry, 0, 4)? {
                PT_LOAD => self.segments.push(segment),
                PT_NOTE if self.build_id.is_none() => {
                    let notes = read(file, segment.offset, segment.size.min(MAX_NOTES));
                    self.build_id = notes.and_then(|notes| build_id(&notes));
                }
                _ => {}
            }
        }
        Some(())
    }

    fn read_sections(&mut self, file: &File, header: &Header) -> Option<()> {
        let wide = header.wide;
        if header.sections.count > MAX_SECTIONS {
            return None;
        }
        let table = header.sections.read(file, MAX_SECTIONS)?;
        let entries = || table.chunks_exact(header.sections.entry);
        let names = entries().nth(header.names)?;
        let size = address(names, wide, 20, 32)?.min(MAX_NAMES);
        let names = read(file, address(names, wide, 16, 24)?, size)?;
        for entry in entries() {
            let name = names
                .get(number(entry, 0, 4)? as usize..)
                .unwrap_or_default();
            let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
            match name {
                b".debug_info" => {
                    let empty = address(entry, wide, 20, 32)? == 0;
                    self.has_debug_info = !empty && number(entry, 4, 4)? != SHT_NOBITS;
                }
                b".gnu_debuglink" | b".gnu_debugaltlink" | b".debug_sup" => {
                    self.has_debug_link = true;
                }
                _ => {}
            }
        }
        Some(())
    }
}

/// What of the ELF header matters here.
struct Header {
    /// 64 bits rather than 32.
    wide: bool,
    programs: Table,
    sections: Table,
    /// Which section has the sections' names.
    names: usize,
}

/// A table of the file: where, how many entries, and bytes in each.
struct Table {
    offset: u64,
    count: usize,
    entry: usize,
}

impl Header {
    fn read(file: &File) -> Option<Self> {
        let bytes = read(file, 0, 64).or_else(|| read(file, 0, 52))?;
        let order = if cfg!(target_endian = "little") { 1 } else { 2 };
        if !bytes.starts_with(b"\x7fELF") || bytes[5] != order {
            return None;
        }
        let wide = match bytes[4] {
            1 => false,
            2 if bytes.len() == 64 => true,
            _ => return None,
        };
        let half = |narrow, wide_at| {
            number(&bytes, if wide { wide_at } else { narrow }, 2).map(|half| half as usize)
        };
        let table = |at: Option<u64>, entry: Option<usize>, count: Option<usize>, smallest| {
            let entry = entry?;
            (smallest..=256).contains(&entry).then_some(Table {
                offset: at?,
                count: count?,
                entry,
            })
        };
        let none = Table {
            offset: 0,
            count: 0,
            entry: 64,
        };
        Some(Self {
            wide,
            programs: table(
                address(&bytes, wide, 28, 32),
                half(42, 54),
                half(44, 56),
                if wide { 56 } else { 32 },
            )?,
            sections: table(
                address(&bytes, wide, 32, 40),
                half(46, 58),
                half(48, 60),
                if wide { 64 } else { 40 },
            )
            .unwrap_or(none),
            names: half(50, 62)?,
        })
    }
}

impl Table {
    fn read(&self, file: &File, most: usize) -> Option<Vec<u8>> {
        read(
            file,
            self.offset,
            (self.count.min(most) * self.entry) as u64,
        )
    }
}

/// Exactly `size` bytes at `offset`.
fn read(file: &File, offset: u64, size: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(size).ok()?];
    file.read_exact_at(&mut bytes, offset).ok()?;
    Some(bytes)
}

/// The number of `size` bytes at `at`, in this machine's byte order.
fn number(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(size)?)?;
    let mut wide = [0; 8];
    if cfg!(target_endian = "little") {
        wide[..size].copy_from_slice(field);
    } else {
        wide[8 - size..].copy_from_slice(field);
    }
    Some(u64::from_ne_bytes(wide))
}

/// A field that has the width of an address, at `narrow` or `wide_at`.
fn address(bytes: &[u8], wide: bool, narrow: usize, wide_at: usize) -> Option<u64> {
    if wide {
        number(bytes, wide_at, 8)
    } else {
        number(bytes, narrow, 4)
    }
}

/// The GNU build id in a notes segment.
fn build_id(mut notes: &[u8]) -> Option<Vec<u8>> {
    loop {
        let name_size = number(notes, 0, 4)? as usize;
        let size = number(notes, 4, 4)? as usize;
        let kind = number(notes, 8, 4)? as u32;
        let name = notes.get(12..)?.get(..name_size)?;
        let at = 12 + name_size.next_multiple_of(4);
        let content = notes.get(at..)?.get(..size)?;
        if kind == NT_GNU_BUILD_ID && name == b"GNU\0" {
            return (8..=64).contains(&content.len()).then(|| content.to_vec());
        }
        notes = notes.get(at.checked_add(size.next_multiple_of(4))?..)?;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn our_own_executable_has_code_and_debug_information() {
        let file = File::open("/proc/self/exe").unwrap();
        let layout = Layout::read(&file).unwrap();
        assert!(layout.has_debug_info);
        let code = layout
            .segments
            .iter()
            .find(|segment| segment.executable)
            .unwrap();
        assert_eq!(layout.address_of(code.offset), Some(code.address));
        assert_eq!(layout.address_of(u64::MAX), None);
    }

    #[test]
    fn a_build_id_is_found_behind_other_notes() {
        let note = |kind: u32, name: &[u8], content: &[u8]| {
            let mut note = Vec::new();
            note.extend((name.len() as u32).to_ne_bytes());
            note.extend((content.len() as u32).to_ne_bytes());
            note.extend(kind.to_ne_bytes());
            note.extend(name);
            note.extend(content);
            note
        };
        let notes = [note(5, b"GNU\0", &[0; 16]), note(3, b"GNU\0", &[7; 20])].concat();
        assert_eq!(build_id(&notes), Some(vec![7; 20]));
        assert_eq!(build_id(&notes[..40]), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn damaged_headers_are_survived(
            at in 0_usize..400, bytes in proptest::collection::vec(any::<u8>(), 1..40),
        ) {
            let mut start = vec![0; 4096];
            File::open("/proc/self/exe").unwrap().read_exact_at(&mut start, 0).unwrap();
            start[at..at + bytes.len()].copy_from_slice(&bytes);
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&start).unwrap();
            if let Some(layout) = Layout::read(&file) {
                prop_assert!(layout.segments.len() <= MAX_SEGMENTS);
            }
        }
    }
}
