//! Where each record goes: to the processes, to the names, to the sums.
//!
//! Everything that a record may change is changed here, in the order of the ring buffer, before a
//! copy is counted: [`Targets`] say whose it is, [`Naming`] keeps what names its stack, and
//! [`Fold`] counts it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use foldhash::HashMap;
use memtrace_common::record::{Cause, Evidence, Origin};
use memtrace_common::unwind::StackEnd;

use crate::cause::Area;
use crate::clock;
use crate::collect::{Event, Fault, Lifecycle, TakenFunction, TakenStack};
use crate::fold::naming::Naming;
use crate::fold::{
    Copy, Fold, Handle, Named, Observation, Phase, StackIndex, StackKey, Tally, YOUTH,
};
use crate::interpreter::entries::InstanceId;
use crate::memory::Accounts;
use crate::process::maps::AddressSpace;
use crate::process::memory::RelativesMemory;
use crate::process::processes::{ProcessId, Processes, SpaceId};
use crate::process::uses::Used;
use crate::profile::{Unchanged, Unknown};
use crate::summarize::Gathered;
use crate::targets::Targets;

/// Stacks that are named together, which is faster than one by one.
const STACKS_AT_ONCE: usize = 64;

/// Stacks that are being named at a time, at most.
const MOST_ASKED: usize = 1024;

/// How long something that is not used any more is kept for faults that had begun before.
const GRACE: Duration = Duration::from_secs(1);

/// Everything that a trace has gathered so far.
pub struct Intake {
    /// Who is traced.
    pub targets: Targets,
    naming: Naming,
    fold: Fold,
    /// What no process has any more, the oldest first.
    unused: VecDeque<Unused>,
}

/// Something that no process has any more.
struct Unused {
    /// How many stacks there had been by then; names of those may need it.
    by: u64,
    /// When that was.
    at: Instant,
    what: What,
}

enum What {
    OfProcesses(Used),
    Interpreter(InstanceId),
}

impl Intake {
    /// Nothing has been gathered yet; the trace begins at `started_ns` of `CLOCK_MONOTONIC`.
    #[must_use]
    pub fn new(targets: Targets, naming: Naming, started_ns: u64) -> Self {
        Self {
            targets,
            naming,
            fold: Fold::since(started_ns),
            unused: VecDeque::new(),
        }
    }

    /// Handles one record.
    pub fn record(&mut self, event: Event) {
        match event {
            Event::Fault(fault) => self.fault(&fault),
            Event::Stack { id, stack } => self.stack(id, stack),
            Event::Function(function) => self.function(&function),
            Event::Pages(last) => self.targets.last_pages(&last),
            Event::Process(change) => {
                match change.what {
                    Lifecycle::Fork if change.forked => self.fold.forked(change.time_ns),
                    Lifecycle::Fork => {}
                    Lifecycle::Exec => self.fold.execed(change.time_ns),
                    Lifecycle::Exit => self.fold.exited(change.time_ns),
                }
                self.targets.changed(&change);
                self.settle();
            }
        }
    }

    fn stack(&mut self, id: u64, stack: TakenStack) {
        if stack.end == StackEnd::NoMapping {
            self.targets.ran_unmapped_code(stack.slot);
        }
        let interpreter = self.targets.tracker.instance(stack.interpreter).cloned();
        let processes = &self.targets.processes;
        let process = processes.by_slot(stack.slot);
        let program = process.map_or(0, |process| processes.program(process));
        self.naming.stack_arrived(id, program, stack, interpreter);
    }

    /// Adds a function: what is missing of it is read at once, while it may still be there.
    fn function(&mut self, function: &TakenFunction) {
        let Some(interpreter) = self.targets.tracker.instance(function.interpreter) else {
            return;
        };
        let memory = self.targets.memory_of_slot(function.slot);
        let names = &mut self.naming.names;
        names.add_function(interpreter, function, &memory);
    }

