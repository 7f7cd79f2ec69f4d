//! A made-up BPF side for tests: it counts in the table and writes records in the order that the
//! real one does, and loses what it is told to lose. It needs no root.
//!
//! Its processes have pids that no kernel gives, so /proc has nothing about them.

use std::collections::VecDeque;
use std::sync::Arc;

use foldhash::HashSet;
use memtrace_common::interpreter::Handle;
use memtrace_common::process::{
    Counters, Health, MAX_PROCESSES, NO_SLOT, ProcessSlot, SLOT_EXITED, SLOT_FREE, SLOT_LIVE,
    program_number,
};
use memtrace_common::record::{Cause, Evidence, Origin};
use memtrace_common::unwind::{SetHandle, StackEnd};

use crate::collect::{Event, Fault, Lifecycle, ProcessChange, TakenStack};
use crate::fold::naming::Naming;
use crate::intake::Intake;
use crate::interpreter::tracker::Tracker;
use crate::options::{Python, Unwind};
use crate::probe::Tables;
use crate::process::processes::Processes;
use crate::profile::{BackendName, Host, Profile};
use crate::summarize::{Moment, Progress, Run, summarize};
use crate::targets::Targets;
use crate::unwind::{Library, Unwinder};

/// Beyond what `kernel.pid_max` can be.
const FIRST_PID: u32 = 1 << 23;

/// The BPF side.
pub struct MadeUp {
    /// The table, as the loader maps it.
    pub tables: Tables,
    /// Records that the loader has not read yet.
    pub ring: VecDeque<Event>,
    /// What went wrong.
    pub health: Health,
    /// Copies that were counted.
    pub counted: u64,
    /// Counted copies whose record was lost.
    pub lost: u64,
    next_pid: u32,
    now_ns: u64,
    stacks_sent: HashSet<u64>,
}

/// What becomes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives.
    Arrives,
    /// It finds no room in the ring buffer.
    Lost,
}

impl MadeUp {
    /// No process yet.
    pub fn new() -> Self {
        Self {
            tables: Tables::in_memory(1),
            ring: VecDeque::new(),
            health: Health::default(),
            counted: 0,
            lost: 0,
            next_pid: FIRST_PID,
            now_ns: 1_000_000_000,
            stacks_sent: HashSet::default(),
        }
    }

    fn entry(&self, slot: u32) -> ProcessSlot {
        let entry = self.tables.processes.read(slot as usize);
        entry.expect("the slot is within the table")
    }

    /// Slots of processes that have not ended.
    pub fn live(&self) -> Vec<u32> {
        let is_live = |slot: &u32| self.entry(*slot).state == SLOT_LIVE;
        // Few are used in a test.
        (0..64).filter(is_live).collect()
    }

    /// A process is found, or forked from the one in slot `parent`; returns its slot.
    pub fn fork(&mut self, parent: Option<u32>, fate: Fate) -> u32 {
        let free = |slot: &u32| self.entry(*slot).state == SLOT_FREE;
        let slot = (0..MAX_PROCESSES).find(free).expect("there is a free slot");
        self.now_ns += 1_000_000;
        self.next_pid += 1;
        let inherited = parent.map(|parent| self.entry(parent));
        let handles = inherited.map_or((0, 0), |parent| {
            let interpreter = Handle::from_slot(parent.interpreter).in_slot(0);
            (interpreter, SetHandle(parent.mappings).inherited().0)
        });
        self.tables.processes.set(
            slot,
            &ProcessSlot {
                state: SLOT_LIVE,
                threads: 1,
                pid: self.next_pid,
                parent_pid: inherited.map_or(1, |parent| parent.pid),
                parent_slot: parent.unwrap_or(NO_SLOT),
                execs: 0,
                forked_ns: if parent.is_some() { self.now_ns } else { 0 },
                exited_ns: 0,
                start_boottime_ns: self.now_ns,
                interpreter: handles.0,
                mappings: handles.1,
                program: inherited.map_or_else(
                    || program_number(self.now_ns, slot),
                    |parent| parent.program,
                ),
                comm: *b"made-up\0\0\0\0\0\0\0\0\0",
                counters: Counters::ZERO,
                cpu_ns: 0,
                resident: [0; 4],
            },
        );
        self.announce(Lifecycle::Fork, slot, fate);
        slot
    }

    /// The process in a slot replaces its program.
    pub fn exec(&mut self, slot: u32, fate: Fate) {
        self.now_ns += 1_000_000;
        let program = program_number(self.now_ns, slot);
        self.tables.processes.exec(slot, program);
        self.announce(Lifecycle::Exec, slot, fate);
    }

