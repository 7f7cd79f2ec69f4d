//! How sharing melted: what was copied when and by which cause, who came and went, and what workers
//! shared and had for themselves, on one axis of time.
//!
//! Lines and areas are drawn in a box that is stretched to the page's width; text stands outside of
//! it, placed in percent, so that it is as large on a phone as elsewhere.

use super::axis::{Axis, ceiling, round_size, short_seconds};
use super::cause_class;
use super::escape::html;
use crate::profile::{CauseName, Profile, Role, RoleKind, RoleTimeline, Timeline};
use crate::report::text::memory;
use crate::report::words::{count, counted, seconds, size};

/// Height of a plot, in the units of its own box.
const HEIGHT: f64 = 100.0;
/// Roles whose memory is drawn.
const ROLES: usize = 3;
/// Fewer bins make no curve.
const FEWEST: usize = 4;

/// Whether there is anything to draw.
pub(super) fn is_shown(profile: &Profile) -> bool {
    let timeline = profile.timeline.as_ref();
    timeline.is_some_and(|it| it.bins() >= FEWEST && it.interval_s > 0.0)
}

/// The section, or nothing.
pub(super) fn section(profile: &Profile) -> String {
    let Some(timeline) = profile.timeline.as_ref().filter(|_| is_shown(profile)) else {
        return String::new();
    };
    let axis = Axis::of(timeline);
    let mut plots = copied(timeline, &axis);
    plots += &events("forks", &timeline.forks, &axis);
    plots += &events("exits", &timeline.exits, &axis);
    for (role, line) in with_memory(profile, timeline) {
        plots += &shared(role, line, &axis);
    }
    format!(
        "<section id=\"time\"><h2>When</h2>\n<figure class=\"curve\">\n<figcaption>{}</figcaption>\n\
         {plots}{}</figure></section>\n",
        html(&summary(timeline, &axis)),
        axis.labels()
    )
}

/// The areas of what was copied, one above the other, the cause with the most at the bottom.
fn copied(timeline: &Timeline, axis: &Axis) -> String {
    let mut causes: Vec<(CauseName, Vec<u64>)> = timeline
        .by_cause
        .iter()
        .map(|(cause, bins)| (*cause, axis.columns(bins)))
        .collect();
    let sum = |columns: &[u64]| columns.iter().fold(0u64, |sum, &it| sum.saturating_add(it));
    causes.retain(|(_, columns)| sum(columns) > 0);
    causes.sort_by_key(|(_, columns)| std::cmp::Reverse(sum(columns)));
    let columns = axis.bins.div_ceil(axis.step);
    let mut below = vec![0u64; columns];
    let mut layers = Vec::new();
    for (cause, bytes) in &causes {
        let above: Vec<u64> = (below.iter().enumerate())
            .map(|(at, &sum)| sum.saturating_add(bytes.get(at).copied().unwrap_or(0)))
            .collect();
        layers.push((*cause, below, above.clone()));
        below = above;
    }
    let most = below.iter().max().copied().unwrap_or(0);
    let rate = |bytes: u64| (bytes as f64 / axis.column_s()) as u64;
    let top = ceiling(rate(most));
    let whole = top as f64 * axis.column_s();
    let paths: Vec<String> = layers
        .iter()
        .map(|(cause, from, to)| {
            let path = area(axis, from, to, whole);
            format!("<path class=\"{}\" d=\"{path}\"/>\n", cause_class(*cause))
        })
        .collect();
    let names: Vec<&str> = causes.iter().map(|(cause, _)| cause.name()).collect();
    let label = format!(
        "Copied per second over time, by cause: {}; at most {} per second",
        names.join(", "),
        size(rate(most))
    );
    let title = "<p class=\"plot\">copied per second, by cause</p>\n";
    title.to_owned()
        + &plot(
            "tall",
            &format!("{}/s", round_size(top)),
            &label,
            &paths.concat(),
        )
}

