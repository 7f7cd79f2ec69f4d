//! Unwind tables: built from the files that traced processes map, given to the BPF side, and
//! which process has which.
//!
//! Each process's code is a set of mappings in the BPF side's table. Processes with the same code at
//! the same addresses share a set: all that were forked from one another, as a rule. A set does not
//! change once a process refers to it; what changes is which set that is.

pub mod arch;
pub mod build;
mod builder;
pub mod cache;
mod format;
mod ranges;
mod store;
pub mod table;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{debug, warn};
use memtrace_common::unwind::{
    MAPPINGS_LEN, MAX_MAPPINGS, Mapping, NO_ROWS_NONE, NO_ROWS_YET, SetHandle, StackEnd,
};

use self::builder::{Builder, Built};
use self::ranges::Ranges;
use self::store::{Store, TableId};
use self::table::Source;
use crate::options::Unwind;
use crate::probe::Tables;
use crate::process::maps::AddressSpace;
use crate::process::modules::Module;
use crate::process::processes::{ProcessId, Processes};
use crate::profile::{ModuleUnwind, UnwoundBy};

/// The fewest rows that there is room for, of 8 bytes each: programs that are started later need
/// some too.
const LEAST_ROWS: u32 = 1 << 20;

/// The most.
const MOST_ROWS: u32 = 1 << 24;

/// A process that began less long ago still maps its libraries.
const STARTING: Duration = Duration::from_secs(4);

/// How often the mappings of processes that have children are read again: what they map meanwhile,
/// the next child has.
const PARENTS_PAUSE: Duration = Duration::from_millis(250);

/// Processes whose mappings are read in one tick, at most: a tenth of a millisecond or two for each.
const MOST_LOOKS: usize = 32;

/// After an address that was in no mapping, mappings are not read again sooner than this; twice as
/// long after each time that it did not help.
const FIRST_PAUSE: Duration = Duration::from_millis(5);

/// And not later than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

type SetId = u32;

/// Which process has which unwind tables.
pub struct Unwinder {
    mode: Unwind,
    builder: Builder,
    /// By [`Module::id`].
    modules: HashMap<u32, Known>,
    store: Store,
    sets: HashMap<SetId, Set>,
    by_content: HashMap<Arc<[Mapping]>, SetId>,
    members: HashMap<ProcessId, Member>,
    free: Ranges,
    /// The serial number of the last set.
    serial: u32,
    /// When all records had been read last.
    quiet: Instant,
    parents_due: Instant,
    /// Processes that replaced their program lately, or were found just begun.
    starting: Vec<(u32, ProcessId, Instant)>,
    /// Processes with code at addresses that were in no mapping: when they may be looked at again,
    /// and how long the pause is then.
    stumbled: HashMap<ProcessId, (Instant, Duration)>,
    is_full: bool,
    /// A process that is still memtrace's own program: COMMAND, before its exec.
    pub held: Option<u32>,
}

/// A mapped file.
struct Known {
    path: Arc<str>,
    build_id: Option<String>,
    state: State,
}

enum State {
    Building,
    Table(TableId),
    None(String),
}

/// A set of mappings in the BPF side's table.
struct Set {
    handle: SetHandle,
    content: Arc<[Mapping]>,
    space: AddressSpace,
    members: HashSet<ProcessId>,
    /// Files whose tables are not there yet.
    waits: Vec<u32>,
    tables: Vec<TableId>,
}

struct Member {
    slot: u32,
    set: SetId,
}

impl Default for Unwinder {
    fn default() -> Self {
        Self::new(Unwind::Off)
    }
}

impl Unwinder {
    /// No process yet.
    #[must_use]
    pub fn new(mode: Unwind) -> Self {
        let now = Instant::now();
        Self {
            mode,
            builder: Builder::start(),
            modules: HashMap::new(),
            store: Store::default(),
            sets: HashMap::new(),
            by_content: HashMap::new(),
            members: HashMap::new(),
            free: Ranges::new(MAPPINGS_LEN),
            serial: 0,
            quiet: now,
            parents_due: now,
            starting: Vec::new(),
            stumbled: HashMap::new(),
            is_full: false,
            held: None,
        }
    }

    /// Whether the native frames of a stack that ends so are right, as far as they go.
    #[must_use]
    pub fn is_exact(&self, end: StackEnd) -> bool {
        self.uses_tables() && end != StackEnd::FramePointers
    }

    fn uses_tables(&self) -> bool {
        matches!(self.mode, Unwind::Auto | Unwind::Dwarf)
    }

    /// Begins to build what a process will need.
    pub fn prepare(&mut self, space: &AddressSpace) {
        if self.uses_tables() {
            for (module, _) in modules_of(space) {
                self.know(module);
            }
        }
    }