    /// The process in a slot ends.
    pub fn exit(&mut self, slot: u32, fate: Fate) {
        self.now_ns += 1_000_000;
        let mut entry = self.entry(slot);
        entry.state = SLOT_EXITED;
        entry.exited_ns = self.now_ns;
        self.tables.processes.set(slot, &entry);
        self.announce(Lifecycle::Exit, slot, fate);
    }

    fn announce(&mut self, what: Lifecycle, slot: u32, fate: Fate) {
        match fate {
            Fate::Arrives => {
                let entry = self.entry(slot);
                self.ring.push_back(Event::Process(ProcessChange {
                    what,
                    slot,
                    time_ns: self.now_ns,
                    program: entry.program,
                    execs: entry.execs,
                    parent_slot: (entry.parent_slot != NO_SLOT).then_some(entry.parent_slot),
                    forked: entry.forked_ns != 0,
                    comm: entry.comm,
                }));
            }
            Fate::Lost => self.health.lifecycle_lost += 1,
        }
    }

    /// The process in a slot copies a page, on the stack with number `stack`; `fates` are those of
    /// the stack's record and of the copy's.
    pub fn copy(&mut self, slot: u32, origin: Origin, stack: u64, fates: [Fate; 2]) {
        self.now_ns += 1000;
        let [stack_fate, fate] = fates;
        let mut entry = self.entry(slot);
        entry.counters.copied[origin as usize] += 1;
        self.counted += 1;
        if !self.stacks_sent.contains(&stack) {
            if stack_fate == Fate::Arrives {
                self.stacks_sent.insert(stack);
                self.ring.push_back(Event::Stack {
                    id: stack,
                    stack: made_up_stack(slot, stack),
                });
            } else {
                entry.counters.lost_stacks += 1;
            }
        }
        if fate == Fate::Lost {
            entry.counters.lost[origin as usize] += 1;
            self.lost += 1;
        }
        self.tables.processes.set(slot, &entry);
        if fate == Fate::Arrives {
            self.ring.push_back(Event::Fault(Fault {
                slot,
                execs: entry.execs,
                time_ns: self.now_ns,
                latency_ns: Some(900),
                origin,
                address: 0x7000_0000 + self.counted * 4096,
                cause: if stack.is_multiple_of(2) {
                    Cause::Refcount
                } else {
                    Cause::Unknown
                },
                evidence: if stack.is_multiple_of(2) {
                    Evidence::Refcount
                } else {
                    Evidence::Elsewhere
                },
                object_type: None,
                offset: 0,
                ip: 0x1000 + stack,
                stack: Some(stack),
            }));
        }
    }

    /// Reads up to `limit` records.
    pub fn drain(&mut self, limit: usize, mut take: impl FnMut(Event)) -> usize {
        let several = self.ring.len().min(limit);
        self.ring.drain(..several).for_each(&mut take);
        several
    }

    /// A loader that has read nothing yet.
    pub fn intake(&self) -> Intake {
        let targets = Targets::new(
            Processes::new(),
            Tracker::new(Vec::new(), self.tables.clone()),
            Unwinder::new(Library::new(Unwind::Off), self.tables.clone()),
            false,
            self.tables.processes.clone(),
        );
        let naming = Naming::new(Unwind::FramePointers).expect("a thread can be started");
        Intake::new(targets, naming, 0)
    }

    /// The profile of what a loader has gathered, checked for its sums.
    pub fn profile(&self, intake: &Intake, moment: &Moment) -> Profile {
        let progress = Progress {
            duration_ns: 1_000_000_000,
            health: self.health,
            ..Progress::default()
        };
        let profile = summarize(&intake.gathered(), &run(), &progress, moment);
        crate::profile::sums::check(&profile).expect("sums hold at any moment");
        profile
    }
}

fn made_up_stack(slot: u32, id: u64) -> TakenStack {
    TakenStack {
        // Some stacks differ in their root only.
        native: Arc::new([0x1000 + id, 0x2000 + id / 3, 0x3000]),
        script: Box::default(),
        interpreter: Handle::NONE,
        slot,
        end: StackEnd::Outermost,
        script_truncated: false,
    }
}

/// What a report says about the run.
pub fn run() -> Run {
    Run {
        host: Host {
            kernel: "made-up".to_owned(),
            arch: "x86_64".to_owned(),
            page_size: 4096,
            backend: BackendName::Tracepoint,
            unwind: Unwind::Auto.into(),
            unwind_why: None,
            python: Python::Auto.into(),
            blind_spots: Vec::new(),
        },
        command: Vec::new(),
        started_at: "2026-01-01T00:00:00Z".to_owned(),
        started_ns: 1_000_000_000,
        arguments: true,
        sees_splits: false,
        notes: Vec::new(),
    }
}
