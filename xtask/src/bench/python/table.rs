//! The figures of the Python bench for people, in Markdown.

use std::fmt::Write as _;

use super::{Results, Walked};

/// One page: machine, figures, and what they had to reach.
pub fn markdown(results: &Results) -> String {
    let size = &results.size;
    let mut out =
        String::from("# What a copied page of a Python program costs while it is traced\n\n");
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "Made by `cargo xtask bench python --write-docs`. A process builds strings on {} pages and \
         forks children, one after the other. Each variant runs once in each of {} rounds, in turn \
         with the untraced one, after a warm-up that is thrown away; ratios compare with the \
         untraced run of the same round. Figures are medians, with minimum and maximum.\n\n\
         - interpreter: {}\n{}\n",
        size.pages,
        size.rounds,
        results.python,
        results.machine.markdown(),
    );
    depths(&mut out, results);
    walk(&mut out, results);
    out
}

fn depths(out: &mut String, results: &Results) {
    let _ = write!(
        out,
        "## By depth of calls\n\nA child reads one object on each of {} pages, with this many \
         Python frames on its stack. Everything is on: native and Python frames, cause, type, \
         latency.\n\n\
         | depth | untraced ns per page | traced ns per page | ratio | at most | |\n\
         |---|---|---|---|---|---|\n",
        results.size.pages,
    );
    for row in &results.depths {
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {:.2} | {} |",
            row.frames,
            row.untraced_ns.show(0, false),
            row.traced_ns.show(0, false),
            row.ratio.show(2, false),
            row.limit,
            verdict(row.ratio.median <= row.limit),
        );
    }
    let lost = results.lost.map_or("unknown".into(), |lost| {
        format!("{lost} ({})", verdict(lost == 0))
    });
    let seen = results.seen_share.map_or("unknown".into(), |share| {
        format!("{:.2} %", share.median * 100.0)
    });
    let _ = write!(
        out,
        "\nLost in all rounds: {lost}; copies seen: {seen} of the objects' pages, to which a \
         process adds a few of its own.\n",
    );
}

fn walk(out: &mut String, results: &Results) {
    let _ = write!(
        out,
        "\n## A list walk, and other tools\n\n{} children, forked before the tracer attaches, \
         iterate over the whole list of strings, {} pages each. Untraced: {} ms in all.\n\n\
         | tracer | ms | slowdown | saw | what it says |\n|---|---|---|---|---|\n",
        results.size.children,
        results.size.pages,
        results.walk.untraced_ms.show(0, false),
    );
    for row in &results.walk.tracers {
        let _ = writeln!(out, "{}", walked(row));
    }
    out.push_str(
        "\nmemtrace counts copied pages, bpftrace page faults of any kind, py-spy samples of time \
         (100 a second): only the first says what was copied, by whom and why.\n",
    );
}

fn walked(row: &Walked) -> String {
    let cell =
        |text: Option<String>| text.map_or("not said".into(), |text| text.replace('|', "\\|"));
    if let Some(why) = &row.unavailable {
        return format!(
            "| {} | not measured: {} | | | |",
            row.tracer,
            cell(Some(why.clone()))
        );
    }
    format!(
        "| {} | {} | {} | {} | {} |",
        row.tracer,
        cell(row.ms.map(|ms| ms.show(0, false))),
        cell(row.slowdown.map(|slowdown| slowdown.show(2, false))),
        cell(row.seen.map(|seen| seen.to_string())),
        cell(row.answer.clone()),
    )
}

fn verdict(reached: bool) -> &'static str {
    if reached { "reached" } else { "missed" }
}
