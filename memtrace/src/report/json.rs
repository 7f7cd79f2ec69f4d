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

/// Indents like serde_json's pretty printer, down to depth [`BROKEN`].
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
        if self.inline() { out.write_all(b"[") } else { self.pretty.begin_array(out) }
    }

    fn begin_array_value<W: Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if self.inline() { separate(out, first) } else { self.pretty.begin_array_value(out, first) }
    }

    fn end_array_value<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        if self.inline() { Ok(()) } else { self.pretty.end_array_value(out) }
    }

    fn end_array<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        let inline = self.inline();
        self.depth -= 1;
        if inline { out.write_all(b"]") } else { self.pretty.end_array(out) }
    }

    fn begin_object<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.depth += 1;
        if self.inline() { out.write_all(b"{") } else { self.pretty.begin_object(out) }
    }

    fn begin_object_key<W: Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if self.inline() { separate(out, first) } else { self.pretty.begin_object_key(out, first) }
    }

    fn begin_object_value<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }

    fn end_object_value<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        if self.inline() { Ok(()) } else { self.pretty.end_object_value(out) }
    }

    fn end_object<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        let inline = self.inline();
        self.depth -= 1;
        if inline { out.write_all(b"}") } else { self.pretty.end_object(out) }
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
    fn json_of_the_sample_profile() {
        // The first and the last call site stand for all.
        let mut profile = sample();
        profile.processes.truncate(2);
        profile.call_sites.drain(1..7);
        insta::assert_snapshot!(written(&profile), @"");
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
        let frame = site.stacks[0].frames[0].clone();
        profile.call_sites = (0..10_000_u64)
            .map(|n| {
                let mut site = site.clone();
                site.site.line = Some(n as u32);
                site.latency_ns = Distribution::new();
                site.age_ms = Distribution::new();
                for i in 0..100 {
                    site.latency_ns.record(1_500 + (n * 7_919 + i * 104_729) % 4_000);
                    site.age_ms.record((n * 31 + i * 17) % 10_000);
                }
                let frames: Vec<Frame> =
                    (0..20).map(|at| Frame { address: n * 20 + at, ..frame.clone() }).collect();
                site.stacks.truncate(1);
                site.stacks[0].frames = Arc::from(frames);
                site
            })
            .collect();
        let start = Instant::now();
        let text = written(&profile);
        println!("{} bytes in {:?}", text.len(), start.elapsed());
        assert!(start.elapsed().as_secs_f64() < 1.0);
    }
}
