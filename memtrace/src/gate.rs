//! Limits that a run must keep, for CI: `--fail-over` of a trace, and of a comparison.
//!
//! What is measured is [`Measured`]; a limit comes as text ([`Limit`], [`Growth`]) and is held against
//! a profile, or a comparison. Whoever breaks it is named.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use bytesize::ByteSize;

use crate::diff::workers::Workers;
use crate::diff::{Difference, Kind, LEVEL, Reason, Row, Unit, What};
use crate::foreign::escape;
use crate::profile::{CallSite, Process, Profile, Site};

/// How many of those are named that broke a limit.
const NAMED: usize = 5;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measured {
    /// All that was copied.
    Copied,
    /// What of it was only read.
    CopyOnRead,
}

impl Measured {
    fn includes(self, site: &CallSite) -> bool {
        self == Self::Copied || site.is_copy_on_read()
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Copied => "copied",
            Self::CopyOnRead => "copied though only read",
        })
    }
}

/// The most that a trace may copy: `SIZE[/worker][:copy-on-read]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// In bytes.
    pub most: u64,
    /// Whether it is for each worker, rather than for all processes together.
    pub per_worker: bool,
    /// What counts.
    pub measured: Measured,
}

/// By how much more a trace may copy than another: `+SIZE[:copy-on-read]` or `+PERCENT%[...]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Growth {
    /// The most that it may be more.
    pub most: More,
    /// What counts.
    pub measured: Measured,
}

/// How much more.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum More {
    /// A part of what it was: 0.1 for 10 %.
    Part(f64),
    /// Bytes, in the unit of the comparison: by worker where it is one of workers.
    Bytes(u64),
}

/// What comes of holding a limit against figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was kept. What is worth knowing nevertheless is said.
    Kept(Option<String>),
    /// It was broken: by how much, and by whom.
    Broken(String),
    /// There is nothing that it could be held against.
    Unknown(String),
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with('+') {
            return Err(
                "a trace has nothing that it could be more than; give a limit without +, or compare \
                 two reports: memtrace diff --fail-over"
                    .to_owned(),
            );
        }
        let (rest, measured) = measured(text)?;
        let (size, per_worker) = match rest.split_once('/') {
            None => (rest, false),
            Some((size, "worker")) => (size, true),
            Some((_, other)) => {
                return Err(format!(
                    "'/{}' is not known; a limit is for all processes, as 100MiB, or for each \
                     worker, as 10MiB/worker",
                    other.escape_debug()
                ));
            }
        };
        Ok(Self {
            most: bytes(size)?,
            per_worker,
            measured,
        })
    }
}

impl FromStr for Growth {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (rest, measured) = measured(text)?;
        let Some(more) = rest.strip_prefix('+') else {
            return Err(format!(
                "a comparison is held against how much more was copied, so it begins with +, as +{}",
                rest.trim().trim_start_matches('-').escape_debug()
            ));
        };
        let most = match more.strip_suffix('%') {
            None if more.contains('/') => {
                return Err(
                    "a comparison is by worker in any case, where both reports have workers; leave \
                     /worker out"
                        .to_owned(),
                );
            }
            None => More::Bytes(bytes(more)?),
            Some(percent) => match percent.trim().parse::<f64>() {
                Ok(percent) if percent.is_finite() && percent >= 0.0 => More::Part(percent / 100.0),
                _ => return Err("it is not a percentage such as +10%".to_owned()),
            },
        };
        Ok(Self { most, measured })
    }
}

/// What is before a colon, and what counts by what is behind it.
fn measured(text: &str) -> Result<(&str, Measured), String> {
    match text.split_once(':') {
        None => Ok((text, Measured::Copied)),
        Some((rest, "copy-on-read")) => Ok((rest, Measured::CopyOnRead)),
        Some((_, other)) => Err(format!(
            "':{}' is not known; to count only what was copied though it was only read, write \
             :copy-on-read",
            other.escape_debug()
        )),
    }
}

fn bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    if text.parse::<f64>().is_ok_and(|number| number > 0.0) {
        return Err(format!("it has no unit; for megabytes write {text}MiB"));
    }
    match text.parse::<ByteSize>() {
        Ok(size) => Ok(size.as_u64()),
        Err(_) => Err("it is not a size such as 512KiB, 10MiB or 1.5GB".to_owned()),
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per = if self.per_worker { " per worker" } else { "" };
        write!(f, "{}{per}", size(self.most))
    }
}

impl Limit {
    /// Holds it against a trace.
    #[must_use]
    pub fn check(&self, profile: &Profile) -> Verdict {
        if self.per_worker {
            self.check_workers(profile)
        } else {
            self.check_all(profile)
        }
    }

    fn check_all(&self, profile: &Profile) -> Verdict {
        let counted = profile.call_sites.iter();
        let counted = counted.filter(|site| self.measured.includes(site));
        let copied = counted
            .clone()
            .fold(0, |sum: u64, site| sum.saturating_add(site.bytes));
        if copied <= self.most {
            return Verdict::Kept(None);
        }
        let mut sites: BTreeMap<&Site, u64> = BTreeMap::new();
        for site in counted {
            let sum = sites.entry(&site.site).or_default();
            *sum = sum.saturating_add(site.bytes);
        }
        let named = sites.into_iter().map(|(site, bytes)| (named(site), bytes));
        Verdict::Broken(self.broken(&format!("{} was {}", size(copied), self.measured), named))
    }

