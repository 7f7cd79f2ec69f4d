//! Real files, against what the dynamic linker and the linker say; and damaged ones.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::functions::MAX_ALIASES;
use super::headers::Program;
use super::headers::{MAX_NOTES, MAX_PROGRAMS, PT_LOAD, build_id, read};
use super::made::{self, MadeContent};
use super::sections::{MAX_NAMES, MAX_SECTIONS};
use super::*;

/// The C library that this process runs with, and where it is mapped.
fn libc() -> (String, u64) {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps
        .lines()
        .find(|line| line.contains("/libc.so") || line.contains("/libc-"))
        .expect("tests run with a C library that is shared");
    let path = line[line.find('/').unwrap()..].to_owned();
    let start = u64::from_str_radix(line.split('-').next().unwrap(), 16).unwrap();
    (path, start)
}

fn own_program() -> File {
    File::open("/proc/self/exe").unwrap()
}

/// Compiles C to a shared object in `directory`; `None`, and said, without a compiler.
fn compiled(directory: &Path, source: &str, options: &[&str]) -> Option<File> {
    let input = directory.join("made.c");
    let output = directory.join("made.so");
    std::fs::write(&input, source).unwrap();
    let built = Command::new("cc")
        .args(["-shared", "-fPIC"])
        .args(options)
        .arg("-o")
        .args([&output, &input])
        .status();
    if built.is_ok_and(|status| status.success()) {
        return Some(File::open(output).unwrap());
    }
    crate::skipped::skipped(&format!(
        "there is no C compiler `cc` that links a shared object with {options:?} (apt-get install gcc)"
    ));
    None
}

/// A file that has these bytes.
fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

#[test]
fn a_symbol_is_where_the_dynamic_linker_has_it() {
    let (path, start) = libc();
    let file = File::open(path).unwrap();
    let symbols = Symbols::read(&file).unwrap();
    let address = libc::getpid as *const () as u64;
    assert_eq!(symbols.symbol(&file, "getpid"), Some(address - start));
    assert_eq!(symbols.symbol(&file, "no_such_symbol"), None);
    assert_eq!(symbols.symbol(&file, ""), None);
    let sections = [".text", ".tex", ".gnu_debuglink"];
    let facts = Facts::read(&file, &Wanted::sections(sections));
    assert!(facts.section(".text").is_some());
    assert_eq!(facts.section(".tex"), None);
    assert_eq!(facts.section(".gnu_debuglink"), None, "not loaded");
}

#[test]
fn both_kinds_of_hash_table_are_understood() {
    let directory = tempfile::tempdir().unwrap();
    let source = "int given = 7, other; extern int taken; int *p = &taken;";
    for style in ["gnu", "sysv"] {
        let style_option = format!("-Wl,--hash-style={style}");
        let Some(file) = compiled(directory.path(), source, &[&style_option]) else {
            return;
        };
        let symbols = Symbols::read(&file).unwrap();
        let given = symbols.symbol(&file, "given").unwrap();
        let exported = symbols.exported.as_ref().unwrap();
        assert_eq!(exported.gnu_hash.is_some(), style == "gnu");
        let at = Layout::read(&file).unwrap().offset_of(given).unwrap();
        assert_eq!(read(&file, at, 4).unwrap(), 7_i32.to_ne_bytes());
        assert!(symbols.symbol(&file, "other").is_some());
        assert_eq!(
            symbols.symbol(&file, "taken"),
            None,
            "it is of another file"
        );
    }
}

