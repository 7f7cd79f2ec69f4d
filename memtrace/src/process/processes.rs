//! The traced processes: who they are, and where their code is mapped.

use std::collections::HashMap;
use std::fs;
use std::io::Read as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use memtrace_common::process::{Counters, NO_SLOT, ProcessSlot};
use memtrace_common::record::Origin;

use super::maps::AddressSpace;
use super::modules::Modules;
use crate::clock;

/// Bytes of /proc/PID/cmdline that are kept.
const MAX_CMDLINE: u64 = 4096;

/// A process's mappings are read again for an address that they do not have, but not sooner than
/// this after the last time, and after twice as long each time that it did not help, since the
/// address may not be code at all.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause before mappings are read again.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// Relatives in which memory is looked for.
const MAX_RELATIVES: usize = 8;

/// A traced process's number, by first appearance.
pub type ProcessId = usize;

/// Number of a mapping snapshot: processes with the same number have the same code at the same
/// addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SpaceId {
    /// A snapshot, by order of reading.
    Snapshot(usize),
    /// The mappings of this process could not be read.
    Unread(ProcessId),
}

/// What is known about one traced process, as plain data.
#[derive(Clone, Debug)]
pub struct ProcessFacts {
    /// The kernel's tgid.
    pub pid: u32,
    /// The parent's.
    pub ppid: u32,
    /// What it is called.
    pub name: Name,
    /// When it began and ended.
    pub times: Times,
    /// What the BPF side counted, when its slot was last read.
    pub counters: Counters,
    /// Copied pages whose records arrived, by [`Origin`] code.
    pub recorded: [u64; 4],
}

/// What a process is called.
#[derive(Clone, Debug, Default)]
pub struct Name {
    /// Its name, as the kernel has it.
    pub comm: Vec<u8>,
    /// Its arguments, shared with the parent until an exec.
    pub cmdline: Arc<[Vec<u8>]>,
}

/// When a process began and ended, in nanoseconds of `CLOCK_MONOTONIC` unless stated otherwise.
#[derive(Clone, Copy, Debug, Default)]
#[expect(
    clippy::struct_field_names,
    reason = "a time without its unit is a riddle"
)]
pub struct Times {
    /// When it was forked; `None` when that was before the trace.
    pub forked_ns: Option<u64>,
    /// When it was started, even if that was before the trace.
    pub started_ns: u64,
    /// When it was started, in nanoseconds of `CLOCK_BOOTTIME`, as the kernel keeps it: together
    /// with the pid this says which process it is.
    pub start_boottime_ns: u64,
    /// When it ended; `None` while it lives.
    pub exited_ns: Option<u64>,
}

impl ProcessFacts {
    /// Copied pages that were counted and whose records have not arrived, by [`Origin`] code.
    #[must_use]
    pub fn missing(&self) -> [u64; 4] {
        std::array::from_fn(|origin| {
            self.counters.copied[origin].saturating_sub(self.recorded[origin])
        })
    }

    /// Splits [`ProcessFacts::missing`]: pages whose records found no room, and pages whose records
    /// are still on their way.
    #[must_use]
    pub fn lost_and_pending(&self) -> ([u64; 4], [u64; 4]) {
        let missing = self.missing();
        // The counters were read one after the other, while the BPF side may have changed them.
        let lost = std::array::from_fn(|origin| self.counters.lost[origin].min(missing[origin]));
        let pending = std::array::from_fn(|origin| missing[origin] - lost[origin]);
        (lost, pending)
    }
}

/// One traced process.
struct TracedProcess {
    facts: ProcessFacts,
    slot: u32,
    /// The process it was forked from, where that is traced.
    parent: Option<ProcessId>,
    space: Option<(SpaceId, AddressSpace)>,
    /// When its mappings may be read again, and how long the pause is then.
    refresh: (Instant, Duration),
}

