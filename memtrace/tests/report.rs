//! `memtrace report` as a program: a saved report in every format, and what is refused. It needs
//! neither root nor BPF.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

/// A saved report: ten pages of one Python function, of which the collector copied three.
fn saved() -> Value {
    let by_cause = json!({"refcount": 7, "gc": 3});
    let by_origin = json!({"fork": 10});
    let frame = |function: &str, file: &str, line: u32, language: &str| {
        json!({
            "function": function, "file": file, "line": line, "module": null, "address": 1,
            "language": language, "inlined": false,
        })
    };
    let site = |cause: &str, leaf: &str, pages: u64| {
        json!({
            "site": {
                "function": "render", "file": "/srv/app.py", "line": 7, "module": null,
                "language": "python",
            },
            "cause": cause, "evidence": "structure", "origin": "fork", "object_type": null,
            "pages": pages, "bytes": pages * 4096, "share": pages as f64 / 10.0,
            "processes": {"42": pages}, "latency_ns": {}, "age_ms": {},
            "stacks": [{"pages": pages, "frames": [
                frame(leaf, "object.h", 500, "native"),
                frame("render", "/srv/app.py", 7, "python"),
                frame("_PyEval_Vector", "ceval.c", 9, "native"),
            ]}],
        })
    };
    let not_copied = json!({"reuse": 1, "zero": 0, "first_touch": 0, "split": null});
    json!({
        "schema": "memtrace/1", "memtrace": "0.1.0",
        "host": {
            "kernel": "6.12", "arch": "x86_64", "page_size": 4096, "backend": "tracepoint",
            "unwind": "auto", "python": "auto", "blind_spots": [],
        },
        "command": [], "command_exit": null, "started_at": "2026-03-14T15:09:26Z",
        "duration_s": 2.0,
        "totals": {
            "copied_pages": 10, "copied_bytes": 40960, "by_origin": by_origin,
            "by_cause": by_cause, "copy_on_read_pages": 10, "unchanged_pages": null,
            "not_copied": not_copied,
            "lost": {"faults": 0, "stacks": 0, "processes": 0, "threads": 0},
        },
        "processes": [{
            "pid": 42, "ppid": 1, "comm": "server", "cmdline": ["server"], "forked_at_s": null,
            "exited_at_s": null, "copied_pages": 10, "copied_bytes": 40960,
            "copy_on_read_pages": 10, "by_origin": by_origin, "by_cause": by_cause,
            "not_copied": not_copied, "lost_faults": 0, "memory": null,
        }],
        "call_sites": [site("refcount", "Py_INCREF", 7), site("gc", "update_refs", 3)],
        "types": [], "advice": [], "warnings": [],
    })
}

fn memtrace(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_memtrace"))
        .arg("report")
        .args(args)
        .current_dir(folder)
        .output()
        .unwrap()
}

/// What memtrace says where it refuses, with exit status 2 and nothing on standard output.
fn refused(folder: &Path, args: &[&str]) -> String {
    let output = memtrace(folder, args);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert_eq!(output.stdout, b"");
    said
}

#[test]
fn a_saved_report_is_written_in_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("saved.json"), saved().to_string()).unwrap();
    let begins: [(&str, &[u8]); 10] = [
        ("a.txt", b"40.0 KiB copied in 2.00 s"),
        ("a.json", b"{\n"),
        ("a.json.gz", &[0x1f, 0x8b]),
        ("a.svg", b"<svg "),
        ("a.folded", b"render (app.py:7);Py_INCREF;[refcount] 7\n"),
        ("a.speedscope.json", b"{\"$schema\""),
        ("a.firefox.json", b"{\"meta\":"),
        ("a.pb.gz", &[0x1f, 0x8b]),
        ("a.hlog", b"#["),
        ("a.prom", b"# HELP "),
    ];
    let mut args = vec!["saved.json", "-f", "folded", "--frames", "site"];
    let output = memtrace(folder, &args);
    assert!(output.status.success());
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        stdout,
        "render (app.py:7);[gc] 3\nrender (app.py:7);[refcount] 7\n"
    );
    args.truncate(1);
    args.extend(begins.iter().flat_map(|(name, _)| ["-o", *name]));
    let output = memtrace(folder, &args);
    assert!(output.status.success(), "{output:?}");
    for (name, begin) in begins {
        let written = fs::read(folder.join(name)).unwrap();
        let start = String::from_utf8_lossy(&written[..written.len().min(60)]);
        assert!(written.starts_with(begin), "{name}: {start}");
    }
    // What was written can be read again, and says the same.
    let first = memtrace(folder, &["saved.json"]).stdout;
    assert_eq!(memtrace(folder, &["a.json.gz"]).stdout, first);
    assert_eq!(output.stdout, first);
}

#[test]
fn what_is_no_whole_report_is_refused_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let text = saved().to_string();
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    write("cut.json", &text[..text.len() / 2]);
    write("odd.json", &text.replace("\"gc\":3", "\"gc\":4"));
    write("other.json", "{\"schema\": \"pprof\"}");
    for (name, why) in [
        ("cut.json", "too early"),
        ("odd.json", "does not add up"),
        ("other.json", "has the schema \"pprof\""),
        ("none.json", "cannot open 'none.json'"),
        (".", "cannot be read"),
    ] {
        let said = refused(folder, &[name, "-o", "x.svg"]);
        assert!(said.contains(why), "{name}: {said}");
        assert!(!folder.join("x.svg").exists());
    }
    write("saved.json", &text);
    let said = refused(folder, &["saved.json", "-o", "gone/x.svg"]);
    assert!(said.contains("no such directory"), "{said}");
    let said = refused(folder, &["saved.json", "saved.json"]);
    assert!(said.contains("does not merge"), "{said}");
}
