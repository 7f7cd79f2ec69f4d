//! Against living interpreters, and against memory that lies.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use memtrace_common::interpreter::python::{FREE_THREADED, Layout, NO_FIELD};
use memtrace_common::record::{FUNCTION_FILE_BYTES, FUNCTION_LINES_BYTES, FUNCTION_NAME_BYTES};
use proptest::prelude::*;

use super::code::Code;
use super::lines::{self, Format};
use super::text::{Bytes, Text};
use super::types::type_name;
use crate::collect::TakenFunction;
use crate::interpreter::toy::Toy;
use crate::interpreter::{Function as _, Instance as _, NoTypeName};
use crate::process::memory::{ProcessMemory, ReadMemory};

/// Layout of a version, by measurement.
fn layout(version: u32, free_threaded: bool) -> Layout {
    let (name, qualified, file, first, lines, bytecode) = match (version, free_threaded) {
        (..=0x030a, _) => (112, 112, 104, 40, 120, NO_FIELD),
        (0x030b, _) => (120, 128, 112, 72, 136, 184),
        (0x030c, _) => (120, 128, 112, 68, 136, 192),
        (0x030d, false) => (120, 128, 112, 68, 136, 200),
        (0x030d, true) => (136, 144, 128, 84, 152, 216),
        (_, false) => (120, 128, 112, 68, 136, 208),
        (_, true) => (136, 144, 128, 84, 152, 224),
    };
    let more = if free_threaded { 16 } else { 0 };
    Layout {
        version,
        flags: if free_threaded { FREE_THREADED } else { 0 },
        instruction_size: if version < 0x030b { 4 } else { 8 },
        code_filename: file,
        code_name: name,
        code_qualname: qualified,
        code_first_line: first,
        code_lines: lines,
        code_bytecode: bytecode,
        object_type: 8 + more,
        type_flags: 168 + more,
        type_name: 24 + more,
        ..Layout::default()
    }
}

/// Command lines of the interpreters at hand: those of pyenv, the system's, and those that
/// `MEMTRACE_TEST_PYTHONS` names, divided by `:`.
fn interpreters() -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let pyenv = std::env::var_os("PYENV_ROOT")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".pyenv")));
    let installed: Vec<PathBuf> = pyenv
        .and_then(|root| root.join("versions").read_dir().ok())
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    for minor in 8..=14 {
        let is_it = |path: &&PathBuf| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(&format!("3.{minor}.")))
        };
        let before = found.len();
        for path in installed.iter().filter(is_it) {
            found.push(vec![path.join("bin/python3").display().to_string()]);
        }
        if found.len() == before {
            crate::skipped::skipped(&format!(
                "pyenv has no CPython 3.{minor} (pyenv install 3.{minor})"
            ));
        }
    }
    if std::path::Path::new("/usr/bin/python3").exists() {
        found.push(vec!["/usr/bin/python3".to_owned()]);
    } else {
        crate::skipped::skipped("there is no python3 of the system (apt-get install python3)");
    }
    if let Ok(more) = std::env::var("MEMTRACE_TEST_PYTHONS") {
        let lines = more.split(':');
        found.extend(lines.map(|line| line.split_whitespace().map(str::to_owned).collect()));
    }
    found
}

/// A running interpreter, what it says of itself, and its layout.
struct Python {
    name: String,
    child: Child,
    layout: Layout,
    said: Vec<Vec<String>>,
}

