//! `gc.freeze()` before the fork: CPython's collector then leaves alone what was loaded.
//!
//! The collector keeps what it counts in the header of each object that it looks at, so one
//! collection in a worker copies every page with objects that were loaded before the fork.
//! `gc.freeze()` moves all objects out of its sight, for good. That a collection that is asked for
//! copies nothing then was measured on CPython 3.8 to 3.14. A build without the GIL keeps marks in each
//! object, and the increments of 3.14 mark what they reach from the roots, frozen or not: there it is
//! less certain how much is left.
//!
//! What a worker goes on to read is copied then by a reference count. A page that a collection copied
//! does not show whether it was read later. So where workers read more than a little of what was
//! loaded, less may be saved, and the rule is less certain.
//!
//! Not every write to such a header is a collection: an object that dies is taken out of the list that
//! it is in, which writes to its neighbours, frozen or not. The functions tell the two apart; where
//! they have lost their names, a collection is what writes to objects of many types.

use std::collections::{BTreeMap, BTreeSet};

use super::found::{
    Copies, Found, at, is_free_threaded, is_running, lines, minor_version, pages_with,
};
use crate::profile::{
    Advice, CallSite, CauseEvidence, CauseName, Confidence, Language, OriginName, Process,
    StackPages,
};
use crate::report::words::{count, counted};

/// From this version on the collector also marks what is frozen.
const MARKS_FROZEN: u32 = 14;

/// Functions within which collections happen, whatever the compiler has appended to their names.
const COLLECTIONS: [&str; 13] = [
    "collect",
    "deduce_unreachable",
    "gc_collect_full",
    "gc_collect_generations",
    "gc_collect_increment",
    "gc_collect_internal",
    "gc_collect_main",
    "gc_collect_region",
    "gc_collect_with_callback",
    "gc_collect_young",
    "subtract_refs",
    "update_refs",
    "PyGC_Collect",
];

/// Code without a name that wrote to the headers of objects of so many types is a collection's: a
/// function that frees objects does so for those of one type, and a few neighbours.
const MANY_TYPES: usize = 5;

/// From so many percent of reference counts on, beside what collections copied, workers read what was
/// loaded.
const READING: u64 = 2;

/// Pages that CPython itself reads in a process right after its fork, in whatever version; these do
/// not tell of a program that reads.
const READ_BY_PYTHON: u64 = 150;

/// Functions of `gc.collect()`, which a collection that an allocation begins does not have.
const CALLED: [&str; 2] = ["gc_collect", "gc_collect_impl"];

pub(super) fn advise(found: &Found<'_>) -> Option<Advice> {
    let collections = Collections::of(found);
    let pages = |site: &CallSite| collections.pages(site);
    let workers = found.part(pages, |process| found.is_python_fork(process));
    if workers.pages == 0 {
        return None;
    }
    let masters = found.part(pages, |process| found.is_python_master(process));
    let doubt = doubt(found, &workers);
    let mut evidence = vec![format!(
        "{} were copied by collections",
        found.amount(&workers)
    )];
    evidence.extend(called(&workers));
    if masters.pages > 0 {
        evidence.push(format!(
            "{} were copied by collections of the {} that forked them, and are saved, too",
            counted(masters.pages, "page", "pages"),
            counted(masters.pids.len() as u64, "process", "processes"),
        ));
    }
    evidence.extend(workers.where_most());
    let mut why = format!(
        "Python's collector writes to the header of every object that it looks at. What is frozen it \
         leaves alone, in workers{}. `gc.disable()` alone does not last: any `gc.collect()` undoes it. \
         A freeze in a hook that runs after the fork comes too late: it writes to the same headers. \
         What workers go on to read is copied all the same, by reference counts.",
        if masters.pages > 0 {
            " and in the process that forks them"
        } else {
            ""
        }
    );
    why.extend(doubt.iter().map(|doubt| format!(" {doubt}")));
    Some(Advice {
        id: "gc-freeze".to_owned(),
        title: "`gc.freeze()` before the fork".to_owned(),
        why,
        saves_bytes: workers.bytes.saturating_add(masters.bytes),
        confidence: match doubt {
            Some(_) => Confidence::Medium,
            None => Confidence::High,
        },
        how: lines(&[
            "gc.disable()  # first of all, before anything is loaded",
            "...  # load what workers share",
            "gc.collect()  # so that no garbage is frozen; leaves holes, though",
            "gc.freeze()  # right before the fork",
            "gc.enable()  # in each worker, for what it makes itself",
            "gunicorn: preload_app = True, and freeze at the end of the application's module or in \
             `when_ready` of its configuration",
            "uWSGI: without lazy-apps, at the end of the application's module",
            "multiprocessing: start method fork, before the pool or the first process is made",
        ]),
        evidence,
    })
}

