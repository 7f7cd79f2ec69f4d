//! The report for programs: the profile itself, in schema `memtrace/1`.

use std::io::{self, Write};

use anyhow::Context as _;
use serde::Serialize as _;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use super::Report;
use super::escape::acts;
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
            if acts(c) {
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
    use crate::profile::Frame;
    use crate::report::sample::{sample, sample_with_losses};

    fn written(profile: &Profile) -> String {
        let mut text = Vec::new();
        Json.write(profile, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "the report is as long as that")]
    fn json_of_the_sample_profile() {
        // A named and an unnamed call site stand for all.
        let mut profile = sample();
        profile.processes.truncate(2);
        profile.call_sites = [3, 4].map(|at| profile.call_sites[at].clone()).to_vec();
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
            "unchanged": null,
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
              "unchanged": null,
              "interpreter": null,
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
              "unchanged": null,
              "interpreter": null,
              "memory": null
            }
          ],
          "call_sites": [
            {
              "site": {
                "function": "std::_Hashtable<std::string, std::pair<std::string const, shop::pricing::Rule>, std::allocator<std::pair<std::string const, shop::pricing::Rule>>>::_M_insert_unique_node",
                "file": "/usr/include/c++/12/bits/hashtable.h",
                "line": 1719,
                "module": "/srv/shop/lib/_pricing.so",
                "language": "native"
              },
              "cause": "data",
              "evidence": null,
              "origin": "fork",
              "object_type": null,
              "field_offset": null,
              "pages": 400,
              "bytes": 1638400,
              "share": 0.05138086062941554,
              "processes": {
                "4243": 400
              },
              "latency_ns": {
                "min": 1100,
                "p50": 2059,
                "p90": 2911,
                "p99": 3099,
                "max": 45311,
                "hdr": "HISTFAAAAFR4nJNpmSzMwMBUzQABzFCaEUJt+G//AcKaLsikzcSAAgearz+oXEMMnxWH24nn6TJBgCiUFieCz0CieuL5DFQ2D8HfrsT0k4dpOSfTRFYmAMA4EnM="
              },
              "age_ms": {
                "min": 20,
                "p50": 2607,
                "p90": 4687,
                "p99": 5155,
                "max": 5207,
                "hdr": "HISTFAAAADh4nJNpmSzMwMCswAABzFCaEUKJhNt/gLDUmcRHIVkhwMnEPYqZyAkDdiZmJlYmZjAc7DQAniAbpA=="
              },
              "stacks": [
                {
                  "pages": 400,
                  "frames": [
                    {"function": "std::_Hashtable<std::string, std::pair<std::string const, shop::pricing::Rule>, std::allocator<std::pair<std::string const, shop::pricing::Rule>>>::_M_insert_unique_node", "file": "/usr/include/c++/12/bits/hashtable.h", "line": 1719, "module": "/srv/shop/lib/_pricing.so", "address": 139716164191927, "language": "native", "inlined": false},
                    {"function": "shop::pricing::apply", "file": "src/pricing.cc", "line": 77, "module": "/srv/shop/lib/_pricing.so", "address": 139716164190285, "language": "native", "inlined": false}
                  ]
                }
              ]
            },
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
              "origin": "file",
              "object_type": null,
              "field_offset": null,
              "pages": 180,
              "bytes": 737280,
              "share": 0.023121387283236993,
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
              "stacks": [
                {
                  "pages": 180,
                  "truncated": true,
                  "frames": [
                    {"function": "libssl.so.3+0x4a1f0", "file": null, "line": null, "module": "/usr/lib/x86_64-linux-gnu/libssl.so.3", "address": 139716164190208, "language": "native", "inlined": false, "unknown": "no_symbol"},
                    {"function": "[unknown]", "file": null, "line": null, "module": null, "address": 139716164190208, "language": "native", "inlined": false, "unknown": "anonymous"}
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
    fn nothing_that_a_terminal_acts_on_is_in_the_text() {
        let text = written(&sample());
        assert!(!text.contains(|c| acts(c) && c != '\n'));
        assert!(text.contains(r"evil\u001b[2J\u202eeman\nfunction"));
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
