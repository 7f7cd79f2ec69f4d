//! Which running processes are traced, where they are not all named by pid: those that are called so
//! ([`name`]), or are in a control group ([`cgroup`]).
//!
//! What is chosen are roots: of processes that descend from one another the eldest, since the others
//! are traced with it. memtrace itself is never among them, nor what it descends from.

mod cgroup;
mod name;
mod snapshot;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use self::cgroup::Found;
use self::snapshot::{Process, Snapshot};
use crate::foreign::{shown, shown_name, shown_path};
use crate::options::{Options, Target};
use crate::preflight::{self, Problem, Problems, problem};

/// Trees and groups that are listed.
const LISTED: usize = 20;

/// Bytes of a command line that are shown.
const COMMAND_LINE: usize = 100;

/// `options` with the pids of the processes that were chosen, beside those that were named.
///
/// # Errors
/// When there are none, or more than were meant.
pub fn made(options: &Options) -> Result<Options, Problems> {
    let mut made = options.clone();
    let Target::Attach { pids, .. } = &mut made.trace.target else {
        return Ok(made);
    };
    if options.choice.names.is_empty() && options.choice.cgroup.is_none() {
        return Ok(made);
    }
    let snapshot = Snapshot::of(Path::new("/proc"));
    let chosen = chosen(&snapshot, options, pids).map_err(|Problems(problems)| {
        // The machine may be why nothing was found: in a PID namespace other processes are not seen.
        Problems([preflight::of_machine(), problems].concat())
    })?;
    for remark in chosen.remarks {
        // Standard error may be closed; the trace does not depend on it.
        let _ = writeln!(io::stderr(), "memtrace: {remark}");
    }
    *pids = chosen.pids;
    Ok(made)
}

/// What was chosen.
#[derive(Debug, Default, PartialEq, Eq)]
struct Chosen {
    /// Each once, at least one.
    pids: Vec<u32>,
    /// What the user should know.
    remarks: Vec<String>,
}

fn chosen(snapshot: &Snapshot, options: &Options, named: &[u32]) -> Result<Chosen, Problems> {
    let choice = &options.choice;
    let group = match &choice.cgroup {
        Some(path) => Some(Group::of(snapshot, path.as_bytes()).map_err(|it| Problems(vec![it]))?),
        None => None,
    };
    let (mut chosen, mut problems) = (Chosen::default(), Vec::new());
    for &pid in named {
        match group.as_ref().map(|group| group.pid(snapshot, pid)) {
            None => chosen.pids.push(pid),
            Some(Ok(found)) => {
                if found != pid {
                    chosen.remarks.push(format!(
                        "process {pid} of that control group is process {found} here"
                    ));
                }
                chosen.pids.push(found);
            }
            Some(Err(problem)) => problems.push(problem),
        }
    }
    for name in &choice.names {
        match called(snapshot, group.as_ref(), name.as_bytes(), choice.all) {
            Ok(roots) => chosen.pids.extend(roots),
            Err(problem) => problems.push(problem),
        }
    }
    if let (Some(group), true, true) = (group, named.is_empty(), choice.names.is_empty()) {
        // Without its descendants, a root would stand for itself alone.
        chosen.pids.extend(if options.trace.follow {
            snapshot.roots(&group.pids)
        } else {
            group.pids.into_iter().collect()
        });
    }
    let mut seen = BTreeSet::new();
    chosen.pids.retain(|pid| seen.insert(*pid));
    if problems.is_empty() {
        Ok(chosen)
    } else {
        Err(Problems(problems))
    }
}

/// A control group with processes.
struct Group {
    /// Its path, as it is shown.
    path: String,
    pids: BTreeSet<u32>,
}

impl Group {
    fn of(snapshot: &Snapshot, name: &[u8]) -> Result<Self, Problem> {
        match cgroup::members(snapshot, name) {
            Found::One(path, pids) if pids.is_empty() => Err(problem(
                format!("no process is in control group {}", shown_path(&path)),
                format!(
                    "it is in no /proc/PID/cgroup of {} processes; needed: a group with a process \
                     that memtrace does not descend from",
                    snapshot.choosable().count()
                ),
                "there is nothing to trace",
                "look its path up in /proc/PID/cgroup, or with systemd-cgls; a container is found \
                 by its id (docker ps)",
            )),
            Found::One(path, pids) => Ok(Self {
                path: shown_path(&path),
                pids,
            }),
            Found::Several(paths) => {
                let shown: Vec<_> = paths.iter().map(|path| shown_path(path)).collect();
                Err(problem(
                    format!(
                        "{} control groups are called {}",
                        paths.len(),
                        shown_name(name)
                    ),
                    format!("these; needed: one{}", list(&shown, paths.len())),
                    "which one is meant is not known, so nothing is traced",
                    "give the whole path of one of them",
                ))
            }
        }
    }

