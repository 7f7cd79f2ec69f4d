//! How memory changed beside the copies: who shared how much when, and where private memory came from.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use super::screen::{DIM, Screen, WARNING, width};
use super::table::{Cell, Kind, Row, Table, column};
use super::{heading, written};
use crate::foreign::escape;
use crate::profile::{
    MappingKind, Memory, PrivateGrowth, Process, Profile, Role, RoleKind, RoleTimeline, Sampling,
};
use crate::report::words::{count, counted, duration, percent, seconds, size};

/// Columns of a line of time.
const SPARKS: usize = 40;
/// Moments after a fork at which what is shared is told, in seconds.
const MOMENTS: [f64; 2] = [1.0, 10.0];
/// Private memory of a process that was there before is worth a sentence from so many bytes on.
const MUCH_PRIVATE: u64 = 1 << 20;
/// What was shared at a fork and is lost since is worth a sentence from so many bytes on.
const MUCH_LOST: u64 = 256 << 10;
/// So many times the looks come later than was asked for, and it is said.
const LATE: f64 = 1.5;

/// The roles, how much each copied when, and where its private memory came from.
pub(super) fn roles(profile: &Profile, screen: Screen, out: &mut dyn Write) -> io::Result<()> {
    let several = profile.roles.len() > 1 || profile.roles.iter().any(|role| role.processes > 1);
    if !several && profile.sampling.is_none() {
        return Ok(());
    }
    if several {
        table(profile, screen, out)?;
    }
    curves(profile, screen, out)?;
    growth(profile, screen, out)?;
    kinds(profile, screen, out)?;
    sampled(profile, screen, out)
}

/// `uwsgi worker`, `master: nginx`; escaped.
pub(crate) fn called(role: &Role) -> String {
    let name = escape(&role.name);
    match role.kind {
        // The title says it.
        kind if name.contains(kind.name()) => name.into_owned(),
        RoleKind::Single => name.into_owned(),
        kind => format!("{name} {}", escape(kind.name())),
    }
}

fn table(profile: &Profile, screen: Screen, out: &mut dyn Write) -> io::Result<()> {
    heading(screen, out, "What the processes are there for", "")?;
    let columns = vec![
        column("ROLE", Kind::Name),
        column("PROCESSES", Kind::Number),
        column("GENERATIONS", Kind::Number),
        column("ENDED", Kind::Number),
        column("COPIED", Kind::Number),
        column("EACH, MEDIAN", Kind::Number),
        column("THE MOST", Kind::Number),
    ];
    let row = |role: &Role| {
        let cells: Vec<Cell> = vec![
            called(role).into(),
            count(role.processes).into(),
            count(role.generations).into(),
            count(role.ended).into(),
            size(role.copied_bytes).into(),
            size(role.median_bytes).into(),
            size(role.max_bytes).into(),
        ];
        Row {
            cells,
            details: Vec::new(),
        }
    };
    let rows = profile.roles.iter().map(row).collect();
    Table { columns, rows }.write(screen, out)
}

/// A line for each role: when it copied, and what it shared.
fn curves(profile: &Profile, screen: Screen, out: &mut dyn Write) -> io::Result<()> {
    let Some(timeline) = &profile.timeline else {
        return Ok(());
    };
    let copied = |line: &&RoleTimeline| line.copied.iter().any(|&bytes| bytes > 0);
    let lines: Vec<&RoleTimeline> = timeline.by_role.iter().filter(copied).collect();
    if timeline.bins() < 4 || lines.is_empty() {
        return Ok(());
    }
    let span = timeline.interval_s * timeline.bins() as f64;
    heading(screen, out, "When", &format!("from 0 to {}", seconds(span)))?;
    let found = |line: &RoleTimeline| profile.roles.iter().find(|role| role.id == line.role);
    let names: Vec<String> = lines
        .iter()
        .map(|line| found(line).map_or_else(|| escape(&line.role).into_owned(), called))
        .collect();
    let widest = names.iter().map(|name| width(name)).max().unwrap_or(0);
    for (line, name) in lines.iter().zip(&names) {
        let copied: Vec<f64> = line.copied.iter().map(|&bytes| bytes as f64).collect();
        let most = line.copied.iter().max().copied().unwrap_or(0);
        let rate = (most as f64 / timeline.interval_s) as u64;
        let pad = " ".repeat(widest - width(name));
        writeln!(
            out,
            "  {name}{pad}  copied   {}  at most {}/s",
            spark(&fitted(&copied, true), 0.0),
            size(rate)
        )?;
        let shared: Vec<Option<f64>> = (line.shared.iter().zip(&line.processes))
            .map(|(shared, &processes)| Some((*shared)? as f64 / processes.max(1) as f64))
            .collect();
        let known: Vec<f64> = shared.iter().flatten().copied().collect();
        if let (Some(&first), Some(&last)) = (known.first(), known.last()) {
            let pad = " ".repeat(widest);
            let filled = filled(&shared);
            let text = format!(
                "  {pad}  shared   {}  {} each at first, {} at the end",
                spark(&fitted(&filled, false), 0.0),
                size(first as u64),
                size(last as u64)
            );
            writeln!(out, "{}", screen.paint(DIM, &text))?;
        }
    }
    Ok(())
}

