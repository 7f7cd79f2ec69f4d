//! `_exit` at the end of workers: what ends need not be tidied up.
//!
//! A Python that ends in the ordinary way destroys its objects one by one, and so copies what it
//! shared a moment before its memory goes anyway. `os._exit` leaves all that out; so does `_exit` in
//! any language, with handlers and destructors that run at an exit.

use super::found::{Copies, Found, is_cpython, lines};
use crate::profile::{Advice, CallSite, Confidence, Phase, Process};
use crate::report::words::{count, size};

/// So many ends are a habit.
const MANY_ENDED: u64 = 10;

pub(super) fn advise(found: &Found<'_>) -> Option<Advice> {
    let at_exit = |site: &CallSite| site.phase == Phase::Exit;
    let who = |process: &Process| found.is_forked(process);
    let copies = found.copies(at_exit, who);
    let of_python = found.copies(at_exit, |process| who(process) && is_cpython(process));
    if copies.pages == 0 {
        return None;
    }
    let is_python = 2 * of_python.pages >= copies.pages;
    let ended = ended(found, &copies);
    let mut how = if is_python {
        lines(&[
            "os._exit(0)  # the last line of a worker, after its files are flushed",
            "gunicorn: in its configuration `def worker_exit(server, worker):`, with \
             `if worker.booted: os._exit(0)` (a worker that could not start has a status to tell)",
            "uWSGI: skip-atexit-teardown = true",
            "workers of multiprocessing end so already",
        ])
    } else {
        lines(&[
            "_exit(0);  /* instead of exit(0) or a return from main, after files are flushed */",
        ])
    };
    if ended >= MANY_ENDED {
        how.extend(lines(&[
            "recycle workers less often (max_requests in gunicorn, max-requests in uWSGI, \
             maxtasksperchild in multiprocessing)",
        ]));
    }
    let each = copies.bytes / (copies.pids.len() as u64).max(1);
    let mut evidence = vec![format!(
        "{} were copied while they exited",
        found.amount(&copies)
    )];
    // Processes that are added up have no number of their own here.
    if !copies.pids.contains(&0) {
        evidence.push(format!("{} by one process, on average", size(each)));
    }
    if ended > 0 {
        evidence.push(format!("{} of the forked processes ended", count(ended)));
    }
    evidence.extend(copies.where_most());
    let what = if is_python {
        "A Python that ends destroys its objects one by one, and copies their pages for that."
    } else {
        "What runs at an exit, handlers and destructors, copies pages that go a moment later."
    };
    Some(Advice {
        id: "exit".to_owned(),
        title: if is_python {
            "`os._exit` at the end of workers"
        } else {
            "`_exit` at the end of workers"
        }
        .to_owned(),
        why: format!(
            "{what} This memory lives for milliseconds, and costs time and, where many end at once, \
             room. Handlers of the exit do not run then either: flush and close what must be kept."
        ),
        saves_bytes: copies.bytes,
        confidence: Confidence::High,
        how,
        evidence,
    })
}

/// How many forked processes ended, with those that are added up.
fn ended(found: &Found<'_>, copies: &Copies<'_>) -> u64 {
    let is_ended = |process: &Process| process.exited_at_s.is_some() && found.is_forked(process);
    let ended = found.processes(is_ended).len() as u64;
    let sums = found.profile.processes.iter();
    let sums = sums.filter_map(|process| process.stands_for);
    let others = if copies.pids.contains(&0) {
        sums.fold(0, u64::saturating_add)
    } else {
        0
    };
    ended.saturating_add(others)
}

#[cfg(test)]
mod tests {
    use super::super::made::{self, Made};
    use super::*;
    use crate::profile::{CauseName, Profile};

    fn leaving() -> Profile {
        let mut profile = made::profile(&[
            Made::new(400, CauseName::Refcount, "leave"),
            Made::new(300, CauseName::Data, "work"),
        ]);
        profile.call_sites[0].phase = Phase::Exit;
        for worker in &mut profile.processes[1..] {
            worker.exited_at_s = Some(50.0);
        }
        made::settle(&mut profile);
        profile
    }

    #[test]
    fn what_workers_copy_while_they_exit_is_saved() {
        let advice = advise(&Found::of(&leaving())).unwrap();
        assert_eq!(advice.title, "`os._exit` at the end of workers");
        assert_eq!(advice.saves_bytes, 800 * 4096);
        assert_eq!(
            advice.evidence,
            [
                "800 pages (3.1 MiB, 57% of what was copied) in 2 processes were copied while they \
                 exited",
                "1.6 MiB by one process, on average",
                "2 of the forked processes ended",
                "800 pages in `leave`, app.py:28",
            ]
        );
        assert!(!advice.how.iter().any(|line| line.contains("max_requests")));
    }

    #[test]
    fn where_many_end_it_also_says_to_recycle_less() {
        let mut profile = leaving();
        for pid in 1..=8 {
            let mut ended = profile.processes[1].clone();
            ended.pid = 5_000 + pid;
            profile.processes.push(ended);
        }
        let advice = advise(&Found::of(&profile)).unwrap();
        assert!(advice.how.iter().any(|line| line.contains("max_requests")));
    }

    #[test]
    fn in_another_language_it_is_exit_of_the_system() {
        let mut profile = leaving();
        for process in &mut profile.processes {
            process.interpreter = None;
        }
        let advice = advise(&Found::of(&profile)).unwrap();
        assert_eq!(advice.title, "`_exit` at the end of workers");
    }

    #[test]
    fn it_is_silent_of_what_runs_and_of_a_master_that_ends() {
        let profile = made::profile(&[Made::new(400, CauseName::Refcount, "leave")]);
        assert_eq!(advise(&Found::of(&profile)), None);
        let mut profile = leaving();
        profile.call_sites[0].processes = [(made::MASTER, 800)].into();
        made::settle(&mut profile);
        assert_eq!(advise(&Found::of(&profile)), None);
    }
}
