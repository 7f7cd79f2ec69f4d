use super::*;
use crate::profile::CallSite;
use crate::profile::sample::{sample, sample_of};

mod made;

use made::{MIB, Random, Run};

fn between(base: &Run, new: &Run) -> Difference {
    compare((&base.profile(), "base.json"), (&new.profile(), "new.json"))
}

/// The kinds of call sites that differ, by function.
fn kinds(difference: &Difference) -> Vec<(&str, Kind)> {
    let rows = difference
        .call_sites
        .iter()
        .filter(|row| row.is_significant());
    let named = rows.map(|row| match &row.what {
        What::CallSite { site, .. } => (&*site.function, row.kind),
        other => panic!("{other:?}"),
    });
    named.collect()
}

fn row<'a>(rows: &'a [Row], what: &What) -> &'a Row {
    rows.iter().find(|row| row.what == *what).unwrap()
}

#[test]
fn a_cause_that_is_gone_has_vanished_and_the_rest_stayed() {
    let mut random = Random::new(1);
    let base = Run::new(8)
        .site(
            "browse",
            CauseName::Refcount,
            &random.near(8, 9.0 * MIB, 0.03),
        )
        .site("collect", CauseName::Gc, &random.near(8, 12.3 * MIB, 0.03));
    let new = Run::new(8).site(
        "browse",
        CauseName::Refcount,
        &random.near(8, 9.0 * MIB, 0.03),
    );
    let difference = between(&base, &new);
    assert_eq!(kinds(&difference), [("collect", Kind::Vanished)]);
    assert_eq!(difference.unit, Unit::Worker);
    let gc = &difference.causes[0];
    assert_eq!(
        (&gc.what, gc.kind),
        (&What::Cause(CauseName::Gc), Kind::Vanished)
    );
    assert_eq!(gc.new.spread.unwrap().processes, 8);
    assert!((gc.base.figure / MIB - 12.3).abs() < 0.3);
    assert!(gc.judged.p.unwrap() < LEVEL);
    assert_eq!(difference.total.kind, Kind::Shrank);
    assert_eq!(
        row(&difference.causes, &What::Cause(CauseName::Refcount)).kind,
        Kind::Same
    );
    // The other way round it has appeared.
    let difference = between(&new, &base);
    assert_eq!(kinds(&difference), [("collect", Kind::Appeared)]);
    assert_eq!(difference.total.kind, Kind::Grew);
    assert_eq!(difference.copy_on_read.kind, Kind::Grew);
}

/// Two equal runs, made up in one of several ways; and how long they are.
fn equal_runs(way: u32, workers: usize, random: &mut Random) -> [Run; 2] {
    [(); 2].map(|()| {
        let loads = random.near(workers, 1.0, 0.4);
        (0..25).fold(Run::new(workers), |run, at| {
            let size = MIB * 4.0 / f64::from(1 + at);
            let run_effect = random.around(0.01);
            let bytes = match way {
                // Each worker copies all that there is, or nearly.
                0 => random.near(workers, size * run_effect, 0.005),
                // By chance.
                1 => random.near(workers, size, 0.6),
                // As it is busy.
                2 => loads.iter().map(|load| load * size).collect(),
                // Rarely, and then all.
                3 => (0..workers)
                    .map(|_| if random.unit() < 0.3 { size } else { 0.0 })
                    .collect(),
                // Few copy very much.
                _ => (0..workers)
                    .map(|_| size / random.unit().max(1e-3).sqrt())
                    .collect(),
            };
            let cause = [CauseName::Refcount, CauseName::Gc, CauseName::Data][at as usize % 3];
            run.site(&format!("f{at}"), cause, &bytes)
        })
    })
}

