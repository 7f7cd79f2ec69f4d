//! The profiles that are written in every format: made up, so that all that can be in one is.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use memtrace::profile::{self, Profile};
use serde_json::{Value, json};

/// Stacks and copies of the largest.
const STACKS: u64 = 10_000;
const COPIES: u64 = 1_000_000;

/// The causes of call sites, in turns.
const CAUSES: [&str; 7] = [
    "refcount",
    "gc",
    "refcount",
    "data",
    "kernel",
    "allocator",
    "object",
];

/// Stacks of a call site.
const STACKS_OF_A_SITE: u64 = 10;

/// Python functions of a stack. Each is called by one of the interpreter's.
const DEPTH: u64 = 12;

const PAGE: u64 = 4096;
const BINS: usize = 60;

/// A profile with a name.
pub struct Case {
    /// The name of its files.
    pub name: &'static str,
    /// What is in them.
    pub profile: Profile,
}

/// The one that is measured.
pub const LARGEST: &str = "10000-stacks";

/// How much there is in a case.
struct Size {
    stacks: u64,
    copies: u64,
    processes: u64,
}

/// All of them, the largest first.
pub fn all() -> Result<Vec<Case>> {
    let few = |processes| Size {
        stacks: 40,
        copies: 4_000,
        processes,
    };
    let largest = Size {
        stacks: STACKS,
        copies: COPIES,
        processes: 8,
    };
    let none = Size {
        stacks: 0,
        copies: 0,
        processes: 1,
    };
    let many = Size {
        stacks: 2_000,
        copies: 40_000,
        processes: 2_000,
    };
    Ok(vec![
        case(LARGEST, &largest, plain)?,
        case("0-copies", &none, plain)?,
        case("1-process", &few(1), plain)?,
        case("2000-processes", &many, plain)?,
        case("hostile-names", &few(4), |n| {
            let hostile = [
                "<script>alert(1)</script>",
                "</script><img src=x onerror=alert(2)>",
                "\" onload='alert(3)'><!--",
                "a;b c\u{1b}[2J\r\n\t\\\u{0}",
                "]]>&amp;{{constructor}}=1+1",
            ];
            format!("{}{n}", hostile[n as usize % hostile.len()])
        })?,
        case("right-to-left", &few(4), |n| {
            format!(
                "\u{5e2}\u{5d3}\u{5db}\u{5d5}\u{5df} \u{202e}{n}\u{202c} \u{627}\u{644}\u{633}\u{639}\u{631}"
            )
        })?,
        case("500-characters", &few(4), |n| {
            format!("{n}{}", "a_very_long_name_".repeat(30))
        })?,
    ])
}

fn plain(n: u64) -> String {
    format!("function_{n}")
}

fn case(name: &'static str, size: &Size, named: fn(u64) -> String) -> Result<Case> {
    let text = made_up(size, named).to_string();
    let mut profile = profile::read(text.as_bytes())
        .with_context(|| format!("memtrace does not read the profile that is called {name}"))?;
    for (site, n) in profile.call_sites.iter_mut().zip(0..) {
        // As a copy takes: most some microseconds, some much longer.
        let slow = site.pages / 100;
        site.latency_ns.record_n(900 + n % 700, site.pages - slow);
        site.latency_ns.record_n(150_000 + n * 1_000, slow);
        site.age_ms.record_n(40 + n * 13 % 90_000, site.pages);
    }
    Ok(Case { name, profile })
}

/// The part of `all` that the `n`th of `parts` has: what does not divide goes to the first ones.
fn share(all: u64, parts: u64, n: u64) -> u64 {
    all / parts + u64::from(n < all % parts)
}

/// A report as JSON. Each call site is of one process.
fn made_up(size: &Size, named: fn(u64) -> String) -> Value {
    let sites = size.stacks.div_ceil(STACKS_OF_A_SITE);
    let mut of_processes = vec![serde_json::Map::new(); size.processes as usize];
    let mut by_cause = serde_json::Map::new();
    let mut types: BTreeMap<(String, &str), u64> = BTreeMap::new();
    let call_sites: Vec<Value> = (0..sites)
        .map(|site| {
            let first = site * STACKS_OF_A_SITE;
            let numbers = first..size.stacks.min(first + STACKS_OF_A_SITE);
            let pages: u64 = (numbers.clone())
                .map(|n| share(size.copies, size.stacks, n))
                .sum();
            let stacks: Vec<Value> = numbers
                .map(|n| {
                    let pages = share(size.copies, size.stacks, n);
                    json!({"pages": pages, "frames": frames(site, n, named)})
                })
                .collect();
            let cause = CAUSES[site as usize % CAUSES.len()];
            let process = site % size.processes;
            let object_type = (site % 3 == 0).then(|| named(site % 11));
            if let Some(name) = &object_type {
                *types.entry((name.clone(), cause)).or_default() += pages;
            }
            add(&mut by_cause, cause, pages);
            add(&mut of_processes[process as usize], cause, pages);
            json!({
                "site": {
                    "function": named(site), "file": format!("/srv/{}.py", named(site % 7)),
                    "line": 10 + site % 90, "module": null, "language": "python",
                },
                "cause": cause, "evidence": "structure", "origin": "fork",
                "object_type": object_type,
                "pages": pages, "bytes": pages * PAGE,
                "share": pages as f64 / size.copies as f64,
                "processes": {pid(process).to_string(): pages},
                "latency_ns": {}, "age_ms": {}, "stacks": stacks,
            })
        })
        .collect();
    let processes: Vec<Value> = (of_processes.iter().zip(0..))
        .map(|(by_cause, n)| process(n, by_cause, named))
        .collect();
    let types: Vec<Value> = (types.into_iter())
        .map(|((name, cause), pages)| {
            json!({
                "object_type": name, "cause": cause, "pages": pages, "bytes": pages * PAGE,
            })
        })
        .collect();
    json!({
        "schema": "memtrace/1", "memtrace": "0.1.0",
        "host": {
            "kernel": "6.12", "arch": "x86_64", "page_size": PAGE, "backend": "tracepoint",
            "unwind": "auto", "python": "auto", "blind_spots": [],
        },
        "command": [named(0)], "command_exit": null, "started_at": "2026-03-14T15:09:26Z",
        "duration_s": 30.0,
        "totals": {
            "copied_pages": size.copies, "copied_bytes": size.copies * PAGE,
            "by_origin": {"fork": size.copies}, "by_cause": by_cause,
            "copy_on_read_pages": only_read(&by_cause), "unchanged_pages": null,
            "not_copied": not_copied(),
            "lost": {"faults": 0, "stacks": 0, "processes": 0, "threads": 0},
        },
        "processes": processes, "call_sites": call_sites, "types": types, "advice": [],
        "timeline": timeline(&by_cause), "warnings": [],
    })
}