    /// Waits until what was asked for is built, at most for `longest`.
    pub fn wait(&mut self, longest: Duration) {
        let end = Instant::now() + longest;
        while self.builder.outstanding() > 0 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
            while let Some(built) = self.builder.try_next() {
                self.learn(built);
            }
        }
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

    /// Takes a process that was found or forked.
    pub fn add(&mut self, slot: u32, process: ProcessId, processes: &Processes, to: &Tables) {
        let is_held = self.held == Some(processes.get(process).pid);
        if !self.uses_tables() || is_held || self.members.contains_key(&process) {
            return;
        }
        let parents = processes.forked_from(process).and_then(|parent| {
            let member = self.members.get(&parent)?;
            Some(member.set)
        });
        if let Some(set) = parents {
            // It has been inherited in the kernel too, unless it was forked just before its
            // parent's was changed.
            self.join(slot, process, set, to);
        } else if let Some(space) = processes.known_space(process) {
            self.enter(slot, process, &space, to);
            self.starting.push((slot, process, Instant::now()));
        }
    }

    /// Takes a process that has replaced its program.
    pub fn execed(&mut self, slot: u32, process: ProcessId, processes: &Processes, to: &Tables) {
        if !self.uses_tables() {
            return;
        }
        self.held = self.held.filter(|&held| held != processes.get(process).pid);
        self.leave(process);
        if let Some(space) = processes.known_space(process) {
            self.enter(slot, process, &space, to);
        }
        self.starting
            .retain(|&(_, starting, _)| starting != process);
        self.starting.push((slot, process, Instant::now()));
    }

    /// Takes the end of a process.
    pub fn ended(&mut self, process: ProcessId) {
        self.leave(process);
        self.stumbled.remove(&process);
        self.starting
            .retain(|&(_, starting, _)| starting != process);
    }

    /// Gives a process the mappings of `space`.
    pub fn enter(&mut self, slot: u32, process: ProcessId, space: &AddressSpace, to: &Tables) {
        if !self.uses_tables() || space.is_gone() {
            return;
        }
        let (content, tables, waits) = self.content(space, to);
        if let Some(member) = self.members.get(&process)
            && let Some(set) = self.sets.get(&member.set)
            && set.content[..] == content[..]
        {
            // The kernel side may have cleared it meanwhile, at an exec whose record is to come.
            to.processes.set_mappings(slot, set.handle);
            debug!("process {process}: still set {}", member.set);
            return;
        }
        let known = self.by_content.get(&content[..]).copied();
        let set = known.or_else(|| self.new_set(content, tables, waits, space, to));
        if let Some(set) = set {
            self.join(slot, process, set, to);
        }
    }

    /// Takes a table that was built.
    pub fn take(&mut self, built: Built, to: &Tables) {
        let module = built.module;
        self.learn(built);
        let waiting = self.sets.values().filter(|set| set.waits.contains(&module));
        let waiting: Vec<_> = waiting
            .flat_map(|set| {
                let members = set.members.iter();
                members.map(|&process| (process, set.space.clone()))
            })
            .collect();
        for (process, space) in waiting {
            if let Some(Member { slot, .. }) = self.members.get(&process) {
                self.enter(*slot, process, &space, to);
            }
        }
    }

    /// Waits for the next table that is built.
    pub async fn built(&mut self) -> Built {
        self.builder.next().await
    }

    /// Does what is due. `is_quiet` says that all records there were have been read.
    pub fn tick(&mut self, processes: &mut Processes, is_quiet: bool, to: &Tables) {
        if !self.uses_tables() {
            return;
        }
        let now = Instant::now();
        if is_quiet {
            self.quiet = now;
        }
        while let Some(built) = self.builder.try_next() {
            self.take(built, to);
        }
        self.starting
            .retain(|&(.., since)| now.duration_since(since) < STARTING);
        let starting = self
            .starting
            .iter()
            .map(|&(slot, process, _)| (slot, process));
        let mut look: HashSet<(u32, ProcessId)> = starting.collect();
        if now >= self.parents_due {
            self.parents_due = now + PARENTS_PAUSE;
            let parents = self.members.keys().filter_map(|&process| {
                let parent = processes.parent(process).unwrap_or(process);
                Some((self.members.get(&parent)?.slot, parent))
            });
            look.extend(parents);
        }
        for (slot, process) in look.into_iter().take(MOST_LOOKS) {
            self.look(slot, process, processes, to);
        }
    }

