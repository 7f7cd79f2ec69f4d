//! The sums that a report promises, checked.

use std::collections::BTreeMap;

use anyhow::ensure;

use crate::profile::{
    ByCause, ByOrigin, CallSite, CauseName, OriginName, Profile, TypeRow, Unchanged,
};

/// Checks that the profile adds up: `copied_pages` and `copied_bytes` are the sums over processes
/// and over call sites; pages are the sums by cause and by origin, in total, in each process, and
/// between the two and the call sites; a call site's pages are those of its processes and of its
/// stacks; copy-on-read is what `refcount` and `gc` copied; and shares are parts of the whole. The
/// rows by object type are the sums of the call sites with a type, pages that were compared are
/// among those that were copied, and a cause comes with its evidence or with a reason why it is not
/// known.
///
/// # Errors
///
/// Names every sum that disagrees, with both figures. Then counting has a mistake, and the report
/// must not be trusted.
pub fn check(profile: &Profile) -> anyhow::Result<()> {
    let mut checker = Checker::default();
    checker.totals(profile);
    checker.processes(profile);
    checker.call_sites(profile);
    checker.types(profile);
    checker.unchanged(profile);
    let Checker { wrong } = checker;
    ensure!(
        wrong.is_empty(),
        "sums of the profile disagree: {}",
        wrong.join("; ")
    );
    Ok(())
}

#[derive(Default)]
struct Checker {
    wrong: Vec<String>,
}

impl Checker {
    fn same(&mut self, what: impl FnOnce() -> String, left: u64, right: u64) {
        if left != right {
            self.wrong.push(format!("{} ({left} and {right})", what()));
        }
    }

    fn totals(&mut self, profile: &Profile) {
        let totals = &profile.totals;
        let (processes, sites) = (&profile.processes, &profile.call_sites);
        let pages = totals.copied_pages;
        let mut total = |what: &str, found: u64| {
            self.same(|| format!("copied pages and {what}"), pages, found);
        };
        total(
            "the sum over processes",
            processes.iter().map(|p| p.copied_pages).sum(),
        );
        total(
            "the sum over call sites",
            sites.iter().map(|site| site.pages).sum(),
        );
        total("the sum by cause", sum_of_causes(&totals.by_cause));
        total("the sum by origin", sum_of_origins(&totals.by_origin));
        let bytes = totals.copied_bytes;
        let mut total = |what: &str, found: u64| {
            self.same(|| format!("copied bytes and {what}"), bytes, found);
        };
        total(
            "the sum over processes",
            processes.iter().map(|p| p.copied_bytes).sum(),
        );
        total(
            "the sum over call sites",
            sites.iter().map(|site| site.bytes).sum(),
        );

        for (name, found) in causes(&totals.by_cause) {
            let of_sites = sites
                .iter()
                .filter(|s| s.cause == name)
                .map(|s| s.pages)
                .sum();
            let of_processes = processes
                .iter()
                .map(|p| causes(&p.by_cause)[name as usize].1)
                .sum();
            self.same(
                || format!("cause {name:?} and its call sites"),
                found,
                of_sites,
            );
            self.same(
                || format!("cause {name:?} and the processes'"),
                found,
                of_processes,
            );
        }
        for (name, found) in origins(&totals.by_origin) {
            let of_sites = sites
                .iter()
                .filter(|s| s.origin == name)
                .map(|s| s.pages)
                .sum();
            let of_processes = processes
                .iter()
                .map(|p| origins(&p.by_origin)[name as usize].1)
                .sum();
            self.same(
                || format!("origin {name:?} and its call sites"),
                found,
                of_sites,
            );
            self.same(
                || format!("origin {name:?} and the processes'"),
                found,
                of_processes,
            );
        }
        let copied_on_read = totals.by_cause.refcount + totals.by_cause.gc;
        self.same(
            || "copy-on-read and its causes".into(),
            totals.copy_on_read_pages,
            copied_on_read,
        );
        if !profile.duration_s.is_finite() || profile.duration_s < 0.0 {
            self.wrong
                .push(format!("the duration is {}", profile.duration_s));
        }
    }

    fn processes(&mut self, profile: &Profile) {
        let mut by_pid: BTreeMap<u32, u64> = BTreeMap::new();
        for site in &profile.call_sites {
            for (&pid, &pages) in &site.processes {
                *by_pid.entry(pid).or_default() += pages;
            }
        }
        let mut expected: BTreeMap<u32, u64> = BTreeMap::new();
        for process in &profile.processes {
            let pid = process.pid;
            let pages = process.copied_pages;
            *expected.entry(pid).or_default() += pages;
            let causes = sum_of_causes(&process.by_cause);
            self.same(
                || format!("pages of process {pid} and its causes"),
                pages,
                causes,
            );
            let origins = sum_of_origins(&process.by_origin);
            self.same(
                || format!("pages of process {pid} and its origins"),
                pages,
                origins,
            );
            let copied_on_read = process.by_cause.refcount + process.by_cause.gc;
            self.same(
                || format!("copy-on-read of process {pid} and its causes"),
                process.copy_on_read_pages,
                copied_on_read,
            );
        }
        expected.retain(|_, pages| *pages > 0);
        for pid in expected
            .keys()
            .chain(by_pid.keys().filter(|pid| !expected.contains_key(pid)))
        {
            let of = |map: &BTreeMap<u32, u64>| map.get(pid).copied().unwrap_or(0);
            self.same(
                || format!("pages of process {pid} and its call sites"),
                of(&expected),
                of(&by_pid),
            );
        }
    }

