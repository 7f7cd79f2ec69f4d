//! The files that traced processes run, and the state of their unwind tables.

use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::HashMap;

use super::builder::{Builder, Built};
use super::store::{Facts, Store, TableId};
use super::table::RowSource;
use crate::options::Unwind;
use crate::process::maps::AddressSpace;
use crate::process::modules::Module;
use crate::profile::{ModuleUnwind, UnwoundBy};
use crate::signals;

/// The fewest rows that there is room for, of 8 bytes each: programs that are started later need
/// some too.
const LEAST_ROWS: u32 = 1 << 20;

/// The most rows that there is room for.
const MOST_ROWS: u32 = 1 << 24;

/// How often a finished table is looked for while waiting.
const POLL: Duration = Duration::from_millis(1);

/// Files and their tables: what can be prepared before the BPF side is there to have them.
pub struct Library {
    mode: Unwind,
    /// `None` when tables are not used, or the thread could not be started.
    builder: Option<Builder>,
    /// By [`Module::id`].
    files: HashMap<u32, CodeFile>,
    store: Store,
    awaiting_exec: Option<u32>,
}

/// A file that is mapped as code.
struct CodeFile {
    path: Arc<str>,
    build_id: Option<String>,
    table: TableState,
}

/// How far a file's table has come.
pub enum TableState {
    /// It has been asked for.
    Building,
    /// It is in the store.
    Built(TableId),
    /// There is none, and why.
    Refused(String),
}

/// Whether stacks are taken by unwind tables.
pub fn uses_tables(mode: Unwind) -> bool {
    matches!(mode, Unwind::Auto | Unwind::Dwarf)
}

impl Library {
    /// Without files yet. Starts a thread that builds tables, if `mode` uses them.
    #[must_use]
    pub fn new(mode: Unwind) -> Self {
        let builder = uses_tables(mode).then(Builder::start).flatten();
        Self::with_builder(mode, builder)
    }

    pub(super) fn with_builder(mode: Unwind, builder: Option<Builder>) -> Self {
        Self {
            mode,
            builder,
            files: HashMap::default(),
            store: Store::default(),
            awaiting_exec: None,
        }
    }

    /// Leaves out process `pid` until it replaces its program: until then it is memtrace's own,
    /// which COMMAND is started from.
    pub fn await_exec(&mut self, pid: u32) {
        self.awaiting_exec = Some(pid);
    }

    /// Whether process `pid` is left out.
    pub(super) fn is_awaiting_exec(&self, pid: u32) -> bool {
        self.awaiting_exec == Some(pid)
    }

    /// Process `pid` has replaced its program.
    pub(super) fn execed(&mut self, pid: u32) {
        self.awaiting_exec = self.awaiting_exec.filter(|&awaited| awaited != pid);
    }

    /// Whether there are tables at all.
    #[must_use]
    pub fn uses_tables(&self) -> bool {
        uses_tables(self.mode)
    }

    /// Begins to build what a process will need.
    pub fn prepare(&mut self, space: &AddressSpace) {
        if !self.uses_tables() {
            return;
        }
        for module in space.code().filter_map(|mapping| mapping.module()) {
            self.table_of(module);
        }
    }

    /// Waits until what was asked for is built, at most for `longest`, or until a signal arrives.
    pub fn wait(&mut self, longest: Duration) {
        let end = Instant::now() + longest;
        while self.is_building() && Instant::now() < end && signals::check().is_ok() {
            std::thread::sleep(POLL);
            while let Some(built) = self.try_next() {
                self.record(built);
            }
        }
    }

    fn is_building(&self) -> bool {
        let builder = self.builder.as_ref();
        builder.is_some_and(|builder| builder.outstanding() > 0)
    }

    /// How many rows there should be room for.
    #[must_use]
    pub fn rows_wanted(&self) -> u32 {
        if !self.uses_tables() {
            return 1;
        }
        let twice = u32::try_from(self.store.rows().saturating_mul(2)).unwrap_or(MOST_ROWS);
        twice.saturating_add(LEAST_ROWS).min(MOST_ROWS)
    }

    /// The next table, if one is ready.
    pub(super) fn try_next(&mut self) -> Option<Built> {
        self.builder.as_mut()?.try_next()
    }

    /// Waits for the next table; never returns when none has been asked for.
    pub(super) async fn next(&mut self) -> Built {
        match &mut self.builder {
            Some(builder) => builder.next().await,
            None => std::future::pending().await,
        }
    }

