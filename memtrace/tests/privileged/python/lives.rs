//! Processes that become Python, that are gone at once, and that hold more than one interpreter.

use std::collections::BTreeMap;

use memtrace::profile::{CauseName, Language, Phase};
use serde::Deserialize;

use super::{
    Copies, NOISE_OF_A_FORK, Place, Worker, about, on, on_every_python, trace, trace_with,
};
use crate::support::{Fixture, Python, Report, Why};

on_every_python! {
    exit_at_once
    exits
    becomes_python
    subinterpreters
    packaged
}

/// Functions in which CPython ends, or prepares to, and those that call them where the name of these
/// is gone.
const ENDING: [&str; 7] = [
    "Py_FinalizeEx",
    "_Py_Finalize",
    "Py_Exit",
    "_Py_HandleSystemExit",
    "PyErr_PrintEx",
    "_PyErr_PrintEx",
    // Of a stripped 3.14 this is the only name that is left.
    "Py_RunMain",
];

#[derive(Debug, Deserialize)]
struct ExitAtOnce {
    pids: Vec<u32>,
    pages_each: u64,
    site: Place,
}

fn exit_at_once(python: &Python) -> Result<(), Why> {
    let (report, truth) = trace::<ExitAtOnce>(python.start("exit_at_once.py", &[])?);
    for &pid in &truth.pids {
        let all = report.process(pid).copied_pages;
        assert!(
            (truth.pages_each..=truth.pages_each + NOISE_OF_A_FORK).contains(&all),
            "process {pid}: {all} pages, {} of them in truth while it worked",
            truth.pages_each
        );
        let copies = Copies::of(&report, [pid]);
        let pages = copies.pages(|site| truth.site.is(site));
        about(
            &format!("process {pid}"),
            pages,
            truth.pages_each,
            truth.pages_each / 50 + 4,
        );
    }
    Copies::of(&report, truth.pids).have_causes();
    Ok(())
}

#[derive(Debug, Deserialize)]
struct Packaged {
    /// Two that call the package, and one that leaves.
    pids: Vec<u32>,
    pages_each: u64,
    apps: Vec<Place>,
}

/// What a package copied is said of the function of the application that called it, and what an
/// interpreter copies while it ends is said of that.
fn packaged(python: &Python) -> Result<(), Why> {
    let (report, truth) = trace::<Packaged>(python.start("packaged.py", &[])?);
    for (app, &pid) in truth.apps.iter().zip(&truth.pids) {
        let copies = Copies::of(&report, [pid]);
        let library = copies.in_function("each");
        let slack = truth.pages_each / 50 + 4;
        about("the package", library.all(), truth.pages_each, slack);
        library.mostly(1.0, "the application's frame", |site| {
            let file = site.site.file.as_deref();
            file.is_some_and(|file| file.ends_with("/site-packages/walking.py"))
                && site.app.as_ref().is_some_and(|frame| app.is_frame(frame))
        });
    }
    let leaving = Copies::of(&report, [truth.pids[2]]);
    let native = leaving.pages(|site| site.site.language == Language::Native);
    assert!(native > NOISE_OF_A_FORK, "{}", leaving.shown());
    let ending = leaving.pages(|site| ENDING.contains(&&*site.site.function));
    assert!(
        ending as f64 >= 0.9 * native as f64,
        "{ending} of {native} pages are said to be of ending\n{}",
        leaving.shown()
    );
    Ok(())
}

#[derive(Debug, Deserialize)]
struct Exits {
    pids: Vec<u32>,
}

/// What a child copies while it destroys its objects is not called reading.
fn exits(python: &Python) -> Result<(), Why> {
    let (report, truth) = trace::<Exits>(python.start("exits.py", &[])?);
    let copies = Copies::of(&report, truth.pids);
    copies.mostly(0.96, "on the way out", |site| site.phase == Phase::Exit);
    let read = report.0.totals.copy_on_read_pages;
    assert!(
        read * 100 <= report.0.totals.copied_pages * 4,
        "{read} of {}",
        report.0.totals.copied_pages
    );
    Ok(())
}

/// What was started by a handler of an exit, and goes on, is not on its way out.
#[test]
fn a_worker_that_was_started_at_an_exit_goes_on() {
    on("3.11", |python| {
        let (report, truth) = trace::<Exits>(python.start("atexit_worker.py", &[])?);
        let copies = Copies::of(&report, truth.pids);
        copies.mostly(0.99, "with its program", |site| site.phase == Phase::Run);
        Ok(())
    });
}

#[derive(Debug, Deserialize)]
struct Walk {
    processes: Vec<Worker>,
    site: Place,
}