    fn call_sites(&mut self, profile: &Profile) {
        let pages = profile.totals.copied_pages;
        let adds_up = pages
            == profile
                .call_sites
                .iter()
                .map(|site| site.pages)
                .sum::<u64>();
        let pages = pages.max(1);
        for site in &profile.call_sites {
            let name = || format!("call site {:?} ({:?})", site.site.function, site.cause);
            let of_processes = site.processes.values().sum();
            self.same(
                || format!("pages of {} and its processes", name()),
                site.pages,
                of_processes,
            );
            let of_stacks = site.stacks.iter().map(|stack| stack.pages).sum();
            self.same(
                || format!("pages of {} and its stacks", name()),
                site.pages,
                of_stacks,
            );
            if !(0.0..=1.0).contains(&site.share) {
                self.wrong
                    .push(format!("share of {} is {}", name(), site.share));
            }
            // Where the total is wrong itself, that is said once and not at every call site.
            if adds_up && (site.share - site.pages as f64 / pages as f64).abs() > SHARE_ERROR {
                self.wrong.push(format!(
                    "share of {} is {} with {} of {pages} pages",
                    name(),
                    site.share,
                    site.pages
                ));
            }
            self.cause(site, &name);
        }
    }

    /// What must come with a cause, and what must not.
    fn cause(&mut self, site: &CallSite, name: &dyn Fn() -> String) {
        let known = site.cause != CauseName::Unknown;
        let mut must = |holds: bool, what: &str| {
            if !holds {
                self.wrong.push(format!("{} has {what}", name()));
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
        let mut of_sites: BTreeMap<(&str, CauseName), (u64, u64)> = BTreeMap::new();
        for site in &profile.call_sites {
            if let Some(object_type) = &site.object_type {
                let sum = of_sites.entry((object_type, site.cause)).or_default();
                *sum = (sum.0 + site.pages, sum.1 + site.bytes);
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
            self.wrong.push(format!(
                "type {object_type:?} ({cause:?}) has {pages} pages, but no row"
            ));
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
        let mut sum = Unchanged::default();
        for process in &profile.processes {
            let who = format!("process {}", process.pid);
            self.unchanged_of(&who, process.unchanged, process.copied_pages);
            let one = process.unchanged.unwrap_or_default();
            sum.unchanged_pages += one.unchanged_pages;
            sum.compared_pages += one.compared_pages;
            sum.comparable_pages += one.comparable_pages;
            sum.gone_pages += one.gone_pages;
        }
        let all = totals.unchanged.unwrap_or_default();
        let what = |which| move || format!("{which} pages and the processes'");
        self.same(what("unchanged"), all.unchanged_pages, sum.unchanged_pages);
        self.same(what("compared"), all.compared_pages, sum.compared_pages);
        // A process of which none was compared does not say what could have been.
        self.at_most(
            what("comparable"),
            sum.comparable_pages,
            all.comparable_pages,
        );
        self.at_most(what("gone"), sum.gone_pages, all.gone_pages);
    }

    fn unchanged_of(&mut self, whose: &str, unchanged: Option<Unchanged>, copied: u64) {
        let Unchanged {
            unchanged_pages: unchanged,
            compared_pages: compared,
            comparable_pages: comparable,
            gone_pages: gone,
        } = unchanged.unwrap_or_default();
        let what = |which| move || format!("{which} pages of {whose}");
        self.at_most(what("unchanged of the compared"), unchanged, compared);
        self.at_most(what("compared of the comparable"), compared, comparable);
        // A page that was copied twice counts once, so this may be less.
        self.at_most(
            what("comparable and gone"),
            comparable.saturating_add(gone),
            copied,
        );
    }

    fn at_most(&mut self, what: impl FnOnce() -> String, part: u64, whole: u64) {
        if part > whole {
            self.wrong.push(format!("{} ({part} of {whole})", what()));
        }
    }
}

/// How far a share may be off by rounding, also where somebody wrote it with few digits.
const SHARE_ERROR: f64 = 1e-6;

/// Pages by cause, each at the place that its name has among the variants.
#[must_use]
pub fn causes(by: &ByCause) -> [(CauseName, u64); 8] {
    [
        (CauseName::Refcount, by.refcount),
        (CauseName::Gc, by.gc),
        (CauseName::Allocator, by.allocator),
        (CauseName::Object, by.object),
        (CauseName::Data, by.data),
        (CauseName::Kernel, by.kernel),
        (CauseName::Remote, by.remote),
        (CauseName::Unknown, by.unknown),
    ]
}

/// Pages by origin, each at the place that its name has among the variants.
#[must_use]
pub fn origins(by: &ByOrigin) -> [(OriginName, u64); 4] {
    [
        (OriginName::Fork, by.fork),
        (OriginName::Ksm, by.ksm),
        (OriginName::File, by.file),
        (OriginName::Hugetlb, by.hugetlb),
    ]
}

fn sum_of_causes(by: &ByCause) -> u64 {
    causes(by).iter().map(|(_, pages)| pages).sum()
}

fn sum_of_origins(by: &ByOrigin) -> u64 {
    origins(by).iter().map(|(_, pages)| pages).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample::{sample, sample_with_losses};

    #[test]
    fn the_sample_profiles_add_up() {
        check(&sample()).unwrap();
        check(&sample_with_losses()).unwrap();
    }

    #[test]
    fn places_of_names_are_those_of_the_variants() {
        for (place, (name, _)) in causes(&ByCause::default()).into_iter().enumerate() {
            assert_eq!(name as usize, place);
        }
        for (place, (name, _)) in origins(&ByOrigin::default()).into_iter().enumerate() {
            assert_eq!(name as usize, place);
        }
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
            "copy-on-read and its causes",
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
            "gone pages and the processes' (53 of 1)",
        );
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