#[test]
fn our_own_executable_has_code_and_debug_information() {
    let layout = Layout::read(&own_program()).unwrap();
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
fn our_own_code_runs_where_its_bias_says() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let here = our_own_code_runs_where_its_bias_says as *const () as u64;
    let (mapped, offset) = maps
        .lines()
        .find_map(|line| {
            let mut words = line.split(' ');
            let number = |text| u64::from_str_radix(text, 16).unwrap();
            let (start, end) = words.next()?.split_once('-')?;
            let mapped = number(start)..number(end);
            mapped
                .contains(&here)
                .then(|| (mapped, number(words.nth(1).unwrap())))
        })
        .unwrap();
    let layout = Layout::read(&own_program()).unwrap();
    let bias = layout.bias_of(mapped.clone(), offset).unwrap();
    let address = layout.address_of(here - mapped.start + offset).unwrap();
    assert_eq!(address.wrapping_add(bias), here);
    let size = mapped.end - mapped.start;
    let shift = layout.shift_of(offset, size).unwrap();
    assert_eq!(
        (here - mapped.start + offset).wrapping_add(shift),
        address,
        "shift and bias are of one segment"
    );
}

fn layout_of(segments: &[(u64, u64, bool)]) -> Layout {
    let segment = |&(offset, address, executable): &(u64, u64, bool)| Program {
        kind: PT_LOAD,
        executable,
        offset,
        address,
        file_size: 0x2000,
        memory_size: 0x2000,
    };
    Layout {
        segments: segments.iter().map(segment).collect(),
        ..Layout::default()
    }
}

#[test]
fn the_bias_comes_from_the_executable_segment() {
    let layout = layout_of(&[(0, 0x40_0000, false), (0x1100, 0x40_2100, true)]);
    let page = |start| start..start + 0x1000;
    assert_eq!(layout.bias_of(page(0x40_2000), 0x1000), Some(0));
    assert_eq!(
        layout.bias_of(page(0x7f00_0040_3000), 0x2000),
        Some(0x7f00_0000_0000)
    );
    assert_eq!(layout.bias_of(page(0x40_2000), 0x9000), None);
    assert_eq!(layout.shift_of(0x1000, 0x1000), Some(0x40_1000));
    assert_eq!(layout.shift_of(0x1000, 0x100), None, "it begins after that");
}

#[test]
fn a_page_of_two_segments_is_named_by_the_executable_one() {
    let layout = layout_of(&[(0, 0x40_0000, false), (0x1100, 0x50_2100, true)]);
    assert_eq!(layout.address_of(0x10ff), Some(0x40_10ff));
    assert_eq!(layout.address_of(0x1100), Some(0x50_2100));
    assert_eq!(layout.offset_of(0x50_2100), Some(0x1100));
    assert_eq!(layout.offset_of(0x40_1fff), Some(0x1fff));
    assert_eq!(layout.offset_of(0x50_20ff), None);
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

#[test]
fn a_build_id_is_the_one_that_the_linker_was_given() {
    let directory = tempfile::tempdir().unwrap();
    let options = ["-Wl,--build-id=0x0123456789abcdef"];
    let Some(file) = compiled(directory.path(), "int x;", &options) else {
        return;
    };
    let headers = Headers::read(&file).unwrap();
    let expected = 0x0123_4567_89ab_cdef_u64.to_be_bytes().to_vec();
    assert_eq!(headers.build_id(&file), Some(expected));
}

#[test]
fn contents_are_the_same_compressed_and_not() {
    let directory = tempfile::tempdir().unwrap();
    let variable = |n| format!("int a_variable_with_a_long_name_{n};");
    let source: String = (0..100).map(variable).collect();
    let mut plain = None;
    for format in ["none", "zlib", "zlib-gnu"] {
        let format = format!("-Wl,--compress-debug-sections={format}");
        let Some(file) = compiled(directory.path(), &source, &["-g", &format]) else {
            return;
        };
        let sections = Sections::read(&file, &Headers::read(&file).unwrap()).unwrap();
        let section = sections
            .find(".debug_str")
            .or_else(|| sections.find(".zdebug_str"));
        let section = section.unwrap();
        let contents = section.contents(&file, 1 << 20).unwrap();
        let is_compressed = section.size < contents.len() as u64;
        assert_eq!(is_compressed, plain.is_some(), "{format}");
        let plain = plain.get_or_insert_with(|| contents.clone());
        assert_eq!(&contents, plain, "{format}");
        assert_eq!(
            section.contents(&file, plain.len() as u64 - 1),
            Err(Unreadable::TooLarge)
        );
    }
    let plain = plain.unwrap();
    assert!(plain.windows(5).any(|text| text == b"me_99"));
}

#[test]
fn what_is_not_an_elf_file_of_this_machine_is_refused() {
    let mut start = read(&own_program(), 0, 4096).unwrap();
    assert!(Headers::read(&file_of(b"#!/bin/sh\n")).is_none());
    assert!(Headers::read(&file_of(b"")).is_none());
    assert!(Headers::read(&file_of(&start[..63])).is_none());
    start[5] = 3 - start[5];
    assert!(
        Headers::read(&file_of(&start)).is_none(),
        "of another byte order"
    );
}

/// As an assembler would write it: a header, a segment of code, and nothing else.
#[test]
fn a_file_of_32_bits_has_a_layout_and_no_symbols() {
    let mut bytes = vec![0; 0x200];
    bytes[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 1, 1]);
    if cfg!(target_endian = "big") {
        bytes[5] = 2;
    }
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(18, &3_u16.to_ne_bytes());
    put(28, &52_u32.to_ne_bytes());
    put(42, &32_u16.to_ne_bytes());
    put(44, &1_u16.to_ne_bytes());
    for (at, field) in [PT_LOAD, 0x100, 0x804_8100, 0, 0x80, 0x90, 5]
        .into_iter()
        .enumerate()
    {
        put(52 + 4 * at, &field.to_ne_bytes());
    }
    let file = file_of(&bytes);
    let headers = Headers::read(&file).unwrap();
    assert!(!headers.is_64_bit());
    assert_eq!(headers.machine(), 3);
    assert_eq!(headers.programs()[0].memory_size, 0x90);
    let layout = Layout::read(&file).unwrap();
    assert_eq!(layout.address_of(0x110), Some(0x804_8110));
    assert_eq!(layout.shift_of(0, 0x1000), Some(0x804_8000));
    assert!(!layout.has_debug_info);
    assert!(Symbols::read(&file).is_none());
}

