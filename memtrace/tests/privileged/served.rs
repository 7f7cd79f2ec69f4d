//! Files that somebody serves, who may stop answering.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::served::{Served, Stuck};
use crate::support::{Fixture, Report, Trace, Why, fixture, requires, skip, tool};

/// How long is traced.
const DURATION: f64 = 3.0;

/// By how much the trace may be longer: 0.2 s for the file, and what a machine needs that does ten
/// other things. A trace that waits for the file never ends.
const LATE: f64 = 5.0;

/// Bytes behind the program that nobody has read yet.
const UNREAD: usize = 8 << 20;

/// Mounts an overlay over the folder of the second argument, in the mount namespace of this process
/// alone, and becomes the program in it.
const IN_OVERLAY: &str = "mount -t tmpfs none \"$1\" && mkdir \"$1\"/up \"$1\"/work \"$1\"/all && \
     mount -t overlay -o lowerdir=\"$2\",upperdir=\"$1\"/up,workdir=\"$1\"/work none \"$1\"/all && \
     exec \"$1\"/all/served fork-child --pages 1000";

/// A served program, where it is mounted.
struct Program {
    served: Served,
    folder: tempfile::TempDir,
}

impl Program {
    fn serve() -> Result<Self, Why> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut content = std::fs::read(fixture::path()).expect("the fixture is there");
        let size = content.len();
        content.resize(size + UNREAD, 0);
        Ok(Self {
            served: Served::mount(folder.path(), content, size)?,
            folder,
        })
    }

    fn run(&self) -> Result<Fixture, Why> {
        let mut command = Command::new(self.served.path());
        Fixture::run(command.args(["fork-child", "--pages", "1000"]))
    }
}

/// What a report says of the served file.
fn why_not(report: &Report) -> &str {
    let mut modules = report.0.modules.iter();
    let module = modules.find(|module| module.path.ends_with("/served"));
    let why = module.expect("it is mapped").why.as_deref();
    why.unwrap_or("nothing")
}

fn is_survived(program: &Program, stuck: Stuck, mut fixture: Fixture) {
    program.served.stop_answering(stuck);
    let pid = fixture.pid.to_string();
    let began = Instant::now();
    let trace = Trace::with(["--pid", &pid, "--duration", &format!("{DURATION}s")]);
    let attached = began.elapsed();
    fixture.go();
    let truth = fixture.truth();
    // memtrace ends although the request is not answered to this moment.
    let report = trace.report();
    report.is_lossless();
    report.counts_processes(&truth);
    let why = why_not(&report);
    assert!(why.contains("did not answer within 0.2 s"), "{why}");
    let duration = report.0.duration_s;
    assert!(
        (DURATION..DURATION + LATE).contains(&duration),
        "{duration} s"
    );
    assert!(attached < Duration::from_secs(30), "{attached:?}");
}

#[test]
fn a_file_that_never_opens_holds_nothing_up() {
    let program = requires!(Program::serve());
    let fixture = requires!(program.run());
    is_survived(&program, Stuck::Open, fixture);
}

#[test]
fn a_file_whose_reads_are_never_answered_holds_nothing_up() {
    let program = requires!(Program::serve());
    let fixture = requires!(program.run());
    is_survived(&program, Stuck::Read, fixture);
}

#[test]
fn a_served_file_in_an_overlay_of_somebody_s_own_holds_nothing_up() {
    requires!(tool("unshare"));
    let program = requires!(Program::serve());
    let systems = std::fs::read_to_string("/proc/filesystems").expect("it is readable");
    if !systems.lines().any(|line| line.ends_with("\toverlay")) {
        return skip(&Why::Unavailable("this kernel has no overlayfs".into()));
    }
    let overlay = tempfile::tempdir().expect("a temporary folder");
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", IN_OVERLAY, "sh"])
        .args([overlay.path(), program.folder.path()]);
    let fixture = requires!(Fixture::run(&mut command));
    is_survived(&program, Stuck::Read, fixture);
}

#[test]
fn a_file_that_is_served_well_has_its_names() {
    let program = requires!(Program::serve());
    let mut fixture = requires!(program.run());
    let trace = Trace::attach(fixture.pid);
    fixture.go();
    let truth = fixture.truth();
    let report = trace.finish();
    assert_eq!(why_not(&report), "nothing");
    report.is(&truth);
}
