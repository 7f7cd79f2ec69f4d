//! Native stacks of programs without frame pointers: against a debugger's, and to the very end.

mod code;
mod programs;
mod servers;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::process::Command;

use memtrace::profile::{Frame, Profile, Python, StackPages, Truncated, Unwind, UnwoundBy};

use self::programs::{Folder, without_frame_pointers};
use crate::support::report::is;
use crate::support::{Fixture, Report, Trace, privileged, requires, tool};

/// The least part of stacks that must be whole and right.
const MOST: f64 = 0.995;

/// Addresses of a stack, leaf first, and how often it was seen.
type Stacks = HashMap<Vec<u64>, u64>;

/// The stacks of all stops of a program, as the debugger shows them.
fn by_debugger(program: &Path) -> Stacks {
    let script = programs::sources().join("stops.py");
    let output = Command::new("gdb")
        .args(["-batch", "-nx", "-x"])
        .arg(script)
        .arg("--args")
        .arg(program)
        .output()
        .expect("gdb runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let mut stacks = Stacks::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("STACK ")) {
        let addresses = line.split(' ').map(|text| u64::from_str_radix(text, 16));
        let addresses: Result<Vec<_>, _> = addresses.collect();
        *stacks.entry(addresses.expect("addresses")).or_default() += 1;
    }
    stacks
}

/// The stacks of a trace from the program's start with these leaves. Addresses are those of the
/// debugger's run: without randomization they are the same each time.
fn by_memtrace(program: &Path, leaves: &HashSet<u64>) -> Stacks {
    let program = program.to_str().expect("a path");
    let mut trace = Trace::with(["-vv", "--", "setarch", "-R", program, "wait"]);
    trace.ended();
    println!("{}", trace.messages());
    let report = trace.report();
    let mut stacks = Stacks::new();
    let mut cut = HashMap::<_, u64>::new();
    for (stack, pages) in stacks_of(&report) {
        if whole_frames(stack)
            .next()
            .is_some_and(|leaf| leaves.contains(&leaf.address))
        {
            let addresses = whole_frames(stack).map(|frame| frame.address).collect();
            *stacks.entry(addresses).or_default() += pages;
            *cut.entry(stack.truncated_why).or_default() += pages;
        }
    }
    // This is shown when the test fails.
    println!("why stacks are cut: {cut:?}");
    stacks
}

/// All stacks, with pages.
fn stacks_of(Report(profile): &Report) -> impl Iterator<Item = (&StackPages, u64)> {
    let stacks = profile.call_sites.iter().flat_map(|site| &site.stacks);
    stacks.map(|stack| (stack, stack.pages))
}

/// Frames that are not inlined into another.
fn whole_frames(stack: &StackPages) -> impl Iterator<Item = &Frame> {
    let frames = stack.frames.iter().map(AsRef::as_ref);
    frames.filter(|frame| !frame.inlined)
}

fn equals_the_debugger(program: &Path) {
    let expected = by_debugger(program);
    let leaves = expected.keys().filter_map(|stack| stack.first().copied());
    let seen = by_memtrace(program, &leaves.collect());
    let total: u64 = expected.values().sum();
    assert!(total >= 60, "the debugger saw {total} stops");
    assert_eq!(seen.values().sum::<u64>(), total, "copies");
    let equal: u64 = expected
        .iter()
        .map(|(stack, count)| seen.get(stack).map_or(0, |pages| *pages.min(count)))
        .sum();
    let wrong = seen
        .iter()
        .find(|(stack, _)| !expected.contains_key(*stack));
    assert!(
        equal as f64 >= MOST * total as f64,
        "{equal} of {total} stacks are the debugger's; one that is not: {wrong:x?}"
    );
}

/// Compiles and compares; the tests differ in language and in how the program is linked.
fn compare(compiler: &str, source: &str, options: &[&str]) {
    let folder = Folder::new();
    folder.library();
    let program = folder.compile(compiler, source, options);
    equals_the_debugger(&program);
}

#[test]
fn c_as_the_debugger_has_it() {
    requires!(privileged());
    requires!(tool("gcc"));
    requires!(tool("gdb"));
    compare("gcc", "calls.c", &["-llibrary"]);
}

#[test]
fn c_at_a_fixed_address() {
    requires!(privileged());
    requires!(tool("gcc"));
    requires!(tool("gdb"));
    compare("gcc", "calls.c", &["-no-pie", "-llibrary"]);
}

