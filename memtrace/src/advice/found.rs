//! What rules look at: whose pages were copied, and where.

use std::collections::{BTreeMap, BTreeSet};

use crate::profile::{CallSite, Frame, Phase, Process, Profile, Site, StackPages};
use crate::report::words::{count, counted, size, whole_percent};

/// Places that are named as evidence.
const PLACES: usize = 3;

/// Characters of a name within a sentence; the tables have it whole.
const NAME: usize = 80;

/// A profile, and who forked whom.
pub struct Found<'a> {
    /// The profile.
    pub profile: &'a Profile,
    processes: BTreeMap<u32, &'a Process>,
    /// Those that were forked by a traced one.
    forked: BTreeSet<u32>,
    /// Those of them that run CPython, as who forked them does.
    python_forks: BTreeSet<u32>,
    /// Who forked these.
    python_masters: BTreeSet<u32>,
}

impl<'a> Found<'a> {
    /// What is found in a profile.
    pub fn of(profile: &'a Profile) -> Self {
        let own = |process: &&Process| process.stands_for.is_none();
        let processes = profile.processes.iter().filter(own);
        let mut found = Self {
            profile,
            processes: processes.map(|process| (process.pid, process)).collect(),
            forked: BTreeSet::new(),
            python_forks: BTreeSet::new(),
            python_masters: BTreeSet::new(),
        };
        for process in found.processes.values() {
            let parent = found.processes.get(&process.ppid);
            let Some(parent) = parent.filter(|parent| parent.pid != process.pid) else {
                continue;
            };
            found.forked.insert(process.pid);
            if is_cpython(process) && is_cpython(parent) {
                found.python_forks.insert(process.pid);
                found.python_masters.insert(parent.pid);
            }
        }
        found
    }

    /// Whether a process was forked by one that was traced.
    pub fn is_forked(&self, process: &Process) -> bool {
        self.forked.contains(&process.pid)
    }

    /// Whether a process runs CPython, and was forked by a traced one that does.
    pub fn is_python_fork(&self, process: &Process) -> bool {
        self.python_forks.contains(&process.pid)
    }

    /// Whether a process forked such ones, and was not forked so itself.
    pub fn is_python_master(&self, process: &Process) -> bool {
        self.python_masters.contains(&process.pid) && !self.is_python_fork(process)
    }

    /// The processes that satisfy `is`.
    pub fn processes(&self, is: impl Fn(&Process) -> bool) -> Vec<&'a Process> {
        let all = self.processes.values().copied();
        all.filter(|process| is(process)).collect()
    }

    /// What processes that satisfy `who` copied at call sites that satisfy `what`.
    pub fn copies(
        &self,
        what: impl Fn(&CallSite) -> bool,
        who: impl Fn(&Process) -> bool,
    ) -> Copies<'a> {
        self.part(|site| if what(site) { site.pages } else { 0 }, who)
    }

    /// The same, where only `part` of a call site's pages counts. Which process had which part is
    /// not known: at least what is more than the others can have copied is theirs.
    pub fn part(
        &self,
        part: impl Fn(&CallSite) -> u64,
        who: impl Fn(&Process) -> bool,
    ) -> Copies<'a> {
        let mut copies = Copies::default();
        for site in &self.profile.call_sites {
            let part = part(site);
            if part == 0 {
                continue;
            }
            let pids = self.pids_in(site, &who);
            let theirs = pids.iter().map(|pid| site.processes[pid]);
            let theirs = theirs.fold(0, u64::saturating_add);
            let others = site.pages.saturating_sub(theirs);
            copies.add(site, part.saturating_sub(others), pids);
        }
        copies
    }

    /// Who copied at a call site and satisfies `who`. The sum of those that have ended (pid 0) does
    /// where all others do.
    fn pids_in(&self, site: &CallSite, who: impl Fn(&Process) -> bool) -> BTreeSet<u32> {
        let is = |pid: &u32| self.processes.get(pid).is_some_and(|process| who(process));
        let known = site.processes.keys().copied();
        let mut pids: BTreeSet<u32> = known.filter(is).collect();
        let is_sum = site.processes.contains_key(&0) && !self.processes.contains_key(&0);
        if is_sum && !pids.is_empty() && pids.len() + 1 == site.processes.len() {
            pids.insert(0);
        }
        pids
    }

    /// `3,150 pages (12.3 MiB, 61% of what was copied) in 4 processes`.
    pub fn amount(&self, copies: &Copies<'_>) -> String {
        let all = self.profile.totals.copied_bytes;
        format!(
            "{} ({}, {} of what was copied) in {}",
            counted(copies.pages, "page", "pages"),
            size(copies.bytes),
            whole_percent(copies.bytes, all),
            counted(copies.pids.len() as u64, "process", "processes"),
        )
    }
}

