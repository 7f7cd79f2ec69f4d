//! The verdict, in sentences: how much of what was copied was only read, by whom, and how much is
//! proven to have been copied for nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::screen::{Screen, shorten_left};
use super::written;
use crate::foreign::escape;
use crate::profile::{CallSite, CauseEvidence, CauseName, Profile, Site, Unchanged};
use crate::report::words::{apportion, cause_in_words, count, counted, whole_percent};

/// Columns that a file and line may take there.
const PLACE: usize = 32;
/// Causes that are named where none is copy-on-read.
const CAUSES: usize = 3;
/// An unknown part from this many percent on belongs into the sentence.
const MUCH_UNKNOWN: u64 = 2;

/// The sentences; none when nothing was copied.
pub(super) fn sentences(profile: &Profile, screen: Screen) -> Vec<String> {
    let totals = &profile.totals;
    let (all, unknown) = (totals.copied_pages, totals.by_cause.unknown);
    let mut sentences = Vec::new();
    sentences.push(match totals.copy_on_read_pages {
        _ if all == 0 => return sentences,
        _ if unknown == all => not_known(profile),
        0 => nothing_only_read(profile),
        _ => only_read(profile, screen),
    });
    sentences.extend(totals.unchanged.and_then(unchanged));
    sentences
}

/// `71% of what was copied was only read: 58% reference counts (...), 13% garbage collection.`
fn only_read(profile: &Profile, screen: Screen) -> String {
    let totals = &profile.totals;
    let (all, read) = (totals.copied_pages, totals.copy_on_read_pages);
    let unknown = totals.by_cause.unknown;
    let written = all.saturating_sub(read).saturating_sub(unknown);
    let shares = apportion(100, &[read, unknown, written]);
    let whole = if read < all {
        shares[0].min(99)
    } else {
        shares[0]
    };
    let causes = totals.by_cause.iter();
    let causes = causes.filter(|(cause, _)| cause.is_copy_on_read());
    let mut parts: Vec<_> = causes.map(|(cause, pages)| (pages, Some(cause))).collect();
    // What a later version's causes add to it.
    parts.push((read.saturating_sub(totals.by_cause.copy_on_read()), None));
    parts.sort_by_key(|(pages, _)| std::cmp::Reverse(*pages));
    let pages: Vec<u64> = parts.iter().map(|(pages, _)| *pages).collect();
    let percents = apportion(whole, &pages);
    let parts: Vec<String> = (parts.into_iter().zip(percents))
        .filter(|((pages, _), _)| *pages > 0)
        .map(|((_, cause), percent)| {
            let mut part = cause.map_or("other causes", cause_in_words).to_owned();
            // A part that is the whole, or as good as that, does not need the figure again.
            if percent != whole {
                part = format!("{} {part}", at_least_some(percent));
            }
            if cause == Some(CauseName::Refcount) {
                part += &reference_counts(profile, screen);
            }
            part
        })
        .collect();
    let whole = match whole {
        0 => "Less than 1%".to_owned(),
        whole => format!("{whole}%"),
    };
    let doubt = match shares[1] {
        ..MUCH_UNKNOWN => String::new(),
        unknown => format!("; for {unknown}% it is not known"),
    };
    let parts = parts.join(", ");
    format!("{whole} of what was copied was only read: {parts}{doubt}.")
}

fn at_least_some(percent: u64) -> String {
    match percent {
        0 => "<1%".to_owned(),
        percent => format!("{percent}%"),
    }
}

/// ` (mostly TYPE, in FUNCTION, FILE:LINE)`, or what of that is known.
fn reference_counts(profile: &Profile, screen: Screen) -> String {
    let sites = profile.call_sites.iter();
    let sites: Vec<_> = sites
        .filter(|site| site.cause == CauseName::Refcount)
        .collect();
    let types = types(&sites, screen);
    let mostly = types
        .as_deref()
        .is_some_and(|text| text.starts_with(MOSTLY));
    let clauses: Vec<_> = types
        .into_iter()
        .chain(place(&sites, mostly, screen))
        .collect();
    match &clauses[..] {
        [] => String::new(),
        clauses => format!(" ({})", clauses.join(", ")),
    }
}

const MOSTLY: &str = "mostly ";

/// Whose reference counts they were.
fn types(sites: &[&CallSite], screen: Screen) -> Option<String> {
    let all: u64 = sites.iter().map(|site| site.pages).sum();
    let guessed = |site: &&&CallSite| site.evidence == Some(CauseEvidence::Instruction);
    if 2 * sites
        .iter()
        .filter(guessed)
        .map(|site| site.pages)
        .sum::<u64>()
        >= all
    {
        return Some("judged by the instruction that wrote".to_owned());
    }
    let ranked = ranked(sites, |site| site.object_type.as_deref());
    let untyped = |(name, _): &&(Option<&str>, u64)| name.is_none();
    let untyped = ranked.iter().find(untyped).map_or(0, |(_, pages)| *pages);
    let mut known = ranked
        .iter()
        .filter_map(|&(name, pages)| Some((name?, pages)));
    let (first, pages) = known.next()?;
    let first = quoted(first, screen);
    let second = known.next().map(|(name, _)| quoted(name, screen));
    Some(match second {
        _ if 2 * untyped >= all => "object types mostly not known".to_owned(),
        _ if 2 * pages >= all => format!("{MOSTLY}{first}"),
        Some(second) => format!("most often {first} and {second}"),
        None => format!("most often {first}"),
    })
}