/// A plot beside what its top is.
fn plot(class: &str, top: &str, label: &str, inside: &str) -> String {
    format!(
        "<div class=\"row\"><span class=\"y\"><span>{top}</span><span>0</span></span>\
         <svg class=\"{class}\" viewBox=\"0 0 1000 {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\" \
         aria-label=\"{}\">\n<path class=\"grid\" d=\"M0 50H1000\"/>\n{inside}</svg></div>\n",
        html(label)
    )
}

/// Steps between two heights, there along the upper one and back along the lower.
fn area(axis: &Axis, from: &[u64], to: &[u64], whole: f64) -> String {
    let y = |bytes: u64| tenths(HEIGHT - bytes as f64 / whole * HEIGHT);
    let x = |column: usize| tenths(axis.x(column * axis.step));
    let mut path = String::new();
    let mut last = None;
    for (at, (&low, &high)) in from.iter().zip(to).enumerate() {
        if low == high && last.is_none() {
            continue;
        }
        let begin = if last.is_none() { "M" } else { "L" };
        if last != Some(high) {
            path.extend([format!("{begin}{} {}", x(at), y(high))]);
        }
        path.extend([format!("H{}", x(at + 1))]);
        last = Some(high);
        let ends = at + 1 == to.len() || from[at + 1] == to[at + 1];
        if ends {
            let first = (0..=at).rev().take_while(|&it| from[it] != to[it]).last();
            for back in (first.unwrap_or(at)..=at).rev() {
                path.extend([format!("V{}H{}", y(from[back]), x(back))]);
            }
            path.push('Z');
            last = None;
        }
    }
    path
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Ticks for processes that came or went.
fn events(what: &str, bins: &[u64], axis: &Axis) -> String {
    let all = bins.iter().fold(0u64, |sum, &it| sum.saturating_add(it));
    if all == 0 {
        return String::new();
    }
    let columns = axis.columns(bins);
    let some = columns
        .iter()
        .enumerate()
        .filter(|(_, events)| **events > 0);
    let tick = |(at, _): (usize, &u64)| {
        let middle = axis.x(at * axis.step) + 500.0 * axis.step as f64 / axis.bins as f64;
        let middle = tenths(middle);
        ["M", &middle.to_string(), " 0V10"].concat()
    };
    let path: String = some.map(tick).collect();
    format!(
        "<div class=\"row\"><span class=\"y one\"><span>{what}</span></span><svg class=\"ticks {what}\" \
         viewBox=\"0 0 1000 10\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{} {what}\">\
         <path d=\"{path}\"/></svg></div>\n",
        count(all)
    )
}

/// The roles whose memory was looked at, those that copied most first.
fn with_memory<'a>(
    profile: &'a Profile,
    timeline: &'a Timeline,
) -> Vec<(&'a Role, &'a RoleTimeline)> {
    let found = timeline.by_role.iter().filter_map(|line| {
        let role = profile.roles.iter().find(|role| role.id == line.role)?;
        let looks = line.shared.iter().flatten().count();
        (looks > 1 && role.copied_pages > 0).then_some((role, line))
    });
    let mut found: Vec<_> = found.collect();
    found.sort_by_key(|(role, _)| {
        let is_worker = role.kind == RoleKind::Worker;
        (!is_worker, std::cmp::Reverse(role.copied_pages))
    });
    found.truncate(ROLES);
    found
}