/// Copied pages that a rule is about.
#[derive(Clone, Default)]
pub struct Copies<'a> {
    /// How many.
    pub pages: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Who copied them.
    pub pids: BTreeSet<u32>,
    /// Where, with the pages of each.
    pub sites: Vec<(&'a CallSite, u64)>,
}

impl<'a> Copies<'a> {
    fn add(&mut self, site: &'a CallSite, pages: u64, pids: BTreeSet<u32>) {
        let pages = pages.min(site.pages);
        if pages == 0 {
            return;
        }
        self.pages = self.pages.saturating_add(pages);
        self.bytes = self.bytes.saturating_add(bytes_of(site, pages));
        self.pids.extend(pids);
        self.sites.push((site, pages));
    }

    /// Pages by what a person can act on, the most first.
    pub fn places(&self) -> Vec<(&'a Site, u64)> {
        ranked(
            self.sites
                .iter()
                .map(|(site, pages)| (site.act_on(), *pages)),
        )
    }

    /// Pages by type of the object, the most first.
    pub fn types(&self) -> Vec<(&'a str, u64)> {
        let typed = self.sites.iter();
        ranked(typed.filter_map(|(site, pages)| Some((site.object_type.as_deref()?, *pages))))
    }

    /// Where most of it was copied, a line each: `3,100 pages in 'walk', app.py:28`.
    pub fn where_most(&self) -> Vec<String> {
        let places = self.places();
        let lines = places.iter().take(PLACES).map(|(place, pages)| {
            let pages = counted(*pages, "page", "pages");
            format!("{pages} in {}", at(place))
        });
        let mut lines: Vec<String> = lines.collect();
        if let Some(rest @ [_, ..]) = places.get(PLACES..) {
            let pages = rest.iter().map(|(_, pages)| *pages).sum();
            lines.push(format!(
                "{} in {}",
                counted(pages, "page", "pages"),
                counted(rest.len() as u64, "other place", "other places")
            ));
        }
        lines
    }
}

/// Sums by key, the most first; of equals the first by key.
pub fn ranked<K: Ord>(figures: impl Iterator<Item = (K, u64)>) -> Vec<(K, u64)> {
    let mut sums: BTreeMap<K, u64> = BTreeMap::new();
    for (key, figure) in figures {
        let sum = sums.entry(key).or_default();
        *sum = sum.saturating_add(figure);
    }
    let mut ranked: Vec<_> = sums.into_iter().collect();
    ranked.sort_by_key(|(_, sum)| std::cmp::Reverse(*sum));
    ranked
}

/// Bytes of some of a call site's pages, which are all of one size.
pub fn bytes_of(site: &CallSite, pages: u64) -> u64 {
    let bytes = u128::from(site.bytes) * u128::from(pages) / u128::from(site.pages.max(1));
    bytes as u64
}

/// Whether a process runs CPython.
pub fn is_cpython(process: &Process) -> bool {
    minor_version(process).is_some()
}

/// The `11` of `CPython 3.11`; `None` for anything else.
pub fn minor_version(process: &Process) -> Option<u32> {
    let name = &process.interpreter.as_ref()?.name;
    let version = name.strip_prefix("CPython 3.")?;
    let end = version.find(|c: char| !c.is_ascii_digit());
    version[..end.unwrap_or(version.len())].parse().ok()
}

/// Whether a process runs a CPython without the GIL.
pub fn is_free_threaded(process: &Process) -> bool {
    let interpreter = process.interpreter.as_ref();
    interpreter.is_some_and(|seen| seen.name.ends_with("free-threaded"))
}

/// Whether a call site's copies were made while processes ran.
pub fn is_running(site: &CallSite) -> bool {
    site.phase == Phase::Run
}

/// Pages of the stacks of a call site that satisfy `is`.
pub fn pages_with(site: &CallSite, is: impl Fn(&StackPages) -> bool) -> u64 {
    let stacks = site.stacks.iter().filter(|stack| is(stack));
    let pages = stacks.fold(0u64, |sum, stack| sum.saturating_add(stack.pages));
    pages.min(site.pages)
}

