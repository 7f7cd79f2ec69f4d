//! The report for programs: the profile itself, in schema `memtrace/1`.

use std::io::{self, Write};

use anyhow::Context as _;
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use super::{Format, Report};
use crate::foreign::acts_or_hides;
use crate::profile::Profile;

pub(super) const FORMAT: Format = Format {
    name: "json",
    extension: "json",
    audience: "For programs",
    remark: "schema memtrace/1",
    is_binary: false,
    make: |_, _| Box::new(Json),
};

/// Writes the profile as JSON.
#[derive(Clone, Copy, Debug)]
pub struct Json;

impl Report for Json {
    fn write(&self, profile: &Profile, out: &mut dyn Write) -> anyhow::Result<()> {
        write(profile, out)
    }
}

/// Writes what a report is made of.
pub(super) fn write(report: &impl Serialize, out: &mut dyn Write) -> anyhow::Result<()> {
    let mut out = out;
    let mut serializer = Serializer::with_formatter(&mut out, Lines::default());
    // As an I/O error it keeps its kind, so that a closed pipe is recognised.
    report
        .serialize(&mut serializer)
        .map_err(io::Error::from)
        .context("cannot write the JSON report")?;
    out.write_all(b"\n")?;
    Ok(())
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

    fn write_string_fragment<W: Write + ?Sized>(
        &mut self,
        out: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if fragment.bytes().all(|byte| (b' '..b'\x7f').contains(&byte)) {
            return out.write_all(fragment.as_bytes());
        }
        // To a reader of JSON this is the same text; to a terminal it is harmless.
        for c in fragment.chars() {
            if acts_or_hides(c) {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(out, "\\u{unit:04x}")?;
                }
            } else {
                out.write_all(c.encode_utf8(&mut [0; 4]).as_bytes())?;
            }
        }
        Ok(())
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
    use crate::profile::CauseName;
    use crate::profile::Frame;
    use crate::profile::sample::{sample, sample_with_losses};

    fn written(profile: &Profile) -> String {
        let mut text = Vec::new();
        Json.write(profile, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "the report is as long as that")]
    fn json_of_the_sample_profile() {
        // A field of an object and a cause that is not known stand for all call sites.
        let mut profile = sample();
        profile.processes.truncate(2);
        profile
            .call_sites
            .retain(|site| site.cause == CauseName::Unknown || site.field_offset == Some(24));
        insta::assert_snapshot!(written(&profile), @r#"
        {
          "schema": "memtrace/1",
          "memtrace": "0.1.0",
          "host": {
            "kernel": "6.12.41-cloud-amd64",
            "arch": "x86_64",
            "page_size": 4096,
            "backend": "tracepoint",
            "unwind": "fp",
            "python": "auto",
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
            "copied_pages": 6962,
            "copied_bytes": 28516352,
            "by_origin": {
              "fork": 6709,
              "ksm": 9,
              "file": 244,
              "hugetlb": 0
            },
            "by_cause": {
              "refcount": 4266,
              "gc": 1110,
              "allocator": 120,
              "object": 210,
              "data": 464,
              "kernel": 612,
              "remote": 0,
              "unknown": 180
            },
            "copy_on_read_pages": 5376,
            "unchanged_pages": 4117,
            "unchanged": {
              "unchanged_pages": 4117,
              "compared_pages": 5000,
              "comparable_pages": 6000,
              "gone_pages": 698,
              "compared_with_child_pages": 0,
              "compared_at_exit_pages": 0,
              "not_compared": {
                "ended": 698,
                "replaced": 0,
                "unreadable": 0,
                "unmapped": 0,
                "mapped_after_fork": 0,
                "absent": 0,
                "no_relative": 0,
                "beyond_budget": 1000
              }
            },
            "not_copied": {
              "reuse": 12345,
              "zero": 678,
              "first_touch": 90123,
              "split": null,
              "settled_elsewhere": 27
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
                "split": null,
                "settled_elsewhere": 9
              },
              "lost_faults": 0,
              "unchanged": null,
              "interpreter": {
                "name": "CPython 3.11"
              },
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
              "copied_pages": 3210,
              "copied_bytes": 13148160,
              "copy_on_read_pages": 2510,
              "by_origin": {
                "fork": 3210,
                "ksm": 0,
                "file": 0,
                "hugetlb": 0
              },
              "by_cause": {
                "refcount": 2130,
                "gc": 380,
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
                "split": null,
                "settled_elsewhere": 9
              },
              "lost_faults": 0,
              "unchanged": {
                "unchanged_pages": 2150,
                "compared_pages": 2560,
                "comparable_pages": 3120,
                "gone_pages": 30,
                "compared_with_child_pages": 0,
                "compared_at_exit_pages": 0,
                "not_compared": {
                  "ended": 30,
                  "replaced": 0,
                  "unreadable": 0,
                  "unmapped": 0,
                  "mapped_after_fork": 0,
                  "absent": 0,
                  "no_relative": 0,
                  "beyond_budget": 560
                }
              },
              "interpreter": {
                "name": "CPython 3.11"
              },
              "memory": null
            }
          ],
          "call_sites": [
            {
              "site": {
                "function": "libssl.so.3+0x4a1f0",
                "file": null,
                "line": null,
                "module": "/usr/lib/x86_64-linux-gnu/libssl.so.3",
                "language": "native"
              },
              "cause": "unknown",
              "cause_reason": "the instruction could not be read",
              "evidence": null,
              "phase": "run",
              "origin": "file",
              "object_type": null,
              "field_offset": null,
              "pages": 180,
              "bytes": 737280,
              "share": 0.02585463947141626,
              "processes": {
                "4245": 180
              },
              "latency_ns": {
                "min": 1100,
                "p50": 1988,
                "p90": 2909,
                "p99": 3099,
                "max": 13655,
                "hdr": "HISTFAAAADx4nJNpmSzMwMBoxAABzFCaEUKZhtt/gLCmCzJZMzGA4UDT9iSSpkxMTLJMTEzyFNEMJKnfrsQEAFdDD4I="
              },
              "age_ms": {
                "min": 20,
                "p50": 1177,
                "p90": 2113,
                "p99": 2335,
                "max": 2347,
                "hdr": "HISTFAAAACp4nJNpmSzMwMCYwQABzFCaEUJxatt/gLDUmcRHIRM5kJOJmwQMAAlzE48="
              },
              "unchanged": null,
              "stacks": [
                {
                  "pages": 180,
                  "truncated": true,
                  "truncated_why": "no_tables",
                  "frames": [
                    {"function": "libssl.so.3+0x4a1f0", "file": null, "line": null, "module": "/usr/lib/x86_64-linux-gnu/libssl.so.3", "address": 139716164190208, "language": "native", "inlined": false, "unknown": "no_symbol"},
                    {"function": "[unknown]", "file": null, "line": null, "module": null, "address": 139716164190208, "language": "native", "inlined": false, "unknown": "anonymous"}
                  ]
                }
              ]
            },
            {
              "site": {
                "function": "Session.touch",
                "file": "/srv/shop/app/sessions.py",
                "line": 47,
                "module": null,
                "language": "python"
              },
              "cause": "object",
              "evidence": "structure",
              "phase": "run",
              "origin": "fork",
              "object_type": "dict",
              "field_offset": 24,
              "pages": 150,
              "bytes": 614400,
              "share": 0.021545532892846882,
              "processes": {
                "4244": 150
              },
              "latency_ns": {
                "min": 1100,
                "p50": 2023,
                "p90": 2839,
                "p99": 3099,
                "max": 13655,
                "hdr": "HISTFAAAAD14nJNpmSzMwMDIxAABzFCaEUKZhtt/gLCmCzLZMzEwMQw60pSJiUmWiYlJnkxaEYQUwXw85HYlJgCoxg92"
              },
              "age_ms": {
                "min": 20,
                "p50": 982,
                "p90": 1762,
                "p99": 1944,
                "max": 1957,
                "hdr": "HISTFAAAACV4nJNpmSzMwMCowwABzFCaEUKxL7X/AGGpM4mPQibiIADhcBIJ"
              },
              "unchanged": null,
              "stacks": [
                {
                  "pages": 150,
                  "frames": [
                    {"function": "_PyEval_EvalFrameDefault", "file": "Python/ceval.c", "line": 4980, "module": "/usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0", "address": 139716164195188, "language": "native", "inlined": false},
                    {"function": "Session.touch", "file": "/srv/shop/app/sessions.py", "line": 47, "module": null, "address": 0, "language": "python", "inlined": false},
                    {"function": "checkout", "file": "/srv/shop/app/views.py", "line": 91, "module": null, "address": 0, "language": "python", "inlined": false},
                    {"function": "Flask.dispatch_request", "file": "/srv/shop/lib/flask/app.py", "line": 1484, "module": null, "address": 0, "language": "python", "inlined": false},
                    {"function": "_PyFunction_Vectorcall", "file": "Objects/call.c", "line": 393, "module": "/usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0", "address": 139716164190601, "language": "native", "inlined": false},
                    {"function": "_PyObject_Call", "file": "Objects/call.c", "line": 290, "module": "/usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0", "address": 139716164190498, "language": "native", "inlined": false},
                    {"function": "slot_tp_call", "file": "Objects/typeobject.c", "line": 7494, "module": "/usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0", "address": 139716164197702, "language": "native", "inlined": false},
                    {"function": "_PyObject_MakeTpCall", "file": "Objects/call.c", "line": 214, "module": "/usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0", "address": 139716164190422, "language": "native", "inlined": false},
                    {"function": "_PyEval_EvalFrameDefault", "file": "Python/ceval.c", "line": 4774, "module": "/usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0", "address": 139716164194982, "language": "native", "inlined": false},
                    {"function": "SyncWorker.handle_request", "file": "/srv/shop/lib/gunicorn/workers/sync.py", "line": 177, "module": null, "address": 0, "language": "python", "inlined": false},
                    {"function": "SyncWorker.run", "file": "/srv/shop/lib/gunicorn/workers/sync.py", "line": 130, "module": null, "address": 0, "language": "python", "inlined": false},
                    {"function": "_PyEval_Vector", "file": "Python/ceval.c", "line": 6435, "module": "/usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0", "address": 139716164196643, "language": "native", "inlined": false},
                    {"function": "Py_RunMain", "file": "Modules/main.c", "line": 680, "module": "/usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0", "address": 139716164190888, "language": "native", "inlined": false},
                    {"function": "_start", "file": "../sysdeps/x86_64/start.S", "line": 115, "module": "/usr/bin/python3.11", "address": 139716164190323, "language": "native", "inlined": false}
                  ]
                }
              ]
            }
          ],
          "types": [
            {
              "object_type": "str",
              "cause": "refcount",
              "pages": 2500,
              "bytes": 10240000
            },
            {
              "object_type": "dict",
              "cause": "refcount",
              "pages": 787,
              "bytes": 3223552
            },
            {
              "object_type": "dict",
              "cause": "gc",
              "pages": 730,
              "bytes": 2990080
            },
            {
              "object_type": "decimal.Decimal",
              "cause": "refcount",
              "pages": 425,
              "bytes": 1740800
            },
            {
              "object_type": "shop.models.Product",
              "cause": "refcount",
              "pages": 300,
              "bytes": 1228800
            },
            {
              "object_type": "function",
              "cause": "gc",
              "pages": 240,
              "bytes": 983040
            },
            {
              "object_type": "dict",
              "cause": "object",
              "pages": 150,
              "bytes": 614400
            },
            {
              "object_type": "tuple",
              "cause": "refcount",
              "pages": 115,
              "bytes": 471040
            },
            {
              "object_type": "shop.sessions.Session",
              "cause": "object",
              "pages": 60,
              "bytes": 245760
            },
            {
              "object_type": "<script>alert(1)</script>\u001b]0;owned\u0007\u202eepytéééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééé",
              "cause": "refcount",
              "pages": 9,
              "bytes": 36864
            }
          ],
          "modules": [
            {
              "path": "/usr/bin/python3.13",
              "build_id": "0a1b2c3d",
              "unwind": "tables",
              "source": ".eh_frame",
              "rows": 64575
            },
            {
              "path": "/opt/engine.so",
              "build_id": null,
              "unwind": "frame_pointers",
              "source": null,
              "rows": 0,
              "why": "it has no unwind tables"
            },
            {
              "path": "/opt/huge.so",
              "build_id": "0a1b2c3d",
              "unwind": "nothing",
              "source": ".eh_frame and .debug_frame",
              "rows": 9000000,
              "why": "there was no room for its tables"
            }
          ],
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
    fn nothing_that_a_terminal_acts_on_is_in_the_text() {
        let text = written(&sample());
        assert!(!text.contains(|c| acts_or_hides(c) && c != '\n'));
        assert!(text.contains(r"evil\u001b[2J\u202eeman\nfunction"));
    }

    #[test]
    fn what_cannot_be_seen_is_spelled_out_as_in_the_text() {
        let hidden = [0xad, 0x61c, 0x180e, 0xfff9, 0xfffa, 0xfffb]
            .into_iter()
            .chain(0xe0000..=0xe007f)
            .map(|code| char::from_u32(code).unwrap());
        let hidden: String = hidden.collect();
        // As a report may have it that was not written by memtrace.
        let mut profile = sample();
        profile.call_sites[0].site.function = hidden.as_str().into();
        profile.processes[0].comm.clone_from(&hidden);
        let text = written(&profile);
        assert!(!text.contains(|c| acts_or_hides(c) && c != '\n'));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["processes"][0]["comm"], hidden);
        let text = crate::foreign::escape(&hidden).into_owned();
        assert!(hidden.chars().all(acts_or_hides) && !text.contains(acts_or_hides));
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
        let frame = site.stacks[0].frames[0].clone();
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
                let frames = (0..20).map(|at| {
                    Arc::new(Frame {
                        address: n * 20 + at,
                        ..(*frame).clone()
                    })
                });
                site.stacks.truncate(1);
                site.stacks[0].frames = frames.collect();
                site
            })
            .collect();
        let start = Instant::now();
        let text = written(&profile);
        println!("{} bytes in {:?}", text.len(), start.elapsed());
        assert!(start.elapsed().as_secs_f64() < 1.0);
    }
}
