//! What was written at a call site: cause, how it is known, types and fields of objects.

use std::collections::BTreeMap;

use super::group::Group;
use super::screen::{Screen, shorten};
use super::words::{cause, count, percent};
use crate::profile::{CallSite, CauseEvidence, CauseName};
use crate::report::escape::escape;

/// Columns that a name may take within a sentence on a terminal.
const NAME: usize = 40;
/// Types or fields that are named rather than counted.
const NAMED: usize = 4;

/// `cause refcount (by instruction)`, `cause object dict+24`, `cause unknown (REASON)`, and the
/// types of the objects, of a row that is one call site and one cause.
pub(super) fn facts(group: &Group<'_>, screen: Screen) -> Vec<String> {
    let Some(name) = group.causes.keys().next() else {
        return Vec::new();
    };
    let objects = pages(group, |site| object(site, *name, screen));
    let mut written = format!("cause {}", cause(*name));
    let mut facts = Vec::new();
    match &objects[..] {
        [] | [(None, _)] => {}
        [(Some(field), _)] if *name == CauseName::Object => {
            written = format!("{written} {field}");
        }
        [(Some(one), _)] => facts.push(format!("type {one}")),
        many => {
            let what = if *name == CauseName::Object {
                "fields"
            } else {
                "types"
            };
            facts.push(format!("{what} {}", list(many, group.pages)));
        }
    }
    written += &by_instruction(group);
    written += &reasons(group);
    facts.insert(0, written);
    facts
}

/// The object's type, with the field where that is what was written; escaped.
fn object(site: &CallSite, cause: CauseName, screen: Screen) -> Option<String> {
    let object_type = name(site.object_type.as_deref()?, screen);
    Some(match site.field_offset {
        Some(offset) if cause == CauseName::Object => format!("{object_type}{offset:+}"),
        _ => object_type,
    })
}

/// A foreign name within a sentence: escaped, and on a terminal no wider than some columns.
pub(super) fn name(name: &str, screen: Screen) -> String {
    let room = if screen.shorten { NAME } else { usize::MAX };
    shorten(&escape(name), room)
}

/// How much of it only the instruction tells.
fn by_instruction(group: &Group<'_>) -> String {
    let judged = pages(group, |site| {
        site.evidence == Some(CauseEvidence::Instruction)
    });
    match &judged[..] {
        [(true, _)] => " (by instruction)".to_owned(),
        [_, _] => {
            let judged = judged.iter().filter(|(judged, _)| *judged);
            let judged = judged.map(|(_, pages)| pages).sum();
            format!(" ({} by instruction)", percent(judged, group.pages))
        }
        _ => String::new(),
    }
}

/// Why the cause is not known.
fn reasons(group: &Group<'_>) -> String {
    let reasons = pages(group, |site| site.cause_reason.as_deref());
    match &reasons[..] {
        [(Some(reason), _), ..] if reasons.len() == 1 => format!(" ({})", escape(reason)),
        [] | [_] => String::new(),
        many => {
            let many = many.iter();
            let many: Vec<_> = many
                .map(|(reason, pages)| (reason.map(|reason| escape(reason).into_owned()), *pages))
                .collect();
            format!(" ({})", list(&many, group.pages))
        }
    }
}

/// `str 58.0%, dict 22.1%, 7 more 19.9%`.
fn list(named: &[(Option<String>, u64)], whole: u64) -> String {
    // One more is named rather than counted.
    let shown = if named.len() <= NAMED + 1 {
        named.len()
    } else {
        NAMED
    };
    let one = |(name, pages): &(Option<String>, u64)| {
        let name = name.as_deref().unwrap_or("not known");
        format!("{name} {}", percent(*pages, whole))
    };
    let mut list: Vec<String> = named[..shown].iter().map(one).collect();
    if shown < named.len() {
        let rest = named[shown..].iter().map(|(_, pages)| pages).sum();
        let more = count((named.len() - shown) as u64);
        list.push(format!("{more} more {}", percent(rest, whole)));
    }
    list.join(", ")
}

/// Pages of the row by `key`, the most first.
fn pages<'a, K: Ord>(group: &Group<'a>, key: impl Fn(&'a CallSite) -> K) -> Vec<(K, u64)> {
    let mut sums: BTreeMap<K, u64> = BTreeMap::new();
    for &(site, pages) in &group.parts {
        *sums.entry(key(site)).or_default() += pages;
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by_key(|(_, pages)| std::cmp::Reverse(*pages));
    sums
}
