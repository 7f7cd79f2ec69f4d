use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::process::Command;

use memtrace_common::unwind::{
    CFA_FP, CFA_KIND, CFA_PLT, CFA_RULE, CFA_SP, FP_LOST, FP_SAME, OTHER_SAME, RULE_BASE_FP,
    RULE_BASE_OTHER, RULE_DEREF, RULE_FP_FROM_FP, RULE_FP_LOST, RULE_FP_SAVED, Row,
};

use super::*;
use crate::unwind::builder::budget;
use crate::unwind::rows;
use crate::unwind::sections::Input;
use crate::unwind::table::UnwindTable;

/// Libraries and programs of most machines, with the least part of their code that is decided; those
/// that are not there are left out.
const FILES: [(&str, f64); 4] = [
    ("/usr/bin/bash", 0.3),
    ("/lib/x86_64-linux-gnu/libc.so.6", 0.5),
    ("/lib/x86_64-linux-gnu/libm.so.6", 0.5),
    ("/lib64/ld-linux-x86-64.so.2", 0.3),
];

/// How a file's own table and its code agree, in bytes of code that the table covers.
#[derive(Debug, Default)]
struct Agreement {
    covered: u64,
    /// Of these, those that have a row from code.
    decided: u64,
    /// Of these, those of which the table says something that is not compared.
    special: u64,
    /// Instructions of which they say different things, with both.
    different: BTreeMap<u64, String>,
}

fn open(path: &str) -> Option<File> {
    File::open(path)
        .inspect_err(|_| crate::skipped::skipped(&format!("there is no {path}")))
        .ok()
}

/// The row that holds at an address.
fn row_at(table: &UnwindTable, address: u64) -> Option<Row> {
    let pc = u32::try_from(address.checked_sub(table.base)?).ok()?;
    let after = table.rows.partition_point(|row| row.pc <= pc);
    let row = table.rows[after.checked_sub(1)?];
    (row.cfa != CFA_GAP).then_some(row)
}

/// What a table says: whether the CFA is counted from the frame pointer, its offset, and where the
/// caller's frame pointer is, if it has not been changed or has been saved.
type Said = (bool, i32, Result<i32, bool>);

/// `None` when it is something special.
fn said(table: &UnwindTable, row: Row, address: u64) -> Option<Said> {
    let fp = match row.fp & !OTHER_SAME {
        FP_SAME => Err(true),
        FP_LOST => Err(false),
        offset => Ok(-i32::from(offset)),
    };
    let argument = i32::from(row.cfa & !CFA_KIND);
    match row.cfa & CFA_KIND {
        CFA_SP => Some((false, argument, fp)),
        CFA_FP => Some((true, argument, fp)),
        CFA_PLT => {
            let pushed = (address & 15) as i32 >= argument >> 3;
            Some((false, if pushed { 16 } else { 8 }, Err(true)))
        }
        CFA_RULE => {
            let rule = table.rules[(argument >> 3) as usize];
            let special = RULE_DEREF | RULE_BASE_OTHER | RULE_FP_FROM_FP;
            if rule.flags & special != 0 {
                return None;
            }
            let fp = if rule.flags & RULE_FP_SAVED != 0 {
                Ok(-rule.fp_offset)
            } else {
                Err(rule.flags & RULE_FP_LOST == 0)
            };
            Some((rule.flags & RULE_BASE_FP != 0, rule.cfa_offset, fp))
        }
        _ => None,
    }
}

/// Whether a table and code say the same.
fn is_same((by_frame, offset, fp): Said, frame: Frame) -> bool {
    let same_cfa = if by_frame {
        frame.pointer == Pointer::Points(offset)
    } else {
        frame.stack.is_none_or(|stack| stack == offset)
    };
    let same_fp = match fp {
        // A register that was restored is also still where it was saved.
        _ if frame.pointer == Pointer::Callers => true,
        Ok(at) => frame.saved == Some(at) || frame.saved.is_none(),
        Err(is_same) => !is_same && frame.saved.is_none(),
    };
    same_cfa && same_fp
}

fn is_at_entry(code: &Code, address: u64) -> bool {
    let entry = code.entry.unwrap_or(u64::MAX);
    (entry..entry.saturating_add(64)).contains(&address)
}

