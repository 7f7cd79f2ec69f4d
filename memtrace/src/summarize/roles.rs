//! What processes are there for: who forked whom, and what became of that.

use std::collections::{BTreeMap, HashMap as StdHashMap};

use foldhash::{HashMap, HashSet};

use super::{Gathered, Run};
use crate::distribution::Distribution;
use crate::foreign::escaped;
use crate::memory::Accounts;
use crate::process::facts::ProcessFacts;
use crate::process::processes::{OTHERS, ProcessId};
use crate::profile::{Pace, PrivateGrowth, Process, Role, RoleKind};

/// Pages that a role must have copied for its pace to be told.
const PACE_PAGES: u64 = 100;

/// The roles of processes.
#[derive(Debug, Default)]
pub struct Roles {
    /// What a report has.
    pub list: Vec<Role>,
    /// Which of them each process has.
    pub of: HashMap<ProcessId, usize>,
}

impl Roles {
    /// The name of a process's role.
    pub fn id(&self, process: ProcessId) -> Option<&str> {
        Some(&self.list[*self.of.get(&process)?].id)
    }
}

/// What tells roles apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    kind: RoleKind,
    name: String,
}

/// Finds the roles of all processes, whose rows `processes` are.
pub fn roles(gathered: &Gathered, run: &Run, processes: &[Process]) -> Roles {
    let family = Family::of(gathered);
    let mut members: BTreeMap<Key, Vec<usize>> = BTreeMap::new();
    for (at, (id, facts)) in gathered.processes.iter().enumerate() {
        let kind = family.kind(*id);
        let name = name(facts, run.arguments);
        members.entry(Key { kind, name }).or_default().push(at);
    }
    let mut found: Vec<(Role, Vec<usize>)> = members
        .into_iter()
        .map(|(key, members)| (role(key, &members, gathered, run, processes), members))
        .collect();
    found.sort_by_key(|(role, _)| {
        let master = role.kind != RoleKind::Master;
        (master, std::cmp::Reverse(role.copied_pages))
    });
    let mut roles = Roles::default();
    let mut of_kind: StdHashMap<RoleKind, usize> = StdHashMap::new();
    for (mut role, members) in found {
        let number = of_kind.entry(role.kind).or_default();
        *number += 1;
        role.id = match number {
            1 => role.kind.name().to_owned(),
            more => format!("{}-{more}", role.kind.name()),
        };
        for at in members {
            roles.of.insert(gathered.processes[at].0, roles.list.len());
        }
        roles.list.push(role);
    }
    roles
}

fn role(
    Key { kind, name }: Key,
    members: &[usize],
    gathered: &Gathered,
    run: &Run,
    processes: &[Process],
) -> Role {
    let facts = || members.iter().map(|&at| &gathered.processes[at].1);
    let rows = || members.iter().map(|&at| &processes[at]);
    // Of those that were forked during the trace, all was seen.
    let seen = || rows().filter(|row| row.forked_at_s.is_some());
    let mut bytes: Vec<u64> = if seen().next().is_some() {
        seen().map(|row| row.copied_bytes).collect()
    } else {
        rows().map(|row| row.copied_bytes).collect()
    };
    bytes.sort_unstable();
    Role {
        id: String::new(),
        kind,
        name,
        processes: members.len() as u64,
        generations: generations(facts()),
        forked: seen().count() as u64,
        ended: rows().filter(|row| row.exited_at_s.is_some()).count() as u64,
        copied_pages: rows().map(|row| row.copied_pages).sum(),
        copied_bytes: rows().map(|row| row.copied_pages).sum::<u64>() * run.host.page_size,
        median_bytes: bytes.get(bytes.len() / 2).copied().unwrap_or(0),
        max_bytes: rows().map(|row| row.copied_bytes).max().unwrap_or(0),
        growth: growth(rows()),
        pace: pace(members, gathered),
    }
}

/// The sum of what is known of the members' growth.
fn growth<'a>(rows: impl Iterator<Item = &'a Process>) -> Option<PrivateGrowth> {
    let known = rows.filter_map(|row| row.memory.as_ref()?.growth);
    known.reduce(|mut sum, one| {
        sum.absorb(&one);
        sum
    })
}

/// How soon after their forks they copy.
fn pace(members: &[usize], gathered: &Gathered) -> Option<Pace> {
    let mut age = Distribution::new();
    for &at in members {
        let (id, facts) = &gathered.processes[at];
        if facts.times.forked_ns.is_some()
            && let Some(times) = gathered.tally.times.processes.get(id)
        {
            age.merge(&times.age);
        }
    }
    if age.count() < PACE_PAGES {
        return None;
    }
    let ages = age.histogram();
    Some(Pace {
        half_ms: ages.value_at_quantile(0.5),
        most_ms: ages.value_at_quantile(0.95),
    })
}

/// How many generations there were: whoever was forked after one of a generation had ended is of the
/// next.
fn generations<'a>(members: impl Iterator<Item = &'a ProcessFacts>) -> u64 {
    let mut lives: Vec<(u64, u64)> = members
        .map(|facts| {
            let times = facts.times;
            let end = times.exited_ns.unwrap_or(u64::MAX);
            (times.forked_ns.unwrap_or(0), end)
        })
        .collect();
    lives.sort_unstable();
    let (mut generations, mut first_end) = (0, 0);
    for (start, end) in lives {
        if generations == 0 || start > first_end {
            (generations, first_end) = (generations + 1, end);
        } else {
            first_end = first_end.min(end);
        }
    }
    generations
}

