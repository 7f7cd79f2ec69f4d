//! The main table: where pages were copied.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use super::group::{Group, regroup};
use super::heading;
use super::screen::{DIM, Screen, TITLE, shorten, shorten_left, width};
use super::table::{Cell, Kind, Row, Table, column};
use super::words::{self, count, counted, duration, percent, ratio, size};
use crate::distribution::Summary;
use crate::options::{By, TextOptions};
use crate::profile::{CallSite, Frame, Profile, Site, StackPages, Unknown};
use crate::report::escape::escape;

/// Where details begin.
const DETAIL: usize = 9;
/// Frames shown of a call site's heaviest stack.
const FEW_FRAMES: usize = 8;
/// Frames shown where the row is the stack.
const MANY_FRAMES: usize = 40;
/// Call sites shown of a row that is none itself.
const PARTS: usize = 3;
/// Pids that are listed rather than counted.
const FEW_PIDS: usize = 4;
/// The widest function that places are aligned behind.
const FUNCTION: usize = 36;
/// Columns that a shortened place keeps, so that its file and line stay legible.
const PLACE: usize = 28;

/// Writes the rows that copied most.
pub(super) fn copies(
    profile: &Profile,
    options: TextOptions,
    screen: Screen,
    out: &mut dyn Write,
) -> io::Result<()> {
    let groups = regroup(profile, options.by);
    if groups.is_empty() {
        return Ok(());
    }
    let (title, name) = match options.by {
        By::Site => ("Call sites", "CALL SITE"),
        By::Function => ("Functions", "FUNCTION"),
        By::Stack => ("Stacks", "STACK"),
        By::Type => ("Object types", "OBJECT TYPE"),
        By::Process => ("Processes and their call sites", "PROCESS"),
        By::File => ("Files", "FILE"),
        By::Cause => ("Causes and their call sites", "CAUSE"),
    };
    let shown = groups.len().min(options.top);
    let remark = if groups.len() > shown {
        format!("{} of {}", count(shown as u64), count(groups.len() as u64))
    } else {
        String::new()
    };
    heading(screen, out, title, &remark)?;
    let total = profile.totals.copied_pages;
    let (rows, rest) = groups.split_at(shown);
    let table = Table {
        columns: columns(name),
        rows: rows
            .iter()
            .map(|group| Row {
                cells: cells(group.pages, group.bytes, total, &group.name),
                details: details(group, options.by, screen),
            })
            .collect(),
    };
    table.write(screen, out)?;
    if !rest.is_empty() {
        let (pages, bytes) = rest
            .iter()
            .fold((0, 0), |(p, b), group| (p + group.pages, b + group.bytes));
        let text = format!(
            "  ... {} more: {}, {} ({})",
            count(rest.len() as u64),
            size(bytes),
            counted(pages, "page", "pages"),
            percent(pages, total)
        );
        writeln!(out, "{}", screen.paint(DIM, &text))?;
    }
    Ok(())
}

/// The columns of tables by share.
pub(super) fn columns(name: &'static str) -> Vec<super::table::Column> {
    let mut columns = vec![
        column("SHARE", Kind::Number),
        column("", Kind::Bar),
        column("COPIED", Kind::Number),
        column("PAGES", Kind::Number),
        column(name, Kind::Name),
    ];
    columns[4].style = TITLE;
    columns
}

/// Their cells.
pub(super) fn cells(pages: u64, bytes: u64, total: u64, name: &str) -> Vec<Cell> {
    vec![
        percent(pages, total).into(),
        Cell::Bar(ratio(pages, total)),
        size(bytes).into(),
        count(pages).into(),
        escape(name).into_owned().into(),
    ]
}

fn details(group: &Group<'_>, by: By, screen: Screen) -> Vec<String> {
    let mut details = Details {
        screen,
        lines: Vec::new(),
    };
    if let (By::Site | By::Function, Some((site, _))) = (by, group.parts.first()) {
        details.place(&site.site, by == By::Site, reason_of(site));
    }
    details.facts(group, by);
    details.times(group);
    match (by, group.stack, &group.parts[..]) {
        (By::Site, _, [(site, _)]) => details.heaviest(site),
        (By::Stack, Some(stack), _) => details.frames(stack, DETAIL, MANY_FRAMES),
        (_, _, parts) => details.parts(parts, group.pages),
    }
    details.lines
}

/// Lines below a row.
struct Details {
    screen: Screen,
    lines: Vec<String>,
}

impl Details {
    fn quiet(&mut self, text: &str) {
        let lines = self.screen.wrap(DETAIL, text);
        self.lines
            .extend(lines.iter().map(|line| self.screen.paint(DIM, line)));
    }

