//! Programs that only read: copies by reference counts and by the collector.

use std::collections::BTreeMap;

use memtrace::profile::{CauseEvidence, CauseName, Phase};
use serde::Deserialize;

use super::{Copies, NOISE, NOISE_OF_A_FORK, Place, Worker, on, on_every_python, trace};
use crate::support::{Python, Report, Why};

on_every_python! {
    walk
    walk_of_a_later_fork
    walk_through_nested_data
    collect
    collect_what_is_frozen
    large_buffers
}

#[derive(Debug, Deserialize)]
struct Walk {
    processes: Vec<Worker>,
    site: Place,
    types: BTreeMap<String, u64>,
}

impl Walk {
    fn copies<'a>(&self, report: &'a Report) -> Copies<'a> {
        Copies::of(report, self.processes.iter().map(|child| child.pid))
    }

    /// The types of the objects are those of the data, as their pages are.
    #[track_caller]
    fn has_its_types(&self, copies: &Copies) {
        let walk = copies.in_function(&self.site.function);
        let seen = walk.by_type();
        let all = walk.all() as f64;
        let truth: u64 = self.types.values().sum();
        for (name, pages) in &self.types {
            let share = seen.get(name.as_str()).copied().unwrap_or(0) as f64 / all;
            let expected = *pages as f64 / truth as f64;
            assert!(
                (share - expected).abs() <= 0.05,
                "{name}: {share:.3} of the pages, in truth {expected:.3}\n{seen:?}\n{:?}",
                self.types
            );
        }
    }
}

/// Children that exist when memtrace attaches, so that it sees the work and nothing else.
fn walk(python: &Python) -> Result<(), Why> {
    let fixture = python.start("walk.py", &["--early", "--children", "2"])?;
    let (report, truth) = trace::<Walk>(fixture);
    let copies = truth.copies(&report);
    copies.mostly(0.98, "reference counts", |site| {
        site.cause == CauseName::Refcount
    });
    copies.mostly(0.99, "named", |site| truth.site.is(site));
    copies.have_causes();
    truth.has_its_types(&copies);
    for child in &truth.processes {
        about_all(&report, child, 2);
    }
    copies.mostly(0.98, "by structure", |site| {
        site.evidence == Some(CauseEvidence::Structure)
    });

    // Memory as witness: nothing but copying made the children's memory private.
    let grown: i64 = truth
        .processes
        .iter()
        .map(|child| child.private_dirty_growth)
        .sum();
    let private = copies.all() * report.0.host.page_size;
    let off = (private as f64 - grown as f64).abs() / grown as f64;
    assert!(
        off <= 0.03,
        "{private} bytes copied, Private_Dirty grew by {grown}: {:.1} % apart",
        off * 100.0
    );

    let child = report.process(truth.processes[0].pid);
    let interpreter = child.interpreter.as_ref().expect("it runs Python");
    assert!(
        interpreter.name.starts_with("CPython 3."),
        "{interpreter:?}"
    );
    assert_eq!(interpreter.why, None);
    Ok(())
}

fn about_all(report: &Report, child: &Worker, slack: u64) {
    let seen = report.process(child.pid).copied_pages;
    assert!(
        (child.copied.saturating_sub(slack)..=child.copied + slack).contains(&seen),
        "process {}: {seen} pages copied, by the page table {}",
        child.pid,
        child.copied
    );
}

/// A child that is forked during the trace is known as Python from its first fault.
fn walk_of_a_later_fork(python: &Python) -> Result<(), Why> {
    let fixture = python.start("walk.py", &["--children", "1"])?;
    let (report, truth) = trace::<Walk>(fixture);
    let copies = truth.copies(&report);
    let child = &truth.processes[0];
    let all = report.process(child.pid).copied_pages;
    assert!(
        (child.copied..=child.copied + NOISE_OF_A_FORK).contains(&all),
        "{all} pages copied, {} of them while it worked",
        child.copied
    );
    let walk = copies.in_function(&truth.site.function);
    walk.mostly(0.995, "the line", |site| truth.site.is(site));
    walk.mostly(0.98, "reference counts", |site| {
        site.cause == CauseName::Refcount
    });
    assert!(
        walk.all() as f64 >= 0.98 * child.copied as f64,
        "{}",
        copies.shown()
    );
    copies.have_causes();
    truth.has_its_types(&copies);
    Ok(())
}

#[derive(Debug, Deserialize)]
struct Nested {
    processes: Vec<Worker>,
    functions: Vec<String>,
}

