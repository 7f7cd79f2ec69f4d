//! The traced processes: who they are, and where their code is mapped.
//!
//! What happened to a process is told by records, in the order in which it happened, but later. So
//! nothing that is looked up now is taken for what was then: a process that was forked has what its
//! parent had *at that record*, and what /proc shows is only used while the process still runs the
//! program that its records are about ([`Processes::present_space`]).
//!
//! Of a process that has ended only figures and its name are kept ([`ended`](super::ended)).

mod spaces;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::HashMap;
use memtrace_common::process::{NO_SLOT, ProcessSlot};
use memtrace_common::record::Origin;

use self::spaces::FIRST_PAUSE;
pub use self::spaces::SpaceId;
use super::container::Container;
use super::ended::Ended;
use super::facts::{Last, ProcessFacts, Times};
use super::maps::AddressSpace;
use super::modules::Modules;
use super::name::{Name, program_of, read_cmdline, until_nul};
use super::uses::{Used, Uses};
use crate::clock;
use crate::elf::Wanted;

/// Relatives in which memory is looked for.
const MAX_RELATIVES: usize = 8;

/// A process's name is read again and again, so far apart: servers write into it what a worker is
/// for, and what it is doing. What ends sooner after that is called as it was before.
const NAME_DUE: Duration = Duration::from_millis(500);

/// Names that are read again at a time.
const MAX_NAMES: usize = 32;

/// Programs that a process ran before, of which the names are kept.
const MAX_PROGRAMS: usize = 8;

/// A traced process's number, by first appearance, from 0 on; never given twice.
pub type ProcessId = usize;

/// Stands for all processes that have ended and whose figures have been added up.
pub const OTHERS: ProcessId = usize::MAX;

/// What a record says about a process that was found, forked, or replaced its program.
#[derive(Clone, Copy, Debug)]
pub struct Said {
    /// How often it had replaced its program.
    pub execs: u32,
    /// The number of its program.
    pub program: u64,
    /// Its name.
    pub comm: [u8; 16],
}

impl Said {
    /// What the table says now, for want of a record.
    #[must_use]
    pub fn now(entry: &ProcessSlot) -> Self {
        Self {
            execs: entry.execs,
            program: entry.program,
            comm: entry.comm,
        }
    }

    /// The same, of the moment when the program had been replaced `execs` times. Of an earlier
    /// program nothing is known.
    #[must_use]
    pub fn of(self, execs: u32) -> Self {
        if self.execs == execs {
            return self;
        }
        Self {
            execs,
            comm: [0; 16],
            ..self
        }
    }
}

/// One traced process that has not ended.
struct TracedProcess {
    facts: ProcessFacts,
    slot: u32,
    parent: Kin,
    /// Those whose `parent` this is.
    children: Vec<ProcessId>,
    /// How often it had replaced its program when its last record was written.
    execs: u32,
    /// The number of its program.
    program: u64,
    /// What it was called when it began with that program, by the record of that. /proc can show
    /// the next program's name shortly before the record of that is written.
    began_as: Vec<u8>,
    space: Option<(SpaceId, AddressSpace)>,
    /// When its mappings may be read again, and how long the pause is then.
    refresh: (Instant, Duration),
}

/// Whose memory a process began with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kin {
    /// That of a traced process, which lives.
    Traced(ProcessId),
    /// Perhaps that of the process that has this pid.
    Outside(u32),
}

/// What the BPF side's table says now.
pub trait Table {
    /// How often the process in a slot has replaced its program; `None` when there is none.
    fn generation(&self, slot: u32) -> Option<u32>;

    /// Gives a new number to the program of the process in a slot, if it has still replaced its
    /// program `generation` times.
    fn renumber(&self, slot: u32, generation: u32, program: u64);
}