impl Python {
    fn start(command: &[String]) -> Self {
        let mut child = Command::new(&command[0])
            .args(&command[1..])
            .args(["-c", include_str!("tests.py")])
            .env("PYTHONIOENCODING", "utf-8:backslashreplace")
            .env("PYTHONUTF8", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut said: Vec<Vec<String>> = Vec::new();
        for line in output.lines() {
            let line = line.unwrap();
            if line == "end" {
                break;
            }
            said.push(line.split('\t').map(str::to_owned).collect());
        }
        let number = |field: usize| said[0][field].parse::<u64>().unwrap();
        let layout = Layout {
            type_type: number(3),
            code_type: number(4),
            ..layout(number(1) as u32, number(2) != 0)
        };
        Self {
            name: command.join(" "),
            child,
            layout,
            said,
        }
    }

    fn memory(&self) -> ProcessMemory {
        ProcessMemory::new(self.child.id())
    }

    /// What it said of one kind: an address and the other fields.
    fn said(&self, kind: &str) -> impl Iterator<Item = (u64, &[String])> {
        let kind = kind.to_owned();
        self.said
            .iter()
            .filter(move |fields| fields[0] == kind)
            .map(|fields| (fields[1].parse().unwrap(), &fields[2..]))
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Memory with nothing in it.
struct Nothing;

impl ReadMemory for Nothing {
    fn read(&self, _: u64, _: &mut [u8]) -> bool {
        false
    }
}

/// What the kernel side would take; without the parts, only where they are.
fn take(code: u64, python: &Python, parts: bool) -> TakenFunction {
    let (layout, memory) = (&python.layout, python.memory());
    let part = |offset: u32, most: usize| {
        let address = memory.word(code + u64::from(offset)).unwrap();
        let mut bytes = vec![0; if parts { most } else { 0 }];
        if !memory.read(address, &mut bytes) {
            // Up to the end of the page, as the kernel side does.
            bytes.truncate((4096 - address % 4096) as usize);
            assert!(memory.read(address, &mut bytes));
        }
        (address, bytes.into_boxed_slice())
    };
    TakenFunction {
        function: code,
        first_line: memory
            .half(code + u64::from(layout.code_first_line))
            .unwrap(),
        name: part(layout.code_qualname, FUNCTION_NAME_BYTES),
        file: part(layout.code_filename, FUNCTION_FILE_BYTES),
        lines: part(layout.code_lines, FUNCTION_LINES_BYTES),
        ..TakenFunction::default()
    }
}

/// The instruction as a frame would have it.
fn instruction(code: u64, offset: u64, layout: &Layout) -> u64 {
    match layout.version {
        ..=0x0309 => offset,
        0x030a => offset / 2,
        _ => code + u64::from(layout.code_bytecode) + offset,
    }
}

fn check_code(python: &Python) -> usize {
    let layout = &python.layout;
    let (mut offsets, mut cut_names, mut cut_tables) = (0, 0, 0);
    for (address, fields) in python.said("code") {
        let [name, file, first, lines] = fields else {
            panic!("{}: {fields:?}", python.name)
        };
        let context = format!("{} {name} {file}", python.name);
        let whole = Code::decode(&take(address, python, false), layout, &python.memory());
        let whole = whole.unwrap_or_else(|| panic!("{context}: no name"));
        let parts = Code::decode(&take(address, python, true), layout, &Nothing).unwrap();
        let both = Code::decode(&take(address, python, true), layout, &python.memory());
        assert_eq!(both.as_ref(), Some(&whole), "{context}");
        assert_eq!(
            (&*whole.name, &*whole.file),
            (&**name, &**file),
            "{context}"
        );
        assert_eq!(whole.first_line.to_string(), *first, "{context}");
        for (part, whole) in [(&parts.name, &whole.name), (&parts.file, &whole.file)] {
            let beginning = part.strip_suffix('…').unwrap_or(part);
            assert!(whole.starts_with(beginning) && beginning.len() > 50.min(whole.len() - 1));
            cut_names += usize::from(part != whole);
        }
        let mut cut = false;
        // Each look-up begins at the table's start: of a very long one, some must do.
        let step = 1 + lines.len() / 50_000 * 8;
        for (at, line) in lines.split(',').enumerate().step_by(step) {
            let at = at as u64 * 2;
            let line = line.parse::<u32>().ok();
            let instruction = instruction(address, at, layout);
            assert_eq!(whole.line(instruction), line, "{context} at {at}");
            let from_part = parts.line(instruction);
            assert!(
                !cut || from_part.is_none(),
                "{context} behind the cut, at {at}"
            );
            cut |= from_part != line;
            offsets += 1;
        }
        cut_tables += usize::from(cut);
        let before = if layout.instruction_size == 4 {
            u64::from(u32::MAX)
        } else {
            address + u64::from(layout.code_bytecode) - 2
        };
        assert_eq!(whole.line(before), Some(whole.first_line));
    }
    assert!(cut_names >= 2 && cut_tables >= 1, "{}", python.name);
    offsets
}

fn check_types(python: &Python) -> usize {
    let (layout, memory) = (&python.layout, python.memory());
    let mut count = 0;
    for (address, fields) in python.said("type") {
        let name = type_name(address, layout, &memory);
        assert_eq!(name.as_ref(), Ok(&fields[0]), "{}", python.name);
        count += 1;
    }
    for (address, _) in python.said("none") {
        let name = type_name(address, layout, &memory);
        assert_eq!(name, Err(NoTypeName::NotAType), "{}", python.name);
    }
    assert_eq!(type_name(8, layout, &memory), Err(NoTypeName::Unreadable));
    count
}

#[test]
fn functions_files_lines_and_types_are_those_of_living_interpreters() {
    for command in interpreters() {
        let python = Python::start(&command);
        let offsets = check_code(&python);
        let types = check_types(&python);
        println!("{}: {offsets} instructions, {types} types", python.name);
        assert!(offsets > 10_000 && types > 25);
    }
}

/// The same bytes again and again, at all addresses.
struct Wallpaper(Vec<u8>);

impl ReadMemory for Wallpaper {
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
        assert!(buffer.len() <= 5 << 20, "an unbounded read");
        for (at, byte) in buffer.iter_mut().enumerate() {
            *byte = self.0[(address as usize).wrapping_add(at) % self.0.len()];
        }
        true
    }
}

fn any_layout() -> impl Strategy<Value = Layout> {
    (8..=14_u32, any::<bool>()).prop_map(|(minor, free)| layout(0x0300 | minor, free && minor > 12))
}

/// Bytes of objects: words that are likely to be pointers, sizes, or anything.
fn any_bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        any::<u64>(),
        0..64_u64,
        Just(u64::MAX),
        Just(i64::MAX as u64),
        Just(0x64),
        Just(0xff00_0064),
        Just(u64::from(u32::MAX)),
    ];
    prop::collection::vec(word, 1..most).prop_map(|words| {
        let bytes = words.iter().flat_map(|word| word.to_le_bytes());
        bytes.collect()
    })
}

