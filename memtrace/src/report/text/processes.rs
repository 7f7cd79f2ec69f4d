//! The table of processes.

use std::collections::BTreeMap;
use std::io::{self, Write};

use anstyle::Style;

use super::copies::FEW_PIDS;
use super::heading;
use super::screen::{DIM, LOSS, Screen, WARNING};
use super::table::{Cell, Column, Fit, Kind, Row, Table, column};
use crate::foreign::escape;
use crate::profile::{
    Container, InterpreterSeen, NotCopied, Process, Profile, RuntimeSeen, Unchanged,
};
use crate::report::claims::Claims;
use crate::report::words::{count, counted, percent, ratio, seconds, size};

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
    // Those that are added up are no process, so they are always among the rest.
    processes.sort_by_key(|process| {
        let others = process.stands_for.is_some();
        (others, std::cmp::Reverse(process.copied_pages))
    });
    let single = processes.iter().filter(|p| p.stands_for.is_none()).count();
    let shown = single.min(top);
    let part = match profile.process_count() {
        all if all > shown as u64 => {
            let (shown, all) = (count(shown as u64), count(all));
            Some(format!("{shown} of {all}"))
        }
        _ => None,
    };
    let times = |process: &&Process| process.forked_at_s.or(process.exited_at_s).is_some();
    let times = (processes.iter().any(times)).then(|| "times are since tracing began".to_owned());
    let remark: Vec<String> = part.into_iter().chain(times).collect();
    heading(screen, out, "Processes", &remark.join("; "))?;
    let total = profile.totals.copied_pages;
    let (rows, rest) = processes.split_at(shown);
    table(profile, rows, screen).write(screen, out)?;
    write_rest(screen, out, rest, total)?;
    interpreters(profile, screen, out)?;
    runtimes(profile, screen, out)?;
    containers(profile, screen, out)
}

/// A column: its title, kind and style, and its cell for a process.
type Figure<'a> = (Column, Box<dyn Fn(&Process) -> Cell + 'a>);

/// Columns that go, one after the other, while there is no room for the others: the first says
/// little, and of the second the size says the same.
const LEAST_NEEDED: [&str; 2] = ["NOT COPIED", "PAGES"];
/// Digits of a container's id that are shown, as Docker does.
const SHORT_ID: usize = 12;
/// Containers that are listed.
const MAX_CONTAINERS: usize = 10;
/// Columns that go where names would get too short.
const NEEDED_LESS_THAN_NAMES: [&str; 2] = ["EXITED", "FORKED"];

/// As many columns as there is something to say in, and room for.
fn table(profile: &Profile, rows: &[&Process], screen: Screen) -> Table {
    let without = |left_out: &[&str]| {
        let mut figures = figures(profile);
        figures.retain(|(column, _)| !left_out.contains(&column.title));
        let row = |process: &&Process| Row {
            cells: figures.iter().map(|(_, cell)| cell(process)).collect(),
            details: details(process, screen),
        };
        let rows = rows.iter().map(row).collect();
        let columns = figures.into_iter().map(|(column, _)| column).collect();
        Table { columns, rows }
    };
    let mut left_out = Vec::new();
    let mut table = without(&left_out);
    for (columns, fit) in [
        (LEAST_NEEDED, Fit::Whole),
        (NEEDED_LESS_THAN_NAMES, Fit::Squeezed),
    ] {
        for column in columns {
            if table.fits(screen, fit) {
                break;
            }
            left_out.push(column);
            table = without(&left_out);
        }
    }
    table
}

fn figures(profile: &Profile) -> Vec<Figure<'_>> {
    let total = profile.totals.copied_pages;
    let quiet = |mut figure: Figure<'static>| {
        figure.0.style = DIM;
        figure
    };
    let processes = &profile.processes;
    let some = |of: fn(&Process) -> bool| processes.iter().any(of);
    let time = |time: Option<f64>, none: &str| time.map_or_else(|| none.to_owned(), seconds);
    let mut figures = vec![
        figure("PID", Kind::Number, |p| p.pid.to_string().into()),
        figure("COMMAND", Kind::Name, |p| {
            escape(&p.called()).into_owned().into()
        }),
    ];
    if some(|p| p.forked_at_s.is_some()) {
        figures.push(quiet(figure("FORKED", Kind::Number, move |p| {
            time(p.forked_at_s, "before").into()
        })));
    }
    if some(|p| p.exited_at_s.is_some()) {
        figures.push(quiet(figure("EXITED", Kind::Number, move |p| {
            time(p.exited_at_s, "-").into()
        })));
    }
    figures.extend([
        figure("COPIED", Kind::Number, |p| size(p.copied_bytes).into()),
        figure("PAGES", Kind::Number, |p| count(p.copied_pages).into()),
        figure("SHARE", Kind::Number, move |p| {
            percent(p.copied_pages, total).into()
        }),
        figure("", Kind::Bar, move |p| {
            Cell::Bar(ratio(p.copied_pages, total))
        }),
    ]);
    if profile.totals.by_cause.unknown < total {
        let read = Claims::of(profile).read_of_processes();
        figures.push(figure("ONLY READ", Kind::Number, move |p| {
            let read = read.get(&p.pid).copied().unwrap_or(0);
            part(read.min(p.copied_pages), p.copied_pages)
        }));
    }
    if some(|p| compared(p).is_some()) {
        figures.push(figure("UNCHANGED", Kind::Number, |p| {
            compared(p).map_or_else(|| "-".into(), |u| part(u.unchanged_pages, u.compared_pages))
        }));
    }
    figures.push(quiet(figure("NOT COPIED", Kind::Number, |p| {
        faults(&p.not_copied)
            .map_or_else(|| "-".to_owned(), count)
            .into()
    })));
    figures
}

