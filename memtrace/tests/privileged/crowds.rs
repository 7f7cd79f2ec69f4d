//! Process trees that grow, change their program and die while they are traced.

use std::collections::BTreeMap;

use crate::support::{Fixture, Report, Trace, Truth, requires};

/// Each process of the truth has exactly its copies, in the function where it made them.
fn each_has_its_own(report: &Report, truth: &Truth) {
    let mut expected: BTreeMap<&str, BTreeMap<u32, u64>> = BTreeMap::new();
    for process in &truth.processes {
        let by_pid = expected.entry(&process.function).or_default();
        *by_pid.entry(process.pid).or_default() += process.copied;
    }
    for (function, by_pid) in expected {
        let mut seen = report.pages_by_process(function);
        seen.retain(|pid, _| by_pid.contains_key(pid));
        let wrong: Vec<_> = by_pid
            .iter()
            .filter(|&(pid, pages)| seen.get(pid) != Some(pages))
            .collect();
        assert!(
            wrong.is_empty(),
            "{} of {} processes are wrong in {function}, first (pid, pages): {:?}, seen: {:?}",
            wrong.len(),
            by_pid.len(),
            wrong[0],
            seen.get(wrong[0].0)
        );
    }
}

#[test]
fn workers_forked_during_the_trace_have_their_own_counts() {
    let mut fixture = requires!(Fixture::start(&["workers", "--workers", "64"]));
    let trace = Trace::attach(fixture.pid);
    fixture.go();
    let truth = fixture.truth();
    let report = trace.finish();
    assert_eq!(truth.processes.len(), 64);
    report.is(&truth);
    each_has_its_own(&report, &truth);
    for process in &truth.processes {
        let row = report.process(process.pid);
        assert_eq!(row.ppid, fixture.pid);
        assert!(row.forked_at_s.is_some(), "{row:?}");
        assert_eq!(row.exited_at_s, None, "{row:?}");
    }
    fixture.exit();
}

#[test]
fn short_lived_children_are_all_there() {
    let mut fixture = requires!(Fixture::start(&["children", "--children", "1000"]));
    let trace = Trace::attach(fixture.pid);
    fixture.go();
    let truth = fixture.truth();
    let report = trace.finish();
    assert_eq!(truth.processes.len(), 1000);
    report.is(&truth);
    each_has_its_own(&report, &truth);
    for process in &truth.processes {
        let row = report.process(process.pid);
        let (forked, exited) = (
            row.forked_at_s.expect("seen"),
            row.exited_at_s.expect("seen"),
        );
        assert!(forked <= exited, "{row:?}");
    }
}

#[test]
fn nothing_forked_while_attaching_is_missed() {
    let mut fixture = requires!(Fixture::start(&["forker"]));
    let trace = Trace::attach(fixture.pid);
    fixture.go();
    let truth = fixture.truth();
    let report = trace.finish();
    assert!(
        truth.processes.len() > 100,
        "only {} children count",
        truth.processes.len()
    );
    report.is_lossless();
    each_has_its_own(&report, &truth);
}

#[test]
fn a_killed_worker_keeps_its_count() {
    let mut fixture = requires!(Fixture::start(&["killed"]));
    let trace = Trace::attach(fixture.pid);
    fixture.go();
    let truth = fixture.truth();
    let report = trace.finish();
    assert!((10_000..20_000).contains(&truth.copied));
    report.is(&truth);
    each_has_its_own(&report, &truth);
    assert!(report.process(truth.processes[0].pid).exited_at_s.is_some());
}

#[test]
fn a_process_is_traced_over_exec() {
    let mut fixture = requires!(Fixture::start(&["exec", "--pages", "3000"]));
    let trace = Trace::attach(fixture.pid);
    fixture.go();
    let truth = fixture.truth();
    let report = trace.finish();
    assert_eq!(truth.copied, 6000);
    report.is_lossless();
    each_has_its_own(&report, &truth);
    let after = report.pages_in("dirty_after_exec");
    assert_eq!(after, BTreeMap::from([("file".to_owned(), 3000)]));
}

#[test]
fn without_follow_only_the_given_process_counts() {
    let mut fixture = requires!(Fixture::start(&["second-writer"]));
    let pid = fixture.pid.to_string();
    let trace = Trace::with(["--no-follow", "--pid", &pid]);
    fixture.go();
    fixture.truth();
    let report = trace.finish();
    assert!(report.pages_in("dirty_in_child").is_empty());
    let pids: Vec<u32> = report
        .0
        .processes
        .iter()
        .map(|process| process.pid)
        .collect();
    assert_eq!(pids, [fixture.pid]);
}

#[test]
fn without_follow_the_given_process_counts() {
    let mut fixture = requires!(Fixture::start(&["fork-parent"]));
    let pid = fixture.pid.to_string();
    let trace = Trace::with(["--no-follow", "--pid", &pid]);
    fixture.go();
    let truth = fixture.truth();
    trace.finish().is(&truth);
}

#[test]
fn a_storm_in_parallel_loses_nothing() {
    let mut fixture = requires!(Fixture::start(&[
        "storm",
        "--parallel",
        "--forks",
        "4",
        "--pages",
        "50000"
    ]));
    let trace = Trace::attach(fixture.pid);
    fixture.go();
    let truth = fixture.truth();
    let report = trace.finish();
    assert_eq!(truth.copied, 200_000);
    report.is(&truth);
    each_has_its_own(&report, &truth);
}

#[test]
fn many_distinct_stacks_are_all_told_apart() {
    let arguments = [
        "stacks",
        "--distinct",
        "2000",
        "--pages",
        "20000",
        "--region-pages",
        "20000",
    ];
    let mut fixture = requires!(Fixture::start(&arguments));
    let trace = Trace::attach(fixture.pid);
    fixture.go();
    let truth = fixture.truth();
    let report = trace.finish();
    assert_eq!(truth.copied, 20_000);
    report.is(&truth);
    let stacks: Vec<_> = report
        .sites_in("distinct_leaf")
        .flat_map(|site| &site.stacks)
        .collect();
    assert_eq!(stacks.len(), 2000);
    assert!(stacks.iter().all(|stack| stack.pages == 10));
}