/// All processes of a trace.
pub struct Processes {
    live: HashMap<ProcessId, TracedProcess>,
    /// Those that have ended.
    pub ended: Ended,
    by_slot: HashMap<u32, ProcessId>,
    next: ProcessId,
    modules: Modules,
    snapshots: usize,
    /// How many processes have each snapshot, and each program.
    uses: Uses,
    /// How many programs have been given a new number.
    renumbered: u64,
    /// Processes whose mappings have been read since somebody asked.
    remapped: Vec<ProcessId>,
    /// All that live, and when their names are read again; those that have ended meanwhile may be
    /// there too.
    nameless: VecDeque<(Instant, ProcessId)>,
    /// `CLOCK_BOOTTIME` minus `CLOCK_MONOTONIC`, in nanoseconds: how long the machine slept.
    asleep_ns: u64,
    /// The BPF side's table; `None` in tests without one.
    table: Option<Box<dyn Table>>,
}

impl Processes {
    /// No process yet, of whose files nothing but the layout will be known.
    #[cfg(test)]
    #[must_use]
    pub fn new() -> Self {
        Self::looking_for(Wanted::default())
    }

    /// No process yet. In each file that one runs, what is `wanted` is looked for.
    #[must_use]
    pub fn looking_for(wanted: Wanted) -> Self {
        Self {
            live: HashMap::default(),
            ended: Ended::default(),
            by_slot: HashMap::default(),
            next: 0,
            modules: Modules::looking_for(wanted),
            snapshots: 0,
            uses: Uses::default(),
            renumbered: 0,
            remapped: Vec::new(),
            nameless: VecDeque::new(),
            asleep_ns: clock::boottime_ns().saturating_sub(clock::monotonic_ns()),
            table: None,
        }
    }

    /// Asks `table` from now on which program a process runs.
    pub fn watch(&mut self, table: impl Table + 'static) {
        self.table = Some(Box::new(table));
    }

    /// Those that have not ended, in no order.
    pub fn live(&self) -> impl ExactSizeIterator<Item = (ProcessId, &ProcessFacts)> {
        self.live.iter().map(|(&id, process)| (id, &process.facts))
    }

    /// The process in `slot` of the table.
    #[must_use]
    pub fn by_slot(&self, slot: u32) -> Option<ProcessId> {
        self.by_slot.get(&slot).copied()
    }

    /// What is known about a process.
    ///
    /// # Panics
    /// When it is not one that lives.
    #[must_use]
    pub fn get(&self, id: ProcessId) -> &ProcessFacts {
        &self.live[&id].facts
    }

    /// Whether a process has not ended.
    #[must_use]
    pub fn lives(&self, id: ProcessId) -> bool {
        self.live.contains_key(&id)
    }

    /// When a process was forked, in nanoseconds of `CLOCK_MONOTONIC`; `None` when that was not
    /// during the trace, or it has ended.
    #[must_use]
    pub fn forked_ns(&self, id: ProcessId) -> Option<u64> {
        self.live.get(&id)?.facts.times.forked_ns
    }

    /// How often a process had replaced its program when its last record was written.
    ///
    /// # Panics
    /// When it is not one that lives.
    #[must_use]
    pub fn execs(&self, id: ProcessId) -> u32 {
        self.live[&id].execs
    }

    /// The number of the program that a process ran when its last record was written.
    ///
    /// # Panics
    /// When it is not one that lives.
    #[must_use]
    pub fn program(&self, id: ProcessId) -> u64 {
        self.live[&id].program
    }

    /// The living process whose memory this one began with: the one that it was forked from, or
    /// where that has ended the one that it was forked from, and so on, unless one of them has
    /// replaced its program since.
    ///
    /// # Panics
    /// When it is not one that lives.
    #[must_use]
    pub fn parent(&self, id: ProcessId) -> Option<ProcessId> {
        match self.live[&id].parent {
            Kin::Traced(parent) => Some(parent),
            Kin::Outside(_) => None,
        }
    }