#[test]
fn c_in_one_file() {
    requires!(privileged());
    requires!(tool("gcc"));
    requires!(tool("gdb"));
    let library = programs::sources().join("library.c");
    let library = library.to_str().expect("a path");
    compare("gcc", "calls.c", &["-static", library]);
}

#[test]
fn cpp_with_exceptions() {
    requires!(privileged());
    requires!(tool("g++"));
    requires!(tool("gdb"));
    compare("g++", "calls.cc", &[]);
}

#[test]
fn rust_with_panics() {
    requires!(privileged());
    requires!(tool("rustc"));
    requires!(tool("gdb"));
    compare("rustc", "calls.rs", &[]);
}

/// A program of `forks.c`, traced from before it begins with these arguments to memtrace.
fn forks(folder: &Folder, arguments: &[&str], options: &[&str]) -> Report {
    let program = folder.compile("gcc", "forks.c", &[]);
    let mut fixture = Fixture::run(Command::new(program).args(arguments)).expect("it starts");
    let pid = fixture.pid.to_string();
    let trace = Trace::with(["--pid", &pid].iter().chain(options));
    fixture.go();
    let _: serde_json::Value = fixture.done();
    fixture.exit();
    trace.report()
}

/// Pages of the stacks whose leaf is `function`: all, those of whole stacks, and the stacks.
fn leaves<'a>(report: &'a Report, function: &str) -> (u64, u64, Vec<&'a StackPages>) {
    let (mut all, mut whole, mut stacks) = (0, 0, Vec::new());
    for (stack, pages) in stacks_of(report) {
        if whole_frames(stack)
            .next()
            .is_some_and(|leaf| is(leaf, function))
        {
            all += pages;
            whole += if stack.truncated { 0 } else { pages };
            stacks.push(stack);
        }
    }
    (all, whole, stacks)
}

#[test]
fn the_first_fault_of_a_child_has_its_whole_stack() {
    requires!(privileged());
    requires!(tool("gcc"));
    let report = forks(&Folder::new(), &["children"], &[]);
    let (all, whole, stacks) = leaves(&report, "touch_at");
    assert_eq!((all, whole), (100, 100));
    for stack in &stacks {
        let names: Vec<&str> = whole_frames(stack).map(|frame| &*frame.function).collect();
        let depth = names.iter().filter(|name| **name == "descend").count();
        assert_eq!(depth, 21, "{names:?}");
        assert_eq!(names.last(), Some(&"_start"), "{names:?}");
        assert!(names.contains(&"children"), "{names:?}");
    }
    // No stack is cut, whatever the children copied on it.
    let Report(profile) = &report;
    let cut: Vec<_> = stacks_of(&report)
        .filter(|(stack, _)| stack.truncated)
        .map(|(stack, pages)| (stack.truncated_why, pages, &stack.frames))
        .collect();
    assert!(cut.is_empty(), "{cut:?}");
    let parent = profile
        .processes
        .iter()
        .find(|process| process.forked_at_s.is_none());
    assert_eq!(profile.processes.len(), 101);
    assert!(parent.is_some());
}

#[test]
fn code_that_was_made_at_run_time_is_followed_by_frame_pointers() {
    requires!(privileged());
    requires!(tool("gcc"));
    let folder = Folder::new();
    let report = forks(&folder, &["made-code"], &[]);
    let (all, whole, stacks) = leaves(&report, "touch_at");
    assert_eq!(all, 100);
    // The first stacks through a new mapping end there.
    assert!(whole >= 50, "{whole} of {all}");
    let cut = stacks.iter().filter(|stack| stack.truncated);
    for stack in cut {
        assert_eq!(
            stack.truncated_why,
            Some(Truncated::JustMapped),
            "{stack:?}"
        );
    }
    let through = stacks.iter().filter(|stack| !stack.truncated);
    for stack in through {
        let names: Vec<&str> = whole_frames(stack).map(|frame| &*frame.function).collect();
        assert!(names.contains(&"made_code"), "{names:?}");
    }

    let report = forks(&folder, &["made-code"], &["--unwind", "dwarf"]);
    let (_, whole, stacks) = leaves(&report, "touch_at");
    assert_eq!(whole, 0, "there are no tables for it");
    let whys: Vec<_> = stacks.iter().map(|stack| stack.truncated_why).collect();
    assert!(whys.contains(&Some(Truncated::NoTables)), "{whys:?}");
}