#[test]
fn a_file_without_sections_is_a_good_one_and_with_too_many_has_none() {
    let mut start = read(&own_program(), 0, 8192).unwrap();
    start[60..62].fill(0);
    let file = file_of(&start);
    let headers = Headers::read(&file).unwrap();
    assert_eq!(Sections::read(&file, &headers).unwrap().iter().count(), 0);
    assert!(Layout::read(&file).is_some());
    start[60..62].copy_from_slice(&(MAX_SECTIONS as u16 + 1).to_ne_bytes());
    let mut file = file_of(&start);
    // As long as it would be with all of them.
    let end =
        u64::from_ne_bytes(start[40..48].try_into().unwrap()) + (MAX_SECTIONS as u64 + 1) * 64;
    file.seek(SeekFrom::Start(end)).unwrap();
    file.write_all(&[0]).unwrap();
    let headers = Headers::read(&file).unwrap();
    assert!(Sections::read(&file, &headers).is_none());
    assert!(Layout::read(&file).is_some());
}

#[test]
fn program_headers_have_a_bound() {
    let mut start = read(&own_program(), 0, 64).unwrap();
    start[56..58].copy_from_slice(&u16::MAX.to_ne_bytes());
    let mut file = file_of(&start);
    file.seek(SeekFrom::Start(64 + 65_535 * 56)).unwrap();
    file.write_all(&[0]).unwrap();
    let headers = Headers::read(&file).unwrap();
    assert_eq!(headers.programs().len(), MAX_PROGRAMS);
}

/// A file, and how much was read of it.
struct Counted {
    file: File,
    reads: Cell<u32>,
    bytes: Cell<u64>,
}

impl Counted {
    fn new(file: File) -> Self {
        Self {
            file,
            reads: Cell::new(0),
            bytes: Cell::new(0),
        }
    }
}

