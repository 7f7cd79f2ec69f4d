//! One trace, from attach to the last record.

use std::collections::HashMap;
use std::io::Write as _;
use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use aya_log::EbpfLogger;
use log::{debug, info};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::aggregate::Aggregator;
use crate::collect::Collector;
use crate::command::{Held, Running};
use crate::host;
use crate::options::{Python, Target, TraceOptions, Unwind};
use crate::preflight;
use crate::probe::{Probe, Settings, has_loop};
use crate::process::pidfd::PidFd;
use crate::process::traced::{ProcessId, clock_ns};
use crate::profile::{CommandExit, Unchanged};
use crate::progress::Progress;

/// How often memtrace looks for records by itself. The BPF side wakes it before the ring buffer
/// fills up; this bounds how long a few records wait.
const TICK: Duration = Duration::from_millis(50);

/// Records taken before anything else gets its turn.
const BATCH: usize = 16_384;

/// Records in a tick up to which there is time to symbolize stacks. It waits for the helper that
/// does it, and with more records than this the ring buffer could fill up meanwhile.
const CALM: usize = 2048;

/// For how long stacks are symbolized at a time while the target runs.
const RESOLVE_BUDGET: Duration = Duration::from_millis(10);

/// A process that ended longer ago than this has no records left when all that are there are read.
const RECORDS_LATE: Duration = Duration::from_secs(1);

/// How long the last programs that began before the detachment may take.
const SETTLE: Duration = Duration::from_millis(5);

/// Where memtrace stands among processes while it traces: before ordinary ones.
const NICENESS: libc::c_int = -10;

/// How long COMMAND is waited for after Ctrl-C, which reaches it too.
const COMMAND_GRACE: Duration = Duration::from_secs(1);

/// What a trace gathered.
pub struct Traced {
    /// Everything that was seen.
    pub folded: Aggregator,
    /// Start, in nanoseconds of `CLOCK_MONOTONIC`.
    pub started_ns: u64,
    /// From start to end, in nanoseconds.
    pub duration_ns: u64,
    /// What became of copied pages, by process.
    pub unchanged: HashMap<ProcessId, Unchanged>,
    /// What the BPF side says went wrong.
    pub health: memtrace_common::process::Health,
    /// Records that could not be decoded.
    pub undecodable: u64,
    /// How stacks were taken, and why otherwise than was asked for.
    pub unwind: (Unwind, Option<String>),
    /// Whether Python frames were taken.
    pub python: Python,
    /// How COMMAND ended.
    pub command_exit: Option<CommandExit>,
}

/// Traces as `options` say, until something ends it.
pub async fn trace(options: &TraceOptions, verbosity: u8) -> Result<Traced> {
    // Before anything is attached, so that Ctrl-C never leaves a half-made report.
    let mut stop = StopSignals::new()?;
    let has_loop = has_loop();
    let (unwind, unwind_why) = if has_loop {
        (options.unwind, None)
    } else {
        without_loop(options.unwind)
    };
    let python = if has_loop {
        options.python
    } else {
        Python::Off
    };
    let takes_python = python == Python::Auto;
    let mut folded = Aggregator::new(unwind, takes_python, options.unchanged);
    if let Target::Attach { pids, .. } = &options.target {
        folded.prepare(pids);
    }
    let settings = Settings {
        rows: folded.unwinder.rows_wanted(),
        follow: options.follow,
        has_loop,
        unwind,
        python,
        log: match verbosity {
            0 | 1 => None,
            2 => Some(log::Level::Debug),
            _ => Some(log::Level::Trace),
        },
    };
    let (pids, command) = match &options.target {
        Target::Attach { pids, load } => {
            (pids.clone(), load.as_deref().map(Held::spawn).transpose()?)
        }
        Target::Launch { command } => {
            let held = Held::spawn(command)?;
            folded.unwinder.held = Some(held.pid());
            (vec![held.pid()], Some(held))
        }
    };
    let alive = pids
        .iter()
        .map(|&pid| PidFd::open(pid))
        .collect::<Result<Vec<_>>>()?;
    // Here and not around the whole: a COMMAND that is not there is no fault of the kernel.
    let mut probe = Probe::attach(settings).map_err(|error| preflight::explain(error, options))?;
    let mut session = Session::new(&mut probe, folded)?;
    stay_ahead();
    let started_ns = clock_ns(libc::CLOCK_MONOTONIC);
    let found = probe.trace(&pids)?;
    for pid in &alive {
        ensure!(
            !pid.has_ended(),
            "process {} ended while memtrace attached to it, so there is nothing to trace",
            pid.pid()
        );
    }
    // So that what was found has its unwind tables from now on.
    while session.drain(&probe) == BATCH {}
    announce(&pids, found);
    let command = command.map(Held::release).transpose()?;
    let ending = session.run(&mut probe, options, command, &mut stop).await?;
    let duration_ns = clock_ns(libc::CLOCK_MONOTONIC) - started_ns;
    // From here on a second Ctrl-C ends memtrace at once.
    stop.restore();
    let unchanged = session.finish(&mut probe);
    info!("{}", ending.why);
    Ok(Traced {
        folded: session.folded,
        started_ns,
        duration_ns,
        unchanged,
        health: probe.health(),
        undecodable: session.records.get_ref().undecodable(),
        unwind: (unwind, unwind_why),
        python,
        command_exit: ending.command_exit,
    })
}