/// Who was forked by whom.
struct Family<'a> {
    facts: HashMap<ProcessId, &'a ProcessFacts>,
    parents: HashMap<ProcessId, ProcessId>,
    /// Those that have forked processes which go on with their program.
    masters: HashSet<ProcessId>,
}

impl<'a> Family<'a> {
    fn of(gathered: &'a Gathered) -> Self {
        let facts: HashMap<_, _> = gathered.processes.iter().map(|(id, f)| (*id, f)).collect();
        // By pid, those that had it, the first first.
        let mut by_pid: HashMap<u32, Vec<ProcessId>> = HashMap::default();
        for (id, facts) in &gathered.processes {
            by_pid.entry(facts.pid).or_default().push(*id);
        }
        let parent = |id: ProcessId, facts: &ProcessFacts| {
            let with_pid = by_pid.get(&facts.ppid)?;
            let earlier = with_pid.iter().copied().filter(|&parent| parent < id);
            earlier.max().filter(|&parent| parent != OTHERS)
        };
        let parents = gathered.processes.iter();
        let parents = parents.filter_map(|(id, facts)| Some((*id, parent(*id, facts)?)));
        let mut family = Self {
            facts,
            parents: parents.collect(),
            masters: HashSet::default(),
        };
        let workers = family.parents.iter().filter(|(id, _)| family.goes_on(**id));
        family.masters = workers.map(|(_, &parent)| parent).collect();
        family
    }

    /// Whether a process still runs the program of the one that forked it.
    fn goes_on(&self, id: ProcessId) -> bool {
        let Some(parent) = self
            .parents
            .get(&id)
            .and_then(|parent| self.facts.get(parent))
        else {
            return false;
        };
        let own = self.facts[&id];
        if own.times.forked_ns.is_some() {
            return own.name.before.is_empty();
        }
        // Both were there before.
        own.program.is_some() && own.program == parent.program && own.name.before.is_empty()
    }

    fn kind(&self, id: ProcessId) -> RoleKind {
        if self.goes_on(id) {
            RoleKind::Worker
        } else if self.masters.contains(&id) {
            RoleKind::Master
        } else if self.parents.contains_key(&id) {
            RoleKind::Helper
        } else {
            RoleKind::Single
        }
    }
}

/// What a process is called among others of its kind: the beginning of the title that it has set, or
/// the name that the kernel has.
fn name(facts: &ProcessFacts, arguments: bool) -> String {
    let title = match &facts.name.cmdline[..] {
        [only] if arguments => title(&String::from_utf8_lossy(only)),
        _ => None,
    };
    let name = title.unwrap_or_else(|| String::from_utf8_lossy(&facts.name.comm).into_owned());
    escaped(name.as_bytes())
}

/// `postgres: checkpointer` of `postgres: checkpointer `, `gunicorn: worker` of
/// `gunicorn: worker [shop]`; `None` for a command line that is no title.
fn title(text: &str) -> Option<String> {
    let (program, rest) = text.split_once(": ")?;
    let word = rest.split_whitespace().next()?;
    let is_word = |c: char| c.is_alphabetic() || c == '-' || c == '_';
    (!program.contains('/') && program.len() <= 32 && word.chars().all(is_word))
        .then(|| format!("{program}: {word}"))
}

/// Fills in what memory says of each process, in the order of `gathered`.
pub fn account(processes: &mut [Process], gathered: &Gathered, run: &Run) {
    let none = Accounts::default();
    let accounts = gathered.accounts.as_ref().unwrap_or(&none);
    for (row, (id, facts)) in processes.iter_mut().zip(gathered.all()) {
        row.cache = accounts.caches.get(&id).copied();
        let history = accounts.histories.get(&id);
        let at_exit = facts.last.filter(|last| last.resident != [0; 4]);
        let at_exit = at_exit.map(|last| super::memory::exit_sizes(last.resident, run));
        row.memory = history.map(|history| history.memory(run.started_ns, at_exit));
        if let Some(times) = gathered.tally.times.processes.get(&id) {
            row.copying_s = Some(times.copying_ns as f64 / 1e9);
        }
        let [first, last] = history.map_or([None; 2], |history| history.cpu_ns);
        let total = facts.last.map(|last| last.cpu_ns).or(last);
        // What it had before the trace is not of interest.
        let before = if facts.times.forked_ns.is_some() {
            Some(0)
        } else {
            first
        };
        row.cpu_s = total
            .zip(before)
            .map(|(total, before)| total.saturating_sub(before) as f64 / 1e9);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_are_told_from_arguments() {
        for (text, expected) in [
            ("postgres: checkpointer ", Some("postgres: checkpointer")),
            (
                "postgres: ada shop 127.0.0.1(5123) idle",
                Some("postgres: ada"),
            ),
            ("gunicorn: worker [shop]", Some("gunicorn: worker")),
            ("nginx: worker process", Some("nginx: worker")),
            ("/srv/app: odd", None),
            ("redis-server 127.0.0.1:6379", None),
            ("python3", None),
            ("a: 1", None),
        ] {
            assert_eq!(title(text).as_deref(), expected, "{text}");
        }
    }
}
