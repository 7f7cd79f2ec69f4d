//! The main table: where pages were copied.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use foldhash::HashMap;

use super::screen::{DIM, Screen, TITLE, shorten, shorten_left, width};
use super::stack::{self, Located, PLACE};
use super::table::{Cell, Kind, Row, Table, column};
use super::{heading, written};
use crate::distribution::Summary;
use crate::foreign::escape;
use crate::profile::{CallSite, CauseName, Frame, OriginName, Profile, Site, StackPages, Unknown};
use crate::report::frames::{Extent, place};
use crate::report::group::{Group, place_of_definition, reason_of, regroup};
use crate::report::words::{self, count, counted, duration, percent, ratio, size};
use crate::report::{By, TextOptions};

/// Where details begin.
const DETAIL: usize = 9;
/// What is shown of a call site's heaviest stack.
const OUTLINE: Extent = Extent {
    most: 8,
    outline: true,
};
/// All of it: more than a stack may have.
#[cfg(feature = "live")]
const WHOLE: Extent = Extent {
    most: 1 << 16,
    outline: false,
};
/// Frames shown where the row is the stack.
const MANY_FRAMES: usize = 40;
/// Call sites shown of a row that is none itself.
const PARTS: usize = 3;
/// Pids that are listed rather than counted.
pub(super) const FEW_PIDS: usize = 4;

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
        By::App => ("Frames of the application", "FRAME OF THE APPLICATION"),
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
    let (pages, bytes) = rest
        .iter()
        .fold((0, 0), |(p, b), group| (p + group.pages, b + group.bytes));
    write_rest(screen, out, rest.len(), bytes, pages, total)
}