fn figure<'a>(title: &'static str, kind: Kind, cell: impl Fn(&Process) -> Cell + 'a) -> Figure<'a> {
    (column(title, kind), Box::new(cell))
}

/// The part of a process's own pages.
fn part(part: u64, whole: u64) -> Cell {
    match whole {
        0 => "-".into(),
        _ => percent(part, whole).into(),
    }
}

fn details(process: &Process, screen: Screen) -> Vec<String> {
    let mut details = Vec::new();
    if process.lost_faults > 0 {
        let lost = counted(process.lost_faults, "record", "records");
        details.push(screen.paint(LOSS, &format!("         {lost} of these lost")));
    }
    details
}

/// Which processes run an interpreter; most often it is one for all.
fn interpreters(profile: &Profile, screen: Screen, out: &mut dyn Write) -> io::Result<()> {
    let mut pids: BTreeMap<(&str, Option<&str>), Vec<u32>> = BTreeMap::new();
    for process in &profile.processes {
        if let Some(InterpreterSeen { name, why }) = &process.interpreter {
            pids.entry((name, why.as_deref()))
                .or_default()
                .push(process.pid);
        }
    }
    for ((name, why), pids) in pids {
        let (name, processes) = (escape(name), listed(profile, &pids));
        let (style, text) = match why {
            Some(why) => (
                WARNING,
                format!("{name} in {processes}, frames missing: {}", escape(why)),
            ),
            None => (DIM, format!("{name} in {processes}")),
        };
        write_wrapped(screen, out, style, &text)?;
    }
    Ok(())
}

/// Which processes have a runtime that is not read.
fn runtimes(profile: &Profile, screen: Screen, out: &mut dyn Write) -> io::Result<()> {
    let mut pids: BTreeMap<&RuntimeSeen, Vec<u32>> = BTreeMap::new();
    for process in &profile.processes {
        for runtime in &process.runtimes {
            pids.entry(runtime).or_default().push(process.pid);
        }
    }
    for (RuntimeSeen { name, version }, pids) in pids {
        let version = version.iter().map(|version| format!(" {version}"));
        let name = format!("{name}{}", version.collect::<String>());
        let text = format!(
            "{} in {}: its objects and functions are not read",
            escape(&name),
            listed(profile, &pids)
        );
        write_wrapped(screen, out, WARNING, &text)?;
    }
    Ok(())
}

/// Which processes run in a container.
fn containers(profile: &Profile, screen: Screen, out: &mut dyn Write) -> io::Result<()> {
    let mut pids: BTreeMap<&Container, Vec<u32>> = BTreeMap::new();
    for process in &profile.processes {
        if let Some(container) = &process.container {
            pids.entry(container).or_default().push(process.pid);
        }
    }
    for (Container { id, pod }, pids) in pids.iter().take(MAX_CONTAINERS) {
        let id: String = id.chars().take(SHORT_ID).collect();
        let pod = pod.as_deref().map(|pod| format!(" (pod {})", escape(pod)));
        let (pod, pids) = (pod.unwrap_or_default(), listed(profile, pids));
        let text = format!("in container {}{pod}: {pids}", escape(&id));
        write_wrapped(screen, out, DIM, &text)?;
    }
    match pids.len().saturating_sub(MAX_CONTAINERS) {
        0 => Ok(()),
        more => {
            let more = counted(more as u64, "container more", "containers more");
            write_wrapped(screen, out, DIM, &format!("... {more}"))
        }
    }
}

fn listed(profile: &Profile, pids: &[u32]) -> String {
    match pids.len() {
        1..=FEW_PIDS => {
            let pids: Vec<_> = pids.iter().map(u32::to_string).collect();
            pids.join(", ")
        }
        many => format!(
            "{} of {}",
            count(many as u64),
            counted(profile.process_count(), "process", "processes")
        ),
    }
}

fn write_wrapped(screen: Screen, out: &mut dyn Write, style: Style, text: &str) -> io::Result<()> {
    for line in screen.wrap(2, text) {
        writeln!(out, "{}", screen.paint(style, &line))?;
    }
    Ok(())
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
    let rest = rest.iter().map(|process| process.count()).sum();
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
        settled_elsewhere,
    } = *not_copied;
    let seen = [reuse, zero, first_touch, split, settled_elsewhere];
    seen.iter()
        .any(Option::is_some)
        .then(|| seen.into_iter().flatten().sum())
}

/// What was found of a process's compared pages; `None` when there were none.
fn compared(process: &Process) -> Option<Unchanged> {
    process
        .unchanged
        .filter(|unchanged| unchanged.compared_pages > 0)
}