/// How stacks are taken on a kernel without `bpf_loop`, and what the report says of it.
fn without_loop(asked: Unwind) -> (Unwind, Option<String>) {
    match asked {
        Unwind::Auto | Unwind::Dwarf => {
            let why = "this kernel has no bpf_loop (Linux 5.17 has), which unwinding by tables and \
                       taking Python frames need; frame pointers were followed";
            (Unwind::FramePointers, Some(why.to_owned()))
        }
        Unwind::FramePointers | Unwind::Off => (asked, None),
    }
}

/// Asks to be run before the target where both want the same CPU: what is taken too late is lost,
/// and taking it needs a tenth of a CPU at most. Processes that memtrace starts do not inherit it.
fn stay_ahead() {
    let no_priority = libc::sched_param { sched_priority: 0 };
    let policy = libc::SCHED_OTHER | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the parameter is there to be read; no other pointers are passed.
    let done = unsafe {
        libc::sched_setscheduler(0, policy, &raw const no_priority) == 0
            && libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) == 0
    };
    if !done {
        let error = std::io::Error::last_os_error();
        debug!("memtrace keeps its priority: {error}");
    }
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
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Why a trace ended.
struct Ending {
    why: &'static str,
    command_exit: Option<CommandExit>,
}

struct Session {
    folded: Aggregator,
    records: AsyncFd<Collector>,
    logger: Option<AsyncFd<EbpfLogger<&'static dyn log::Log>>>,
    progress: Progress,
}

impl Session {
    fn new(probe: &mut Probe, folded: Aggregator) -> Result<Self> {
        let collector = Collector::new(probe.events()?);
        let logger = if log::log_enabled!(log::Level::Debug) {
            // SAFETY: the logger keeps its descriptor open, and the same one, until it is dropped.
            Some(unsafe { AsyncFd::register_with_interest(probe.logger()?, Interest::READABLE) }?)
        } else {
            None
        };
        Ok(Self {
            folded,
            // SAFETY: the collector keeps its descriptor open, and the same one, until it is
            // dropped.
            records: unsafe { AsyncFd::register_with_interest(collector, Interest::READABLE) }?,
            logger,
            progress: Progress::new(),
        })
    }

