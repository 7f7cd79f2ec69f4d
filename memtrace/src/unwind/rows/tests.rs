use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use gimli::{CfaRule, Register, RegisterRule, UnwindSection as _};
use memtrace_common::unwind::{
    CFA_END, CFA_FP, CFA_KIND, CFA_PLT, CFA_SIGNAL, CFA_SP, FP_LOST, OTHER_SAME, RULE_BASE_FP,
    RULE_BASE_OTHER, RULE_DEREF, RULE_FP_FROM_FP, RULE_FP_LOST, RULE_FP_SAVED,
};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::*;
use crate::unwind::builder::budget;
use crate::unwind::code::Code;

/// Libraries and programs of most machines; those that are not there are left out.
const FILES: [&str; 7] = [
    "/usr/bin/python3",
    "/usr/bin/perl",
    "/usr/bin/bash",
    "/lib/x86_64-linux-gnu/libc.so.6",
    "/lib/x86_64-linux-gnu/libm.so.6",
    "/lib64/ld-linux-x86-64.so.2",
    "/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
];

fn input(path: &str) -> Option<Input> {
    let file = File::open(path)
        .inspect_err(|_| crate::skipped::skipped(&format!("there is no {path}")))
        .ok()?;
    let mut input = Input::read(&file, None, &budget()).expect("an ELF file");
    // What is made of code is tested there.
    input.uncovered = Code::default();
    Some(input)
}

/// The row that holds at an address, as the kernel side finds it.
fn row_at(table: &UnwindTable, address: u64) -> Option<Row> {
    let pc = u32::try_from(address.checked_sub(table.base)?).ok()?;
    let after = table.rows.partition_point(|row| row.pc <= pc);
    after.checked_sub(1).map(|at| table.rows[at])
}

/// What a row says: base register and offset of the CFA, whether it is in memory; and where the
/// frame pointer is.
type Meaning = Option<(Register, i64, bool, RegisterRule<usize>)>;

fn meaning(table: &UnwindTable, row: Row) -> Meaning {
    use crate::unwind::arch::x86_64::ARCHITECTURE as arch;
    let saved = |fp: i16| match fp & !OTHER_SAME {
        FP_SAME => RegisterRule::SameValue,
        FP_LOST => RegisterRule::Architectural,
        offset => RegisterRule::Offset(offset.into()),
    };
    let argument = row.cfa & !CFA_KIND;
    match row.cfa & CFA_KIND {
        CFA_SP => Some((arch.stack_pointer, argument.into(), false, saved(row.fp))),
        CFA_FP => Some((arch.frame_pointer, argument.into(), false, saved(row.fp))),
        CFA_RULE => {
            let rule = table.rules[usize::from(argument >> 3)];
            let register = if rule.flags & RULE_BASE_OTHER != 0 {
                arch.other
            } else if rule.flags & RULE_BASE_FP != 0 {
                arch.frame_pointer
            } else {
                arch.stack_pointer
            };
            let fp = if rule.flags & RULE_FP_LOST != 0 || rule.flags & RULE_FP_FROM_FP != 0 {
                RegisterRule::Architectural
            } else if rule.flags & RULE_FP_SAVED != 0 {
                RegisterRule::Offset(rule.fp_offset.into())
            } else {
                RegisterRule::SameValue
            };
            let in_memory = rule.flags & RULE_DEREF != 0;
            Some((register, rule.cfa_offset.into(), in_memory, fp))
        }
        _ => None,
    }
}

/// Compares with gimli's own search and evaluation at one address.
fn agrees(input: &Input, table: &UnwindTable, address: u64) -> Result<(), TestCaseError> {
    use crate::unwind::arch::x86_64::ARCHITECTURE as arch;
    let bytes = &input.eh_frame.as_ref().expect("it has one").bytes;
    let frames = EhFrame::from(EndianSlice::new(bytes, LittleEndian));
    let mut context = UnwindContext::new();
    let theirs = frames.unwind_info_for_address(&input.bases, &mut context, address, |f, b, o| {
        f.cie_from_offset(b, o)
    });
    let ours = row_at(table, address);
    let kind = ours.map_or(CFA_GAP, |row| row.cfa & CFA_KIND);
    let Ok(theirs) = theirs else {
        prop_assert_eq!(kind, CFA_GAP, "{:#x}: {:?}", address, ours);
        return Ok(());
    };
    let meaning = ours.and_then(|row| meaning(table, row));
    let ends = theirs.register(arch.return_address) == Some(RegisterRule::Undefined);
    prop_assert_eq!(kind == CFA_END, ends, "{:#x}: {:?}", address, ours);
    if ends {
        return Ok(());
    }
    match (theirs.cfa(), meaning) {
        (CfaRule::RegisterAndOffset { register, offset }, Some((ours, at, in_memory, fp))) => {
            prop_assert_eq!(
                (*register, *offset, false),
                (ours, at, in_memory),
                "{:#x}",
                address
            );
            let theirs = match theirs.register(arch.frame_pointer) {
                None | Some(RegisterRule::SameValue) => RegisterRule::SameValue,
                Some(RegisterRule::Offset(offset)) => RegisterRule::Offset(offset),
                Some(_) => RegisterRule::Architectural,
            };
            prop_assert_eq!(theirs, fp, "{:#x}", address);
        }
        (CfaRule::RegisterAndOffset { register, .. }, None) => {
            let known = [arch.stack_pointer, arch.frame_pointer, arch.other];
            prop_assert!(!known.contains(register), "{:#x}: {:?}", address, ours);
            prop_assert_eq!(kind, CFA_UNSUPPORTED);
        }
        (CfaRule::Expression(_), meaning) => {
            let special = [CFA_PLT, CFA_SIGNAL, CFA_UNSUPPORTED].contains(&kind);
            let in_memory = meaning.is_some_and(|(_, _, in_memory, _)| in_memory);
            prop_assert!(special || in_memory, "{:#x}: {:?}", address, ours);
        }
    }
    Ok(())
}

