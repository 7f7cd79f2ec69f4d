//! The sums that a report promises, checked.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use anyhow::ensure;

use super::{
    CallSite, CauseName, MOST_BINS, NotCopied, Phase, Process, Profile, TypeRow, Unchanged,
    Unrecorded,
};

/// Differences that are named; of more only the number is said.
const NAMED: usize = 10;
/// No count of pages or faults reaches this, so that views may add up a few without looking.
const BEYOND_BELIEF: u64 = 1 << 56;

/// Checks that the profile adds up: `copied_pages` and `copied_bytes` are the sums over processes
/// and over call sites; pages are the sums by cause and by origin, in total, in each process, and
/// between the two and the call sites; a call site's pages are those of its processes and of its
/// stacks; copy-on-read is what `refcount` and `gc` copied; and shares are parts of the whole. The
/// rows by object type are the sums of the call sites with a type, pages that were compared are
/// among those that were copied, and a cause comes with its evidence or with a reason why it is not
/// known. What was lost or pending has its call sites, and no advice saves more than was copied.
///
/// A profile may come from anywhere: nothing that is in it makes this panic or overflow, and what
/// passes can be added up in the same ways without overflow.
///
/// # Errors
///
/// Names the sums that disagree, with both figures. Then counting has a mistake, and the report
/// must not be trusted.
pub fn check(profile: &Profile) -> anyhow::Result<()> {
    let mut checker = Checker::default();
    checker.totals(profile);
    checker.processes(profile);
    checker.call_sites(profile);
    checker.types(profile);
    checker.unchanged(profile);
    checker.unrecorded(profile);
    checker.figures(profile);
    checker.roles(profile);
    checker.timeline(profile);
    checker.growth(profile);
    checker.advice(profile);
    checker.result()
}

/// A sum of figures, which for a made-up profile may exceed them.
fn sum(figures: impl IntoIterator<Item = u64>) -> u128 {
    figures.into_iter().map(u128::from).sum()
}

#[derive(Default)]
struct Checker {
    wrong: Vec<String>,
    more: usize,
}

