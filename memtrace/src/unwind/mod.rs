//! Unwind tables: built from the files that traced processes map, and given to the BPF side.
//!
//! [`Library`] has the files and their tables ([`files`]); it can be filled before the BPF side is
//! there. [`sets`] has what each process is given. What is left here is when a process's mappings
//! are read: when it starts, again and again while it starts or has children, and when code ran
//! that was in none of them.

pub mod arch;
pub mod builder;
mod cache;
mod code;
mod files;
mod format;
pub mod inspect;
mod queue;
mod ranges;
mod rows;
mod sections;
mod sets;
mod store;
mod table;
use std::time::{Duration, Instant};

use foldhash::{HashMap, HashSet};
use memtrace_common::unwind::StackEnd;

use self::builder::Built;
pub use self::files::Library;
pub use self::sections::wanted;
use self::sets::{Seat, Sets};
use crate::options::Unwind;
use crate::probe::Tables;
use crate::process::maps::AddressSpace;
use crate::process::processes::{ProcessId, Processes};
use crate::profile::ModuleUnwind;

/// A process that began less long ago still maps its libraries.
const STARTING: Duration = Duration::from_secs(4);

/// How often the mappings of processes that have children are read again: what they map meanwhile,
/// the next child has.
const PARENTS_PAUSE: Duration = Duration::from_millis(250);

/// Processes whose mappings are read in one tick, at most: a tenth of a millisecond or two for
/// each.
const MAX_READS: usize = 32;

/// After code that was in no mapping, mappings are not read again sooner than this; twice as long
/// after each time that it did not help.
const FIRST_PAUSE: Duration = Duration::from_millis(5);

/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Gives processes their unwind tables, and keeps them up to date.
pub struct Unwinder {
    library: Library,
    sets: Sets,
    /// When the mappings of processes that have children are read next.
    parents_due: Instant,
    starting: Vec<Starting>,
    /// Processes that ran code which was in none of their mappings.
    unmapped: HashMap<ProcessId, Pause>,
}

/// A process that replaced its program lately, or was found just begun.
struct Starting {
    slot: u32,
    process: ProcessId,
    since: Instant,
}

/// How long a process's mappings are not read again.
#[derive(Clone, Copy)]
struct Pause {
    until: Instant,
    /// How long the next one is.
    next: Duration,
}

/// Whether the native frames of a stack that was taken in this way and ends so are right, as far as
/// they go.
#[must_use]
pub fn is_exact(mode: Unwind, end: StackEnd) -> bool {
    let by_frame_pointers = matches!(end, StackEnd::FramePointers | StackEnd::LostFramePointer);
    files::uses_tables(mode) && !by_frame_pointers
}

impl Unwinder {
    /// Gives processes what `library` has, by way of `tables`, which nobody has written to.
    #[must_use]
    pub fn new(library: Library, tables: Tables) -> Self {
        Self {
            library,
            sets: Sets::new(tables),
            parents_due: Instant::now(),
            starting: Vec::new(),
            unmapped: HashMap::default(),
        }
    }

    /// The files, by path, and what their frames are found by.
    #[must_use]
    pub fn modules(&self) -> Vec<ModuleUnwind> {
        self.library.modules()
    }

    /// Adds a process that was found or forked.
    pub fn add(&mut self, slot: u32, process: ProcessId, processes: &Processes) {
        let pid = processes.get(process).pid;
        if !self.library.uses_tables()
            || self.library.is_awaiting_exec(pid)
            || self.sets.set_of(process).is_some()
        {
            return;
        }
        // The kernel side has let it inherit its parent's set too, unless it was forked just before
        // its parent got another one.
        let parent = processes.forked_from(process);
        if parent.is_some_and(|parent| {
            self.sets
                .inherit(seat(slot, process, processes), process, parent)
        }) {
            return;
        }
        if let Some(space) = processes.known_space(process) {
            self.assign(seat(slot, process, processes), process, &space);
            self.watch_start(slot, process);
        }
    }