/// Where they were written; `None` without a call site.
fn place(sites: &[&CallSite], mostly: bool, screen: Screen) -> Option<String> {
    let all: u64 = sites.iter().map(|site| site.pages).sum();
    let ranked = ranked(sites, |site| &site.site);
    let &(first, pages) = ranked.first()?;
    let at = at(first, screen);
    Some(match ranked.len() {
        1 => at,
        _ if 2 * pages >= all && mostly => at,
        _ if 2 * pages >= all => format!("{MOSTLY}{at}"),
        many => format!("in {} places, the most {at}", count(many as u64)),
    })
}

/// `in FUNCTION, FILE:LINE`; of the file only its name, since the tables have its path.
fn at(site: &Site, screen: Screen) -> String {
    if &*site.function == "[unknown]" {
        return "in a function that is not known".to_owned();
    }
    let function = quoted(&site.function, screen);
    let base = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
    let place = match (&site.file, site.line, &site.module) {
        (Some(file), Some(line), _) => format!(", {}:{line}", escape(&base(file))),
        (Some(file), None, _) => format!(", {}", escape(&base(file))),
        // The name of an unknown function begins with its module.
        (None, _, Some(module)) if !site.function.starts_with(&base(module)) => {
            format!(", {}", escape(&base(module)))
        }
        _ => String::new(),
    };
    let room = if screen.shorten { PLACE } else { usize::MAX };
    format!("in {function}{}", shorten_left(&place, room))
}

/// A foreign name within a sentence.
fn quoted(name: &str, screen: Screen) -> String {
    format!("`{}`", written::name(name, screen))
}

/// Pages by `key`, the most first; of equals the first by key.
fn ranked<'a, K: Ord>(sites: &[&'a CallSite], key: impl Fn(&'a CallSite) -> K) -> Vec<(K, u64)> {
    let mut pages = BTreeMap::new();
    for site in sites {
        *pages.entry(key(site)).or_default() += site.pages;
    }
    let mut ranked: Vec<_> = pages.into_iter().collect();
    ranked.sort_by_key(|(_, pages)| std::cmp::Reverse(*pages));
    ranked
}

/// `Nothing of what was copied was only read: 93% was data, 7% fields of objects.`
fn nothing_only_read(profile: &Profile) -> String {
    let by_cause = &profile.totals.by_cause;
    let mut named: Vec<_> = by_cause.iter().collect();
    named.retain(|(cause, pages)| *pages > 0 && *cause != CauseName::Unknown);
    named.sort_by_key(|(_, pages)| std::cmp::Reverse(*pages));
    let pages = named.iter().map(|(_, pages)| *pages);
    let percents = apportion(100, &pages.chain([by_cause.unknown]).collect::<Vec<_>>());
    let (of_unknown, percents) = percents.split_last().unwrap_or((&0, &[]));
    let was = |at: usize| if at == 0 { "was " } else { "" };
    let mut parts: Vec<String> = (named.iter().zip(percents).take(CAUSES))
        .enumerate()
        .map(|(at, ((cause, _), &percent))| {
            let percent = at_least_some(percent);
            format!("{percent} {}{}", was(at), cause_in_words(*cause))
        })
        .collect();
    if named.len() > CAUSES {
        let rest = percents[CAUSES..].iter().sum();
        parts.push(format!("{} something else", at_least_some(rest)));
    }
    let parts = match &named[..] {
        [(cause, _)] if by_cause.unknown == 0 => {
            format!("all of it was {}", cause_in_words(*cause))
        }
        _ => parts.join(", "),
    };
    if by_cause.unknown == 0 {
        return format!("Nothing of what was copied was only read: {parts}.");
    }
    let unknown = at_least_some(*of_unknown);
    format!(
        "Nothing of what was copied is known to have been only read: {parts}; for {unknown} it is \
         not known."
    )
}

/// Where no cause at all is known: why, if there is one reason.
fn not_known(profile: &Profile) -> String {
    let reasons = profile.call_sites.iter().map(|site| &site.cause_reason);
    let reasons: BTreeSet<_> = reasons.flatten().collect();
    match reasons.first() {
        Some(only) if reasons.len() == 1 => {
            format!("What was written is not known: {}.", escape(only))
        }
        _ => "What was written is not known; the reasons stand below.".to_owned(),
    }
}

/// What the comparison with the ancestors' pages proves.
fn unchanged(unchanged: Unchanged) -> Option<String> {
    let Unchanged {
        unchanged_pages: same,
        compared_pages: compared,
        comparable_pages: comparable,
        gone_pages: gone,
    } = unchanged;
    let pages = |n| counted(n, "copied page", "copied pages");
    let of = if compared < comparable {
        format!("a sample of {} of {}", count(compared), pages(comparable))
    } else {
        pages(compared)
    };
    let (equal, they) = match same {
        1 => ("equals", "it was"),
        _ => ("equal", "they were"),
    };
    let found = match (compared, same) {
        (0, _) if gone == 0 => return None,
        (0, _) => {
            return Some(format!(
                "{}.",
                not_compared(gone, "copied page", "copied pages")
            ));
        }
        (_, 0) => format!("Of {of}, none still equals the parent's."),
        _ => format!(
            "Of {of}, {} ({}) still {equal} the parent's: {they} copied for nothing.",
            count(same),
            whole_percent(same, compared),
        ),
    };
    Some(match gone {
        0 => found,
        _ => format!("{found} {}.", not_compared(gone, "page", "pages")),
    })
}

fn not_compared(gone: u64, one: &str, many: &str) -> String {
    let them = if gone == 1 { "it was" } else { "they were" };
    format!(
        "{} could not be compared: a process had ended, or {them} unmapped",
        counted(gone, one, many)
    )
}

#[cfg(test)]
mod tests;
