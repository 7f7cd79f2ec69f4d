//! Look-ups against what the dynamic linker says, and damaged files.

use std::io::Write;
use std::process::Command;

use proptest::prelude::*;

use super::*;

/// The C library that this process runs with.
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

#[test]
fn a_symbol_is_where_the_dynamic_linker_has_it() {
    let (path, start) = libc();
    let file = File::open(path).unwrap();
    let elf = Elf::read(&file).unwrap();
    let address = libc::getpid as *const () as u64;
    assert_eq!(elf.symbol(&file, "getpid"), Some(address - start));
    assert_eq!(elf.symbol(&file, "no_such_symbol"), None);
    assert_eq!(elf.symbol(&file, ""), None);
    assert!(elf.section(&file, ".text").is_some());
    assert_eq!(elf.section(&file, ".tex"), None);
}

#[test]
fn both_kinds_of_hash_table_are_understood() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("a.c");
    std::fs::write(
        &source,
        "int given = 7, other; extern int taken; int *p = &taken;",
    )
    .unwrap();
    for style in ["gnu", "sysv"] {
        let library = directory.path().join(style);
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", &format!("-Wl,--hash-style={style}")])
            .arg("-o")
            .args([&library, &source])
            .status();
        if !built.is_ok_and(|status| status.success()) {
            crate::skipped::skipped(
                "there is no C compiler `cc` that links a shared library (apt-get install gcc)",
            );
            return;
        }
        let file = File::open(&library).unwrap();
        let elf = Elf::read(&file).unwrap();
        let given = elf.symbol(&file, "given").unwrap();
        let symbols = elf.symbols.as_ref().unwrap();
        assert_eq!(symbols.gnu_hash.is_some(), style == "gnu");
        let at = elf.offset_of(given).unwrap();
        assert_eq!(read(&file, at, 4).unwrap(), 7_i32.to_ne_bytes());
        assert!(elf.symbol(&file, "other").is_some());
        assert_eq!(elf.symbol(&file, "taken"), None, "it is of another file");
    }
}

#[test]
fn the_bias_comes_from_the_executable_segment() {
    let segment = |offset, address, executable| Segment {
        offset,
        address,
        size: 0x2000,
        executable,
    };
    let elf = Elf {
        segments: vec![
            segment(0, 0x40_0000, false),
            segment(0x1100, 0x40_2100, true),
        ],
        symbols: None,
        sections: Sections {
            offset: 0,
            count: 0,
            names: 0,
        },
    };
    assert_eq!(elf.bias(0x40_2000, 0x1000), Some(0));
    assert_eq!(elf.bias(0x7f00_0040_3000, 0x2000), Some(0x7f00_0000_0000));
    assert_eq!(elf.bias(0x40_2000, 0x9000), None);
}

/// The file, as it would be read after `damage`, in memory.
fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn look_at(file: &File) {
    let Some(elf) = Elf::read(file) else {
        return;
    };
    for name in ["getpid", "_PyRuntime", "x"] {
        let _ = elf.symbol(file, name);
    }
    let _ = elf.section(file, ".PyRuntime");
    let _ = elf.bias(0x1000, 0x1000);
    assert!(elf.segments.len() <= MAX_SEGMENTS);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn damaged_files_are_survived(
        damage in proptest::collection::vec((0_usize..1 << 16, any::<[u8; 8]>()), 1..20),
        header in proptest::collection::vec((0_usize..1000, any::<u8>()), 0..6),
        size in 0_usize..1 << 18,
    ) {
        let mut bytes = read(&File::open(libc().0).unwrap(), 0, 1 << 18).unwrap();
        for (at, with) in damage {
            bytes[at..at + 8].copy_from_slice(&with);
        }
        for (at, with) in header {
            bytes[at] = with;
        }
        look_at(&file_of(&bytes));
        look_at(&file_of(&bytes[..size]));
    }

    #[test]
    fn random_bytes_behind_the_magic_are_survived(bytes in any::<[[u8; 32]; 16]>()) {
        let mut bytes = bytes.concat();
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[54..56].copy_from_slice(&56_u16.to_ne_bytes());
        bytes[58..60].copy_from_slice(&64_u16.to_ne_bytes());
        bytes[32..40].copy_from_slice(&64_u64.to_ne_bytes());
        look_at(&file_of(&bytes));
    }
}
