//! The verdict, in sentences: how much of what was copied was only read, by whom, and how much is
//! proven to have been copied for nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::screen::{Screen, shorten, shorten_left};
use super::{compared, written};
use crate::foreign::escape;
use crate::profile::{CallSite, CauseEvidence, CauseName, Profile, Site};
use crate::report::claims::{Claim, Claims, is_hint};
use crate::report::words::{apportion, cause_in_words, count, counted};

/// Columns that a name may take, also in a file.
const LONG_NAME: usize = 120;
/// Columns that a file and line may take there.
const PLACE: usize = 32;
/// Columns that the path of a file may take that could not be opened; the warnings have all of it.
const PATH: usize = 80;
/// Causes that are named where none is copy-on-read.
const CAUSES: usize = 3;
/// An unknown part from this many percent on belongs into the sentence.
const MUCH_UNKNOWN: u64 = 2;

/// A part of this many percent is worth a sentence of its own.
const WORTH_SAYING: u64 = 5;
/// Languages that are named.
const LANGUAGES: usize = 3;

/// The sentences; none when nothing was copied.
pub(super) fn sentences(profile: &Profile, screen: Screen) -> Vec<String> {
    let totals = &profile.totals;
    if totals.copied_pages == 0 {
        return Vec::new();
    }
    let claims = Claims::of(profile);
    let said = Said::of(&claims);
    let mut sentences = Vec::new();
    if claims.pages(Claim::Unknown) == totals.copied_pages {
        sentences.push(not_known(profile));
    } else if said.is_all(Claim::Written) {
        sentences.push(written(profile, &claims, screen));
    } else {
        let by_share = said.by_share();
        let by_share = by_share.iter().map(|(claim, percent)| (*claim, &**percent));
        sentences.extend(by_share.filter_map(|(claim, percent)| match claim {
            Claim::Read => Some(only_read(profile, &claims, &said, screen)),
            Claim::PerhapsRead => Some(perhaps_read(&claims, percent, screen)),
            Claim::Changed => Some(changed(&claims, percent, screen)),
            Claim::Counter => Some(counter(&claims, percent, screen)),
            Claim::Collector => Some(collector(&claims, percent, screen)),
            Claim::Undone => Some(undone(&claims, percent, screen)),
            Claim::Exit => Some(exit(&claims, percent)),
            Claim::BeforeExec => Some(before_exec(percent)),
            Claim::Unread => Some(unread(&claims, percent)),
            Claim::Unopened => Some(unopened(&claims, percent, screen)),
            // The sentence on what was only read has it.
            Claim::Unknown if claims.pages(Claim::Read) > 0 => None,
            Claim::Unknown => Some(format!("For {percent} it is not known what was written.")),
            Claim::Written => Some(match &*causes(&claims, said.percent(claim), "") {
                parts if parts.contains('%') => format!("{percent} was written to: {parts}."),
                only => format!("{percent} was {only}."),
            }),
        }));
    }
    sentences.extend(totals.unchanged.and_then(compared::sentence));
    sentences
}

/// The claims, each with its part of all pages in whole percent; together 100.
struct Said(Vec<(Claim, u64, u64)>);

impl Said {
    fn of(claims: &Claims) -> Self {
        let all = Claim::ALL.map(|claim| (claim, claims.pages(claim)));
        let percents = apportion(100, &all.map(|(_, pages)| pages));
        let all = all.into_iter().zip(percents);
        Self(
            all.map(|((claim, pages), percent)| (claim, pages, percent))
                .collect(),
        )
    }

    fn percent(&self, claim: Claim) -> u64 {
        let found = self.0.iter().find(|(it, ..)| *it == claim);
        found.map_or(0, |&(.., percent)| percent)
    }

    /// Whether nothing else is claimed of any page.
    fn is_all(&self, claim: Claim) -> bool {
        self.0
            .iter()
            .all(|&(it, pages, _)| it == claim || pages == 0)
    }

