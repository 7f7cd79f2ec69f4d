//! What would help: which remedies would have avoided copies that were seen, and how many.
//!
//! A rule knows one remedy. It looks for the pages that the remedy avoids and promises those and no
//! others, so that whoever applies it measures what was promised: `tests/privileged/advice.rs` does
//! that for each rule with a workload. Nothing is said that holds for every program, and nothing
//! where nothing would help.
//!
//! One page may be in the promises of two rules, each of which would have saved it. What a remedy
//! cannot show in a trace of copies is not proposed:
//!
//! - huge pages off for Redis: the kernel splits a huge page at the first write and copies small ones
//!   (see `docs/counting.md`), so nothing would be saved that was seen;
//! - what Ruby, PHP and Perl could do: until their own frames are read, nobody can be named.
//!
//! To add a rule, add a file with its [`Rule`], its words and its tests, and a line to [`RULES`].

use crate::profile::{Advice, Profile};

mod allocator;
mod data_structures;
mod exit;
mod extension;
mod found;
mod gc_freeze;
mod gc_walk;
mod immortal;
#[cfg(test)]
mod made;
mod rewritten;
mod warm_up;

use found::Found;

/// Less than this is not worth anybody's time.
const LEAST_BYTES: u64 = 1 << 20;

/// Neither is less than this part of what was copied, in percent.
const LEAST_PERCENT: u64 = 5;

/// What one remedy would have saved; `None` where it does not apply.
type Rule = fn(&Found<'_>) -> Option<Advice>;

/// All rules.
const RULES: [Rule; 9] = [
    gc_freeze::advise,
    gc_walk::advise,
    data_structures::advise,
    exit::advise,
    allocator::advise,
    warm_up::advise,
    extension::advise,
    rewritten::advise,
    immortal::advise,
];

/// What would have helped in this trace: what saves most comes first.
#[must_use]
pub fn advise(profile: &Profile) -> Vec<Advice> {
    let found = Found::of(profile);
    let mut all: Vec<Advice> = RULES.iter().filter_map(|rule| rule(&found)).collect();
    all.retain(|advice| is_worth_saying(advice.saves_bytes, profile));
    // Stable: of equals the first rule's.
    all.sort_by_key(|advice| std::cmp::Reverse(advice.saves_bytes));
    all
}

fn is_worth_saying(saves: u64, profile: &Profile) -> bool {
    let least = u128::from(LEAST_PERCENT) * u128::from(profile.totals.copied_bytes);
    saves >= LEAST_BYTES && 100 * u128::from(saves) >= least
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::made::{self, Made};
    use super::*;
    use crate::profile::CauseName;
    use crate::profile::sample::{sample, sample_pending, sample_with_losses};

    #[test]
    fn what_saves_most_comes_first_and_no_more_is_promised_than_was_copied() {
        for profile in [sample(), sample_with_losses(), sample_pending()] {
            let advice = advise(&profile);
            assert!(advice.is_sorted_by_key(|it| std::cmp::Reverse(it.saves_bytes)));
            let copied = profile.totals.copied_bytes;
            assert!(advice.iter().all(|it| it.saves_bytes <= copied));
        }
        let ids: Vec<_> = advise(&sample()).into_iter().map(|it| it.id).collect();
        assert_eq!(ids, ["data-structures", "gc-freeze"]);
    }

    #[test]
    fn little_is_not_worth_saying() {
        let copies = |pages, rest| {
            let sites = [
                Made::new(pages, CauseName::Gc, "context"),
                Made::new(rest, CauseName::Kernel, "recv"),
            ];
            advise(&made::profile(&sites)).len()
        };
        // Two workers copied these pages each.
        assert_eq!(copies(128, 0), 1);
        assert_eq!(copies(127, 0), 0, "less than 1 MiB");
        assert_eq!(copies(500, 9_500), 1);
        assert_eq!(copies(499, 9_501), 0, "less than 5 %");
    }

    #[test]
    fn nothing_is_said_of_a_master_alone_or_of_nothing() {
        let mut profile = sample();
        profile.processes.truncate(1);
        assert_eq!(advise(&profile), []);
        let mut profile = sample();
        profile.call_sites.clear();
        assert_eq!(advise(&profile), []);
    }

    #[test]
    fn each_rule_has_a_name_of_its_own() {
        let all = made::one_of_each();
        let ids: BTreeSet<&str> = all.iter().map(|advice| advice.id.as_str()).collect();
        assert_eq!(ids.len(), RULES.len(), "{ids:?}");
        for advice in &all {
            assert!(!advice.how.is_empty() && !advice.evidence.is_empty());
            assert!(advice.why.ends_with('.'), "{}", advice.why);
            assert!(!advice.title.ends_with('.'), "{}", advice.title);
        }
    }
}