#[test]
fn equal_runs_differ_in_nothing_whatever_their_workers_do() {
    let mut said = Vec::new();
    for way in 0..5 {
        for workers in [2, 3, 4, 8, 16] {
            for seed in 0..60
                * if std::env::var_os("MANY").is_some() {
                    20
                } else {
                    1
                }
            {
                let mut random = Random::new(seed * 1_000 + u64::from(way) * 100 + workers as u64);
                let [base, new] = equal_runs(way, workers, &mut random);
                let difference = between(&base, &new);
                if difference.is_significant() {
                    said.push((way, workers, seed));
                }
            }
        }
    }
    assert!(said.is_empty(), "{} of 1500: {said:?}", said.len());
}

#[test]
fn the_same_run_twice_differs_in_nothing() {
    let profile = sample();
    let difference = compare((&profile, "a"), (&profile, "b"));
    assert!(!difference.is_significant());
    assert!(difference.rows().all(|row| row.change() == 0.0));
    let [base, new] = [&difference.base, &difference.new];
    assert_eq!((base.workers, base.processes), (new.workers, new.processes));
}

/// The call sites of both runs: where each was and is, by what it copied.
fn moves(base: &Run, new: &Run) -> Vec<(Option<u32>, Option<u32>, Option<String>)> {
    let difference = between(base, new);
    let mut rows: Vec<_> = (difference.call_sites.iter())
        .map(|row| {
            let What::CallSite {
                site, moved_from, ..
            } = &row.what
            else {
                panic!("{:?}", row.what)
            };
            let is = (row.new.bytes > 0).then_some(site.line).flatten();
            let was = moved_from.as_ref().unwrap_or(site).line;
            let was = (row.base.bytes > 0).then_some(was).flatten();
            (was, is, site.file.as_deref().map(str::to_owned))
        })
        .collect();
    rows.sort();
    rows
}

fn lines(base: &[(u32, f64)], new: &[(u32, f64)]) -> Vec<(Option<u32>, Option<u32>)> {
    let run = |lines: &[(u32, f64)]| {
        lines.iter().fold(Run::new(2), |run, &(line, size)| {
            let bytes = [size * MIB; 2];
            run.site_at("walk", ("/srv/app.py", line), CauseName::Refcount, &bytes)
        })
    };
    let moves = moves(&run(base), &run(new));
    moves.into_iter().map(|(was, is, _)| (was, is)).collect()
}

#[test]
fn lines_that_moved_are_the_same_lines() {
    let some = |pairs: &[(u32, u32)]| -> Vec<_> {
        pairs
            .iter()
            .map(|&(was, is)| (Some(was), Some(is)))
            .collect()
    };
    // All by as much, onto a line that there was.
    assert_eq!(
        lines(&[(212, 9.0), (219, 3.0)], &[(219, 9.0), (226, 3.0)]),
        some(&[(212, 219), (219, 226)])
    );
    // What is between them grew.
    assert_eq!(
        lines(&[(212, 9.0), (219, 3.0)], &[(213, 9.0), (240, 3.0)]),
        some(&[(212, 213), (219, 240)])
    );
    // Of what is rare, other lines are seen by chance.
    assert_eq!(
        lines(&[(212, 9.0), (219, 0.1)], &[(205, 0.1), (212, 9.0)]),
        some(&[(212, 212), (219, 205)])
    );
    // A line more is a line more.
    assert_eq!(
        lines(&[(212, 9.0)], &[(212, 9.0), (300, 3.0)]),
        [(None, Some(300)), (Some(212), Some(212))]
    );
}

#[test]
fn a_file_that_moved_is_the_same_file_and_files_of_one_name_are_not_mixed_up() {
    let run = |files: &[(&str, f64)]| {
        files.iter().fold(Run::new(2), |run, &(file, size)| {
            run.site_at("get", (file, 7), CauseName::Refcount, &[size * MIB; 2])
        })
    };
    let both = [
        ("/srv/shop/cart/views.py", 9.0),
        ("/srv/shop/user/views.py", 1.0),
    ];
    // Another release is in another folder.
    let moved = [
        ("/opt/v2/user/views.py", 1.0),
        ("/opt/v2/cart/views.py", 9.0),
    ];
    for new in [both, moved] {
        let difference = between(&run(&both), &run(&new));
        assert!(!difference.is_significant());
        assert!(difference.call_sites.iter().all(|row| row.change() == 0.0));
    }
    let other = [
        ("/srv/shop/cart/forms.py", 9.0),
        ("/srv/shop/user/views.py", 1.0),
    ];
    let difference = between(&run(&both), &run(&other));
    let mut kinds = kinds(&difference);
    kinds.sort();
    assert_eq!(kinds, [("get", Kind::Appeared), ("get", Kind::Vanished)]);
}

