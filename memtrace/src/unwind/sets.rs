//! Sets of mappings in the BPF side's table, and which process has which.
//!
//! A process's code is a set of mappings. Processes with the same code at the same addresses share
//! a set: as a rule, all that were forked from one another. A set does not change once a process
//! refers to it; what changes is which set that is. So the BPF side, which may look at any moment,
//! only ever sees sets that are whole.

use std::sync::Arc;
use std::time::Instant;

use foldhash::{HashMap, HashSet};
use log::{debug, warn};
use memtrace_common::process::ProcessSlot;
use memtrace_common::unwind::{
    MAPPINGS_LEN, MAX_MAPPINGS, Mapping as CodeMapping, NO_ROWS_NONE, NO_ROWS_ROOM, NO_ROWS_YET,
    SetHandle,
};

use super::files::{Library, TableState};
use super::ranges::Ranges;
use super::store::{RowArray, TableId};
use crate::probe::{SharedArray, Tables};
use crate::process::maps::{AddressSpace, Mapping};
use crate::process::modules::Module;
use crate::process::processes::ProcessId;

/// Names a set; never given twice.
pub type SetId = u32;

/// All sets of a trace.
pub struct Sets {
    mappings: SharedArray<CodeMapping>,
    processes: SharedArray<ProcessSlot>,
    rows: RowArray,
    by_id: HashMap<SetId, Set>,
    by_key: HashMap<Key, SetId>,
    members: HashMap<ProcessId, Member>,
    /// How often sets refer to a table.
    table_uses: HashMap<TableId, usize>,
    free: Ranges,
    last_id: SetId,
    /// When all records had last been read.
    all_read: Instant,
    /// Whether it has been said that something has no room.
    has_warned: bool,
}

/// A set of mappings in the BPF side's table.
struct Set {
    handle: SetHandle,
    key: Key,
    /// What it was made of.
    space: AddressSpace,
    members: HashSet<ProcessId>,
    /// Files whose tables are not there yet.
    awaited: Vec<u32>,
    tables: Vec<TableId>,
}

/// What a set is known by.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    mappings: Arc<[CodeMapping]>,
    /// The files that are mapped, by [`Module::id`]. Those whose tables are not there, or have no
    /// room, would otherwise look the same as others at the same addresses, and get the others'
    /// tables later.
    modules: Arc<[Option<u32>]>,
}

/// A process that has a set.
struct Member {
    at: Seat,
    set: SetId,
}

/// Where the BPF side's table says which set a process has.
#[derive(Clone, Copy, Debug)]
pub struct Seat {
    /// Its slot.
    pub slot: u32,
    /// How often the process had replaced its program when it ran what the set is of.
    pub generation: u32,
}

/// What a set is made of.
#[derive(Default)]
struct Content {
    mappings: Vec<CodeMapping>,
    modules: Vec<Option<u32>>,
    tables: Vec<TableId>,
    awaited: Vec<u32>,
}

impl Sets {
    /// No set yet, in tables that are empty.
    #[must_use]
    pub fn new(tables: Tables) -> Self {
        Self {
            mappings: tables.mappings,
            processes: tables.processes,
            rows: RowArray::new(tables.rows, tables.rules),
            by_id: HashMap::default(),
            by_key: HashMap::default(),
            members: HashMap::default(),
            table_uses: HashMap::default(),
            free: Ranges::new(MAPPINGS_LEN),
            last_id: 0,
            all_read: Instant::now(),
            has_warned: false,
        }
    }

    /// All records that there were at `until` have been read: whatever was forked before is known.
    pub fn all_records_read(&mut self, until: Instant) {
        self.all_read = until;
    }

    /// The set that a process has.
    #[must_use]
    pub fn set_of(&self, process: ProcessId) -> Option<SetId> {
        Some(self.members.get(&process)?.set)
    }

    /// The slot of a process that has a set.
    #[must_use]
    pub fn slot_of(&self, process: ProcessId) -> Option<u32> {
        Some(self.members.get(&process)?.at.slot)
    }

    /// The processes that have a set.
    pub fn processes(&self) -> impl Iterator<Item = ProcessId> {
        self.members.keys().copied()
    }

    /// Gives a process the set of another one, from which it was forked; false when that has none.
    pub fn inherit(&mut self, at: Seat, process: ProcessId, parent: ProcessId) -> bool {
        let Some(set) = self.set_of(parent) else {
            return false;
        };
        self.join(at, process, set);
        true
    }

    /// Gives a process a set with the code of `space`. It keeps what it has where `space` could not
    /// be read or there is no room.
    pub fn assign(
        &mut self,
        at: Seat,
        process: ProcessId,
        space: &AddressSpace,
        library: &mut Library,
    ) {
        if space.is_gone() {
            return;
        }
        let content = self.content(space, library);
        if let Some(set) = self.find_or_add(content, space) {
            self.join(at, process, set);
        }
    }

    /// A file's table has been built, or refused: processes that run the file have another set now.
    pub fn table_arrived(&mut self, module: u32, library: &mut Library) {
        let sets = self.by_id.values();
        let awaiting: Vec<_> = sets
            .filter(|set| set.awaited.contains(&module))
            .map(|set| (set.space.clone(), Vec::from_iter(set.members.clone())))
            .collect();
        for (space, members) in awaiting {
            let content = self.content(&space, library);
            let Some(set) = self.find_or_add(content, &space) else {
                continue;
            };
            for process in members {
                if let Some(at) = self.members.get(&process).map(|member| member.at) {
                    self.join(at, process, set);
                }
            }
        }
    }

