//! Which traced process has which interpreter, and the BPF side's table of them.
//!
//! A process is looked at when it is found, when its mappings have changed, and for a while after
//! it replaced its program, since an interpreter is mapped and initialised only then. A forked
//! child has its parent's, in the kernel's table as well as here.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::info;
use memtrace_common::interpreter::{Handle, Kind, MAX_INTERPRETERS};

use super::{Instance, Interpreters, Recognised};
use crate::clock::monotonic_ns;
use crate::foreign::escape;
use crate::probe::Tables;
use crate::process::maps::AddressSpace;
use crate::process::memory::ProcessMemory;
use crate::process::traced::{ProcessId, Processes};
use crate::profile::InterpreterSeen;

/// How soon a process is looked at again; twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(2);

/// The longest pause while a program starts: what it forks first is to be known. A look takes about
/// 0.15 ms.
const START_PAUSE: Duration = Duration::from_millis(20);

/// The pause after that, for an interpreter that is there and has not initialised.
const LONG_PAUSE: Duration = Duration::from_secs(1);

/// A process in which none that is known has shown up for this long after an exec is only looked at
/// again when its mappings change.
const PATIENCE: Duration = Duration::from_secs(4);

/// Tells interpreters apart, also those that had the same table entry one after the other.
pub type InstanceId = u32;

/// The interpreters of all traced processes.
#[derive(Default)]
pub struct Tracker {
    enabled: bool,
    recogniser: Interpreters,
    /// By index in the kernel side's table; the first is never used.
    entries: Vec<Entry>,
    states: HashMap<ProcessId, State>,
    /// Processes to look at again.
    due: Vec<Due>,
    instances: InstanceId,
    /// Whether the table was full once.
    is_full: bool,
}

/// An entry of the table.
struct Entry {
    id: InstanceId,
    instance: Arc<Instance>,
    /// Live processes that have it.
    users: usize,
}