    fn fault(&mut self, fault: &Fault) {
        let Some(process) = self.targets.ensure_process(fault.slot, fault.execs) else {
            return;
        };
        self.settle();
        self.targets.processes.count_record(process, fault.origin);
        let page = self.targets.copied(process, fault.address);
        let seen = self.observe(process, fault);
        let stack = self.find_or_add_stack(process, fault);
        let started_ns = self.targets.processes.get(process).times.started_ns;
        let copy = Copy {
            process,
            seen,
            latency_ns: fault.latency_ns,
            time_ns: fault.time_ns,
            age_ms: fault.time_ns.saturating_sub(started_ns) / 1_000_000,
            page,
        };
        self.fold.count(stack, &copy);
    }

    /// What the BPF side saw, with the types' names at this moment.
    fn observe(&mut self, process: ProcessId, fault: &Fault) -> Observation {
        let Targets {
            processes, tracker, ..
        } = &self.targets;
        let space = || {
            let space = processes.space_ref(process);
            space.filter(|_| processes.execs(process) == fault.execs)
        };
        let object_type = fault.object_type.and_then(|address| {
            let interpreter = tracker.of(process)?;
            let names = &mut self.naming.names;
            let found = names.type_at(interpreter, address, || {
                Box::new(RelativesMemory::new(processes.relatives(process)))
            })?;
            // Types of CPython itself lie where the type of all types does.
            let is_compiled_in =
                || space().is_some_and(|space| space.are_of_one_file(fault.address, address));
            Some(names.with_static_types(found, is_compiled_in))
        });
        let area = (fault.cause == Cause::Unknown)
            .then(|| space().map_or(Area::Gone, |space| Area::of(space, fault.address)));
        Observation {
            cause: fault.cause,
            evidence: fault.evidence,
            origin: fault.origin,
            phase: phase(processes, process, fault),
            area,
            object_type,
            field_offset: (fault.evidence == Evidence::Field).then_some(fault.offset),
        }
    }

    /// Counts copies where they belong of processes whose phase was open until now.
    fn settle(&mut self) {
        for (process, fate) in self.targets.take_fates() {
            self.fold.settle(process, fate);
        }
    }

    fn find_or_add_stack(&mut self, process: ProcessId, fault: &Fault) -> StackIndex {
        let ip = fault.ip;
        let key = match fault.stack {
            Some(id) => StackKey::Taken { id, ip },
            None if fault.latency_ns.is_none() => StackKey::Instruction {
                ip,
                why: Unknown::NoEnd,
            },
            None => StackKey::Instruction {
                ip,
                why: Unknown::UnwindOff,
            },
        };
        let processes = &mut self.targets.processes;
        if processes.execs(process) != fault.execs {
            // It was found when it had replaced its program already, and this is of the one before,
            // of which nothing is known.
            let space = SpaceId::Unread(process);
            return self.fold.find_or_add_stack(space, key, AddressSpace::gone);
        }
        if let Some(known) = self.fold.find_stack(processes.space_id(process), key) {
            return known;
        }
        let lone = [ip];
        let addresses = fault.stack.and_then(|id| self.naming.addresses(id));
        // This may read the mappings again, and give the process another snapshot.
        let space = processes.space(process, addresses.unwrap_or(&lone));
        self.fold
            .find_or_add_stack(processes.space_id(process), key, || {
                space.unwrap_or_else(AddressSpace::gone)
            })
    }

    /// Drops what was kept for processes, programs and mappings that are not there any more, once
    /// everything that refers to it has been handled. All records that there were at `all_until`
    /// have been.
    pub fn let_go(&mut self, all_until: Instant) {
        for program in self.naming.take_crowded() {
            self.targets.processes.renumber(program);
        }
        let since = Instant::now().saturating_duration_since(all_until) + YOUTH;
        let youngest = clock::monotonic_ns().saturating_sub(since.as_nanos() as u64);
        let processes = &self.targets.processes;
        let is_young = |process| {
            processes
                .forked_ns(process)
                .is_some_and(|at| at >= youngest)
        };
        self.fold.settle_old(is_young);
        let ended = self.targets.add_up_ended();
        self.fold.add_up(&ended);
        let (by, now) = (self.fold.stacks_ever(), Instant::now());
        let shared = self.targets.processes.take_unused();
        let shared = shared.into_iter().map(What::OfProcesses);
        let interpreters = self.targets.tracker.take_retired();
        let interpreters = interpreters.into_iter().map(What::Interpreter);
        let more = shared.chain(interpreters);
        self.unused
            .extend(more.map(|what| Unused { by, at: now, what }));
        let handed_out = self.fold.handed_out();
        let is_over =
            |unused: &mut Unused| unused.by <= handed_out && unused.at + GRACE <= all_until;
        while let Some(unused) = self.unused.pop_front_if(is_over) {
            match unused.what {
                What::OfProcesses(Used::Space(space)) => self.fold.forget_space(space),
                What::OfProcesses(Used::Program(program)) => {
                    self.naming.forget_program(program);
                }
                What::Interpreter(interpreter) => self.naming.names.forget(interpreter),
            }
        }
    }

