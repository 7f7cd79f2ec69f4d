//! Which traced process has which interpreter.
//!
//! A process is looked at when it is found, when its mappings have changed, and for a while after
//! it replaced its program, since an interpreter is mapped and initialised only then. A forked
//! child has its parent's interpreter, in the kernel's table of processes as well as here.

use std::time::{Duration, Instant};

use foldhash::HashMap;
use log::{info, warn};
use memtrace_common::interpreter::{Handle, MAX_INTERPRETERS};

use super::entries::{Entries, Full, InstanceId};
use super::recognise::Recogniser;
use super::unread::{self, Unread};
use super::{Interpreter, Loader, Recognised};
use crate::clock;
use crate::foreign::escape;
use crate::probe::Tables;
use crate::process::maps::AddressSpace;
use crate::process::memory::ProcessMemory;
use crate::process::processes::{ProcessId, Processes};
use crate::profile::InterpreterSeen;

/// How soon a process is looked at again; twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(2);

/// The longest pause while a program starts: its interpreter must be known before it forks. A look
/// takes about 0.15 ms.
const START_PAUSE: Duration = Duration::from_millis(20);

/// The pause after that, for an interpreter that is there and has not initialised.
const LONG_PAUSE: Duration = Duration::from_secs(1);

/// A process in which no interpreter has shown up for this long after an exec is only looked at
/// again when its mappings change.
const PATIENCE: Duration = Duration::from_secs(4);

/// The interpreters of all traced processes.
pub struct Tracker {
    recogniser: Recogniser,
    /// Runtimes that are not read, which are looked for whatever the recogniser knows.
    unread: Unread,
    entries: Entries,
    states: HashMap<ProcessId, State>,
    /// Processes to look at again.
    due: Vec<Due>,
    /// Interpreters that no process has any more.
    retired: Vec<InstanceId>,
    tables: Tables,
}

/// What is known of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// It has no interpreter that is known.
    None,
    /// It has one that has not initialised.
    NotYet { name: String },
    /// It has one, and uses the entry that the handle names.
    Runs { handle: Handle, name: String },
    /// It has one whose frames cannot be walked.
    Refused { name: String, why: String },
}

/// What a report says of the interpreter and the runtimes of a process, and what of it is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The interpreter that is read, or would be.
    pub interpreter: Option<InterpreterSeen>,
    /// The runtimes that are not read; `None` without any.
    pub runtimes: Option<unread::Seen>,
    /// The files with code that could not be opened; `None` without any.
    pub unopened: Option<unread::Unopened>,
}

/// A process to look at again.
struct Due {
    process: ProcessId,
    slot: u32,
    at: Instant,
    pause: Duration,
    since: Instant,
}

impl Tracker {
    /// Looks for the interpreters of these loaders, and writes what it finds into `tables`. Without
    /// a loader no process is read for it: runtimes are looked for in mappings that are known.
    #[must_use]
    pub fn new(loaders: Vec<&'static dyn Loader>, tables: Tables) -> Self {
        Self {
            recogniser: Recogniser::new(loaders),
            unread: Unread::default(),
            entries: Entries::new(tables.clone()),
            states: HashMap::default(),
            due: Vec::new(),
            retired: Vec::new(),
            tables,
        }
    }

    /// Adds a process that was found or forked. A forked one inherits what is known of its parent.
    pub fn process_added(&mut self, slot: u32, process: ProcessId, processes: &Processes) {
        if self.states.contains_key(&process) {
            return;
        }
        if let Some(parent) = processes.forked_from(process) {
            self.unread.inherit(parent, process);
            let inherited = self.states.get(&parent).cloned().unwrap_or(State::None);
            if let State::Runs { handle, .. } = inherited {
                self.entries.add_user(handle);
                // It has been inherited in the kernel too, unless the process was forked just
                // before its parent's was known.
                self.set_interpreter(slot, process, handle, processes);
            }
            self.states.insert(process, inherited);
            // A parent that will be looked at again may not have it yet.
            if self.due.iter().any(|due| due.process == parent) {
                self.look_again_soon(slot, process);
            }
            return;
        }
        self.states.insert(process, State::None);
        self.look_at_known_mappings(slot, process, processes);
        let age_ns = clock::monotonic_ns().saturating_sub(processes.get(process).times.started_ns);
        let is_starting = u128::from(age_ns) < PATIENCE.as_nanos();
        let is_half_there = matches!(self.states.get(&process), Some(State::NotYet { .. }));
        if self.may_change(process) && (is_starting || is_half_there) {
            self.look_again_soon(slot, process);
        }
    }

