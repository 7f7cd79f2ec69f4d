//! How a trace begins and ends, and what it leaves behind.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{
    BpfObjects, Fixture, Report, Trace, Truth, fixture, privileged, requires, signal, trace,
};

#[test]
fn ctrl_c_ends_the_trace_with_a_report() {
    let mut fixture = requires!(Fixture::start(&["fork-child", "--pages", "1000"]));
    let trace = Trace::attach(fixture.pid);
    fixture.go();
    let truth = fixture.truth();
    let report = trace.finish();
    report.is(&truth);
    assert!(report.0.duration_s > 0.0);
}

#[test]
fn sigterm_ends_the_trace_with_a_report() {
    let mut fixture = requires!(Fixture::start(&["fork-child", "--pages", "1000"]));
    let trace = Trace::attach(fixture.pid);
    fixture.go();
    let truth = fixture.truth();
    signal(trace.pid(), libc::SIGTERM);
    trace.report().is(&truth);
}

#[test]
fn ctrl_c_twice_leaves_at_once_and_nothing_half_written() {
    let mut fixture = requires!(Fixture::start(&[
        "storm", "--forks", "1", "--pages", "50000"
    ]));
    let mut trace = Trace::attach(fixture.pid);
    fixture.go();
    fixture.truth();
    let begin = Instant::now();
    signal(trace.pid(), libc::SIGINT);
    signal(trace.pid(), libc::SIGINT);
    trace.ended();
    assert!(
        begin.elapsed() < Duration::from_secs(10),
        "{:?}",
        begin.elapsed()
    );
    if let Ok(text) = std::fs::read_to_string(trace.report_path()) {
        Report::read(&text);
    }
}

#[test]
fn the_targets_exit_ends_the_trace() {
    let mut fixture = requires!(Fixture::start(&["fork-child", "--pages", "1000"]));
    let trace = Trace::attach(fixture.pid);
    fixture.go();
    let truth = fixture.truth();
    fixture.exit();
    let report = trace.report();
    report.is(&truth);
    assert!(report.process(truth.processes[0].pid).exited_at_s.is_some());
}

#[test]
fn a_duration_ends_the_trace() {
    let mut fixture = requires!(Fixture::start(&["fork-child", "--pages", "1000"]));
    let pid = fixture.pid.to_string();
    let trace = Trace::with(["--duration", "3s", "--pid", &pid]);
    fixture.go();
    let truth = fixture.truth();
    let report = trace.report();
    report.is(&truth);
    let duration = report.0.duration_s;
    assert!((2.9..10.0).contains(&duration), "{duration}");
}

#[test]
fn with_a_pid_the_command_is_the_load() {
    let mut fixture = requires!(Fixture::start(&["fork-child", "--pages", "1000"]));
    let pid = fixture.pid.to_string();
    let trace = Trace::with(["--pid", &pid, "--", "sh", "-c", "sleep 3; exit 7"]);
    fixture.go();
    let truth = fixture.truth();
    let report = trace.report();
    report.is(&truth);
    assert_eq!(report.0.command, ["sh", "-c", "sleep 3; exit 7"]);
    let exit = report.0.command_exit.clone().expect("the load ended");
    assert_eq!((exit.status, exit.signal), (Some(7), None));
    let load = report
        .0
        .processes
        .iter()
        .filter(|process| process.comm == "sh")
        .count();
    assert_eq!(load, 0, "the load is not traced");
}

