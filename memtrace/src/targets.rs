//! Who is traced: the processes, and what goes with each of them.
//!
//! A process comes and goes here at once for everything that follows it: its interpreter, its
//! unwind tables, the pages that it copied. What it copied is counted elsewhere, see
//! [`fold`](crate::fold).

use std::time::Instant;

use foldhash::HashMap;
use memtrace_common::process::{MAX_PROCESSES, ProcessSlot, SLOT_EXITED};

use crate::collect::{LastPages, Lifecycle, ProcessChange};
use crate::fold::Fate;
use crate::interpreter::tracker::{Seen, Tracker};
use crate::memory::{Accountant, Accounts};
use crate::probe::SharedArray;
use crate::process::facts::ProcessFacts;
use crate::process::memory::RelativesMemory;
use crate::process::processes::{ProcessId, Processes, Said, Table};
use crate::profile::{Reason, Unchanged};
use crate::unchanged::CopiedPages;
use crate::unwind::Unwinder;

impl Table for SharedArray<ProcessSlot> {
    fn generation(&self, slot: u32) -> Option<u32> {
        Self::generation(self, slot)
    }

    fn renumber(&self, slot: u32, generation: u32, program: u64) {
        // If it is another program by now, that has another number already.
        self.set_program(slot, generation, program);
    }
}

/// The traced processes, and what follows them.
pub struct Targets {
    /// The processes.
    pub processes: Processes,
    /// Which process has which interpreter.
    pub tracker: Tracker,
    /// Which process has which unwind tables.
    pub unwinder: Unwinder,
    /// Which pages were copied; `None` when they are not compared at the end.
    copied: Option<CopiedPages>,
    /// The interpreters and runtimes of processes that have ended.
    interpreters: HashMap<ProcessId, Seen>,
    /// The process that becomes COMMAND, until it does.
    held: Option<u32>,
    /// What has become of processes, and nobody has asked yet.
    fates: Vec<(ProcessId, Fate)>,
    /// Who looks at their memory; `None` where that is not wanted.
    accountant: Option<Accountant>,
    /// The BPF side's table of processes.
    table: SharedArray<ProcessSlot>,
}

impl Targets {
    /// No process yet.
    #[must_use]
    pub fn new(
        processes: Processes,
        tracker: Tracker,
        unwinder: Unwinder,
        unchanged: bool,
        table: SharedArray<ProcessSlot>,
    ) -> Self {
        let mut processes = processes;
        processes.watch(table.clone());
        Self {
            processes,
            tracker,
            unwinder,
            copied: unchanged.then(CopiedPages::default),
            interpreters: HashMap::default(),
            held: None,
            fates: Vec::new(),
            accountant: None,
            table,
        }
    }

    /// Has their memory looked at from now on.
    pub fn account(&mut self, accountant: Accountant) {
        self.accountant = Some(accountant);
    }

    /// Has the memory of those that live looked at for the last time, without waiting for that.
    pub fn finish_accounts(&self) {
        if let Some(accountant) = &self.accountant {
            accountant.finish();
        }
    }

    /// How much memory they have had until now; `None` where that is not looked at.
    #[must_use]
    pub fn accounts(&self) -> Option<Accounts> {
        self.accountant.as_ref().map(Accountant::accounts)
    }

    /// The same when [`Targets::finish_accounts`] has done its work, for which it waits.
    pub fn take_accounts(&mut self) -> Option<Accounts> {
        self.accountant.take().map(Accountant::into_accounts)
    }

    /// The process in a slot of the table, of which a record says that it had replaced its program
    /// `execs` times. One that is not known yet is added: its own record was lost. `None` when there
    /// is none in that slot.
    pub fn ensure_process(&mut self, slot: u32, execs: u32) -> Option<ProcessId> {
        let Some(id) = self.processes.by_slot(slot) else {
            let entry = self.table.read(slot as usize)?;
            return Some(self.add(slot, &entry));
        };
        if self.processes.execs(id) < execs {
            // The record of that was lost.
            let entry = self.table.read(slot as usize)?;
            self.execed(slot, id, Said::now(&entry).of(execs));
        }
        Some(id)
    }

