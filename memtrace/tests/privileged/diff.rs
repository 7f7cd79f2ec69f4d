//! Two reports of real runs, compared, and runs held against limits.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::{privileged, requires, trace};

/// Debian's own, which the tests' other programs find first.
const PYTHON: &str = "/usr/bin/python3";

/// Eight workers that read a part of what they share, and collect garbage.
const SERVER: &str = "
import gc, os, random, sys
objects = [{'n': n, 's': 'text %d' % n} for n in range(60000)]
gc.collect()
if 'freeze' in sys.argv:
    gc.freeze()
pids = []
for worker in range(8):
    pid = os.fork()
    if pid == 0:
        start = random.Random(worker).randrange(40000)
        for one in objects[start:start + 10000]:
            one['s']
        gc.collect()
        os._exit(0)
    pids.append(pid)
for pid in pids:
    os.waitpid(pid, 0)
";

fn memtrace(arguments: &[&str]) -> Output {
    let mut command = Command::new(trace::path());
    trace::as_on_a_terminal(&mut command);
    command.args(arguments).output().expect("memtrace runs")
}

/// Traces the server into a file.
fn traced(file: &Path, arguments: &[&str]) {
    let file = file.display().to_string();
    let command = ["-o", &file, "--no-unchanged", "--", PYTHON, "-c", SERVER];
    let output = memtrace(&[&command, arguments].concat());
    assert!(output.status.success(), "{}", said(&output));
}

fn said(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    format!("{}\n{errors}", String::from_utf8_lossy(&output.stdout))
}

/// The comparison of two files.
fn compared(base: &Path, new: &Path) -> Value {
    let (base, new) = (base.display().to_string(), new.display().to_string());
    let output = memtrace(&["diff", "-f", "json", &base, &new]);
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The rows of a list that differ, each with its kind.
fn differing<'a>(difference: &'a Value, list: &str) -> Vec<&'a Value> {
    let rows = difference[list].as_array().expect("a list").iter();
    rows.filter(|row| row["kind"] != "same").collect()
}

#[test]
fn freezing_makes_garbage_collection_vanish_and_equal_runs_do_not_differ() {
    requires!(privileged());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str| folder.path().join(name);
    let (base, again, frozen) = (
        file("base.json"),
        file("again.json.gz"),
        file("frozen.json"),
    );
    traced(&base, &[]);
    traced(&again, &[]);
    traced(&frozen, &["freeze"]);

    let found = compared(&base, &frozen);
    assert_eq!(found["schema"], "memtrace-diff/1");
    assert_eq!(found["base"]["workers"], 8);
    let causes = differing(&found, "causes");
    let gc = causes
        .iter()
        .find(|row| row["what"].to_string().contains("\"gc\""));
    let gc = gc.unwrap_or_else(|| panic!("garbage collection is the same: {causes:#?}"));
    assert!(
        gc["kind"] == "vanished" || gc["kind"] == "shrank",
        "{gc:#?}"
    );
    let bytes = |side: &str| gc[side]["bytes"].as_u64().expect("bytes");
    assert!(bytes("new") * 20 < bytes("base"), "{gc:#?}");
    // How long the runs took may explain the rest of the total.
    assert_ne!(found["total"]["kind"], "grew", "{:#?}", found["total"]);

    let equal = compared(&base, &again);
    for list in ["causes", "call_sites", "app_frames", "types", "roles"] {
        let rows = differing(&equal, list);
        assert!(rows.is_empty(), "{list}: {rows:#?}");
    }
    assert_eq!(equal["total"]["kind"], "same", "{:#?}", equal["total"]);
}

#[test]
fn a_limit_that_was_exceeded_is_the_exit_status() {
    requires!(privileged());
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (limit, status) in [
        ("1KiB", 1),
        ("1KiB/worker:copy-on-read", 1),
        ("100GiB", 0),
        ("100GiB/worker", 0),
    ] {
        let file = folder.path().join(format!("{status}.json"));
        let file = file.display().to_string();
        let output = memtrace(&[
            "-o",
            &file,
            "--no-unchanged",
            "--fail-over",
            limit,
            "--",
            PYTHON,
            "-c",
            SERVER,
        ]);
        assert_eq!(
            output.status.code(),
            Some(status),
            "{limit}: {}",
            said(&output)
        );
        // There is a report in any case.
        assert!(Path::new(&file).exists(), "{limit}");
        std::fs::remove_file(file).expect("it is the test's");
    }
}
