use std::io::Write as _;

use super::*;

const LINKER: &str = "/lib64/ld-linux-x86-64.so.2";

fn refusal(bytes: &[u8]) -> String {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    match Input::read(&file, None) {
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
    let first = Input::read(&file, None).expect("an ELF file");
    let mut second = Input::read(&file, None).expect("an ELF file");
    assert_eq!(first.identity(), second.identity());
    assert!(first.build_id().is_some());
    if let Some(section) = &mut second.eh_frame {
        section.bytes[100] ^= 1;
    }
    assert_eq!(first.build_id(), second.build_id());
    assert_ne!(first.identity(), second.identity());
}