/// What one process of a role shared and had for itself, on average.
fn shared(role: &Role, line: &RoleTimeline, axis: &Axis) -> String {
    let each = |sums: &[Option<u64>]| -> Vec<(usize, u64)> {
        let known = sums.iter().zip(&line.processes).enumerate();
        known
            .filter(|(_, (_, processes))| **processes > 0)
            .filter_map(|(at, (sum, processes))| Some((at, (*sum)? / processes)))
            .collect()
    };
    let (shared, private) = (each(&line.shared), each(&line.private));
    let most = shared.iter().chain(&private).map(|(_, bytes)| *bytes).max();
    let top = ceiling(most.unwrap_or(0));
    let at = |points: &[(usize, u64)], last: bool| {
        let point = if last { points.last() } else { points.first() };
        size(point.map_or(0, |(_, bytes)| *bytes))
    };
    let name = memory::called(role);
    let each = if role.processes > 1 {
        ", each on average"
    } else {
        ""
    };
    let title = format!(
        "<p class=\"plot\">{}{each}: <span class=\"shared\">shared {} at first, {} at the end</span>; \
         <span class=\"private\">private {} at first, {} at the end</span></p>\n",
        html(&name),
        at(&shared, false),
        at(&shared, true),
        at(&private, false),
        at(&private, true),
    );
    let label = format!(
        "Memory of {name}{each}: shared from {} to {}, private from {} to {}",
        at(&shared, false),
        at(&shared, true),
        at(&private, false),
        at(&private, true)
    );
    let lines = format!(
        "<path class=\"line shared\" d=\"{}\"/>\n<path class=\"line private\" d=\"{}\"/>\n",
        line_of(axis, &shared, top),
        line_of(axis, &private, top)
    );
    title + &plot("low", &round_size(top), &label, &lines)
}

/// A line through what is known; what a look found stays until the next.
fn line_of(axis: &Axis, points: &[(usize, u64)], top: u64) -> String {
    let mut path = String::new();
    let mut last = None;
    for (at, (bin, bytes)) in points.iter().enumerate() {
        let x = tenths(axis.x(*bin));
        let y = tenths(HEIGHT - *bytes as f64 / top as f64 * HEIGHT);
        let is_end = at + 1 == points.len();
        if last != Some(y) || is_end {
            path.extend([format!("{}{x} {y}", if at == 0 { "M" } else { "L" })]);
        }
        last = Some(y);
    }
    path
}

/// What the curve shows, in words.
fn summary(timeline: &Timeline, axis: &Axis) -> String {
    let copied = timeline.copied();
    let columns = axis.columns(&copied);
    let all = columns.iter().fold(0u64, |sum, &it| sum.saturating_add(it));
    let most = columns.iter().enumerate().max_by_key(|(_, bytes)| **bytes);
    let mut text = match most {
        Some((at, &bytes)) if bytes > 0 => {
            let rate = (bytes as f64 / axis.column_s()) as u64;
            let mut sum = 0u64;
            let half = columns.iter().position(|&bytes| {
                sum = sum.saturating_add(bytes);
                u128::from(sum) * 2 >= u128::from(all)
            });
            let after = (half.unwrap_or(0) + 1) as f64 * axis.column_s();
            format!(
                "Most was copied {} into the trace, {}/s; half of all was copied by {}.",
                short_seconds(at as f64 * axis.column_s()),
                size(rate),
                short_seconds(after.min(axis.span_s()))
            )
        }
        _ => "Nothing was copied that has a time.".to_owned(),
    };
    let sum = |bins: &[u64]| bins.iter().fold(0u64, |sum, &it| sum.saturating_add(it));
    let (forks, exits) = (sum(&timeline.forks), sum(&timeline.exits));
    text.extend([format!(
        " {} and {}. A column is {} wide.",
        counted(forks, "fork", "forks"),
        counted(exits, "exit", "exits"),
        seconds(axis.column_s())
    )]);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_are_closed_and_leave_gaps_out() {
        let axis = Axis {
            bins: 4,
            step: 1,
            interval_s: 1.0,
        };
        let path = area(&axis, &[0; 4], &[0, 50, 100, 0], 100.0);
        assert_eq!(path, "M250 50H500L500 0H750V100H500V100H250Z");
        assert_eq!(area(&axis, &[0; 4], &[0; 4], 100.0), "");
    }
}