    /// Keeps a table that was built, or why there is none.
    pub(super) fn record(&mut self, built: Built) {
        let table = match built.table {
            Ok((_, Some(table)))
                if self.store.waiting_rows() + table.rows.len() > MOST_ROWS as usize =>
            {
                TableState::Refused("there was no room for its tables".to_owned())
            }
            Ok((identity, Some(table))) => TableState::Built(self.store.add(identity, table)),
            Ok((identity, None)) => match self.store.find(&identity) {
                Some(id) => TableState::Built(id),
                None => TableState::Refused("its table was lost".to_owned()),
            },
            Err(refused) => TableState::Refused(refused.0),
        };
        if let Some(file) = self.files.get_mut(&built.module) {
            file.build_id = built.build_id;
            file.table = table;
        }
    }

    /// The table of a file. It is asked for when the file is seen first, and again when it had to
    /// give way to others.
    pub(super) fn table_of(&mut self, module: &Arc<Module>) -> &TableState {
        let Self {
            builder,
            files,
            store,
            ..
        } = self;
        let mut ask = |again| {
            let builder = builder.as_mut();
            builder.is_some_and(|builder| builder.ask(module, again))
        };
        let file = match files.entry(module.id()) {
            Entry::Occupied(known) => {
                let known = known.into_mut();
                if matches!(known.table, TableState::Built(id) if store.is_evicted(id)) && ask(true)
                {
                    known.table = TableState::Building;
                }
                known
            }
            Entry::Vacant(new) => new.insert(CodeFile {
                path: Arc::clone(module.path()),
                build_id: None,
                table: if module.file().is_none() {
                    TableState::Refused(module.why_not_open())
                } else if ask(false) {
                    TableState::Building
                } else {
                    TableState::Refused("there is no thread that builds tables".to_owned())
                },
            }),
        };
        &file.table
    }

    /// All tables.
    pub(super) fn store(&mut self) -> &mut Store {
        &mut self.store
    }

    /// The files, by path, and what their frames are found by.
    #[must_use]
    pub fn modules(&self) -> Vec<ModuleUnwind> {
        let files = self.files.values();
        let mut modules: Vec<_> = files.map(|file| self.describe(file)).collect();
        modules.sort_by(|a, b| (&a.path, &a.build_id).cmp(&(&b.path, &b.build_id)));
        modules.dedup();
        modules
    }

    fn describe(&self, file: &CodeFile) -> ModuleUnwind {
        let without = match self.mode {
            Unwind::Dwarf => UnwoundBy::Nothing,
            _ => UnwoundBy::FramePointers,
        };
        let (unwind, facts, why) = match &file.table {
            TableState::Building => (
                UnwoundBy::Nothing,
                None,
                Some("its tables were not built when tracing ended".to_owned()),
            ),
            TableState::Refused(why) => (without, None, Some(why.clone())),
            &TableState::Built(id) => {
                let facts = self.store.facts(id);
                let (unwind, why) = match facts.source {
                    _ if facts.is_empty() => (without, Some("it has no unwind tables".to_owned())),
                    RowSource::None if self.store.is_written(id) => {
                        (UnwoundBy::Code, Some("it has no unwind tables".to_owned()))
                    }
                    _ if self.store.is_written(id) => (UnwoundBy::Tables, damage(facts)),
                    _ => (
                        UnwoundBy::Nothing,
                        Some("there was no room for its tables".to_owned()),
                    ),
                };
                (unwind, Some(facts), why)
            }
        };
        ModuleUnwind {
            path: Arc::clone(&file.path),
            build_id: file.build_id.clone(),
            unwind,
            source: facts.and_then(sources),
            rows: facts.map_or(0, |facts| u64::from(facts.rows)),
            code_rows: facts.map_or(0, |facts| facts.from_code),
            why,
        }
    }
}

/// What a table was built from, in words.
fn sources(facts: Facts) -> Option<String> {
    let sections: &[&str] = match facts.source {
        RowSource::None => &[],
        RowSource::EhFrame => &[".eh_frame"],
        RowSource::DebugFrame => &[".debug_frame"],
        RowSource::Both => &[".eh_frame", ".debug_frame"],
    };
    let code: &[&str] = if facts.from_code > 0 { &["code"] } else { &[] };
    let sources = [sections, code].concat();
    (!sources.is_empty()).then(|| sources.join(" and "))
}

fn damage(facts: Facts) -> Option<String> {
    let damaged = facts.damaged;
    (damaged > 0).then(|| format!("{damaged} damaged entries of its tables are left out"))
}