    /// Those that are worth saying, the largest first. What is not all is not called 100%. What was
    /// only read is always said.
    fn by_share(&self) -> Vec<(Claim, String)> {
        let worth = |&&(claim, pages, percent): &&(Claim, u64, u64)| {
            let least = match claim {
                Claim::Read => 0,
                Claim::Unknown => MUCH_UNKNOWN,
                _ => WORTH_SAYING,
            };
            pages > 0 && percent >= least
        };
        let mut said: Vec<_> = self.0.iter().filter(worth).collect();
        said.sort_by_key(|(_, pages, _)| std::cmp::Reverse(*pages));
        let shown = |percent| match percent {
            100 if said.len() > 1 => "99%".to_owned(),
            percent => format!("{percent}%"),
        };
        said.iter()
            .map(|&&(claim, _, percent)| (claim, shown(percent)))
            .collect()
    }
}

/// `71% of what was copied was only read: 58% reference counts (...), 13% garbage collection.`
fn only_read(profile: &Profile, claims: &Claims, said: &Said, screen: Screen) -> String {
    let all = profile.totals.copied_pages;
    let read = claims.pages(Claim::Read);
    let whole = match said.percent(Claim::Read) {
        100 if read < all => 99,
        whole => whole,
    };
    let sites = claims.sites(Claim::Read);
    let mut by_cause: BTreeMap<Option<CauseName>, u64> = BTreeMap::new();
    for site in &sites {
        let pages = by_cause.entry(Some(site.cause)).or_default();
        *pages = pages.saturating_add(site.pages);
    }
    by_cause.insert(None, claims.later);
    let mut parts: Vec<(Option<CauseName>, u64)> = by_cause.into_iter().collect();
    parts.retain(|(_, pages)| *pages > 0);
    parts.sort_by_key(|(_, pages)| std::cmp::Reverse(*pages));
    let pages: Vec<u64> = parts.iter().map(|(_, pages)| *pages).collect();
    let percents = apportion(whole, &pages);
    let parts: Vec<String> = (parts.into_iter().zip(percents))
        .map(|((cause, _), percent)| {
            let mut part = cause.map_or("other causes", cause_in_words).to_owned();
            // A part that is the whole, or as good as that, does not need the figure again.
            if percent != whole {
                part = format!("{} {part}", at_least_some(percent));
            }
            if cause == Some(CauseName::Refcount) {
                part += &reference_counts(&sites, screen);
            }
            part
        })
        .collect();
    let whole = match whole {
        0 => "Less than 1%".to_owned(),
        whole => format!("{whole}%"),
    };
    let doubt = match said.percent(Claim::Unknown) {
        ..MUCH_UNKNOWN => String::new(),
        unknown => format!("; for {unknown}% it is not known"),
    };
    let (parts, confirmed) = (parts.join(", "), confirmed(claims));
    format!("{whole} of what was copied was only read: {parts}{confirmed}{doubt}.")
}

/// Where the way of writing was a hint, what confirms it.
fn confirmed(claims: &Claims) -> String {
    let found = claims.compared(Claim::Read);
    if found.compared_pages == 0 {
        return String::new();
    }
    format!(
        "; where only the way of writing says so, {} of {} compared pages still equal {}",
        count(found.unchanged_pages),
        count(found.compared_pages),
        compared::whose(found.compared_with_child_pages, found.compared_pages)
    )
}

/// `92% was copied while processes exited (destroying objects): it lives for milliseconds; ...`
fn exit(claims: &Claims, percent: &str) -> String {
    let sites = claims.sites(Claim::Exit);
    let is_python = |site: &&CallSite| site.evidence == Some(CauseEvidence::Structure);
    let (what, way) = if sites.iter().any(is_python) {
        (" (destroying objects)", "`os._exit`")
    } else {
        ("", "`_exit`")
    };
    format!(
        "{percent} was copied while processes exited{what}: it lives for milliseconds; {way}, or a \
         worker that is not recycled, avoids it."
    )
}

fn before_exec(percent: &str) -> String {
    format!(
        "{percent} was copied between fork and exec, and lives until the exec: `posix_spawn` or \
         `vfork`, which share memory until then, avoid it."
    )
}

/// ` (in FUNCTION, FILE:LINE)`; empty without a call site.
fn written_at(claims: &Claims, claim: Claim, screen: Screen) -> String {
    let at = place(&claims.sites(claim), false, screen);
    at.map_or_else(String::new, |at| format!(" ({at})"))
}

