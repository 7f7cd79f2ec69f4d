//! Processes that become Python one after the other.

use serde::Deserialize;

use super::{Copies, Place, about, on};
use crate::support::{Python, Trace, Why};

#[derive(Debug, Deserialize)]
struct Programs {
    programs: Vec<Program>,
    site: Place,
}

/// A program that ran for a moment.
#[derive(Debug, Deserialize)]
struct Program {
    pid: u32,
    /// The child that it forked.
    child: u32,
    /// Pages with objects that its child touched.
    pages: u64,
}

/// By how much memtrace's memory may grow from the tenth interpreter to the twentieth, in KiB:
/// mappings and code objects of one interpreter are more than a tenth of this.
const GROWTH_KIB: u64 = 1024;

/// Twenty programs that are Python, each of them only for a moment.
fn becomes_python_again_and_again(python: &Python) -> Result<(), Why> {
    let mut fixture = python.start("execs.py", &["--programs", "20"])?;
    let trace = Trace::attach(fixture.pid);
    let mut programs = Vec::new();
    let mut memory = Vec::new();
    let mut site = None;
    for _ in 0..2 {
        fixture.go();
        let half: Programs = fixture.done();
        programs.extend(half.programs);
        site = Some(half.site);
        // What has ended is let go a little later.
        std::thread::sleep(std::time::Duration::from_millis(1500));
        memory.push(anonymous_kib(trace.pid()));
    }
    let site = site.expect("there were two halves");
    let report = trace.finish();
    fixture.exit();
    report.is_lossless();
    assert_eq!(programs.len(), 20);
    for program in &programs {
        let copies = Copies::of(&report, [program.child]);
        let pages = copies.pages(|copied| site.is(copied));
        about(
            &format!(
                "child {} of {}\n{}",
                program.child,
                program.pid,
                copies.shown()
            ),
            pages,
            program.pages,
            program.pages / 50 + 4,
        );
        let row = report.process(program.pid);
        assert!(row.interpreter.is_some(), "{row:?}");
        assert_eq!(row.before.len(), 1, "{row:?}");
    }
    println!("anonymous memory: {memory:?} KiB");
    assert!(memory[1] <= memory[0] + GROWTH_KIB, "grew: {memory:?} KiB");
    Ok(())
}

/// Anonymous memory of a process.
fn anonymous_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("memtrace runs");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.expect("a size in KiB")
}

#[test]
fn debians_python_becomes_python_again_and_again() {
    on("debian", becomes_python_again_and_again);
}

#[test]
fn python3_13_becomes_python_again_and_again() {
    on("3.13", becomes_python_again_and_again);
}