    /// A process no longer refers to its set.
    pub fn leave(&mut self, process: ProcessId) {
        if let Some(member) = self.members.remove(&process) {
            self.remove_member(process, member.set);
        }
    }

    /// A process refers to a set from now on.
    fn join(&mut self, at: Seat, process: ProcessId, id: SetId) {
        let Some(set) = self.by_id.get_mut(&id) else {
            return;
        };
        set.members.insert(process);
        let Seat { slot, generation } = at;
        // Even if it is the one that the process has: it can be one that it inherited, of a program
        // that it has replaced meanwhile.
        let stored = self.processes.set_mappings(slot, generation, set.handle);
        debug!("process {process} in slot {slot}: set {id}, stored: {stored}");
        let before = self.members.insert(process, Member { at, set: id });
        if let Some(before) = before.filter(|before| before.set != id) {
            self.remove_member(process, before.set);
        }
    }

    fn remove_member(&mut self, process: ProcessId, id: SetId) {
        let Some(set) = self.by_id.get_mut(&id) else {
            return;
        };
        set.members.remove(&process);
        if !set.members.is_empty() {
            return;
        }
        let Some(unused) = self.by_id.remove(&id) else {
            return;
        };
        self.by_key.remove(&unused.key);
        for table in unused.tables {
            if let Some(uses) = self.table_uses.get_mut(&table) {
                *uses = uses.saturating_sub(1);
            }
        }
        // The record of a child that was forked with it may not have been read yet. When it is, the
        // child gets another set, and only then is this free.
        let handle = unused.handle;
        self.free
            .give_back(handle.first(), handle.len(), Instant::now());
    }

    /// The set with this content, written if it is new; `None` when it is empty or has no room.
    fn find_or_add(&mut self, content: Content, space: &AddressSpace) -> Option<SetId> {
        let key = Key {
            mappings: content.mappings.into(),
            modules: content.modules.into(),
        };
        if let Some(&known) = self.by_key.get(&key) {
            return Some(known);
        }
        let len = u32::try_from(key.mappings.len()).ok();
        let len = len.filter(|&len| len > 0)?;
        let id = self.last_id.checked_add(1)?;
        let Some(first) = self.free.take(len, self.all_read) else {
            self.warn(|| {
                format!(
                    "all processes together have more than {MAPPINGS_LEN} different mappings of \
                     code; stacks of some are cut short"
                )
            });
            return None;
        };
        self.last_id = id;
        for (index, mapping) in key.mappings.iter().enumerate() {
            self.mappings.write(first as usize + index, mapping);
        }
        for &table in &content.tables {
            *self.table_uses.entry(table).or_default() += 1;
        }
        debug!("set {id}: {len} mappings of code");
        self.by_key.insert(key.clone(), id);
        let set = Set {
            handle: SetHandle::new(first, len, id),
            key,
            space: space.clone(),
            members: HashSet::default(),
            awaited: content.awaited,
            tables: content.tables,
        };
        self.by_id.insert(id, set);
        Some(id)
    }

    /// What a set for `space` is made of. Tables that it needs are written, or asked for.
    fn content(&mut self, space: &AddressSpace, library: &mut Library) -> Content {
        let mut content = Content::default();
        for mapping in space.code() {
            let module = mapping.module();
            content.modules.push(module.map(|module| module.id()));
            let rows = match module {
                Some(module) => self.rows_of(mapping, module, library, &mut content),
                None => CodeMapping {
                    first: NO_ROWS_NONE,
                    ..CodeMapping::default()
                },
            };
            content.mappings.push(CodeMapping {
                start: mapping.start,
                end: mapping.end,
                ..rows
            });
        }
        if content.mappings.len() > MAX_MAPPINGS as usize {
            self.warn(|| {
                format!(
                    "a process has more than {MAX_MAPPINGS} mappings of code; stacks end in those \
                     beyond"
                )
            });
            content.mappings.truncate(MAX_MAPPINGS as usize);
            content.modules.truncate(MAX_MAPPINGS as usize);
        }
        content
    }

    /// Where the rows for a mapping are. Adds the file's table to those that `content` has, or to
    /// those that it awaits.
    fn rows_of(
        &mut self,
        mapping: &Mapping,
        module: &Arc<Module>,
        library: &mut Library,
        content: &mut Content,
    ) -> CodeMapping {
        let without = |why| CodeMapping {
            first: why,
            ..CodeMapping::default()
        };
        let id = match library.table_of(module) {
            TableState::Refused(_) => return without(NO_ROWS_NONE),
            TableState::Building => {
                content.awaited.push(module.id());
                return without(NO_ROWS_YET);
            }
            &TableState::Built(id) => id,
        };
        let store = library.store();
        let layout = module.layout();
        let range = mapping.start..mapping.end;
        let bias = layout.and_then(|layout| layout.bias_of(range, mapping.offset));
        let Some(bias) = bias.filter(|_| !store.facts(id).is_empty()) else {
            return without(NO_ROWS_NONE);
        };
        let (uses, tables) = (&self.table_uses, &content.tables);
        // What this content has is not counted yet.
        let in_use = |id| uses.get(&id).is_some_and(|&uses| uses > 0) || tables.contains(&id);
        let written = store.write(id, &mut self.rows, self.all_read, in_use);
        let (first, rows) = written.unwrap_or((NO_ROWS_ROOM, 0));
        content.tables.push(id);
        CodeMapping {
            bias: bias.wrapping_add(store.base(id)),
            first,
            rows,
            ..CodeMapping::default()
        }
    }

    /// Says once that something has no room.
    fn warn(&mut self, what: impl FnOnce() -> String) {
        if !std::mem::replace(&mut self.has_warned, true) {
            warn!("{}", what());
        }
    }
}
