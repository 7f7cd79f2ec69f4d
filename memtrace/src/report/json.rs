//! The report for programs: the profile itself, in schema `memtrace/1`.

use std::io::{self, Write};

use anyhow::Context as _;
use serde::Serialize as _;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use super::Report;
use crate::profile::Profile;

/// Writes the profile as JSON.
#[derive(Clone, Copy, Debug)]
pub struct Json;

impl Report for Json {
    fn write(&self, profile: &Profile, out: &mut dyn Write) -> anyhow::Result<()> {
        let mut out = out;
        let mut serializer = Serializer::with_formatter(&mut out, Lines::default());
        // As an I/O error it keeps its kind, so that a closed pipe is recognised.
        profile
            .serialize(&mut serializer)
            .map_err(io::Error::from)
            .context("cannot write the JSON report")?;
        out.write_all(b"\n")?;
        Ok(())
    }
}

/// Containers this deep are broken into lines; deeper ones, the frames of a stack, take one line
/// each. Fully broken up, most of a large report would be indentation.
const BROKEN: usize = 6;

/// Indents like `serde_json`'s pretty printer, down to depth [`BROKEN`].
#[derive(Default)]
struct Lines {
    pretty: PrettyFormatter<'static>,
    depth: usize,
}

impl Lines {
    /// Whether the innermost open container takes one line.
    fn inline(&self) -> bool {
        self.depth > BROKEN
    }
}

impl Formatter for Lines {
    fn begin_array<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.depth += 1;
        if self.inline() {
            out.write_all(b"[")
        } else {
            self.pretty.begin_array(out)
        }
    }

    fn begin_array_value<W: Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if self.inline() {
            separate(out, first)
        } else {
            self.pretty.begin_array_value(out, first)
        }
    }

    fn end_array_value<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        if self.inline() {
            Ok(())
        } else {
            self.pretty.end_array_value(out)
        }
    }

    fn end_array<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        let inline = self.inline();
        self.depth -= 1;
        if inline {
            out.write_all(b"]")
        } else {
            self.pretty.end_array(out)
        }
    }

    fn begin_object<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.depth += 1;
        if self.inline() {
            out.write_all(b"{")
        } else {
            self.pretty.begin_object(out)
        }
    }

    fn begin_object_key<W: Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if self.inline() {
            separate(out, first)
        } else {
            self.pretty.begin_object_key(out, first)
        }
    }

    fn begin_object_value<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }

    fn end_object_value<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        if self.inline() {
            Ok(())
        } else {
            self.pretty.end_object_value(out)
        }
    }

    fn end_object<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        let inline = self.inline();
        self.depth -= 1;
        if inline {
            out.write_all(b"}")
        } else {
            self.pretty.end_object(out)
        }
    }
}

