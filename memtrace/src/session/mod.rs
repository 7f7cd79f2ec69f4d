//! One trace, from attach to the last record.
//!
//! One thread reads records ([`drain`]) and another interprets them, and does whatever else is due
//! between two batches. A profile of what has been gathered can be taken at any moment
//! ([`Session::snapshot`]); making it is left to another thread.

mod attach;
mod drain;
mod ending;
mod priority;
mod source;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use log::{debug, info};
use tokio::time::{Interval, MissedTickBehavior};

use self::attach::{Prepared, announce, check_found, limit_met, say_how_long, watched};
use self::ending::Ending;
pub use self::ending::Why;
pub use self::source::{Attached, Source};
use crate::clock;
use crate::command::Held;
use crate::fold::naming::Naming;
use crate::host;
use crate::intake::Intake;
use crate::interpreter::tracker::Tracker;
use crate::memory::Accountant;
use crate::options::{Talk, Target, TraceOptions};
use crate::plan::Plan;
use crate::preflight;
use crate::probe::Probe;
use crate::signals;
use crate::summarize::{Moment, Progress, Run, Snapshot};
use crate::targets::Targets;
use crate::unwind::Unwinder;

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
        let Prepared {
            processes,
            library,
            pids,
            command,
        } = Prepared::of(options, plan)?;
        let alive = watched(&pids)?;
        // Only errors of attaching are explained: a missing COMMAND is not the kernel's fault.
        let settings = plan.settings(options, library.rows_wanted());
        let probe = Probe::attach(settings).map_err(|error| preflight::explain(error, options))?;
        signals::check()?;
        let tables = probe.tables().clone();
        let tracker = Tracker::new(plan.loaders(), tables.clone());
        let unwinder = Unwinder::new(library, tables.clone());
        let table = tables.processes;
        let mut targets = Targets::new(
            processes,
            tracker,
            unwinder,
            options.unchanged,
            table.clone(),
        );
        if let (Target::Launch { .. }, Some(held)) = (&options.target, &command) {
            targets.hold(held.pid());
        }
        if let Some(memory) = options.memory {
            let accountant = Accountant::start(table, memory.interval, memory.cache);
            targets.account(accountant.context("cannot start the thread that looks at memory")?);
        }
        let mut run = run(options, plan, notes);
        let naming = Naming::new(plan.unwind.value)?;
        let intake = Intake::new(targets, naming, run.started_ns);
        let (source, found) = Attached::trace(probe, &pids)?;
        check_found(&found, &alive)?;
        run.notes.extend(limit_met(&found));
        let mut session = Self::new(source, intake, ending, run);
        // The processes that were found get their unwind tables before the trace is announced.
        session.catch_up();
        // From here on a signal ends the trace, with a report.
        signals::check()?;
        if options.talk == Talk::Progress {
            announce(&pids, found.processes);
        }
        say_how_long(start);
        if let Some(command) = command {
            let ends = matches!(options.target, Target::Attach { .. });
            session.let_go(command, ends)?;
        }
        if let Some(duration) = options.duration {
            session.source.end_at(Instant::now() + duration);
        }
        Ok(session)
    }
}

/// What does not change while a trace runs, which begins now.
fn run(options: &TraceOptions, plan: &Plan, notes: Vec<String>) -> Run {
    Run {
        host: host::describe(plan),
        command: host::command_line(&options.target, options.arguments),
        started_at: clock::now_rfc3339(),
        started_ns: clock::monotonic_ns(),
        sees_splits: plan.backend.value.sees().split,
        arguments: options.arguments,
        notes,
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

    /// Opens COMMAND's gate; if `ends`, the trace ends with it.
    fn let_go(&mut self, command: Held, ends: bool) -> Result<()> {
        // It has waited for memtrace until now.
        let processes = &mut self.intake.targets.processes;
        processes.begins_now(command.pid(), clock::monotonic_ns());
        self.ending.with_command(command.release()?, ends);
        Ok(())
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
        self.intake.targets.finish_accounts();
        let start = Instant::now();
        // Names are read while the processes are still there.
        self.intake.targets.processes.rename();
        let ended = loop {
            // More is only announced when it comes, not while some is left.
            while self.drain() > 0 {}
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
        let unchanged = intake.compare_copied();
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

#[cfg(test)]
mod tests;