    /// The living processes of which this one is the [`parent`](Self::parent), the first first.
    ///
    /// # Panics
    /// When it is not one that lives.
    #[must_use]
    pub fn children(&self, id: ProcessId) -> &[ProcessId] {
        &self.live[&id].children
    }

    /// For a process without a [`parent`](Self::parent): the pid of the process that is its
    /// parent, or was that of the last one that could have been asked.
    ///
    /// # Panics
    /// When it is not one that lives.
    #[must_use]
    pub fn parent_outside(&self, id: ProcessId) -> Option<u32> {
        match self.live[&id].parent {
            Kin::Traced(_) => None,
            Kin::Outside(pid) => Some(pid),
        }
    }

    /// Counts a copied page whose record arrived.
    pub fn count_record(&mut self, id: ProcessId, origin: Origin) {
        if let Some(process) = self.live.get_mut(&id) {
            process.facts.recorded[origin as usize] += 1;
        }
    }

    /// The slots of those that have not ended.
    pub fn slots(&self) -> impl Iterator<Item = (u32, ProcessId)> {
        self.by_slot.iter().map(|(&slot, &id)| (slot, id))
    }

    /// Adds a process by what the table says, for want of its record. If it has replaced its
    /// program since, nothing is known of what it ran before.
    pub fn add(&mut self, slot: u32, entry: &ProcessSlot) -> ProcessId {
        let parent = (entry.parent_slot != NO_SLOT).then(|| self.by_slot(entry.parent_slot));
        let parent = parent.flatten().filter(|_| entry.execs == 0);
        self.arrived(slot, entry, Said::now(entry), parent)
    }

    /// Adds a process that was found or forked, of which its record said `said`; `parent` is the
    /// process that it was forked from, if that is traced. `entry` is only asked for what does not
    /// change.
    pub fn arrived(
        &mut self,
        slot: u32,
        entry: &ProcessSlot,
        said: Said,
        parent: Option<ProcessId>,
    ) -> ProcessId {
        if let Some(id) = self.by_slot(slot) {
            return id;
        }
        let id = self.next;
        self.next += 1;
        let forked_ns = (entry.forked_ns != 0).then_some(entry.forked_ns);
        let before_trace = || entry.start_boottime_ns.saturating_sub(self.asleep_ns);
        let inherited = parent.filter(|_| forked_ns.is_some());
        let inherited = inherited.and_then(|parent| self.live.get(&parent));
        let cmdline = inherited.map(|parent| Arc::clone(&parent.facts.name.cmdline));
        let container = match inherited {
            Some(parent) => parent.facts.container.clone(),
            None => Container::of(entry.pid).map(Arc::new),
        };
        let space = inherited.and_then(|parent| parent.space.clone());
        let facts = ProcessFacts {
            pid: entry.pid,
            ppid: entry.parent_pid,
            name: Name {
                comm: until_nul(&said.comm),
                cmdline: cmdline.unwrap_or_else(|| read_cmdline(entry.pid)),
                before: Vec::new(),
            },
            container,
            times: Times {
                forked_ns,
                started_ns: forked_ns.unwrap_or_else(before_trace),
                start_boottime_ns: entry.start_boottime_ns,
                exited_ns: None,
            },
            counters: entry.counters,
            recorded: [0; 4],
            last: None,
            program: forked_ns.is_none().then(|| program_of(entry.pid)).flatten(),
        };
        let parent = parent.and_then(|parent| {
            self.live.get_mut(&parent)?.children.push(id);
            Some(parent)
        });
        self.live.insert(
            id,
            TracedProcess {
                facts,
                slot,
                parent: parent.map_or(Kin::Outside(entry.parent_pid), Kin::Traced),
                children: Vec::new(),
                execs: said.execs,
                program: said.program,
                began_as: until_nul(&said.comm),
                space: None,
                refresh: (Instant::now(), FIRST_PAUSE),
            },
        );
        self.by_slot.insert(slot, id);
        self.uses.add(Used::Program(said.program));
        self.uses.add(Used::Space(SpaceId::Unread(id)));
        self.nameless.push_back((Instant::now() + NAME_DUE, id));
        match space {
            Some(space) => self.set_space(id, Some(space)),
            None => self.refresh(id),
        }
        id
    }