    /// The process that has this pid here, or else inside of the group's container.
    fn pid(&self, snapshot: &Snapshot, pid: u32) -> Result<u32, Problem> {
        if self.pids.contains(&pid) {
            return Ok(pid);
        }
        let inside = cgroup::by_inner_pid(&snapshot.proc, &self.pids, pid);
        match inside[..] {
            [one] => Ok(one),
            [] => Err(problem(
                format!("there is no process {pid} in control group {}", self.path),
                format!(
                    "{} processes, none of which has that pid, here or inside of its container; \
                     needed: one that has",
                    self.pids.len()
                ),
                "there is nothing to trace; it may have ended already",
                "leave out --pid to trace all of the group, or --cgroup to name a process that is \
                 not in it",
            )),
            _ => Err(problem(
                format!(
                    "{} processes of control group {} have the pid {pid}",
                    inside.len(),
                    self.path
                ),
                format!("these; needed: one{}", trees(snapshot, &inside)),
                "which one is meant is not known, so nothing is traced",
                "give the pid that it has here",
            )),
        }
    }
}

/// The roots of what is called so.
fn called(
    snapshot: &Snapshot,
    group: Option<&Group>,
    name: &[u8],
    all: bool,
) -> Result<Vec<u32>, Problem> {
    let is_inside =
        |process: &&Process| group.is_none_or(|group| group.pids.contains(&process.pid));
    let among = || snapshot.choosable().filter(is_inside);
    let found = among().filter(|process| name::is_called(process, name));
    let roots = snapshot.roots(&found.map(|process| process.pid).collect());
    let shown = shown_name(name);
    match roots.len() {
        0 => Err(nobody(snapshot, among, name, group)),
        1 => Ok(roots),
        _ if all => Ok(roots),
        many => Err(problem(
            format!("{many} trees of processes are called {shown}"),
            format!("these; needed: one{}", trees(snapshot, &roots)),
            "which one is meant is not known, so nothing is traced",
            "name one of them with --pid, or trace all of them with --all",
        )),
    }
}

/// What is said where no process is called so.
fn nobody<'a, I: Iterator<Item = &'a Process>>(
    snapshot: &Snapshot,
    among: impl Fn() -> I,
    name: &[u8],
    group: Option<&Group>,
) -> Problem {
    let mut above = snapshot.above_memtrace();
    let own = match above.find(|process| name::is_called(process, name)) {
        Some(own) => format!(
            "; process {} is, but it is memtrace's own, or has started it",
            own.pid
        ),
        None => String::new(),
    };
    let inside = group.map_or_else(String::new, |group| {
        format!(" of control group {}", group.path)
    });
    let nearest = name::nearest(name, among());
    let nearest: Vec<_> = nearest.iter().map(|name| shown_name(name)).collect();
    let nearest = if nearest.is_empty() {
        String::new()
    } else {
        format!("; the nearest: {}", nearest.join(", "))
    };
    problem(
        format!("no process{inside} is called {}", shown_name(name)),
        format!(
            "none of {}, by the name of the process, of its program, or of the script or \
             module that it runs{nearest}{own}; needed: a running process",
            among().count()
        ),
        "there is nothing to trace",
        "look it up with ps, and name it as it is called there, or with --pid",
    )
}

/// A line for each tree: its root's pid, when that was started, how many descend from it, and its
/// command line.
fn trees(snapshot: &Snapshot, roots: &[u32]) -> String {
    let now = uptime(&snapshot.proc);
    let lines: Vec<String> = (roots.iter().take(LISTED))
        .filter_map(|&pid| {
            let process = snapshot.get(pid)?;
            let started = now.map_or_else(String::new, |now| {
                let ago = now.saturating_sub(process.started / ticks_per_second());
                format!("  started {} ago", ago_in_words(ago))
            });
            let descendants = match snapshot.descendants(pid) {
                1 => "1 descendant".to_owned(),
                many => format!("{many} descendants"),
            };
            let command = if process.arguments.is_empty() {
                format!("[{}]", shown(&process.comm, COMMAND_LINE))
            } else {
                shown(&process.arguments.join(&b' '), COMMAND_LINE)
            };
            Some(format!("{pid}{started}, {descendants}: {command}"))
        })
        .collect();
    list(&lines, roots.len())
}

/// Lines below each other, of as many as there are.
fn list(lines: &[String], of: usize) -> String {
    let lines = lines.iter().take(LISTED);
    let mut list: Vec<String> = lines.map(|line| format!("\n    {line}")).collect();
    if of > LISTED {
        list.push(format!("\n    and {} more", of - LISTED));
    }
    list.concat()
}

/// Seconds since the machine was started.
fn uptime(proc: &Path) -> Option<u64> {
    let text = fs::read_to_string(proc.join("uptime")).ok()?;
    text.split('.').next()?.parse().ok()
}

fn ticks_per_second() -> u64 {
    // SAFETY: no pointers are passed.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u64::try_from(ticks).unwrap_or(100).max(1)
}

/// `12 s`, `5 min`, `3 h 20 min`, `12 d 4 h`.
fn ago_in_words(seconds: u64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min"),
        3600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{} d {} h", hours / 24, hours % 24),
    }
}

#[cfg(test)]
mod tests;