/// Which copies are of collections of CPython.
struct Collections<'a> {
    /// Types of the objects whose headers were written to, by the innermost function.
    types: BTreeMap<&'a str, BTreeSet<&'a str>>,
}

impl<'a> Collections<'a> {
    fn of(found: &Found<'a>) -> Self {
        let mut types: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for site in found
            .profile
            .call_sites
            .iter()
            .filter(|site| is_header(site))
        {
            for leaf in site.stacks.iter().filter_map(|stack| stack.frames.first()) {
                let types = types.entry(&leaf.function).or_default();
                types.extend(site.object_type.as_deref());
            }
        }
        Self { types }
    }

    /// Pages of a call site that were copied so and had been there before the fork.
    fn pages(&self, site: &CallSite) -> u64 {
        if is_header(site) {
            pages_with(site, |stack| self.is_one(stack))
        } else {
            0
        }
    }

    fn is_one(&self, stack: &StackPages) -> bool {
        let Some(leaf) = stack.frames.first() else {
            return false;
        };
        let native = stack.frames.iter();
        let mut native = native.take_while(|frame| frame.language == Language::Native);
        let is_named = native.any(|frame| {
            let function = frame.function.split('.').next().unwrap_or_default();
            COLLECTIONS.contains(&function)
        });
        let has_no_name = leaf.language != Language::Native || leaf.unknown.is_some();
        let types = self.types.get(&*leaf.function);
        is_named || has_no_name && types.is_some_and(|types| types.len() >= MANY_TYPES)
    }
}

/// Whether what was written is what CPython's collector keeps of an object that it looks at.
fn is_header(site: &CallSite) -> bool {
    // Collectors of other runtimes are only known by their functions.
    site.cause == CauseName::Gc
        && site.evidence != Some(CauseEvidence::Function)
        && site.origin == OriginName::Fork
        && is_running(site)
}

/// Why less may be saved.
fn doubt(found: &Found<'_>, copies: &Copies<'_>) -> Option<String> {
    let ran = found.processes(|process| copies.pids.contains(&process.pid));
    let marks = |process: &&Process| minor_version(process) >= Some(MARKS_FROZEN);
    if ran.iter().any(marks) {
        let why = "From Python 3.14 on the collector also marks what it reaches from the program's \
                   roots, frozen or not: compare before and after.";
        return Some(why.to_owned());
    }
    if ran.iter().any(|process| is_free_threaded(process)) {
        let why = "A Python without the GIL keeps the collector's marks in the objects themselves: \
                   compare before and after.";
        return Some(why.to_owned());
    }
    let is_read = |site: &CallSite| {
        site.cause == CauseName::Refcount && site.origin == OriginName::Fork && is_running(site)
    };
    let read = found.copies(is_read, |process| copies.pids.contains(&process.pid));
    let seen_from_fork = ran.iter().filter(|process| process.forked_at_s.is_some());
    let by_python = READ_BY_PYTHON.saturating_mul(seen_from_fork.count() as u64);
    let by_program = read.pages.saturating_sub(by_python);
    let is_much = 100 * u128::from(by_program) >= u128::from(READING) * u128::from(copies.pages);
    (by_program > 0 && is_much).then(|| {
        format!(
            "These do read: {} beside were copied so, and how much of the rest was read, too, does \
             not show.",
            counted(read.pages, "page", "pages")
        )
    })
}

/// What the program itself asked for.
fn called(copies: &Copies<'_>) -> Option<String> {
    let is_called = |stack: &StackPages| {
        let mut frames = stack.frames.iter();
        frames.any(|frame| CALLED.contains(&&*frame.function))
    };
    let calls = copies.sites.iter();
    let calls = calls.map(|(site, pages)| (*site, pages_with(site, is_called).min(*pages)));
    let calls: Vec<(&CallSite, u64)> = calls.filter(|(_, pages)| *pages > 0).collect();
    let (first, _) = calls.iter().max_by_key(|(_, pages)| *pages)?;
    let pages = calls.iter().map(|(_, pages)| pages).sum();
    Some(format!(
        "up to {} of them in `gc.collect()`, which the program calls itself, most in {}",
        count(pages),
        at(first.act_on())
    ))
}

#[cfg(test)]
mod tests {
    use super::super::made::{self, Made};
    use super::*;
    use crate::profile::{Frame, Phase, Profile, Unknown};

    fn advised(profile: &Profile) -> Option<Advice> {
        advise(&Found::of(profile))
    }

    fn collected() -> Profile {
        made::profile(&[
            Made::new(500, CauseName::Gc, "context"),
            Made::new(300, CauseName::Data, "work"),
        ])
    }

    #[test]
    fn pages_of_collections_in_forked_processes_are_saved() {
        let advice = advised(&collected()).unwrap();
        assert_eq!(advice.saves_bytes, 1_000 * 4096);
        assert_eq!(advice.confidence, Confidence::High);
        assert_eq!(
            advice.evidence,
            [
                "1,000 pages (3.9 MiB, 63% of what was copied) in 2 processes were copied by \
                 collections",
                "1,000 pages in `context`, app.py:28",
            ]
        );
    }