    /// Takes records until something ends the trace.
    async fn run(
        &mut self,
        probe: &mut Probe,
        options: &TraceOptions,
        command: Option<Running>,
        stop: &mut StopSignals,
    ) -> Result<Ending> {
        let deadline = async {
            match options.duration {
                Some(duration) => tokio::time::sleep(duration).await,
                None => std::future::pending().await,
            }
        };
        let mut deadline = pin!(deadline);
        let has_command = command.is_some();
        let wait = async {
            match command {
                Some(command) => command.wait().await,
                None => std::future::pending().await,
            }
        };
        let mut wait = pin!(wait);
        let mut command_exit = None;
        let mut records = 0;
        let mut caught_up = Instant::now();
        // An interpreter that starts is to be known before its first children are forked.
        let soon = |due: Option<Instant>| async move {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let why = loop {
            let taken = self.drain(probe);
            let more = taken == BATCH;
            records += taken;
            let loads = matches!(options.target, Target::Attach { .. });
            tokio::select! {
                biased;
                () = stop.received() => break "interrupted",
                () = &mut deadline => break "the duration is over",
                exit = &mut wait, if has_command && command_exit.is_none() => {
                    command_exit = Some(exit.context("cannot wait for COMMAND")?);
                    if loads {
                        break "COMMAND ended";
                    }
                }
                // Not simply ready: signals and clocks must get their turn in a storm without end.
                () = tokio::task::yield_now(), if more => {}
                ready = self.records.readable() => {
                    ready?.clear_ready();
                }
                () = soon(self.folded.tracker.next_due()) => {
                    self.folded.look_for_interpreters(probe.tables());
                }
                built = self.folded.unwinder.built() => {
                    self.folded.unwinder.take(built, probe.tables());
                }
                () = log_records(&mut self.logger) => {}
                _ = tick.tick() => {
                    let taken = self.drain(probe);
                    let has_lost = probe.health().lifecycle_lost > 0;
                    if has_lost && taken < BATCH && caught_up.elapsed() > RECORDS_LATE {
                        caught_up = Instant::now();
                        let late = RECORDS_LATE.as_nanos() as u64;
                        let settled = clock_ns(libc::CLOCK_MONOTONIC) - late;
                        self.folded.catch_up(probe.tables(), settled);
                    }
                    self.folded.look_for_interpreters(probe.tables());
                    self.folded.look_for_code(taken < BATCH, probe.tables());
                    // Nor while a program starts: what it is, is to be known before it forks.
                    let starting = self.folded.tracker.next_due().is_some();
                    if std::mem::take(&mut records) + taken < CALM && !starting {
                        self.folded.resolve(RESOLVE_BUDGET);
                    }
                    self.progress.update(&self.folded.processes, host::page_size());
                    if self.folded.processes.live() == 0 {
                        break "every traced process ended";
                    }
                }
            }
        };
        self.progress.clear();
        if has_command && command_exit.is_none() && why == "interrupted" {
            command_exit = tokio::time::timeout(COMMAND_GRACE, wait)
                .await
                .ok()
                .transpose()?;
        }
        Ok(Ending { why, command_exit })
    }

    /// Takes up to a batch of records; returns how many there were.
    fn drain(&mut self, probe: &Probe) -> usize {
        let (folded, tables) = (&mut self.folded, probe.tables());
        self.records
            .get_mut()
            .drain(BATCH, |event| folded.take(event, tables))
    }

    /// Detaches, takes what is left, and symbolizes the rest. Returns what became of the copied
    /// pages of each process.
    fn finish(&mut self, probe: &mut Probe) -> HashMap<ProcessId, Unchanged> {
        let start = Instant::now();
        // While the processes are still there.
        self.folded.processes.rename();
        probe.detach();
        std::thread::sleep(SETTLE);
        while self.drain(probe) == BATCH {}
        self.folded.catch_up(probe.tables(), u64::MAX);
        self.folded.update_counters(&probe.tables().processes);
        debug!("detached and drained after {:?}", start.elapsed());
        // Before symbolizing, which takes longer: the processes go on.
        let unchanged = self.folded.compare_copied();
        debug!("compared copied pages after {:?}", start.elapsed());
        self.folded.resolve(Duration::MAX);
        debug!("symbolized after {:?}", start.elapsed());
        unchanged
    }
}

async fn log_records(logger: &mut Option<AsyncFd<EbpfLogger<&'static dyn log::Log>>>) {
    let Some(logger) = logger else {
        return std::future::pending().await;
    };
    if let Ok(mut ready) = logger.readable_mut().await {
        ready.get_inner_mut().flush();
        ready.clear_ready();
    }
}

/// The signals that finish a trace.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Lets the next signal end memtrace; nothing is listened for any more.
    fn restore(self) {
        drop(self);
        for signal in [libc::SIGINT, libc::SIGTERM] {
            // SAFETY: the default action is a valid one; no handler of ours runs any more.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
}
