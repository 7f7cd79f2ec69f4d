//! What a reader must know before trusting the figures.

use std::collections::{BTreeMap, BTreeSet};

use super::{Gathered, Progress};
use crate::fold::MOST_STACKS;
use crate::process::ended::MOST_KEPT;
use crate::profile::{CallSite, Process, Truncated, UnopenedFile};

/// Files that are named of those that could not be opened.
const NAMED_FILES: usize = 5;

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

/// Files with code that could not be opened, each once.
pub fn of_files(processes: &[Process]) -> Vec<String> {
    let copied = processes.iter().filter(|process| process.copied_pages > 0);
    let files: BTreeSet<_> = copied.flat_map(|process| &process.unopened).collect();
    let named = files.iter().take(NAMED_FILES);
    let mut warnings: Vec<_> = named
        .map(|UnopenedFile { path, why }| {
            format!(
                "cannot open {path}: {why}: what runs there, and whether its data was only read, \
                 is not known"
            )
        })
        .collect();
    if files.len() > NAMED_FILES {
        warnings.push(format!(
            "{} more files of traced processes could not be opened",
            files.len() - NAMED_FILES
        ));
    }
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
        Truncated::JustMapped => {
            "in code that had just been mapped when they were made: memtrace reads a process's \
             mappings again then, so later ones are whole"
        }
        Truncated::NoMapping => {
            "at an address that is in no code as far as it is known what their processes had mapped"
        }
        Truncated::TablesNotBuilt => {
            "where the unwind tables were not there yet: they are read or built while tracing begins, or a \
             program does"
        }
        Truncated::NoTables => {
            "in code without unwind tables, where no frame pointers were followed or they led no \
             further"
        }
        Truncated::Gap => {
            "in code that has no unwind tables, and whose instructions do not show who called it"
        }
        Truncated::Unsupported => "in code whose unwind tables have a rule that is not supported",
        Truncated::NoRoom => "in files for whose unwind tables there was no room",
        Truncated::Unreadable => "where the stack could not be read",
        Truncated::Damaged => "where what comes next is no stack",
        Truncated::Depth
        | Truncated::Coroutine
        | Truncated::Python
        | Truncated::NotTaken
        | Truncated::Others
        | Truncated::Other(_) => return None,
    };
    Some(format!("{pages} copied pages have stacks that end {text}"))
}
