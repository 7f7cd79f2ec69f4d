//! Unwind tables in the BPF side's arrays.

use std::collections::HashMap;
use std::time::Instant;

use memtrace_common::unwind::{
    CFA_KIND, CFA_RULE, CFA_UNSUPPORTED, MAX_ROWS, MAX_RULES, NO_ROWS_ROOM, Row, Rule,
};

use super::builder::Identity;
use super::ranges::Ranges;
use super::table::{Source, Table};
use crate::probe::Tables;

/// Index of a table in a [`Store`].
pub type TableId = usize;

/// All tables of a trace, each once.
#[derive(Default)]
pub struct Store {
    tables: Vec<Stored>,
    by_identity: HashMap<Identity, TableId>,
    /// Free rows; `None` until the array is known.
    free: Option<Ranges>,
    /// Rules by what they say, as they are numbered in the array.
    rules: HashMap<Rule, u16>,
}

/// One table.
struct Stored {
    base: u64,
    source: Source,
    len: u32,
    damaged: u64,
    /// Its first row, once it is in the array.
    first: Option<u32>,
    /// Until then; `None` when it has been evicted since.
    waiting: Option<Table>,
    /// Sets of mappings that refer to it.
    users: usize,
}

impl Store {
    /// Adds a table, which is not written yet.
    pub fn add(&mut self, identity: Identity, table: Table) -> TableId {
        let id = self.tables.len();
        self.tables.push(Stored {
            base: table.base,
            source: table.source,
            len: table.rows.len() as u32,
            damaged: table.damaged,
            first: None,
            waiting: Some(table),
            users: 0,
        });
        self.by_identity.insert(identity, id);
        id
    }

    /// The table of this name.
    #[must_use]
    pub fn find(&self, identity: &Identity) -> Option<TableId> {
        self.by_identity.get(identity).copied()
    }

    /// Rows of all tables together.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|table| u64::from(table.len)).sum()
    }

    /// What the rows' addresses are counted from.
    #[must_use]
    pub fn base(&self, id: TableId) -> u64 {
        self.tables[id].base
    }

    /// Source, rows and damaged functions.
    #[must_use]
    pub fn facts(&self, id: TableId) -> (Source, u64, u64) {
        let table = &self.tables[id];
        (table.source, u64::from(table.len), table.damaged)
    }

    /// Whether it was evicted: it has to be built again.
    #[must_use]
    pub fn is_gone(&self, id: TableId) -> bool {
        let table = &self.tables[id];
        table.first.is_none() && table.waiting.is_none()
    }

    /// Whether it is in the array.
    #[must_use]
    pub fn is_placed(&self, id: TableId) -> bool {
        self.tables[id].first.is_some()
    }

    /// First row and number of rows, written into the array now if they were not; for a table for
    /// which there is no room, [`NO_ROWS_ROOM`] and 0.
    ///
    /// `quiet` is when all records had been read last: what was given back before is free.
    pub fn place(&mut self, id: TableId, quiet: Instant, to: &Tables) -> (u32, u32) {
        if self.tables[id].first.is_none() {
            self.write(id, quiet, to);
        }
        let table = &self.tables[id];
        table
            .first
            .map_or((NO_ROWS_ROOM, 0), |first| (first, table.len))
    }

    /// A set of mappings refers to a table, or no longer does.
    pub fn count_user(&mut self, id: TableId, is_new: bool) {
        let users = &mut self.tables[id].users;
        *users = if is_new {
            *users + 1
        } else {
            users.saturating_sub(1)
        };
    }

    fn write(&mut self, id: TableId, quiet: Instant, to: &Tables) {
        let len = self.tables[id].len;
        let all = u32::try_from(to.rows.len()).unwrap_or(u32::MAX);
        let free = self.free.get_or_insert_with(|| Ranges::new(all));
        if len == 0 || len > MAX_ROWS {
            return;
        }
        let Some(first) = free.take(len, quiet) else {
            self.evict();
            return;
        };
        let Some(table) = self.tables[id].waiting.take() else {
            return;
        };
        let rules: Vec<Option<u16>> = table
            .rules
            .iter()
            .map(|&rule| self.number(rule, to))
            .collect();
        for (index, &row) in table.rows.iter().enumerate() {
            to.rows
                .write(first as usize + index, &numbered(row, &rules));
        }
        self.tables[id].first = Some(first);
    }

    /// Gives back the rows of tables that nobody uses. They are free a little later.
    fn evict(&mut self) {
        let Some(free) = &mut self.free else { return };
        for table in &mut self.tables {
            if table.users == 0
                && let Some(first) = table.first.take()
            {
                free.give(first, table.len, Instant::now());
            }
        }
    }

    /// The number of a rule in the array.
    fn number(&mut self, rule: Rule, to: &Tables) -> Option<u16> {
        if let Some(&known) = self.rules.get(&rule) {
            return Some(known);
        }
        let next = u16::try_from(self.rules.len()).ok()?;
        if u32::from(next) >= MAX_RULES {
            return None;
        }
        to.rules.write(usize::from(next), &rule);
        self.rules.insert(rule, next);
        Some(next)
    }
}

/// A row whose rule has the number that it has among all tables' rules.
fn numbered(mut row: Row, rules: &[Option<u16>]) -> Row {
    if row.cfa & CFA_KIND == CFA_RULE {
        let own = usize::from(row.cfa >> 3);
        row.cfa = match rules.get(own) {
            Some(&Some(number)) => number << 3 | CFA_RULE,
            _ => CFA_UNSUPPORTED,
        };
    }
    row
}