    #[test]
    fn what_the_master_copies_by_its_own_collections_is_saved_too() {
        let mut profile = collected();
        profile.call_sites[0].processes.insert(4242, 77);
        made::settle(&mut profile);
        let advice = advised(&profile).unwrap();
        assert_eq!(advice.saves_bytes, 1_077 * 4096);
        assert_eq!(
            advice.evidence[1],
            "77 pages were copied by collections of the 1 process that forked them, and are saved, too"
        );
        // Alone it says nothing: collections in a master without workers copy nothing.
        profile.call_sites[0]
            .processes
            .retain(|&pid, _| pid == 4242);
        made::settle(&mut profile);
        assert_eq!(advised(&profile), None);
    }

    #[test]
    fn who_calls_the_collector_is_named() {
        let mut profile = collected();
        let frame = Frame::native("gc_collect", "python3.11");
        made::put_leaf(&mut profile.call_sites[0], frame);
        let frame = Frame::native("gc_collect_main.lto_priv.0", "python3.11");
        made::put_leaf(&mut profile.call_sites[0], frame);
        let advice = advised(&profile).unwrap();
        assert_eq!(
            advice.evidence[1],
            "up to 1,000 of them in `gc.collect()`, which the program calls itself, most in \
             `context`, app.py:28"
        );
    }

    #[test]
    fn what_dies_is_no_collection() {
        let mut profile = collected();
        let site = &mut profile.call_sites[0];
        site.stacks[0].frames = site.stacks[0].frames[1..].into();
        for function in ["tupledealloc", "PyObject_GC_UnTrack"] {
            made::put_leaf(site, Frame::native(function, "python3.11"));
        }
        assert_eq!(advised(&profile), None);
    }

    #[test]
    fn without_names_a_collection_is_what_writes_to_objects_of_many_types() {
        let types = ["dict", "type", "function", "tuple", "cell"];
        let made = |types: &[&'static str]| {
            let made = types.iter();
            let made: Vec<_> = made
                .map(|name| Made::new(200, CauseName::Gc, "context").of(name))
                .collect();
            let mut profile = made::profile(&made);
            for site in &mut profile.call_sites {
                site.stacks[0].frames = site.stacks[0].frames[1..].into();
                let mut leaf = Frame::native("python3.11+0x50ba96", "python3.11");
                leaf.unknown = Some(Unknown::NoSymbol);
                made::put_leaf(site, leaf);
            }
            profile
        };
        let advice = advised(&made(&types)).unwrap();
        assert_eq!(advice.saves_bytes, 5 * 400 * 4096);
        assert_eq!(advised(&made(&types[..4])), None);
    }

    #[test]
    fn where_the_collector_marks_what_is_frozen_it_is_less_certain() {
        for (name, word) in [
            ("CPython 3.14", "3.14"),
            ("CPython 3.13, free-threaded", "without the GIL"),
        ] {
            let mut profile = collected();
            for process in &mut profile.processes[..3] {
                process.interpreter.as_mut().unwrap().name = name.to_owned();
            }
            let advice = advised(&profile).unwrap();
            assert_eq!(advice.confidence, Confidence::Medium);
            assert!(advice.why.contains(word), "{}", advice.why);
        }
    }

    #[test]
    fn where_workers_read_what_was_loaded_it_is_less_certain() {
        let reading = |pages| {
            let profile = made::profile(&[
                Made::new(500, CauseName::Gc, "context"),
                Made::new(pages, CauseName::Refcount, "walk"),
            ]);
            advised(&profile).unwrap()
        };
        // Of two processes, 300 pages are CPython's own reading.
        assert_eq!(reading(159).confidence, Confidence::High);
        let advice = reading(160);
        assert_eq!(advice.confidence, Confidence::Medium);
        assert!(advice.why.contains("320 pages beside"), "{}", advice.why);
    }

    #[test]
    fn it_is_silent_of_other_collectors_other_phases_and_other_languages() {
        let mut profile = collected();
        profile.call_sites[0].evidence = Some(CauseEvidence::Function);
        assert_eq!(advised(&profile), None);
        let mut profile = collected();
        profile.call_sites[0].phase = Phase::Exit;
        assert_eq!(advised(&profile), None);
        let mut profile = collected();
        profile.call_sites[0].origin = OriginName::File;
        assert_eq!(advised(&profile), None);
        let mut profile = collected();
        for process in &mut profile.processes {
            process.interpreter = None;
        }
        assert_eq!(advised(&profile), None);
        let mut profile = collected();
        profile.processes[0].interpreter = None;
        assert_eq!(advised(&profile), None, "the shell that started them");
    }
}
