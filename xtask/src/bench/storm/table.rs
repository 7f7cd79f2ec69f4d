//! The figures of a storm for people, in Markdown.

use std::fmt::Write as _;

use super::{DEFAULT, FP, Figures, OFF, Results, Tracer, TracerResult};
use crate::bench::summary::Summary;

/// Bounds that the project sets itself, whatever other tracers do.
const MEMORY_MIB: f64 = 64.0;
const STACKS_STOP_MS: f64 = 2000.0;
const NOT_TRACED: f64 = 1.05;

/// memtrace, in each of its ways.
const OURS: [Tracer; 3] = [OFF, FP, DEFAULT];

/// One page: machine, figures, and what they had to reach.
pub fn markdown(results: &Results) -> String {
    let size = &results.size;
    let mut out = String::from("# What a copied page costs while it is traced\n\n");
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "Made by `cargo xtask bench storm --write-docs`. A process forks {} children, one after \
         the other; each writes one byte to each of {} shared pages. Each variant runs once in \
         each of {} rounds, in turn, after a warm-up that is thrown away; added and slowdown \
         compare with the untraced run of the same round. Figures are medians, with minimum and \
         maximum.\n\n{}\n",
        size.forks,
        size.pages,
        size.rounds,
        results.machine.markdown(),
    );
    tracers(&mut out, results);
    not_traced(&mut out, results);
    stacks(&mut out, results);
    reach(&mut out, results);
    out
}

fn tracers(out: &mut String, results: &Results) {
    let _ = write!(
        out,
        "## The traced process\n\n\
         | tracer | ns per copied page | added ns | slowdown | seen | lost |\n\
         |---|---|---|---|---|---|\n\
         | none | {} | | | | |\n",
        results.untraced_ns.show(0, false)
    );
    for result in &results.tracers {
        let _ = match (&result.figures, &result.unavailable) {
            (Some(figures), _) => writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} |",
                result.tracer,
                figures.ns.show(0, false),
                figures.added_ns.show(0, true),
                figures.slowdown.show(2, false),
                percent(figures.seen_share),
                said(figures.lost),
            ),
            (None, why) => {
                let why = why.as_deref().unwrap_or_default().replace('|', "\\|");
                writeln!(out, "| {} | not measured: {why} | | | | |", result.tracer)
            }
        };
    }
    out.push_str(
        "\n\"Seen\" is what the tracer counted, of the pages that were copied: memtrace counts \
         copied pages, the others faults of any kind. A process also copies a few pages outside \
         the measured range, so a little more than 100% is right. bpftrace does not say how many \
         stacks it lost to collisions and to a full map; the share shows them.\n\n\
         ## The tracer itself\n\n\
         | tracer | CPU ms | CPU ns per copied page | peak memory MiB | of it anonymous MiB | \
         Ctrl-C to exit ms |\n\
         |---|---|---|---|---|---|\n",
    );
    for result in &results.tracers {
        let Some(figures) = &result.figures else {
            continue;
        };
        let own = &figures.own;
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} |",
            result.tracer,
            own.cpu_ms.show(0, false),
            own.cpu_ns_per_page.show(0, false),
            own.peak_rss_mib.show(1, false),
            own.peak_anonymous_mib.show(1, false),
            own.stop_ms.show(0, false),
        );
    }
}

fn not_traced(out: &mut String, results: &Results) {
    let not_traced = &results.not_traced;
    let _ = write!(
        out,
        "\n## A process that is not traced\n\nThe same storm in a process outside the traced tree: \
         {} ns per copied page alone, {} ns while memtrace traces an idle process as it does by \
         default, {} times as long.\n",
        not_traced.untraced_ns.show(0, false),
        not_traced.beside_memtrace_ns.show(0, false),
        not_traced.slowdown.show(3, false),
    );
}

fn stacks(out: &mut String, results: &Results) {
    let (size, stacks) = (&results.size, &results.stacks);
    let _ = write!(
        out,
        "\n## Many stacks\n\n{} copies over {} distinct stacks with `--unwind fp`, {} rounds: Ctrl-C to report {} ms, \
         peak memory {} MiB ({} MiB anonymous), lost {}, seen {}.\n",
        size.stacks_pages,
        size.distinct_stacks,
        size.stacks_rounds,
        stacks.own.stop_ms.show(0, false),
        stacks.own.peak_rss_mib.show(1, false),
        stacks.own.peak_anonymous_mib.show(1, false),
        said(stacks.lost),
        percent(stacks.seen_share),
    );
}

/// What must be reached, and whether it was.
fn reach(out: &mut String, results: &Results) {
    let figures = |tracer: Tracer| figures_of(&results.tracers, tracer);
    let added = |tracer: Tracer| Some(figures(tracer)?.added_ns.median);
    let bpftrace = added(Tracer::Bpftrace);
    let mut rows = Vec::new();
    for (what, tracer, factor) in [
        (
            "added ns with `--unwind off`, at most half of bpftrace's",
            OFF,
            0.5,
        ),
        ("added ns with `--unwind fp`, less than bpftrace's", FP, 1.0),
    ] {
        let limit = bpftrace.map(|added| added * factor);
        rows.push((what, limit, added(tracer), 0));
    }
    let lost: Option<u64> = OURS.iter().map(|tracer| figures(*tracer)?.lost).sum();
    let lost = lost.map(|lost| lost as f64);
    rows.push(("memtrace's losses in all rounds", Some(0.0), lost, 0));
    let peaks = OURS.map(|tracer| Some(figures(tracer)?.own.peak_rss_mib.max));
    let peaks: Option<Vec<f64>> = peaks.into_iter().collect();
    let stacks = results.stacks.own.peak_rss_mib.max;
    let peak = peaks.map(|peaks| peaks.into_iter().fold(stacks, f64::max));
    rows.push(("memtrace's peak memory in MiB", Some(MEMORY_MIB), peak, 1));
    let stop = results.stacks.own.stop_ms.median;
    rows.push((
        "Ctrl-C to report over many stacks, in ms",
        Some(STACKS_STOP_MS),
        Some(stop),
        0,
    ));
    let slowdown = results.not_traced.slowdown.median;
    rows.push((
        "slowdown of a process that is not traced",
        Some(NOT_TRACED),
        Some(slowdown),
        3,
    ));

    out.push_str("\n## To be reached\n\n| what | at most | measured | |\n|---|---|---|---|\n");
    for (what, limit, value, digits) in rows {
        let verdict = match (limit, value) {
            (Some(limit), Some(value)) if value <= limit => "reached",
            (Some(_), Some(_)) => "missed",
            _ => "unknown",
        };
        let show =
            |value: Option<f64>| value.map_or("?".into(), |value| format!("{value:.digits$}"));
        let _ = writeln!(
            out,
            "| {what} | {} | {} | {verdict} |",
            show(limit),
            show(value)
        );
    }
}

fn figures_of(results: &[TracerResult], tracer: Tracer) -> Option<&Figures> {
    let name = tracer.name();
    results
        .iter()
        .find(|result| result.tracer == name)?
        .figures
        .as_ref()
}

/// A share of all, in percent.
pub fn percent(share: Option<Summary>) -> String {
    share.map_or("not said".into(), |share| {
        let [median, min, max] = [share.median, share.min, share.max].map(|share| share * 100.0);
        format!("{} %", Summary { median, min, max }.show(1, false))
    })
}

/// A number that a tracer may not say.
pub fn said(number: Option<u64>) -> String {
    number.map_or("not said".into(), |number| number.to_string())
}
