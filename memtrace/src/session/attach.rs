//! What is done before a trace begins, and what is said then.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Error, Result, bail, ensure};
use log::info;
use memtrace_common::process::MAX_PROCESSES;

use crate::clock;
use crate::command::Held;
use crate::interpreter;
use crate::notices;
use crate::options::{Talk, Target, TraceOptions};
use crate::plan::Plan;
use crate::probe::Found;
use crate::process::pidfd::PidFd;
use crate::process::processes::Processes;
use crate::signals;
use crate::unwind::{self, Library};

/// How long a process that is ending may take for it.
const ENDING: Duration = Duration::from_millis(100);

/// The longest wait for the unwind tables of the processes that will be traced.
const PREPARATION: Duration = Duration::from_secs(2);

/// What is there before anything is attached.
pub struct Prepared {
    /// No process yet, but files that are known.
    pub processes: Processes,
    /// The unwind tables of the processes that will be traced.
    pub library: Library,
    /// The processes to trace.
    pub pids: Vec<u32>,
    /// COMMAND, at its gate.
    pub command: Option<Held>,
}

impl Prepared {
    /// Looks at the processes to attach to, or starts COMMAND up to its gate.
    ///
    /// # Errors
    /// When COMMAND cannot be started, and when a signal has arrived.
    pub fn of(options: &TraceOptions, plan: &Plan) -> Result<Self> {
        let user = options.user.as_ref();
        let wanted = interpreter::wanted(&plan.loaders()).and(unwind::wanted());
        let mut processes = Processes::looking_for(wanted);
        let mut library = Library::new(plan.unwind.value);
        let takes_terminal = options.talk == Talk::View && !options.target.command().is_empty();
        let instead = takes_terminal.then(notices::output_file).transpose();
        let instead = instead.context("cannot make a file for what COMMAND writes")?;
        let held = |command: &[OsString]| Held::spawn(command, user, instead.as_ref());
        let (pids, command) = match &options.target {
            Target::Attach { pids, load } => {
                for &pid in pids {
                    if let Some(space) = processes.space_of(pid) {
                        library.prepare(&space);
                    }
                }
                library.wait(PREPARATION);
                signals::check()?;
                let load = load.as_deref();
                let held = load.map(held).transpose()?;
                (pids.clone(), held)
            }
            Target::Launch { command } => {
                let held = held(command)?;
                library.await_exec(held.pid());
                (vec![held.pid()], Some(held))
            }
        };
        Ok(Self {
            processes,
            library,
            pids,
            command,
        })
    }
}

/// Logs how long attaching took since `start`. Until then everything was memtrace's own: reading
/// files, looking at processes, attaching.
pub fn say_how_long(start: Instant) {
    let cpu_ms = clock::process_cpu().as_millis();
    info!(
        "attached in {} ms, {cpu_ms} ms of CPU time",
        start.elapsed().as_millis()
    );
}

/// The processes that are named, so that their ends are seen.
pub fn watched(pids: &[u32]) -> Result<Vec<PidFd>> {
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
pub fn check_found(found: &Found, named: &[PidFd]) -> Result<()> {
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
pub fn limit_met(found: &Found) -> Option<String> {
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

pub fn announce(pids: &[u32], found: usize) {
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
