//! `gc.freeze()` before the fork: CPython's collector then leaves alone what was loaded.
//!
//! The collector keeps what it counts in the header of each object that it looks at, so one
//! collection in a worker copies every page with objects that were loaded before the fork.
//! `gc.freeze()` moves all objects out of its sight, for good. It helps on CPython 3.8 to 3.13, which
//! was measured. A build without the GIL keeps marks in each object, and 3.14 marks what it reaches
//! from the roots, frozen or not: there it is less certain how much is left.

use super::found::{
    Copies, Found, at, is_free_threaded, is_running, lines, minor_version, pages_with,
};
use crate::profile::{
    Advice, CallSite, CauseEvidence, CauseName, Confidence, OriginName, Process, StackPages,
};
use crate::report::words::{count, counted};

/// From this version on the collector also marks what is frozen.
const MARKS_FROZEN: u32 = 14;

/// Functions of `gc.collect()`, which a collection that an allocation begins does not have.
const CALLED: [&str; 2] = ["gc_collect", "gc_collect_impl"];

pub(super) fn advise(found: &Found<'_>) -> Option<Advice> {
    let workers = found.copies(is_collection, |process| found.is_python_fork(process));
    if workers.pages == 0 {
        return None;
    }
    let is_master = |process: &Process| {
        let is_parent = |fork: &&Process| fork.ppid == process.pid;
        let forks = found.processes(|fork| found.is_python_fork(fork));
        !found.is_python_fork(process) && forks.iter().any(is_parent)
    };
    let masters = found.copies(is_collection, is_master);
    let doubtful = doubtful(found, &workers);
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
    why.extend(doubtful.map(|doubt| format!(" {doubt}")));
    Some(Advice {
        id: "gc-freeze".to_owned(),
        title: "`gc.freeze()` before the fork".to_owned(),
        why,
        saves_bytes: workers.bytes.saturating_add(masters.bytes),
        confidence: match doubtful {
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

/// What a collection of CPython copied that had been there before the fork.
fn is_collection(site: &CallSite) -> bool {
    // Collectors of other runtimes are only known by their functions.
    site.cause == CauseName::Gc
        && site.evidence != Some(CauseEvidence::Function)
        && site.origin == OriginName::Fork
        && is_running(site)
}

/// Why less may be saved, for the versions that ran.
fn doubtful(found: &Found<'_>, copies: &Copies<'_>) -> Option<&'static str> {
    let ran = found.processes(|process| copies.pids.contains(&process.pid));
    let marks = |process: &&Process| minor_version(process) >= Some(MARKS_FROZEN);
    if ran.iter().any(marks) {
        return Some(
            "From Python 3.14 on the collector also marks what it reaches from the program's roots, \
             frozen or not: compare before and after.",
        );
    }
    ran.iter().any(|process| is_free_threaded(process)).then_some(
        "A Python without the GIL keeps the collector's marks in the objects themselves: compare \
         before and after.",
    )
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
    use crate::profile::{Frame, Language, Phase, Profile};

    fn advised(profile: &Profile) -> Option<Advice> {
        advise(&Found::of(profile))
    }

    fn collected() -> Profile {
        made::profile(&[
            Made::new(500, CauseName::Gc, "context"),
            Made::new(300, CauseName::Refcount, "walk"),
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
        let mut frame = Frame::native("gc_collect", "python3.11");
        frame.language = Language::Native;
        made::put_leaf(&mut profile.call_sites[0], frame);
        let advice = advised(&profile).unwrap();
        assert_eq!(
            advice.evidence[1],
            "up to 1,000 of them in `gc.collect()`, which the program calls itself, most in \
             `context`, app.py:28"
        );
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
