//! Prometheus' text format: for `node_exporter`'s textfile collector, a pushgateway, or a check in
//! CI.
//!
//! Labels are names of memtrace's own, causes and origins and kinds of processes. A function, a file
//! or a pid would make a series of each, and more with every trace.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, Write};

use foldhash::HashMap;

use super::samples::since_1970;
use super::{Format, Report};
use crate::distribution::Distribution;
use crate::profile::{CallSite, Process, Profile, RoleKind};

pub(super) const FORMAT: Format = Format {
    name: "prom",
    extension: "prom",
    audience: "For Prometheus",
    remark: "totals, in the text format",
    is_binary: false,
    make: |_, _| Box::new(Prom),
};

/// Writes metrics.
#[derive(Clone, Copy, Debug)]
pub struct Prom;

/// A metric, and what it says.
struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
}

impl Metric {
    const fn counter(name: &'static str, help: &'static str) -> Self {
        let kind = "counter";
        Self { name, kind, help }
    }

    const fn gauge(name: &'static str, help: &'static str) -> Self {
        let kind = "gauge";
        Self { name, kind, help }
    }

    fn head(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { name, kind, help } = self;
        writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}")
    }

    fn row(
        &self,
        labels: &[(&str, &str)],
        value: impl Display,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        self.part("", labels, value, out)
    }

    /// A row of a metric that has several, each with a name that ends differently.
    fn part(
        &self,
        end: &str,
        labels: &[(&str, &str)],
        value: impl Display,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let labels: Vec<String> = (labels.iter())
            .map(|(key, value)| format!("{key}=\"{}\"", escaped(value)))
            .collect();
        let labels = match &labels[..] {
            [] => String::new(),
            some => format!("{{{}}}", some.join(",")),
        };
        writeln!(out, "{}{end}{labels} {value}", self.name)
    }

    /// A metric of one value.
    fn one(&self, value: impl Display, out: &mut dyn Write) -> io::Result<()> {
        self.head(out)?;
        self.row(&[], value, out)
    }
}

const BUILD: Metric = Metric::gauge(
    "memtrace_build_info",
    "The memtrace that recorded this, and how copies were seen.",
);
const BYTES: Metric = Metric::counter(
    "memtrace_copied_bytes_total",
    "Bytes copied on write, by what the write was and what the page had been.",
);
const PAGES: Metric = Metric::counter(
    "memtrace_copied_pages_total",
    "Pages copied on write, by what the write was and what the page had been.",
);
const ONLY_READ: Metric = Metric::counter(
    "memtrace_copy_on_read_pages_total",
    "Pages copied though the program only read.",
);
const NOT_COPIED: Metric = Metric::counter(
    "memtrace_faults_not_copied_total",
    "Write faults that copied nothing.",
);
const LATENCY: Histogram = Histogram {
    metric: Metric {
        name: "memtrace_copy_duration_seconds",
        kind: "histogram",
        help: "How long faults that copied took, as far as they have a record.",
    },
    of: |site| &site.latency_ns,
    second: 1e9,
    bounds: &[
        (1_000, "1e-06"),
        (2_000, "2e-06"),
        (4_000, "4e-06"),
        (8_000, "8e-06"),
        (16_000, "1.6e-05"),
        (64_000, "6.4e-05"),
        (256_000, "0.000256"),
        (1_000_000, "0.001"),
        (10_000_000, "0.01"),
    ],
};
const AGE: Histogram = Histogram {
    metric: Metric {
        name: "memtrace_copy_age_seconds",
        kind: "histogram",
        help: "How long after its fork a process copied, where its fork was seen.",
    },
    of: |site| &site.age_ms,
    second: 1e3,
    bounds: &[
        (100, "0.1"),
        (1_000, "1.0"),
        (10_000, "10.0"),
        (60_000, "60.0"),
        (600_000, "600.0"),
        (3_600_000, "3600.0"),
        (86_400_000, "86400.0"),
    ],
};
const PROCESSES: Metric = Metric::gauge(
    "memtrace_processes",
    "Traced processes that were alive at the end.",
);
const TRACED: Metric = Metric::counter("memtrace_traced_processes_total", "Traced processes.");
const FORKS: Metric = Metric::counter(
    "memtrace_forks_total",
    "Processes that were forked during the trace.",
);
const EXITS: Metric = Metric::counter(
    "memtrace_exits_total",
    "Processes that ended during the trace.",
);
const DURATION: Metric = Metric::gauge("memtrace_duration_seconds", "How long the trace lasted.");
const STARTED: Metric = Metric::gauge(
    "memtrace_start_time_seconds",
    "When the trace began, in seconds since 1970.",
);
const MEMORY: Metric = Metric::gauge(
    "memtrace_memory_bytes",
    "Memory of the processes of a role when it was last looked at.",
);
const LOST_FAULTS: Metric = Metric::counter(
    "memtrace_lost_faults_total",
    "Copied pages whose record was lost; they are counted, with the cause unknown.",
);
const LOST_STACKS: Metric = Metric::counter(
    "memtrace_lost_stacks_total",
    "Copied pages whose stack was lost.",
);
const UNTRACED: Metric = Metric::counter(
    "memtrace_untraced_processes_total",
    "Processes that could not be traced.",
);
const UNTRACED_THREADS: Metric = Metric::counter(
    "memtrace_untraced_threads_total",
    "Threads that could not be traced.",
);