#[test]
fn without_a_pid_the_command_is_traced() {
    requires!(privileged());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let told = folder.path().join("truth");
    let program = fixture::path().display().to_string();
    let told_path = told.display().to_string();
    let way = [
        "--no-wait",
        "--truth",
        &told_path,
        "fork-child",
        "--pages",
        "1000",
    ];
    let trace = Trace::with(["--", &program].into_iter().chain(way));
    let report = trace.report();
    let mut line: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(told).expect("the truth")).expect("JSON");
    let truth: Truth = serde_json::from_value(line["done"].take()).expect("the truth");
    assert_eq!(truth.copied, 1000);
    // The pages were prepared during the trace too, so only copies are compared with the truth.
    report.is_lossless();
    let child = truth.processes[0].pid;
    assert_eq!(
        report.pages_by_process("dirty_in_child"),
        [(child, 1000)].into()
    );
    let exit = report.0.command_exit.clone().expect("the command ended");
    assert_eq!((exit.status, exit.signal), (Some(0), None));
}

#[test]
fn a_command_that_ends_at_once_has_its_exit_status() {
    requires!(privileged());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("report.json");
    for run in 0..50 {
        let status = Command::new(trace::path())
            .args(["--unwind", "off", "--python", "off", "--output"])
            .arg(&path)
            .args(["--", "sh", "-c", &format!("exit {run}")])
            .output()
            .expect("memtrace runs")
            .status;
        assert!(status.success(), "run {run}: {status}");
        let report = Report::read(&std::fs::read_to_string(&path).expect("a report"));
        let exit = report.0.command_exit.map(|exit| exit.status);
        assert_eq!(exit, Some(Some(run)), "run {run}");
    }
}

#[test]
fn a_memtrace_that_was_stopped_loses_records_and_no_counts() {
    let mut fixture = requires!(Fixture::start(&[
        "storm", "--forks", "4", "--pages", "100000"
    ]));
    let trace = Trace::attach(fixture.pid);
    signal(trace.pid(), libc::SIGSTOP);
    fixture.go();
    let truth = fixture.truth();
    signal(trace.pid(), libc::SIGCONT);
    let report = trace.finish();
    let totals = &report.0.totals;
    assert!(totals.lost.faults > 0, "{:?}", totals.lost);
    let (seen, noise) = (totals.copied_pages, 24 * 5);
    assert!(
        (truth.copied..truth.copied + noise).contains(&seen),
        "{seen}, {truth:#?}"
    );
    assert_eq!(report.0.processes.len(), 5);
    let lost = report
        .0
        .call_sites
        .iter()
        .filter(|site| &*site.site.function == "[lost]");
    assert_eq!(lost.map(|site| site.pages).sum::<u64>(), totals.lost.faults);
}

#[test]
fn a_killed_memtrace_leaves_nothing_attached() {
    let fixture = requires!(Fixture::start(&["fork-child", "--pages", "1000"]));
    let mut trace = Trace::attach(fixture.pid);
    let held = BpfObjects::held_by(trace.pid());
    assert!(
        held.has_programs(),
        "memtrace holds programs while it traces"
    );
    signal(trace.pid(), libc::SIGKILL);
    trace.ended();
    held.are_freed();
}

#[test]
fn command_runs_as_a_user_and_its_status_is_passed_on() {
    requires!(privileged());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let everybody: std::fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(folder.path(), everybody).expect("it is the test's");
    let mark = folder.path().join("who");
    let script = format!("id -un > {}; exit 7", mark.display());
    let report = folder.path().join("report.json").display().to_string();
    let mut command = Command::new(trace::path());
    trace::as_on_a_terminal(&mut command);
    let output = command
        .args([
            "-q",
            "--user",
            "nobody",
            "--exit-code",
            "command",
            "--no-cmdline",
        ])
        .args(["-o", &report, "--", "sh", "-c", &script])
        .output()
        .expect("it runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(7), "{errors}");
    assert_eq!(errors, "", "nothing is said");
    assert_eq!(std::fs::read_to_string(mark).expect("it ran"), "nobody\n");
    let report = Report::read(&std::fs::read_to_string(report).expect("a report"));
    assert_eq!(report.0.command, ["sh"]);
    assert!(
        report
            .0
            .processes
            .iter()
            .all(|process| process.cmdline.is_empty())
    );
    assert_eq!(report.0.command_exit.and_then(|exit| exit.status), Some(7));
}