    /// A process that was held back is let go now.
    pub fn begins_now(&mut self, pid: u32, now_ns: u64) {
        let mut processes = self.live.values_mut();
        if let Some(held) = processes.find(|process| process.facts.pid == pid) {
            held.facts.times.started_ns = now_ns;
        }
    }

    /// Drops what was known about the program that a process replaced, by what the record of that
    /// said.
    pub fn execed(&mut self, id: ProcessId, said: Said) {
        // Its children still run the old program, whose mappings it can no longer show; the process
        // that it was forked from perhaps can.
        self.disown(id);
        self.set_space(id, None);
        let Some(process) = self.live.get_mut(&id) else {
            return;
        };
        let old = std::mem::replace(&mut process.program, said.program);
        process.execs = said.execs;
        let name = &mut process.facts.name;
        let before = std::mem::replace(&mut process.began_as, until_nul(&said.comm));
        name.comm.clone_from(&process.began_as);
        if name.before.len() < MAX_PROGRAMS {
            name.before.push(before);
        }
        name.cmdline = Arc::default();
        process.parent = Kin::Outside(process.facts.ppid);
        process.refresh = (Instant::now(), FIRST_PAUSE);
        self.uses.add(Used::Program(said.program));
        self.uses.remove(Used::Program(old));
        self.refresh(id);
        self.read_arguments(id);
    }

    /// Forgets what a process was called as another program: it was memtrace's own until now.
    pub fn forget_first_program(&mut self, id: ProcessId) {
        if let Some(process) = self.live.get_mut(&id) {
            process.facts.name.before.clear();
        }
    }

    /// The children of a process descend from its parent from now on.
    fn disown(&mut self, id: ProcessId) {
        let Some(process) = self.live.get_mut(&id) else {
            return;
        };
        let heir = process.parent;
        let children = std::mem::take(&mut process.children);
        if let Kin::Traced(parent) = heir
            && let Some(parent) = self.live.get_mut(&parent)
        {
            parent.children.retain(|&child| child != id);
            parent.children.extend(&children);
        }
        for child in children {
            if let Some(child) = self.live.get_mut(&child) {
                child.parent = heir;
            }
        }
    }

    /// Records the counters of a process.
    pub fn update(&mut self, id: ProcessId, entry: &ProcessSlot) {
        if let Some(process) = self.live.get_mut(&id) {
            process.facts.counters = entry.counters;
        }
    }

    /// Records the end of a process, of which `entry` has the last counters. Its slot may be given
    /// back after that.
    pub fn exited(&mut self, id: ProcessId, entry: &ProcessSlot) {
        self.disown(id);
        self.set_space(id, None);
        let Some(mut process) = self.live.remove(&id) else {
            return;
        };
        self.by_slot.remove(&process.slot);
        self.uses.remove(Used::Space(SpaceId::Unread(id)));
        self.uses.remove(Used::Program(process.program));
        process.facts.counters = entry.counters;
        process.facts.last = Last::of(entry);
        process.facts.times.exited_ns = Some(entry.exited_ns);
        self.ended.add(id, process.facts);
    }

    /// Reads names and arguments of the processes that are still there: many servers change them
    /// once a worker runs.
    pub fn rename(&mut self) {
        let ids: Vec<ProcessId> = self.live.keys().copied().collect();
        for id in ids {
            self.read_name(id);
        }
    }

