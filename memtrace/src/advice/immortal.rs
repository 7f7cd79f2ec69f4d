//! A newer Python: from 3.12 on some objects are immortal, and nobody counts references to them.
//!
//! Of those only `None`, `True`, `False` and their like can be told by their types, and the types
//! that are compiled into CPython by where they are. Small integers and interned texts are immortal,
//! too, and look like all others.

use super::found::{Found, is_running, lines, minor_version, types_in_words};
use crate::profile::{Advice, CallSite, CauseName, Confidence, Process, STATIC_TYPE};

/// The first version with immortal objects.
const FIRST: u32 = 12;

/// Types of which every object is immortal there.
const IMMORTAL: [&str; 5] = [
    "NoneType",
    "bool",
    "ellipsis",
    "NotImplementedType",
    STATIC_TYPE,
];

pub(super) fn advise(found: &Found<'_>) -> Option<Advice> {
    let is_older = |process: &Process| {
        let is_old = minor_version(process).is_some_and(|minor| minor < FIRST);
        is_old && found.is_python_fork(process)
    };
    let copies = found.copies(is_immortal, is_older);
    if copies.pages == 0 {
        return None;
    }
    let mut evidence = vec![format!(
        "{} were copied for counts of objects that are immortal there",
        found.amount(&copies)
    )];
    evidence.extend(types_in_words(&copies).map(|types| format!("of the types {types}")));
    evidence.extend(copies.where_most());
    Some(Advice {
        id: "immortal".to_owned(),
        title: "Python 3.12 or later".to_owned(),
        why: "`None`, `True`, `False` and the types of CPython itself are immortal from 3.12 on: \
              nobody counts references to them. All other objects are counted as before."
            .to_owned(),
        saves_bytes: copies.bytes,
        confidence: Confidence::Medium,
        how: lines(&["run the workers and who forks them with Python 3.12 or later"]),
        evidence,
    })
}

fn is_immortal(site: &CallSite) -> bool {
    let name = site.object_type.as_deref().unwrap_or_default();
    site.cause == CauseName::Refcount && IMMORTAL.contains(&name) && is_running(site)
}

#[cfg(test)]
mod tests {
    use super::super::made::{self, Made};
    use super::*;
    use crate::profile::Profile;

    fn counted() -> Profile {
        let refcount = |pages, of| Made::new(pages, CauseName::Refcount, "look").of(of);
        made::profile(&[
            refcount(200, "NoneType"),
            refcount(150, "type"),
            refcount(100, "bool"),
            refcount(50, "int"),
        ])
    }

    fn advised(profile: &Profile) -> Option<Advice> {
        advise(&Found::of(profile))
    }

    #[test]
    fn counts_of_what_becomes_immortal_are_saved() {
        let mut profile = counted();
        let advice = advised(&profile).unwrap();
        assert_eq!(advice.saves_bytes, 600 * 4096);
        assert_eq!(
            advice.evidence[1],
            "of the types `NoneType` 67%, `bool` 33%"
        );
        profile.call_sites[1].object_type = Some(STATIC_TYPE.into());
        made::settle(&mut profile);
        assert_eq!(advised(&profile).unwrap().saves_bytes, 900 * 4096);
    }

    #[test]
    fn where_they_are_immortal_already_nothing_is_said() {
        for name in ["CPython 3.12", "PyPy 3.10"] {
            let mut profile = counted();
            for process in &mut profile.processes {
                process.interpreter.as_mut().unwrap().name = name.to_owned();
            }
            assert_eq!(advised(&profile), None, "{name}");
        }
    }

    #[test]
    fn it_is_silent_of_other_objects_and_of_a_master() {
        let mut profile = counted();
        profile
            .call_sites
            .retain(|site| site.object_type.as_deref() == Some("int"));
        made::settle(&mut profile);
        assert_eq!(advised(&profile), None);
        let mut profile = counted();
        profile.processes.truncate(1);
        assert_eq!(advised(&profile), None);
    }
}
