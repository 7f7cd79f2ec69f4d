//! The whole picture, for any size of screen.

use std::time::Instant;

use ratatui_core::buffer::Buffer;
use ratatui_core::layout::Rect;
use ratatui_core::style::Style;

use super::canvas::{NOTE, Pen, QUIET, STRONG, of_cause};
use super::head;
use super::help;
use super::sharing::Sharing;
use super::state::{Basis, Moment, Pane, Sort, State};
use crate::report::text::copies;
use crate::report::text::screen::{Screen, shorten, width};
use crate::report::words::{percent, size};
use crate::report::{By, regroup};

/// Below this there is room for the first lines alone.
const LEAST: (u16, u16) = (60, 12);

/// Below so many lines a row's pane takes all of them.
const TALL: u16 = 30;

/// Lines that are neither a process nor a row of the table.
const BESIDE_ROWS: usize = 8;

/// Columns that a name has at least.
const NAME: usize = 10;

/// Draws it.
pub fn draw(state: &mut State, area: Rect, buffer: &mut Buffer, now: Instant) {
    let (columns, lines) = LEAST;
    if area.width < columns || area.height < lines {
        head::draw(state, area, buffer, now);
        return;
    }
    let bottom = area.height - 1;
    footer(state, &mut Pen::new(buffer, area, bottom), now);
    let area = Rect {
        height: bottom,
        ..area
    };
    match state.pane {
        Pane::Help => help::draw(area, buffer),
        Pane::Row(_) if bottom + 1 < TALL => row(state, area, buffer),
        Pane::Row(_) => {
            let above = area.height / 2;
            let upper = Rect {
                height: above,
                ..area
            };
            let lower = Rect {
                y: area.y + above,
                height: area.height - above,
                ..area
            };
            overview(state, upper, buffer, now);
            let page = state.page;
            row(state, lower, buffer);
            // The arrows go through the table.
            state.page = page.max(1);
        }
        Pane::None => overview(state, area, buffer, now),
    }
}

/// The first lines, what is shared, and the table.
fn overview(state: &mut State, area: Rect, buffer: &mut Buffer, now: Instant) {
    head::draw(state, area, buffer, now);
    let mut line = head::LINES;
    // What the table does not need, they have; but no less than a quarter of all.
    let height = usize::from(area.height);
    let spare = height.saturating_sub(BESIDE_ROWS + state.rows.len());
    let most = (height.saturating_sub(BESIDE_ROWS) / 4).max(spare).max(1);
    let sharing = state
        .shown()
        .and_then(|moment| Sharing::of(&moment.profile, most));
    if let Some(sharing) = sharing {
        sharing.draw(area, line, buffer);
        line += sharing.height();
    }
    if state.shown().is_some() {
        rule(state, &mut Pen::new(buffer, area, line));
        table(state, area, line + 1, buffer);
    }
}

/// What a view and its last column are called.
fn titles(by: By) -> (&'static str, &'static str) {
    match by {
        By::Site => ("call sites", "CALL SITE"),
        By::App => ("frames of the application", "FRAME OF THE APPLICATION"),
        By::Function => ("functions", "FUNCTION"),
        By::Stack => ("stacks", "STACK"),
        By::Type => ("object types", "OBJECT TYPE"),
        By::Process => ("processes", "PROCESS"),
        By::File => ("files", "FILE"),
        By::Cause => ("causes", "CAUSE"),
    }
}

/// The line above the table: what its rows are, and in which order.
fn rule(state: &State, pen: &mut Pen<'_>) {
    let order = &state.order;
    let (title, _) = titles(order.by);
    let by = match (order.sort, order.basis) {
        (Sort::Share, Basis::Total) => "share",
        (Sort::Share, Basis::Rate) => "share of late",
        (Sort::Copied, _) => "copied",
        (Sort::Rate, _) => "rate",
        (Sort::Cause, _) => "cause",
        (Sort::Name, _) => "name",
    };
    let reversed = if order.reversed { ", reversed" } else { "" };
    pen.put(&format!(" ── {title}, by {by}{reversed} "), QUIET);
    if !order.filter.is_empty() {
        pen.put(&format!("/{}: {} ", order.filter, state.rows.len()), STRONG);
    }
    let keys = " [g]roup [s]ort [/]filter ──";
    if pen.room() > width(keys) + 1 {
        pen.fill("─", width(keys) + 1, QUIET);
        pen.put(keys, QUIET);
    } else {
        pen.fill("─", 1, QUIET);
    }
}

