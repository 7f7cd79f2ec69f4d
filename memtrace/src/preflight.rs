//! What this machine and this user permit, found out before anything is loaded.
//!
//! [`check`] gathers [`Facts`] and turns them into [`Problem`]s, each with what was found beside
//! what is needed, what it prevents, and the remedy. [`explain_load_error`] does the same for what
//! the kernel refuses later on.
//!
//! Two things that one might expect are not looked for. tracefs: the programs attach to raw
//! tracepoints by the kernel's BTF, so whether it is mounted does not matter. `CAP_SYS_RESOURCE`:
//! BPF memory counts against `RLIMIT_MEMLOCK` on kernels before 5.11 only, and this backend needs
//! a newer one. Lockdown permits everything that this backend does; it is mentioned where the
//! kernel refuses something all the same.

use std::fmt;
use std::io::ErrorKind;

use log::info;

use crate::options::{Output, Target, TraceOptions};
use crate::report::check_writable;

mod facts;
mod refused;

pub use facts::{Capability, Facts, PidState};
pub use refused::explain_load_error;

/// The oldest kernel that the tracepoint backend works on.
const OLDEST_KERNEL: (u32, u32) = (6, 6);

/// Something that keeps memtrace from doing its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong, as a clause.
    pub what: String,
    /// What was found, beside what is needed.
    pub found: String,
    /// What it prevents.
    pub effect: String,
    /// What to do.
    pub remedy: String,
}