    /// Asks for names of stacks, the oldest first, and uses those that have come back.
    pub fn name_stacks(&mut self) {
        while let Some(named) = self.naming.next() {
            self.set_names(named);
        }
        self.ask_for_names();
    }

    /// Names all stacks, however long that takes.
    pub fn name_all_stacks(&mut self) {
        loop {
            self.ask_for_names();
            match self.naming.wait() {
                Some(named) => self.set_names(named),
                None => return,
            }
        }
    }

    /// Waits for an unwind table that was built, or for names of stacks, and uses what has come.
    /// Nothing is lost when this is dropped while it waits.
    pub async fn answered(&mut self) {
        let Self {
            targets, naming, ..
        } = self;
        tokio::select! {
            () = targets.table_built() => {}
            () = naming.ready() => self.name_stacks(),
        }
    }

    fn ask_for_names(&mut self) {
        while self.fold.has_unnamed() && self.naming.outstanding() < MOST_ASKED {
            let some = self.fold.take_unnamed(STACKS_AT_ONCE);
            self.naming.ask(some);
        }
    }

    fn set_names(&mut self, named: Vec<(Handle, Named)>) {
        for (handle, named) in named {
            self.fold.set_name(handle, named);
        }
    }

    /// Compares the copied pages of living processes with their relatives', by process, and samples
    /// of them by call site.
    pub fn compare_copied(&mut self) -> HashMap<ProcessId, Unchanged> {
        if let Some(copied) = self.targets.copied_pages() {
            self.fold.compare_samples(&self.targets.processes, copied);
        }
        self.targets.compare_copied()
    }

    /// What has been gathered at this moment, as plain data. The counters are those that were read
    /// last: see [`Targets::update_counters`].
    #[must_use]
    pub fn gathered(&self) -> Gathered {
        let accounts = self.targets.accounts();
        gathered(
            &self.targets,
            &self.naming,
            self.fold.tally().clone(),
            accounts,
        )
    }

    /// [`Intake::gathered`] at the end of the trace, when the sums need not be copied.
    #[must_use]
    pub fn into_gathered(mut self) -> Gathered {
        let accounts = self.targets.take_accounts();
        let tally = self.fold.into_tally();
        gathered(&self.targets, &self.naming, tally, accounts)
    }
}

/// The phase of a copy, as far as it is known when its record is read: see [`Phase::Young`].
fn phase(processes: &Processes, process: ProcessId, fault: &Fault) -> Phase {
    let is_young =
        |forked_ns| u128::from(fault.time_ns.saturating_sub(forked_ns)) < YOUTH.as_nanos();
    if fault.execs > 0
        || !processes.forked_ns(process).is_some_and(is_young)
        || is_of_a_new_program(fault)
    {
        Phase::Run
    } else if processes.execs(process) > 0 {
        Phase::BeforeExec
    } else {
        Phase::Young(process)
    }
}

/// Whether the kernel wrote to what it had just mapped of a file: an `execve` clears the rest of the
/// page behind a program's data, before it is said to be there. A program that is yet to come has it for
/// good.
fn is_of_a_new_program(fault: &Fault) -> bool {
    fault.cause == Cause::Kernel && fault.origin == Origin::File
}

fn gathered(
    targets: &Targets,
    naming: &Naming,
    tally: Tally,
    accounts: Option<Accounts>,
) -> Gathered {
    Gathered {
        accounts,
        processes: targets.facts(),
        interpreters: targets.interpreters(),
        others: targets.processes.ended.others().cloned(),
        tally,
        types: naming.names.type_names().to_vec(),
        modules: targets.unwinder.modules(),
    }
}