    /// Forgets the interpreter of a process that has replaced its program, and looks for one in the
    /// new program.
    pub fn process_execed(&mut self, slot: u32, process: ProcessId, processes: &Processes) {
        self.unread.forget(process);
        self.stop_using(process);
        self.set_interpreter(slot, process, Handle::NONE, processes);
        self.states.insert(process, State::None);
        self.look_at_known_mappings(slot, process, processes);
        if self.may_change(process) {
            self.look_again_soon(slot, process);
        }
    }

    /// Forgets a process, which has ended; returns what a report says of it.
    pub fn process_ended(&mut self, process: ProcessId) -> Option<Seen> {
        let seen = self.seen(process);
        self.stop_using(process);
        self.unread.forget(process);
        self.states.remove(&process);
        self.due.retain(|due| due.process != process);
        seen
    }

    /// Looks at the processes whose mappings have been read anew: an interpreter may be among them.
    pub fn processes_remapped(&mut self, processes: &mut Processes) {
        for (slot, process) in processes.take_remapped() {
            if self.may_change(process) {
                self.look_at_known_mappings(slot, process, processes);
            } else if let Some(space) = processes.known_space(process) {
                self.unread.look(process, &space);
            }
        }
    }

    /// When the next process should be looked at again; see [`Tracker::tick`].
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.due.iter().map(|due| due.at).min()
    }

    /// Looks again at the processes for which it is time at `now`.
    pub fn tick(&mut self, now: Instant, processes: &mut Processes) {
        for mut due in std::mem::take(&mut self.due) {
            if now < due.at {
                self.due.push(due);
                continue;
            }
            if let Some(space) = processes.present_space(due.process) {
                self.look(due.slot, due.process, &space, processes);
            }
            // Pauses count from the end of a look.
            let now = now.max(Instant::now());
            let is_patient = now.saturating_duration_since(due.since) < PATIENCE;
            let goes_on = match self.states.get(&due.process) {
                Some(State::NotYet { .. }) => true,
                // What is refused may only have been half initialised.
                Some(State::None | State::Refused { .. }) => is_patient,
                _ => false,
            };
            if goes_on {
                due.pause = if is_patient {
                    (2 * due.pause).min(START_PAUSE)
                } else {
                    LONG_PAUSE
                };
                due.at = now + due.pause;
                self.due.push(due);
            }
        }
    }

    /// The interpreter that a handle names.
    #[must_use]
    pub fn instance(&self, handle: Handle) -> Option<&Interpreter> {
        self.entries.get(handle)
    }

    /// The interpreter of a process.
    #[must_use]
    pub fn of(&self, process: ProcessId) -> Option<&Interpreter> {
        match self.states.get(&process)? {
            State::Runs { handle, .. } => self.instance(*handle),
            _ => None,
        }
    }

    /// What a report says of a process's interpreter and runtimes, and of files that may have had
    /// some; `None` when there are none.
    #[must_use]
    pub fn seen(&self, process: ProcessId) -> Option<Seen> {
        let seen = Seen {
            interpreter: self.interpreter_seen(process),
            runtimes: self.unread.of(process).cloned(),
            unopened: self.unread.unopened(process).cloned(),
        };
        (seen != Seen::default()).then_some(seen)
    }

    fn interpreter_seen(&self, process: ProcessId) -> Option<InterpreterSeen> {
        let (name, why) = match self.states.get(&process)? {
            State::None => return None,
            State::NotYet { name } => (name, Some("it had not initialised")),
            State::Runs { name, .. } => (name, None),
            State::Refused { name, why } => (name, Some(why.as_str())),
        };
        Some(InterpreterSeen {
            name: escape(name).into_owned(),
            why: why.map(|why| escape(why).into_owned()),
        })
    }

    /// Interpreters that no process has any more since the last call.
    pub fn take_retired(&mut self) -> Vec<InstanceId> {
        std::mem::take(&mut self.retired)
    }

    /// Whether looking at a process again can bring anything new.
    fn may_change(&self, process: ProcessId) -> bool {
        !matches!(self.states.get(&process), None | Some(State::Runs { .. }))
    }

    fn look_again_soon(&mut self, slot: u32, process: ProcessId) {
        // Runtimes need not be known as soon as interpreters.
        if self.recogniser.knows_none() {
            return;
        }
        self.due.retain(|due| due.process != process);
        let now = Instant::now();
        self.due.push(Due {
            process,
            slot,
            at: now + FIRST_PAUSE,
            pause: FIRST_PAUSE,
            since: now,
        });
    }

    /// Looks at a process by the mappings that it had when they were last read.
    fn look_at_known_mappings(&mut self, slot: u32, process: ProcessId, processes: &Processes) {
        if let Some(space) = processes.known_space(process) {
            self.look(slot, process, &space, processes);
        }
    }

    /// Finds out what runs in a process that has these mappings.
    fn look(&mut self, slot: u32, process: ProcessId, space: &AddressSpace, processes: &Processes) {
        self.unread.look(process, space);
        let pid = processes.get(process).pid;
        let memory = ProcessMemory::new(pid);
        let state = match self.recogniser.recognise(space, &memory) {
            Recognised::None => State::None,
            Recognised::NotYet { name } => State::NotYet { name },
            Recognised::Refused { name, why } => State::Refused { name, why },
            Recognised::Runs(instance) => {
                let name = instance.name().to_owned();
                let parent = processes.parent(process);
                let parents = parent.and_then(|parent| self.handle_of(parent));
                match self.entries.find_or_add(instance, parents) {
                    Ok(handle) => State::Runs { handle, name },
                    Err(full) => refused_for_room(name, full),
                }
            }
        };
        self.stop_using(process);
        if let State::Runs { handle, name } = &state {
            info!("process {pid} runs {name}");
            self.entries.add_user(*handle);
            self.set_interpreter(slot, process, *handle, processes);
        }
        self.states.insert(process, state);
    }

    /// Says in the kernel's table which interpreter the program has that the process in a slot runs,
    /// as far as its records say; if it has replaced that, the table says so already.
    fn set_interpreter(
        &self,
        slot: u32,
        process: ProcessId,
        handle: Handle,
        processes: &Processes,
    ) {
        let generation = processes.execs(process);
        let table = &self.tables.processes;
        table.set_interpreter(slot, generation, handle);
    }

    fn handle_of(&self, process: ProcessId) -> Option<Handle> {
        match self.states.get(&process)? {
            State::Runs { handle, .. } => Some(*handle),
            _ => None,
        }
    }

    /// A process does not use its entry any more.
    fn stop_using(&mut self, process: ProcessId) {
        if let Some(handle) = self.handle_of(process) {
            self.retired.extend(self.entries.remove_user(handle));
        }
    }
}

/// What is known of a process for whose interpreter there is no room, which is said once of each
/// kind.
fn refused_for_room(name: String, full: Full) -> State {
    if full.is_first {
        warn!(
            "more than {MAX_INTERPRETERS} interpreters of one kind are traced at once; script \
             frames of the others are not taken"
        );
    }
    State::Refused {
        name,
        why: "too many interpreters are traced at once".to_owned(),
    }
}

#[cfg(test)]
mod tests;