/// `of 64 compared pages, 3 still equal the parent's`; `None` where none was compared.
fn equal(claims: &Claims, claim: Claim) -> Option<String> {
    let found = claims.compared(claim);
    let compared = found.compared_pages;
    let whose = compared::whose(found.compared_with_child_pages, compared);
    let same = match found.unchanged_pages {
        _ if compared == 0 => return None,
        0 => "none still equals".to_owned(),
        1 => "1 still equals".to_owned(),
        same => format!("{} still equal", count(same)),
    };
    Some(format!(
        "of {}, {same} {whose}",
        counted(compared, "compared page", "compared pages")
    ))
}

fn perhaps_read(claims: &Claims, percent: &str, screen: Screen) -> String {
    let at = written_at(claims, Claim::PerhapsRead, screen);
    let but = equal(claims, Claim::PerhapsRead);
    let but =
        but.unwrap_or_else(|| "a counter of the program's own would look the same".to_owned());
    format!(
        "{percent} was perhaps only read{at}: it was written as reference counts are, and {but}."
    )
}

/// What was read first and then written to.
fn changed(claims: &Claims, percent: &str, screen: Screen) -> String {
    let sites = claims.sites(Claim::Changed);
    let at = reference_counts(&sites, screen);
    let found = claims.compared(Claim::Changed);
    format!(
        "{percent} was copied for reference counts{at} and written to after that: of {}, {} differ in \
         more than counts.",
        counted(found.compared_pages, "compared page", "compared pages"),
        count(found.changed_pages)
    )
}

fn counter(claims: &Claims, percent: &str, screen: Screen) -> String {
    let at = written_at(claims, Claim::Counter, screen);
    let equal = equal(claims, Claim::Counter);
    let equal = equal.map_or_else(String::new, |equal| format!("; {equal}"));
    format!(
        "{percent} was counted in place{at}: counters of the program's own, or references that it \
         still holds{equal}."
    )
}

fn collector(claims: &Claims, percent: &str, screen: Screen) -> String {
    let at = written_at(claims, Claim::Collector, screen);
    let equal = equal(claims, Claim::Collector);
    let equal = equal.map_or_else(String::new, |equal| format!(": {equal}"));
    format!("{percent} was written by a garbage collector{at}{equal}.")
}

fn undone(claims: &Claims, percent: &str, screen: Screen) -> String {
    let at = written_at(claims, Claim::Undone, screen);
    let equal = equal(claims, Claim::Undone).unwrap_or_default();
    format!(
        "{percent} was written to and is what it was before{at}, as with locks, or counts and marks \
         that were taken back: {equal}."
    )
}

fn unread(claims: &Claims, percent: &str) -> String {
    let languages = &claims.unread;
    let mut named: Vec<_> = languages
        .iter()
        .take(LANGUAGES)
        .map(|name| escape(name))
        .collect();
    if languages.len() > LANGUAGES {
        named.push("others".into());
    }
    format!(
        "{percent} was data in processes with {}, whose objects memtrace does not read: whether it \
         was only read is not known.",
        named.join(", ")
    )
}

fn unopened(claims: &Claims, percent: &str, screen: Screen) -> String {
    format!(
        "{percent} was copied by processes of which not all could be looked at{}: whether it was \
         only read is not known.",
        first_unopened(claims, screen)
    )
}

/// ` (cannot open FILE: permission denied (13))`, of the first of them.
fn first_unopened(claims: &Claims, screen: Screen) -> String {
    let Some(first) = claims.unopened.first() else {
        return String::new();
    };
    let more = match claims.unopened.len() {
        1 => String::new(),
        all => format!(", and {} more", count(all as u64 - 1)),
    };
    let room = if screen.shorten { PATH } else { usize::MAX };
    let (path, why) = (escape(&first.path), escape(&first.why));
    format!(" (cannot open {}: {why}{more})", shorten_left(&path, room))
}

fn at_least_some(percent: u64) -> String {
    match percent {
        0 => "<1%".to_owned(),
        percent => format!("{percent}%"),
    }
}