/// All processes of a trace.
pub struct Processes {
    list: Vec<TracedProcess>,
    by_slot: HashMap<u32, ProcessId>,
    modules: Modules,
    snapshots: usize,
    /// Processes whose mappings have been read since somebody asked.
    remapped: Vec<ProcessId>,
    /// `CLOCK_BOOTTIME` minus `CLOCK_MONOTONIC`, in nanoseconds: how long the machine slept.
    asleep_ns: u64,
}

impl Processes {
    /// No process yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            list: Vec::new(),
            by_slot: HashMap::new(),
            modules: Modules::default(),
            snapshots: 0,
            remapped: Vec::new(),
            asleep_ns: clock::boottime_ns().saturating_sub(clock::monotonic_ns()),
        }
    }

    /// What is known about every process, by first appearance.
    pub fn all(&self) -> impl ExactSizeIterator<Item = &ProcessFacts> {
        self.list.iter().map(|process| &process.facts)
    }

    /// The process in `slot` of the table.
    #[must_use]
    pub fn by_slot(&self, slot: u32) -> Option<ProcessId> {
        self.by_slot.get(&slot).copied()
    }

    /// What is known about a process.
    ///
    /// # Panics
    /// When the id is not one that was handed out.
    #[must_use]
    pub fn get(&self, id: ProcessId) -> &ProcessFacts {
        &self.list[id].facts
    }

    /// The traced process whose memory this one began with: the one that it was forked from, unless
    /// either has replaced its program since. It may have ended.
    ///
    /// # Panics
    /// When the id is not one that was handed out.
    #[must_use]
    pub fn parent(&self, id: ProcessId) -> Option<ProcessId> {
        self.list[id].parent
    }

    /// Counts a copied page whose record arrived.
    pub fn count_record(&mut self, id: ProcessId, origin: Origin) {
        self.list[id].facts.recorded[origin as usize] += 1;
    }

    /// Whether it lives, as far as is known.
    fn is_alive(&self, id: ProcessId) -> bool {
        self.list[id].facts.times.exited_ns.is_none()
    }

    /// How many have not ended.
    #[must_use]
    pub fn live(&self) -> usize {
        self.by_slot.len()
    }

    /// The slots of those that have not been released.
    pub fn slots(&self) -> impl Iterator<Item = (u32, ProcessId)> {
        self.by_slot.iter().map(|(&slot, &id)| (slot, id))
    }

    /// Adds a process that was found or forked.
    pub fn add(&mut self, slot: u32, entry: &ProcessSlot) -> ProcessId {
        if let Some(id) = self.by_slot(slot) {
            return id;
        }
        let parent = (entry.parent_slot != NO_SLOT).then(|| self.by_slot(entry.parent_slot));
        let parent = parent.flatten().filter(|_| entry.execs == 0);
        let forked_ns = (entry.forked_ns != 0).then_some(entry.forked_ns);
        let id = self.list.len();
        let inherited = parent
            .filter(|_| forked_ns.is_some())
            .map(|parent| &self.list[parent]);
        let (cmdline, space) = inherited.map_or((None, None), |parent| {
            (
                Some(Arc::clone(&parent.facts.name.cmdline)),
                parent.space.clone(),
            )
        });
        let before_trace = || entry.start_boottime_ns.saturating_sub(self.asleep_ns);
        let facts = ProcessFacts {
            pid: entry.pid,
            ppid: entry.parent_pid,
            name: Name {
                comm: until_nul(&entry.comm),
                cmdline: cmdline.unwrap_or_else(|| read_cmdline(entry.pid)),
            },
            times: Times {
                forked_ns,
                started_ns: forked_ns.unwrap_or_else(before_trace),
                start_boottime_ns: entry.start_boottime_ns,
                exited_ns: None,
            },
            counters: entry.counters,
            recorded: [0; 4],
        };
        self.list.push(TracedProcess {
            facts,
            slot,
            parent,
            space,
            refresh: (Instant::now(), FIRST_PAUSE),
        });
        self.by_slot.insert(slot, id);
        if self.list[id].space.is_none() {
            self.refresh(id);
        }
        id
    }

    /// A process that was held back is let go now.
    pub fn begins_now(&mut self, pid: u32, now_ns: u64) {
        let ids = self.by_slot.values();
        let held = ids.filter(|&&id| self.list[id].facts.pid == pid).max();
        if let Some(&id) = held {
            self.list[id].facts.times.started_ns = now_ns;
        }
    }

    /// Drops what was known about the program that a process replaced.
    pub fn execed(&mut self, id: ProcessId, entry: &ProcessSlot) {
        // Its children still run the old program, whose mappings it can no longer show; the process
        // that it was forked from perhaps can.
        let heir = self.list[id].parent;
        for child in self
            .list
            .iter_mut()
            .filter(|child| child.parent == Some(id))
        {
            child.parent = heir;
        }
        let process = &mut self.list[id];
        process.facts.name = Name {
            comm: until_nul(&entry.comm),
            cmdline: read_cmdline(process.facts.pid),
        };
        process.parent = None;
        process.space = None;
        process.refresh = (Instant::now(), FIRST_PAUSE);
        self.refresh(id);
    }

    /// Records the counters of a process, and its end; after that its slot may be released.
    pub fn update(&mut self, id: ProcessId, entry: &ProcessSlot) {
        let facts = &mut self.list[id].facts;
        facts.counters = entry.counters;
        facts.times.exited_ns = (entry.exited_ns != 0).then_some(entry.exited_ns);
    }

    /// Forgets which process is in `slot`, which is about to be released.
    pub fn release(&mut self, slot: u32) {
        self.by_slot.remove(&slot);
    }

    /// Reads names and arguments of the processes that are still there: many servers change them
    /// once a worker runs.
    pub fn rename(&mut self) {
        let mut ids: Vec<ProcessId> = self.by_slot.values().copied().collect();
        ids.retain(|&id| self.is_alive(id));
        for id in ids {
            let facts = &mut self.list[id].facts;
            let cmdline = read_cmdline(facts.pid);
            if !cmdline.is_empty() {
                facts.name.cmdline = cmdline;
            }
            if let Ok(comm) = fs::read(format!("/proc/{}/comm", facts.pid)) {
                facts.name.comm = comm.strip_suffix(b"\n").unwrap_or(&comm).to_vec();
            }
        }
    }

    /// The process that this one was forked from while it was traced, if neither has replaced its
    /// program since: both had the same memory then.
    #[must_use]
    pub fn forked_from(&self, id: ProcessId) -> Option<ProcessId> {
        let process = &self.list[id];
        process
            .parent
            .filter(|_| process.facts.times.forked_ns.is_some())
    }

    /// Processes whose mappings have been read since the last call and that have not ended, with
    /// their slots.
    pub fn take_remapped(&mut self) -> Vec<(u32, ProcessId)> {
        let ids = std::mem::take(&mut self.remapped);
        ids.into_iter()
            .filter(|&id| self.by_slot(self.list[id].slot) == Some(id))
            .map(|id| (self.list[id].slot, id))
            .collect()
    }

    /// Pids in which memory of a process can be read: its own, then those of its ancestors of the
    /// same program, then of others that descend from these; live ones, the first few.
    pub fn relatives(&self, id: ProcessId) -> impl Iterator<Item = u32> {
        let line: Vec<_> = std::iter::successors(Some(id), |&id| self.list[id].parent).collect();
        let eldest = line.last().copied().unwrap_or(id);
        let others = (0..self.list.len()).rev().filter(move |&other| {
            let mut ancestors = std::iter::successors(Some(other), |&id| self.list[id].parent);
            ancestors.any(|ancestor| ancestor == eldest)
        });
        line.into_iter()
            .chain(others)
            .filter(|&id| self.is_alive(id))
            .map(|id| self.list[id].facts.pid)
            .take(MAX_RELATIVES)
    }

    /// A process's mappings as they were last read.
    #[must_use]
    pub fn known_space(&self, id: ProcessId) -> Option<AddressSpace> {
        self.list[id].space.as_ref().map(|(_, space)| space.clone())
    }

    /// [`Processes::known_space`], without a copy.
    #[must_use]
    pub fn space_ref(&self, id: ProcessId) -> Option<&AddressSpace> {
        self.list[id].space.as_ref().map(|(_, space)| space)
    }

    /// A process's mappings at this moment. They are not kept for its stacks: records that arrive
    /// later may belong to the program that it ran before.
    pub fn present_space(&mut self, id: ProcessId) -> Option<AddressSpace> {
        AddressSpace::read(self.list[id].facts.pid, &mut self.modules).ok()
    }

    /// The present mappings of a process that need not be traced.
    pub fn space_of(&mut self, pid: u32) -> Option<AddressSpace> {
        AddressSpace::read(pid, &mut self.modules).ok()
    }

    /// Which snapshot of mappings a process has.
    #[must_use]
    pub fn space_id(&self, id: ProcessId) -> SpaceId {
        self.list[id]
            .space
            .as_ref()
            .map_or(SpaceId::Unread(id), |(space_id, _)| *space_id)
    }

    /// Mappings of a process in which all `addresses` are known, as far as possible: they are read
    /// again when one is not, from the process, or after its end from the nearest living ancestor
    /// of the same program. `None` when they could never be read.
    pub fn space(&mut self, id: ProcessId, addresses: &[u64]) -> Option<AddressSpace> {
        let missing = |(_, space): &(SpaceId, AddressSpace)| {
            addresses
                .iter()
                .any(|&address| space.find(address).is_none())
        };
        if self.list[id].space.as_ref().is_none_or(missing) {
            self.refresh(id);
            let process = &mut self.list[id];
            if !process.space.as_ref().is_none_or(missing) {
                process.refresh.1 = FIRST_PAUSE;
            }
        }
        self.list[id].space.as_ref().map(|(_, space)| space.clone())
    }

    fn refresh(&mut self, id: ProcessId) {
        let process = &mut self.list[id];
        let now = Instant::now();
        let (due, pause) = process.refresh;
        if now < due {
            return;
        }
        process.refresh = (now + pause, (2 * pause).min(LONGEST_PAUSE));
        let mut next = Some(id);
        while let Some(source) = next {
            let process = &self.list[source];
            if self.is_alive(source)
                && let Ok(space) = AddressSpace::read(process.facts.pid, &mut self.modules)
            {
                let known = self.list[id].space.as_ref();
                // A new number would make all stacks new.
                if known.is_none_or(|(_, known)| !known.is_same(&space)) {
                    self.list[id].space = Some((SpaceId::Snapshot(self.snapshots), space));
                    self.snapshots += 1;
                    self.remapped.push(id);
                }
                return;
            }
            next = process.parent;
        }
    }
}

impl Default for Processes {
    fn default() -> Self {
        Self::new()
    }
}

fn until_nul(bytes: &[u8]) -> Vec<u8> {
    bytes
        .split(|&byte| byte == 0)
        .next()
        .unwrap_or_default()
        .to_vec()
}

fn read_cmdline(pid: u32) -> Arc<[Vec<u8>]> {
    let mut bytes = Vec::new();
    if let Ok(file) = fs::File::open(format!("/proc/{pid}/cmdline")) {
        // What was read before an error is as good as it gets.
        let _ = file.take(MAX_CMDLINE).read_to_end(&mut bytes);
    }
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    if bytes.is_empty() {
        return Arc::default();
    }
    bytes.split(|&byte| byte == 0).map(<[u8]>::to_vec).collect()
}