/// What the rows that are not shown copied; nothing where all are.
pub(super) fn write_rest(
    screen: Screen,
    out: &mut dyn Write,
    rows: usize,
    bytes: u64,
    pages: u64,
    total: u64,
) -> io::Result<()> {
    if rows == 0 {
        return Ok(());
    }
    let text = format!(
        "  ... {} more: {}, {} ({})",
        count(rows as u64),
        size(bytes),
        counted(pages, "page", "pages"),
        percent(pages, total)
    );
    writeln!(out, "{}", screen.paint(DIM, &text))
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

/// All that is known of a row, and the whole of its heaviest stack.
#[cfg(feature = "live")]
pub(crate) fn whole(group: &Group<'_>, by: By, screen: Screen) -> Vec<String> {
    let mut details = Details {
        screen,
        lines: Vec::new(),
    };
    if by != By::Site {
        details.parts(&group.parts, group.pages);
    }
    if let (By::Site, Some((site, _))) = (by, group.parts.first()) {
        details.around(site);
        details.place(&site.site, true, reason_of(site));
    }
    details.facts(group, by);
    details.times(group);
    details.heaviest(group, WHOLE);
    details.lines
}

fn details(group: &Group<'_>, by: By, screen: Screen) -> Vec<String> {
    let mut details = Details {
        screen,
        lines: Vec::new(),
    };
    match (by, group.parts.first()) {
        (By::Site, Some((site, _))) => {
            details.around(site);
            details.place(&site.site, true, reason_of(site));
        }
        (By::App, Some((site, _))) => {
            let reason = reason_of(site).filter(|_| site.app.is_none());
            details.place(site.act_on(), true, reason);
        }
        (By::Function, Some((site, _))) => details.place(&site.site, false, reason_of(site)),
        _ => {}
    }
    details.facts(group, by);
    details.times(group);
    match (by, group.stack, &group.parts[..]) {
        (By::Site, ..) => details.heaviest(group, OUTLINE),
        (By::Stack, Some(stack), _) => {
            let extent = Extent {
                most: MANY_FRAMES,
                outline: false,
            };
            let lines = stack::stack(stack, DETAIL, extent, screen);
            details.lines.extend(lines);
        }
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

    /// What a person can act on, where the call site itself is not that: `` for `checkout`,
    /// app/views.py:91 `` beside a function of a library, `` in `lua_gc` `` beside one without a
    /// name.
    fn around(&mut self, site: &CallSite) {
        let frame = match (&site.app, &site.caller) {
            (Some(app), _) => ("for", app),
            (None, Some(caller)) => ("in", caller),
            (None, None) => return,
        };
        let (word, frame) = frame;
        let function = written::name(&frame.function, self.screen);
        let text = format!("{word} `{function}`");
        let place = place(frame.file.as_deref(), frame.line);
        let text = place.map_or(text.clone(), |place| {
            let room = self.screen.room(DETAIL + 2 + width(&text));
            format!("{text}, {}", shorten_left(&place, room.max(PLACE)))
        });
        self.lines.push(" ".repeat(DETAIL) + &text);
    }

    /// Where the site is: file and line, and the module.
    fn place(&mut self, site: &Site, with_line: bool, reason: Option<Unknown>) {
        let file = if with_line {
            place(site.file.as_deref(), site.line)
        } else {
            None
        };
        let module = if with_line {
            site.module.as_deref()
        } else {
            place_of_definition(site)
        };
        let module = module.map(|module| escape(module).into_owned());
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
                &mark
            };
        }
        if !text.is_empty() {
            let line = " ".repeat(DETAIL) + &shorten(&text, room);
            self.lines.push(self.screen.paint(DIM, &line));
        }
    }

    /// Causes, object types, origins, processes.
    fn facts(&mut self, group: &Group<'_>, by: By) {
        let mut facts = Vec::new();
        if by == By::Site {
            facts.extend(written::facts(group, self.screen));
        } else if by != By::Cause {
            facts.push(format!(
                "cause {}",
                mixed(&group.causes, |cause| CauseName::name(*cause))
            ));
        }
        facts.push(format!(
            "origin {}",
            mixed(&group.origins, |origin| OriginName::name(*origin))
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

    /// The stack that copied most of the row, over all types of objects.
    fn heaviest(&mut self, group: &Group<'_>, extent: Extent) {
        let mut stacks: HashMap<&[Arc<Frame>], (u64, &StackPages)> = HashMap::default();
        for stack in group.parts.iter().flat_map(|(site, _)| &site.stacks) {
            let (pages, _) = stacks.entry(&stack.frames).or_insert((0, stack));
            *pages += stack.pages;
        }
        // Of equals the same in every run, which the order of a map is not.
        let heaviest = stacks.values().max_by_key(|(pages, stack)| {
            let addresses = stack.frames.iter().map(|frame| frame.address);
            (*pages, addresses.collect::<Vec<_>>())
        });
        let Some((pages, stack)) = heaviest else {
            return;
        };
        // A stack of nothing but the unnamed site would only say it again.
        if let ([frame], [(site, _), ..]) = (&stack.frames[..], &group.parts[..])
            && frame.function == site.site.function
        {
            return;
        }
        let title = match stacks.len() as u64 {
            1 => "stack:".to_owned(),
            all => format!(
                "heaviest of {} stacks, {}:",
                count(all),
                percent(*pages, group.pages)
            ),
        };
        self.quiet(&title);
        self.lines
            .extend(stack::stack(stack, DETAIL + 2, extent, self.screen));
    }

    /// The call sites that a row is made of, the largest first.
    fn parts(&mut self, parts: &[(&CallSite, u64)], whole: u64) {
        let mut sites: BTreeMap<&Site, u64> = BTreeMap::new();
        for (site, pages) in parts {
            *sites.entry(&site.site).or_default() += pages;
        }
        let mut parts: Vec<_> = sites.into_iter().collect();
        parts.sort_by_key(|(_, pages)| std::cmp::Reverse(*pages));
        let shown = if parts.len() <= PARTS + 1 {
            parts.len()
        } else {
            PARTS
        };
        for (site, pages) in &parts[..shown] {
            let lead = format!("{}{:>6}  ", " ".repeat(DETAIL), percent(*pages, whole));
            let site = Located {
                function: &site.function,
                mark: "",
                place: &place(site.file.as_deref(), site.line).unwrap_or_default(),
                quiet: false,
            };
            self.lines.push(site.write(&lead, 0, self.screen));
        }
        if parts.len() > shown {
            let rest: u64 = parts[shown..].iter().map(|(_, pages)| pages).sum();
            let more = (parts.len() - shown) as u64;
            let line = format!(
                "{}{:>6}  in {}",
                " ".repeat(DETAIL),
                percent(rest, whole),
                counted(more, "call site more", "call sites more")
            );
            self.lines.push(self.screen.paint(DIM, &line));
        }
    }
}

/// `kernel`, or `kernel 61.2%, data 38.8%`.
pub(super) fn mixed<K>(pages: &BTreeMap<K, u64>, name: impl Fn(&K) -> &'static str) -> String {
    let whole = pages.values().sum();
    let mut kinds: Vec<_> = pages.iter().collect();
    kinds.sort_by_key(|(_, pages)| std::cmp::Reverse(**pages));
    if let [(only, _)] = &kinds[..] {
        return name(only).to_owned();
    }
    let one = |(kind, pages): &(&K, &u64)| format!("{} {}", name(kind), percent(**pages, whole));
    kinds.iter().map(one).collect::<Vec<_>>().join(", ")
}