#[test]
fn what_each_worker_copies_once_is_not_less_in_a_longer_run_and_what_goes_on_not_more() {
    let mut random = Random::new(7);
    let mut run = |seconds: f64, once: f64, steady: f64| {
        Run::new(8)
            .lasting(seconds)
            .site("once", CauseName::Gc, &random.near(8, once * MIB, 0.03))
            .site(
                "steady",
                CauseName::Data,
                &random.near(8, steady * seconds * MIB, 0.03),
            )
    };
    let (short, long) = (run(10.0, 4.0, 0.5), run(40.0, 4.0, 0.5));
    let difference = between(&short, &long);
    assert!(!difference.is_significant(), "{:?}", kinds(&difference));
    let steady = row(&difference.causes, &What::Cause(CauseName::Data));
    assert_eq!(steady.judged.by, Reason::Length);
    // What is more than time explains is said.
    let worse = run(40.0, 4.0, 5.0);
    assert_eq!(kinds(&between(&short, &worse)), [("steady", Kind::Grew)]);
    // And what is less although there was more time for it.
    let better = run(40.0, 1.0, 0.5);
    assert_eq!(kinds(&between(&short, &better)), [("once", Kind::Shrank)]);
}

#[test]
fn workers_that_ended_by_themselves_were_not_cut_short_by_the_trace() {
    let mut random = Random::new(11);
    let mut run = |lived: f64, bytes: f64| {
        let bytes = random.near(8, bytes * MIB, 0.03);
        let run = Run::new(8).site("walk", CauseName::Refcount, &bytes);
        let mut profile = run.profile();
        for worker in profile.processes.iter_mut().skip(1) {
            worker.forked_at_s = Some(1.0);
            worker.exited_at_s = Some(1.0 + lived);
        }
        profile
    };
    let (slow, fast) = (run(2.0, 4.0), run(1.0, 2.0));
    let difference = compare((&slow, "base.json"), (&fast, "new.json"));
    assert_eq!(kinds(&difference), [("walk", Kind::Shrank)]);
    // Of those that were there at the end, more may have come later.
    let alive = |mut profile: Profile| {
        for worker in profile.processes.iter_mut().skip(1) {
            worker.forked_at_s = worker.exited_at_s.map(|lived| 11.0 - lived);
            worker.exited_at_s = None;
        }
        profile
    };
    let difference = compare((&alive(slow), "base.json"), (&alive(fast), "new.json"));
    assert_eq!(kinds(&difference), []);
}

#[test]
fn one_worker_on_a_side_has_no_spread_and_must_differ_much() {
    let run = |workers: usize, size: f64| {
        Run::new(workers).site("walk", CauseName::Refcount, &vec![size * MIB; workers])
    };
    for base in [1, 8] {
        let difference = between(&run(base, 2.0), &run(1, 4.0));
        assert!(!difference.is_significant());
        assert_eq!(difference.total.judged.by, Reason::NoSpread);
        assert_eq!(difference.total.judged.p, None);
        let difference = between(&run(base, 2.0), &run(1, 7.0));
        assert_eq!(kinds(&difference), [("walk", Kind::Grew)]);
        assert_eq!(difference.total.judged.by, Reason::LargeFactor);
        assert!(
            difference.notes[0].contains("one worker"),
            "{:?}",
            difference.notes
        );
    }
}