fn pid(process: u64) -> u64 {
    1_000 + process
}

fn count(by_cause: &serde_json::Map<String, Value>, cause: &str) -> u64 {
    by_cause.get(cause).and_then(Value::as_u64).unwrap_or(0)
}

fn add(by_cause: &mut serde_json::Map<String, Value>, cause: &str, pages: u64) {
    let sum = count(by_cause, cause) + pages;
    by_cause.insert(cause.to_owned(), sum.into());
}

fn only_read(by_cause: &serde_json::Map<String, Value>) -> u64 {
    count(by_cause, "refcount") + count(by_cause, "gc")
}

fn not_copied() -> Value {
    json!({"reuse": 1, "zero": 0, "first_touch": 0, "split": null})
}

fn process(n: u64, by_cause: &serde_json::Map<String, Value>, named: fn(u64) -> String) -> Value {
    let pages: u64 = by_cause.values().filter_map(Value::as_u64).sum();
    // Half of them are born and die while they are traced.
    let lived = (n % 2 == 1).then(|| (n as f64 % 20.0, n as f64 % 20.0 + 5.0));
    json!({
        "pid": pid(n), "ppid": if n == 0 { 1 } else { pid(0) }, "comm": named(n),
        "cmdline": [named(n), named(n + 1)], "forked_at_s": lived.map(|(from, _)| from),
        "exited_at_s": lived.map(|(_, until)| until), "copied_pages": pages,
        "copied_bytes": pages * PAGE, "copy_on_read_pages": only_read(by_cause),
        "by_origin": {"fork": pages}, "by_cause": by_cause, "not_copied": not_copied(),
        "lost_faults": 0, "memory": null,
    })
}

/// A stack, leaf first: the function that copied, Python's and, below each, the interpreter's.
fn frames(site: u64, n: u64, named: fn(u64) -> String) -> Vec<Value> {
    let native = |function: &str, line: u64| {
        json!({
            "function": function, "file": "./Python/ceval.c", "line": line,
            "module": "/usr/bin/python3.12", "address": 4096 + line, "language": "native",
            "inlined": false,
        })
    };
    let mut frames = vec![native("Py_INCREF", 500)];
    for depth in 0..DEPTH {
        // The one that is blamed is the site's; what is further out is shared by more and more.
        let function = if depth == 0 {
            named(site)
        } else {
            named((n >> depth) + depth)
        };
        let line = if depth == 0 {
            10 + site % 90
        } else {
            100 + (n >> depth) % 50
        };
        frames.push(json!({
            "function": function, "file": format!("/srv/{}.py", named(site % 7)), "line": line,
            "module": null, "address": 0, "language": "python", "inlined": false,
        }));
        frames.push(native("_PyEval_EvalFrameDefault", 1_000 + depth));
    }
    frames.push(native("_start", 1));
    frames
}

/// What was copied, as evenly over the time as pages permit.
fn timeline(by_cause: &serde_json::Map<String, Value>) -> Value {
    let of = |cause: &str| -> Vec<u64> {
        let pages = count(by_cause, cause);
        let bins = (0..BINS as u64).map(|bin| share(pages, BINS as u64, bin) * PAGE);
        bins.collect()
    };
    let bins: serde_json::Map<String, Value> = (by_cause.keys())
        .map(|cause| (cause.clone(), of(cause).into()))
        .collect();
    json!({
        "interval_s": 0.5, "by_cause": bins, "by_role": [], "forks": vec![1; BINS],
        "exits": vec![1; BINS], "execs": vec![0; BINS],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_up_profile_adds_up_and_is_as_large_as_it_says() {
        let size = Size {
            stacks: 95,
            copies: 1_003,
            processes: 7,
        };
        let profile = case("some", &size, plain).unwrap().profile;
        let sites = profile.call_sites.iter();
        let stacks: usize = sites.clone().map(|site| site.stacks.len()).sum();
        assert_eq!(stacks as u64, size.stacks);
        assert_eq!(profile.totals.copied_pages, size.copies);
        assert_eq!(profile.processes.len() as u64, size.processes);
        let records = sites.map(|site| site.latency_ns.count());
        assert_eq!(records.sum::<u64>(), size.copies);
    }

    #[test]
    fn what_does_not_divide_goes_to_the_first_ones() {
        let parts: Vec<u64> = (0..4).map(|n| share(10, 4, n)).collect();
        assert_eq!(parts, [3, 3, 2, 2]);
    }
}
