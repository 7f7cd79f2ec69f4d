//! The figures of one moment, so that those of two can be compared: what was copied since, and how
//! fast.

use std::collections::BTreeMap;
use std::hash::BuildHasher as _;

use foldhash::HashMap;
use foldhash::fast::FixedState;

use crate::foreign::escape;
use crate::profile::{CallSite, CauseName, Profile};
use crate::report::{self, By, Group, regroup};

/// What had been copied at one moment, in bytes.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// When, in seconds since the trace began.
    pub at_s: f64,
    /// All that was copied.
    pub copied: u64,
    /// Of that, what was only read, as far as that may be claimed.
    pub only_read: u64,
    /// By cause.
    pub causes: BTreeMap<CauseName, u64>,
    /// By call site, see [`number`].
    sites: HashMap<u64, u64>,
    /// By pid.
    processes: HashMap<u32, u64>,
}

/// A row of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The same for the same row of a later profile.
    pub id: u64,
    /// Escaped.
    pub name: String,
    /// The cause of most of it.
    pub cause: CauseName,
    /// Whether it has other causes, too.
    pub is_mixed: bool,
    /// Bytes.
    pub copied: u64,
    /// Bytes in a second, of late.
    pub rate: f64,
}

impl Figures {
    /// The figures of a profile.
    #[must_use]
    pub fn of(profile: &Profile) -> Self {
        let totals = &profile.totals;
        let mut figures = Self {
            at_s: profile.duration_s,
            copied: totals.copied_bytes,
            only_read: report::only_read(profile).saturating_mul(profile.host.page_size),
            ..Self::default()
        };
        for site in &profile.call_sites {
            *figures.causes.entry(site.cause).or_default() += site.bytes;
            *figures.sites.entry(number(site)).or_default() += site.bytes;
            for (&pid, &pages) in &site.processes {
                *figures.processes.entry(pid).or_default() += bytes_of(site, pages);
            }
        }
        figures
    }

    /// What was copied since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: Option<&Self>) -> Self {
        let Some(earlier) = earlier else {
            return self.clone();
        };
        let before = |cause| earlier.causes.get(cause).copied().unwrap_or(0);
        let causes = self.causes.iter();
        Self {
            at_s: self.at_s - earlier.at_s,
            copied: self.copied.saturating_sub(earlier.copied),
            only_read: self.only_read.saturating_sub(earlier.only_read),
            causes: causes
                .map(|(cause, bytes)| (*cause, bytes.saturating_sub(before(cause))))
                .collect(),
            ..Self::default()
        }
    }

    /// Bytes in a second since `earlier`; 0 where no time has passed.
    #[must_use]
    pub fn rate(&self, earlier: Option<&Self>) -> f64 {
        let earlier = earlier.map_or((0.0, 0), |earlier| (earlier.at_s, earlier.copied));
        per_second(self.copied, self.at_s, earlier)
    }

    /// What the call sites of a row had copied.
    fn of_row(&self, group: &Group<'_>, by: By) -> u64 {
        if by == By::Process {
            let pids = group.processes.keys();
            return pids.filter_map(|pid| self.processes.get(pid)).sum();
        }
        let sites = group.parts.iter().map(|(site, _)| number(site));
        sites.filter_map(|site| self.sites.get(&site)).sum()
    }
}

fn per_second(bytes: u64, at_s: f64, (before_s, before): (f64, u64)) -> f64 {
    let seconds = at_s - before_s;
    if seconds > 0.0 {
        bytes.saturating_sub(before) as f64 / seconds
    } else {
        0.0
    }
}

/// Tells call sites apart, of this profile and of later ones.
fn number(site: &CallSite) -> u64 {
    let place = (&site.site, &site.app, &site.caller);
    let kind = (site.cause, site.phase, site.origin);
    FixedState::default().hash_one((place, kind, &site.object_type, site.field_offset))
}

fn bytes_of(site: &CallSite, pages: u64) -> u64 {
    (u128::from(site.bytes) * u128::from(pages) / u128::from(site.pages.max(1))) as u64
}

/// The rows of a view: what was copied since `zero`, and how fast since `recent`, which both lie
/// before `profile`. Rows without a copy since are left out.
#[must_use]
pub fn rows(
    profile: &Profile,
    by: By,
    zero: Option<&Figures>,
    recent: Option<&Figures>,
) -> Vec<Row> {
    let row = |group: Group<'_>| {
        let before = zero.map_or(0, |zero| zero.of_row(&group, by));
        let lately = recent.map_or((0.0, 0), |recent| (recent.at_s, recent.of_row(&group, by)));
        let (&cause, _) = group.causes.iter().max_by_key(|(_, pages)| **pages)?;
        let copied = group.bytes.saturating_sub(before);
        (copied > 0).then(|| Row {
            id: group.id,
            name: escape(&group.name).into_owned(),
            cause,
            is_mixed: group.causes.len() > 1,
            copied,
            rate: per_second(group.bytes, profile.duration_s, lately),
        })
    };
    regroup(profile, by).into_iter().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::super::state::VIEWS;
    use super::*;
    use crate::profile::sample::sample;

    #[test]
    fn what_was_copied_since_is_told_row_by_row_in_every_view() {
        let before = sample();
        let earlier = Figures::of(&before);
        let mut after = before.clone();
        after.duration_s += 2.0;
        let first = &mut after.call_sites[0];
        let (more, pid) = (first.bytes, *first.processes.keys().next().unwrap());
        first.bytes *= 2;
        first.pages *= 2;
        *first.processes.get_mut(&pid).unwrap() += first.pages / 2;
        after.totals.copied_bytes += more;
        let later = Figures::of(&after);
        assert_eq!(later.since(Some(&earlier)).copied, more);
        let half = |rate: f64| (rate - more as f64 / 2.0).abs() < 1.0;
        assert!(half(later.rate(Some(&earlier))));
        for by in VIEWS {
            let rows = rows(&after, by, Some(&earlier), Some(&earlier));
            assert_eq!(rows.len(), 1, "{by:?}");
            assert!(rows[0].copied == more && half(rows[0].rate), "{rows:?}");
        }
    }

    #[test]
    fn a_row_is_the_same_in_a_later_profile() {
        let ids = |profile: &Profile| -> Vec<u64> {
            let rows = rows(profile, By::Site, None, None);
            rows.iter().map(|row| row.id).collect()
        };
        let mut later = sample();
        later.call_sites.iter_mut().for_each(|site| site.pages *= 3);
        assert_eq!(ids(&sample()), ids(&later));
    }
}