/// Follows all code of a file as if it had no tables, and compares with them.
fn compare(file: &File, uses_symbols: bool) -> Agreement {
    let mut input = Input::read(file, None, &budget()).expect("an ELF file");
    input.uncovered = Code::default();
    let table = rows::build(&input, &budget()).expect("a table");
    let mut code = Code::of_all(file);
    if !uses_symbols {
        code.functions.clear();
    }
    let clock = Clock {
        own: Budget::new(Duration::from_mins(5), 0),
        budget: &Budget::new(Duration::from_mins(5), 0),
    };
    let walker = code
        .walk(input.architecture, &clock)
        .ok()
        .expect("there is time");
    let mut agreement = Agreement::default();
    let mut state = None;
    let mut known = walker.known().peekable();
    for index in 0..code.bytes.len() as u32 {
        let begins = known.next_if(|known| known.0 == index);
        state = begins.map_or(state, |known| known.1);
        let (_, address) = code.from(index);
        let Some(row) = row_at(&table, address) else {
            continue;
        };
        agreement.covered += 1;
        let Some(state) = state else { continue };
        let says = match state {
            State::In(frame) if registers(frame).is_none() => continue,
            State::In(frame) => said(&table, row, address).map(|said| is_same(said, frame)),
            // A library's entry has a table as if it were called.
            State::Outermost => Some(row.cfa == CFA_END || is_at_entry(&code, address)),
            State::SignalReturn => Some(row.cfa == CFA_SIGNAL),
        };
        agreement.decided += 1;
        match says {
            None if row.cfa == CFA_END => {
                agreement
                    .different
                    .insert(address, format!("{row:?} {state:?}"));
            }
            None => agreement.special += 1,
            Some(true) => {}
            Some(false) => {
                if begins.is_some() {
                    let said = said(&table, row, address);
                    let text = format!("{said:?} {state:?}");
                    agreement.different.insert(address, text);
                }
            }
        }
    }
    agreement
}

/// At each address of which both say something, they say the same; and code says something of this
/// part of what the table covers.
fn agree(path: &str, file: &File, uses_symbols: bool, least: f64) {
    let Agreement {
        covered,
        decided,
        special,
        different,
    } = compare(file, uses_symbols);
    let share = decided as f64 / covered as f64;
    println!(
        "{path}: {decided} of {covered} bytes decided ({:.1}%), {special} not compared, {} different",
        share * 100.0,
        different.len(),
    );
    for (address, what) in different.iter().take(40) {
        println!("  {address:#x}: {what}");
    }
    assert!(different.is_empty(), "{path}");
    assert!(share >= least, "{path}");
}

#[test]
fn code_says_what_tables_say_wherever_both_say_something() {
    for (path, least) in FILES {
        let Some(file) = open(path) else { continue };
        agree(path, &file, true, least);
    }
}

#[test]
fn without_symbols_less_is_said_and_nothing_else() {
    for (path, _) in FILES {
        let Some(file) = open(path) else { continue };
        agree(path, &file, false, 0.1);
    }
}

