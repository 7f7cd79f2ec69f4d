use std::io::Write as _;
use std::time::Duration;

use super::*;
use crate::elf::made::{self, MadeContent};
use crate::unwind::builder::budget;

const LINKER: &str = "/lib64/ld-linux-x86-64.so.2";

fn refusal(bytes: &[u8]) -> String {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    match Input::read(&file, None, &budget()) {
        Ok(_) => panic!("it was read"),
        Err(Refused(why)) => why,
    }
}

#[test]
fn what_is_not_a_program_is_refused_in_words() {
    let why = refusal(b"#!/bin/sh\n");
    assert!(why.contains("not an ELF file"), "{why}");
}

#[test]
fn programs_of_another_processor_are_refused() {
    let Ok(mut bytes) = std::fs::read(LINKER) else {
        crate::skipped::skipped(&format!("there is no {LINKER}"));
        return;
    };
    bytes[18] = 183;
    let why = refusal(&bytes);
    assert!(why.contains("183"), "{why}");
}

#[test]
fn another_file_with_the_same_build_id_has_another_identity() {
    let Ok(file) = File::open(LINKER) else {
        crate::skipped::skipped(&format!("there is no {LINKER}"));
        return;
    };
    let first = Input::read(&file, None, &budget()).expect("an ELF file");
    let mut second = Input::read(&file, None, &budget()).expect("an ELF file");
    assert_eq!(
        first.identity(&budget()).unwrap(),
        second.identity(&budget()).unwrap()
    );
    assert!(first.build_id().is_some());
    if let Some(section) = &mut second.eh_frame {
        section.bytes[100] ^= 1;
    }
    assert_eq!(first.build_id(), second.build_id());
    assert_ne!(
        first.identity(&budget()).unwrap(),
        second.identity(&budget()).unwrap()
    );
}

#[test]
fn a_file_is_read_within_its_budget_however_large_it_says_it_is() {
    let hole = |name, size| made::plain(name, MadeContent::Hole(size));
    // Symbols are never read here, so that their size does not matter.
    let file = made::file(
        3,
        &[
            hole(".symtab", 1 << 40),
            hole(".note.gnu.build-id", 3 << 30),
        ],
    );
    let spent = budget();
    let input = Input::read(&file, None, &spent).expect("an ELF file");
    assert_eq!(input.size(), 0);
    assert!(spent.spent() < 1 << 20, "{} bytes", spent.spent());

    let file = made::file(0, &[hole(".eh_frame", MAX_SECTION + 1)]);
    let spent = budget();
    let refused = Input::read(&file, None, &spent)
        .err()
        .expect("it is too large");
    assert_eq!(refused.0, "its section .eh_frame is too large");
    assert!(spent.spent() < 1 << 20, "{} bytes", spent.spent());

    let sections = [hole(".eh_frame", 40 << 20), hole(".debug_frame", 40 << 20)];
    let file = made::file(0, &sections);
    let few = Budget::new(Duration::from_mins(10), 64 << 20);
    let refused = Input::read(&file, None, &few)
        .err()
        .expect("it is too large");
    assert_eq!(refused.0, "more than 64 MiB of it would be read");

    let none = Budget::new(Duration::ZERO, 64 << 20);
    std::thread::sleep(Duration::from_millis(1));
    let refused = Input::read(&file, None, &none).err().expect("no time");
    assert_eq!(refused.0, "reading it takes more than 0ns");
}

#[test]
fn what_is_decompressed_counts_as_what_is_read() {
    let contents = vec![0; 4 << 20];
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(&contents).unwrap();
    let stored = encoder.finish().unwrap();
    assert!(stored.len() < 100_000);
    let header = [1_u64, contents.len() as u64, 8]
        .map(u64::to_ne_bytes)
        .concat();
    let section = made::MadeSection {
        name: ".eh_frame",
        flags: 2 | 1 << 11,
        content: MadeContent::Bytes([header, stored].concat()),
    };
    let file = made::file(0, &[section]);
    assert_eq!(Input::read(&file, None, &budget()).unwrap().size(), 4 << 20);
    let few = Budget::new(Duration::from_mins(10), 1 << 20);
    let refused = Input::read(&file, None, &few)
        .err()
        .expect("it is too large");
    assert_eq!(refused.0, "more than 1 MiB of it would be read");
}
