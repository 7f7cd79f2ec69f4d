//! The last tables: what the pages were, why they were written, what copied nothing, and what
//! could not be seen.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::copies::{cells, columns};
use super::heading;
use super::screen::{DIM, Screen, width};
use super::table::{Row, Table};
use super::words::{self, count, counted};
use crate::profile::{CauseName, OriginName, Profile};
use crate::report::escape::escape;
use crate::report::sums::{causes, origins};

/// Copied pages by origin and by cause.
pub(super) fn origins_and_causes(
    profile: &Profile,
    screen: Screen,
    out: &mut dyn Write,
) -> io::Result<()> {
    let sites = &profile.call_sites;
    let bytes = |of: &dyn Fn(CauseName, OriginName) -> bool| {
        sites
            .iter()
            .filter(|site| of(site.cause, site.origin))
            .map(|site| site.bytes)
            .sum()
    };
    let rows = origins(&profile.totals.by_origin).map(|(origin, pages)| {
        (
            pages,
            bytes(&|_, o| o == origin),
            words::origin(origin),
            words::origin_meaning(origin),
        )
    });
    table(
        profile,
        screen,
        out,
        "What the copied pages were",
        "ORIGIN",
        &rows,
    )?;
    let rows = causes(&profile.totals.by_cause).map(|(cause, pages)| {
        (
            pages,
            bytes(&|c, _| c == cause),
            words::cause(cause),
            words::cause_meaning(cause),
        )
    });
    table(
        profile,
        screen,
        out,
        "What was written to them",
        "CAUSE",
        &rows,
    )?;
    unknown_causes(profile, screen, out)
}

/// Why causes are not known: said once here, not at every call site.
fn unknown_causes(profile: &Profile, screen: Screen, out: &mut dyn Write) -> io::Result<()> {
    let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
    for site in &profile.call_sites {
        if let Some(reason) = &site.cause_reason {
            *reasons.entry(reason).or_default() += site.pages;
        }
    }
    for (reason, pages) in reasons {
        let pages = counted(pages, "page", "pages");
        let text = format!("unknown for {pages}: {}", escape(reason));
        for line in screen.wrap(2, &text) {
            writeln!(out, "{}", screen.paint(DIM, &line))?;
        }
    }
    Ok(())
}

fn table(
    profile: &Profile,
    screen: Screen,
    out: &mut dyn Write,
    title: &str,
    name: &'static str,
    rows: &[(u64, u64, &str, &str)],
) -> io::Result<()> {
    let mut rows: Vec<_> = rows.iter().filter(|(pages, ..)| *pages > 0).collect();
    if rows.is_empty() {
        return Ok(());
    }
    rows.sort_by_key(|(pages, ..)| std::cmp::Reverse(*pages));
    heading(screen, out, title, "")?;
    let widest = rows
        .iter()
        .map(|(.., name, _)| width(name))
        .max()
        .unwrap_or(0);
    let rows = rows
        .into_iter()
        .map(|(pages, bytes, name, meaning)| {
            let name = format!("{name:widest$}  {meaning}");
            Row {
                cells: cells(*pages, *bytes, profile.totals.copied_pages, &name),
                details: Vec::new(),
            }
        })
        .collect();
    let mut columns = columns(name);
    columns[4].style = anstyle::Style::new();
    Table { columns, rows }.write(screen, out)
}

/// Write faults for which the kernel copied nothing.
pub(super) fn not_copied(profile: &Profile, screen: Screen, out: &mut dyn Write) -> io::Result<()> {
    let faults = profile.totals.not_copied;
    heading(screen, out, "Write faults that copied nothing", "")?;
    let rows = [
        (
            "reuse",
            faults.reuse,
            "no longer shared, so the page was used as it is",
        ),
        (
            "zero",
            faults.zero,
            "the zero page was replaced by an empty page",
        ),
        (
            "first touch",
            faults.first_touch,
            "an absent page was filled for the first time",
        ),
        (
            "split",
            faults.split,
            "a huge page was split; small pages follow",
        ),
    ];
    let figures = rows.map(|(_, faults, _)| faults.map_or_else(|| "-".to_owned(), count));
    let widest = figures
        .iter()
        .map(|figure| width(figure))
        .max()
        .unwrap_or(0);
    for ((name, faults, meaning), figure) in rows.into_iter().zip(figures) {
        let meaning = match faults {
            Some(_) => meaning.to_owned(),
            None => format!("not visible to the {} backend", profile.host.backend),
        };
        let meaning = screen.paint(DIM, &meaning);
        writeln!(out, "  {name:<11}  {figure:>widest$}  {meaning}")?;
    }
    Ok(())
}

/// What the backend cannot see.
pub(super) fn blind_spots(
    profile: &Profile,
    screen: Screen,
    out: &mut dyn Write,
) -> io::Result<()> {
    let host = &profile.host;
    if host.blind_spots.is_empty() {
        return Ok(());
    }
    heading(
        screen,
        out,
        &format!("What the {} backend cannot see", host.backend),
        "",
    )?;
    for spot in &host.blind_spots {
        for (at, line) in screen.wrap(4, &escape(spot)).iter().enumerate() {
            let mark = if at == 0 { "  - " } else { "    " };
            writeln!(out, "{mark}{}", line.trim_start())?;
        }
    }
    Ok(())
}