    /// Adds a process that may be known already, by what the table says now.
    fn add(&mut self, slot: u32, entry: &ProcessSlot) -> ProcessId {
        if let Some(known) = self.processes.by_slot(slot) {
            return known;
        }
        let id = self.processes.add(slot, entry);
        self.added(slot, id);
        id
    }

    fn added(&mut self, slot: u32, id: ProcessId) {
        self.tracker.process_added(slot, id, &self.processes);
        self.unwinder.add(slot, id, &self.processes);
        if let Some(accountant) = &self.accountant {
            accountant.begins(id, slot, self.processes.get(id).pid);
        }
    }

    /// Records what happened to a process.
    pub fn changed(&mut self, change: &ProcessChange) {
        let slot = change.slot;
        let Some(entry) = self.table.read(slot as usize) else {
            return;
        };
        let said = Said {
            execs: change.execs,
            program: change.program,
            comm: change.comm,
        };
        match change.what {
            Lifecycle::Fork => {
                if self.processes.by_slot(slot).is_none() {
                    let parent = change.parent_slot;
                    let parent = parent.and_then(|parent| self.processes.by_slot(parent));
                    let id = self.processes.arrived(slot, &entry, said, parent);
                    self.added(slot, id);
                }
            }
            Lifecycle::Exec => {
                let id = self.add(slot, &entry);
                // One that was added just now, or by a later record, may know more.
                if self.processes.execs(id) < said.execs {
                    self.execed(slot, id, said);
                }
            }
            Lifecycle::Exit => self.exited(slot, &entry),
        }
    }

    /// The process with this pid becomes COMMAND: what it was before is memtrace's own.
    pub fn hold(&mut self, pid: u32) {
        self.held = Some(pid);
    }

    fn execed(&mut self, slot: u32, id: ProcessId, said: Said) {
        self.fates.push((id, Fate::Execed));
        self.processes.execed(id, said);
        let pid = self.processes.get(id).pid;
        if self.held.take_if(|held| *held == pid).is_some() {
            self.processes.forget_first_program(id);
        }
        self.tracker.process_execed(slot, id, &self.processes);
        self.unwinder.execed(slot, id, &self.processes);
        self.memory_gone(id, Reason::Replaced);
    }

    /// Records the last counters of a process that ended, and gives its slot back. Nothing is done
    /// twice: an exit can be found in the table before its record is read.
    fn exited(&mut self, slot: u32, entry: &ProcessSlot) {
        if entry.state == SLOT_EXITED
            && let Some(id) = self.processes.by_slot(slot)
        {
            self.fates.push((id, Fate::Ended));
            self.unwinder.ended(id);
            self.memory_gone(id, Reason::Ended);
            if let Some(seen) = self.tracker.process_ended(id) {
                self.interpreters.insert(id, seen);
            }
            if let Some(accountant) = &self.accountant {
                accountant.ended(id);
            }
            self.processes.exited(id, entry);
            self.table.release(slot);
        }
    }

    /// What has become of processes since the last call, which decides what they copied until then.
    pub fn take_fates(&mut self) -> Vec<(ProcessId, Fate)> {
        std::mem::take(&mut self.fates)
    }

    /// Adds up processes that have ended when there are very many; returns which. Whoever keeps
    /// something by process must add it up too.
    pub fn add_up_ended(&mut self) -> Vec<ProcessId> {
        let ids = self.processes.ended.add_up();
        for id in &ids {
            self.interpreters.remove(id);
        }
        if let Some(copied) = &mut self.copied {
            copied.add_up(&ids);
        }
        if let Some(accountant) = &self.accountant {
            accountant.forget(&ids);
        }
        ids
    }

    /// Records that a process no longer has the memory that it had.
    fn memory_gone(&mut self, process: ProcessId, why: Reason) {
        if let Some(copied) = &mut self.copied {
            copied.gone(process, why);
        }
    }