#[test]
fn a_program_is_followed_nearly_whole() {
    if Command::new("gcc").arg("--version").output().is_err() {
        crate::skipped::skipped("gcc is not installed (apt-get install gcc)");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("calls");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/unwind/calls.c");
    let built = Command::new("gcc")
        .args(["-O2", "-fomit-frame-pointer", "-fPIC", "-c", "-o"])
        .args([&program, &source])
        .status();
    assert!(built.unwrap().success());
    let linked = folder.path().join("linked.so");
    let built = Command::new("gcc")
        .args(["-shared", "-Wl,-z,undefs", "-o"])
        .args([&linked, &program])
        .status();
    assert!(built.unwrap().success());
    agree("calls.c", &File::open(&linked).unwrap(), true, 0.7);
}

/// Code at address 0x1000, with functions at these addresses.
fn code(bytes: &[u8], functions: &[u64]) -> Code {
    let mut code = Code {
        functions: functions.iter().map(|&start| (start, start)).collect(),
        ..Code::default()
    };
    code.add(0x1000, bytes);
    code
}

/// The states at instructions, by address.
fn states(code: &Code) -> BTreeMap<u64, Option<State>> {
    let budget = budget();
    let clock = Clock {
        own: Budget::new(MAX_TIME, 0),
        budget: &budget,
    };
    let arch = &crate::unwind::arch::x86_64::ARCHITECTURE;
    let walker = code.walk(arch, &clock).ok().expect("there is time");
    walker
        .known()
        .map(|(at, state)| (code.from(at).1, state))
        .collect()
}

fn stack_at(code: &Code, address: u64) -> Option<i32> {
    match states(code)[&address] {
        Some(State::In(frame)) => frame.stack,
        _ => None,
    }
}

#[test]
fn what_is_pushed_and_popped_is_counted() {
    // push rbx; sub rsp, 0x20; call +0; add rsp, 0x20; pop rbx; ret
    let bytes = [
        0x53, 0x48, 0x83, 0xec, 0x20, 0xe8, 0xf6, 0xff, 0xff, 0xff, 0x48, 0x83, 0xc4, 0x20, 0x5b,
        0xc3,
    ];
    let code = code(&bytes, &[0x1000]);
    let at = |address| stack_at(&code, address);
    assert_eq!(
        (at(0x1000), at(0x1001), at(0x1005)),
        (Some(8), Some(16), Some(48))
    );
    // The function calls itself and can return, so what is behind the call is certain.
    assert_eq!(
        (at(0x100a), at(0x100e), at(0x100f)),
        (Some(48), Some(16), Some(8))
    );
}

#[test]
fn a_return_with_something_on_the_stack_is_none() {
    // push rbx; ret
    assert_eq!(stack_at(&code(&[0x53, 0xc3], &[0x1000]), 0x1000), None);
    // A jump to itself with one word more each time: push rbx; jmp -3
    assert_eq!(
        stack_at(&code(&[0x53, 0xeb, 0xfd], &[0x1000]), 0x1000),
        None
    );
}

#[test]
fn room_of_a_size_that_is_not_known_is_found_by_the_frame_pointer() {
    // push rbp; mov rbp, rsp; sub rsp, rdi; nop; leave; ret
    let bytes = [0x55, 0x48, 0x89, 0xe5, 0x48, 0x29, 0xfc, 0x90, 0xc9, 0xc3];
    let states = states(&code(&bytes, &[0x1000]));
    let Some(State::In(frame)) = states[&0x1007] else {
        panic!("{states:?}");
    };
    assert_eq!(
        (frame.stack, frame.pointer, frame.saved),
        (None, Pointer::Points(16), Some(16))
    );
    assert_eq!(states[&0x1009], Some(State::In(Frame::at_start(8))));
}

#[test]
fn the_entry_and_a_threads_start_are_outermost() {
    // xor ebp, ebp; and rsp, -16; call +0x100
    let bytes = [0x31, 0xed, 0x48, 0x83, 0xe4, 0xf0, 0xe8, 0, 1, 0, 0];
    let mut code = code(&bytes, &[]);
    code.entry = Some(0x1000);
    let all = states(&code);
    assert!(
        all.values().all(|&state| state == Some(State::Outermost)),
        "{all:?}"
    );
    // syscall; test eax, eax; jne +6; xor ebp, ebp; pop rdi; call r9; hlt; ret
    let bytes = [
        0x0f, 0x05, 0x85, 0xc0, 0x75, 0x07, 0x31, 0xed, 0x5f, 0x41, 0xff, 0xd1, 0xf4, 0xc3,
    ];
    let states = states(&self::code(&bytes, &[0x1000]));
    for address in [0x1006, 0x1008, 0x1009] {
        assert_eq!(states[&address], Some(State::Outermost), "{address:#x}");
    }
    assert_eq!(states[&0x1000], Some(State::In(Frame::at_start(8))));
}

#[test]
fn a_signals_trampoline_is_known_by_its_code() {
    // nop; mov rax, 15; syscall
    let bytes = [0x90, 0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05];
    let states = states(&code(&bytes, &[0x1001]));
    assert_eq!(states[&0x1000], Some(State::SignalReturn));
}

proptest::proptest! {
    #[test]
    fn any_code_is_survived(
        bytes in proptest::collection::vec(proptest::num::u8::ANY, 1..400),
        functions in proptest::collection::vec(0x1000_u64..0x1200, 0..8),
        entry in proptest::option::of(0x1000_u64..0x1200),
    ) {
        let mut functions = functions;
        functions.sort_unstable();
        let mut code = code(&bytes, &functions);
        code.entry = entry;
        let arch = &crate::unwind::arch::x86_64::ARCHITECTURE;
        let known = code.known(arch, &budget()).expect("there is time");
        let sorted = known.is_sorted_by(|one, next| one.address <= next.address);
        proptest::prop_assert!(sorted);
    }
}