/// What is not known is what was known before.
fn filled(values: &[Option<f64>]) -> Vec<f64> {
    let mut last = values.iter().flatten().next().copied().unwrap_or(0.0);
    values
        .iter()
        .map(|value| {
            last = value.unwrap_or(last);
            last
        })
        .collect()
}

/// As many values as there are columns, sums or means of those that fall together.
fn fitted(values: &[f64], sums: bool) -> Vec<f64> {
    let columns = values.len().min(SPARKS);
    (0..columns)
        .map(|column| {
            let (from, to) = (
                column * values.len() / columns,
                (column + 1) * values.len() / columns,
            );
            let part = &values[from..to.max(from + 1)];
            let sum: f64 = part.iter().sum();
            if sums { sum } else { sum / part.len() as f64 }
        })
        .collect()
}

/// `▁▃█▅`: values from `least` to the largest of them; nothing is blank.
pub(crate) fn spark(values: &[f64], least: f64) -> String {
    const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = values.iter().copied().fold(least, f64::max);
    let height = |&value: &f64| match (value - least) / (most - least) {
        part if part > 0.0 => HEIGHTS[((part * 8.0).ceil() as usize).clamp(1, 8) - 1],
        _ => ' ',
    };
    values.iter().map(height).collect()
}

/// Where private memory came from, a line for each role.
fn growth(profile: &Profile, screen: Screen, out: &mut dyn Write) -> io::Result<()> {
    let known = |role: &&Role| role.growth.is_some();
    if !profile.roles.iter().any(|role| known(&role)) {
        return Ok(());
    }
    heading(
        screen,
        out,
        "Where private memory came from",
        "between the first and the last look",
    )?;
    for role in profile.roles.iter().filter(known) {
        let Some(growth) = role.growth else { continue };
        let text = format!("{}: {}", called(role), growth_in_words(&growth));
        for line in screen.wrap(2, &text) {
            writeln!(out, "{line}")?;
        }
    }
    Ok(())
}

/// `private memory +12.0 MiB: +10.1 MiB copied, +1.9 MiB new, nothing unexplained`.
pub(in crate::report) fn growth_in_words(growth: &PrivateGrowth) -> String {
    let parts = [
        (growth.copied, "copied"),
        (growth.new, "new memory"),
        (growth.by_others, others_in_words(growth.by_others)),
        (growth.files, "pages of files"),
        (growth.given_back, "given back or swapped out"),
    ];
    let named = parts.iter().filter(|(bytes, _)| *bytes != 0);
    let mut named: Vec<String> = named
        .map(|(bytes, what)| format!("{} {what}", signed(*bytes)))
        .collect();
    named.push(match growth.unexplained {
        0 => "nothing unexplained".to_owned(),
        rest => format!("{} not explained", signed(rest)),
    });
    format!(
        "private memory {}: {}",
        signed(growth.private),
        named.join(", ")
    )
}

fn others_in_words(bytes: i64) -> &'static str {
    if bytes < 0 {
        "came to be shared with others"
    } else {
        "left by others that had shared it"
    }
}

fn signed(bytes: i64) -> String {
    let sign = match bytes {
        0 => "",
        ..0 => "-",
        _ => "+",
    };
    format!("{sign}{}", size(bytes.unsigned_abs()))
}

