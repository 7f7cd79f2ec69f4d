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
    let walker = code.walk(input.architecture, &clock).ok().expect("there is time");
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
                agreement.different.insert(address, format!("{row:?} {state:?}"));
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

/// At each address of which both say something, they say the same.
fn agree(path: &Path, file: &File, uses_symbols: bool, least: f64) {
    let t = std::time::Instant::now();
    let agreement = compare(file, uses_symbols);
    let Agreement {
        covered,
        decided,
        special,
        different,
    } = agreement;
    let share = decided as f64 / covered as f64;
    println!("{:?}", t.elapsed());
    println!(
        "{}: {decided} of {covered} bytes decided ({:.1}%), {special} not compared, {} different",
        path.display(),
        share * 100.0,
        different.len(),
    );
    for (address, what) in different.iter().take(40) {
        println!("  {address:#x}: {what}");
    }
    if std::env::var("NOASSERT").is_ok() { return; }
    assert!(different.is_empty(), "{}", path.display());
    assert!(share >= least, "{}", path.display());
}

#[test]
fn code_says_what_tables_say_wherever_both_say_something() {
    for path in FILES {
        if std::env::var("ONLY").is_ok_and(|only| !path.contains(&only)) { continue; }
        let Some(file) = open(path) else { continue };
        agree(Path::new(path), &file, true, 0.0);
        agree(Path::new(path), &file, false, 0.0);
    }
}
