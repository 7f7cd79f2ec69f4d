//! The sums that a report promises, checked.

use std::collections::BTreeMap;

use anyhow::ensure;

use crate::profile::{ByCause, ByOrigin, CauseName, OriginName, Profile};

/// Checks that the profile adds up: `copied_pages` and `copied_bytes` are the sums over processes
/// and over call sites; pages are the sums by cause and by origin, in total, in each process, and
/// between the two and the call sites; a call site's pages are those of its processes and of its
/// stacks; copy-on-read is what `refcount` and `gc` copied; and shares are parts of the whole.
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
        }
    }
}

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

    #[test]
    fn each_sum_that_disagrees_is_named() {
        let broken = |break_it: fn(&mut Profile), expected: &str| {
            let mut profile = sample();
            break_it(&mut profile);
            let error = check(&profile).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected:?} is not in {error:?}");
        };
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
            |p| (p.totals.by_cause.gc, p.totals.by_cause.data) = (0, 5_450),
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
        broken(|p| p.duration_s = f64::INFINITY, "the duration is inf");
    }
}
