//! What of an ELF file its unwind table is built from.
//!
//! The file is foreign: each section has a bound, and what cannot be read is said in words.

use std::fs::File;
use std::io::Read as _;

use gimli::BaseAddresses;
use object::read::elf::{FileHeader as _, ProgramHeader as _};
use object::{Object as _, ObjectSection as _, ReadCache, ReadRef as _, elf};
use sha2::{Digest as _, Sha256};

use super::arch::{self, Architecture};
use super::table::{Refused, TableIdentity};

/// Bytes of a section; the largest libraries that are known have a sixth of this.
const MAX_SECTION: u64 = 128 << 20;

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
    /// `debug_file`.
    ///
    /// # Errors
    /// When it is not an ELF file of this processor, or cannot be read, in words.
    pub fn read(file: &File, debug_file: Option<&File>) -> Result<Self, Refused> {
        let cache = ReadCache::new(file);
        let elf = Elf::parse(&cache)
            .map_err(|_| Refused("it is not an ELF file of 64 bits that can be read".to_owned()))?;
        let endian = object::LittleEndian;
        let machine = elf.elf_header().e_machine(endian);
        let architecture = arch::native()
            .filter(|native| native.machine == machine)
            .ok_or_else(|| {
                Refused(format!(
                    "memtrace cannot unwind code of the ELF machine {machine}"
                ))
            })?;
        let length = (&cache).len().unwrap_or(0);
        let mut code = Vec::new();
        let mut header = None;
        for segment in elf.elf_program_headers() {
            let start = segment.p_vaddr(endian);
            let size = segment.p_memsz(endian);
            match segment.p_type(endian) {
                elf::PT_LOAD if segment.p_flags(endian) & elf::PF_X != 0 => {
                    if let Some(end) = start.checked_add(size)
                        && code.len() < MAX_SEGMENTS
                    {
                        code.push((start, end));
                    }
                }
                elf::PT_GNU_EH_FRAME => header = Some(start),
                _ => {}
            }
        }
        let address = |name| {
            elf.section_by_name(name)
                .map_or(0, |section| section.address())
        };
        let (text, got) = (address(".text"), address(".got"));
        let eh_frame = section(&elf, ".eh_frame", length)?;
        let mut debug_frame = section(&elf, ".debug_frame", length)?;
        if let (None, None, Some(debug_file)) = (&eh_frame, &debug_frame, debug_file) {
            debug_frame = separate_debug_frame(debug_file);
        }
        Ok(Self {
            architecture,
            build_id: elf.build_id().ok().flatten().map(<[u8]>::to_vec),
            code,
            bases: BaseAddresses::default()
                .set_text(text)
                .set_got(got)
                .set_eh_frame(eh_frame.as_ref().map_or(0, |section| section.address))
                .set_eh_frame_hdr(header.unwrap_or(0)),
            eh_frame,
            debug_frame,
            text,
            got,
        })
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
            text: 0,
            got: 0,
        }
    }

    /// The file's build id, if it has one.
    #[must_use]
    pub fn build_id(&self) -> Option<&[u8]> {
        self.build_id.as_deref()
    }

    /// A name for the table: SHA-256 over the build id and everything that the table is built from. A
    /// file can claim any build id; only files with the same table have the same identity.
    #[must_use]
    pub fn identity(&self) -> TableIdentity {
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
}

type Elf<'data, R> = object::read::elf::ElfFile64<'data, object::LittleEndian, R>;

/// A section's contents; `None` where there is none.
fn section<'data, R: object::ReadRef<'data>>(
    elf: &Elf<'data, R>,
    name: &str,
    length: u64,
) -> Result<Option<Section>, Refused> {
    let Some(section) = elf.section_by_name(name) else {
        return Ok(None);
    };
    let unreadable = || Refused(format!("its section {name} cannot be read"));
    let data = section.compressed_file_range().map_err(|_| unreadable())?;
    let (stored, size) = (data.compressed_size, data.uncompressed_size);
    if stored > length || size > MAX_SECTION || stored > MAX_SECTION {
        return Err(Refused(format!("its section {name} is too large")));
    }
    let stored = section.compressed_data().map_err(|_| unreadable())?;
    let bytes = match stored.format {
        object::CompressionFormat::None => stored.data.to_vec(),
        object::CompressionFormat::Zlib => {
            let mut bytes = Vec::new();
            flate2::read::ZlibDecoder::new(stored.data)
                .take(size)
                .read_to_end(&mut bytes)
                .map_err(|_| unreadable())?;
            bytes
        }
        _ => {
            return Err(Refused(format!(
                "its section {name} is compressed in an unknown way"
            )));
        }
    };
    // Debug files have the sections of their program, without contents.
    let has_bytes = !bytes.is_empty();
    Ok(has_bytes.then(|| Section {
        address: section.address(),
        bytes,
    }))
}

/// `.debug_frame` of a separate debug file.
fn separate_debug_frame(file: &File) -> Option<Section> {
    let cache = ReadCache::new(file);
    let elf = Elf::parse(&cache).ok()?;
    let length = (&cache).len().ok()?;
    section(&elf, ".debug_frame", length).ok()?
}

#[cfg(test)]
mod tests;