    /// A process ran code that was in none of its mappings: they are read again, if it is not too
    /// soon.
    pub fn stumbled(
        &mut self,
        slot: u32,
        process: ProcessId,
        processes: &mut Processes,
        to: &Tables,
    ) {
        let now = Instant::now();
        let first = (now, FIRST_PAUSE);
        let (due, pause) = *self.stumbled.entry(process).or_insert(first);
        if now < due {
            return;
        }
        let set_of = |members: &HashMap<ProcessId, Member>| Some(members.get(&process)?.set);
        let before = set_of(&self.members);
        self.look(slot, process, processes, to);
        let has_changed = set_of(&self.members) != before;
        let pause = if has_changed { FIRST_PAUSE } else { pause };
        self.stumbled
            .insert(process, (now + pause, (2 * pause).min(LONGEST_PAUSE)));
    }

    /// Reads a process's mappings again, which may have changed.
    ///
    /// One that has no set is looked at too: right after an exec there may have been none to read.
    fn look(&mut self, slot: u32, process: ProcessId, processes: &mut Processes, to: &Tables) {
        if let Some(space) = processes.present_space(process) {
            self.enter(slot, process, &space, to);
        }
    }

    /// The files, by path, and what their frames are found by.
    #[must_use]
    pub fn modules(&self) -> Vec<ModuleUnwind> {
        let mut modules: Vec<_> = self.modules.values().map(|known| self.row(known)).collect();
        modules.sort_by(|a, b| (&a.path, &a.build_id).cmp(&(&b.path, &b.build_id)));
        modules.dedup();
        modules
    }

    fn row(&self, known: &Known) -> ModuleUnwind {
        let without = match self.mode {
            Unwind::Dwarf => UnwoundBy::Nothing,
            _ => UnwoundBy::FramePointers,
        };
        let (unwind, source, rows, why) = match &known.state {
            State::Building => (
                UnwoundBy::Nothing,
                Source::None,
                0,
                Some("its tables were not built when tracing ended".to_owned()),
            ),
            State::None(why) => (without, Source::None, 0, Some(why.clone())),
            State::Table(id) => {
                let (source, rows, damaged) = self.store.facts(*id);
                match source {
                    Source::None => (
                        without,
                        source,
                        0,
                        Some("it has no unwind tables".to_owned()),
                    ),
                    _ if !self.store.is_placed(*id) => (
                        UnwoundBy::Nothing,
                        source,
                        rows,
                        Some("there was no room for its tables".to_owned()),
                    ),
                    _ => {
                        let why = (damaged > 0).then(|| {
                            format!("{damaged} damaged entries of its tables are left out")
                        });
                        (UnwoundBy::Tables, source, rows, why)
                    }
                }
            }
        };
        ModuleUnwind {
            path: Arc::clone(&known.path),
            build_id: known.build_id.clone(),
            unwind,
            source: match source {
                Source::None => None,
                Source::EhFrame => Some(".eh_frame".to_owned()),
                Source::DebugFrame => Some(".debug_frame".to_owned()),
                Source::Both => Some(".eh_frame and .debug_frame".to_owned()),
            },
            rows,
            why,
        }
    }

    /// Asks for a file's table when it is seen first.
    fn know(&mut self, module: &Arc<Module>) {
        if self.modules.contains_key(&module.id()) {
            return;
        }
        let state = if module.file().is_none() {
            State::None("the file could not be opened".to_owned())
        } else if self.builder.ask(module, false) {
            State::Building
        } else {
            State::None("there is no thread that builds tables".to_owned())
        };
        let known = Known {
            path: Arc::clone(module.path()),
            build_id: None,
            state,
        };
        self.modules.insert(module.id(), known);
    }

    /// Asks for a table that had to give way to others.
    fn build_again(&mut self, module: &Arc<Module>) {
        if let Some(known) = self.modules.get_mut(&module.id())
            && let State::Table(id) = known.state
            && self.store.is_gone(id)
            && self.builder.ask(module, true)
        {
            known.state = State::Building;
        }
    }

    fn learn(&mut self, built: Built) {
        let state = match built.table {
            Ok((identity, Some(table))) => State::Table(self.store.add(identity, table)),
            Ok((identity, None)) => match self.store.find(&identity) {
                Some(id) => State::Table(id),
                None => State::None("its table was lost".to_owned()),
            },
            Err(refused) => State::None(refused.0),
        };
        if let Some(known) = self.modules.get_mut(&built.module) {
            known.build_id = built.build_id;
            known.state = state;
        }
    }

