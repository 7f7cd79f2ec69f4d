//! What a report promises of a remedy is what the remedy saves.
//!
//! Each workload is traced twice, as it is and with the remedy that the first report proposes.

use memtrace::profile::{Advice, CauseName, Confidence};

use crate::claims::traced;
use crate::support::{Python, Report, Trace, Why, privileged, requires, skip, tool};

/// How far what is saved may be from what was promised.
const OFF: f64 = 0.15;

/// A report's advice of a rule.
fn advice<'a>(report: &'a Report, id: &str) -> &'a Advice {
    let found = report.0.advice.iter().find(|advice| advice.id == id);
    found.unwrap_or_else(|| panic!("nothing is said of {id}: {:?}", report.0.advice))
}

/// What was promised is what is saved, and no more than the rest is promised again.
#[track_caller]
fn holds(id: &str, before: &Report, after: &Report) {
    let promise = advice(before, id);
    let copied = |report: &Report| report.0.totals.copied_bytes;
    let saved = copied(before) as f64 - copied(after) as f64;
    let promised = promise.saves_bytes as f64;
    eprintln!(
        "{id}: {} bytes promised, {saved} of {} saved",
        promise.saves_bytes,
        copied(before)
    );
    assert!(
        (saved - promised).abs() <= OFF * promised,
        "{id}: {promised} bytes promised, {saved} saved\n{promise:#?}"
    );
    let mut again = after.0.advice.iter().filter(|advice| advice.id == id);
    assert!(
        again.all(|advice| advice.saves_bytes as f64 <= OFF * promised),
        "{id} is said again: {:#?}",
        after.0.advice
    );
}

/// Traces a workload in Python.
fn workers(python: &Python, arguments: &[&str]) -> Result<Report, Why> {
    let mut fixture = python.start("remedies.py", arguments)?;
    let trace = Trace::attach(fixture.pid);
    fixture.go();
    let _: serde_json::Value = fixture.done();
    let report = trace.finish();
    fixture.exit();
    report.is_lossless();
    Ok(report)
}

/// Traces it without its remedy and with it.
fn in_python(name: &str, way: &str) -> Result<[Report; 2], Why> {
    privileged()?;
    let python = Python::find(name)?;
    Ok([
        workers(&python, &[way])?,
        workers(&python, &[way, "--remedied"])?,
    ])
}

#[test]
fn freezing_saves_what_collections_copy() {
    let less_certain = ["sid", "free-threaded"];
    for name in ["debian", "3.8", "3.12", "3.13", "trixie"]
        .iter()
        .chain(&less_certain)
    {
        let [before, after] = match in_python(name, "gc-freeze") {
            Ok(reports) => reports,
            Err(why) => {
                skip(&why);
                continue;
            }
        };
        holds("gc-freeze", &before, &after);
        let promise = advice(&before, "gc-freeze");
        let expected = if less_certain.contains(name) {
            Confidence::Medium
        } else {
            Confidence::High
        };
        assert_eq!(promise.confidence, expected, "{name}: {promise:#?}");
        let of_master = promise
            .evidence
            .iter()
            .find(|line| line.contains("forked them"));
        assert!(of_master.is_some(), "{promise:#?}");
    }
}

#[test]
fn arrays_save_what_reading_objects_copies() {
    let [before, after] = requires!(in_python("debian", "data-structures"));
    holds("data-structures", &before, &after);
    let promise = advice(&before, "data-structures");
    assert!(
        promise.title.contains("`total`, remedies.py:"),
        "{promise:?}"
    );
}

#[test]
fn ending_at_once_saves_what_an_exit_copies() {
    let [before, after] = requires!(in_python("debian", "exit"));
    holds("exit", &before, &after);
}

#[test]
fn warming_up_before_the_fork_saves_what_each_start_copies() {
    let [before, after] = requires!(in_python("debian", "warm-up"));
    holds("warm-up", &before, &after);
    let promise = advice(&before, "warm-up");
    assert!(
        promise.title.contains("`fill`, remedies.py:"),
        "{promise:?}"
    );
}

/// Debian's Python has lost the names of such functions.
#[test]
fn a_walk_over_all_objects_is_saved_by_freezing() {
    let [before, after] = requires!(in_python("3.11", "gc-walk"));
    holds("gc-walk", &before, &after);
    let promise = advice(&before, "gc-walk");
    assert!(
        promise.title.contains("`look`, remedies.py:"),
        "{promise:?}"
    );
}

