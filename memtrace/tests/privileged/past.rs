//! What happened is shown as it was then, however late memtrace gets to it: programs that were
//! replaced, processes that have ended, names that were written at the end.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;
use tempfile::TempDir;

use crate::support::{Fixture, Report, Trace, fixture, privileged, requires, signal, tool, trace};

/// Programs of `tests/past`, compiled into a temporary folder.
struct Programs(TempDir);

impl Programs {
    fn new() -> Self {
        Self(TempDir::new().expect("a temporary folder"))
    }

    fn compile(&self, name: &str, options: &[&str]) -> PathBuf {
        let program = self.0.path().join(name);
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/past");
        let mut command = Command::new("gcc");
        command.args(["-O1", "-g", "-fno-omit-frame-pointer", "-o"]);
        command.arg(&program).arg(sources.join(format!("{name}.c")));
        let status = command.args(options).status().expect("the compiler runs");
        assert!(status.success(), "{command:?}");
        program
    }
}

#[derive(Debug, Deserialize)]
struct Forked {
    pages_each: u64,
    pids: Vec<u32>,
}

/// How many children are forked, and how far apart.
const CHILDREN: &str = "100";
const APART_US: &str = "10000";

/// Children copy and then become another program, which has other functions at the same addresses.
fn copies_before_an_exec_are_of_the_old_program(options: &[&str], is_late: bool) {
    requires!(privileged());
    requires!(tool("gcc"));
    let programs = Programs::new();
    let next = programs.compile("next", options);
    let mut command = Command::new(programs.compile("forks", options));
    command.arg(&next).args([CHILDREN, APART_US]);
    let mut fixture = Fixture::run(&mut command).expect("it starts");
    let trace = Trace::attach(fixture.pid);
    fixture.go();
    if is_late {
        for _ in 0..5 {
            signal(trace.pid(), libc::SIGSTOP);
            std::thread::sleep(Duration::from_millis(100));
            signal(trace.pid(), libc::SIGCONT);
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    let truth: Forked = fixture.done();
    let report = trace.finish();
    fixture.exit();
    report.is_lossless();
    let seen = report.pages_by_process("a_writes");
    let wrong = truth
        .pids
        .iter()
        .filter(|&pid| seen.get(pid) != Some(&truth.pages_each));
    let wrong: Vec<_> = wrong.map(|pid| (pid, seen.get(pid))).collect();
    assert!(
        wrong.is_empty(),
        "{} of {} processes have not {} pages in a_writes: {wrong:?}",
        wrong.len(),
        truth.pids.len(),
        truth.pages_each
    );
    let of_next: Vec<_> = named(&report, |function| function.starts_with("b_")).collect();
    assert!(of_next.is_empty(), "copied in {of_next:?}");
}

/// The functions in stacks that satisfy `is`.
fn named(report: &Report, is: impl Fn(&str) -> bool) -> impl Iterator<Item = String> {
    let stacks = report.0.call_sites.iter().flat_map(|site| &site.stacks);
    let frames = stacks.flat_map(|stack| stack.frames.iter());
    frames
        .filter(move |frame| is(&frame.function))
        .map(|frame| frame.function.to_string())
}

#[test]
fn copies_before_an_exec_have_the_names_of_the_old_program() {
    copies_before_an_exec_are_of_the_old_program(&[], false);
}

#[test]
fn copies_before_an_exec_have_the_names_of_the_old_program_at_fixed_addresses() {
    copies_before_an_exec_are_of_the_old_program(&["-no-pie"], false);
}

#[test]
fn copies_before_an_exec_have_the_names_of_the_old_program_however_late() {
    copies_before_an_exec_are_of_the_old_program(&[], true);
}

#[test]
fn copies_before_an_exec_have_the_names_of_the_old_program_at_fixed_addresses_however_late() {
    copies_before_an_exec_are_of_the_old_program(&["-no-pie"], true);
}

/// A library that was opened after the program began has its names, although nobody is left to ask.
#[test]
fn a_library_that_was_opened_before_everybody_ended_has_its_names() {
    requires!(privileged());
    requires!(tool("gcc"));
    let programs = Programs::new();
    let program = programs.compile("opens", &[]);
    let library = program.with_file_name("libopened.so");
    let output = library.to_str().expect("a path");
    programs.compile("opens", &["-DLIBRARY", "-shared", "-fPIC", "-o", output]);
    let report = Trace::with(["--".as_ref(), program.as_os_str(), library.as_os_str()]).report();
    let seen: u64 = report.pages_by_process("in_library").values().sum();
    assert_eq!(seen, 300);
    let mut stacks = report.sites_in("in_library").flat_map(|site| &site.stacks);
    assert!(stacks.all(|stack| !stack.truncated), "{seen}");
}

/// What the kernel calls the fixture.
const FIXTURE: &str = "memtrace-fixtur";

#[test]
fn a_process_shows_which_programs_it_was_before() {
    requires!(privileged());
    let fixture = fixture::path().display();
    let script = format!(
        "echo '{{\"ready\": {{\"pid\": '$$'}}}}'; read order; \
         exec {fixture} fork-child --pages 100"
    );
    let mut shell = Fixture::run(Command::new("sh").args(["-c", &script])).expect("it starts");
    let pid = shell.pid;
    let trace = Trace::attach(pid);
    shell.go();
    // The fixture says that it is ready too.
    let _: serde_json::Value = shell.done();
    shell.go();
    let _: serde_json::Value = shell.done();
    let report = trace.finish();
    shell.exit();
    let row = report.process(pid);
    assert_eq!(
        (&row.before[..], &*row.comm),
        (&["sh".to_owned()][..], FIXTURE),
        "{row:?}"
    );
    assert_eq!(
        row.cmdline.get(1).map(String::as_str),
        Some("fork-child"),
        "{row:?}"
    );
    // Those that it forked as its last program were never anything else.
    let forked = report.0.processes.iter().filter(|row| row.pid != pid);
    let forked: Vec<_> = forked.map(|row| (&row.before[..], &*row.comm)).collect();
    assert_eq!(forked, [(&[][..], FIXTURE), (&[][..], FIXTURE)]);
}

#[test]
fn the_command_was_nothing_before_its_own_first_program() {
    requires!(privileged());
    let folder = TempDir::new().expect("a temporary folder");
    let report_path = folder.path().join("report.json");
    let script = format!(
        "exec {} --no-wait fork-child --pages 100",
        fixture::path().display()
    );
    let output = Command::new(trace::path())
        .arg("--output")
        .arg(&report_path)
        .args(["--", "sh", "-c", &script])
        .output()
        .expect("memtrace runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    let report = Report::read(&std::fs::read_to_string(report_path).expect("a report"));
    let command = report.0.processes.iter().find(|row| !row.before.is_empty());
    let command = command.expect("the command was a shell");
    assert_eq!(
        (&command.before[..], &*command.comm),
        (&["sh".to_owned()][..], FIXTURE)
    );
    assert!(text.contains("sh -> memtrace-fixtur"), "{text}");
    let is_memtrace = |name: &String| name == "memtrace";
    let mut rows = report.0.processes.iter();
    assert!(!rows.any(|row| is_memtrace(&row.comm) || row.before.iter().any(is_memtrace)));
}

#[test]
fn of_very_many_processes_those_that_copied_least_are_added_up() {
    let mut fixture = requires!(Fixture::start(&["children", "--children", "1500"]));
    let trace = Trace::attach(fixture.pid);
    fixture.go();
    let truth = fixture.truth();
    // Until the next look at what has ended.
    std::thread::sleep(Duration::from_millis(300));
    let report = trace.finish();
    report.is_lossless();
    let rows = &report.0.processes;
    assert!(rows.len() <= 1300, "{} rows", rows.len());
    let others: Vec<_> = rows.iter().filter(|row| row.stands_for.is_some()).collect();
    let [others] = others[..] else {
        panic!("{} rows stand for others", others.len())
    };
    assert_eq!((others.pid, &*others.comm), (0, ""), "{others:?}");
    // The children, and the process that forked them.
    let count: u64 = rows.iter().map(memtrace::profile::Process::count).sum();
    assert_eq!(count, 1501);
    let seen = report.pages_in("dirty_in_short_lived");
    assert_eq!(seen.values().sum::<u64>(), truth.copied);
    let by_process = report.pages_by_process("dirty_in_short_lived");
    let single = truth
        .processes
        .iter()
        .filter(|process| rows.iter().any(|row| row.pid == process.pid));
    let (mut rest, mut several) = (truth.copied, 0);
    for process in single {
        assert_eq!(
            by_process.get(&process.pid),
            Some(&process.copied),
            "{process:?}"
        );
        rest -= process.copied;
        several += 1;
    }
    assert!(several >= 1000, "{several} have a row of their own");
    assert_eq!(by_process.get(&0), Some(&rest));
    let said = report
        .0
        .warnings
        .iter()
        .find(|text| text.contains("added up in one row"));
    let said = said.expect("a warning names the bound");
    assert!(
        said.starts_with(&format!("{} processes", others.count())),
        "{said}"
    );
    assert!(said.contains("1000"), "{said}");
}

#[derive(Debug, Deserialize)]
struct Made {
    pid: u32,
    pages: u64,
}

/// More than memtrace keeps of one program as they arrived.
const DISTINCT: &str = "70000";

#[test]
fn more_stacks_of_made_code_than_can_be_kept_are_all_counted() {
    requires!(privileged());
    requires!(tool("gcc"));
    let programs = Programs::new();
    let mut command = Command::new(programs.compile("made", &[]));
    let mut fixture = Fixture::run(command.args([DISTINCT, "10000"])).expect("it starts");
    let trace = Trace::attach(fixture.pid);
    fixture.go();
    let truth: Made = fixture.done();
    let mut trace = trace;
    signal(trace.pid(), libc::SIGINT);
    let status = trace.ended();
    assert!(status.success(), "{status}: {}", trace.messages());
    let text = std::fs::read_to_string(trace.report_path()).expect("a report");
    let (report, size) = (Report::read(&text), text.len());
    fixture.exit();
    let lost = &report.0.totals.lost;
    println!("{size} bytes, {lost:?}, {:?}", report.0.warnings);
    assert_eq!((lost.faults, lost.processes, lost.threads), (0, 0, 0));
    let copied = report.process(truth.pid).copied_pages;
    assert!(
        (truth.pages..truth.pages + 500).contains(&copied),
        "{copied} of {}",
        truth.pages
    );
    assert!(lost.stacks <= 1000, "{lost:?}");
    let through: u64 = report.pages_in("calls_made_code").values().sum();
    assert!(
        through + lost.stacks >= truth.pages,
        "{through} of {}",
        truth.pages
    );
    assert!(size <= 5 << 20, "{size} bytes");
}

/// A worker that writes its role so long after its start, and ends a second later.
fn shows_its_role(milliseconds: &str) {
    requires!(privileged());
    requires!(tool("gcc"));
    let programs = Programs::new();
    let mut command = Command::new(programs.compile("role", &[]));
    command.args([milliseconds, "what", "follows", "is", "written", "over"]);
    let mut fixture = Fixture::run(&mut command).expect("it starts");
    let trace = Trace::attach(fixture.pid);
    fixture.go();
    let pid: u32 = fixture.done();
    let report = trace.finish();
    let row = report.process(pid);
    assert_eq!(row.cmdline, ["role: worker 7"]);
    assert!(
        report.process(fixture.pid).cmdline.len() > 2,
        "its parent has its own"
    );
}

#[test]
fn a_role_that_was_written_over_the_arguments_is_shown() {
    shows_its_role("100");
}

#[test]
fn a_role_that_was_written_late_is_shown() {
    shows_its_role("1200");
}