/// A metric that counts values up to each of some bounds.
struct Histogram {
    metric: Metric,
    of: fn(&CallSite) -> &Distribution,
    /// A second, in the unit of the values.
    second: f64,
    /// In the unit of the values; and in seconds, as `OpenMetrics` spells them.
    bounds: &'static [(u64, &'static str)],
}

impl Histogram {
    fn write(&self, profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
        let mut all = Distribution::new();
        for site in &profile.call_sites {
            all.merge((self.of)(site));
        }
        let Self { metric, .. } = self;
        metric.head(out)?;
        let bounds = self.bounds.iter();
        let rows = bounds.map(|(value, shown)| (*shown, all.count_up_to(*value)));
        for (bound, count) in rows.chain([("+Inf", all.count())]) {
            metric.part("_bucket", &[("le", bound)], count, out)?;
        }
        metric.part("_sum", &[], all.sum() / self.second, out)?;
        metric.part("_count", &[], all.count(), out)
    }
}

/// The value of a label, as the format spells it.
fn escaped(value: &str) -> String {
    let value = crate::foreign::escape(value);
    value.replace('\\', "\\\\").replace('"', "\\\"")
}

impl Report for Prom {
    fn write(&self, profile: &Profile, out: &mut dyn Write) -> anyhow::Result<()> {
        let totals = &profile.totals;
        BUILD.head(out)?;
        let backend = profile.host.backend.to_string();
        BUILD.row(
            &[("version", &profile.memtrace), ("backend", &backend)],
            1,
            out,
        )?;
        copied(profile, out)?;
        ONLY_READ.one(totals.copy_on_read_pages, out)?;
        not_copied(profile, out)?;
        LATENCY.write(profile, out)?;
        AGE.write(profile, out)?;
        processes(profile, out)?;
        memory(profile, out)?;
        DURATION.one(profile.duration_s, out)?;
        if let Some(since) = since_1970(profile) {
            STARTED.one(since.as_secs_f64(), out)?;
        }
        LOST_FAULTS.one(totals.lost.faults, out)?;
        LOST_STACKS.one(totals.lost.stacks, out)?;
        UNTRACED.one(totals.lost.processes, out)?;
        UNTRACED_THREADS.one(totals.lost.threads, out)?;
        Ok(())
    }
}

fn copied(profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
    let mut sums: BTreeMap<_, (u64, u64)> = BTreeMap::new();
    for site in &profile.call_sites {
        let (bytes, pages) = sums.entry((site.cause, site.origin)).or_default();
        *bytes = bytes.saturating_add(site.bytes);
        *pages = pages.saturating_add(site.pages);
    }
    for (metric, of) in [
        (BYTES, (|sums| sums.0) as fn((u64, u64)) -> u64),
        (PAGES, |sums| sums.1),
    ] {
        metric.head(out)?;
        for ((cause, origin), sums) in &sums {
            let labels = [("cause", cause.name()), ("origin", origin.name())];
            metric.row(&labels, of(*sums), out)?;
        }
    }
    Ok(())
}