#[test]
fn rows_say_what_gimli_says_at_any_address() {
    for path in FILES {
        let Some(input) = input(path) else { continue };
        let table = build(&input, &budget()).expect("a table");
        assert_eq!(table.damaged, 0, "{path}");
        let code = input.code.clone();
        let anywhere = (any::<prop::sample::Index>(), any::<prop::sample::Index>());
        let mut runner = TestRunner::new(ProptestConfig::with_cases(60));
        let result = runner.run(&anywhere, |(segment, place)| {
            let (start, end) = code[segment.index(code.len())];
            agrees(
                &input,
                &table,
                start + place.index((end - start) as usize) as u64,
            )?;
            // And where rows begin, and just before.
            let row = table.rows[place.index(table.rows.len())];
            let address = table.base + u64::from(row.pc);
            agrees(&input, &table, address)?;
            agrees(&input, &table, address.saturating_sub(1))
        });
        result.unwrap_or_else(|error| panic!("{path}: {error}"));
    }
}

#[test]
fn tables_are_sorted_and_each_row_matters() {
    for path in FILES {
        let Some(input) = input(path) else { continue };
        let UnwindTable { rows, rules, .. } = build(&input, &budget()).expect("a table");
        assert!(rows.is_sorted_by(|row, next| row.pc < next.pc), "{path}");
        let same = rows
            .windows(2)
            .find(|two| (two[0].cfa, two[0].fp) == (two[1].cfa, two[1].fp));
        assert_eq!(same, None, "{path}");
        assert_eq!(rows.last().map(|row| row.cfa), Some(CFA_GAP), "{path}");
        let mut used = rows.iter().filter(|row| row.cfa & CFA_KIND == CFA_RULE);
        assert!(
            used.all(|row| usize::from(row.cfa >> 3) < rules.len()),
            "{path}"
        );
        let odd = rows.iter().filter(|row| row.cfa == CFA_UNSUPPORTED).count();
        assert!(
            odd * 300 < rows.len(),
            "{path}: {odd} of {} are not supported",
            rows.len()
        );
    }
}

/// How many rows of a kind a file has.
fn count(table: &UnwindTable, kind: u16) -> usize {
    let rows = table.rows.iter();
    rows.filter(|row| row.cfa & CFA_KIND == kind).count()
}

#[test]
fn a_c_library_has_all_special_rules() {
    let Some(libc) = input(FILES[3]) else { return };
    let table = build(&libc, &budget()).expect("a table");
    assert_eq!(table.source, RowSource::EhFrame);
    assert!(count(&table, CFA_SIGNAL) >= 1, "__restore_rt");
    assert!(count(&table, CFA_PLT) >= 1, "its linkage table");
    assert!(count(&table, CFA_END) >= 1, "clone");
    let Some(linker) = input(FILES[5]) else {
        return;
    };
    let table = build(&linker, &budget()).expect("a table");
    let base = |rule: &Rule| rule.flags & RULE_BASE_OTHER != 0;
    assert!(table.rules.iter().any(base), "_dl_runtime_resolve");
}