#[test]
fn without_workers_figures_are_of_the_trace_or_of_a_second() {
    let run = |seconds, size: f64| {
        let run = Run::new(0).lasting(seconds);
        run.by_master("walk", CauseName::Data, size * MIB)
    };
    let difference = between(&run(10.0, 2.0), &run(10.1, 7.0));
    assert_eq!(difference.unit, Unit::Trace);
    assert_eq!(kinds(&difference), [("walk", Kind::Grew)]);
    assert_eq!(difference.total.new.spread, None);
    let difference = between(&run(10.0, 2.0), &run(40.0, 8.0));
    assert_eq!(difference.unit, Unit::Second);
    assert!(!difference.is_significant());
    assert_eq!(difference.total.relative(), Some(0.0));
    assert_eq!(difference.total.judged.by, Reason::Length);
}

#[test]
fn what_the_master_copies_is_judged_beside_the_workers() {
    let mut random = Random::new(3);
    let bytes = random.near(8, 4.0 * MIB, 0.05);
    let base = Run::new(8).site("walk", CauseName::Refcount, &bytes);
    let new = base
        .clone()
        .by_master("reload", CauseName::Data, 20.0 * MIB);
    let difference = between(&base, &new);
    assert_eq!(kinds(&difference), [("reload", Kind::Appeared)]);
    let reload = &difference.call_sites[0];
    assert_eq!(
        (reload.judged.unit, reload.judged.by),
        (Unit::Trace, Reason::LargeFactor)
    );
    // The workers' average has not changed.
    assert_eq!(difference.total.judged.unit, Unit::Trace);
}

#[test]
fn roles_are_compared_by_kind_and_name_or_without_them_by_name() {
    let mut random = Random::new(5);
    let mut run = |size: f64| {
        let bytes = random.near(6, size * MIB, 0.05);
        Run::new(6)
            .site("walk", CauseName::Refcount, &bytes)
            .profile()
    };
    let (base, new) = (run(2.0), run(8.0));
    for profiles in [
        [&base, &new].map(Clone::clone),
        [base, new].map(made::with_roles),
    ] {
        let [base, new] = profiles;
        let difference = compare((&base, "a"), (&new, "b"));
        let worker = &difference.roles[0];
        let What::Role { kind, name } = &worker.what else {
            panic!("{:?}", worker.what);
        };
        assert_eq!((&**kind, &**name), ("worker", "server"));
        assert_eq!(
            (worker.kind, worker.judged.unit),
            (Kind::Grew, Unit::Process)
        );
        assert_eq!(difference.roles.len(), 2);
        assert_eq!(difference.roles[1].kind, Kind::Same);
    }
}

#[test]
fn a_worker_goes_on_with_the_program_that_forked_it() {
    let profile = sample();
    let pids: Vec<u32> = Workers::of(&profile).pids.into_iter().collect();
    assert_eq!(pids, [4243, 4244, 4245, 4246, 4247]);
    let mut profile = profile;
    profile.processes[4].before = vec!["gunicorn".to_owned()];
    profile.processes[5].ppid = 1;
    profile.processes[3].stands_for = Some(7);
    let pids: Vec<u32> = Workers::of(&profile).pids.into_iter().collect();
    assert_eq!(pids, [4243, 4244]);
    // Of two processes of one id, which call sites cannot tell apart, there is one.
    profile.processes[2].pid = 4243;
    assert_eq!(Workers::of(&profile).count(), 1);
}

#[test]
fn types_and_frames_of_the_application_are_compared_too() {
    let mut random = Random::new(9);
    let mut run = |size: f64| {
        let bytes = random.near(8, size * MIB, 0.05);
        Run::new(8)
            .site("loads", CauseName::Refcount, &bytes)
            .with(|site| {
                site.object_type = Some("dict".into());
                let mut app = site.site.clone();
                app.function = "checkout".into();
                site.app = Some(app);
            })
    };
    let difference = between(&run(1.0), &run(3.0));
    assert_eq!(difference.types[0].what, What::Type("dict".into()));
    assert_eq!(difference.types[0].kind, Kind::Grew);
    let What::AppFrame {
        site, by_library, ..
    } = &difference.app_frames[0].what
    else {
        panic!("{:?}", difference.app_frames[0].what);
    };
    assert_eq!((&*site.function, *by_library), ("checkout", true));
    assert_eq!(difference.app_frames[0].kind, Kind::Grew);
}