/// What kinds of mappings the roots have resident at the end.
fn kinds(profile: &Profile, screen: Screen, out: &mut dyn Write) -> io::Result<()> {
    let has_kinds = |process: &&Process| {
        let memory = process.memory.as_ref();
        memory.is_some_and(|memory| !memory.mappings.is_empty())
    };
    let Some(process) = profile.processes.iter().find(has_kinds) else {
        return Ok(());
    };
    let mappings = process.memory.iter().flat_map(|memory| &memory.mappings);
    let parts: Vec<String> = mappings
        .filter(|it| it.sizes.rss > Some(0))
        .map(|it| {
            let private = it.sizes.private.map_or_else(|| "?".to_owned(), size);
            let resident = it.sizes.rss.map_or_else(|| "?".to_owned(), size);
            format!("{} {resident} ({private} private)", kind_in_words(it.kind))
        })
        .collect();
    if parts.is_empty() {
        return Ok(());
    }
    let text = format!(
        "{} had resident at the end: {}",
        process.pid,
        parts.join(", ")
    );
    for line in screen.wrap(2, &text) {
        writeln!(out, "{}", screen.paint(DIM, &line))?;
    }
    Ok(())
}

fn kind_in_words(kind: MappingKind) -> String {
    match kind {
        MappingKind::PrivateFile => "private files".to_owned(),
        MappingKind::Shared => "shared mappings".to_owned(),
        kind => escape(kind.name()).into_owned(),
    }
}

/// How memory was looked at, where it was not as was asked for.
fn sampled(profile: &Profile, screen: Screen, out: &mut dyn Write) -> io::Result<()> {
    let mut sentences = Vec::new();
    if let Some(Sampling {
        asked_s,
        used_s: Some(used_s),
        ..
    }) = profile.sampling
        && asked_s > 0.0
        && used_s > asked_s * LATE
    {
        sentences.push(format!(
            "Memory was looked at every {} and not every {}: reading it takes long, and memtrace takes 1% \
             of a processor for it at most.",
            seconds(used_s),
            seconds(asked_s)
        ));
    }
    let unread = |process: &&Process| {
        let memory = process.memory.as_ref();
        memory.is_some_and(|memory| memory.end.why.is_some())
    };
    let unread: Vec<&Process> = profile.processes.iter().filter(unread).collect();
    if let Some(first) = unread.first()
        && let Some(why) = first
            .memory
            .as_ref()
            .and_then(|memory| memory.end.why.as_deref())
    {
        sentences.push(format!(
            "How much of their memory is shared is not known of {}: {}.",
            counted(unread.len() as u64, "process", "processes"),
            escape(why)
        ));
    }
    for line in sentences.iter().flat_map(|text| screen.wrap(2, text)) {
        writeln!(out, "{}", screen.paint(WARNING, &line))?;
    }
    Ok(())
}

/// What was shared and private before the trace could see any copy: for late attaches. What to do is
/// said where this is `alone`.
pub(super) fn late(profile: &Profile, alone: bool) -> Option<String> {
    let before = |process: &&Process| {
        process.stands_for.is_none()
            && process.forked_at_s.is_none()
            && is_worker(profile, process)
            && private_at_start(process) >= MUCH_PRIVATE
    };
    let mut late: Vec<&Process> = profile.processes.iter().filter(before).collect();
    late.sort_by_key(|process| std::cmp::Reverse(private_at_start(process)));
    let first = late.first()?;
    let start = &first.memory.as_ref()?.start;
    let least = size(private_at_start(late[late.len() - 1]));
    let more = match late.len() {
        1 => String::new(),
        2 => format!(", and another one {least}"),
        all => format!(", and {} others {least} at least", count(all as u64 - 1)),
    };
    let remedy = if alone {
        " Restart one worker, or trace from the start, to see them."
    } else {
        ""
    };
    Some(format!(
        "{} had {} of {} private before tracing began{more}; the copies among that were not seen.{remedy}",
        first.pid,
        size(start.private?),
        size(start.rss?),
    ))
}

fn private_at_start(process: &Process) -> u64 {
    let memory = process.memory.as_ref();
    memory.and_then(|memory| memory.start.private).unwrap_or(0)
}

fn is_worker(profile: &Profile, process: &Process) -> bool {
    let role = profile
        .roles
        .iter()
        .find(|role| Some(&role.id) == process.role.as_ref());
    role.is_some_and(|role| role.kind == RoleKind::Worker)
}