/// A shell that is traced becomes Python by exec, and its children are known.
fn becomes_python(python: &Python) -> Result<(), Why> {
    let fixture = python.start_later("walk.py", &["--children", "1", "--scale", "40"])?;
    walks(fixture);
    Ok(())
}

/// Where threads keep their state is not always to be seen: then it is searched for.
#[test]
fn threads_whose_state_is_searched_for() {
    for name in ["3.8", "3.12", "3.13", "free-threaded"] {
        on(name, |python| {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let library = folder.path().join("keys.so");
            let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/keys.c");
            let compiler = std::process::Command::new("gcc")
                .args(["-shared", "-fPIC", source, "-o"])
                .arg(&library)
                .status();
            assert!(compiler.expect("gcc runs").success());
            let mut command = python.command("walk.py", &["--children", "1", "--scale", "40"]);
            walks(Fixture::run(command.env("LD_PRELOAD", &library))?);
            Ok(())
        });
    }
}

/// A child walks through its data, and is known for Python.
fn walks(fixture: Fixture) {
    let (report, truth) = trace::<Walk>(fixture);
    let child = &truth.processes[0];
    let copies = Copies::of(&report, [child.pid]);
    let walk = copies.in_function(&truth.site.function);
    assert!(
        walk.all() as f64 >= 0.97 * child.copied as f64,
        "{}",
        copies.shown()
    );
    walk.mostly(0.99, "the line", |site| truth.site.is(site));
    walk.mostly(0.98, "reference counts", |site| {
        site.cause == CauseName::Refcount
    });
    assert!(report.process(child.pid).interpreter.is_some());
}

#[derive(Debug, Deserialize)]
struct Part {
    #[serde(flatten)]
    place: Place,
    pages: u64,
}

#[derive(Debug, Deserialize)]
struct Late {
    processes: Vec<Worker>,
}

/// The text of a report on what late.py does, without its line breaks, and the report.
fn text_of_late(python: &Python, arguments: &[&str]) -> Result<(String, Report, Late), Why> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let text = folder.path().join("report.txt").display().to_string();
    let fixture = python.start("late.py", arguments)?;
    let (report, truth) = trace_with(fixture, &["--output", &text]);
    let text = std::fs::read_to_string(text).expect("the text was written");
    let words: Vec<&str> = text.split_whitespace().collect();
    Ok((words.join(" "), report, truth))
}

/// That nothing was copied since memtrace came does not say that nothing was.
#[test]
fn a_child_that_has_copied_before_the_trace() {
    on("debian", |python| {
        let (text, report, truth) = text_of_late(python, &[])?;
        let child = &truth.processes[0];
        assert!(child.copied > 500, "{child:?}");
        assert!(
            report.process(child.pid).copied_pages <= NOISE_OF_A_FORK,
            "{text}"
        );
        let said = format!("{} had ", child.pid);
        let (_, rest) = text.split_once(&said).expect(&text);
        assert!(
            rest.contains("private before tracing began; the copies among that were not seen."),
            "{text}"
        );
        Ok(())
    });
}

/// Memory that grows by new data is not called copied.
#[test]
fn a_child_with_data_of_its_own() {
    on("debian", |python| {
        let (text, report, truth) = text_of_late(python, &["--fresh"])?;
        let child = &truth.processes[0];
        let grown = child.private_dirty_growth.cast_unsigned();
        let page = report.0.host.page_size;
        let seen = report.process(child.pid);
        let new = seen.not_copied.first_touch.unwrap_or_default() * page;
        about("memory", new + seen.copied_bytes, grown, grown / 20);
        assert!(10 * seen.copied_bytes < grown, "{text}");
        assert!(
            text.contains("More than was copied is new memory"),
            "{text}"
        );
        Ok(())
    });
}

#[derive(Debug, Deserialize)]
struct Parts {
    processes: Vec<Worker>,
    sites: BTreeMap<String, Part>,
}

fn subinterpreters(python: &Python) -> Result<(), Why> {
    has_its_parts(&trace(
        python.start("interpreters.py", &["subinterpreters"])?,
    ));
    Ok(())
}

#[test]
fn greenlets() {
    on("tools", |python| {
        has_its_parts(&trace(python.start("interpreters.py", &["greenlets"])?));
        Ok(())
    });
}

fn has_its_parts((report, truth): &(Report, Parts)) {
    let copies = Copies::of(report, [truth.processes[0].pid]);
    for part in truth.sites.values() {
        let pages = copies.pages(|site| part.place.is(site));
        about(&part.place.function, pages, part.pages, 8);
    }
    copies.have_causes();
}
