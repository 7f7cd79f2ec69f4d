//! What a reader must know before trusting the figures.

use std::collections::BTreeMap;

use super::{Gathered, Progress};
use crate::fold::MOST_STACKS;
use crate::process::ended::MOST_KEPT;
use crate::profile::{CallSite, Truncated};

/// Losses that [`Totals::lost`](crate::profile::Totals::lost) does not have.
pub fn of_losses(gathered: &Gathered, progress: &Progress) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut say = |count: u64, text: &str| {
        if count > 0 {
            warnings.push(format!("{count} {text}"));
        }
    };
    say(
        progress.health.lifecycle_lost,
        "notices of processes that were forked, ended or replaced their program were lost: names \
         of functions may be missing",
    );
    say(
        gathered
            .all()
            .map(|(_, process)| process.counters.no_end)
            .sum(),
        "copied pages have neither latency nor stack, since the end of the fault was not seen",
    );
    say(
        progress.undecodable,
        "records could not be decoded: this memtrace and its BPF object do not fit together",
    );
    warnings
}

/// Bounds that were met.
pub fn of_bounds(gathered: &Gathered) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(others) = &gathered.others {
        warnings.push(format!(
            "{} processes that had ended are added up in one row, which has pid 0: the {MOST_KEPT} \
             that copied most are shown one by one",
            others.count
        ));
    }
    if gathered.tally.folded > 0 {
        warnings.push(format!(
            "{} stacks, the rarest, are added up with others of their call site: {MOST_STACKS} are \
             kept",
            gathered.tally.folded
        ));
    }
    warnings
}

/// What to say when a notable part of the copies has stacks that end early for lack of tables.
pub fn of_cut_stacks(call_sites: &[CallSite], copied_pages: u64) -> Option<String> {
    let mut by_reason: BTreeMap<Truncated, u64> = BTreeMap::new();
    for stack in call_sites.iter().flat_map(|site| &site.stacks) {
        if let Some(why) = stack.truncated_why {
            *by_reason.entry(why).or_default() += stack.pages;
        }
    }
    let (why, pages) = by_reason.into_iter().max_by_key(|&(_, pages)| pages)?;
    if pages * 100 < copied_pages.max(1) {
        return None;
    }
    let text = match why {
        Truncated::NoMapping => {
            "in code that had just been mapped when they were made, or in none: memtrace reads a \
             process's mappings again then, so later ones are whole"
        }
        Truncated::TablesNotBuilt => {
            "in a file whose unwind tables were still being built: the next trace has them"
        }
        Truncated::NoTables => {
            "in code without unwind tables, where no frame pointers were followed or they led no \
             further"
        }
        Truncated::Gap | Truncated::Unsupported => {
            "in code that its unwind tables do not cover, which is mostly written by hand"
        }
        Truncated::NoRoom => "in files for whose unwind tables there was no room",
        Truncated::Unreadable | Truncated::Damaged => "where the stack could not be followed",
        Truncated::Depth
        | Truncated::Python
        | Truncated::NotTaken
        | Truncated::Others
        | Truncated::Other(_) => return None,
    };
    Some(format!("{pages} copied pages have stacks that end {text}"))
}