/// How what forked processes share melts: the median over them, at their fork, soon after, and at the
/// last look.
pub(super) fn melting(profile: &Profile) -> Option<String> {
    let forked = profile
        .processes
        .iter()
        .filter(|process| process.forked_at_s.is_some());
    let workers: Vec<(&Memory, f64)> = forked
        .filter(|process| is_worker(profile, process))
        .filter_map(|process| Some((process.memory.as_ref()?, process.forked_at_s?)))
        .filter(|(memory, _)| memory.start.shared.is_some() && memory.end.shared.is_some())
        .collect();
    let at_fork = |memory: &Memory| Some(memory.start.shared?.saturating_add(memory.start_copied));
    let first = median(workers.iter().filter_map(|(memory, _)| at_fork(memory)))?;
    let last = median(workers.iter().filter_map(|(memory, _)| memory.end.shared))?;
    if first.saturating_sub(last) < MUCH_LOST {
        return None;
    }
    let one = workers.len() == 1;
    let (who, their) = if one {
        ("The forked worker".to_owned(), "its")
    } else {
        let many = count(workers.len() as u64);
        (format!("{many} forked workers"), "their")
    };
    let mut moments = vec![format!("{who} shared {} at {their} fork", size(first))];
    for moment in MOMENTS {
        let lived = workers
            .iter()
            .filter(|(memory, fork)| memory.end_s - fork > moment * 1.2);
        let then = lived.filter_map(|(memory, fork)| shared_at(memory, fork + moment));
        if let Some(then) = median(then) {
            moments.push(format!("{} after {}", size(then), seconds(moment)));
        }
    }
    let medians = if one { "" } else { "; medians" };
    Some(format!(
        "{}, and {} at the last look, which could still be lost{medians}.",
        moments.join(", "),
        size(last)
    ))
}

/// What a process shared at a moment, as far as the nearest look tells.
fn shared_at(memory: &Memory, at_s: f64) -> Option<u64> {
    let distance = |t_s: f64| (t_s - at_s).abs();
    let nearest = memory
        .samples
        .iter()
        .min_by(|a, b| distance(a.t_s).total_cmp(&distance(b.t_s)))?;
    nearest.sizes.shared
}