#[test]
fn borrowed_references_save_what_an_extension_module_counts() {
    requires!(tool("gcc"));
    let [before, after] = requires!(in_python("3.12", "extension"));
    holds("extension", &before, &after);
    let promise = advice(&before, "extension");
    assert!(promise.title.contains("`reader.so`"), "{promise:?}");
    let function = |line: &String| line.contains("its function `longest`");
    assert!(promise.evidence.iter().any(function), "{promise:?}");
}

#[test]
fn a_newer_python_saves_counts_of_what_is_immortal_there() {
    requires!(privileged());
    let python = |name| Python::find(name);
    let arguments = ["immortal", "--workers", "20"];
    let before = requires!(workers(&requires!(python("3.11")), &arguments));
    let after = requires!(workers(&requires!(python("3.13")), &arguments));
    // Two versions differ in much else, so that all that is saved is more than what was promised:
    // what vanishes is what was promised.
    let promise = advice(&before, "immortal");
    let promised = promise.saves_bytes as f64;
    let immortal = |report: &Report| {
        let types = ["NoneType", "bool", "type (static)"].map(Some);
        let sites = report.0.call_sites.iter().filter(|site| {
            site.cause == CauseName::Refcount && types.contains(&site.object_type.as_deref())
        });
        let children = sites.flat_map(|site| &site.processes);
        let of_children = children.filter(|(pid, _)| report.process(**pid).forked_at_s.is_some());
        4096.0 * of_children.map(|(_, pages)| *pages as f64).sum::<f64>()
    };
    let vanished = immortal(&before) - immortal(&after);
    let copied = |report: &Report| report.0.totals.copied_bytes as f64;
    let saved = copied(&before) - copied(&after);
    eprintln!("immortal: {promised} bytes promised, {vanished} vanished, {saved} saved in all");
    assert!(
        (vanished - promised).abs() <= OFF * promised,
        "{promise:#?}"
    );
    assert!(saved >= (1.0 - OFF) * promised, "{promise:#?}");
    assert!(
        promise.evidence[1].contains("`type (static)`"),
        "{promise:#?}"
    );
}

/// Workers take memory that was free before they were forked.
const TAKES: &str = r"
#ifdef REMEDIED
#include <malloc.h>
#endif
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
enum { BLOCK = 120 << 10, N = 500, PIECE = 1000 };
static char *blocks[N];
__attribute__((noinline)) static void take(void) {
    /* Less than what is free in holes. */
    for (int i = 0; i < N / 2 * (BLOCK / PIECE) * 3 / 4; i++) {
        char *piece = malloc(PIECE);
        if (!piece) abort();
        piece[0] = 1;
    }
}
int main(void) {
    for (int i = 0; i < N; i++) {
        blocks[i] = malloc(BLOCK);
        memset(blocks[i], 1, BLOCK);
    }
    for (int i = 0; i < N; i += 2) free(blocks[i]);
#ifdef REMEDIED
    malloc_trim(0);
#endif
    for (int i = 0; i < 2; i++) {
        if (fork() == 0) {
            take();
            _exit(0);
        }
    }
    while (wait(0) > 0) {}
    return 0;
}
";

/// Workers that write what is there already.
const TOUCHES: &str = r"
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
enum { SIZE = 8 << 20 };
static char *data;
#ifdef REMEDIED
#define WRITE(to, value) do { if ((to) != (value)) (to) = (value); } while (0)
#else
#define WRITE(to, value) do { (to) = (value); } while (0)
#endif
__attribute__((noinline)) static void touch(char value) {
    for (int i = 0; i < SIZE; i += 512) WRITE(data[i], value);
}
int main(int count, char **arguments) {
    (void)arguments;
    data = malloc(SIZE);
    memset(data, count, SIZE);
    for (int i = 0; i < 2; i++) {
        if (fork() == 0) {
            touch((char)count);
            sleep(6);
            _exit(0);
        }
    }
    sleep(6);
    return 0;
}
";

/// Traces a program in C without its remedy and with it.
fn in_c(source: &str, options: &[&str]) -> Result<[Report; 2], Why> {
    privileged()?;
    tool("gcc")?;
    let remedied = format!("#define REMEDIED 1\n{source}");
    let reports = [source, &remedied].map(|source| traced(source, options).0);
    for report in &reports {
        report.is_lossless();
    }
    Ok(reports)
}

#[test]
fn giving_free_memory_back_before_the_fork_saves_what_malloc_copies() {
    let [before, after] = requires!(in_c(TAKES, &[]));
    holds("allocator", &before, &after);
}

#[test]
fn comparing_before_writing_saves_what_is_not_changed() {
    let [before, after] = requires!(in_c(TOUCHES, &["--duration", "2s"]));
    holds("rewritten", &before, &after);
    let promise = advice(&before, "rewritten");
    assert!(promise.title.contains("`touch`, program.c:"), "{promise:?}");
}