    /// Where the site is: file and line, and the module.
    fn place(&mut self, site: &Site, with_line: bool, reason: Option<Unknown>) {
        let file = if with_line {
            place(site.file.as_deref(), site.line)
        } else {
            None
        };
        let module = site
            .module
            .as_deref()
            .map(|module| escape(module).into_owned());
        let room = self.screen.room(DETAIL);
        let mut text = match (file, module) {
            (Some(file), Some(module)) => {
                // The module is the longer and the less needed of the two.
                let base = module.rsplit('/').next().unwrap_or(&module).to_owned();
                let fits = width(&file) + 4 + width(&module) <= room;
                let module = if fits { module } else { base };
                let file = shorten_left(&file, room.saturating_sub(4 + width(&module)).max(PLACE));
                format!("{file} in {module}")
            }
            (Some(only), None) | (None, Some(only)) => shorten_left(&only, room),
            (None, None) => String::new(),
        };
        if let Some(reason) = reason {
            let mark = words::unknown_mark(reason);
            text += if text.is_empty() {
                mark.trim_start()
            } else {
                mark
            };
        }
        if !text.is_empty() {
            let line = " ".repeat(DETAIL) + &shorten(&text, room);
            self.lines.push(self.screen.paint(DIM, &line));
        }
    }

    /// Causes, origins, processes.
    fn facts(&mut self, group: &Group<'_>, by: By) {
        let mut facts = Vec::new();
        if by != By::Cause {
            facts.push(format!(
                "cause {}",
                mixed(&group.causes, |cause| words::cause(*cause))
            ));
        }
        facts.push(format!(
            "origin {}",
            mixed(&group.origins, |origin| words::origin(*origin))
        ));
        match group.processes.len() {
            _ if by == By::Process => {}
            0 => {}
            1..=FEW_PIDS => {
                let pids: Vec<_> = group.processes.keys().map(u32::to_string).collect();
                facts.push(format!("in {}", pids.join(", ")));
            }
            many => facts.push(format!(
                "in {}",
                counted(many as u64, "process", "processes")
            )),
        }
        if let (By::Site, Some((site, _))) = (by, group.parts.first()) {
            facts.extend(
                site.object_type
                    .as_deref()
                    .map(|name| format!("type {}", escape(name))),
            );
        }
        self.quiet(&facts.join("; "));
    }

    /// Latency and age, where they are known.
    fn times(&mut self, group: &Group<'_>) {
        let latency = group.merged(|site| &site.latency_ns).summary();
        self.distribution("latency", latency, |ns| duration(Duration::from_nanos(ns)));
        let age = group.merged(|site| &site.age_ms).summary();
        self.distribution("age", age, |ms| match ms {
            0 => "<1 ms".to_owned(),
            _ => duration(Duration::from_millis(ms)),
        });
    }

    fn distribution(&mut self, name: &str, summary: Option<Summary>, time: fn(u64) -> String) {
        let Some(Summary {
            min,
            p50,
            p90,
            p99,
            max,
        }) = summary
        else {
            return;
        };
        let figures = [
            ("min", min),
            ("p50", p50),
            ("p90", p90),
            ("p99", p99),
            ("max", max),
        ];
        let figures = figures.map(|(name, value)| format!("{name} {:>7}", time(value)));
        let line = format!("{}{name:<7} {}", " ".repeat(DETAIL), figures.join("  "));
        if width(&line) <= self.screen.room(0) {
            self.lines.push(self.screen.paint(DIM, &line));
        } else {
            self.quiet(&line);
        }
    }

    fn heaviest(&mut self, site: &CallSite) {
        let Some(stack) = site.stacks.iter().max_by_key(|stack| stack.pages) else {
            return;
        };
        // A stack of nothing but the unnamed site would only say it again.
        if let [frame] = &stack.frames[..]
            && frame.function == site.site.function
        {
            return;
        }
        let title = match site.stacks.len() as u64 {
            1 => "stack:".to_owned(),
            all => format!(
                "heaviest of {} stacks, {}:",
                count(all),
                percent(stack.pages, site.pages)
            ),
        };
        self.quiet(&title);
        self.frames(stack, DETAIL + 2, FEW_FRAMES);
    }

    fn frames(&mut self, stack: &StackPages, indent: usize, most: usize) {
        // One frame more is shown rather than counted.
        let shown = if stack.frames.len() <= most + 1 {
            stack.frames.len()
        } else {
            most
        };
        let frames = &stack.frames[..shown];
        let widest = frames
            .iter()
            .map(|frame| width(&escape(&frame.function)) + width(mark(frame)));
        let column = widest.filter(|width| *width <= FUNCTION).max().unwrap_or(0);
        for frame in frames {
            self.lines.push(self.frame(frame, indent, column));
        }
        let more = (stack.frames.len() - shown) as u64;
        let left_out = match (more, stack.truncated) {
            (0, false) => return,
            (0, true) => "... the stack was deeper than could be taken".to_owned(),
            (_, false) => format!("... {} more", count(more)),
            (_, true) => format!("... {} more, and deeper than could be taken", count(more)),
        };
        let line = " ".repeat(indent) + &left_out;
        self.lines.push(self.screen.paint(DIM, &line));
    }