#[test]
fn a_stack_that_frame_pointers_lead_out_of_is_cut() {
    requires!(privileged());
    requires!(tool("gcc"));
    let report = forks(&Folder::new(), &["made-code-without"], &[]);
    let (all, whole, stacks) = leaves(&report, "touch_at");
    assert_eq!((all, whole), (100, 0));
    let whys: Vec<_> = stacks.iter().map(|stack| stack.truncated_why).collect();
    assert!(whys.contains(&Some(Truncated::NoTables)), "{whys:?}");
}

#[test]
fn a_library_that_is_loaded_later_is_known_soon() {
    requires!(privileged());
    requires!(tool("gcc"));
    let folder = Folder::new();
    let library = folder.library();
    let library = library.to_str().expect("a path");
    let report = forks(&folder, &["late-library", library], &[]);
    let (all, whole, stacks) = leaves(&report, "touch_at");
    assert_eq!(all, 550);
    assert!(whole >= 500, "{whole} of {all}");
    for stack in stacks {
        let expected = [
            None,
            Some(Truncated::JustMapped),
            Some(Truncated::TablesNotBuilt),
        ];
        assert!(expected.contains(&stack.truncated_why), "{stack:?}");
    }
}

#[test]
fn modules_say_what_their_frames_were_found_by() {
    requires!(privileged());
    requires!(tool("gcc"));
    let Report(profile) = forks(&Folder::new(), &["children"], &[]);
    let of = |profile: &Profile, name: &str| {
        let mut modules = profile.modules.iter();
        let found = modules.find(|module| module.path.ends_with(name));
        found
            .cloned()
            .unwrap_or_else(|| panic!("no {name}: {:?}", profile.modules))
    };
    for name in ["forks", "libc.so.6", "[vdso]"] {
        let module = of(&profile, name);
        assert_eq!(module.unwind, UnwoundBy::Tables, "{module:?}");
        let source = module.source.as_deref().unwrap_or_default();
        assert!(source.starts_with(".eh_frame"), "{module:?}");
        assert!(module.rows > 10, "{module:?}");
        assert!(module.build_id.is_some(), "{module:?}");
    }
    assert_eq!(profile.host.unwind, Unwind::Auto);

    let Report(profile) = forks(&Folder::new(), &["children"], &["--unwind", "fp"]);
    assert_eq!(profile.host.unwind, Unwind::FramePointers);
    assert!(profile.modules.is_empty());
}

#[test]
fn without_bpf_loop_frame_pointers_are_followed_and_the_report_says_so() {
    requires!(privileged());
    let mut fixture = requires!(Fixture::start(&["fork-child"]));
    let pid = fixture.pid.to_string();
    let variables = [("MEMTRACE_TEST_WITHOUT_BPF_LOOP", "1")];
    let trace = Trace::with_variables(&variables, ["--pid", &pid]);
    fixture.go();
    let truth = fixture.truth();
    fixture.exit();
    let report = trace.report();
    report.is(&truth);
    let Report(profile) = &report;
    assert_eq!(profile.host.unwind, Unwind::FramePointers);
    let why = profile.host.unwind_why.as_deref().unwrap_or_default();
    assert!(why.contains("bpf_loop"), "{why}");
    assert_eq!(profile.host.python, Python::Off);
}

#[test]
fn functions_of_c_libraries_are_passed_over_and_stay_in_the_stack() {
    requires!(privileged());
    requires!(tool("gcc"));
    let report = forks(&Folder::new(), &["library-functions"], &[]);
    for (caller, library, least) in [
        ("copies_bytes", "mem", 20),
        ("sets_bytes", "memset", 20),
        ("copies_text", "str", 20),
        ("frees_blocks", "free", 100),
    ] {
        let sites: Vec<_> = report.sites_in(caller).collect();
        let pages: u64 = sites.iter().map(|site| site.pages).sum();
        assert!(pages >= least, "{caller}: {pages} pages");
        let through: u64 = sites
            .iter()
            .flat_map(|site| &site.stacks)
            .filter(|stack| {
                let callees = stack.frames.iter().take_while(|frame| !is(frame, caller));
                let mut callees = callees.map(|frame| frame.function.trim_start_matches('_'));
                callees.any(|name| name.contains(library))
            })
            .map(|stack| stack.pages)
            .sum();
        assert!(
            through >= least,
            "{caller}: {through} of {pages} through {library}"
        );
    }
}

#[test]
fn programs_are_without_frame_pointers() {
    // The other tests rely on this.
    assert!(without_frame_pointers().contains(&"-fomit-frame-pointer"));
}
