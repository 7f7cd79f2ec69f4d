//! The first lines: how much is copied, how fast, by what, and whether anything was lost.

use std::time::Instant;

use ratatui_core::buffer::Buffer;
use ratatui_core::layout::Rect;
use ratatui_core::style::Style;

use super::canvas::{LOSS, NOTE, Pen, QUIET, STRONG, of_cause};
use super::state::State;
use crate::foreign::escape;
use crate::profile::{CauseName, Lost, Profile};
use crate::report::text::memory::spark;
use crate::report::text::screen::{bar, width};
use crate::report::words::{count, counted, size, whole_percent};

/// Lines that this takes.
pub const LINES: u16 = 3;

/// The widest curve, in seconds.
const WIDEST_CURVE: usize = 60;
/// A shorter one says nothing.
const SHORTEST_CURVE: usize = 4;
/// So many seconds without a new picture are said.
const OLD: u64 = 2;

/// Draws them.
pub fn draw(state: &State, area: Rect, buffer: &mut Buffer, now: Instant) {
    let Some(moment) = state.shown() else {
        Pen::new(buffer, area, 0).put(" memtrace  waiting for the first figures", STRONG);
        return;
    };
    title(state, &moment.profile, &mut Pen::new(buffer, area, 0), now);
    figures(state, &moment.profile, &mut Pen::new(buffer, area, 1));
    causes(state, &mut Pen::new(buffer, area, 2));
}

/// Who is traced, for how long, and whether the picture is frozen.
fn title(state: &State, profile: &Profile, pen: &mut Pen<'_>, now: Instant) {
    let time = clock(profile.duration_s as u64);
    pen.put(" memtrace", STRONG)
        .put(&format!("  {time}"), Style::new());
    if let Some(root) = profile.processes.first() {
        let name = escape(&root.comm);
        pen.put(&format!("  pid {} {name}", root.pid), Style::new());
    }
    let alive = profile.processes.iter();
    let alive = alive
        .filter(|process| process.exited_at_s.is_none())
        .count() as u64;
    let all = profile.process_count();
    let processes = if alive == all {
        counted(all, "process", "processes")
    } else {
        format!("{} of {} processes", count(alive), count(all))
    };
    let (note, style) = note(state, now);
    let processes = format!("   {processes}");
    // That the picture is not of now matters more.
    if style == QUIET || pen.room() > width(&processes) + width(&note) {
        pen.put(&processes, Style::new());
    }
    pen.put_right(&note, style);
}

/// Whether the picture is of now.
fn note(state: &State, now: Instant) -> (String, Style) {
    let shown = state.shown();
    let age = shown.map_or(0, |shown| now.saturating_duration_since(shown.at).as_secs());
    match state.paused(now) {
        Some((time, more)) => {
            let time = clock(time.as_secs());
            (format!(" paused {time}, {} since ", size(more)), NOTE)
        }
        None if age > OLD => (format!(" as of {age} s ago "), NOTE),
        None => ("[space] pause ".to_owned(), QUIET),
    }
}

/// How much, how fast, how much of it was only read, and what was lost.
fn figures(state: &State, profile: &Profile, pen: &mut Pen<'_>) {
    let figures = state.figures();
    let since = if state.is_zeroed() {
        " since zeroed"
    } else {
        ""
    };
    let copied = format!(" {} copied{since}", size(figures.copied));
    let recent = state.shown().map(|moment| {
        let recent = moment.recent.as_deref();
        moment.figures.rate(recent)
    });
    let rate = format!("   {}/s ", size(recent.unwrap_or(0.0) as u64));
    let read = format!(
        "   {} only read",
        whole_percent(figures.only_read.min(figures.copied), figures.copied)
    );
    let (lost, style) = lost(profile.totals.lost);
    let used = [&*copied, &rate, &read, &lost]
        .map(width)
        .iter()
        .sum::<usize>();
    let curve = pen.room().saturating_sub(used + 4).min(WIDEST_CURVE);
    pen.put(&copied, STRONG).put(&rate, Style::new());
    if curve >= SHORTEST_CURVE {
        pen.put(&spark(&state.curve(curve), 0.0), Style::new());
    }
    pen.put(&read, Style::new()).put(&lost, style);
}

/// What was lost, of any kind.
fn lost(lost: Lost) -> (String, Style) {
    let Lost {
        faults,
        stacks,
        processes,
        threads,
    } = lost;
    let parts = [
        (faults, "", ""),
        (stacks, " stack", " stacks"),
        (processes, " process", " processes"),
        (threads, " thread", " threads"),
    ];
    let parts: Vec<String> = (parts.into_iter())
        .filter(|(lost, ..)| *lost > 0)
        .map(|(lost, one, many)| format!("{}{}", count(lost), if lost == 1 { one } else { many }))
        .collect();
    if parts.is_empty() {
        ("   lost 0".to_owned(), Style::new())
    } else {
        (format!("   lost {}", parts.join(", ")), LOSS)
    }
}

/// A bar for each cause, behind its name.
fn causes(state: &State, pen: &mut Pen<'_>) {
    let figures = state.figures();
    let mut causes: Vec<(CauseName, u64)> = figures.causes.into_iter().collect();
    causes.retain(|(_, bytes)| *bytes > 0);
    causes.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let text = |&(cause, bytes): &(CauseName, u64)| {
        let share = whole_percent(bytes, figures.copied);
        format!(" {} {share} ", escape(cause.name()))
    };
    // Each has its name and at least one column.
    let needed = |causes: &[_]| {
        causes
            .iter()
            .map(|cause| width(&text(cause)) + 1)
            .sum::<usize>()
    };
    while needed(&causes) > pen.room() && causes.pop().is_some() {}
    let room = pen.room() - needed(&causes);
    for cause in &causes {
        let share = cause.1 as f64 / figures.copied.max(1) as f64;
        let columns = 1.0 + room as f64 * share;
        let bar = bar(columns / columns.ceil(), columns.ceil() as usize);
        pen.put(&text(cause), Style::new());
        pen.put(bar.trim_end(), of_cause(cause.0));
    }
}

/// `0:12`, `1:02:03`.
#[must_use]
pub fn clock(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes}:{seconds:02}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_lost_is_named_by_kind() {
        let mut all = Lost::default();
        assert_eq!(lost(all).0, "   lost 0");
        all.faults = 1_204;
        all.stacks = 1;
        all.processes = 2;
        assert_eq!(lost(all).0, "   lost 1,204, 1 stack, 2 processes");
    }

    #[test]
    fn time_is_told_as_a_clock_does() {
        assert_eq!(clock(12), "0:12");
        assert_eq!(clock(3_723), "1:02:03");
    }
}