proptest! {
    #[test]
    fn any_part_is_bounded(part in any_bytes(64), cut in 0..8_usize, layout in any_layout()) {
        let part = &part[..part.len() - cut];
        if let Some(text) = Text::from_part(part, &layout) {
            prop_assert!(text.text.chars().count() <= part.len() * 8);
            prop_assert!(text.as_name().len() <= 1100);
            prop_assert!(!text.as_path().contains(char::is_control));
        }
        if let Some(bytes) = Bytes::from_part(part, &layout) {
            prop_assert!(bytes.bytes.len() < part.len());
        }
    }

    #[test]
    fn any_table_ends(
        table in prop::collection::vec(any::<u8>(), 0..600),
        first: u32,
        offset in prop_oneof![0..2000_u64, any::<u64>()],
        cut: bool,
    ) {
        for format in [Format::Steps, Format::Ranges, Format::Locations] {
            let whole = lines::line(format, &table, false, first, offset);
            // What is known from a beginning is true.
            let beginning = &table[..table.len() / 2];
            if let Some(line) = lines::line(format, beginning, true, first, offset) {
                prop_assert_eq!(whole, Some(line));
            }
            let _ = lines::line(format, &table, cut, first, offset);
        }
    }

    #[test]
    fn any_memory_is_survived(
        bytes in any_bytes(40),
        address: u64,
        instruction: u64,
        type_type in prop_oneof![any::<u64>(), 0..64_u64],
        layout in any_layout(),
    ) {
        let memory = Wallpaper(bytes.clone());
        let layout = Layout { type_type, ..layout };
        if let Ok(name) = type_name(address, &layout, &memory) {
            prop_assert!(!name.is_empty() && name.len() <= 1100);
            prop_assert!(!name.contains(char::is_control));
        }
        let part = || (address, bytes.clone().into_boxed_slice());
        let at = |offset: u32| {
            let at = address.wrapping_add(u64::from(offset));
            memory.word(at).unwrap()
        };
        for parts in [true, false] {
            let (name, filename, lines) = if parts {
                (part(), part(), part())
            } else {
                let none = Box::default;
                (
                    (at(layout.code_qualname), none()),
                    (at(layout.code_filename), none()),
                    (at(layout.code_lines), none()),
                )
            };
            let taken = TakenFunction {
                function: address,
                first_line: at(layout.code_first_line) as u32,
                name,
                file: filename,
                lines,
                ..TakenFunction::default()
            };
            if let Some(code) = Code::decode(&taken, &layout, &memory) {
                let _ = code.line(instruction);
            }
        }
    }
}