/// The rows, from `line` on to the end of the area.
fn table(state: &mut State, area: Rect, line: u16, buffer: &mut Buffer) {
    let (_, name) = titles(state.order.by);
    let share = match state.order.basis {
        Basis::Total => "SHARE",
        Basis::Rate => "LATELY",
    };
    let header = format!("  {share:>6}      COPIED   MIB/S  CAUSE      {name}");
    Pen::new(buffer, area, line).put(&header, QUIET);
    let room = usize::from(area.height.saturating_sub(line + 1));
    state.scroll(room);
    let (whole, selected) = (state.whole(), state.selected());
    if state.rows.is_empty() && room > 0 {
        let text = if state.order.filter.is_empty() {
            "  nothing has been copied yet"
        } else {
            "  no name has that; Esc shows all again"
        };
        Pen::new(buffer, area, line + 1).put(text, QUIET);
    }
    for (at, row) in state.rows.iter().enumerate().skip(state.first).take(room) {
        let mut pen = Pen::new(buffer, area, line + 1 + (at - state.first) as u16);
        let is_selected = selected == Some(at);
        let style = if is_selected { STRONG } else { Style::new() };
        let share = percent(state.part(row) as u64, whole as u64);
        let copied = size(row.copied);
        let rate = row.rate / f64::from(1 << 20);
        let lead = if is_selected { "▸" } else { " " };
        let figures = format!("{lead} {share:>6}  {copied:>10} {rate:>7.1}  ");
        pen.put(&figures, style);
        let mixed = if row.is_mixed { "+" } else { "" };
        let cause = format!("{}{mixed}", row.cause.name());
        pen.put(
            &format!("{:<11}", shorten(&cause, 10)),
            of_cause(row.cause).patch(style),
        );
        let name = shorten(&row.name, pen.room().max(NAME));
        pen.put(&name, style);
    }
}

/// All about the selected row.
fn row(state: &mut State, area: Rect, buffer: &mut Buffer) {
    let Pane::Row(first) = state.pane else { return };
    let lines = state.selected().and_then(|at| {
        let id = state.rows[at].id;
        let moment = state.shown()?;
        Some((
            state.rows[at].name.clone(),
            about(moment, state.order.by, id, area.width),
        ))
    });
    let Some((name, lines)) = lines else {
        state.pane = Pane::None;
        return;
    };
    let mut pen = Pen::new(buffer, area, 0);
    let name = shorten(&name, pen.room().saturating_sub(8));
    pen.put(" ── ", QUIET).put(&name, STRONG).put(" ", QUIET);
    pen.fill("─", 1, QUIET);
    let page = usize::from(area.height.saturating_sub(1));
    let first = first.min(lines.len().saturating_sub(page));
    state.pane = Pane::Row(first);
    state.page = page;
    for (line, at) in lines.iter().skip(first).take(page).zip(1..) {
        Pen::new(buffer, area, at).put(line, Style::new());
    }
}

/// What a report says of a row, with the whole of its heaviest stack.
fn about(moment: &Moment, by: By, id: u64, width: u16) -> Vec<String> {
    let screen = Screen {
        width: width.into(),
        shorten: true,
        color: false,
    };
    let groups = regroup(&moment.profile, by);
    let group = groups.iter().find(|group| group.id == id);
    group.map_or_else(Vec::new, |group| copies::whole(group, by, screen))
}

/// The last line: what was asked for, what has just been done, or the keys.
fn footer(state: &State, pen: &mut Pen<'_>, now: Instant) {
    if state.is_typing {
        pen.put(&format!(" /{}█", state.order.filter), STRONG);
        pen.put("  Enter keeps the filter, Esc drops it", QUIET);
        return;
    }
    if let Some(note) = state.note(now) {
        let note = shorten(note, pen.room().saturating_sub(2));
        pen.put(&format!(" {note} "), NOTE);
        return;
    }
    let keys = match state.pane {
        Pane::Help => [" any key: back", " any key: back"],
        Pane::Row(_) => [
            " ↑↓ other row  PgUp PgDn scroll  ⏎ back  w write report  q finish and report",
            " PgUp PgDn scroll  ⏎ back  q finish and report",
        ],
        Pane::None => [
            " ↑↓ move  ⏎ stack  r rate/total  w write report  ? help  q finish and report",
            " ⏎ stack  w write report  ? help  q finish and report",
        ],
    };
    let fits = keys.into_iter().find(|keys| width(keys) <= pen.room());
    pen.put(fits.unwrap_or_default(), QUIET);
}

#[cfg(test)]
mod tests;
