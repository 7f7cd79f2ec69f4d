//! What the write was: programs that really modify, and memory that is used again.

use std::collections::BTreeMap;

use memtrace::profile::CauseName;
use serde::Deserialize;

use super::{Copies, NOISE, Worker, about, on_every_python, trace};
use crate::support::{Python, Why};

on_every_python! {
    modify
    refill
}

/// What one function of a workload does to pages of its own.
#[derive(Debug, Deserialize)]
struct Way {
    cause: Option<CauseName>,
    pages: u64,
    object_type: Option<String>,
    field_offset: Option<i32>,
}

#[derive(Debug, Deserialize)]
struct Modify {
    processes: Vec<Worker>,
    ways: BTreeMap<String, Way>,
}

/// `data` and `object` appear where they are, and a reference count is claimed where one was
/// written first, and nowhere else.
fn modify(python: &Python) -> Result<(), Why> {
    let (report, truth) = trace::<Modify>(python.start("modify.py", &[])?);
    let child = &truth.processes[0];
    let all = Copies::of(&report, [child.pid]);
    for (function, way) in &truth.ways {
        let copies = all.in_function(function);
        let cause = way.cause.expect("each way of this workload has one");
        let of_cause = copies.pages(|site| site.cause == cause);
        let slack = way.pages / 20 + NOISE / 4;
        about(
            &format!("{function}, {cause:?}"),
            of_cause,
            way.pages,
            slack,
        );
        // What else it writes has other causes: up to 3.8, zip's own tuple.
        if let Some(name) = &way.object_type {
            copies.mostly(0.95, &format!("{function}, {name}"), |site| {
                site.cause != cause || site.object_type.as_deref() == Some(name)
            });
        }
        if let Some(offset) = way.field_offset {
            copies.mostly(0.95, &format!("{function}, offset {offset}"), |site| {
                site.cause != cause || site.field_offset == Some(offset)
            });
        }
        if cause != CauseName::Refcount {
            copies.hardly(0.02, &format!("{function}, refcount"), |site| {
                site.cause == CauseName::Refcount
            });
        }
    }
    // The tables of keys are not objects.
    let keys = all.in_function("insert_keys");
    let data = keys.pages(|site| site.cause == CauseName::Data);
    assert!(data > 200, "{data} pages of data\n{}", keys.shown());
    all.have_causes();
    Ok(())
}

#[derive(Debug, Deserialize)]
struct Refill {
    processes: Vec<Worker>,
    ways: BTreeMap<String, Way>,
    never: Vec<String>,
}

/// The types are those at the fault, whatever is in that memory at the end.
fn refill(python: &Python) -> Result<(), Why> {
    let (report, truth) = trace::<Refill>(python.start("refill.py", &[])?);
    let all = Copies::of(&report, [truth.processes[0].pid]);
    for (function, way) in &truth.ways {
        let copies = all.in_function(function);
        let name = way.object_type.as_deref();
        let right = copies.pages(|site| {
            site.object_type.as_deref() == name
                && matches!(site.cause, CauseName::Refcount | CauseName::Gc)
        });
        about(function, right, way.pages, way.pages / 20 + NOISE / 4);
        // The list's own table is data, and has no type.
        let typed = copies.pages(|site| site.object_type.is_some());
        assert!(
            right as f64 >= 0.95 * typed as f64,
            "{function}: {right} of {typed} pages are of {name:?}\n{}",
            copies.shown()
        );
        for wrong in &truth.never {
            copies.hardly(0.0, &format!("{function}, {wrong}"), |site| {
                site.object_type.as_deref() == Some(wrong)
            });
        }
    }
    // Memory that was already free at the fork holds dead objects, with types, but no reference
    // counts that anybody writes.
    let holes = all.in_function("use_holes");
    holes.hardly(0.05, "dead strings", |site| {
        site.object_type.as_deref() == Some("str")
    });
    all.have_causes();
    Ok(())
}