fn median(values: impl Iterator<Item = u64>) -> Option<u64> {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

/// Of the roles of workers, the one that copied most.
fn main_workers(profile: &Profile) -> Option<&Role> {
    let workers = profile.roles.iter();
    let workers = workers.filter(|role| role.kind == RoleKind::Worker);
    workers.max_by_key(|role| role.copied_pages)
}

/// How soon workers copy.
pub(super) fn pace(profile: &Profile) -> Option<String> {
    let role = main_workers(profile)?;
    let pace = role.pace?;
    let after = |ms: u64| match ms {
        0 => "millisecond".to_owned(),
        ms => duration(std::time::Duration::from_millis(ms)),
    };
    Some(format!(
        "Half of what a worker copies, it copies in its first {}; 95% within {}.",
        after(pace.half_ms),
        after(pace.most_ms)
    ))
}

/// How many workers came and went, and what each cost.
pub(super) fn churn(profile: &Profile) -> Option<String> {
    let role = main_workers(profile)?;
    if role.generations < 2 || role.forked == 0 || role.median_bytes == 0 {
        return None;
    }
    let grown = match role.growth {
        Some(growth) if growth.copied > 0 && growth.new > 0 => {
            let (copied, new) = (growth.copied.unsigned_abs(), growth.new.unsigned_abs());
            format!(
                " Until then {} became their own by copies, which do not raise RSS, and {} was new memory, \
                 which does.",
                size(copied),
                size(new)
            )
        }
        _ => String::new(),
    };
    Some(format!(
        "{}: {} in {}; each copied {}, median, and {} at most.{grown}",
        called(role),
        counted(role.processes, "process", "processes"),
        counted(role.generations, "generation", "generations"),
        size(role.median_bytes),
        size(role.max_bytes)
    ))
}

/// Who pays for the sharing: the parent or its children.
pub(super) fn sides(profile: &Profile, screen: Screen) -> Option<String> {
    let copied = |kind: RoleKind| {
        let roles = profile.roles.iter().filter(|role| role.kind == kind);
        roles.fold(0u64, |sum, role| sum.saturating_add(role.copied_bytes))
    };
    let (parents, children) = (copied(RoleKind::Master), copied(RoleKind::Worker));
    // Children that copy are what everybody expects.
    if parents <= children || parents < MUCH_LOST {
        return None;
    }
    let where_most = |kind: RoleKind| {
        let most = most_in(profile, kind);
        most.map_or_else(String::new, |function| {
            format!(" (mostly in `{}`)", written::name(function, screen))
        })
    };
    let also = match children {
        0 => String::new(),
        bytes => format!(
            ", their children {}{}",
            size(bytes),
            where_most(RoleKind::Worker)
        ),
    };
    Some(format!(
        "The parents paid: they copied {}{} while they had children that shared their memory{also}.",
        size(parents),
        where_most(RoleKind::Master)
    ))
}

/// The function that copied at least half of what processes of a kind copied.
fn most_in(profile: &Profile, kind: RoleKind) -> Option<&str> {
    let is_of_kind = |id: &String| {
        let mut roles = profile.roles.iter().filter(|role| role.kind == kind);
        roles.any(|role| role.id == *id)
    };
    let members = profile.processes.iter();
    let members = members.filter(|process| process.role.as_ref().is_some_and(is_of_kind));
    let pids: BTreeSet<u32> = members.map(|process| process.pid).collect();
    let mut by_function: BTreeMap<&str, u64> = BTreeMap::new();
    let mut all = 0_u64;
    for site in &profile.call_sites {
        let pages = site.processes.iter().filter(|(pid, _)| pids.contains(pid));
        let pages = pages.fold(0_u64, |sum, (_, pages)| sum.saturating_add(*pages));
        let sum = by_function.entry(&site.act_on().function).or_default();
        *sum = sum.saturating_add(pages);
        all = all.saturating_add(pages);
    }
    let (function, pages) = by_function.into_iter().max_by_key(|(_, pages)| *pages)?;
    (pages > 0 && pages >= all / 2).then_some(function)
}

/// What copying cost in time, beside all processor time.
pub(super) fn time(profile: &Profile) -> Option<String> {
    let known = profile
        .processes
        .iter()
        .filter(|process| process.copied_pages > 0);
    let times: Option<Vec<(f64, f64)>> = known
        .map(|process| Some((process.copying_s?, process.cpu_s?)))
        .collect();
    let (copying, cpu) = times?
        .into_iter()
        .fold((0.0, 0.0), |(a, b), (copying, cpu)| (a + copying, b + cpu));
    let share = copying / cpu;
    // Less than a tick of the clock is no figure.
    if !share.is_finite() || cpu < 0.1 || share < 0.001 {
        return None;
    }
    Some(format!(
        "Copying took {} of {} of processor time that the copying processes had ({:.1}%).",
        seconds(copying),
        seconds(cpu),
        share.min(1.0) * 100.0
    ))
}

/// How often the last cache was missed, by role; or why that is not known.
pub(super) fn cache(profile: &Profile) -> Option<String> {
    let of_role = |role: &Role| {
        let members = profile.processes.iter();
        let members = members.filter(|process| process.role.as_ref() == Some(&role.id));
        let uses = members.filter_map(|process| process.cache);
        let (loads, misses) = uses.fold((0_u64, 0_u64), |(loads, misses), more| {
            (
                loads.saturating_add(more.loads),
                misses.saturating_add(more.misses),
            )
        });
        (loads > 0).then(|| {
            format!(
                "{} of {} loads by {}",
                percent(misses.min(loads), loads),
                count(loads),
                called(role)
            )
        })
    };
    let parts: Vec<String> = profile.roles.iter().filter_map(of_role).collect();
    match (&parts[..], &profile.no_cache) {
        ([], None) => None,
        ([], Some(why)) => Some(format!(
            "How often the last cache was missed is not known: {}.",
            escape(why)
        )),
        (parts, _) => Some(format!("The last cache missed {}.", parts.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_time_has_as_many_columns_as_fit() {
        assert_eq!(spark(&[0.0, 1.0, 4.0, 8.0], 0.0), " ▁▄█");
        assert_eq!(spark(&[], 0.0), "");
        assert_eq!(spark(&[0.0, 0.0], 0.0), "  ");
        let many: Vec<f64> = (0..600).map(f64::from).collect();
        assert_eq!(fitted(&many, true).len(), SPARKS);
        let sum = fitted(&many, true).iter().sum::<f64>() - many.iter().sum::<f64>();
        assert!(sum.abs() < 1e-6);
        assert_eq!(fitted(&[1.0, 3.0], false), [1.0, 3.0]);
        assert_eq!(filled(&[None, Some(2.0), None]), [2.0, 2.0, 2.0]);
    }

    #[test]
    fn growth_is_said_with_its_parts() {
        let growth = PrivateGrowth {
            private: 12 << 20,
            copied: 9 << 20,
            new: 4 << 20,
            by_others: -(1 << 20),
            ..PrivateGrowth::default()
        };
        assert_eq!(
            growth_in_words(&growth),
            "private memory +12.0 MiB: +9.0 MiB copied, +4.0 MiB new memory, -1.0 MiB came to be shared \
             with others, nothing unexplained"
        );
    }
}
