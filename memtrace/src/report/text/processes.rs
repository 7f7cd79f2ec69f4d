//! The table of processes.

use std::io::{self, Write};

use super::heading;
use super::screen::{DIM, LOSS, Screen};
use super::table::{Cell, Kind, Row, Table, column};
use super::words::{count, counted, percent, ratio, seconds, size};
use crate::profile::{NotCopied, Process, Profile};
use crate::report::escape::escape;

/// Writes the `top` processes that copied most.
pub(super) fn processes(
    profile: &Profile,
    top: usize,
    screen: Screen,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut processes: Vec<&Process> = profile.processes.iter().collect();
    if processes.is_empty() {
        return Ok(());
    }
    processes.sort_by_key(|process| std::cmp::Reverse(process.copied_pages));
    let shown = processes.len().min(top);
    let remark = match processes.len() {
        all if all > shown => format!("{} of {}; ", count(shown as u64), count(all as u64)),
        _ => String::new(),
    };
    heading(
        screen,
        out,
        "Processes",
        &(remark + "times are since tracing began"),
    )?;
    let total = profile.totals.copied_pages;
    let (rows, rest) = processes.split_at(shown);
    table(
        rows.iter()
            .map(|process| row(process, total, screen))
            .collect(),
    )
    .write(screen, out)?;
    write_rest(screen, out, rest, total)
}

fn table(rows: Vec<Row>) -> Table {
    let mut columns = vec![
        column("PID", Kind::Number),
        column("COMMAND", Kind::Name),
        column("FORKED", Kind::Number),
        column("EXITED", Kind::Number),
        column("COPIED", Kind::Number),
        column("PAGES", Kind::Number),
        column("SHARE", Kind::Number),
        column("", Kind::Bar),
        column("NOT COPIED", Kind::Number),
    ];
    for quiet in [2, 3, 8] {
        columns[quiet].style = DIM;
    }
    Table { columns, rows }
}

fn row(process: &Process, total: u64, screen: Screen) -> Row {
    let pages = process.copied_pages;
    let cells = vec![
        process.pid.to_string().into(),
        escape(&process.comm).into_owned().into(),
        process
            .forked_at_s
            .map_or_else(|| "before".to_owned(), seconds)
            .into(),
        process
            .exited_at_s
            .map_or_else(|| "-".to_owned(), seconds)
            .into(),
        size(process.copied_bytes).into(),
        count(pages).into(),
        percent(pages, total).into(),
        Cell::Bar(ratio(pages, total)),
        faults(&process.not_copied)
            .map_or_else(|| "-".to_owned(), count)
            .into(),
    ];
    let mut details = Vec::new();
    if process.lost_faults > 0 {
        let lost = counted(process.lost_faults, "record", "records");
        details.push(screen.paint(LOSS, &format!("         {lost} of these lost")));
    }
    Row { cells, details }
}

fn write_rest(
    screen: Screen,
    out: &mut dyn Write,
    rest: &[&Process],
    total: u64,
) -> io::Result<()> {
    if rest.is_empty() {
        return Ok(());
    }
    let pages = rest.iter().map(|process| process.copied_pages).sum();
    let bytes = rest.iter().map(|process| process.copied_bytes).sum();
    let rest = rest.len() as u64;
    let text = format!(
        "  ... {}: {}, {} ({})",
        counted(rest, "process more", "processes more"),
        size(bytes),
        counted(pages, "page", "pages"),
        percent(pages, total)
    );
    writeln!(out, "{}", screen.paint(DIM, &text))
}

/// Faults that copied nothing, of the kinds that could be seen.
fn faults(not_copied: &NotCopied) -> Option<u64> {
    let NotCopied {
        reuse,
        zero,
        first_touch,
        split,
    } = *not_copied;
    let seen = [reuse, zero, first_touch, split];
    seen.iter()
        .any(Option::is_some)
        .then(|| seen.into_iter().flatten().sum())
}