fn not_copied(profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
    let not_copied = &profile.totals.not_copied;
    let outcomes = [
        ("reuse", not_copied.reuse),
        ("zero", not_copied.zero),
        ("first_touch", not_copied.first_touch),
        ("split", not_copied.split),
        ("settled_elsewhere", not_copied.settled_elsewhere),
    ];
    NOT_COPIED.head(out)?;
    for (outcome, faults) in outcomes {
        // What cannot be seen is not 0.
        if let Some(faults) = faults {
            NOT_COPIED.row(&[("outcome", outcome)], faults, out)?;
        }
    }
    Ok(())
}

fn processes(profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
    let count = |of: fn(&Process) -> bool| -> u64 {
        let found = profile.processes.iter().filter(|process| of(process));
        found.fold(0, |sum, process| sum.saturating_add(process.count()))
    };
    let sum = |bins: &Vec<u64>| {
        bins.iter()
            .fold(0, |sum: u64, more| sum.saturating_add(*more))
    };
    // Those that are added up in one row have no times of their own, and the timeline has all.
    let timeline = profile.timeline.as_ref();
    let forks = timeline.map(|timeline| sum(&timeline.forks));
    let exits = timeline.map(|timeline| sum(&timeline.exits));
    PROCESSES.one(
        count(|process| process.exited_at_s.is_none() && process.stands_for.is_none()),
        out,
    )?;
    TRACED.one(profile.process_count(), out)?;
    FORKS.one(
        forks.unwrap_or_else(|| count(|process| process.forked_at_s.is_some())),
        out,
    )?;
    EXITS.one(
        exits.unwrap_or_else(|| {
            count(|process| process.exited_at_s.is_some() || process.stands_for.is_some())
        }),
        out,
    )
}

