use memtrace_common::unwind::{CFA_GAP, CFA_SP, FP_SAME};

use super::*;
use crate::probe::Tables;
use crate::unwind::ranges::QUARANTINE;

fn arrays(rows: u32) -> (Tables, RowArray) {
    let tables = Tables::in_memory(rows);
    let array = RowArray::new(tables.rows.clone(), tables.rules.clone());
    (tables, array)
}

/// A table of `rows` rows that no other number has.
fn table(number: u16, rows: u32) -> UnwindTable {
    let row = |index| Row {
        pc: index,
        cfa: number << 3 | CFA_SP,
        fp: FP_SAME,
    };
    UnwindTable {
        rows: (0..rows).map(row).collect(),
        source: RowSource::EhFrame,
        ..UnwindTable::default()
    }
}

/// A table with a row for each of these rules.
fn table_of_rules(offsets: impl IntoIterator<Item = i32>) -> UnwindTable {
    let rule = |cfa_offset| Rule {
        cfa_offset,
        ..Rule::default()
    };
    let rules: Vec<_> = offsets.into_iter().map(rule).collect();
    let row = |index| Row {
        pc: index,
        cfa: (index as u16) << 3 | CFA_RULE,
        fp: FP_SAME,
    };
    UnwindTable {
        rows: (0..rules.len() as u32).map(row).collect(),
        rules,
        source: RowSource::EhFrame,
        ..UnwindTable::default()
    }
}

fn written(tables: &Tables, (first, len): (u32, u32)) -> Vec<Row> {
    let indices = first..first + len;
    indices
        .map(|index| {
            tables
                .rows
                .read(index as usize)
                .expect("it is in the array")
        })
        .collect()
}

fn later() -> Instant {
    Instant::now() + QUARANTINE
}

#[test]
fn a_table_is_written_once_and_stays_where_it_is() {
    let (tables, mut array) = arrays(64);
    let mut store = Store::default();
    let now = Instant::now();
    let first = store.add([1; 32], table(1, 20));
    let second = store.add([2; 32], table(2, 20));
    assert!(!store.is_written(first));
    let place = store.write(first, &mut array, now, |_| true).unwrap();
    let other = store.write(second, &mut array, now, |_| true).unwrap();
    assert_eq!(store.write(first, &mut array, now, |_| true), Some(place));
    assert_eq!(written(&tables, place), table(1, 20).rows);
    assert_eq!(written(&tables, other), table(2, 20).rows);
    assert_eq!(store.rows(), 40);
}

#[test]
fn only_tables_that_are_not_in_use_give_way() {
    let (tables, mut array) = arrays(64);
    let mut store = Store::default();
    let now = Instant::now();
    let used = store.add([1; 32], table(1, 30));
    let unused = store.add([2; 32], table(2, 30));
    let new = store.add([3; 32], table(3, 30));
    let place = store.write(used, &mut array, now, |_| true).unwrap();
    let given_up = store.write(unused, &mut array, now, |_| true).unwrap();
    assert_eq!(store.write(new, &mut array, now, |id| id == used), None);
    assert!(store.is_evicted(unused) && store.is_written(used));
    // A process that has not been heard of yet may still have it.
    assert_eq!(store.write(new, &mut array, now, |id| id == used), None);
    assert_eq!(written(&tables, given_up), table(2, 30).rows);
    let soon = Instant::now() + QUARANTINE / 2;
    assert_eq!(store.write(new, &mut array, soon, |id| id == used), None);
    assert_eq!(
        store.write(new, &mut array, later(), |id| id == used),
        Some(given_up)
    );
    assert_eq!(written(&tables, given_up), table(3, 30).rows);
    assert_eq!(written(&tables, place), table(1, 30).rows);
    // There is no table to write, and no room is spent on it.
    assert_eq!(store.write(unused, &mut array, later(), |_| true), None);
}

#[test]
fn an_evicted_table_comes_back_under_its_own_number() {
    let (tables, mut array) = arrays(40);
    let mut store = Store::default();
    let now = Instant::now();
    let first = store.add([1; 32], table(1, 30));
    let second = store.add([2; 32], table(2, 30));
    store.write(first, &mut array, now, |_| false).unwrap();
    assert_eq!(store.write(second, &mut array, now, |_| false), None);
    assert!(store.is_evicted(first));
    assert_eq!(store.add([1; 32], table(1, 30)), first);
    assert!(!store.is_evicted(first));
    let place = store.write(first, &mut array, later(), |_| true).unwrap();
    assert_eq!(written(&tables, place), table(1, 30).rows);
    // It is there, so that another file with the same table changes nothing.
    assert_eq!(store.add([1; 32], table(1, 30)), first);
    assert!(store.is_written(first));
    assert_eq!(store.rows(), 60);
}

#[test]
fn tables_share_their_rules() {
    let (tables, mut array) = arrays(64);
    let mut store = Store::default();
    let now = Instant::now();
    let first = store.add([1; 32], table_of_rules([10, 20, 30]));
    let second = store.add([2; 32], table_of_rules([40, 20, 10]));
    store.write(first, &mut array, now, |_| true).unwrap();
    let place = store.write(second, &mut array, now, |_| true).unwrap();
    let offsets: Vec<_> = written(&tables, place)
        .iter()
        .map(|row| {
            assert_eq!(row.cfa & CFA_KIND, CFA_RULE);
            tables
                .rules
                .read(usize::from(row.cfa >> 3))
                .unwrap()
                .cfa_offset
        })
        .collect();
    assert_eq!(offsets, [40, 20, 10]);
    assert_eq!(array.numbers.len(), 4);
}

#[test]
fn a_rule_for_which_there_is_no_number_is_not_supported() {
    let (tables, mut array) = arrays(MAX_RULES + 64);
    let mut store = Store::default();
    let now = Instant::now();
    let all = store.add([1; 32], table_of_rules(0..MAX_RULES as i32));
    let more = store.add([2; 32], table_of_rules([5, -1]));
    store.write(all, &mut array, now, |_| true).unwrap();
    let place = store.write(more, &mut array, now, |_| true).unwrap();
    let kinds: Vec<_> = written(&tables, place).iter().map(|row| row.cfa).collect();
    assert_eq!(kinds, [5 << 3 | CFA_RULE, CFA_UNSUPPORTED]);
}

#[test]
fn a_gap_stays_a_gap() {
    let gap = Row {
        pc: 7,
        cfa: CFA_GAP,
        fp: FP_SAME,
    };
    assert_eq!(renumbered(gap, &[Some(3)]), gap);
}