impl Source for Counted {
    fn fill(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.reads.set(self.reads.get() + 1);
        self.bytes.set(self.bytes.get() + buffer.len() as u64);
        self.file.fill(buffer, offset)
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
}

#[test]
fn names_of_sections_that_never_end_cost_nothing() {
    let sections = MAX_SECTIONS as u16;
    let file = Counted::new(made::file_of_endless_names(sections, MAX_NAMES as usize));
    let began = Instant::now();
    let layout = Layout::read(&file).unwrap();
    assert!(!layout.has_debug_info);
    assert!(file.reads.get() <= 5, "{} reads", file.reads.get());
    let most = MAX_NAMES + u64::from(sections) * 64 + 4096;
    assert!(file.bytes.get() <= most, "{} bytes", file.bytes.get());
    let headers = Headers::read(&file).unwrap();
    let sections = Sections::read(&file, &headers).unwrap();
    assert!(sections.iter().all(|section| section.name.is_empty()));
    for _ in 0..100 {
        assert_eq!(sections.find(".text"), None);
        assert_eq!(sections.find("xxxx"), None);
    }
    // Each of them would be eight gigabytes if names were searched for their end.
    assert!(began.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_section_is_found_by_its_whole_name() {
    let names = [
        ".tex",
        ".text.hot",
        ".text",
        ".debug_info.of.a.file.with.a.name",
    ];
    let sections = names.map(|name| made::plain(name, MadeContent::Bytes(vec![1])));
    let file = made::file(0, &sections);
    let sections = Sections::read(&file, &Headers::read(&file).unwrap()).unwrap();
    for name in [".tex", ".text.hot", ".text"] {
        assert_eq!(sections.find(name).unwrap().name, name.as_bytes());
    }
    for name in [".te", ".text.", ".debug_info.of.a.file.with.a.name"] {
        assert_eq!(sections.find(name), None, "{name}");
    }
}

#[test]
fn all_notes_of_a_file_have_one_bound() {
    let file = Counted::new(made::file(MAX_PROGRAMS - 1, &[]));
    let headers = Headers::read(&file).unwrap();
    file.bytes.set(0);
    assert_eq!(headers.build_id(&file), None);
    assert!(file.bytes.get() <= MAX_NOTES, "{} bytes", file.bytes.get());
}

#[test]
fn no_more_is_read_than_the_budget_permits() {
    let hole = |name| made::plain(name, MadeContent::Hole(40 << 20));
    let file = made::file(0, &[hole(".a"), hole(".b")]);
    let budget = Budget::new(Duration::from_mins(10), 64 << 20);
    let limited = budget.of(&file);
    let sections = Sections::read(&limited, &Headers::read(&limited).unwrap()).unwrap();
    let contents = |name| sections.find(name).unwrap().contents(&limited, 64 << 20);
    assert_eq!(contents(".a").unwrap().len(), 40 << 20);
    assert_eq!(contents(".b"), Err(Unreadable::Damaged));
    assert!(budget.spent() <= 64 << 20);
    let why = budget.why().unwrap();
    assert_eq!(why, "more than 64 MiB of it would be read");
    assert!(!budget.spend(0), "it stays used up");
}

#[test]
fn a_budget_ends_and_does_not_run_while_it_is_paused() {
    let budget = Budget::new(Duration::ZERO, 100);
    std::thread::sleep(Duration::from_millis(1));
    assert!(!budget.has_time());
    assert_eq!(budget.why().unwrap(), "reading it takes more than 0ns");
    let budget = Budget::new(Duration::from_mins(1), 100);
    assert!(budget.spend(100) && budget.why().is_none());
    assert!(!budget.spend(1));
    // Whoever has to wait has used less.
    let waits = Budget::new(Duration::from_millis(500), 100);
    std::thread::sleep(Duration::from_millis(600));
    assert!(waits.has_time());
    std::thread::sleep(Duration::from_secs(1));
    assert!(!waits.has_time());
    let paused = Budget::new(Duration::from_millis(500), 100).pause();
    std::thread::sleep(Duration::from_millis(600));
    assert!(paused.resume().has_time());
}

/// Bytes of contents that are asked for of a damaged file.
const MOST: u64 = 1 << 16;

/// Reads everything that is ever read of a file.
fn look_at(file: &File) {
    let Some(headers) = Headers::read(file) else {
        assert!(Layout::read(file).is_none() && Symbols::read(file).is_none());
        return;
    };
    assert!(headers.programs().len() <= MAX_PROGRAMS);
    let id = headers.build_id(file);
    assert!(id.is_none_or(|id| (8..=64).contains(&id.len())));
    if let Some(sections) = Sections::read(file, &headers) {
        assert!(sections.iter().count() <= MAX_SECTIONS);
        for section in sections.iter().take(64) {
            let contents = section.contents(file, MOST);
            assert!(contents.is_err() || contents.unwrap().len() as u64 <= MOST);
        }
    }
    let layout = Layout::read(file).unwrap();
    for offset in [0, 0x1000, u64::MAX] {
        let _ = layout.address_of(offset);
        let _ = layout.shift_of(offset, 0x1000);
        let _ = layout.bias_of(offset..u64::MAX, offset);
        let _ = layout.offset_of(offset);
    }
    if let Some(symbols) = Symbols::read(file) {
        for name in ["getpid", "_PyRuntime", "x"] {
            let _ = symbols.symbol(file, name);
        }
    }
    if let Some(functions) = Functions::read(file) {
        for address in [0, 0x3_0000, u64::MAX] {
            let found = functions.at(file, address);
            assert!(found.is_none_or(|found| found.names.len() <= MAX_ALIASES));
        }
    }
}

/// Bytes from the start of real files: a library with everything; and this program, of which the
/// section headers are far from the start.
fn real(which: bool) -> Vec<u8> {
    let file = if which {
        File::open(libc().0).unwrap()
    } else {
        own_program()
    };
    let size = file.metadata().unwrap().len().min(1 << 18) as usize;
    read(&file, 0, size).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn damaged_files_are_survived(
        which: bool,
        damage in proptest::collection::vec((0_usize..1 << 16, any::<[u8; 8]>()), 1..20),
        header in proptest::collection::vec((0_usize..1000, any::<u8>()), 0..6),
        size in 0_usize..1 << 18,
    ) {
        let mut bytes = real(which);
        for (at, with) in damage {
            bytes[at..at + 8].copy_from_slice(&with);
        }
        for (at, with) in header {
            bytes[at] = with;
        }
        look_at(&file_of(&bytes));
        look_at(&file_of(&bytes[..size.min(bytes.len())]));
    }

    /// The section headers are at the end of a file, so a damaged copy has to be whole.
    #[test]
    fn damaged_section_headers_are_survived(
        damage in proptest::collection::vec((0_usize..4000, any::<u8>()), 1..12),
    ) {
        let bytes = std::fs::read(libc().0).unwrap();
        let at = u64::from_ne_bytes(bytes[40..48].try_into().unwrap()) as usize;
        let file = file_of(&bytes);
        for (place, with) in damage {
            file.write_all_at(&[with], (at + place) as u64).unwrap();
        }
        look_at(&file);
    }

    #[test]
    fn random_bytes_behind_the_magic_are_survived(bytes in any::<[[u8; 32]; 16]>(), wide: bool) {
        let mut bytes = bytes.concat();
        let order = if cfg!(target_endian = "little") { 1 } else { 2 };
        bytes[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 1 + u8::from(wide), order]);
        if wide {
            bytes[54..56].copy_from_slice(&56_u16.to_ne_bytes());
            bytes[58..60].copy_from_slice(&64_u16.to_ne_bytes());
            bytes[32..40].copy_from_slice(&64_u64.to_ne_bytes());
        } else {
            bytes[42..44].copy_from_slice(&32_u16.to_ne_bytes());
            bytes[46..48].copy_from_slice(&40_u16.to_ne_bytes());
            bytes[28..32].copy_from_slice(&52_u32.to_ne_bytes());
        }
        look_at(&file_of(&bytes));
    }

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        look_at(&file_of(&bytes));
    }
}

mod programs;