#[test]
fn figures_are_also_by_process_by_second_and_by_fork() {
    let mut profile = Run::new(3)
        .site("walk", CauseName::Gc, &[4.0 * MIB; 3])
        .profile();
    for process in &mut profile.processes[2..] {
        process.forked_at_s = Some(5.0);
    }
    let difference = compare((&profile, "a"), (&profile, "b"));
    let amount = difference.total.base;
    let mib = |bytes: f64| Some(bytes / MIB);
    assert_eq!(mib(amount.bytes as f64), Some(12.0));
    assert_eq!(mib(amount.per_process), Some(3.0));
    assert_eq!(amount.per_second.and_then(mib), Some(1.2));
    assert_eq!(amount.per_fork.and_then(mib), Some(4.0));
    assert_eq!(mib(amount.figure), Some(4.0));
    assert_eq!(difference.base.forks, 2);
    // On average they were traced for 10 and twice 5 of 10 seconds.
    assert!((difference.base.worker_s - 20.0 / 3.0).abs() < 1e-9);
}

#[test]
fn a_profile_of_impossible_figures_does_no_harm() {
    let base = Run::new(3).site("walk", CauseName::Gc, &[MIB; 3]).profile();
    let mut hostile = base.clone();
    for site in &mut hostile.call_sites {
        (site.bytes, site.pages) = (u64::MAX, 0);
        site.processes = [(4243, u64::MAX), (4244, u64::MAX), (7, 1), (0, u64::MAX)].into();
        site.site.line = Some(u32::MAX);
    }
    let again = hostile.call_sites.clone();
    hostile.call_sites.extend(again);
    hostile.totals.copied_bytes = u64::MAX;
    for process in &mut hostile.processes {
        process.copied_bytes = u64::MAX;
        process.forked_at_s = Some(f64::INFINITY);
        process.exited_at_s = Some(f64::NEG_INFINITY);
        process.stands_for = (process.pid == 4245).then_some(u64::MAX);
    }
    for duration in [0.0, f64::NAN, f64::INFINITY, 1e-300, 1e300] {
        hostile.duration_s = duration;
        for (a, b) in [(&base, &hostile), (&hostile, &base), (&hostile, &hostile)] {
            let difference = compare((a, "a"), (b, "b"));
            serde_json::to_string(&difference).unwrap();
        }
    }
    let mut empty = base.clone();
    empty.processes.clear();
    empty.call_sites.clear();
    let difference = compare((&base, "a"), (&empty, "b"));
    assert_eq!(difference.unit, Unit::Trace);
    let difference = compare((&empty, "a"), (&empty, "b"));
    assert!(!difference.is_significant());
}

#[test]
fn very_many_lines_of_one_function_are_matched_in_their_order() {
    let run = |lines: u32| {
        (0..lines).fold(Run::new(1), |run, line| {
            run.site_at("walk", ("/srv/app.py", line), CauseName::Gc, &[4096.0])
        })
    };
    let difference = between(&run(300), &run(310));
    assert_eq!(difference.call_sites.len(), 310);
}

#[test]
fn what_makes_a_comparison_doubtful_is_said() {
    let (base, mut new) = (sample(), crate::profile::sample::sample_with_losses());
    new.host.kernel = "6.1.0".to_owned();
    new.processes[5].stands_for = Some(2_000);
    let difference = compare((&base, "base.json"), (&new, "new.json"));
    insta::assert_snapshot!(difference.notes.join("\n"), @"
    new.json has lost records of copies, which have no call site: what seems to have vanished or appeared may be among them.
    new.json has processes or threads that could not be traced, and their copies are missing.
    new.json has 2000 processes added up that had ended; they are not among the workers.
    The two were recorded with different kernels: 6.12.41-cloud-amd64 and 6.1.0.
    ");
    let same = compare((&base, "base.json"), (&base, "new.json"));
    assert_eq!(same.notes, [""; 0]);
}
