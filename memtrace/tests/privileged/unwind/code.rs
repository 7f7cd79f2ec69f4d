//! Stacks through code that has no unwind tables, and stacks that are not a thread's own.

use std::process::Command;
use std::time::Duration;

use memtrace::profile::{CauseName, StackPages, Truncated, UnwoundBy};

use super::programs::Folder;
use super::{leaves, stacks_of, whole_frames};
use crate::support::interpreters::{tools, workloads};
use crate::support::report::is;
use crate::support::{Fixture, Report, Trace, eventually, privileged, requires, tool};

/// The least part of copies whose stacks must be whole.
const MOST: f64 = 0.99;

/// Traces a program that works when it is told to.
fn trace(command: &mut Command) -> Report {
    trace_with(command, "")
}

/// Does what [`trace`] does, and lets the program work when the table of a file is there: without
/// optimisation that takes longer than memtrace waits.
fn trace_with(command: &mut Command, file: &str) -> Report {
    let mut fixture = Fixture::run(command).expect("it starts");
    let trace = Trace::with(["-vv", "--pid", &fixture.pid.to_string()]);
    eventually("the table is built", || {
        let messages = trace.messages();
        let is_of = |line: &str| line.contains("unwind table of") && line.contains(file);
        (file.is_empty() || messages.lines().any(is_of)).then_some(())
    });
    // It is given to the processes at the next tick.
    std::thread::sleep(Duration::from_millis(300));
    fixture.go();
    let _: serde_json::Value = fixture.done();
    fixture.exit();
    trace.report()
}

/// Nearly all copies of the child have stacks that lead to the program's start.
fn leads_to_start(report: &Report) {
    let (mut all, mut whole) = (0, 0);
    for (stack, pages) in stacks_of(report) {
        let outermost = stack.frames.last().expect("a stack has frames");
        let is_whole = !stack.truncated && is(outermost, "_start");
        all += pages;
        whole += if is_whole { pages } else { 0 };
        if !is_whole {
            let names: Vec<_> = whole_frames(stack).map(|frame| &frame.function).collect();
            println!("{pages} {:?}: {names:?}", stack.truncated_why);
        }
    }
    assert!(all > 1000, "{all} pages");
    assert!(whole as f64 >= MOST * all as f64, "{whole} of {all}");
}

/// All copies of a function that frees or asks for memory are the allocator's.
fn are_allocators(report: &Report, function: &str) {
    let (mut all, mut allocators) = (0, 0);
    for site in report.sites_in(function) {
        all += site.pages;
        if site.cause == CauseName::Allocator {
            allocators += site.pages;
        } else {
            println!(
                "{function}: {} {}: {:?}",
                site.pages, site.cause, site.stacks
            );
        }
    }
    assert!(all > 100, "{function}: {all} pages");
    assert!(
        allocators as f64 >= MOST * all as f64,
        "{function}: {allocators} of {all}"
    );
}

fn made_of_code(report: &Report, name: &str) -> (UnwoundBy, u64) {
    let Report(profile) = report;
    let mut modules = profile.modules.iter();
    let found = modules.find(|module| module.path.ends_with(name));
    let module = found.unwrap_or_else(|| panic!("no {name}: {:?}", profile.modules));
    let source = module.source.as_deref().unwrap_or_default();
    assert!(source.ends_with("code"), "{module:?}");
    (module.unwind, module.code_rows)
}

#[test]
fn musl_in_a_programs_own_file() {
    requires!(privileged());
    requires!(tool("musl-gcc"));
    let folder = Folder::new();
    let program = folder.compile("musl-gcc", "blocks.c", &["-static"]);
    let report = trace(&mut Command::new(program));
    leads_to_start(&report);
    are_allocators(&report, "frees");
    let (unwind, rows) = made_of_code(&report, "blocks");
    assert_eq!(unwind, UnwoundBy::Tables);
    assert!(rows > 100, "{rows}");
}

