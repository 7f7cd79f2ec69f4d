//! A log of HdrHistogram, which its tools and libraries read: how long copies took and how old their
//! processes were, a line for each cause.

use std::collections::BTreeMap;
use std::io::Write;

use super::samples::{name_of, since_1970};
use super::{Format, Report};
use crate::distribution::Distribution;
use crate::profile::{CallSite, CauseName, Profile};

pub(super) const FORMAT: Format = Format {
    name: "hlog",
    extension: "hlog",
    audience: "For HdrHistogram's tools",
    remark: "latencies and ages by cause",
    is_binary: false,
    make: |_, _| Box::new(Hlog),
};

/// Writes latencies and ages.
#[derive(Clone, Copy, Debug)]
pub struct Hlog;

/// A kind of line.
struct Kind {
    tag: &'static str,
    of: fn(&CallSite) -> &Distribution,
    /// How many of its unit are a millisecond.
    per_ms: f64,
}

const KINDS: [Kind; 2] = [
    Kind {
        tag: "latency_ns",
        of: |site| &site.latency_ns,
        per_ms: 1e6,
    },
    Kind {
        tag: "age_ms",
        of: |site| &site.age_ms,
        per_ms: 1.0,
    },
];

impl Report for Hlog {
    fn write(&self, profile: &Profile, out: &mut dyn Write) -> anyhow::Result<()> {
        let version = name_of(&profile.memtrace);
        writeln!(out, "#[Copies on write, recorded by memtrace {version}]")?;
        writeln!(
            out,
            "#[Values of latency_ns tags are nanoseconds, of age_ms tags milliseconds]"
        )?;
        writeln!(out, "#[Histogram log format version 1.3]")?;
        if let Some(since) = since_1970(profile) {
            let shown = name_of(&profile.started_at);
            let seconds = since.as_secs_f64();
            writeln!(
                out,
                "#[StartTime: {seconds:.3} (seconds since epoch), {shown}]"
            )?;
        }
        writeln!(
            out,
            "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\""
        )?;
        for kind in &KINDS {
            let mut by_cause: BTreeMap<CauseName, Distribution> = BTreeMap::new();
            for site in &profile.call_sites {
                by_cause
                    .entry(site.cause)
                    .or_default()
                    .merge((kind.of)(site));
            }
            for (cause, values) in by_cause {
                let (Some(summary), Some(encoded)) = (values.summary(), values.encoded()?) else {
                    continue;
                };
                writeln!(
                    out,
                    "Tag={}_{cause},0.000,{:.3},{:.3},{encoded}",
                    kind.tag,
                    profile.duration_s,
                    summary.max as f64 / kind.per_ms,
                )?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::sample::sample;
    use crate::report::samples::tests::profiles;

    fn written(profile: &Profile) -> String {
        let mut bytes = Vec::new();
        Hlog.write(profile, &mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_line_is_a_cause_with_its_histogram() {
        let text = written(&sample());
        let short = text.lines().map(|line| match line.find("HISTF") {
            Some(at) => format!("{}...", &line[..at + 12]),
            None => line.to_owned(),
        });
        insta::assert_snapshot!(short.collect::<Vec<_>>().join("\n"), @r#"
        #[Copies on write, recorded by memtrace 0.1.0]
        #[Values of latency_ns tags are nanoseconds, of age_ms tags milliseconds]
        #[Histogram log format version 1.3]
        #[StartTime: 1773500966.000 (seconds since epoch), 2026-03-14T15:09:26Z]
        "StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"
        Tag=latency_ns_refcount,0.000,10.250,0.277,HISTFAAAAO14...
        Tag=latency_ns_gc,0.000,10.250,0.079,HISTFAAAAH54...
        Tag=latency_ns_allocator,0.000,10.250,0.014,HISTFAAAADp4...
        Tag=latency_ns_object,0.000,10.250,0.014,HISTFAAAAEN4...
        Tag=latency_ns_data,0.000,10.250,0.045,HISTFAAAAFp4...
        Tag=latency_ns_kernel,0.000,10.250,0.068,HISTFAAAAGt4...
        Tag=latency_ns_unknown,0.000,10.250,0.014,HISTFAAAADx4...
        Tag=age_ms_refcount,0.000,10.250,6019.000,HISTFAAAAHp4...
        Tag=age_ms_gc,0.000,10.250,6015.000,HISTFAAAAEp4...
        Tag=age_ms_allocator,0.000,10.250,1567.000,HISTFAAAACJ4...
        Tag=age_ms_object,0.000,10.250,1957.000,HISTFAAAACZ4...
        Tag=age_ms_data,0.000,10.250,5207.000,HISTFAAAADh4...
        Tag=age_ms_kernel,0.000,10.250,6015.000,HISTFAAAAD94...
        Tag=age_ms_unknown,0.000,10.250,2347.000,HISTFAAAACp4...
        "#);
    }

    #[test]
    fn the_histograms_have_all_values() {
        for (name, profile) in profiles() {
            let text = written(&profile);
            let count = |tag: &str| -> u64 {
                let lines = text
                    .lines()
                    .filter(|line| line.starts_with(&format!("Tag={tag}_")));
                let read = lines.map(|line| {
                    let hdr = line.rsplit(',').next().unwrap();
                    let value = serde_json::json!({"hdr": hdr});
                    serde_json::from_value::<Distribution>(value)
                        .unwrap()
                        .count()
                });
                read.sum()
            };
            for kind in &KINDS {
                let all = profile
                    .call_sites
                    .iter()
                    .map(|site| (kind.of)(site).count());
                assert_eq!(count(kind.tag), all.sum::<u64>(), "{name}, {}", kind.tag);
            }
        }
    }

    #[test]
    fn a_time_that_is_none_is_left_out() {
        let mut profile = sample();
        profile.started_at = "soon,\nTag=x".to_owned();
        let text = written(&profile);
        assert!(!text.contains("StartTime:") && !text.contains("\nTag=x"));
    }
}
