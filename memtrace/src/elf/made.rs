//! ELF files made for tests.

use std::fs::File;
use std::io::Write as _;

/// A section of a made file.
pub struct MadeSection {
    /// Its name.
    pub name: &'static str,
    /// `sh_flags`.
    pub flags: u64,
    /// What is in it.
    pub content: MadeContent,
}

/// What is in a section.
pub enum MadeContent {
    /// These bytes.
    Bytes(Vec<u8>),
    /// That many zero bytes, which take no room on a disk.
    Hole(u64),
}

/// Where holes begin in a file.
const HOLES: u64 = 1 << 30;

/// A section that is not compressed.
pub fn plain(name: &'static str, content: MadeContent) -> MadeSection {
    MadeSection {
        name,
        flags: 2,
        content,
    }
}

/// A file of 64 bits for this processor: one segment of code from address 0 on, as many segments of
/// notes of 64 KiB as wanted, all over the start of the file, and these sections.
pub fn file(notes: usize, sections: &[MadeSection]) -> File {
    let mut names = vec![0];
    let mut content = Vec::new();
    let mut table = vec![0; 64];
    let programs = [
        program(1, 5, 0x10_0000),
        program(4, 4, 64 << 10).repeat(notes),
    ]
    .concat();
    let start = 64 + programs.len() as u64;
    let mut hole = HOLES;
    for section in sections {
        let name = names.len() as u32;
        names.extend(section.name.as_bytes());
        names.push(0);
        let (at, size) = match &section.content {
            MadeContent::Bytes(bytes) => {
                let at = start + content.len() as u64;
                content.extend(bytes);
                (at, bytes.len() as u64)
            }
            MadeContent::Hole(size) => {
                hole += size;
                (hole - size, *size)
            }
        };
        table.extend(header(name, 1, section.flags, at, size));
    }
    let names_at = start + content.len() as u64;
    table.extend(header(0, 3, 0, names_at, names.len() as u64));
    content.extend(names);
    let size = if hole > HOLES { hole } else { 0 };
    write(&programs, &content, &table, size)
}

/// A file with this many sections, of which all names begin in one string of this many bytes
/// without an end.
pub fn file_of_endless_names(sections: u16, names: usize) -> File {
    let programs = program(1, 5, 0x10_0000);
    let mut table = header(0, 1, 0, 0, 0).repeat(usize::from(sections) - 1);
    let at = 64 + programs.len() as u64;
    table.extend(header(0, 3, 0, at, names as u64));
    write(&programs, &vec![b'x'; names], &table, 0)
}

fn write(programs: &[u8], content: &[u8], table: &[u8], size: u64) -> File {
    let sections = (table.len() / 64) as u16;
    let table_at = 64 + (programs.len() + content.len()) as u64;
    let order = if cfg!(target_endian = "little") { 1 } else { 2 };
    let header = [
        &[0x7f, b'E', b'L', b'F', 2, order, 1, 0][..],
        &[0; 8],
        &3_u16.to_ne_bytes(),
        &super::EM_X86_64.to_ne_bytes(),
        &1_u32.to_ne_bytes(),
        &0_u64.to_ne_bytes(),
        &64_u64.to_ne_bytes(),
        &table_at.to_ne_bytes(),
        &0_u32.to_ne_bytes(),
        &[
            64,
            56,
            (programs.len() / 56) as u16,
            64,
            sections,
            sections - 1,
        ]
        .map(u16::to_ne_bytes)
        .concat(),
    ]
    .concat();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[&header, programs, content, table].concat())
        .unwrap();
    if size > 0 {
        file.set_len(size).unwrap();
    }
    file
}

fn program(kind: u32, flags: u32, size: u64) -> Vec<u8> {
    let numbers = [0, 0, 0, size, size, 0x1000].map(u64::to_ne_bytes).concat();
    [&kind.to_ne_bytes()[..], &flags.to_ne_bytes(), &numbers].concat()
}

fn header(name: u32, kind: u32, flags: u64, at: u64, size: u64) -> Vec<u8> {
    let numbers = [flags, 0x20_0000, at, size].map(u64::to_ne_bytes).concat();
    let kinds = [name, kind].map(u32::to_ne_bytes).concat();
    [
        kinds,
        numbers,
        vec![0; 8],
        [1_u64, 0].map(u64::to_ne_bytes).concat(),
    ]
    .concat()
}
