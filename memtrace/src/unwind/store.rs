//! The unwind tables of a trace, each once, and where they are in the BPF side's arrays.

use std::time::Instant;

use foldhash::HashMap;
use memtrace_common::unwind::{
    CFA_KIND, CFA_RULE, CFA_UNSUPPORTED, MAX_ROWS, MAX_RULES, Row, Rule,
};

use super::ranges::Ranges;
use super::table::{RowSource, TableIdentity, UnwindTable};
use crate::probe::SharedArray;

/// Index of a table in a [`Store`].
pub type TableId = usize;

/// All tables of a trace, each once.
#[derive(Default)]
pub struct Store {
    tables: Vec<Stored>,
    by_identity: HashMap<TableIdentity, TableId>,
}

/// One table.
struct Stored {
    base: u64,
    facts: Facts,
    rows: Placement,
}

/// What a report says of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Where its rows come from.
    pub source: RowSource,
    /// How many rows it has.
    pub rows: u32,
    /// How many of these are of code that no section says anything of.
    pub from_code: u64,
    /// Functions that were left out, because what is said of them is damaged.
    pub damaged: u64,
}

/// Where a table's rows are.
enum Placement {
    /// Here, not yet in the array.
    Waiting(UnwindTable),
    /// In the array, from this row on.
    Written(u32),
    /// Nowhere: they had to give way to others'.
    Evicted,
}

impl Facts {
    /// Whether the table has nothing that stacks can be followed by.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.source == RowSource::None && self.from_code == 0
    }
}

impl Store {
    /// Adds a table, which is not written yet. One that is known already stays what it is, unless
    /// it was evicted.
    pub fn add(&mut self, identity: TableIdentity, table: UnwindTable) -> TableId {
        if let Some(id) = self.find(&identity) {
            if self.is_evicted(id) {
                self.tables[id].rows = Placement::Waiting(table);
            }
            return id;
        }
        let id = self.tables.len();
        self.tables.push(Stored {
            base: table.base,
            facts: Facts {
                source: table.source,
                rows: table.rows.len() as u32,
                from_code: table.from_code,
                damaged: table.damaged,
            },
            rows: Placement::Waiting(table),
        });
        self.by_identity.insert(identity, id);
        id
    }

    /// The table with this identity.
    #[must_use]
    pub fn find(&self, identity: &TableIdentity) -> Option<TableId> {
        self.by_identity.get(identity).copied()
    }

    /// Rows of all tables together.
    #[must_use]
    pub fn rows(&self) -> u64 {
        let tables = self.tables.iter();
        tables.map(|table| u64::from(table.facts.rows)).sum()
    }

    /// Rows of tables that are not written yet, which are in memory meanwhile.
    #[must_use]
    pub fn waiting_rows(&self) -> usize {
        let tables = self.tables.iter();
        let waiting = tables.filter_map(|table| match &table.rows {
            Placement::Waiting(table) => Some(table.rows.len()),
            _ => None,
        });
        waiting.sum()
    }

    /// What the rows' addresses are counted from.
    #[must_use]
    pub fn base(&self, id: TableId) -> u64 {
        self.tables[id].base
    }

    /// What a report says of the table.
    #[must_use]
    pub fn facts(&self, id: TableId) -> Facts {
        self.tables[id].facts
    }

    /// Whether it had to give way to others, so that it has to be built again.
    #[must_use]
    pub fn is_evicted(&self, id: TableId) -> bool {
        matches!(self.tables[id].rows, Placement::Evicted)
    }

    /// Whether it is in the array.
    #[must_use]
    pub fn is_written(&self, id: TableId) -> bool {
        matches!(self.tables[id].rows, Placement::Written(_))
    }

    /// First row and number of rows, which are written now if they were not before; `None` when
    /// there is not enough room. Tables that are not `in_use` then give theirs up, which is free a
    /// little later.
    ///
    /// `all_read` is when all records had last been read: see [`Ranges::take`].
    pub fn write(
        &mut self,
        id: TableId,
        array: &mut RowArray,
        all_read: Instant,
        in_use: impl Fn(TableId) -> bool,
    ) -> Option<(u32, u32)> {
        let table = &mut self.tables[id];
        if let Placement::Waiting(waiting) = &table.rows {
            let Some(first) = array.write(waiting, all_read) else {
                self.evict(array, in_use);
                return None;
            };
            table.rows = Placement::Written(first);
        }
        match table.rows {
            Placement::Written(first) => Some((first, table.facts.rows)),
            _ => None,
        }
    }

    /// Gives back the rows of tables that are not in use.
    fn evict(&mut self, array: &mut RowArray, in_use: impl Fn(TableId) -> bool) {
        for (id, table) in self.tables.iter_mut().enumerate() {
            if let Placement::Written(first) = table.rows
                && !in_use(id)
            {
                array
                    .free
                    .give_back(first, table.facts.rows, Instant::now());
                table.rows = Placement::Evicted;
            }
        }
    }
}

/// The BPF side's arrays of rows and rules.
pub struct RowArray {
    rows: SharedArray<Row>,
    rules: SharedArray<Rule>,
    free: Ranges,
    /// Rules by what they say, as they are numbered in the array.
    numbers: HashMap<Rule, u16>,
}

impl RowArray {
    /// Nothing is written yet.
    #[must_use]
    pub fn new(rows: SharedArray<Row>, rules: SharedArray<Rule>) -> Self {
        let len = u32::try_from(rows.len()).unwrap_or(u32::MAX);
        Self {
            rows,
            rules,
            free: Ranges::new(len),
            numbers: HashMap::default(),
        }
    }

    /// Writes a table and returns its first row; `None` when there is not enough room.
    fn write(&mut self, table: &UnwindTable, all_read: Instant) -> Option<u32> {
        let len = u32::try_from(table.rows.len()).ok()?;
        if len > MAX_ROWS {
            return None;
        }
        let first = self.free.take(len, all_read)?;
        let rules = table.rules.iter();
        let numbers: Vec<Option<u16>> = rules.map(|&rule| self.number(rule)).collect();
        for (index, &row) in table.rows.iter().enumerate() {
            let row = renumbered(row, &numbers);
            self.rows.write(first as usize + index, &row);
        }
        Some(first)
    }

    /// The number of a rule in the array; `None` when there are too many.
    fn number(&mut self, rule: Rule) -> Option<u16> {
        if let Some(&known) = self.numbers.get(&rule) {
            return Some(known);
        }
        let next = u16::try_from(self.numbers.len()).ok()?;
        if u32::from(next) >= MAX_RULES {
            return None;
        }
        self.rules.write(usize::from(next), &rule);
        self.numbers.insert(rule, next);
        Some(next)
    }
}

/// A row whose rule has the number that it has among all tables' rules.
fn renumbered(mut row: Row, numbers: &[Option<u16>]) -> Row {
    if row.cfa & CFA_KIND == CFA_RULE {
        let own = usize::from(row.cfa >> 3);
        row.cfa = match numbers.get(own) {
            Some(&Some(number)) => number << 3 | CFA_RULE,
            _ => CFA_UNSUPPORTED,
        };
    }
    row
}

#[cfg(test)]
mod tests;