    /// Records that a process has replaced its program.
    pub fn execed(&mut self, slot: u32, process: ProcessId, processes: &Processes) {
        if !self.library.uses_tables() {
            return;
        }
        self.library.execed(processes.get(process).pid);
        self.sets.leave(process);
        if let Some(space) = processes.known_space(process) {
            self.assign(seat(slot, process, processes), process, &space);
        }
        self.watch_start(slot, process);
    }

    /// Records that a process has ended.
    pub fn ended(&mut self, process: ProcessId) {
        self.sets.leave(process);
        self.unmapped.remove(&process);
        self.starting.retain(|starting| starting.process != process);
    }

    /// Waits for the next table that is built.
    pub async fn next_built(&mut self) -> Built {
        self.library.next().await
    }

    /// Gives a table that was built to the processes that need it.
    pub fn table_built(&mut self, built: Built) {
        let module = built.module;
        self.library.record(built);
        self.sets.table_arrived(module, &mut self.library);
    }

    /// Does what is due. All records that there were at `all_until` have been handled.
    pub fn tick(&mut self, processes: &mut Processes, all_until: Instant) {
        if !self.library.uses_tables() {
            return;
        }
        let now = Instant::now();
        self.sets.all_records_read(all_until);
        while let Some(built) = self.library.try_next() {
            self.table_built(built);
        }
        for (slot, process) in self.due(processes, now).into_iter().take(MAX_READS) {
            self.read_mappings(slot, process, processes);
        }
    }

    /// The processes, with their slots, whose mappings may have changed.
    fn due(&mut self, processes: &Processes, now: Instant) -> HashSet<(u32, ProcessId)> {
        self.starting
            .retain(|starting| now.duration_since(starting.since) < STARTING);
        let starting = self.starting.iter();
        let mut due: HashSet<_> = starting
            .map(|starting| (starting.slot, starting.process))
            .collect();
        if now >= self.parents_due {
            self.parents_due = now + PARENTS_PAUSE;
            due.extend(self.sets.processes().filter_map(|process| {
                let parent = processes.parent(process).unwrap_or(process);
                Some((self.sets.slot_of(parent)?, parent))
            }));
        }
        due
    }

    /// A process ran code that was in none of its mappings: reads them again, unless it is too
    /// soon.
    pub fn met_unmapped_code(&mut self, slot: u32, process: ProcessId, processes: &mut Processes) {
        let now = Instant::now();
        let first = Pause {
            until: now,
            next: FIRST_PAUSE,
        };
        let pause = *self.unmapped.entry(process).or_insert(first);
        if now < pause.until {
            return;
        }
        let before = self.sets.set_of(process);
        self.read_mappings(slot, process, processes);
        let has_helped = self.sets.set_of(process) != before;
        let length = if has_helped { FIRST_PAUSE } else { pause.next };
        let pause = Pause {
            until: now + length,
            next: (2 * length).min(LONGEST_PAUSE),
        };
        self.unmapped.insert(process, pause);
    }

    /// Reads a process's mappings, which may have changed.
    ///
    /// One that has no set may get one: right after an exec there may have been no mappings to
    /// read.
    fn read_mappings(&mut self, slot: u32, process: ProcessId, processes: &mut Processes) {
        if let Some(space) = processes.present_space(process) {
            processes.code_came(process, &space);
            self.assign(seat(slot, process, processes), process, &space);
        }
    }

    fn assign(&mut self, at: Seat, process: ProcessId, space: &AddressSpace) {
        self.sets.assign(at, process, space, &mut self.library);
    }

    fn watch_start(&mut self, slot: u32, process: ProcessId) {
        self.starting.retain(|starting| starting.process != process);
        self.starting.push(Starting {
            slot,
            process,
            since: Instant::now(),
        });
    }
}

/// Where the table has what belongs to the program that a process runs, as far as its records say.
fn seat(slot: u32, process: ProcessId, processes: &Processes) -> Seat {
    Seat {
        slot,
        generation: processes.execs(process),
    }
}

#[cfg(test)]
mod tests;