    /// Records that a process copied the page at `address`; returns its number, if pages are
    /// compared at the end.
    pub fn copied(&mut self, process: ProcessId, address: u64) -> Option<u64> {
        let copied = self.copied.as_mut()?;
        Some(copied.add(process, address))
    }

    /// Compares what a process held, which is about to end, with what its parent has.
    pub fn last_pages(&mut self, last: &LastPages) {
        if let (Some(copied), Some(id)) = (&mut self.copied, self.processes.by_slot(last.slot)) {
            copied.last_pages(id, last, &self.processes);
        }
    }

    /// Records that the process in a slot ran code that was in none of its mappings.
    pub fn ran_unmapped_code(&mut self, slot: u32) {
        if let Some(process) = self.processes.by_slot(slot) {
            self.unwinder
                .met_unmapped_code(slot, process, &mut self.processes);
        }
    }

    /// Memory of the process in a slot, from itself or a relative.
    #[must_use]
    pub fn memory_of_slot(&self, slot: u32) -> RelativesMemory {
        let process = self.processes.by_slot(slot);
        let relatives = process.map(|process| self.processes.relatives(process));
        RelativesMemory::new(relatives.unwrap_or_default())
    }

    /// Looks for interpreters where there may be new ones.
    pub fn look_for_interpreters(&mut self) {
        self.tracker.tick(Instant::now(), &mut self.processes);
        self.tracker.processes_remapped(&mut self.processes);
    }

    /// Keeps the unwind tables of processes up to date. All records that there were at `all_until`
    /// have been handled.
    pub fn look_for_code(&mut self, all_until: Instant) {
        self.unwinder.tick(&mut self.processes, all_until);
    }

    /// Waits for an unwind table to be built, and gives it to the processes that wait for it.
    /// Nothing is lost when this is dropped while it waits.
    pub async fn table_built(&mut self) {
        let built = self.unwinder.next_built().await;
        self.unwinder.table_built(built);
    }

    /// Adds from the table what lost records would have said: processes that are there and were not
    /// announced, and processes that ended before `before_ns` of `CLOCK_MONOTONIC`, of which no
    /// record may still be waiting to be read.
    pub fn catch_up(&mut self, before_ns: u64) {
        for slot in 0..MAX_PROCESSES {
            if !self.table.is_used(slot) {
                continue;
            }
            if let Some(entry) = self.table.read(slot as usize) {
                self.add(slot, &entry);
                if entry.exited_ns < before_ns {
                    self.exited(slot, &entry);
                }
            }
        }
    }

    /// Reads the counters of all processes that are still in the table.
    pub fn update_counters(&mut self) {
        let slots: Vec<_> = self.processes.slots().collect();
        for (slot, id) in slots {
            if let Some(entry) = self.table.read(slot as usize) {
                self.processes.update(id, &entry);
            }
        }
    }

    /// Which pages were copied; `None` when they are not compared at the end.
    #[must_use]
    pub fn copied_pages(&self) -> Option<&CopiedPages> {
        self.copied.as_ref()
    }

    /// Compares the copied pages of living processes with their relatives'.
    #[must_use]
    pub fn compare_copied(&self) -> HashMap<ProcessId, Unchanged> {
        let copied = self.copied.as_ref();
        copied.map_or_else(HashMap::default, |copied| copied.compare(&self.processes))
    }

    /// What is known about every process, by first appearance.
    #[must_use]
    pub fn facts(&self) -> Vec<(ProcessId, ProcessFacts)> {
        let ended = self.processes.ended.kept();
        let all = self.processes.live().chain(ended);
        let mut all: Vec<_> = all.map(|(id, facts)| (id, facts.clone())).collect();
        all.sort_by_key(|&(id, _)| id);
        all
    }

    /// The interpreters and runtimes of the processes that have any.
    #[must_use]
    pub fn interpreters(&self) -> HashMap<ProcessId, Seen> {
        let live = self.processes.live();
        let live = live.filter_map(|(id, _)| Some((id, self.tracker.seen(id)?)));
        live.chain(self.interpreters.clone()).collect()
    }
}