    /// What is to be written for an address space: its mappings of code, the tables that they refer
    /// to, and the files whose tables are not there yet.
    fn content(
        &mut self,
        space: &AddressSpace,
        to: &Tables,
    ) -> (Vec<Mapping>, Vec<TableId>, Vec<u32>) {
        let (mut content, mut tables, mut waits) = (Vec::new(), Vec::new(), Vec::new());
        for mapping in space.mappings().iter().filter(|mapping| mapping.executable) {
            let mut entry = Mapping {
                start: mapping.start,
                end: mapping.end,
                bias: 0,
                first: NO_ROWS_NONE,
                rows: 0,
            };
            if let Some(module) = mapping.module() {
                self.know(module);
                self.build_again(module);
                match &self.modules[&module.id()].state {
                    State::None(_) => {}
                    State::Building => {
                        entry.first = NO_ROWS_YET;
                        waits.push(module.id());
                    }
                    &State::Table(id) => {
                        let (source, ..) = self.store.facts(id);
                        let size = mapping.end - mapping.start;
                        let shift = module
                            .layout()
                            .and_then(|layout| layout.shift_of(mapping.offset, size));
                        if let (Some(shift), true) = (shift, source != Source::None) {
                            (entry.first, entry.rows) = self.store.place(id, self.quiet, to);
                            let file_start = mapping.start.wrapping_sub(mapping.offset);
                            let base = self.store.base(id);
                            entry.bias = file_start.wrapping_sub(shift).wrapping_add(base);
                            tables.push(id);
                        }
                    }
                }
            }
            content.push(entry);
        }
        if content.len() > MAX_MAPPINGS as usize {
            if !std::mem::replace(&mut self.is_full, true) {
                warn!(
                    "a process has more than {MAX_MAPPINGS} mappings of code; stacks end in those \
                     beyond"
                );
            }
            content.truncate(MAX_MAPPINGS as usize);
        }
        (content, tables, waits)
    }

    fn new_set(
        &mut self,
        content: Vec<Mapping>,
        tables: Vec<TableId>,
        waits: Vec<u32>,
        space: &AddressSpace,
        to: &Tables,
    ) -> Option<SetId> {
        let len = u32::try_from(content.len()).ok().filter(|&len| len > 0)?;
        let serial = self.serial.checked_add(1)?;
        let Some(first) = self.free.take(len, self.quiet) else {
            if !std::mem::replace(&mut self.is_full, true) {
                warn!(
                    "all processes together have more than {MAPPINGS_LEN} different mappings of \
                     code; stacks of some are cut short"
                );
            }
            return None;
        };
        self.serial = serial;
        for (index, mapping) in content.iter().enumerate() {
            to.mappings.write(first as usize + index, mapping);
        }
        for &table in &tables {
            self.store.count_user(table, true);
        }
        let content: Arc<[Mapping]> = content.into();
        debug!("set {serial}: {len} mappings of code");
        self.by_content.insert(Arc::clone(&content), serial);
        self.sets.insert(
            serial,
            Set {
                handle: SetHandle::new(first, len, serial),
                content,
                space: space.clone(),
                members: HashSet::new(),
                waits,
                tables,
            },
        );
        Some(serial)
    }

    /// A process refers to a set from now on.
    fn join(&mut self, slot: u32, process: ProcessId, set: SetId, to: &Tables) {
        let Some(joined) = self.sets.get_mut(&set) else {
            return;
        };
        joined.members.insert(process);
        debug!("process {process} in slot {slot}: set {set}");
        to.processes.set_mappings(slot, joined.handle);
        let before = self.members.insert(process, Member { slot, set });
        if let Some(before) = before.filter(|before| before.set != set) {
            self.drop_member(process, before.set);
        }
    }

    /// A process no longer refers to its set.
    fn leave(&mut self, process: ProcessId) {
        if let Some(member) = self.members.remove(&process) {
            self.drop_member(process, member.set);
        }
    }

    fn drop_member(&mut self, process: ProcessId, set: SetId) {
        let Some(left) = self.sets.get_mut(&set) else {
            return;
        };
        left.members.remove(&process);
        if left.members.is_empty()
            && let Some(unused) = self.sets.remove(&set)
        {
            self.by_content.remove(&unused.content);
            for &table in &unused.tables {
                self.store.count_user(table, false);
            }
            // A child that was forked with it may still be to come; the loader corrects that when it
            // reads of it, and only then is this free.
            self.free
                .give(unused.handle.first(), unused.handle.len(), Instant::now());
        }
    }
}

/// The files whose code is mapped, with the offset of each mapping.
fn modules_of(space: &AddressSpace) -> impl Iterator<Item = (&Arc<Module>, u64)> {
    let code = space.mappings().iter().filter(|mapping| mapping.executable);
    code.filter_map(|mapping| Some((mapping.module()?, mapping.offset)))
}
