//! Two profiles compared, for people: what differs in sentences, then a table for each way to
//! differ, and what did not.

use std::borrow::Cow;
use std::io::{self, Write};

use self::figures::{change, figure, percent, signed_percent, unit, why_same};
use super::heading;
use super::screen::{DIM, Screen, TITLE, WARNING, shorten_left};
use super::table::{Cell, Kind as Align, Row as Line, Table, column};
use super::written::name;
use crate::diff::{Difference, Kind, LARGE_FACTOR, RUNS_DIFFER, Reason, Row, Side, Unit, What};
use crate::foreign::escape;
use crate::profile::{CauseName, Site};
use crate::report::frames::place;
use crate::report::group::site_name;
use crate::report::words::{self, cause_in_words, count, counted, seconds};

mod figures;

/// Where details begin.
const DETAIL: usize = 9;
/// Causes that the verdict names.
const NAMED: usize = 3;

/// Writes it all.
pub(in crate::report) fn write(
    difference: &Difference,
    top: usize,
    screen: Screen,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut verdict = verdict(difference, screen);
    verdict.push(in_all(difference));
    for line in verdict.iter().flat_map(|text| screen.wrap(0, text)) {
        writeln!(out, "{}", screen.paint(TITLE, &line))?;
    }
    writeln!(out)?;
    sides(difference, screen, out)?;
    for text in [&how(difference)].into_iter().chain(&difference.notes) {
        let style = if difference.notes.contains(text) {
            WARNING
        } else {
            DIM
        };
        for line in screen.wrap(2, &escape(text)) {
            writeln!(out, "{}", screen.paint(style, &line))?;
        }
    }
    for (kind, title) in [
        (Kind::Appeared, "Appeared"),
        (Kind::Vanished, "Vanished"),
        (Kind::Grew, "Grew"),
        (Kind::Shrank, "Shrank"),
    ] {
        table(difference, kind, title, top, screen, out)?;
    }
    writeln!(out)?;
    for line in screen.wrap(0, &same(difference)) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// What differs most, in sentences.
fn verdict(difference: &Difference, screen: Screen) -> Vec<String> {
    let significant = |rows: &[Row]| -> Vec<Row> {
        let rows = rows.iter().filter(|row| row.is_significant());
        rows.take(NAMED).cloned().collect()
    };
    let causes = significant(&difference.causes);
    if !causes.is_empty() {
        return causes.iter().map(|row| sentence(row, screen)).collect();
    }
    let lists = [
        &difference.call_sites,
        &difference.types,
        &difference.roles,
        &difference.app_frames,
    ];
    // Of what is no cause one example is enough: a list of them follows.
    if let Some(row) = lists.into_iter().flatten().find(|row| row.is_significant()) {
        return vec![sentence(row, screen)];
    }
    if difference.total.is_significant() || difference.copy_on_read.is_significant() {
        return Vec::new();
    }
    vec!["No significant difference.".to_owned()]
}

/// `Garbage collection vanished: 12.3 MiB per worker before, 0 B now.`
fn sentence(row: &Row, screen: Screen) -> String {
    let what = match &row.what {
        What::Cause(cause) => capital(&cause_in_sentence(*cause)),
        What::CallSite { site, .. } | What::AppFrame { site, .. } => {
            let place = place(site.file.as_deref(), site.line);
            let place = place.map_or(String::new(), |place| format!(", {place}"));
            format!("`{}`{place}", name(&site.function, screen))
        }
        What::Type(object_type) => format!("What was written to `{}`", name(object_type, screen)),
        What::Role { kind, name } => format!("What {}", role(kind, name)) + " copied",
        What::Total => "What was copied".to_owned(),
        What::CopyOnRead => "What was only read".to_owned(),
    };
    let verb = match row.kind {
        Kind::Appeared => "appeared".to_owned(),
        Kind::Vanished => "vanished".to_owned(),
        Kind::Grew => format!("grew{}", by_how_much(row)),
        Kind::Shrank => format!("shrank{}", by_how_much(row)),
        Kind::Same => "stayed the same".to_owned(),
    };
    let (before, now) = (figure(row.base.figure), figure(row.new.figure));
    let unit = unit(row.judged.unit);
    let doubt = match row.judged.by {
        Reason::LargeFactor => " (one process each: no spread is known)",
        _ => "",
    };
    format!("{what} {verb}: {before}{unit} before, {now} now{doubt}.")
}

/// ` by 35%`, ` to 3.2 times as much`.
fn by_how_much(row: &Row) -> String {
    match row.relative() {
        Some(part) if part >= 2.0 => format!(" to {:.1} times as much", part + 1.0),
        Some(part) => format!(" by {}", percent(part.abs())),
        None => String::new(),
    }
}

/// `In all, 21.4 MiB per worker (20.9 to 22.0, 8 workers) -> 9.1 MiB ...; only read: ...`
fn in_all(difference: &Difference) -> String {
    let said = |row: &Row| {
        let why = match row.kind {
            Kind::Same => format!(", {}", why_same(row.judged.by)),
            _ => by_change(row),
        };
        format!("{}{why}", change(row))
    };
    format!(
        "In all: {}; only read: {}.",
        said(&difference.total),
        said(&difference.copy_on_read)
    )
}

/// ` (-57%)`; empty where there was nothing before.
fn by_change(row: &Row) -> String {
    row.relative()
        .map_or_else(String::new, |part| format!(" ({})", signed_percent(part)))
}

/// A line for each of the two.
fn sides(difference: &Difference, screen: Screen, out: &mut dyn Write) -> io::Result<()> {
    let line = |called: &str, side: &Side| {
        let workers = match side.workers {
            0 => counted(side.processes, "process", "processes"),
            workers => counted(workers, "worker", "workers"),
        };
        Line {
            cells: vec![
                Cell::from(called),
                name(&side.name, screen).into(),
                escape(&side.started_at).into_owned().into(),
                seconds(side.duration_s).into(),
                workers.into(),
                words::size(side.copied_bytes).into(),
            ],
            details: Vec::new(),
        }
    };
    let table = Table {
        columns: vec![
            column("", Align::Name),
            column("REPORT", Align::Name),
            column("RECORDED", Align::Name),
            column("FOR", Align::Number),
            column("OF", Align::Number),
            column("COPIED", Align::Number),
        ],
        rows: vec![line("base", &difference.base), line("new", &difference.new)],
    };
    table.write(screen, out)
}

/// How it was judged.
fn how(difference: &Difference) -> String {
    let of = match difference.unit {
        Unit::Worker => "Figures are of one worker, on average",
        Unit::Process => "Figures are of one process, on average",
        Unit::Second => "There are no workers on both sides; figures are of one second",
        Unit::Trace => "There are no workers on both sides; figures are of the whole trace",
    };
    let rule = match difference.unit {
        Unit::Worker | Unit::Process => format!(
            "a difference counts where workers differ less, and equal runs (taken to differ by {}) \
             would show one in {} comparisons at most",
            percent(RUNS_DIFFER),
            count((1.0 / difference.level).round() as u64)
        ),
        Unit::Second | Unit::Trace => format!(
            "no spread is known, so a difference counts from {LARGE_FACTOR} times as much on"
        ),
    };
    format!("{of}; {rule}.")
}

fn table(
    difference: &Difference,
    kind: Kind,
    title: &str,
    top: usize,
    screen: Screen,
    out: &mut dyn Write,
) -> io::Result<()> {
    let rows: Vec<&Row> = difference.rows().filter(|row| row.kind == kind).collect();
    let rows: Vec<&Row> = rows.into_iter().filter(|row| is_shown(row)).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let shown = rows.len().min(top);
    let remark = if rows.len() > shown {
        format!("{} of {}", count(shown as u64), count(rows.len() as u64))
    } else {
        String::new()
    };
    heading(screen, out, title, &remark)?;
    let mut name_column = column("", Align::Name);
    name_column.style = TITLE;
    let table = Table {
        columns: vec![
            column("BEFORE", Align::Number),
            column("NOW", Align::Number),
            column("CHANGE", Align::Number),
            column("WHAT", Align::Name),
            name_column,
        ],
        rows: rows[..shown].iter().map(|row| line(row, screen)).collect(),
    };
    table.write(screen, out)
}

/// A frame of the application that is the call site itself would only be shown twice.
fn is_shown(row: &Row) -> bool {
    !matches!(
        row.what,
        What::AppFrame {
            by_library: false,
            ..
        }
    )
}

fn line(row: &Row, screen: Screen) -> Line {
    let (what, name) = match &row.what {
        What::Total => ("all", Cow::Borrowed("")),
        What::CopyOnRead => ("only read", Cow::Borrowed("")),
        What::Cause(cause) => ("cause", cause.name().into()),
        What::CallSite { site, .. } => ("call site", site_name(site)),
        What::AppFrame { site, .. } => ("for", site_name(site)),
        What::Type(object_type) => ("type", Cow::Borrowed(&**object_type)),
        What::Role { kind, name } => ("role", role(kind, name).into()),
    };
    Line {
        cells: vec![
            figure(row.base.figure).into(),
            figure(row.new.figure).into(),
            row.relative()
                .map_or("new".to_owned(), signed_percent)
                .into(),
            what.into(),
            escape(&name).into_owned().into(),
        ],
        details: details(row, screen),
    }
}

/// Where it is, where it was, and how processes differ.
fn details(row: &Row, screen: Screen) -> Vec<String> {
    let mut lines = Vec::new();
    if let What::CallSite {
        site, moved_from, ..
    }
    | What::AppFrame {
        site, moved_from, ..
    } = &row.what
    {
        let mut text = located(site);
        if let What::CallSite { cause, .. } = &row.what {
            text = format!("{text}; cause {cause}");
        }
        if let Some(moved_from) = moved_from {
            text = format!("{text}; before at {}", located(moved_from));
        }
        let room = screen.room(DETAIL);
        lines.push(" ".repeat(DETAIL) + &shorten_left(&text, room));
    }
    let doubt = match row.judged.by {
        Reason::LargeFactor => "; one process each: no spread is known",
        _ => "",
    };
    lines.extend(screen.wrap(DETAIL, &format!("{}{doubt}", change(row))));
    lines.iter().map(|line| screen.paint(DIM, line)).collect()
}

/// File and line, or the module; escaped.
fn located(site: &Site) -> String {
    place(site.file.as_deref(), site.line)
        .or_else(|| {
            site.module
                .as_deref()
                .map(|module| escape(module).into_owned())
        })
        .unwrap_or_else(|| "[file not known]".to_owned())
}

/// What did not differ, in a sentence.
fn same(difference: &Difference) -> String {
    let lists = [
        (&difference.causes, "cause", "causes"),
        (&difference.call_sites, "call site", "call sites"),
        (&difference.types, "object type", "object types"),
        (&difference.roles, "role", "roles"),
    ];
    let mut parts = Vec::new();
    for (rows, one, many) in lists {
        let same = rows.iter().filter(|row| !row.is_significant());
        match same.count() as u64 {
            0 => {}
            same => parts.push(counted(same, one, many)),
        }
    }
    let length = |row: &&Row| row.judged.by == Reason::Length;
    let by_length = difference.rows().filter(length).filter(|row| is_shown(row));
    let by_length = by_length.count() as u64;
    let length = match by_length {
        0 => String::new(),
        _ => format!(
            "; of {}, the length of the traces may be all that differs",
            counted(by_length, "row", "rows")
        ),
    };
    match &parts[..] {
        [] => "Nothing stayed as it was.".to_owned(),
        parts => format!(
            "Within the spread, or too little to matter: {}{length}.",
            parts.join(", ")
        ),
    }
}

/// `worker gunicorn`; escaped.
fn role(kind: &str, name: &str) -> String {
    format!("{} {}", escape(kind), escape(name))
}

fn cause_in_sentence(cause: CauseName) -> String {
    match cause {
        CauseName::Kernel => "what the kernel wrote".to_owned(),
        CauseName::Remote => "what another process wrote".to_owned(),
        CauseName::Unknown => "what is not known".to_owned(),
        CauseName::Other(other) => format!("cause {other}"),
        _ => cause_in_words(cause).to_owned(),
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_uppercase().to_string());
    first.unwrap_or_default() + chars.as_str()
}

#[cfg(test)]
mod tests;
