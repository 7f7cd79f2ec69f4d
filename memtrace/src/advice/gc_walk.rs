//! Walks over all objects: `gc.get_objects()` and its like, in workers.
//!
//! Such a walk takes a reference to every object that the collector knows, and so writes to all of
//! them. Some libraries do it once, when they are set up; done after the fork it copies everything.
//! What is frozen is not walked over.

use super::found::{Found, at, is_running, lines, pages_with, quoted, ranked};
use crate::profile::{Advice, CallSite, CauseName, Confidence, Frame, OriginName, StackPages};

/// CPython's functions that go through all objects.
const WALKS: [&str; 7] = [
    "gc_get_objects",
    "gc_get_objects_impl",
    "gc_get_referrers",
    "gc_referrers_for",
    "append_objects",
    "_PyGC_GetObjects",
    "_PyGC_GetReferrers",
];

/// Who is known to do it: a part of the path of the file that runs, the function (any where it is
/// empty), and what it does.
const WALKERS: [(&str, &str, &str); 5] = [
    (
        "gevent/",
        "_patch_existing_locks",
        "gevent's monkey patch looks for locks that exist",
    ),
    ("objgraph", "", "objgraph counts objects"),
    ("pympler/", "", "Pympler measures objects"),
    ("guppy/", "", "Guppy measures the heap"),
    ("mem_top", "", "mem_top counts objects"),
];

pub(super) fn advise(found: &Found<'_>) -> Option<Advice> {
    let copies = found.part(walked, |process| found.is_python_fork(process));
    let (place, _) = *copies.places().first()?;
    let stacks = copies.sites.iter().flat_map(|(site, _)| &site.stacks);
    let known = ranked(
        stacks
            .clone()
            .filter_map(|stack| Some((walker(stack)?, stack.pages))),
    );
    let functions = ranked(stacks.filter_map(|stack| {
        let walk = stack.frames.iter().find(|frame| is_walk(frame))?;
        Some((&*walk.function, stack.pages))
    }));
    let mut evidence = vec![format!("{} were written to", found.amount(&copies))];
    evidence.extend(known.first().map(|(what, _)| (*what).to_owned()));
    evidence.extend(
        functions
            .first()
            .map(|(function, _)| format!("the walk is CPython's function {}", quoted(function))),
    );
    evidence.extend(copies.where_most());
    Some(Advice {
        id: "gc-walk".to_owned(),
        title: format!("No walk over all objects in workers ({})", at(place)),
        why:
            "It takes a reference to every object that the collector knows, and so writes to what \
              was only to be shared. Before the fork the same walk copies nothing, and what is \
              frozen it does not see."
                .to_owned(),
        saves_bytes: copies.bytes,
        confidence: Confidence::High,
        how: lines(&[
            "do it in the process that forks, before the first fork: with gevent, \
             `monkey.patch_all()` at the top of the server's configuration",
            "or call `gc.freeze()` right before the fork: frozen objects are in no such walk",
            "or leave it out of workers, where it is for debugging",
        ]),
        evidence,
    })
}

/// Pages of a call site that such a walk wrote to.
fn walked(site: &CallSite) -> u64 {
    if site.cause == CauseName::Refcount && site.origin == OriginName::Fork && is_running(site) {
        pages_with(site, is_of_a_walk)
    } else {
        0
    }
}

/// Whether a stack is one of such a walk.
pub(super) fn is_of_a_walk(stack: &StackPages) -> bool {
    stack.frames.iter().any(|frame| is_walk(frame)) || walker(stack).is_some()
}

fn is_walk(frame: &Frame) -> bool {
    WALKS.contains(&&*frame.function)
}

/// What a library does that is known to do it, where its code is what runs. Whoever it calls, as a
/// debugger calls a program, is not of it.
fn walker(stack: &StackPages) -> Option<&'static str> {
    let mut script = stack.frames.iter();
    let innermost = script.find(|frame| frame.language.is_interpreted())?;
    let file = innermost.file.as_deref()?;
    let is_in = |function: &str| {
        let mut frames = stack.frames.iter();
        frames.any(|frame| frame.function.contains(function))
    };
    let known = WALKERS.iter();
    let mut known = known.filter(|(part, function, _)| file.contains(part) && is_in(function));
    known.next().map(|(_, _, what)| *what)
}

#[cfg(test)]
mod tests {
    use super::super::made::{self, Made};
    use super::*;
    use crate::profile::Profile;

    fn walk() -> Profile {
        let mut profile = made::profile(&[
            Made::new(500, CauseName::Refcount, "patch").of("dict"),
            Made::new(300, CauseName::Refcount, "render").of("dict"),
        ]);
        let site = &mut profile.call_sites[0];
        made::put_leaf(
            site,
            Frame::native("gc_get_objects", "libpython3.11.so.1.0"),
        );
        profile
    }

    #[test]
    fn a_walk_is_known_by_its_function() {
        let advice = advise(&Found::of(&walk())).unwrap();
        assert_eq!(advice.saves_bytes, 1_000 * 4096);
        assert_eq!(
            advice.title,
            "No walk over all objects in workers (`patch`, app.py:28)"
        );
        assert_eq!(
            advice.evidence,
            [
                "1,000 pages (3.9 MiB, 63% of what was copied) in 2 processes were written to",
                "the walk is CPython's function `gc_get_objects`",
                "1,000 pages in `patch`, app.py:28",
            ]
        );
    }

    #[test]
    fn a_walk_is_known_by_the_library_that_does_it() {
        let mut profile = made::profile(&[Made::new(500, CauseName::Refcount, "patch_all")]);
        let mut frame = (*profile.call_sites[0].stacks[0].frames[0]).clone();
        frame.function = "_patch_existing_locks".into();
        frame.file = Some("/srv/lib/python3.11/site-packages/gevent/monkey/api.py".into());
        made::put_leaf(&mut profile.call_sites[0], frame);
        let advice = advise(&Found::of(&profile)).unwrap();
        assert_eq!(
            advice.evidence[1],
            "gevent's monkey patch looks for locks that exist"
        );
    }

    #[test]
    fn other_reading_and_walks_before_the_fork_are_no_walks() {
        let profile = made::profile(&[Made::new(500, CauseName::Refcount, "render").of("dict")]);
        assert_eq!(advise(&Found::of(&profile)), None);
        let mut profile = walk();
        let pages = profile.call_sites[0].pages;
        profile.call_sites[0].processes = [(made::MASTER, pages)].into();
        made::settle(&mut profile);
        assert_eq!(advise(&Found::of(&profile)), None);
    }

    #[test]
    fn only_the_stacks_of_the_walk_count() {
        let mut profile = walk();
        let site = &mut profile.call_sites[0];
        let mut other = site.stacks[0].clone();
        other.frames = other.frames[1..].into();
        other.pages = 250;
        site.stacks[0].pages -= 250;
        site.stacks.push(other);
        let advice = advise(&Found::of(&profile)).unwrap();
        assert_eq!(advice.saves_bytes, 750 * 4096);
    }
}
