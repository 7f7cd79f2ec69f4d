//! Which processes of a profile are workers: the sample that differences are judged by.

use std::collections::{BTreeMap, BTreeSet};

use crate::profile::{Process, Profile, RoleKind};

/// The workers of a profile.
#[derive(Clone, Debug, Default)]
pub struct Workers {
    /// Their process ids; two processes of one id are one.
    pub pids: BTreeSet<u32>,
    /// How long they were traced, on average, in seconds.
    pub seconds: f64,
    /// Processes whose whole life was not seen: found, or alive at the end.
    pub cut: u64,
}

impl Workers {
    /// Those that were forked by a traced process and go on with its program: of the role of workers,
    /// where the profile has roles.
    #[must_use]
    pub fn of(profile: &Profile) -> Self {
        let kinds = kinds(profile);
        let traced: BTreeSet<u32> = profile
            .processes
            .iter()
            .map(|process| process.pid)
            .collect();
        let is_worker = |process: &&Process| {
            if process.stands_for.is_some() {
                return false;
            }
            match process.role.as_deref().and_then(|role| kinds.get(role)) {
                Some(kind) => *kind == RoleKind::Worker,
                None => {
                    process.before.is_empty()
                        && process.ppid != process.pid
                        && traced.contains(&process.ppid)
                }
            }
        };
        let workers: Vec<&Process> = profile.processes.iter().filter(is_worker).collect();
        let lives = workers.iter().map(|process| life(process, profile));
        Self {
            seconds: lives.sum::<f64>() / workers.len().max(1) as f64,
            cut: workers.iter().filter(|process| !is_whole(process)).count() as u64,
            pids: workers.iter().map(|process| process.pid).collect(),
        }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.pids.len() as u64
    }
}

/// What each role of the profile is, by its id.
fn kinds(profile: &Profile) -> BTreeMap<&str, RoleKind> {
    let roles = profile.roles.iter();
    roles.map(|role| (role.id.as_str(), role.kind)).collect()
}

/// How many processes were forked during the trace.
#[must_use]
pub fn forks(profile: &Profile) -> u64 {
    let forked = profile.processes.iter();
    let forked = forked.filter(|process| process.forked_at_s.is_some());
    forked.map(Process::count).fold(0, u64::saturating_add)
}

/// Whether a process was seen from its fork to its end.
pub(super) fn is_whole(process: &Process) -> bool {
    process.forked_at_s.is_some() && process.exited_at_s.is_some()
}

/// For how many seconds a process was traced.
pub(super) fn life(process: &Process, profile: &Profile) -> f64 {
    let end = process.exited_at_s.unwrap_or(profile.duration_s);
    let life = end - process.forked_at_s.unwrap_or(0.0);
    // A profile may come from anywhere.
    if life.is_finite() {
        life.clamp(0.0, 1e12)
    } else {
        0.0
    }
}