#[test]
fn frames_that_are_large_or_aligned_have_rules() {
    let compiler = Command::new("gcc").arg("--version").output();
    if compiler.is_err() {
        crate::skipped::skipped("gcc is not installed (apt-get install gcc)");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (source, object) = (folder.path().join("a.c"), folder.path().join("a.so"));
    let text = "void use(void *);
        void large(void) { char room[200000]; use(room); }
        __asm__(\".globl aligned\\naligned: .cfi_startproc\\npush %rbp\\n\"
        \".cfi_escape 0x0f,0x03,0x76,0x78,0x06\\n.cfi_escape 0x10,0x06,0x02,0x76,0x00\\n\"
        \"pop %rbp\\nret\\n.cfi_endproc\");
";
    std::fs::write(&source, text).unwrap();
    for (extra, source_of) in [
        (&["-fasynchronous-unwind-tables"][..], RowSource::EhFrame),
        (
            &["-fno-asynchronous-unwind-tables", "-g", "-nostdlib"][..],
            RowSource::DebugFrame,
        ),
    ] {
        let built = Command::new("gcc")
            .args(["-O2", "-fPIC", "-shared", "-fomit-frame-pointer", "-o"])
            .args([&object, &source])
            .args(extra)
            .status();
        assert!(built.unwrap().success());
        let input = Input::read(&File::open(&object).unwrap(), None, &budget()).unwrap();
        let table = build(&input, &budget()).unwrap();
        assert_eq!(table.source, source_of);
        let large = |rule: &Rule| rule.cfa_offset > 200_000;
        assert!(table.rules.iter().any(large), "{:?}", table.rules);
        // What compilers say of functions that align their stack: the CFA is in memory.
        let aligned = |rule: &Rule| {
            let wanted = RULE_DEREF | RULE_BASE_FP | RULE_FP_SAVED | RULE_FP_FROM_FP;
            rule.flags & wanted == wanted
        };
        assert!(table.rules.iter().any(aligned), "{:?}", table.rules);
    }
}

fn start_of(path: &str, most: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let file = File::open(path).unwrap();
    file.take(most as u64).read_to_end(&mut bytes).unwrap();
    bytes
}

fn read(bytes: &[u8]) -> Result<Input, Refused> {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    Input::read(&file, None, &budget())
}

/// `.eh_frame` of one common entry with these instructions, and functions with these.
fn frames(common: &[u8], functions: usize, instructions: &[u8]) -> Vec<u8> {
    let entry = |body: &[u8]| [&(body.len() as u32).to_le_bytes()[..], body].concat();
    // Version 1, "zR", an address moves by 1, registers by -8, the return address is in 16, and
    // addresses are four bytes.
    let augmented = b"\x01zR\0\x01\x78\x10\x01\x0b\x0c\x07\x08\x90\x01";
    let common = entry(&[&[0; 4][..], augmented, common].concat());
    let mut section = common.clone();
    for number in 0..functions {
        let back = section.len() as u32 + 4;
        let start = 0x10 * number as u32;
        let numbers = [back, start, 0x80000].map(u32::to_le_bytes).concat();
        section.extend(entry(&[&numbers[..], &[0], instructions].concat()));
    }
    section
}

#[test]
fn time_is_bounded_whatever_a_file_makes_of_it() {
    // The longest that compilers could have meant, evaluated for each function anew; and one
    // function with more rows than its code has bytes.
    let stack = [0x0a, 0x0b].repeat(2000);
    let rows = [0x0e, 8, 0x40, 0x0e, 16, 0x40].repeat(100_000);
    for section in [
        frames(&stack, 200_000, &[]),
        frames(&[], 40, &rows),
        frames(&[], 40, &[0x0a, 0x0b].repeat(400_000)),
    ] {
        let input = Input::of_sections(vec![(0, 0x100_0000)], section, Vec::new());
        let few = Budget::new(Duration::from_millis(100), 0);
        let began = Instant::now();
        let refused = build(&input, &few).expect_err("it takes long");
        assert_eq!(refused.0, "reading it takes more than 100ms");
        // A processor may not be free; all of it would take minutes.
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "{:?}",
            began.elapsed()
        );
    }
}

#[test]
fn a_function_whose_entry_is_too_long_is_left_out() {
    let long = [0].repeat(MAX_FUNCTION_ENTRY + 1);
    let input = Input::of_sections(vec![(0, 0x100_0000)], frames(&[], 1, &long), Vec::new());
    let table = build(&input, &budget()).unwrap();
    assert_eq!((table.rows.len(), table.damaged), (0, 1));
    let short = [0].repeat(1000);
    let input = Input::of_sections(vec![(0, 0x100_0000)], frames(&[], 1, &short), Vec::new());
    let table = build(&input, &budget()).unwrap();
    assert_eq!((table.rows.len(), table.damaged), (2, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Anything may be damaged: headers, sections, the end missing.
    #[test]
    fn damaged_files_are_survived(
        places in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..60),
        cut in any::<Option<prop::sample::Index>>(),
        headers in any::<bool>(),
    ) {
        let mut bytes = start_of("/lib64/ld-linux-x86-64.so.2", 4 << 20);
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        for (place, value) in places {
            let most = if headers { bytes.len().min(1024) } else { bytes.len() };
            if most > 0 {
                bytes[place.index(most)] = value;
            }
        }
        if let Ok(input) = read(&bytes)
            && let Ok(table) = build(&input, &budget())
        {
            prop_assert!(table.rows.len() <= 2 * bytes.len());
            prop_assert!(table.rows.is_sorted_by(|row, next| row.pc < next.pc));
        }
    }

    #[test]
    fn any_section_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let code = vec![(0x1000, 0x8000_0000)];
        let input = Input::of_sections(code, bytes.clone(), bytes);
        if let Ok(table) = build(&input, &budget()) {
            prop_assert!(table.rows.len() <= 8000);
        }
    }
}