    /// Reads names again for which it is time; some are left for the next time.
    pub fn read_names(&mut self) {
        let now = Instant::now();
        for _ in 0..MAX_NAMES {
            let Some((_, id)) = self.nameless.pop_front_if(|(due, _)| *due <= now) else {
                return;
            };
            if self.live.contains_key(&id) {
                self.read_name(id);
                self.nameless.push_back((now + NAME_DUE, id));
            }
        }
    }

    /// Gives a new number to a program: what is known of it by the old one can go. Only processes
    /// that still run it are told.
    pub fn renumber(&mut self, program: u64) {
        self.renumbered += 1;
        // Those of the BPF side are times, which do not get that far.
        let new = 1 << 63 | self.renumbered;
        for process in self.live.values_mut() {
            if process.program == program {
                process.program = new;
                self.uses.add(Used::Program(new));
                self.uses.remove(Used::Program(program));
                if let Some(table) = &self.table {
                    table.renumber(process.slot, process.execs, new);
                }
            }
        }
    }

    /// Reads a process's arguments, and in which container it is, if it still runs the program that
    /// is known: who starts a container enters it before it becomes the first program there. The name
    /// is in the record.
    fn read_arguments(&mut self, id: ProcessId) {
        let Some(pid) = self.live.get(&id).map(|process| process.facts.pid) else {
            return;
        };
        let cmdline = read_cmdline(pid);
        let container = Container::of(pid);
        if self.is_current(id)
            && let Some(process) = self.live.get_mut(&id)
        {
            process.facts.name.cmdline = cmdline;
            if process.facts.container.as_deref() != container.as_ref() {
                process.facts.container = container.map(Arc::new);
            }
        }
    }

    /// Reads a process's name and arguments again, if it still runs the program that is known.
    fn read_name(&mut self, id: ProcessId) {
        let Some(pid) = self.live.get(&id).map(|process| process.facts.pid) else {
            return;
        };
        let now = Name::of(pid);
        if self.is_current(id)
            && let Some(process) = self.live.get_mut(&id)
        {
            process.facts.name.update(now);
        }
    }

    /// The process that this one was forked from while it was traced, if neither has replaced its
    /// program since: both had the same memory then.
    #[must_use]
    pub fn forked_from(&self, id: ProcessId) -> Option<ProcessId> {
        let process = &self.live[&id];
        process.facts.times.forked_ns?;
        self.parent(id)
    }

    /// Processes whose mappings have been read since the last call and that have not ended, with
    /// their slots.
    pub fn take_remapped(&mut self) -> Vec<(u32, ProcessId)> {
        let ids = std::mem::take(&mut self.remapped);
        ids.into_iter()
            .filter_map(|id| Some((self.live.get(&id)?.slot, id)))
            .collect()
    }

    /// What no process has any more since the last call.
    pub fn take_unused(&mut self) -> Vec<Used> {
        self.uses.take_unused()
    }

    /// Pids in which memory of a process can be read: its own, then those of its ancestors of the
    /// same program, then of others that descend from these; the first few.
    #[must_use]
    pub fn relatives(&self, id: ProcessId) -> Vec<u32> {
        let mut ids: Vec<ProcessId> = Vec::with_capacity(MAX_RELATIVES);
        let line = std::iter::successors(Some(id), |&id| self.parent(id));
        ids.extend(line.take(MAX_RELATIVES));
        // Breadth first from the eldest, so that those who have been there for long come first.
        let mut next = 0;
        let mut others: Vec<ProcessId> = ids.last().copied().into_iter().collect();
        while ids.len() < MAX_RELATIVES && next < others.len() {
            let children = self.live.get(&others[next]);
            let children = children.map_or(&[][..], |process| &process.children);
            // Of very many children the first few will do.
            for &child in children.iter().take(MAX_RELATIVES) {
                others.push(child);
                if ids.len() < MAX_RELATIVES && !ids.contains(&child) {
                    ids.push(child);
                }
            }
            next += 1;
        }
        let pid = |id| Some(self.live.get(id)?.facts.pid);
        ids.iter().filter_map(pid).collect()
    }
}