impl Checker {
    fn result(self) -> anyhow::Result<()> {
        let Self { wrong, more } = self;
        let rest = match more {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        ensure!(
            wrong.is_empty(),
            "sums of the profile disagree: {}{rest}",
            wrong.join("; ")
        );
        Ok(())
    }

    fn wrong(&mut self, what: impl FnOnce() -> String) {
        if self.wrong.len() < NAMED {
            self.wrong.push(what());
        } else {
            self.more += 1;
        }
    }

    fn same(
        &mut self,
        what: impl FnOnce() -> String,
        left: impl Into<u128>,
        right: impl Into<u128>,
    ) {
        let (left, right) = (left.into(), right.into());
        if left != right {
            self.wrong(|| format!("{} ({left} and {right})", what()));
        }
    }

    /// Every process has a role, but those that are added up; a role is the sum of its processes.
    fn roles(&mut self, profile: &Profile) {
        if profile.roles.is_empty() {
            return;
        }
        let ids: BTreeSet<&str> = profile.roles.iter().map(|role| role.id.as_str()).collect();
        if ids.len() != profile.roles.len() {
            self.wrong(|| "two roles have the same name".to_owned());
        }
        for role in &profile.roles {
            let members = profile.processes.iter();
            let members = members.filter(|process| process.role.as_ref() == Some(&role.id));
            let name = || format!("role {}", role.id);
            self.same(
                || format!("processes of {} and their number", name()),
                members.clone().count() as u64,
                role.processes,
            );
            for (what, found, own) in [
                (
                    "pages",
                    sum(members.clone().map(|p| p.copied_pages)),
                    role.copied_pages,
                ),
                (
                    "bytes",
                    sum(members.clone().map(|p| p.copied_bytes)),
                    role.copied_bytes,
                ),
            ] {
                self.same(
                    || format!("{what} of {} and of its processes", name()),
                    own,
                    found,
                );
            }
        }
        for process in &profile.processes {
            let is_known = process
                .role
                .as_deref()
                .is_some_and(|role| ids.contains(role));
            if !is_known && process.stands_for.is_none() {
                self.wrong(|| format!("process {} has no role", process.pid));
            }
        }
    }

    /// Lists of equal length, and no more copies than there were.
    fn timeline(&mut self, profile: &Profile) {
        let Some(timeline) = &profile.timeline else {
            return;
        };
        let bins = timeline.bins();
        let lists = (timeline.by_cause.values())
            .chain(timeline.by_process.values())
            .chain([&timeline.forks, &timeline.exits, &timeline.execs])
            .chain(
                timeline
                    .by_role
                    .iter()
                    .flat_map(|role| [&role.copied, &role.processes]),
            );
        let memory = timeline
            .by_role
            .iter()
            .flat_map(|role| [&role.shared, &role.private]);
        let mut lengths = lists.map(Vec::len).chain(memory.map(Vec::len));
        if bins > MOST_BINS || lengths.any(|length| length != bins) {
            self.wrong(|| format!("the lists of the timeline differ from its {bins} bins"));
            return;
        }
        let copied = u128::from(profile.totals.copied_bytes);
        for (what, bytes) in [
            ("cause", sum(timeline.by_cause.values().flatten().copied())),
            (
                "role",
                sum(timeline
                    .by_role
                    .iter()
                    .flat_map(|role| &role.copied)
                    .copied()),
            ),
            (
                "process",
                sum(timeline.by_process.values().flatten().copied()),
            ),
        ] {
            if bytes > copied {
                self.wrong(|| {
                    format!("the timeline has more by {what} ({bytes}) than was copied ({copied})")
                });
            }
        }
        let interval = timeline.interval_s;
        if !interval.is_finite() || interval <= 0.0 {
            self.wrong(|| format!("the bins of the timeline are {interval} s wide"));
        }
    }

    /// What is known of private memory is the sum of its parts.
    fn growth(&mut self, profile: &Profile) {
        let of_roles = profile.roles.iter().filter_map(|role| role.growth);
        let memory = profile
            .processes
            .iter()
            .filter_map(|process| process.memory.as_ref());
        for growth in memory.filter_map(|memory| memory.growth).chain(of_roles) {
            if growth.private != growth.parts() {
                let (private, parts) = (growth.private, growth.parts());
                self.wrong(|| format!("private memory grew by {private} and its parts by {parts}"));
            }
        }
    }

    fn totals(&mut self, profile: &Profile) {
        let totals = &profile.totals;
        let (processes, sites) = (&profile.processes, &profile.call_sites);
        for (what, found) in [
            (
                "the sum over processes",
                sum(processes.iter().map(|p| p.copied_pages)),
            ),
            (
                "the sum over call sites",
                sum(sites.iter().map(|s| s.pages)),
            ),
            (
                "the sum by cause",
                sum(totals.by_cause.iter().map(|(_, pages)| pages)),
            ),
            (
                "the sum by origin",
                sum(totals.by_origin.iter().map(|(_, pages)| pages)),
            ),
        ] {
            self.same(
                || format!("copied pages and {what}"),
                totals.copied_pages,
                found,
            );
        }
        for (what, found) in [
            (
                "the sum over processes",
                sum(processes.iter().map(|p| p.copied_bytes)),
            ),
            (
                "the sum over call sites",
                sum(sites.iter().map(|s| s.bytes)),
            ),
        ] {
            self.same(
                || format!("copied bytes and {what}"),
                totals.copied_bytes,
                found,
            );
        }
        self.by_name(
            "cause",
            &totals.by_cause.iter().collect(),
            sites.iter().map(|site| (site.cause, site.pages)),
            processes.iter().flat_map(|process| process.by_cause.iter()),
        );
        self.by_name(
            "origin",
            &totals.by_origin.iter().collect(),
            sites.iter().map(|site| (site.origin, site.pages)),
            processes
                .iter()
                .flat_map(|process| process.by_origin.iter()),
        );
        self.copy_on_read(profile);
        if !profile.duration_s.is_finite() || profile.duration_s < 0.0 {
            self.wrong(|| format!("the duration is {}", profile.duration_s));
        }
    }

    /// Pages by name are those of the call sites and those of the processes.
    fn by_name<N: Copy + Ord + Debug>(
        &mut self,
        what: &str,
        totals: &BTreeMap<N, u64>,
        of_sites: impl Iterator<Item = (N, u64)>,
        of_processes: impl Iterator<Item = (N, u64)>,
    ) {
        let (of_sites, of_processes) = (by_key(of_sites), by_key(of_processes));
        let names: BTreeSet<N> = (totals.keys().chain(of_sites.keys()))
            .chain(of_processes.keys())
            .copied()
            .collect();
        for name in names {
            let total = totals.get(&name).copied().unwrap_or(0);
            for (whose, found) in [
                ("its call sites", &of_sites),
                ("the processes'", &of_processes),
            ] {
                let found = found.get(&name).copied().unwrap_or(0);
                self.same(|| format!("{what} {name:?} and {whose}"), total, found);
            }
        }
    }

    /// Copy-on-read is what its call sites copied. Of a later version's causes and phases any may
    /// be.
    fn copy_on_read(&mut self, profile: &Profile) {
        let pages = profile.totals.copy_on_read_pages;
        let sites = profile.call_sites.iter();
        let known = sum(sites
            .clone()
            .filter(|site| site.is_copy_on_read())
            .map(|site| site.pages));
        let may_be = |site: &&CallSite| {
            matches!(site.cause, CauseName::Other(_)) || matches!(site.phase, Phase::Other(_))
        };
        let doubtful = sum(sites.filter(may_be).map(|site| site.pages));
        if !(known..=known + doubtful).contains(&u128::from(pages)) {
            self.wrong(|| format!("copy-on-read and its call sites ({pages} and {known})"));
        }
        let of_processes = profile.processes.iter().map(|p| p.copy_on_read_pages);
        self.same(
            || "copy-on-read and that of the processes".to_owned(),
            pages,
            sum(of_processes),
        );
    }

    /// A process has no more copy-on-read than its causes allow.
    fn copy_on_read_of(&mut self, process: &Process) {
        let (pid, pages) = (process.pid, process.copy_on_read_pages);
        let by_cause = &process.by_cause;
        let most = u128::from(by_cause.copy_on_read()) + sum(by_cause.other.values().copied());
        if u128::from(pages) > most {
            self.wrong(|| {
                format!("copy-on-read of process {pid} and its causes ({pages} and {most})")
            });
        }
    }

    fn processes(&mut self, profile: &Profile) {
        let of_sites = profile.call_sites.iter().flat_map(|site| &site.processes);
        let of_sites = by_key(of_sites.map(|(&pid, &pages)| (pid, pages)));
        let expected = profile.processes.iter().map(|p| (p.pid, p.copied_pages));
        let expected = by_key(expected);
        for process in &profile.processes {
            let pid = process.pid;
            let pages = process.copied_pages;
            let causes = sum(process.by_cause.iter().map(|(_, pages)| pages));
            self.same(
                || format!("pages of process {pid} and its causes"),
                pages,
                causes,
            );
            let origins = sum(process.by_origin.iter().map(|(_, pages)| pages));
            self.same(
                || format!("pages of process {pid} and its origins"),
                pages,
                origins,
            );
            self.copy_on_read_of(process);
        }
        let pids: BTreeSet<u32> = expected.keys().chain(of_sites.keys()).copied().collect();
        for pid in pids {
            let of = |map: &BTreeMap<u32, u128>| map.get(&pid).copied().unwrap_or(0);
            self.same(
                || format!("pages of process {pid} and its call sites"),
                of(&expected),
                of(&of_sites),
            );
        }
    }

    fn call_sites(&mut self, profile: &Profile) {
        let pages = profile.totals.copied_pages;
        let adds_up = u128::from(pages) == sum(profile.call_sites.iter().map(|site| site.pages));
        let pages = pages.max(1);
        for site in &profile.call_sites {
            let name = || format!("call site {:?} ({:?})", site.site.function, site.cause);
            self.same(
                || format!("pages of {} and its processes", name()),
                site.pages,
                sum(site.processes.values().copied()),
            );
            self.same(
                || format!("pages of {} and its stacks", name()),
                site.pages,
                sum(site.stacks.iter().map(|stack| stack.pages)),
            );
            if !(0.0..=1.0).contains(&site.share) {
                self.wrong(|| format!("share of {} is {}", name(), site.share));
            }
            // Where the total is wrong itself, that is said once and not at every call site.
            if adds_up && (site.share - site.pages as f64 / pages as f64).abs() > SHARE_ERROR {
                self.wrong(|| {
                    let (share, own) = (site.share, site.pages);
                    format!("share of {} is {share} with {own} of {pages} pages", name())
                });
            }
            self.cause(site, &name);
        }
    }

    /// What must come with a cause, and what must not.
    fn cause(&mut self, site: &CallSite, name: &dyn Fn() -> String) {
        let known = site.cause != CauseName::Unknown;
        let mut must = |holds: bool, what: &str| {
            if !holds {
                self.wrong(|| format!("{} has {what}", name()));
            }
        };
        must(
            site.evidence.is_some() || !known,
            "a cause without evidence",
        );
        must(
            site.evidence.is_none() || known,
            "evidence, but no known cause",
        );
        must(
            site.cause_reason.is_some() || known,
            "neither a cause nor a reason",
        );
        must(
            site.cause_reason.is_none() || !known,
            "a cause and a reason against it",
        );
        must(
            site.field_offset.is_none() || site.cause == CauseName::Object,
            "a field, but no cause `object`",
        );
    }

    fn types(&mut self, profile: &Profile) {
        let mut of_sites: BTreeMap<(&str, CauseName), (u128, u128)> = BTreeMap::new();
        for site in &profile.call_sites {
            if let Some(object_type) = &site.object_type {
                let sum = of_sites.entry((object_type, site.cause)).or_default();
                *sum = (
                    sum.0 + u128::from(site.pages),
                    sum.1 + u128::from(site.bytes),
                );
            }
        }
        for row in &profile.types {
            let TypeRow {
                object_type, cause, ..
            } = row;
            let sum = of_sites.remove(&(object_type, *cause)).unwrap_or_default();
            let what =
                |figure| format!("{figure} of type {object_type:?} ({cause:?}) and its call sites");
            self.same(|| what("pages"), row.pages, sum.0);
            self.same(|| what("bytes"), row.bytes, sum.1);
        }
        for ((object_type, cause), (pages, _)) in of_sites {
            self.wrong(|| {
                format!("type {object_type:?} ({cause:?}) has {pages} pages, but no row")
            });
        }
    }

    fn unchanged(&mut self, profile: &Profile) {
        let totals = &profile.totals;
        self.unchanged_of("all processes", totals.unchanged, totals.copied_pages);
        self.same(
            || "unchanged pages, once and again".into(),
            totals.unchanged_pages.unwrap_or(0),
            totals.unchanged.map_or(0, |all| all.unchanged_pages),
        );
        let mut of_processes = [0_u128; 6];
        let mut reasons = BTreeMap::new();
        for process in &profile.processes {
            let who = format!("process {}", process.pid);
            self.unchanged_of(&who, process.unchanged, process.copied_pages);
            let unchanged = process.unchanged.unwrap_or_default();
            for (sum, figure) in of_processes.iter_mut().zip(figures_of(unchanged)) {
                *sum += u128::from(figure);
            }
            for (reason, pages) in unchanged.not_compared.unwrap_or_default().reasons() {
                *reasons.entry(reason).or_insert(0_u128) += u128::from(pages);
            }
        }
        let all = totals.unchanged.unwrap_or_default();
        let [same, compared, with_child, at_exit, comparable, gone] = of_processes;
        let what = |which| move || format!("{which} pages and the processes'");
        self.same(what("unchanged"), all.unchanged_pages, same);
        self.same(what("compared"), all.compared_pages, compared);
        let with_children = all.compared_with_child_pages;
        self.same(what("compared with a child's"), with_children, with_child);
        self.same(
            what("compared at an exit"),
            all.compared_at_exit_pages,
            at_exit,
        );
        // In reports of earlier versions, a process of which none was compared does not say what
        // could have been.
        self.at_most(what("comparable"), comparable, all.comparable_pages);
        self.at_most(what("gone"), gone, all.gone_pages);
        for (reason, pages) in all.not_compared.unwrap_or_default().reasons() {
            let of_processes = reasons.remove(&reason).unwrap_or(0);
            let what = || format!("pages that were not compared ({reason:?}) and the processes'");
            self.same(what, pages, of_processes);
        }
    }

    fn unchanged_of(&mut self, whose: &str, unchanged: Option<Unchanged>, copied: u64) {
        let Unchanged {
            unchanged_pages: unchanged,
            compared_pages: compared,
            comparable_pages: comparable,
            gone_pages: gone,
            compared_with_child_pages: with_child,
            compared_at_exit_pages: at_exit,
            not_compared,
        } = unchanged.unwrap_or_default();
        let what = |which| move || format!("{which} pages of {whose}");
        self.at_most(what("unchanged of the compared"), unchanged, compared);
        let with_child_of_compared = what("compared with a child's of the compared");
        self.at_most(with_child_of_compared, with_child, compared);
        self.at_most(
            what("compared at an exit of the compared"),
            at_exit,
            compared,
        );
        self.at_most(what("compared of the comparable"), compared, comparable);
        // A page that was copied twice counts once, so this may be less.
        let looked_at = u128::from(comparable) + u128::from(gone);
        self.at_most(what("comparable and gone"), looked_at, copied);
        if let Some(not) = not_compared {
            let reasons = sum(not.reasons().map(|(_, pages)| pages));
            self.same(what("gone, and the reasons why,"), gone, reasons);
            let beyond = u128::from(compared) + u128::from(not.beyond_budget);
            self.same(
                what("comparable, and compared or beyond the budget,"),
                comparable,
                beyond,
            );
        }
    }

    fn at_most(
        &mut self,
        what: impl FnOnce() -> String,
        part: impl Into<u128>,
        whole: impl Into<u128>,
    ) {
        let (part, whole) = (part.into(), whole.into());
        if part > whole {
            self.wrong(|| format!("{} ({part} of {whole})", what()));
        }
    }

    /// What has no record has call sites of its own.
    fn unrecorded(&mut self, profile: &Profile) {
        let totals = &profile.totals;
        let of_sites = |why| {
            let sites = profile.call_sites.iter();
            sum(sites
                .filter(|site| site.is_unrecorded(why))
                .map(|site| site.pages))
        };
        self.same(
            || "lost records and their call sites".into(),
            totals.lost.faults,
            of_sites(Unrecorded::Lost),
        );
        self.same(
            || "lost records and the processes'".into(),
            totals.lost.faults,
            sum(profile.processes.iter().map(|process| process.lost_faults)),
        );
        self.same(
            || "pending records and their call sites".into(),
            totals.pending,
            of_sites(Unrecorded::Pending),
        );
        for process in &profile.processes {
            self.at_most(
                || format!("lost records of process {}", process.pid),
                process.lost_faults,
                process.copied_pages,
            );
        }
    }

    /// Nothing saves more than was copied.
    fn advice(&mut self, profile: &Profile) {
        let copied = profile.totals.copied_bytes;
        for advice in &profile.advice {
            let what = || format!("what advice {:?} saves of what was copied", advice.id);
            self.at_most(what, advice.saves_bytes, copied);
        }
    }

    /// Figures that are part of no sum here, but of some in a view.
    fn figures(&mut self, profile: &Profile) {
        let of_processes = profile.processes.iter().map(|process| process.not_copied);
        for faults in of_processes.chain([profile.totals.not_copied]) {
            let NotCopied {
                reuse,
                zero,
                first_touch,
                split,
                settled_elsewhere,
            } = faults;
            let all = [reuse, zero, first_touch, split, settled_elsewhere];
            for faults in all.into_iter().flatten() {
                if faults >= BEYOND_BELIEF {
                    self.wrong(|| format!("faults that copied nothing are {faults}"));
                }
            }
        }
    }
}

/// Sums by key.
fn by_key<K: Ord>(figures: impl Iterator<Item = (K, u64)>) -> BTreeMap<K, u128> {
    let mut sums = BTreeMap::new();
    for (key, figure) in figures {
        *sums.entry(key).or_default() += u128::from(figure);
    }
    sums
}

fn figures_of(unchanged: Unchanged) -> [u64; 6] {
    let Unchanged {
        unchanged_pages,
        compared_pages,
        comparable_pages,
        gone_pages,
        compared_with_child_pages,
        compared_at_exit_pages,
        not_compared: _,
    } = unchanged;
    [
        unchanged_pages,
        compared_pages,
        compared_with_child_pages,
        compared_at_exit_pages,
        comparable_pages,
        gone_pages,
    ]
}

/// How far a share may be off by rounding, also where somebody wrote it with few digits.
const SHARE_ERROR: f64 = 1e-6;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::sample::{sample, sample_pending, sample_with_losses};
    use crate::profile::{Advice, Confidence, NotCompared, OriginName};

