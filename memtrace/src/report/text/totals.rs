//! Tables of sums: why pages were written and of which objects, what they were, what copied
//! nothing, and what could not be seen.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::copies::{cells, columns, write_rest};
use super::heading;
use super::screen::{DIM, Screen, width};
use super::table::{Kind, Row, Table, column};
use crate::foreign::escape;
use crate::profile::{CallSite, CauseEvidence, Profile, TypeRow};
use crate::report::claims::{Claim, Claims};
use crate::report::words::{self, count, counted, percent, size};

/// Copied pages by cause.
pub(super) fn by_cause(profile: &Profile, screen: Screen, out: &mut dyn Write) -> io::Result<()> {
    let bytes = |cause| bytes(profile, |site| site.cause == cause);
    let rows = profile.totals.by_cause.iter().map(|(cause, pages)| {
        let (name, meaning) = (cause.name(), words::cause_meaning(cause));
        (pages, bytes(cause), name, meaning)
    });
    let title = "What was written to the copied pages";
    table(profile, screen, out, title, "CAUSE", rows)?;
    copy_on_read(profile, screen, out)?;
    by_instruction(profile, screen, out)?;
    unknown_causes(profile, screen, out)
}

/// Copied pages by origin.
pub(super) fn by_origin(profile: &Profile, screen: Screen, out: &mut dyn Write) -> io::Result<()> {
    let bytes = |origin| bytes(profile, |site| site.origin == origin);
    let rows = profile.totals.by_origin.iter().map(|(origin, pages)| {
        let (name, meaning) = (origin.name(), words::origin_meaning(origin));
        (pages, bytes(origin), name, meaning)
    });
    let title = "What the copied pages were";
    table(profile, screen, out, title, "ORIGIN", rows)
}

fn bytes(profile: &Profile, of: impl Fn(&CallSite) -> bool) -> u64 {
    let sites = profile.call_sites.iter().filter(|site| of(site));
    sites.map(|site| site.bytes).sum()
}

/// The `top` pairs of object type and cause that copied most.
pub(super) fn by_type(
    profile: &Profile,
    top: usize,
    screen: Screen,
    out: &mut dyn Write,
) -> io::Result<()> {
    let types = &profile.types;
    if types.is_empty() {
        return Ok(());
    }
    let total = profile.totals.copied_pages;
    let (shown, rest) = types.split_at(types.len().min(top));
    let remark = match rest.len() {
        0 => String::new(),
        _ => format!(
            "{} of {}",
            count(shown.len() as u64),
            count(types.len() as u64)
        ),
    };
    heading(screen, out, "Which objects were written to", &remark)?;
    let mut columns = columns("OBJECT TYPE");
    columns.insert(4, column("CAUSE", Kind::Name));
    let rows = shown
        .iter()
        .map(|row| {
            let mut cells = cells(row.pages, row.bytes, total, &row.object_type);
            cells.insert(4, row.cause.name().into());
            Row {
                cells,
                details: Vec::new(),
            }
        })
        .collect();
    Table { columns, rows }.write(screen, out)?;
    let sum = |of: fn(&TypeRow) -> u64| rest.iter().map(of).sum();
    write_rest(
        screen,
        out,
        rest.len(),
        sum(|row| row.bytes),
        sum(|row| row.pages),
        total,
    )
}

/// Names the sum of what was only read, of several causes.
fn copy_on_read(profile: &Profile, screen: Screen, out: &mut dyn Write) -> io::Result<()> {
    let claims = Claims::of(profile);
    let (pages, sites) = (claims.pages(Claim::Read), claims.sites(Claim::Read));
    if pages == 0 {
        return Ok(());
    }
    let bytes = sites
        .iter()
        .fold(0u64, |sum, site| sum.saturating_add(site.bytes));
    let text = format!(
        "{} ({}) is copy-on-read, of refcount and gc: the program only read when the page was \
         copied; what it wrote there later is not seen",
        size(bytes),
        percent(pages, profile.totals.copied_pages)
    );
    quiet(screen, out, &text)
}

/// How much only the instruction tells of causes that are copy-on-read.
fn by_instruction(profile: &Profile, screen: Screen, out: &mut dyn Write) -> io::Result<()> {
    let by_cause = profile.totals.by_cause.iter();
    for (cause, pages) in by_cause.filter(|(cause, _)| cause.is_copy_on_read()) {
        let sites = profile.call_sites.iter().filter(|site| site.cause == cause);
        let judged = sites.filter(|site| site.evidence == Some(CauseEvidence::Instruction));
        let judged: u64 = judged.map(|site| site.pages).sum();
        if judged > 0 {
            let all = if judged == pages && judged > 1 {
                "all "
            } else {
                ""
            };
            let text = format!(
                "{} by instruction for {all}{}: told only by how the instruction writes; a counter \
                 of the program's own would look the same",
                cause.name(),
                counted(judged, "page", "pages"),
            );
            quiet(screen, out, &text)?;
        }
    }
    Ok(())
}

fn quiet(screen: Screen, out: &mut dyn Write, text: &str) -> io::Result<()> {
    for line in screen.wrap(2, text) {
        writeln!(out, "{}", screen.paint(DIM, &line))?;
    }
    Ok(())
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
        quiet(screen, out, &text)?;
    }
    Ok(())
}

fn table(
    profile: &Profile,
    screen: Screen,
    out: &mut dyn Write,
    title: &str,
    name: &'static str,
    rows: impl Iterator<Item = (u64, u64, &'static str, &'static str)>,
) -> io::Result<()> {
    let mut rows: Vec<_> = rows.filter(|(pages, ..)| *pages > 0).collect();
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
                cells: cells(pages, bytes, profile.totals.copied_pages, &name),
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
    let mut rows = vec![
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
    // Reports of earlier versions do not say, whatever the backend.
    if faults.settled_elsewhere.is_some() {
        let meaning = "another thread or the kernel had settled it";
        rows.push(("elsewhere", faults.settled_elsewhere, meaning));
    }
    let figure = |faults: Option<u64>| faults.map_or_else(|| "-".to_owned(), count);
    let figures: Vec<_> = rows.iter().map(|&(_, faults, _)| figure(faults)).collect();
    let widest = figures.iter().map(|figure| width(figure)).max();
    let widest = widest.unwrap_or(0);
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
