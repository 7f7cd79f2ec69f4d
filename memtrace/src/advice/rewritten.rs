//! Comparing before writing: what is written with the value that it already has.
//!
//! Where pages of a call site were compared and most of them still are what they were before, the
//! program wrote what was there already. How much that is, the sample says: its share of the pages is
//! what is promised.

use super::found::{Found, at, is_running, lines};
use crate::profile::{Advice, CallSite, CauseName, Confidence};
use crate::report::words::{count, counted};

/// Fewer compared pages say nothing of a call site, unless they are all of its pages.
const ENOUGH: u64 = 8;

pub(super) fn advise(found: &Found<'_>) -> Option<Advice> {
    // Of a master that forks nobody nothing could be compared, so whose they are does not matter.
    let copies = found.part(
        |site| if bytes(site) > 0 { site.pages } else { 0 },
        |_| true,
    );
    let (place, _) = *copies.places().first()?;
    let saves = copies.sites.iter().map(|(site, _)| bytes(site));
    let saves = saves.fold(0, u64::saturating_add);
    let (mut same, mut compared) = (0u64, 0u64);
    for sample in copies.sites.iter().filter_map(|(site, _)| site.unchanged) {
        same = same.saturating_add(sample.unchanged_pages);
        compared = compared.saturating_add(sample.compared_pages);
    }
    let mut evidence = vec![
        format!("{} were written to", found.amount(&copies)),
        format!(
            "of {}, {} still are what they were",
            counted(compared, "compared page", "compared pages"),
            count(same)
        ),
    ];
    evidence.extend(copies.where_most());
    Some(Advice {
        id: "rewritten".to_owned(),
        title: format!("Comparing before writing ({})", at(place)),
        why: "It writes, and the pages are still what they were: the value was there already. Reading \
              copies nothing. It does not help where a value is changed and changed back, as a lock \
              is: such things are better kept apart from what is shared."
            .to_owned(),
        saves_bytes: saves,
        confidence: Confidence::Medium,
        how: lines(&[
            "if (item->state != state) item->state = state;",
            "initialise before the fork, and not again in each worker",
            "what is only read: a mapping that is read-only, or MAP_SHARED",
        ]),
        evidence,
    })
}

/// Bytes of a call site that were written to and not changed; 0 where that is not most of them.
pub(super) fn bytes(site: &CallSite) -> u64 {
    let sample = site.unchanged.unwrap_or_default();
    let (same, compared) = (sample.unchanged_pages, sample.compared_pages);
    let is_value = matches!(site.cause, CauseName::Data | CauseName::Object) && is_running(site);
    let is_most = compared >= ENOUGH.min(site.pages) && u128::from(same) * 2 > compared.into();
    if !is_value || !is_most {
        return 0;
    }
    let bytes = u128::from(site.bytes) * u128::from(same) / u128::from(compared);
    bytes as u64
}

#[cfg(test)]
mod tests {
    use super::super::made::{self, Made};
    use super::*;
    use crate::profile::{Phase, Profile};

    fn touched(unchanged: u64, compared: u64) -> Profile {
        let mut profile = made::profile(&[
            Made::new(400, CauseName::Data, "touch"),
            Made::new(300, CauseName::Data, "fill"),
        ]);
        profile.call_sites[0].unchanged = Some(made::compared(unchanged, compared));
        profile.call_sites[1].unchanged = Some(made::compared(1, 64));
        profile
    }

    fn advised(profile: &Profile) -> Option<Advice> {
        advise(&Found::of(profile))
    }

    #[test]
    fn the_share_that_was_not_changed_is_saved() {
        let advice = advised(&touched(48, 64)).unwrap();
        assert_eq!(advice.saves_bytes, 600 * 4096);
        assert_eq!(
            advice.title,
            "Comparing before writing (`touch`, app.py:28)"
        );
        assert_eq!(
            advice.evidence,
            [
                "800 pages (3.1 MiB, 57% of what was copied) in 2 processes were written to",
                "of 64 compared pages, 48 still are what they were",
                "800 pages in `touch`, app.py:28",
            ]
        );
    }

    #[test]
    fn few_compared_pages_and_changed_ones_say_nothing() {
        assert_eq!(advised(&touched(32, 64)), None);
        assert_eq!(advised(&touched(7, 7)), None);
        assert!(advised(&touched(8, 8)).is_some());
    }

    #[test]
    fn counts_and_what_is_written_at_an_exit_are_another_matter() {
        let mut profile = touched(64, 64);
        profile.call_sites[0].cause = CauseName::Refcount;
        assert_eq!(advised(&profile), None);
        let mut profile = touched(64, 64);
        profile.call_sites[0].phase = Phase::Exit;
        assert_eq!(advised(&profile), None);
    }
}