    fn frame(&self, frame: &Frame, indent: usize, column: usize) -> String {
        let place = match place(frame.file.as_deref(), frame.line) {
            Some(place) => place,
            // The name of an unknown function begins with its module.
            None if frame.unknown.is_some() => String::new(),
            None => escape(frame.module.as_deref().unwrap_or_default()).into_owned(),
        };
        self.function_and_place(indent, column, &frame.function, mark(frame), &place)
    }

    /// The call sites that a row is made of, the largest first.
    fn parts(&mut self, parts: &[(&CallSite, u64)], whole: u64) {
        let mut parts = parts.to_vec();
        parts.sort_by_key(|(_, pages)| std::cmp::Reverse(*pages));
        let shown = if parts.len() <= PARTS + 1 {
            parts.len()
        } else {
            PARTS
        };
        for (site, pages) in &parts[..shown] {
            let share = format!("{:>6}", percent(*pages, whole));
            let place = place(site.site.file.as_deref(), site.site.line).unwrap_or_default();
            let line = self.function_and_place(DETAIL + 8, 0, &site.site.function, "", &place);
            let line = format!("{}{share}  {}", " ".repeat(DETAIL), line.trim_start());
            self.lines.push(line);
        }
        if parts.len() > shown {
            let rest: u64 = parts[shown..].iter().map(|(_, pages)| pages).sum();
            let line = format!(
                "{}{:>6}  in {}",
                " ".repeat(DETAIL),
                percent(rest, whole),
                counted(
                    (parts.len() - shown) as u64,
                    "call site more",
                    "call sites more"
                )
            );
            self.lines.push(self.screen.paint(DIM, &line));
        }
    }

    /// `function mark  place`, the place from `column` on where there is room; each shortened only
    /// as far as the line needs it.
    fn function_and_place(
        &self,
        indent: usize,
        column: usize,
        function: &str,
        mark: &str,
        place: &str,
    ) -> String {
        let function = escape(function);
        let room = self.screen.room(indent);
        let gap = if place.is_empty() { 0 } else { 2 };
        let fixed = width(mark) + gap;
        let excess = (width(&function) + fixed + width(place)).saturating_sub(room);
        let place_room = width(place)
            .saturating_sub(excess)
            .max(width(place).min(PLACE));
        let place = shorten_left(place, place_room);
        let function = shorten(&function, room.saturating_sub(fixed + width(&place)));
        let used = width(&function) + fixed + width(&place);
        let padding = column.saturating_sub(width(&function) + width(mark));
        let padding = if place.is_empty() {
            0
        } else {
            padding.min(room.saturating_sub(used))
        };
        let tail = format!("{mark}{}{place}", " ".repeat(gap + padding));
        format!(
            "{}{function}{}",
            " ".repeat(indent),
            self.screen.paint(DIM, &tail)
        )
    }
}

/// What is said behind a function's name.
fn mark(frame: &Frame) -> &'static str {
    match frame.unknown {
        Some(reason) => words::unknown_mark(reason),
        None if frame.inlined => " (inlined)",
        None => "",
    }
}

/// `file:line`, escaped.
fn place(file: Option<&str>, line: Option<u32>) -> Option<String> {
    let file = escape(file?);
    Some(line.map_or_else(
        || file.clone().into_owned(),
        |line| format!("{file}:{line}"),
    ))
}

/// Why the call site has no name, as its stacks tell.
fn reason_of(site: &CallSite) -> Option<Unknown> {
    let frames = site.stacks.first()?.frames.iter();
    frames
        .filter(|frame| frame.function == site.site.function)
        .find_map(|frame| frame.unknown)
}

/// `kernel`, or `kernel 61.2%, data 38.8%`.
fn mixed<K>(pages: &BTreeMap<K, u64>, name: impl Fn(&K) -> &'static str) -> String {
    let whole = pages.values().sum();
    let mut kinds: Vec<_> = pages.iter().collect();
    kinds.sort_by_key(|(_, pages)| std::cmp::Reverse(**pages));
    if let [(only, _)] = &kinds[..] {
        return name(only).to_owned();
    }
    let one = |(kind, pages): &(&K, &u64)| format!("{} {}", name(kind), percent(**pages, whole));
    kinds.iter().map(one).collect::<Vec<_>>().join(", ")
}