/// A compact `str` of two-byte characters that claims `length` of them, in a layout with `header`
/// bytes before its length.
fn wide_str(characters: &[u16], length: u64, header: usize, state: u32, data: usize) -> Vec<u8> {
    let mut part = vec![0; data];
    part[header..header + 8].copy_from_slice(&length.to_le_bytes());
    part[header + 16..header + 20].copy_from_slice(&state.to_le_bytes());
    part.extend(characters.iter().flat_map(|c| c.to_le_bytes()));
    part
}

#[test]
fn surrogates_are_spelled_out_and_lengths_are_not_believed() {
    const STATE: u32 = 2 << 2 | 1 << 5;
    let read = |part: &[u8], layout: &Layout| {
        Text::from_part(part, layout).map(|text| (text.as_name(), text.cut))
    };
    let characters = [0x64, 0xdc80, 0x202e, 0x65e5];
    let name = "d\\u{dc80}\\u{202e}日".to_owned();
    for (layout, header, state, data) in [
        (layout(0x0308, false), 16, STATE | 1 << 7 | 0xabcd << 8, 72),
        (layout(0x030d, false), 16, STATE | 3, 56),
        (layout(0x030d, true), 32, STATE | 3, 72),
        (layout(0x030e, false), 16, STATE | 3, 56),
        (layout(0x030e, true), 32, STATE << 6 | 3, 72),
        (layout(0x030e, true), 32, STATE << 14 | 3, 72),
    ] {
        let part = |length| wide_str(&characters, length, header, state, data);
        assert_eq!(read(&part(4), &layout), Some((name.clone(), false)));
        let cut = Some((format!("{name}…"), true));
        assert_eq!(read(&part(i64::MAX as u64), &layout), cut);
        assert_eq!(read(&part(u64::MAX), &layout), None);
        assert_eq!(read(&part(4)[..data], &layout), None);
        assert_eq!(read(&[], &layout), None);
    }
}

#[test]
fn a_loop_that_the_compiler_split_is_a_loop_too() {
    let python = super::Python {
        layout: Layout::default(),
        name: String::new(),
    };
    for name in [
        "_PyEval_EvalFrameDefault",
        "_PyEval_EvalFrameDefault.cold",
        "_PyEval_EvalFrameDefault.lto_priv.0",
    ] {
        assert!(python.is_loop(name), "{name}");
    }
    for name in ["", "_PyEval_EvalFrameDefault2", "_PyEval_EvalFrame"] {
        assert!(!python.is_loop(name), "{name}");
    }
}

#[test]
fn an_instance_is_the_same_only_where_layout_and_name_are() {
    let python = |version, name: &str| super::Python {
        layout: layout(version, false),
        name: name.to_owned(),
    };
    let one = python(0x030b, "CPython 3.11.7");
    assert!(one.same_as(&one.clone()));
    assert!(!one.same_as(&python(0x030c, "CPython 3.11.7")));
    assert!(!one.same_as(&python(0x030b, "CPython 3.11.8")));
    assert!(!one.same_as(&Toy { address: 0 }));
}