/// The module of a frame without its folders.
pub fn module_of(frame: &Frame) -> Option<&str> {
    let module = frame.module.as_deref()?;
    module.rsplit('/').next()
}

/// A foreign name within a sentence.
pub fn quoted(name: &str) -> String {
    match name.char_indices().nth(NAME) {
        Some((end, _)) => format!("`{}…`", &name[..end]),
        None => format!("`{name}`"),
    }
}

/// A function with its file and line: `` `walk`, app.py:28 ``.
pub fn at(site: &Site) -> String {
    let function = quoted(&site.function);
    let base = |path: &str| {
        let base = path.rsplit('/').next().unwrap_or(path);
        base.chars().take(NAME).collect::<String>()
    };
    match (&site.file, site.line, &site.module) {
        (Some(file), Some(line), _) => format!("{function}, {}:{line}", base(file)),
        (Some(file), None, _) => format!("{function}, {}", base(file)),
        // The name of an unknown function begins with its module.
        (None, _, Some(module)) if !site.function.starts_with(&base(module)) => {
            format!("{function}, {}", base(module))
        }
        _ => function,
    }
}

/// `str 58%, dict 22%, 2 more`.
pub fn types_in_words(copies: &Copies<'_>) -> Option<String> {
    let types = copies.types();
    let named = types.iter().take(PLACES);
    let mut named: Vec<String> = named
        .map(|(name, pages)| format!("{} {}", quoted(name), whole_percent(*pages, copies.pages)))
        .collect();
    if types.len() > PLACES {
        named.push(format!("{} more", count((types.len() - PLACES) as u64)));
    }
    (!named.is_empty()).then(|| named.join(", "))
}

/// Lines of text.
pub fn lines(text: &[&str]) -> Vec<String> {
    text.iter().map(|&line| line.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::made::{self, Made};
    use super::*;
    use crate::profile::CauseName;

    #[test]
    fn pages_of_others_are_not_counted_and_neither_is_what_may_be_theirs() {
        let mut profile = made::profile(&[Made::new(100, CauseName::Gc, "context")]);
        profile.call_sites[0].processes.insert(4242, 30);
        made::settle(&mut profile);
        let found = Found::of(&profile);
        let forked = |process: &Process| found.is_forked(process);
        assert_eq!(found.copies(|_| true, forked).pages, 200);
        // Of 50 pages of some stacks, 30 may be the master's.
        let copies = found.part(|_| 50, forked);
        assert_eq!((copies.pages, copies.bytes), (20, 20 * 4096));
        assert_eq!(found.part(|_| 30, forked).pages, 0);
    }

    #[test]
    fn the_sum_of_those_that_have_ended_is_what_all_others_are() {
        let mut profile = made::profile(&[Made::new(100, CauseName::Gc, "context")]);
        let mut others = profile.processes[1].clone();
        (others.pid, others.ppid, others.stands_for) = (0, 0, Some(2_000));
        others.interpreter = None;
        profile.processes.push(others);
        profile.call_sites[0].processes.insert(0, 1_000);
        made::settle(&mut profile);
        let found = Found::of(&profile);
        let forked = |process: &Process| found.is_forked(process);
        assert_eq!(found.copies(|_| true, forked).pages, 1_200);
        let mut profile = profile.clone();
        profile.call_sites[0].processes.insert(4242, 7);
        made::settle(&mut profile);
        let found = Found::of(&profile);
        let forked = |process: &Process| found.is_forked(process);
        assert_eq!(found.copies(|_| true, forked).pages, 200);
    }

    #[test]
    fn versions_are_read_of_names() {
        let mut process = made::profile(&[]).processes[0].clone();
        for (name, minor, free) in [
            ("CPython 3.11", Some(11), false),
            ("CPython 3.13, free-threaded", Some(13), true),
            ("CPython 3", None, false),
            ("PyPy 3.10", None, false),
        ] {
            process.interpreter.as_mut().unwrap().name = name.to_owned();
            assert_eq!(minor_version(&process), minor, "{name}");
            assert_eq!(is_free_threaded(&process), free, "{name}");
        }
        process.interpreter = None;
        assert!(!is_cpython(&process));
    }

    #[test]
    fn long_names_are_cut() {
        assert_eq!(quoted("walk"), "`walk`");
        assert_eq!(quoted(&"é".repeat(200)).chars().count(), NAME + 3);
    }
}