/// ` (mostly TYPE, in FUNCTION, FILE:LINE)`, or what of that is known.
fn reference_counts(sites: &[&CallSite], screen: Screen) -> String {
    let sites: Vec<_> = sites
        .iter()
        .copied()
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
    let hinted = sites.iter().filter(|site| is_hint(site));
    if 2 * hinted.map(|site| site.pages).sum::<u64>() >= all {
        return None;
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
    let ranked = ranked(sites, CallSite::act_on);
    let &(first, pages) = ranked.first()?;
    let caller = sites.iter().find(|site| site.act_on() == first);
    let caller = caller.and_then(|site| site.caller.as_ref());
    let at = match caller {
        Some(caller) => format!(
            "{} in {}",
            at(first, screen),
            quoted(&caller.function, screen)
        ),
        None => at(first, screen),
    };
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

/// A foreign name within a sentence: the tables have it whole.
fn quoted(name: &str, screen: Screen) -> String {
    format!("`{}`", shorten(&written::name(name, screen), LONG_NAME))
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

/// `Nothing of what was copied was only read: 93% was data, 7% fields of objects.` That is only said
/// where everything was looked at.
fn written(profile: &Profile, claims: &Claims, screen: Screen) -> String {
    let by_cause = profile.totals.by_cause.iter();
    let mut named = by_cause.filter(|(_, pages)| *pages > 0);
    let parts = match (named.next(), named.next()) {
        (Some((only, _)), None) => format!("all of it was {}", cause_in_words(only)),
        _ => causes(claims, 100, "was "),
    };
    if !claims.unopened.is_empty() {
        let files = first_unopened(claims, screen);
        format!(
            "Nothing of what was copied is known to have been only read, and not everything could \
             be looked at{files}: {parts}."
        )
    } else if claims.looked_at_python && claims.looked_at_all && !is_mostly_the_same(profile) {
        format!("Nothing of what was copied was only read: {parts}.")
    } else if claims.looked_at_python {
        match causes(claims, 100, "") {
            parts if parts.contains('%') => format!("All of it was written to: {parts}."),
            only => format!("All of it was {only}."),
        }
    } else {
        format!(
            "Nothing of what was copied is known to have been only read, and Python was not looked \
             at: {parts}."
        )
    }
}

/// Whether more of the compared pages are what they were than could be by chance.
fn is_mostly_the_same(profile: &Profile) -> bool {
    let found = profile.totals.unchanged.unwrap_or_default();
    10 * u128::from(found.unchanged_pages) > u128::from(found.compared_pages)
}

/// `93% was data, 7% fields of objects`, of what was written to, `whole` percent of everything.
fn causes(claims: &Claims, whole: u64, verb: &str) -> String {
    let mut by_cause: BTreeMap<CauseName, u64> = BTreeMap::new();
    for (site, pages) in claims.parts(Claim::Written) {
        let sum = by_cause.entry(site.cause).or_default();
        *sum = sum.saturating_add(*pages);
    }
    let mut named: Vec<(CauseName, u64)> = by_cause.into_iter().collect();
    named.sort_by_key(|(_, pages)| std::cmp::Reverse(*pages));
    if let [(only, _)] = &named[..] {
        return cause_in_words(*only).to_owned();
    }
    let pages: Vec<u64> = named.iter().map(|(_, pages)| *pages).collect();
    let mut percents = apportion(whole, &pages);
    // Beside others, what is nearly all is not called all.
    if whole == 100 && percents[0] == whole {
        percents[0] -= 1;
    }
    let mut parts: Vec<String> = (named.iter().zip(&percents).take(CAUSES))
        .enumerate()
        .map(|(at, ((cause, _), &percent))| {
            let verb = if at == 0 { verb } else { "" };
            format!(
                "{} {verb}{}",
                at_least_some(percent),
                cause_in_words(*cause)
            )
        })
        .collect();
    if named.len() > CAUSES {
        let rest = percents[CAUSES..].iter().sum();
        parts.push(format!("{} something else", at_least_some(rest)));
    }
    parts.join(", ")
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

#[cfg(test)]
mod tests;