fn walk_through_nested_data(python: &Python) -> Result<(), Why> {
    let fixture = python.start("walk.py", &["--early", "--nested", "--children", "1"])?;
    let (report, truth) = trace::<Nested>(fixture);
    let copies = Copies::of(&report, [truth.processes[0].pid]);
    copies.mostly(0.98, "reference counts", |site| {
        site.cause == CauseName::Refcount
    });
    copies.mostly(0.99, "named", |site| {
        truth
            .functions
            .iter()
            .any(|name| **name == *site.site.function)
    });
    copies.have_causes();
    about_all(&report, &truth.processes[0], 2);
    Ok(())
}

#[derive(Debug, Deserialize)]
struct Collect {
    processes: Vec<Worker>,
    site: Place,
}

fn collect(python: &Python) -> Result<(), Why> {
    let (report, truth) = trace::<Collect>(python.start("collect.py", &[])?);
    let copies = Copies::of(&report, [truth.processes[0].pid]);
    let inside = copies.in_function(&truth.site.function);
    inside.mostly(0.9, "gc", |site| site.cause == CauseName::Gc);
    inside.mostly(0.99, "the line", |site| truth.site.is(site));
    assert!(
        inside.all() as f64 >= 0.97 * truth.processes[0].copied as f64,
        "{}",
        copies.shown()
    );
    copies.have_causes();
    Ok(())
}

fn collect_what_is_frozen(python: &Python) -> Result<(), Why> {
    let (report, truth) = trace::<Collect>(python.start("collect.py", &["--freeze"])?);
    let child = &truth.processes[0];
    let copies = Copies::of(&report, [child.pid]);
    let gc = copies.pages(|site| site.cause == CauseName::Gc);
    // 3.14 also marks what it reaches from the roots, frozen or not, before it looks at the rest.
    assert!(gc <= 3 * NOISE, "{gc} pages by gc\n{}", copies.shown());
    assert!(
        copies.all() <= child.copied + NOISE_OF_A_FORK,
        "{}",
        copies.shown()
    );
    Ok(())
}

/// What a library in C reads for its caller is the caller's, and a frozen heap does not help.
#[test]
fn an_automaton_of_a_library() {
    on("tools", |python| {
        let (report, truth) = trace::<Collect>(python.start("automaton.py", &[])?);
        let child = &truth.processes[0];
        let copies = Copies::of(&report, [child.pid]);
        let inside = copies.in_function(&truth.site.function);
        inside.mostly(0.95, "reference counts", |site| {
            site.cause == CauseName::Refcount && site.phase == Phase::Run
        });
        inside.mostly(0.99, "the line", |site| truth.site.is(site));
        assert!(
            inside.all() as f64 >= 0.95 * child.copied as f64,
            "{}",
            copies.shown()
        );
        Ok(())
    });
}

#[derive(Debug, Deserialize)]
struct Jobs {
    pids: Vec<u32>,
    site: Place,
}

/// Jobs of a server that was started by a program, which is what was traced.
#[test]
fn jobs_of_a_server_that_forks() {
    for name in ["debian", "3.8", "3.13"] {
        on(name, |python| {
            let (report, truth) = trace::<Jobs>(python.start("forkserver.py", &[])?);
            for pid in truth.pids {
                let copies = Copies::of(&report, [pid]);
                assert!(copies.all() > 1000, "{}", copies.shown());
                let inside = copies.in_function(&truth.site.function);
                inside.mostly(0.95, "gc", |site| site.cause == CauseName::Gc);
                assert!(10 * inside.all() >= 9 * copies.all(), "{}", copies.shown());
            }
            Ok(())
        });
    }
}

#[derive(Debug, Deserialize)]
struct Buffers {
    processes: Vec<Worker>,
    read_pages: u64,
}

fn large_buffers(python: &Python) -> Result<(), Why> {
    hardly_copies(&trace(python.start("buffers.py", &[])?));
    Ok(())
}

#[test]
fn numpy_arrays() {
    on("tools", |python| {
        hardly_copies(&trace(python.start("buffers.py", &["--numpy"])?));
        Ok(())
    });
}

fn hardly_copies((report, truth): &(Report, Buffers)) {
    let child = &truth.processes[0];
    let copies = Copies::of(report, [child.pid]);
    assert!(
        copies.all() <= child.copied + NOISE_OF_A_FORK && copies.all() * 20 <= truth.read_pages,
        "{} of {} pages\n{}",
        copies.all(),
        truth.read_pages,
        copies.shown()
    );
}
