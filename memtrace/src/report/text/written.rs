//! What was written at a call site: cause, how it is known, types and fields of objects.

use std::collections::BTreeMap;

use super::screen::{Screen, shorten};
use crate::foreign::escape;
use crate::profile::{CallSite, CauseEvidence, CauseName, Phase};
use crate::report::group::Group;
use crate::report::words::{count, percent};

/// Columns that a name may take within a sentence on a terminal.
const NAME: usize = 40;
/// Types or fields that are named rather than counted.
const NAMED: usize = 4;

/// `cause refcount (by instruction)`, `cause object dict+24` (without the offset where the field is
/// not known), `cause unknown (REASON)`, and the
/// types of the objects, of a row that is one call site and one cause.
pub(super) fn facts(group: &Group<'_>, screen: Screen) -> Vec<String> {
    let Some(name) = group.causes.keys().next() else {
        return Vec::new();
    };
    let objects = pages(group, |site| object(site, *name, screen));
    let mut written = format!("cause {name}");
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
    facts.extend(phase(group));
    facts
}

/// When in the lives of its processes, where that is not while they ran.
fn phase(group: &Group<'_>) -> Option<String> {
    let (site, _) = group.parts.first()?;
    let text = match site.phase {
        Phase::Run => return None,
        Phase::BeforeExec => "between fork and exec".to_owned(),
        Phase::Exit => "while processes exited".to_owned(),
        Phase::Other(other) => format!("phase {}", escape(other.name())),
    };
    Some(text)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profile;
    use crate::profile::sample::sample_of;
    use crate::report::By;
    use crate::report::group::regroup;

    fn said(profile: &Profile) -> String {
        facts(&regroup(profile, By::Site)[0], Screen::of_a_file()).join("; ")
    }

    #[test]
    fn a_field_is_named_by_type_and_offset() {
        let mut profile = sample_of(&[(5, CauseName::Object, "store", Some("dict"))]);
        assert_eq!(said(&profile), "cause object dict");
        profile.call_sites[0].field_offset = Some(24);
        assert_eq!(said(&profile), "cause object dict+24");
        profile.call_sites[0].field_offset = Some(-16);
        assert_eq!(said(&profile), "cause object dict-16");
    }

    #[test]
    fn many_types_are_counted() {
        let types = ["a", "b", "c", "d", "e", "f", "g"];
        let copies = types.map(|name| (10, CauseName::Refcount, "walk", Some(name)));
        assert_eq!(
            said(&sample_of(&copies)),
            "cause refcount; types a 14.3%, b 14.3%, c 14.3%, d 14.3%, 3 more 42.9%"
        );
        assert_eq!(
            said(&sample_of(&copies[..5])),
            "cause refcount; types a 20.0%, b 20.0%, c 20.0%, d 20.0%, e 20.0%"
        );
    }

    #[test]
    fn objects_without_a_type_are_not_hidden_among_those_with_one() {
        let copies = [
            (60, CauseName::Refcount, "walk", Some("str")),
            (40, CauseName::Refcount, "walk", None),
        ];
        let profile = sample_of(&copies);
        assert_eq!(
            said(&profile),
            "cause refcount; types str 60.0%, not known 40.0%"
        );
        assert_eq!(said(&sample_of(&copies[1..])), "cause refcount");
    }

    #[test]
    fn what_the_instruction_tells_is_marked() {
        let copies = [
            (60, CauseName::Refcount, "walk", None),
            (40, CauseName::Refcount, "walk", None),
        ];
        let mut profile = sample_of(&copies);
        profile.call_sites[1].evidence = Some(CauseEvidence::Instruction);
        assert_eq!(said(&profile), "cause refcount (40.0% by instruction)");
        profile.call_sites[0].evidence = Some(CauseEvidence::Instruction);
        assert_eq!(said(&profile), "cause refcount (by instruction)");
    }

    #[test]
    fn a_cause_that_is_not_known_has_its_reasons() {
        let copies = [
            (60, CauseName::Unknown, "walk", None),
            (40, CauseName::Unknown, "walk", None),
        ];
        let mut profile = sample_of(&copies);
        assert_eq!(said(&profile), "cause unknown (the page was gone)");
        profile.call_sites[1].cause_reason = Some("\u{1b}[2J".to_owned());
        assert_eq!(
            said(&profile),
            "cause unknown (the page was gone 60.0%, \\u{1b}[2J 40.0%)"
        );
    }
}