    #[test]
    fn the_sample_profiles_add_up() {
        check(&sample()).unwrap();
        check(&sample_with_losses()).unwrap();
        check(&sample_pending()).unwrap();
    }

    #[test]
    fn advice_that_saves_more_than_was_copied_is_named() {
        let promise = |p: &mut Profile, bytes| {
            p.advice = vec![Advice {
                id: "gc-freeze".to_owned(),
                title: String::new(),
                why: String::new(),
                saves_bytes: bytes,
                confidence: Confidence::High,
                how: Vec::new(),
                evidence: Vec::new(),
            }];
        };
        let mut profile = sample();
        promise(&mut profile, 27_000_000);
        check(&profile).unwrap();
        promise(&mut profile, u64::MAX);
        let error = check(&profile).unwrap_err().to_string();
        assert!(error.contains("what advice \"gc-freeze\" saves"), "{error}");
    }

    fn broken(break_it: fn(&mut Profile), expected: &str) {
        let mut profile = sample();
        break_it(&mut profile);
        let error = check(&profile).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected:?} is not in {error:?}");
    }

    #[test]
    fn each_sum_that_disagrees_is_named() {
        broken(
            |p| p.totals.copied_pages += 1,
            "copied pages and the sum over processes",
        );
        broken(
            |p| p.totals.copied_pages += 1,
            "copied pages and the sum over call sites",
        );
        broken(
            |p| p.totals.copied_bytes -= 1,
            "copied bytes and the sum over processes",
        );
        broken(
            |p| p.totals.by_cause.gc += 1,
            "copied pages and the sum by cause",
        );
        broken(
            |p| p.totals.by_origin.ksm += 1,
            "copied pages and the sum by origin",
        );
        broken(
            |p| p.totals.copy_on_read_pages += 1,
            "copy-on-read and its call sites",
        );
        broken(
            |p| p.call_sites[0].phase = Phase::Exit,
            "copy-on-read and its call sites",
        );
        broken(
            |p| (p.totals.by_cause.gc, p.totals.by_cause.data) = (0, 0),
            "cause Gc and its call sites",
        );
        broken(
            |p| p.call_sites[0].cause = CauseName::Data,
            "cause Data and its call sites",
        );
        broken(
            |p| p.call_sites[0].origin = OriginName::Ksm,
            "origin Ksm and its call sites",
        );
        broken(
            |p| p.processes[1].by_cause.gc += 1,
            "process 4243 and its causes",
        );
        broken(
            |p| p.processes[1].by_origin.fork += 1,
            "process 4243 and its origins",
        );
        broken(
            |p| p.processes[1].pid = 9,
            "pages of process 9 and its call sites",
        );
        broken(|p| p.call_sites[0].stacks[0].pages -= 1, "and its stacks");
        broken(|p| p.call_sites[0].processes.clear(), "and its processes");
        broken(|p| p.call_sites[0].share = f64::NAN, "share of call site");
        broken(|p| p.call_sites[0].share /= 2.0, "share of call site");
        broken(|p| p.duration_s = f64::INFINITY, "the duration is inf");
    }

    #[test]
    fn what_has_no_record_must_have_a_call_site() {
        broken(
            |p| p.totals.lost.faults = 3,
            "lost records and their call sites (3 and 0)",
        );
        broken(
            |p| p.processes[1].lost_faults = 3,
            "lost records and the processes' (0 and 3)",
        );
        broken(
            |p| p.processes[0].lost_faults = 121,
            "lost records of process 4242 (121 of 120)",
        );
        broken(
            |p| p.totals.pending = 3,
            "pending records and their call sites (3 and 0)",
        );
        let mut profile = sample_pending();
        profile.totals.pending = 0;
        let error = check(&profile).unwrap_err().to_string();
        assert!(
            error.contains("pending records and their call sites (0 and 250)"),
            "{error}"
        );
    }

    #[test]
    fn a_figure_beyond_belief_is_named() {
        let most = Some(u64::MAX);
        let what = "faults that copied nothing are 18446744073709551615";
        broken(|p| p.totals.not_copied.split = Some(u64::MAX), what);
        let mut profile = sample();
        profile.processes[2].not_copied.reuse = most;
        assert!(check(&profile).unwrap_err().to_string().contains(what));
    }

    #[test]
    fn of_very_many_differences_only_the_number_is_said() {
        let mut profile = sample();
        let site = profile.call_sites[0].clone();
        profile.call_sites = vec![site; 1_000];
        for site in &mut profile.call_sites {
            site.share = 2.0;
        }
        let error = check(&profile).unwrap_err().to_string();
        assert!(error.ends_with(" more") && error.len() < 2_000, "{error}");
    }

    #[test]
    fn a_type_whose_rows_disagree_is_named() {
        broken(
            |p| p.types[0].pages += 1,
            "pages of type \"str\" (Refcount)",
        );
        broken(
            |p| p.types[0].bytes -= 1,
            "bytes of type \"str\" (Refcount)",
        );
        broken(
            |p| p.types[0].cause = CauseName::Gc,
            "(Gc) and its call sites",
        );
        broken(
            |p| p.types[0].cause = CauseName::Gc,
            "(Refcount) has 2500 pages, but no row",
        );
        broken(|p| p.types.push(p.types[0].clone()), "(2500 and 0)");
        broken(|p| p.types.clear(), "but no row");
    }

    #[test]
    fn unchanged_pages_that_cannot_be_are_named() {
        broken(
            |p| p.totals.unchanged_pages = Some(1),
            "unchanged pages, once and again (1 and 4117)",
        );
        broken(
            |p| p.totals.unchanged = None,
            "compared pages and the processes' (0 and 5000)",
        );
        broken(
            |p| p.processes[1].unchanged.as_mut().unwrap().compared_pages = 1,
            "unchanged of the compared pages of process 4243 (2150 of 1)",
        );
        broken(
            |p| p.processes[1].unchanged.as_mut().unwrap().comparable_pages = 1,
            "compared of the comparable pages of process 4243",
        );
        broken(
            |p| p.processes[1].unchanged.as_mut().unwrap().gone_pages = 9_999,
            "comparable and gone pages of process 4243",
        );
        broken(
            |p| p.totals.unchanged.as_mut().unwrap().gone_pages = 9_999,
            "comparable and gone pages of all processes",
        );
        broken(
            |p| p.totals.unchanged.as_mut().unwrap().gone_pages = 1,
            "gone pages and the processes' (698 of 1)",
        );
        broken(
            |p| not_compared(p).ended = 29,
            "gone, and the reasons why, pages of process 4243 (30 and 29)",
        );
        broken(
            |p| not_compared(p).beyond_budget = 1,
            "comparable, and compared or beyond the budget, pages of process 4243 (3120 and 2561)",
        );
        broken(
            |p| (not_compared(p).ended, not_compared(p).absent) = (0, 30),
            "pages that were not compared (Ended) and the processes' (698 and 668)",
        );
        broken(
            |p| worker(p).compared_with_child_pages = 2_561,
            "compared with a child's of the compared pages of process 4243 (2561 of 2560)",
        );
        broken(
            |p| worker(p).compared_at_exit_pages = 2_561,
            "compared at an exit of the compared pages of process 4243 (2561 of 2560)",
        );
    }

    fn worker(profile: &mut Profile) -> &mut Unchanged {
        profile.processes[1].unchanged.as_mut().unwrap()
    }

    fn not_compared(profile: &mut Profile) -> &mut NotCompared {
        worker(profile).not_compared.as_mut().unwrap()
    }

    #[test]
    fn a_cause_without_what_belongs_to_it_is_named() {
        broken(
            |p| p.call_sites[0].evidence = None,
            "has a cause without evidence",
        );
        broken(
            |p| p.call_sites[0].field_offset = Some(24),
            "has a field, but no cause",
        );
        broken(
            |p| p.call_sites[0].cause_reason = Some(String::new()),
            "a cause and a reason against it",
        );
        broken(
            |p| p.call_sites[0].cause = CauseName::Unknown,
            "evidence, but no known cause",
        );
        broken(
            |p| p.call_sites[0].cause = CauseName::Unknown,
            "neither a cause nor a reason",
        );
    }
}
