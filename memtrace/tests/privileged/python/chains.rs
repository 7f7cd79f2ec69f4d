//! Stacks: the frames in their order, and their names.

use std::collections::BTreeMap;

use memtrace::profile::{self, CauseName, Language};
use serde::Deserialize;

use super::{
    Copies, NOISE, Place, Worker, about, on_every_python, python_frames, trace, trace_with,
};
use crate::support::{Python, Report, Why};

on_every_python! {
    chain
    chain_without_native_stacks
    switched_off
    exec_code
    threads_without_the_gil
    fork_from_a_thread
    threads_at_once
}

/// Frames that memtrace takes.
const MOST_FRAMES: usize = 64;

/// Longer names than this are cut.
const LONGEST: usize = 1024;

/// Function, file and line.
type TrueFrame = (String, String, u32);

#[derive(Debug, Deserialize)]
struct Chain {
    processes: Vec<Worker>,
    frames: BTreeMap<String, Vec<TrueFrame>>,
    skipped: BTreeMap<String, String>,
    pages_each: u64,
    leaf: String,
}

fn chain(python: &Python) -> Result<(), Why> {
    let (report, truth) = trace::<Chain>(python.start("chain.py", &[])?);
    has_the_chains(&report, &truth);
    Ok(())
}

fn chain_without_native_stacks(python: &Python) -> Result<(), Why> {
    let fixture = python.start("chain.py", &[])?;
    let (report, truth) = trace_with::<Chain>(fixture, &["--unwind", "off"]);
    has_the_chains(&report, &truth);
    Ok(())
}

/// Each chain's pages have exactly the frames that CPython itself saw, in that order.
fn has_the_chains(report: &Report, truth: &Chain) {
    assert!(truth.frames.len() + truth.skipped.len() >= 20, "{truth:?}");
    for (name, expected) in &truth.frames {
        let pages = pages_of_chain(report, truth, expected);
        assert!(
            // A buffer need not begin with a page.
            (truth.pages_each - 1..=truth.pages_each + 1).contains(&pages),
            "{name}: {pages} pages have its frames, in truth {}\nexpected {expected:#?}\n{}",
            truth.pages_each,
            stacks_like(report, truth, expected)
        );
    }
    Copies::of(report, [truth.processes[0].pid]).have_causes();
}

fn pages_of_chain(report: &Report, truth: &Chain, expected: &[TrueFrame]) -> u64 {
    let mut pages = 0;
    for stack in leaf_stacks(report, truth) {
        let frames: Vec<_> = python_frames(&stack.frames).collect();
        let taken = expected.len().min(MOST_FRAMES);
        let same = frames.len() == taken
            && frames
                .iter()
                .zip(expected)
                .all(|(frame, expected)| is_frame(frame, expected));
        if same {
            assert!(
                stack.truncated || expected.len() <= MOST_FRAMES,
                "{} frames are not all",
                frames.len()
            );
            pages += stack.pages;
        }
    }
    pages
}

/// Stacks that copied in the leaf, at the line where it writes.
fn leaf_stacks<'a>(
    report: &'a Report,
    truth: &'a Chain,
) -> impl Iterator<Item = &'a profile::StackPages> {
    report
        .0
        .call_sites
        .iter()
        .filter(|site| *site.site.function == *truth.leaf && site.cause != CauseName::Kernel)
        .flat_map(|site| &site.stacks)
}

fn is_frame(frame: &profile::Frame, (function, file, line): &TrueFrame) -> bool {
    let text = |seen: &str, expected: &str| {
        // Control characters are escaped, and long names are cut.
        let hostile = expected.chars().any(char::is_control) || expected.len() > LONGEST;
        if hostile {
            let start = expected.split(char::is_control).next().unwrap_or("");
            seen.starts_with(start)
                && !seen.chars().any(char::is_control)
                && seen.len() <= 4 * LONGEST
        } else {
            seen == expected
        }
    };
    text(&frame.function, function)
        && frame.file.as_deref().is_some_and(|seen| text(seen, file))
        && frame.line == Some(*line)
        && !frame.inlined
        && frame.unknown.is_none()
}