/// Memory in the last bin of the timeline in which anybody was looked at.
fn memory(profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
    let Some(timeline) = &profile.timeline else {
        return Ok(());
    };
    let looked = |bin: &usize| {
        let mut roles = timeline.by_role.iter();
        roles.any(|role| role.private.get(*bin).is_some_and(Option::is_some))
    };
    let Some(last) = (0..timeline.bins()).rev().find(looked) else {
        return Ok(());
    };
    let kinds = profile.roles.iter().map(|role| (&*role.id, role.kind));
    let kinds: HashMap<&str, RoleKind> = kinds.collect();
    let mut sums: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for row in &timeline.by_role {
        let Some(role) = kinds.get(&*row.role) else {
            continue;
        };
        for (kind, bins) in [("shared", &row.shared), ("private", &row.private)] {
            if let Some(Some(bytes)) = bins.get(last) {
                // Of kinds there are few; a role's id has a number.
                let sum = sums.entry((role.name(), kind)).or_default();
                *sum = sum.saturating_add(*bytes);
            }
        }
    }
    MEMORY.head(out)?;
    for ((role, kind), bytes) in sums {
        MEMORY.row(&[("role", role), ("kind", kind)], bytes, out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::sample::{sample, sample_with_losses, sample_with_memory};
    use crate::report::samples::tests::profiles;

    fn written(profile: &Profile) -> String {
        let mut bytes = Vec::new();
        Prom.write(profile, &mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    fn sum(text: &str, metric: &str) -> u64 {
        let rows = text.lines().filter(|line| {
            let rest = line.strip_prefix(metric);
            rest.is_some_and(|rest| rest.starts_with([' ', '{']))
        });
        rows.map(|row| row.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
            .sum()
    }

    #[test]
    fn totals_are_metrics() {
        insta::assert_snapshot!(written(&sample_with_memory()), @r#"
        # HELP memtrace_build_info The memtrace that recorded this, and how copies were seen.
        # TYPE memtrace_build_info gauge
        memtrace_build_info{version="0.1.0",backend="tracepoint"} 1
        # HELP memtrace_copied_bytes_total Bytes copied on write, by what the write was and what the page had been.
        # TYPE memtrace_copied_bytes_total counter
        memtrace_copied_bytes_total{cause="refcount",origin="fork"} 17436672
        memtrace_copied_bytes_total{cause="refcount",origin="ksm"} 36864
        memtrace_copied_bytes_total{cause="gc",origin="fork"} 4546560
        memtrace_copied_bytes_total{cause="allocator",origin="fork"} 491520
        memtrace_copied_bytes_total{cause="object",origin="fork"} 860160
        memtrace_copied_bytes_total{cause="data",origin="fork"} 1638400
        memtrace_copied_bytes_total{cause="data",origin="file"} 262144
        memtrace_copied_bytes_total{cause="kernel",origin="fork"} 2506752
        memtrace_copied_bytes_total{cause="unknown",origin="file"} 737280
        # HELP memtrace_copied_pages_total Pages copied on write, by what the write was and what the page had been.
        # TYPE memtrace_copied_pages_total counter
        memtrace_copied_pages_total{cause="refcount",origin="fork"} 4257
        memtrace_copied_pages_total{cause="refcount",origin="ksm"} 9
        memtrace_copied_pages_total{cause="gc",origin="fork"} 1110
        memtrace_copied_pages_total{cause="allocator",origin="fork"} 120
        memtrace_copied_pages_total{cause="object",origin="fork"} 210
        memtrace_copied_pages_total{cause="data",origin="fork"} 400
        memtrace_copied_pages_total{cause="data",origin="file"} 64
        memtrace_copied_pages_total{cause="kernel",origin="fork"} 612
        memtrace_copied_pages_total{cause="unknown",origin="file"} 180
        # HELP memtrace_copy_on_read_pages_total Pages copied though the program only read.
        # TYPE memtrace_copy_on_read_pages_total counter
        memtrace_copy_on_read_pages_total 5376
        # HELP memtrace_faults_not_copied_total Write faults that copied nothing.
        # TYPE memtrace_faults_not_copied_total counter
        memtrace_faults_not_copied_total{outcome="reuse"} 12345
        memtrace_faults_not_copied_total{outcome="zero"} 678
        memtrace_faults_not_copied_total{outcome="first_touch"} 90123
        memtrace_faults_not_copied_total{outcome="settled_elsewhere"} 27
        # HELP memtrace_copy_duration_seconds How long faults that copied took, as far as they have a record.
        # TYPE memtrace_copy_duration_seconds histogram
        memtrace_copy_duration_seconds_bucket{le="1e-06"} 0
        memtrace_copy_duration_seconds_bucket{le="2e-06"} 3225
        memtrace_copy_duration_seconds_bucket{le="4e-06"} 6888
        memtrace_copy_duration_seconds_bucket{le="8e-06"} 6888
        memtrace_copy_duration_seconds_bucket{le="1.6e-05"} 6902
        memtrace_copy_duration_seconds_bucket{le="6.4e-05"} 6927
        memtrace_copy_duration_seconds_bucket{le="0.000256"} 6951
        memtrace_copy_duration_seconds_bucket{le="0.001"} 6953
        memtrace_copy_duration_seconds_bucket{le="0.01"} 6953
        memtrace_copy_duration_seconds_bucket{le="+Inf"} 6953
        memtrace_copy_duration_seconds_sum 0.019340813
        memtrace_copy_duration_seconds_count 6953
        # HELP memtrace_copy_age_seconds How long after its fork a process copied, where its fork was seen.
        # TYPE memtrace_copy_age_seconds histogram
        memtrace_copy_age_seconds_bucket{le="0.1"} 160
        memtrace_copy_age_seconds_bucket{le="1.0"} 1735
        memtrace_copy_age_seconds_bucket{le="10.0"} 6898
        memtrace_copy_age_seconds_bucket{le="60.0"} 6898
        memtrace_copy_age_seconds_bucket{le="600.0"} 6898
        memtrace_copy_age_seconds_bucket{le="3600.0"} 6898
        memtrace_copy_age_seconds_bucket{le="86400.0"} 6898
        memtrace_copy_age_seconds_bucket{le="+Inf"} 6898
        memtrace_copy_age_seconds_sum 16711.458
        memtrace_copy_age_seconds_count 6898
        # HELP memtrace_processes Traced processes that were alive at the end.
        # TYPE memtrace_processes gauge
        memtrace_processes 4
        # HELP memtrace_traced_processes_total Traced processes.
        # TYPE memtrace_traced_processes_total counter
        memtrace_traced_processes_total 6
        # HELP memtrace_forks_total Processes that were forked during the trace.
        # TYPE memtrace_forks_total counter
        memtrace_forks_total 3
        # HELP memtrace_exits_total Processes that ended during the trace.
        # TYPE memtrace_exits_total counter
        memtrace_exits_total 2
        # HELP memtrace_memory_bytes Memory of the processes of a role when it was last looked at.
        # TYPE memtrace_memory_bytes gauge
        memtrace_memory_bytes{role="master",kind="private"} 29360128
        memtrace_memory_bytes{role="master",kind="shared"} 41943040
        memtrace_memory_bytes{role="worker",kind="private"} 88080384
        memtrace_memory_bytes{role="worker",kind="shared"} 125829120
        # HELP memtrace_duration_seconds How long the trace lasted.
        # TYPE memtrace_duration_seconds gauge
        memtrace_duration_seconds 10.25
        # HELP memtrace_start_time_seconds When the trace began, in seconds since 1970.
        # TYPE memtrace_start_time_seconds gauge
        memtrace_start_time_seconds 1773500966
        # HELP memtrace_lost_faults_total Copied pages whose record was lost; they are counted, with the cause unknown.
        # TYPE memtrace_lost_faults_total counter
        memtrace_lost_faults_total 0
        # HELP memtrace_lost_stacks_total Copied pages whose stack was lost.
        # TYPE memtrace_lost_stacks_total counter
        memtrace_lost_stacks_total 0
        # HELP memtrace_untraced_processes_total Processes that could not be traced.
        # TYPE memtrace_untraced_processes_total counter
        memtrace_untraced_processes_total 0
        # HELP memtrace_untraced_threads_total Threads that could not be traced.
        # TYPE memtrace_untraced_threads_total counter
        memtrace_untraced_threads_total 0
        "#);
    }

    #[test]
    fn values_add_up_to_all_copies() {
        for (name, profile) in profiles() {
            let text = written(&profile);
            let totals = &profile.totals;
            assert_eq!(sum(&text, BYTES.name), totals.copied_bytes, "{name}");
            assert_eq!(sum(&text, PAGES.name), totals.copied_pages, "{name}");
            assert_eq!(sum(&text, ONLY_READ.name), totals.copy_on_read_pages);
            assert_eq!(sum(&text, TRACED.name), profile.process_count());
            assert_eq!(sum(&text, LOST_FAULTS.name), totals.lost.faults);
        }
        let text = written(&sample_with_losses());
        assert_eq!(sum(&text, LOST_STACKS.name), 31);
        assert_eq!(sum(&text, UNTRACED.name), 2);
    }

    #[test]
    fn buckets_only_grow_and_the_last_has_every_value() {
        for (name, profile) in profiles() {
            let text = written(&profile);
            for Histogram { metric, of, .. } in [LATENCY, AGE] {
                let all = profile.call_sites.iter().map(|site| of(site).count());
                let all: u64 = all.sum();
                let begin = format!("{}_bucket", metric.name);
                let rows = text.lines().filter(|line| line.starts_with(&begin));
                let counts = rows.map(|row| row.rsplit(' ').next().unwrap().parse().unwrap());
                let counts: Vec<u64> = counts.collect();
                assert!(counts.is_sorted(), "{name}: {counts:?}");
                assert_eq!(counts.last(), Some(&all), "{name}");
                assert_eq!(sum(&text, &format!("{}_count", metric.name)), all);
            }
        }
    }

    #[test]
    fn what_others_wrote_makes_neither_rows_nor_series() {
        let mut profile = sample();
        profile.memtrace = "1\"} 7\nevil{x=\"\\".to_owned();
        let text = written(&profile);
        assert!(text.contains(r#"version="1\"} 7\\nevil{x=\"\\""#), "{text}");
        assert!(!text.lines().any(|line| line.starts_with("evil")));
        for foreign in ["render", "catalog.py", "gunicorn", "4243"] {
            assert!(!text.contains(foreign), "{foreign}");
        }
    }

    #[test]
    fn what_was_not_looked_at_is_absent() {
        let text = written(&sample());
        assert!(!text.contains(MEMORY.name));
        assert!(!text.contains("outcome=\"split\""));
    }
}
