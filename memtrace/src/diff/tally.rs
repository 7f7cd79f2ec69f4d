//! What both profiles copied, added up by what rows are about.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::What;
use super::workers::{Workers, is_whole, life};
use crate::profile::{CallSite, CauseName, Profile};

/// What one profile copied of one thing.
#[derive(Clone, Debug, Default)]
pub(super) struct Copies {
    pub bytes: u64,
    /// By process id.
    pub by_pid: BTreeMap<u32, u64>,
}

impl Copies {
    pub(super) fn add(&mut self, site: &CallSite) {
        self.bytes = self.bytes.saturating_add(site.bytes);
        for (pid, bytes) in bytes_by_pid(site) {
            let sum = self.by_pid.entry(pid).or_default();
            *sum = sum.saturating_add(bytes);
        }
    }
}

/// What each process copied at a call site.
pub(super) fn bytes_by_pid(site: &CallSite) -> impl Iterator<Item = (u32, u64)> {
    site.processes.iter().map(|(&pid, &pages)| {
        // All pages of a call site are of one size, since they have one origin.
        let bytes = u128::from(site.bytes) * u128::from(pages) / u128::from(site.pages.max(1));
        (pid, u64::try_from(bytes).unwrap_or(u64::MAX))
    })
}

/// The same in both profiles; which of the two is the first index everywhere: base, new.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub what: What,
    pub copies: [Copies; 2],
    /// The processes that it is about, where these are not all.
    pub of: Option<[Members; 2]>,
}

/// The processes of a role.
#[derive(Clone, Debug, Default)]
pub(super) struct Members {
    pub count: u64,
    /// How long they were traced, together.
    pub seconds: f64,
    /// Those whose whole life was not seen.
    pub cut: u64,
}

/// Everything but what must be matched.
pub(super) struct Tally {
    pub total: Pair,
    pub copy_on_read: Pair,
    pub causes: Vec<Pair>,
    pub types: Vec<Pair>,
    pub roles: Vec<Pair>,
}

impl Tally {
    pub(super) fn of(base: &Profile, new: &Profile) -> Self {
        let both = [base, new];
        let sum = |what, belongs: fn(&CallSite) -> bool| Pair {
            what,
            copies: both.map(|profile| {
                let mut copies = Copies::default();
                let sites = profile.call_sites.iter().filter(|site| belongs(site));
                sites.for_each(|site| copies.add(site));
                copies
            }),
            of: None,
        };
        Self {
            total: sum(What::Total, |_| true),
            copy_on_read: sum(What::CopyOnRead, CallSite::is_copy_on_read),
            causes: grouped(
                both,
                |site| Some(site.cause),
                |cause: CauseName| What::Cause(cause),
            ),
            types: grouped(
                both,
                |site| site.object_type.clone(),
                |name: Arc<str>| What::Type(name),
            ),
            roles: roles(both),
        }
    }
}

/// A pair for each key of call sites.
fn grouped<K: Ord>(
    both: [&Profile; 2],
    key: impl Fn(&CallSite) -> Option<K>,
    what: impl Fn(K) -> What,
) -> Vec<Pair> {
    let mut groups: BTreeMap<K, [Copies; 2]> = BTreeMap::new();
    for (side, profile) in both.into_iter().enumerate() {
        for site in &profile.call_sites {
            if let Some(key) = key(site) {
                groups.entry(key).or_default()[side].add(site);
            }
        }
    }
    let pairs = groups.into_iter().map(|(key, copies)| Pair {
        what: what(key),
        copies,
        of: None,
    });
    pairs.collect()
}

/// A pair for each role; where one of the profiles has none, for each name of workers and of other
/// processes.
fn roles(both: [&Profile; 2]) -> Vec<Pair> {
    let have_roles = both.iter().all(|profile| !profile.roles.is_empty());
    let mut roles: BTreeMap<(String, String), [(Copies, Members); 2]> = BTreeMap::new();
    for (side, profile) in both.into_iter().enumerate() {
        let workers = Workers::of(profile);
        for process in &profile.processes {
            let role = profile
                .roles
                .iter()
                .find(|role| have_roles && process.role.as_deref() == Some(role.id.as_str()));
            let key = match role {
                Some(role) => (role.kind.name().to_owned(), role.name.clone()),
                None if workers.pids.contains(&process.pid) => {
                    ("worker".to_owned(), process.called())
                }
                None => ("process".to_owned(), called(process)),
            };
            let (copies, members) = &mut roles.entry(key).or_default()[side];
            copies.bytes = copies.bytes.saturating_add(process.copied_bytes);
            let sum = copies.by_pid.entry(process.pid).or_default();
            *sum = sum.saturating_add(process.copied_bytes);
            members.count = members.count.saturating_add(process.count());
            members.seconds += life(process, profile) * process.count() as f64;
            if !is_whole(process) {
                members.cut = members.cut.saturating_add(process.count());
            }
        }
    }
    let pairs = roles.into_iter().map(|((kind, name), [base, new])| Pair {
        what: What::Role { kind, name },
        copies: [base.0, new.0],
        of: Some([base.1, new.1]),
    });
    pairs.collect()
}

/// How processes are called that are no workers. Those that are added up have a number in their name,
/// which is never the same.
fn called(process: &crate::profile::Process) -> String {
    match process.stands_for {
        Some(_) => "others that had ended".to_owned(),
        None => process.called(),
    }
}