/// The stacks whose callers have the name of the chain's second frame, for a failed test.
fn stacks_like(report: &Report, truth: &Chain, expected: &[TrueFrame]) -> String {
    let caller = expected.get(1).map_or("", |frame| frame.0.as_str());
    let stacks = leaf_stacks(report, truth).filter(|stack| {
        python_frames(&stack.frames)
            .nth(1)
            .is_some_and(|frame| *frame.function == *caller)
    });
    let shown = stacks.take(3).map(|stack| {
        let frames = stack.frames.iter().map(|frame| {
            format!(
                "  {:?} {} {:?}:{:?}",
                frame.language, frame.function, frame.file, frame.line
            )
        });
        format!(
            "{} pages, truncated {}\n{}",
            stack.pages,
            stack.truncated,
            frames.collect::<Vec<_>>().join("\n")
        )
    });
    shown.collect::<Vec<_>>().join("\n")
}

fn switched_off(python: &Python) -> Result<(), Why> {
    let fixture = python.start("chain.py", &[])?;
    let (report, _) = trace_with::<Chain>(fixture, &["--python", "off"]);
    for site in &report.0.call_sites {
        assert_ne!(site.site.language, Language::Python, "{site:?}");
    }
    assert_eq!(report.0.host.python, profile::Python::Off);
    Ok(())
}

#[derive(Debug, Deserialize)]
struct Made {
    #[serde(flatten)]
    place: Place,
    pages: u64,
}

#[derive(Debug, Deserialize)]
struct ExecCode {
    processes: Vec<Worker>,
    made: Vec<Made>,
}

/// No function has another's pages, though their code is at the same addresses.
fn exec_code(python: &Python) -> Result<(), Why> {
    let (report, truth) = trace::<ExecCode>(python.start("exec_code.py", &[])?);
    let all = Copies::of(&report, [truth.processes[0].pid]);
    for made in &truth.made {
        let copies = all.in_function(&made.place.function);
        about(&made.place.function, copies.all(), made.pages, 4);
        copies.mostly(1.0, "the file and line", |site| made.place.is(site));
    }
    all.have_causes();
    Ok(())
}

#[derive(Debug, Deserialize)]
struct Part {
    #[serde(flatten)]
    place: Place,
    pages: u64,
    cause: CauseName,
}

#[derive(Debug, Deserialize)]
struct Threads {
    processes: Vec<Worker>,
    sites: BTreeMap<String, Part>,
    never: Vec<String>,
}

fn threads_without_the_gil(python: &Python) -> Result<(), Why> {
    threads(python, "without_gil")
}

fn fork_from_a_thread(python: &Python) -> Result<(), Why> {
    threads(python, "forked")
}

fn threads_at_once(python: &Python) -> Result<(), Why> {
    threads(python, "pool")
}

/// Each thread's function has its own pages, and no other's.
fn threads(python: &Python, way: &str) -> Result<(), Why> {
    let (report, truth) = trace::<Threads>(python.start("threads.py", &[way])?);
    let all = Copies::of(&report, [truth.processes[0].pid]);
    for part in truth.sites.values() {
        let copies = all.in_function(&part.place.function);
        about(
            &part.place.function,
            copies.all(),
            part.pages,
            part.pages / 50 + 8,
        );
        copies.mostly(0.98, "the file and line", |site| part.place.is(site));
        copies.mostly(0.98, &format!("{:?}", part.cause), |site| {
            site.cause == part.cause
        });
    }
    for function in &truth.never {
        let wrong = all.in_function(function);
        assert!(wrong.all() <= NOISE / 2, "{}", wrong.shown());
    }
    all.have_causes();
    Ok(())
}
