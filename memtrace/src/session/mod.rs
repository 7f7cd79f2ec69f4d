//! One trace, from attach to the last record.
//!
//! One thread reads records ([`drain`]) and another interprets them, and does whatever else is due
//! between two batches. A profile of what has been gathered can be taken at any moment
//! ([`Session::snapshot`]); making it is left to another thread.

mod drain;
mod ending;
mod priority;
mod source;

use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Error, Result, bail, ensure};
use log::{debug, info};
use memtrace_common::process::MAX_PROCESSES;
use tokio::time::{Interval, MissedTickBehavior};

use self::ending::Ending;
pub use self::ending::Why;
pub use self::source::{Attached, Source};
use crate::clock;
use crate::command::Held;
use crate::fold::naming::Naming;
use crate::host;
use crate::intake::Intake;
use crate::interpreter::tracker::Tracker;
use crate::options::{Target, TraceOptions};
use crate::plan::Plan;
use crate::preflight;
use crate::probe::{Found, Probe};
use crate::process::pidfd::PidFd;
use crate::process::processes::Processes;
use crate::signals;
use crate::summarize::{Moment, Progress, Run, Snapshot};
use crate::targets::Targets;
use crate::unwind::{Library, Unwinder};

/// How often the session does what is due now and then.
const TICK: Duration = Duration::from_millis(50);

/// Records that are handled before anything else gets its turn.
const BATCH: usize = 16_384;

/// Records in a tick up to which there is time to copy the sums for a view.
const CALM: usize = 2048;

/// Once all records that are there have been read, a process that ended longer ago than this has
/// none left.
const RECORDS_LATE: Duration = Duration::from_secs(1);

/// The longest wait for the records of the processes that were found.
const LONGEST_CATCH_UP: Duration = Duration::from_secs(1);

/// How long a process that is ending may take for it.
const ENDING: Duration = Duration::from_millis(100);

/// The longest wait for the unwind tables of the processes that will be traced.
const PREPARATION: Duration = Duration::from_secs(2);

/// A trace in progress.
pub struct Session<S> {
    source: S,
    intake: Intake,
    ending: Ending,
    run: Arc<Run>,
    pace: Pace,
}

/// How far a session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Some time has passed.
    Tick,
    /// The trace is over.
    Ended(Why),
}

/// What decides when a session does more than read records.
struct Pace {
    tick: Interval,
    /// Records since the last tick, and how many there were in the tick before.
    records: usize,
    last_tick: usize,
    /// When the table was last searched for what lost records would have said.
    caught_up: Instant,
    /// A moment before which all records have been handled.
    all_until: Instant,
}

impl Session<Attached> {
    /// Attaches as planned, and traces from now on. Must be called in the event loop. `notes` say
    /// what limits the report.
    ///
    /// # Errors
    /// When the kernel does not permit it, or what is to be traced is not there.
    pub fn start(options: &TraceOptions, plan: &Plan, notes: Vec<String>) -> Result<Self> {
        // First, so that attaching does not wait for whoever else wants the CPUs.
        priority::stay_ahead();
        let start = Instant::now();
        let ending = Ending::new()?;
        let mut processes = Processes::new();
        let mut library = Library::new(plan.unwind.value);
        if let Target::Attach { pids, .. } = &options.target {
            for &pid in pids {
                if let Some(space) = processes.space_of(pid) {
                    library.prepare(&space);
                }
            }
            library.wait(PREPARATION);
            signals::check()?;
        }
        let (pids, command) = match &options.target {
            Target::Attach { pids, load } => {
                (pids.clone(), load.as_deref().map(Held::spawn).transpose()?)
            }
            Target::Launch { command } => {
                let held = Held::spawn(command)?;
                library.await_exec(held.pid());
                (vec![held.pid()], Some(held))
            }
        };
        let alive = watched(&pids)?;
        // Only errors of attaching are explained: a missing COMMAND is not the kernel's fault.
        let settings = plan.settings(options, library.rows_wanted());
        let probe = Probe::attach(settings).map_err(|error| preflight::explain(error, options))?;
        signals::check()?;
        let tables = probe.tables().clone();
        let tracker = Tracker::new(plan.loaders(), tables.clone());
        let unwinder = Unwinder::new(library, tables.clone());
        let table = tables.processes;
        let mut targets = Targets::new(processes, tracker, unwinder, options.unchanged, table);
        if let (Target::Launch { .. }, Some(held)) = (&options.target, &command) {
            targets.hold(held.pid());
        }
        let intake = Intake::new(targets, Naming::new(plan.unwind.value)?);
        let mut run = Run {
            host: host::describe(plan),
            command: host::command_line(&options.target),
            started_at: clock::now_rfc3339(),
            started_ns: clock::monotonic_ns(),
            sees_splits: plan.backend.value.sees().split,
            notes,
        };
        let (source, found) = Attached::trace(probe, &pids)?;
        check_found(&found, &alive)?;
        run.notes.extend(limit_met(&found));
        let mut session = Self::new(source, intake, ending, run);
        // The processes that were found get their unwind tables before the trace is announced.
        session.catch_up();
        // From here on a signal ends the trace, with a report.
        signals::check()?;
        announce(&pids, found.processes);
        // Until here everything is memtrace's own: reading files, looking at processes, attaching.
        let cpu_ms = clock::process_cpu().as_millis();
        info!(
            "attached in {} ms, {cpu_ms} ms of CPU time",
            start.elapsed().as_millis()
        );
        if let Some(command) = command {
            // It has waited for memtrace until now.
            let processes = &mut session.intake.targets.processes;
            processes.begins_now(command.pid(), clock::monotonic_ns());
            let ends = matches!(options.target, Target::Attach { .. });
            session.ending.with_command(command.release()?, ends);
        }
        if let Some(duration) = options.duration {
            session.source.end_at(Instant::now() + duration);
        }
        Ok(session)
    }
}