    fn check_workers(&self, profile: &Profile) -> Verdict {
        let workers = Workers::of(profile);
        if workers.count() == 0 {
            return Verdict::Unknown(format!(
                "the limit of {self} could not be checked, since no worker was seen: no process that \
                 a traced one had forked and that goes on with its program; trace the process that \
                 forks them, or give the limit without /worker"
            ));
        }
        let copied = |process: &Process| match self.measured {
            Measured::Copied => process.copied_bytes,
            Measured::CopyOnRead => read_by(process, profile),
        };
        let processes = profile.processes.iter();
        let over: Vec<(String, u64)> = processes
            .filter(|process| workers.pids.contains(&process.pid))
            .map(|process| {
                let name = format!("{} {}", process.pid, escape(&process.called()));
                (name, copied(process))
            })
            .filter(|&(_, bytes)| bytes > self.most)
            .collect();
        if over.is_empty() {
            return Verdict::Kept(None);
        }
        let most = over.iter().map(|&(_, bytes)| bytes).max();
        let figure = format!(
            "{} of {} workers are, with up to {} {}",
            over.len(),
            workers.count(),
            size(most.unwrap_or(0)),
            self.measured
        );
        Verdict::Broken(self.broken(&figure, over.into_iter()))
    }

    fn broken(&self, figure: &str, by: impl Iterator<Item = (String, u64)>) -> String {
        format!("over the limit of {self}: {figure}{}", listed(by))
    }
}

/// What a process copied and only read. All pages of a process are taken to be of one size.
fn read_by(process: &Process, profile: &Profile) -> u64 {
    let bytes = profile
        .call_sites
        .iter()
        .filter(|site| site.is_copy_on_read());
    let bytes = bytes.filter_map(|site| {
        let pages = *site.processes.get(&process.pid)?;
        Some(u128::from(site.bytes) * u128::from(pages) / u128::from(site.pages.max(1)))
    });
    let sum = bytes.fold(0, u128::saturating_add);
    u64::try_from(sum).unwrap_or(u64::MAX)
}

impl fmt::Display for More {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Part(part) => write!(f, "{}% more", part * 100.0),
            Self::Bytes(bytes) => write!(f, "{} more", size(*bytes)),
        }
    }
}

impl Growth {
    /// Holds it against a comparison: of its main figure, where that grew by more than chance.
    #[must_use]
    pub fn check(&self, difference: &Difference) -> Verdict {
        let row = match self.measured {
            Measured::Copied => &difference.total,
            Measured::CopyOnRead => &difference.copy_on_read,
        };
        let is_over = match self.most {
            More::Part(part) => row.new.figure > row.base.figure * (1.0 + part),
            More::Bytes(bytes) => row.change() > bytes as f64,
        };
        if !is_over {
            return Verdict::Kept(None);
        }
        let unit = unit(row.judged.unit);
        let figures = format!(
            "{}{unit} {}, after {}",
            size(row.new.figure as u64),
            self.measured,
            size(row.base.figure as u64)
        );
        let figures = match row.relative() {
            Some(part) => format!("{figures} ({:+.1}%)", part * 100.0),
            None => figures,
        };
        if !is_beyond_chance(row) {
            let why = why_not(row.judged.by);
            return Verdict::Kept(Some(format!(
                "over the limit of {}, but {why}: {figures}",
                self.most
            )));
        }
        let grown = difference.call_sites.iter().filter(|row| {
            let counts = match (&row.what, self.measured) {
                (What::CallSite { cause, .. }, Measured::CopyOnRead) => cause.is_copy_on_read(),
                _ => true,
            };
            counts && matches!(row.kind, Kind::Appeared | Kind::Grew)
        });
        let grown = grown.filter_map(|row| match &row.what {
            What::CallSite { site, .. } => Some((named(site), row.change() as u64)),
            _ => None,
        });
        let by = listed(grown);
        Verdict::Broken(format!("over the limit of {}: {figures}{by}", self.most))
    }
}

/// Whether the figure of a row that is looked at by itself grew by more than chance: then it does not
/// matter what else is compared.
fn is_beyond_chance(row: &Row) -> bool {
    let alone = row.judged.by == Reason::WithinSpread && row.judged.p.is_some_and(|p| p <= LEVEL);
    row.is_significant() || alone
}

/// Why a difference is not significant, as a part of a sentence.
fn why_not(by: Reason) -> &'static str {
    match by {
        Reason::Length => "the traces are of different length, which may be why",
        Reason::Small => "too little to matter",
        Reason::NoSpread => "without several workers on both sides so little may be chance",
        Reason::FewWorkers => "with two workers on a side so little may be chance",
        _ => "within what equal runs differ by",
    }
}

/// ` per worker`, and nothing for a whole trace.
fn unit(unit: Unit) -> &'static str {
    match unit {
        Unit::Worker => " per worker",
        Unit::Process => " per process",
        Unit::Second => " per second",
        Unit::Trace => "",
    }
}

/// Those who copied most, a line each.
fn listed(by: impl Iterator<Item = (String, u64)>) -> String {
    let mut all: Vec<_> = by.collect();
    all.sort_by_key(|&(_, bytes)| std::cmp::Reverse(bytes));
    let named = all.iter().take(NAMED);
    let mut lines: Vec<String> = named
        .map(|(name, bytes)| format!("\n  {:>10}  {name}", size(*bytes)))
        .collect();
    if all.len() > NAMED {
        lines.push(format!("\n  ... and {} more", all.len() - NAMED));
    }
    lines.concat()
}

/// `Catalog.render, app/catalog.py:212`, escaped.
fn named(site: &Site) -> String {
    let function = escape(&site.function);
    let path = site.file.as_deref().or(site.module.as_deref());
    match (path, site.line) {
        (Some(path), Some(line)) => format!("{function}, {}:{line}", escape(path)),
        (Some(path), None) => format!("{function}, {}", escape(path)),
        (None, _) => function.into_owned(),
    }
}

fn size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

#[cfg(test)]
mod tests;