/// What is known of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    None,
    NotYet {
        name: String,
    },
    Python {
        index: usize,
        name: String,
    },
    Refused {
        name: String,
        why: String,
    },
    /// The process has ended, and with it the use of a table entry.
    Ended {
        name: String,
    },
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
    /// No process yet. If not enabled, it never finds an interpreter.
    #[must_use]
    pub fn new(enabled: bool) -> Self {
        Self {
            enabled,
            ..Self::default()
        }
    }

    /// Takes a process that was found or forked.
    pub fn add(&mut self, slot: u32, process: ProcessId, processes: &mut Processes, to: &Tables) {
        if !self.enabled || self.states.contains_key(&process) {
            return;
        }
        if let Some(parent) = processes.forked_from(process) {
            let inherited = self.states.get(&parent).cloned().unwrap_or(State::None);
            if let State::Python { index, .. } = inherited {
                self.entries[index].users += 1;
                // It has been inherited in the kernel too, unless it was forked just before its
                // parent's was known.
                to.processes.set_interpreter(slot, handle(index));
            }
            self.states.insert(process, inherited);
            // A parent that is being looked at again may not have it yet.
            if self.due.iter().any(|due| due.process == parent) {
                self.look_again(slot, process);
            }
            return;
        }
        self.states.insert(process, State::None);
        self.look_known(slot, process, processes, to);
        let age_ns = monotonic_ns().saturating_sub(processes.get(process).started_ns);
        let is_starting = u128::from(age_ns) < PATIENCE.as_nanos();
        let is_half_there = matches!(self.states.get(&process), Some(State::NotYet { .. }));
        if self.may_change(process) && (is_starting || is_half_there) {
            self.look_again(slot, process);
        }
    }

    /// Takes a process that has replaced its program.
    pub fn execed(
        &mut self,
        slot: u32,
        process: ProcessId,
        processes: &mut Processes,
        to: &Tables,
    ) {
        if !self.enabled {
            return;
        }
        self.leave(process);
        to.processes.set_interpreter(slot, Handle::NONE);
        self.states.insert(process, State::None);
        self.look_known(slot, process, processes, to);
        if self.may_change(process) {
            self.look_again(slot, process);
        }
    }

    /// Takes the end of a process.
    pub fn ended(&mut self, process: ProcessId) {
        self.leave(process);
        if let Some(state) = self.states.get_mut(&process)
            && let State::Python { name, .. } = state
        {
            *state = State::Ended {
                name: std::mem::take(name),
            };
        }
        self.due.retain(|due| due.process != process);
    }

    /// Takes processes whose mappings have been read anew: an interpreter may be among them.
    pub fn remapped(&mut self, processes: &mut Processes, to: &Tables) {
        for (slot, process) in processes.take_remapped() {
            if self.may_change(process) {
                self.look_known(slot, process, processes, to);
            }
        }
    }

    /// When a process is to be looked at again.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.due.iter().map(|due| due.at).min()
    }

    /// Looks again at the processes for which it is time.
    pub fn tick(&mut self, processes: &mut Processes, to: &Tables) {
        let now = Instant::now();
        for mut due in std::mem::take(&mut self.due) {
            if now < due.at {
                self.due.push(due);
                continue;
            }
            if let Some(space) = processes.present_space(due.process) {
                self.look(due.slot, due.process, &space, processes, to);
            }
            let goes_on = match self.states.get(&due.process) {
                Some(State::NotYet { .. }) => true,
                // What is refused may only have been half initialised.
                Some(State::None | State::Refused { .. }) => due.since.elapsed() < PATIENCE,
                _ => false,
            };
            if goes_on {
                due.pause = if due.since.elapsed() < PATIENCE {
                    (2 * due.pause).min(START_PAUSE)
                } else {
                    LONG_PAUSE
                };
                due.at = Instant::now() + due.pause;
                self.due.push(due);
            }
        }
    }

    /// The interpreter of a table entry.
    #[must_use]
    pub fn instance(&self, interpreter: Handle) -> Option<(InstanceId, &Arc<Instance>)> {
        let entry = self.entries.get(interpreter.index() as usize)?;
        (interpreter.kind() == Some(Kind::Python)).then_some(())?;
        Some((entry.id, &entry.instance))
    }

    /// The interpreter of a process.
    #[must_use]
    pub fn of(&self, process: ProcessId) -> Option<(InstanceId, &Arc<Instance>)> {
        match self.states.get(&process)? {
            State::Python { index, .. } => self.instance(handle(*index)),
            _ => None,
        }
    }

    /// What a report says of a process's interpreter.
    #[must_use]
    pub fn seen(&self, process: ProcessId) -> Option<InterpreterSeen> {
        let (name, why) = match self.states.get(&process)? {
            State::None => return None,
            State::NotYet { name } => (name, Some("it had not initialised")),
            State::Python { name, .. } | State::Ended { name } => (name, None),
            State::Refused { name, why } => (name, Some(why.as_str())),
        };
        Some(InterpreterSeen {
            name: escape(name).into_owned(),
            why: why.map(|why| escape(why).into_owned()),
        })
    }

    /// Whether looking at a process again can bring anything new.
    fn may_change(&self, process: ProcessId) -> bool {
        !matches!(
            self.states.get(&process),
            None | Some(State::Python { .. } | State::Ended { .. })
        )
    }

    fn look_again(&mut self, slot: u32, process: ProcessId) {
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
    fn look_known(&mut self, slot: u32, process: ProcessId, processes: &Processes, to: &Tables) {
        if let Some(space) = processes.known_space(process) {
            self.look(slot, process, &space, processes, to);
        }
    }

    fn look(
        &mut self,
        slot: u32,
        process: ProcessId,
        space: &AddressSpace,
        processes: &Processes,
        to: &Tables,
    ) {
        let pid = processes.get(process).pid;
        let memory = ProcessMemory::new(pid);
        let state = match self.recogniser.recognise(space, &memory) {
            Recognised::None => State::None,
            Recognised::NotYet { name } => State::NotYet { name },
            Recognised::Refused { name, why } => State::Refused { name, why },
            Recognised::Python(instance) => {
                let name = instance.name.clone();
                let parent = processes.get(process).parent();
                match self.enter(instance, parent, to) {
                    Some(index) => State::Python { index, name },
                    None => State::Refused {
                        name,
                        why: "too many interpreters are traced at once".to_owned(),
                    },
                }
            }
        };
        self.leave(process);
        if let State::Python { index, name } = &state {
            info!("process {pid} runs {name}");
            self.entries[*index].users += 1;
            to.processes.set_interpreter(slot, handle(*index));
        }
        self.states.insert(process, state);
    }

    /// Finds a table entry for an interpreter: that of the parent where it is the same one, else
    /// an unused one. (Not that of any other process: at equal addresses they can have different
    /// code.)
    fn enter(
        &mut self,
        instance: Instance,
        parent: Option<ProcessId>,
        to: &Tables,
    ) -> Option<usize> {
        let parents = parent.and_then(|parent| match self.states.get(&parent)? {
            State::Python { index, .. } => Some(*index),
            _ => None,
        });
        if let Some(index) = parents.filter(|&index| *self.entries[index].instance == instance) {
            return Some(index);
        }
        let entry = Entry {
            id: self.instances,
            instance: Arc::new(instance),
            users: 0,
        };
        if self.entries.is_empty() {
            self.entries.push(Entry {
                id: InstanceId::MAX,
                instance: Arc::clone(&entry.instance),
                users: 1,
            });
        }
        let unused = || (1..self.entries.len()).find(|&index| self.entries[index].users == 0);
        let index = if self.entries.len() < MAX_INTERPRETERS as usize {
            self.entries.len()
        } else {
            let unused = unused();
            if unused.is_none() && !std::mem::replace(&mut self.is_full, true) {
                log::warn!(
                    "more than {MAX_INTERPRETERS} interpreters are traced at once; Python frames \
                     of the others are not taken"
                );
            }
            unused?
        };
        to.pythons.write(index, &entry.instance.layout);
        self.instances += 1;
        if index == self.entries.len() {
            self.entries.push(entry);
        } else {
            self.entries[index] = entry;
        }
        Some(index)
    }

    /// A process no longer uses its entry.
    fn leave(&mut self, process: ProcessId) {
        if let Some(State::Python { index, .. }) = self.states.get(&process) {
            self.entries[*index].users -= 1;
        }
    }
}

fn handle(index: usize) -> Handle {
    Handle::new(Kind::Python, index as u32)
}