impl<S: Source> Session<S> {
    fn new(source: S, intake: Intake, ending: Ending, run: Run) -> Self {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            source,
            intake,
            ending,
            run: Arc::new(run),
            pace: Pace {
                tick,
                records: 0,
                last_tick: 0,
                caught_up: Instant::now(),
                all_until: Instant::now(),
            },
        }
    }

    /// Handles all records that there are now.
    fn catch_up(&mut self) {
        let now = Instant::now();
        self.source.look();
        while self.pace.all_until < now && now.elapsed() < LONGEST_CATCH_UP {
            if self.drain() == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Goes on until the next tick, or to the end of the trace.
    ///
    /// # Errors
    /// When the kernel no longer tells about records or COMMAND.
    pub async fn next(&mut self) -> Result<Step> {
        loop {
            let taken = self.drain();
            if let Some(ended) = self.source.ended() {
                return Ok(Step::Ended(ended.why));
            }
            let due = self.intake.targets.tracker.next_due();
            tokio::select! {
                biased;
                why = self.ending.reached() => return Ok(Step::Ended(why?)),
                // Yields instead of being ready: signals and clocks must get their turn in an
                // endless storm.
                () = tokio::task::yield_now(), if taken >= BATCH => {}
                ready = self.source.ready() => ready?,
                // An interpreter that starts must be known before its first children are forked.
                () = until(due) => self.intake.targets.look_for_interpreters(),
                () = self.intake.answered() => {}
                _ = self.pace.tick.tick() => {
                    self.tick();
                    return Ok(match self.intake.targets.processes.live().len() {
                        0 => Step::Ended(Why::NoProcess),
                        _ => Step::Tick,
                    });
                }
            }
        }
    }

    /// Does what is due now and then.
    fn tick(&mut self) {
        self.drain();
        let is_late = self.pace.all_until.elapsed() > RECORDS_LATE;
        let has_lost = self.source.health().lifecycle_lost > 0;
        if has_lost && !is_late && self.pace.caught_up.elapsed() > RECORDS_LATE {
            self.pace.caught_up = Instant::now();
            let late = RECORDS_LATE.as_nanos() as u64;
            let targets = &mut self.intake.targets;
            targets.catch_up(clock::monotonic_ns().saturating_sub(late));
        }
        self.intake.targets.look_for_interpreters();
        self.intake.targets.look_for_code(self.pace.all_until);
        self.intake.name_stacks();
        self.intake.let_go(self.pace.all_until);
        self.intake.targets.processes.read_names();
        self.pace.last_tick = std::mem::take(&mut self.pace.records);
    }

    /// Whether there is time for more than records.
    #[must_use]
    pub fn is_calm(&self) -> bool {
        self.pace.last_tick < CALM
    }

    /// Handles up to a batch of records; returns how many there were.
    fn drain(&mut self) -> usize {
        let Self { source, intake, .. } = self;
        let drained = source.drain(BATCH, |event| intake.record(event));
        self.pace.records += drained.records;
        if let Some(all_until) = drained.all_until {
            self.pace.all_until = all_until;
        }
        drained.records
    }

    /// What has been gathered until now, to make a profile of on another thread.
    pub fn snapshot(&mut self) -> Snapshot {
        // A record is written after its copy was counted, so no record is without its count.
        self.intake.targets.update_counters();
        self.snapshot_of(Moment::Running)
    }

    fn snapshot_of(&self, moment: Moment) -> Snapshot {
        Snapshot {
            run: Arc::clone(&self.run),
            gathered: self.intake.gathered(),
            progress: Progress {
                duration_ns: clock::monotonic_ns().saturating_sub(self.run.started_ns),
                health: self.source.health(),
                undecodable: self.source.undecodable(),
                command_exit: self.ending.command_exit().cloned(),
            },
            moment,
        }
    }

    /// Detaches, handles what is left, and names the rest.
    ///
    /// # Errors
    /// When the kernel does not tell how COMMAND ended.
    pub async fn finish(mut self, why: Why) -> Result<Snapshot> {
        self.ending.wait_for_command(why).await?;
        self.source.stop(why);
        let start = Instant::now();
        // Names are read while the processes are still there.
        self.intake.targets.processes.rename();
        let ended = loop {
            self.drain();
            match self.source.ended() {
                Some(ended) => break ended,
                None => self.source.ready().await?,
            }
        };
        debug!("all records were handled after {:?}", start.elapsed());
        let Self {
            source,
            mut intake,
            ending,
            run,
            ..
        } = self;
        let command_exit = ending.over();
        intake.targets.catch_up(u64::MAX);
        intake.targets.update_counters();
        // Compared before naming, which takes longer, since the processes go on.
        let unchanged = intake.targets.compare_copied();
        debug!("compared copied pages after {:?}", start.elapsed());
        intake.name_all_stacks();
        debug!("named stacks after {:?}", start.elapsed());
        info!("{}", ended.why.text());
        Ok(Snapshot {
            run: Arc::clone(&run),
            gathered: intake.into_gathered(),
            progress: Progress {
                duration_ns: ended.at_ns.saturating_sub(run.started_ns),
                health: source.health(),
                undecodable: source.undecodable(),
                command_exit,
            },
            moment: Moment::Over { unchanged },
        })
    }
}

/// Waits until `due`; without a time, for ever.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// The processes that are named, so that their ends are seen.
fn watched(pids: &[u32]) -> Result<Vec<PidFd>> {
    let named = pids.len();
    ensure!(
        named <= MAX_PROCESSES as usize,
        "{named} processes are named, and memtrace traces {MAX_PROCESSES} at once, so the others \
         would be missing from the report; name fewer of them"
    );
    let has_no_room = |error: &Error| {
        let error = error.root_cause().downcast_ref::<io::Error>();
        error.is_some_and(|error| error.raw_os_error() == Some(libc::EMFILE))
    };
    let opened: Result<Vec<_>> = pids.iter().map(|&pid| PidFd::open(pid)).collect();
    opened.map_err(|error| {
        if has_no_room(&error) {
            error.context(format!(
                "{named} processes are named, for each of which memtrace has to keep a file open; \
                 name fewer, or raise the limit with `ulimit -n`"
            ))
        } else {
            error
        }
    })
}

/// Checks that all processes that were named are traced.
fn check_found(found: &Found, named: &[PidFd]) -> Result<()> {
    // One that the search did not see because it is ending has ended soon.
    let soon = Instant::now() + ENDING;
    loop {
        let ended = named.iter().find(|pid| pid.has_ended());
        if let Some(pid) = ended {
            bail!(
                "process {} ended while memtrace attached to it, so there is nothing to trace",
                pid.pid()
            );
        }
        let Some(pid) = found.missing.first() else {
            return Ok(());
        };
        if Instant::now() < soon {
            std::thread::sleep(ENDING / 20);
        } else if found.refused > 0 {
            bail!(
                "process {pid} cannot be traced: {MAX_PROCESSES} processes, which is how many \
                 memtrace traces at once, were found before it; name fewer processes, or leave out \
                 their descendants with --no-follow"
            );
        } else {
            bail!(
                "the kernel does not show process {pid} to memtrace, so nothing that it copies \
                 would be counted; name its descendants instead, or run memtrace where the kernel \
                 shows it: as root outside of containers"
            );
        }
    }
}

/// What is said, at once and in the report, when there are more processes than can be traced.
fn limit_met(found: &Found) -> Option<String> {
    if found.refused == 0 {
        return None;
    }
    let text = format!(
        "More than {MAX_PROCESSES} processes are to be traced, which is the most at once: {} of \
         them, and what these fork, are not traced.",
        found.refused
    );
    // Standard error may be closed; the trace does not depend on it.
    let _ = writeln!(io::stderr(), "memtrace: {text}");
    Some(text)
}

fn announce(pids: &[u32], found: usize) {
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    let descendants = match found.saturating_sub(pids.len()) {
        0 => String::new(),
        1 => " and 1 descendant".to_owned(),
        n => format!(" and {n} descendants"),
    };
    let text = format!(
        "memtrace: tracing {}{descendants}; Ctrl-C to finish\n",
        pids.join(", ")
    );
    // Standard error may be closed; the trace does not depend on it.
    let _ = io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests;
