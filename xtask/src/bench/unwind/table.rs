//! The figures of the unwinding bench for people, in Markdown.

use std::fmt::Write as _;

use super::{FILES, Figures, MANY, Pattern, Results};

/// The depth at which limits are set, and the limits, in nanoseconds per page.
const LIMIT_DEPTH: u32 = 20;
const VARIED_LIMIT: f64 = 2000.0;
const REPEATED_LIMIT: f64 = 900.0;

/// The longest that building tables may last, in milliseconds.
const TABLES_LIMIT: f64 = 60.0;

/// How much more memory many processes may need than one.
const MEMORY_LIMIT: f64 = 1.05;

/// One page: machine, figures, and what they had to reach.
pub fn markdown(results: &Results) -> String {
    let mut out = String::from("# What the native stack of a copied page costs\n\n");
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "Made by `cargo xtask bench unwind --write-docs`. Two children, one after the other, copy {} \
         pages each at a depth of calls. Each variant runs once in each of {} rounds, in turn, after a \
         warm-up that is thrown away; what is added is to the untraced run of the same program and \
         round. Figures are medians, with minimum and maximum. Added time includes everything that the \
         tracer does for a copy: `--unwind off` is what memtrace costs without stacks.\n\n{}\n",
        results.pages,
        results.rounds,
        results.machine.markdown(),
    );
    for (pattern, title) in [
        (Pattern::Repeated, "All pages copied on one stack"),
        (Pattern::Varied, "Each page copied on another stack"),
    ] {
        let _ = write!(
            out,
            "## {title}\n\n| depth | tracer | program | added ns per page | lost | whole stacks |\n\
             |---|---|---|---|---|---|\n"
        );
        for row in results.rows.iter().filter(|row| row.pattern == pattern) {
            let _ = writeln!(out, "{}", line(row));
        }
        out.push('\n');
    }
    limits(&mut out, results);
    out
}

fn line(row: &Figures) -> String {
    let program = if row.frame_pointers {
        "with frame pointers"
    } else {
        "without"
    };
    let share = |share: Option<f64>| {
        share.map_or("not said".to_owned(), |share| {
            format!("{:.1} %", share * 100.0)
        })
    };
    let added = match (&row.unavailable, row.added_ns) {
        (Some(why), _) => format!("not measured: {}", why.replace('|', "\\|")),
        (None, Some(added)) => added.show(0, true),
        (None, None) => "not measured".to_owned(),
    };
    format!(
        "| {} | {} | {program} | {added} | {} | {} |",
        row.depth,
        row.tracer,
        share(row.lost_share),
        share(row.whole_share),
    )
}

fn limits(out: &mut String, results: &Results) {
    out.push_str("## Limits\n\n");
    for (pattern, limit, what) in [
        (Pattern::Varied, VARIED_LIMIT, "each page on another stack"),
        (Pattern::Repeated, REPEATED_LIMIT, "all on one stack"),
    ] {
        let row = results.rows.iter().find(|row| {
            row.pattern == pattern && row.depth == LIMIT_DEPTH && row.tracer.ends_with("auto")
        });
        let Some(added) = row.and_then(|row| row.added_ns) else {
            continue;
        };
        let lost = row.and_then(|row| row.lost_share).unwrap_or(1.0);
        let _ = writeln!(
            out,
            "- `--unwind auto` at depth {LIMIT_DEPTH}, {what}: {} ns, at most {limit:+.0}, nothing \
             lost: {}",
            added.show(0, true),
            verdict(added.median <= limit && lost == 0.0),
        );
    }
    match &results.tables {
        Some(tables) => {
            let _ = writeln!(
                out,
                "- tables of {}: {} rows of 8 bytes in {:.1} ms on one thread, at most \
                 {TABLES_LIMIT} ms: {}",
                FILES.join(", "),
                tables.rows,
                tables.ms,
                verdict(tables.ms <= TABLES_LIMIT),
            );
        }
        None => out.push_str("- tables: not measured, since not all of the files are here\n"),
    }
    let memory = &results.memory;
    let ratio = memory.many as f64 / memory.one as f64;
    let _ = writeln!(
        out,
        "- memory of memtrace and its maps: {:.1} MiB for one child, {:.1} MiB for {MANY}: {ratio:.3} \
         times as much, at most {MEMORY_LIMIT}: {}",
        mib(memory.one),
        mib(memory.many),
        verdict(ratio <= MEMORY_LIMIT),
    );
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn verdict(reached: bool) -> &'static str {
    if reached { "reached" } else { "missed" }
}