/// All that was found wrong; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            what,
            found,
            effect,
            remedy,
        } = self;
        write!(
            f,
            "{what}\n  found:  {found}\n  effect: {effect}\n  remedy: {remedy}"
        )
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.0.iter().enumerate() {
            let line_break = if at > 0 { "\n" } else { "" };
            write!(f, "{line_break}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}
impl std::error::Error for Problems {}

/// Finds out whether a trace as `trace` says can be made, and reports as `output` says. Returns
/// what the user should know although it can: a sentence each, for
/// [`Profile::warnings`](crate::profile::Profile::warnings).
///
/// # Errors
///
/// Everything that is wrong, so that it can be put right in one go.
pub fn check(trace: &TraceOptions, output: &Output) -> Result<Vec<String>, Problems> {
    let facts = Facts::gather(pids_of(trace));
    info!(
        "kernel {}, lockdown {}",
        facts.kernel,
        facts.lockdown.as_deref().unwrap_or("unknown")
    );
    let mut problems = machine_problems(&facts);
    problems.extend(pid_problems(&facts));
    problems.extend(file_problems(output));
    if problems.is_empty() {
        Ok(notes(&facts, trace))
    } else {
        Err(Problems(problems))
    }
}

/// Adds to an error of loading or attaching what it means on this machine, where that is known.
#[must_use]
pub fn explain(error: anyhow::Error, trace: &TraceOptions) -> anyhow::Error {
    match explain_load_error(&error, &Facts::gather(pids_of(trace))) {
        Some(problem) => error.context(problem),
        None => error,
    }
}

fn pids_of(trace: &TraceOptions) -> &[u32] {
    match &trace.target {
        Target::Attach { pids, .. } => pids,
        Target::Launch { .. } => &[],
    }
}

/// What is wrong with the machine, or with what the user may do on it.
fn machine_problems(facts: &Facts) -> Vec<Problem> {
    let checks = [
        architecture,
        kernel_version,
        btf,
        user_namespace,
        pid_namespace,
        capabilities,
    ];
    checks.iter().filter_map(|check| check(facts)).collect()
}

fn problem(
    what: impl Into<String>,
    found: impl Into<String>,
    effect: impl Into<String>,
    remedy: impl Into<String>,
) -> Problem {
    Problem {
        what: what.into(),
        found: found.into(),
        effect: effect.into(),
        remedy: remedy.into(),
    }
}

fn architecture(facts: &Facts) -> Option<Problem> {
    (facts.arch != "x86_64").then(|| {
        problem(
            "this machine's architecture is not supported",
            format!("{}; needed: x86_64", facts.arch),
            "copies cannot be seen: only x86-64 kernels have the tracepoints of page faults",
            "run memtrace on an x86-64 machine",
        )
    })
}

fn kernel_version(facts: &Facts) -> Option<Problem> {
    let (major, minor) = OLDEST_KERNEL;
    // A release that cannot be read is for the kernel to judge.
    let found = facts.kernel_version()?;
    (found < OLDEST_KERNEL).then(|| {
        problem(
            "this kernel is too old",
            format!("Linux {}; needed: {major}.{minor} or newer", facts.kernel),
            "copies of file pages cannot be told from others: older kernels batch the counters \
             that show it",
            format!("boot a kernel {major}.{minor} or newer"),
        )
    })
}

fn btf(facts: &Facts) -> Option<Problem> {
    (!facts.btf).then(|| {
        problem(
            "the kernel does not describe its types (BTF)",
            "no /sys/kernel/btf/vmlinux; needed: that file",
            "memtrace's programs cannot be fitted to this kernel",
            "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y, as those of the large \
             distributions are; in a container, mount /sys",
        )
    })
}

fn user_namespace(facts: &Facts) -> Option<Problem> {
    (facts.initial_user_namespace == Some(false)).then(|| {
        problem(
            "memtrace runs in a user namespace",
            "root and capabilities of a user namespace; needed: those of the host",
            "the kernel permits tracing only to the host's root",
            "run memtrace on the host, or in a container without a user namespace of its own",
        )
    })
}

fn pid_namespace(facts: &Facts) -> Option<Problem> {
    (facts.initial_pid_namespace == Some(false)).then(|| {
        problem(
            "memtrace runs in a PID namespace",
            "the process ids of a container; needed: those of the host",
            "the kernel reports the host's process ids, which mean other processes here",
            "run memtrace on the host, or in a container with its process ids (docker run \
             --pid=host, hostPID: true)",
        )
    })
}

fn capabilities(facts: &Facts) -> Option<Problem> {
    let needed = [
        (Capability::Bpf, "load programs into the kernel"),
        (Capability::Perfmon, "attach programs to page faults"),
    ];
    let missing: Vec<_> = needed
        .iter()
        .filter(|(needed, _)| !facts.can(*needed))
        .collect();
    if missing.is_empty() {
        return None;
    }
    let names: Vec<_> = missing.iter().map(|(name, _)| name.name()).collect();
    let effects: Vec<_> = missing.iter().map(|(_, effect)| *effect).collect();
    let (verb, needs) = if names.len() == 1 {
        ("is", "it")
    } else {
        ("are", "them")
    };
    Some(problem(
        format!("{} {verb} missing", names.join(" and ")),
        format!(
            "user {} with {}; needed: root, or CAP_BPF and CAP_PERFMON",
            facts.uid,
            facts.useful_capabilities()
        ),
        format!(
            "without {needs} memtrace cannot {}",
            effects.join(" and cannot ")
        ),
        "run the same command with sudo, or as root",
    ))
}

/// What is wrong with the processes to attach to.
fn pid_problems(facts: &Facts) -> Vec<Problem> {
    facts
        .pids
        .iter()
        .filter_map(|(pid, state)| pid_problem(*pid, state, facts))
        .collect()
}

fn pid_problem(pid: u32, state: &PidState, facts: &Facts) -> Option<Problem> {
    if pid == facts.own_pid {
        return Some(problem(
            format!("process {pid} is memtrace itself"),
            "memtrace's own process id; needed: another process",
            "tracing its own copies would make memtrace copy more of them",
            "name the process that you want to see",
        ));
    }
    let needed = "needed: a running process";
    Some(match state {
        PidState::Running { .. } => return None,
        PidState::Missing => problem(
            format!("there is no process {pid}"),
            format!("no /proc/{pid}; {needed}"),
            "there is nothing to trace; it may have ended already",
            "look it up again, such as with pgrep or ps",
        ),
        PidState::ThreadOf { process } => problem(
            format!("{pid} is a thread, not a process"),
            format!("a thread of process {process}; {needed}"),
            "copies are counted by process: threads share their memory",
            format!("use --pid {process}"),
        ),
        PidState::KernelThread { comm } => problem(
            format!("process {pid} is a kernel thread"),
            format!("[{comm}]; {needed}"),
            "it has no memory of its own, so it copies nothing",
            "name the program that you want to see",
        ),
        PidState::Zombie { comm } => problem(
            format!("process {pid} has ended"),
            format!("a zombie, {comm}, which its parent has not waited for; {needed}"),
            "it has no memory any more, so it copies nothing",
            "look up the process that took its place",
        ),
        PidState::Unreadable { why } => problem(
            format!("process {pid} cannot be looked at"),
            format!("/proc/{pid}: {why}; needed: read access"),
            "its memory map cannot be read, so its functions cannot be named",
            "run memtrace as root; where /proc is mounted with hidepid, remount it without",
        ),
    })
}

fn file_problems(output: &Output) -> Vec<Problem> {
    let check = |file: &crate::options::FileReport| {
        let error = check_writable(&file.path).err()?;
        // The error's own text names a temporary file that nobody asked for.
        let why = match error.kind() {
            ErrorKind::NotFound => "there is no such directory".to_owned(),
            kind => kind.to_string(),
        };
        Some(problem(
            format!("no report can be written to '{}'", file.path.display()),
            format!("{why}; needed: a directory that can be written to"),
            "the figures of the trace would be lost",
            "name another file, or make its directory",
        ))
    };
    output.files.iter().filter_map(check).collect()
}

/// What is not in the way but limits the report.
fn notes(facts: &Facts, trace: &TraceOptions) -> Vec<String> {
    let mut notes = Vec::new();
    let others = facts.pids.iter().any(|(_, state)| match state {
        PidState::Running { uid } => *uid != facts.uid,
        _ => false,
    });
    if others && !facts.can(Capability::SysPtrace) {
        notes.push(
            "CAP_SYS_PTRACE is missing, so the memory maps of other users' processes cannot be \
             read: their functions stay without names. Run memtrace as root to see them."
                .to_owned(),
        );
    }
    if !facts.can(Capability::CheckpointRestore) {
        notes.push(
            "CAP_CHECKPOINT_RESTORE is missing, so files that were deleted or that are in \
             containers cannot be opened: functions in them stay without names. Run memtrace as \
             root to see them."
                .to_owned(),
        );
    }
    for (pid, _) in &facts.pids {
        if trace.follow && facts.ancestors.contains(pid) {
            notes.push(format!(
                "Process {pid} is an ancestor of memtrace, so memtrace's own copies are in the \
                 report. Use --no-follow, or name a process below it."
            ));
        }
    }
    notes
}

#[cfg(test)]
mod tests;
