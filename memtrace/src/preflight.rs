//! What this machine and this user permit, found out before anything is loaded.
//!
//! [`check`] turns [`Facts`] into [`Problem`]s, each with what was found beside
//! what is needed, what it prevents, and the remedy. [`explain_load_error`] does the same for what
//! the kernel refuses later on.
//!
//! Two things that one might expect are not looked for. tracefs: the programs attach to raw
//! tracepoints by the kernel's BTF, so whether it is mounted does not matter. `CAP_SYS_RESOURCE`:
//! BPF memory counts against `RLIMIT_MEMLOCK` on kernels before 5.11 only, and this backend needs a
//! newer one. Lockdown permits everything that this backend does; it is mentioned where the kernel
//! refuses something nevertheless.

use std::path::PathBuf;

use log::info;

use crate::options::TraceOptions;
use crate::report::{Destinations, Refusal};

mod facts;
mod outputs;
mod problem;
mod refused;

pub use self::facts::Facts;
use self::facts::{Capability, PidState};
pub use self::problem::{Problem, Problems, problem};
use self::refused::explain_load_error;

/// Checks that the trace can be made and its reports can be written. `planned` lists what is in the
/// way of a plan. Returns what the user should know even so, a sentence each, for
/// [`Profile::warnings`](crate::profile::Profile::warnings); and where the reports go.
///
/// # Errors
///
/// Everything that is wrong, so that it can be put right in one go.
pub fn check(
    trace: &TraceOptions,
    destinations: Result<Destinations, Vec<(Option<PathBuf>, Refusal)>>,
    facts: &Facts,
    planned: &[Problem],
) -> Result<(Vec<String>, Destinations), Problems> {
    info!(
        "kernel {}, lockdown {}",
        facts.kernel,
        facts.lockdown.as_deref().unwrap_or("unknown")
    );
    let mut problems = planned.to_vec();
    problems.extend(machine_problems(facts));
    problems.extend(pid_problems(facts));
    problems.extend(outputs::command_problem(&trace.target));
    match destinations {
        Ok(destinations) if problems.is_empty() => Ok((notes(facts, trace), destinations)),
        Ok(_) => Err(Problems(problems)),
        Err(refused) => {
            let refused = refused.iter();
            problems.extend(refused.map(|(path, why)| {
                outputs::output_problem(
                    path.as_ref(),
                    why,
                    "the figures of the trace would be lost",
                )
            }));
            Err(Problems(problems))
        }
    }
}

/// What is wrong with this machine, or with what the user may do on it, whatever is traced.
#[must_use]
pub fn of_machine() -> Vec<Problem> {
    machine_problems(&Facts::gather(&[]))
}

/// Where reports go, when nothing is traced for them. `effect` is that of one that cannot be written.
///
/// # Errors
///
/// Where one cannot be written, and why.
pub fn destinations(
    opened: Result<Destinations, Vec<(Option<PathBuf>, Refusal)>>,
    effect: &'static str,
) -> Result<Destinations, Problems> {
    opened.map_err(|refused| {
        let refused = refused.iter();
        let problems =
            refused.map(|(path, why)| outputs::output_problem(path.as_ref(), why, effect));
        Problems(problems.collect())
    })
}

/// Adds to an error of loading or attaching what it means on this machine, where that is known.
#[must_use]
pub fn explain(error: anyhow::Error, trace: &TraceOptions) -> anyhow::Error {
    match explain_load_error(&error, &Facts::gather(trace.target.pids())) {
        Some(problem) => error.context(problem),
        None => error,
    }
}

/// What is wrong with the machine, or with what the user may do on it.
fn machine_problems(facts: &Facts) -> Vec<Problem> {
    let checks = [btf, user_namespace, pid_namespace, capabilities];
    checks.iter().filter_map(|check| check(facts)).collect()
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
    if pid == facts.own.pid {
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

/// What does not prevent a trace but limits its report.
fn notes(facts: &Facts, trace: &TraceOptions) -> Vec<String> {
    let mut notes = Vec::new();
    let others = facts.pids.iter().any(|(_, state)| match state {
        PidState::Running { uid } => *uid != facts.uid,
        _ => false,
    });
    if others && !facts.can(Capability::SysPtrace) {
        notes.push(
            "CAP_SYS_PTRACE is missing, so the memory of other users' processes cannot be read, nor, \
             on some kernels, their memory maps: Python's frames and types stay unknown, and \
             functions may have no names. Run memtrace as root to see them."
                .to_owned(),
        );
    }
    if others && !facts.can(Capability::DacReadSearch) {
        notes.push(
            "CAP_DAC_READ_SEARCH is missing, so the memory of other users' processes cannot be \
             read, nor files that only their owners may read: Python's frames and types stay \
             unknown, and functions in those files without names. Run memtrace as root to see them."
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
        if trace.follow && facts.own.ancestors.contains(pid) {
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