#[test]
fn musl_as_a_library_and_one_without_tables() {
    requires!(privileged());
    requires!(tool("musl-gcc"));
    let folder = Folder::new();
    let program = folder.compile("musl-gcc", "blocks.c", &[]);
    let library = folder.compile(
        "musl-gcc",
        "callback.c",
        &["-shared", "-fPIC", "-fno-asynchronous-unwind-tables", "-s"],
    );
    let report = trace_with(Command::new(program).arg(library), "libc.so");
    leads_to_start(&report);
    // Its `free` jumps to a function that has no symbol in Debian's file.
    are_allocators(&report, "frees");
    made_of_code(&report, "callback");
    let through = stacks_of(&report).filter(|(stack, _)| {
        let mut frames = whole_frames(stack);
        frames.any(|frame| is(frame, "calls_back"))
    });
    let through: u64 = through.map(|(_, pages)| pages).sum();
    assert!(through > 1000, "{through} pages");
}

#[test]
fn a_contexts_stack_ends_where_it_begins() {
    requires!(privileged());
    requires!(tool("gcc"));
    let folder = Folder::new();
    let report = trace(&mut Command::new(folder.compile("gcc", "contexts.c", &[])));
    let (all, _, stacks) = leaves(&report, "touch_at");
    assert_eq!(all, 200);
    for stack in stacks {
        assert_eq!(stack.truncated_why, Some(Truncated::Coroutine), "{stack:?}");
        let mut frames = whole_frames(stack);
        assert!(frames.any(|frame| is(frame, "in_context")), "{stack:?}");
    }
    let Report(profile) = &report;
    let cut = profile.warnings.iter().find(|text| text.contains("stacks"));
    assert_eq!(cut, None);
}

/// PHP's fibers are made by the code of Boost.Context.
#[test]
fn a_fibers_stack_ends_where_it_begins() {
    requires!(privileged());
    let mut php = requires!(tool("php"));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/unwind/fibers.php");
    let report = trace(php.arg(script));
    let is_fiber = |stack: &&StackPages| {
        let mut frames = whole_frames(stack);
        frames.any(|frame| is(frame, "make_fcontext"))
    };
    let fiber = stacks_of(&report).filter(|(stack, _)| is_fiber(stack));
    let mut pages = 0;
    for (stack, copied) in fiber {
        assert_eq!(stack.truncated_why, Some(Truncated::Coroutine), "{stack:?}");
        let outermost = stack.frames.last().expect("a stack has frames");
        assert!(is(outermost, "make_fcontext"), "{stack:?}");
        pages += copied;
    }
    assert!(pages > 500, "{pages} pages");
}

#[test]
fn a_coroutine_of_cpp_runs_on_its_callers_stack() {
    requires!(privileged());
    requires!(tool("g++"));
    let folder = Folder::new();
    let program = folder.compile("g++", "coroutines.cc", &["-std=c++20"]);
    let report = trace(&mut Command::new(program));
    leads_to_start(&report);
    let (all, _, stacks) = leaves(&report, "touch_at");
    assert_eq!(all, 1200);
    for stack in stacks {
        let mut frames = whole_frames(stack);
        assert!(
            frames.any(|frame| frame.function.contains("resumes")),
            "{stack:?}"
        );
    }
}

#[test]
fn a_greenlets_stack_ends_where_it_begins() {
    requires!(privileged());
    let python = requires!(tools()).join("python3");
    let mut python = Command::new(python);
    python.args(["-B", "-E", "-s"]);
    let report = trace(python.arg(workloads().join("greenlets.py")));
    let mut pages = 0;
    for site in report.sites_in("read") {
        for stack in &site.stacks {
            let names: Vec<&str> = stack.frames.iter().map(|frame| &*frame.function).collect();
            assert_eq!(stack.truncated_why, Some(Truncated::Coroutine), "{names:?}");
            let outermost = names.last().unwrap_or(&"");
            assert!(outermost.contains("g_initialstub"), "{names:?}");
            assert!(
                names.iter().any(|name| name.ends_with("inner")),
                "{names:?}"
            );
            pages += stack.pages;
        }
    }
    assert!(pages > 100, "{pages} pages");
    let Report(profile) = &report;
    let untrue = profile.warnings.iter().find(|text| text.contains("mapped"));
    assert_eq!(untrue, None);
}