fn separate<W: Write + ?Sized>(out: &mut W, first: bool) -> io::Result<()> {
    if first { Ok(()) } else { out.write_all(b", ") }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;
    use crate::distribution::Distribution;
    use crate::profile::Frame;
    use crate::report::sample::{sample, sample_with_losses};

    fn written(profile: &Profile) -> String {
        let mut text = Vec::new();
        Json.write(profile, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    /// Another release of the compressor may pack the same histogram in other bytes.
    fn without_packed_bytes(text: &str) -> String {
        let mut parts = text.split("\"hdr\": \"HIST");
        let mut out = parts.next().unwrap().to_owned();
        for part in parts {
            out += "\"hdr\": \"HIST...";
            out += &part[part.find('"').unwrap()..];
        }
        out
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "they are the snapshot")]
    fn json_of_the_sample_profile() {
        // The first and the last call site stand for all.
        let mut profile = sample();
        profile.processes.truncate(2);
        profile.call_sites.drain(1..7);
        // JSON keeps what the profile has; this source must not turn around its own lines.
        let text = written(&profile).replace('\u{202e}', "<U+202E>");
        let text = without_packed_bytes(&text);
        insta::assert_snapshot!(text, @r#"
        {
          "schema": "memtrace/1",
          "memtrace": "0.1.0",
          "host": {
            "kernel": "6.12.41-cloud-amd64",
            "arch": "x86_64",
            "page_size": 4096,
            "backend": "tracepoint",
            "unwind": "fp",
            "blind_spots": [
              "Pages that another process writes through ptrace, /proc/PID/mem or process_vm_writev, and pages that a device writes by direct I/O, are copied without an exception, so they are not counted.",
              "Copies of hugetlb pages are counted as reuse."
            ]
          },
          "command": [
            "wrk",
            "-d",
            "10",
            "http://localhost:8000/"
          ],
          "command_exit": {
            "status": 0,
            "signal": null
          },
          "started_at": "2026-03-14T15:09:26Z",
          "duration_s": 10.25,
          "totals": {
            "copied_pages": 7785,
            "copied_bytes": 31887360,
            "by_origin": {
              "fork": 7532,
              "ksm": 9,
              "file": 244,
              "hugetlb": 0
            },
            "by_cause": {
              "refcount": 1350,
              "gc": 5050,
              "allocator": 120,
              "object": 0,
              "data": 409,
              "kernel": 612,
              "remote": 0,
              "unknown": 244
            },
            "copy_on_read_pages": 6400,
            "unchanged_pages": null,
            "not_copied": {
              "reuse": 12345,
              "zero": 678,
              "first_touch": 90123,
              "split": null
            },
            "lost": {
              "faults": 0,
              "stacks": 0,
              "processes": 0,
              "threads": 0
            }
          },
          "processes": [
            {
              "pid": 4242,
              "ppid": 1,
              "comm": "gunicorn",
              "cmdline": [
                "gunicorn"
              ],
              "forked_at_s": null,
              "exited_at_s": null,
              "copied_pages": 120,
              "copied_bytes": 491520,
              "copy_on_read_pages": 0,
              "by_origin": {
                "fork": 120,
                "ksm": 0,
                "file": 0,
                "hugetlb": 0
              },
              "by_cause": {
                "refcount": 0,
                "gc": 0,
                "allocator": 120,
                "object": 0,
                "data": 0,
                "kernel": 0,
                "remote": 0,
                "unknown": 0
              },
              "not_copied": {
                "reuse": 226,
                "zero": 113,
                "first_touch": 15020,
                "split": null
              },
              "lost_faults": 0,
              "memory": null
            },
            {
              "pid": 4243,
              "ppid": 4242,
              "comm": "gunicorn: worke",
              "cmdline": [
                "gunicorn: worke"
              ],
              "forked_at_s": null,
              "exited_at_s": null,
              "copied_pages": 3500,
              "copied_bytes": 14336000,
              "copy_on_read_pages": 2800,
              "by_origin": {
                "fork": 3500,
                "ksm": 0,
                "file": 0,
                "hugetlb": 0
              },
              "by_cause": {
                "refcount": 700,
                "gc": 2100,
                "allocator": 0,
                "object": 0,
                "data": 400,
                "kernel": 300,
                "remote": 0,
                "unknown": 0
              },
              "not_copied": {
                "reuse": 229,
                "zero": 113,
                "first_touch": 15020,
                "split": null
              },
              "lost_faults": 0,
              "memory": null
            }
          ],
          "call_sites": [
            {
              "site": {
                "function": "gc_collect_main",
                "file": "./Modules/gcmodule.c",
                "line": 1202,
                "module": "/usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0",
                "language": "native"
              },
              "cause": "gc",
              "origin": "fork",
              "object_type": null,
              "pages": 5050,
              "bytes": 20684800,
              "share": 0.6486833654463712,
              "processes": {
                "4243": 2100,
                "4244": 2050,
                "4245": 900
              },
              "latency_ns": {
                "min": 1100,
                "p50": 2105,
                "p90": 2917,
                "p99": 24207,
                "max": 571903,
                "hdr": "HIST..."
              },
              "age_ms": {
                "min": 20,
                "p50": 3003,
                "p90": 5391,
                "p99": 5955,
                "max": 6019,
                "hdr": "HIST..."
              },
              "stacks": [
                {
                  "pages": 4123,
                  "frames": [
                    {"function": "update_refs", "file": "./Modules/gcmodule.c", "line": 390, "module": "/usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0", "address": 139716164190598, "language": "native", "inlined": true},
                    {"function": "deduce_unreachable", "file": "./Modules/gcmodule.c", "line": 1103, "module": "/usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0", "address": 139716164191311, "language": "native", "inlined": true},
                    {"function": "gc_collect_main", "file": "./Modules/gcmodule.c", "line": 1202, "module": "/usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0", "address": 139716164191410, "language": "native", "inlined": false},
                    {"function": "_PyObject_GC_Alloc", "file": "./Modules/gcmodule.c", "line": 2283, "module": "/usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0", "address": 139716164192491, "language": "native", "inlined": false},
                    {"function": "PyDict_Copy", "file": "./Objects/dictobject.c", "line": 2876, "module": "/usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0", "address": 139716164193084, "language": "native", "inlined": false},
                    {"function": "context", "file": "/srv/shop/app/context.py", "line": 31, "module": null, "address": 0, "language": "python", "inlined": false},
                    {"function": "checkout", "file": "/srv/shop/app/views.py", "line": 88, "module": null, "address": 0, "language": "python", "inlined": false},
                    {"function": "dispatch_request", "file": "/srv/shop/lib/flask/app.py", "line": 1484, "module": null, "address": 0, "language": "python", "inlined": false},
                    {"function": "_start", "file": "../sysdeps/x86_64/start.S", "line": 115, "module": "/usr/bin/python3.11", "address": 139716164190323, "language": "native", "inlined": false}
                  ]
                },
                {
                  "pages": 927,
                  "frames": [
                    {"function": "update_refs", "file": "./Modules/gcmodule.c", "line": 390, "module": "/usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0", "address": 139716164190598, "language": "native", "inlined": true},
                    {"function": "gc_collect_main", "file": "./Modules/gcmodule.c", "line": 1202, "module": "/usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0", "address": 139716164191410, "language": "native", "inlined": false},
                    {"function": "idle", "file": "/srv/shop/gunicorn.conf.py", "line": 12, "module": null, "address": 0, "language": "python", "inlined": false}
                  ]
                }
              ]
            },
            {
              "site": {
                "function": "evil\u001b[2J<U+202E>eman\nfunction",
                "file": "/tmp/日本語/\u0007.c",
                "line": 1,
                "module": "/tmp/日本語/a.out",
                "language": "native"
              },
              "cause": "data",
              "origin": "ksm",
              "object_type": null,
              "pages": 9,
              "bytes": 36864,
              "share": 0.0011560693641618498,
              "processes": {
                "4244": 9
              },
              "latency_ns": {
                "min": null,
                "p50": null,
                "p90": null,
                "p99": null,
                "max": null,
                "hdr": null
              },
              "age_ms": {
                "min": 20,
                "p50": 72,
                "p90": 124,
                "p99": 124,
                "max": 124,
                "hdr": "HIST..."
              },
              "stacks": [
                {
                  "pages": 9,
                  "frames": [
                    {"function": "evil\u001b[2J<U+202E>eman\nfunction", "file": "/tmp/日本語/\u0007.c", "line": 1, "module": "/tmp/日本語/a.out", "address": 139716164190209, "language": "native", "inlined": false}
                  ]
                }
              ]
            }
          ],
          "types": [],
          "advice": [],
          "warnings": []
        }
        "#);
    }

    #[test]
    fn what_is_written_reads_back_the_same() {
        for profile in [sample(), sample_with_losses()] {
            let text = written(&profile);
            let back: Profile = serde_json::from_str(&text).unwrap();
            assert_eq!(written(&back), text);
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(value, serde_json::to_value(&profile).unwrap());
        }
    }

    #[test]
    fn a_profile_of_nothing_has_no_null_where_a_number_belongs() {
        let mut profile = sample();
        profile.call_sites.clear();
        profile.processes.clear();
        let value: serde_json::Value = serde_json::from_str(&written(&profile)).unwrap();
        assert_eq!(value["schema"], "memtrace/1");
        assert!(value["duration_s"].is_f64());
        assert_eq!(value["call_sites"], serde_json::json!([]));
    }

    /// Run with `--release --ignored --nocapture`.
    #[test]
    #[ignore = "a measurement, meaningful in a release build only"]
    fn measure_ten_thousand_call_sites() {
        let mut profile = sample();
        let site = profile.call_sites[0].clone();
        let frame = Frame::clone(&site.stacks[0].frames[0]);
        profile.call_sites = (0..10_000_u64)
            .map(|n| {
                let mut site = site.clone();
                site.site.line = Some(n as u32);
                site.latency_ns = Distribution::new();
                site.age_ms = Distribution::new();
                for i in 0..100 {
                    site.latency_ns
                        .record(1_500 + (n * 7_919 + i * 104_729) % 4_000);
                    site.age_ms.record((n * 31 + i * 17) % 10_000);
                }
                site.stacks.truncate(1);
                site.stacks[0].frames = (0..20)
                    .map(|at| Frame {
                        address: n * 20 + at,
                        ..frame.clone()
                    })
                    .map(Arc::new)
                    .collect();
                site
            })
            .collect();
        let start = Instant::now();
        let text = written(&profile);
        println!("{} bytes in {:?}", text.len(), start.elapsed());
        assert!(start.elapsed().as_secs_f64() < 1.0);
    }
}
