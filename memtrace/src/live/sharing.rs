//! What processes share and what they have for themselves, as it was when they were last looked at.

use ratatui_core::buffer::Buffer;
use ratatui_core::layout::Rect;
use ratatui_core::style::Style;

use super::canvas::{PRIVATE, Pen, QUIET, SHARED};
use crate::foreign::escape;
use crate::profile::{Process, Profile};
use crate::report::text::screen::{shorten, width};
use crate::report::words::{count, size};

/// Columns of what a line is called, at least and at most.
const NAME: (usize, usize) = (20, 36);
/// Columns of how old a process is.
const AGE: usize = 6;
/// Columns of the figures.
const FIGURES: usize = 19;

/// A line.
#[derive(Clone, Debug, PartialEq)]
struct Line {
    name: String,
    /// `None` where it was forked before the trace, or they are several.
    age_s: Option<f64>,
    /// Bytes; of several processes of one on average.
    shared: u64,
    private: u64,
}

/// The lines, and what is said below them.
#[derive(Clone, Debug, PartialEq)]
pub struct Sharing {
    lines: Vec<Line>,
    remark: String,
}

impl Sharing {
    /// What can be told in so many lines, without the remark: a line for each process where they fit,
    /// else for each role. `None` where memory was not looked at.
    #[must_use]
    pub fn of(profile: &Profile, most: usize) -> Option<Self> {
        let alive: Vec<&Process> = (profile.processes.iter())
            .filter(|process| process.exited_at_s.is_none() && sizes(process).is_some())
            .collect();
        if alive.is_empty() || most == 0 {
            return None;
        }
        let mut lines: Vec<Line> = if alive.len() <= most {
            alive
                .iter()
                .filter_map(|process| line(profile, process))
                .collect()
        } else {
            by_role(profile, &alive)
        };
        let more = lines.len().saturating_sub(most);
        lines.truncate(most);
        let mut remarks = Vec::new();
        if more > 0 {
            remarks.push(format!("{} more", count(more as u64)));
        }
        remarks.extend(exited(profile));
        Some(Self {
            lines,
            remark: remarks.join(", "),
        })
    }

    /// Lines that this takes.
    #[must_use]
    pub fn height(&self) -> u16 {
        1 + self.lines.len() as u16 + u16::from(!self.remark.is_empty())
    }

    /// Draws them from a line of `area` on.
    pub fn draw(&self, area: Rect, from: u16, buffer: &mut Buffer) {
        let mut rule = Pen::new(buffer, area, from);
        rule.put(" ── shared ", QUIET);
        rule.fill("─", 28, QUIET);
        rule.put(" █ shared ░ private, MiB ──", QUIET);
        let whole = |line: &Line| line.shared.saturating_add(line.private);
        let widest = self.lines.iter().map(whole).max().unwrap_or(0).max(1);
        let name = usize::from(area.width / 4).clamp(NAME.0, NAME.1);
        for (line, at) in self.lines.iter().zip(from + 1..) {
            let mut pen = Pen::new(buffer, area, at);
            let room = pen.room().saturating_sub(name + AGE + FIGURES + 2);
            let columns =
                |bytes: u64| (bytes as f64 / widest as f64 * room as f64).round() as usize;
            let shared = columns(line.shared);
            let private = columns(whole(line)).saturating_sub(shared);
            let age = line.age_s.map_or(String::new(), age);
            pen.put(&format!(" {}", padded(&line.name, name - 1)), Style::new());
            pen.put(&format!("{age:>AGE$} "), QUIET);
            pen.put(&"█".repeat(shared), SHARED);
            pen.put(&"░".repeat(private), PRIVATE);
            let figures = format!("{:>7} / {:<7} ", mib(line.shared), mib(line.private));
            pen.put_right(&figures, Style::new());
        }
        if !self.remark.is_empty() {
            let at = from + 1 + self.lines.len() as u16;
            Pen::new(buffer, area, at).put(&format!("  … {}", self.remark), QUIET);
        }
    }
}

/// Bytes that it shares, and that it has for itself.
fn sizes(process: &Process) -> Option<(u64, u64)> {
    let end = &process.memory.as_ref()?.end;
    Some((end.shared?, end.private?))
}

fn line(profile: &Profile, process: &Process) -> Option<Line> {
    let (shared, private) = sizes(process)?;
    let forked = process.forked_at_s;
    Some(Line {
        name: format!("{:>7} {}", process.pid, what(profile, process)),
        age_s: forked.map(|at| (profile.duration_s - at).max(0.0)),
        shared,
        private,
    })
}

/// What it is there for, where that is known; else what it is called.
fn what<'a>(profile: &'a Profile, process: &'a Process) -> String {
    let role = process.role.as_deref();
    // The name says more of one that is alone.
    let role = role.filter(|_| profile.roles.len() > 1);
    escape(role.unwrap_or(&process.comm)).into_owned()
}

/// A line for each role, of what one of its processes has on average; by first appearance.
fn by_role(profile: &Profile, alive: &[&Process]) -> Vec<Line> {
    let mut roles: Vec<(String, Vec<&Process>)> = Vec::new();
    for process in alive {
        let name = what(profile, process);
        let at = roles.iter().position(|(role, _)| *role == name);
        let at = at.unwrap_or_else(|| {
            roles.push((name, Vec::new()));
            roles.len() - 1
        });
        roles[at].1.push(process);
    }
    let average = |sizes: &[(u64, u64)], which: fn(&(u64, u64)) -> u64| {
        let sum: u128 = sizes.iter().map(|sizes| u128::from(which(sizes))).sum();
        (sum / sizes.len().max(1) as u128) as u64
    };
    let several = |(name, processes): (String, Vec<&Process>)| {
        if let [alone] = processes[..] {
            return line(profile, alone);
        }
        let sizes: Vec<(u64, u64)> = processes.into_iter().filter_map(sizes).collect();
        Some(Line {
            name: format!("{:>6}× {name}", sizes.len()),
            age_s: None,
            shared: average(&sizes, |(shared, _)| *shared),
            private: average(&sizes, |(_, private)| *private),
        })
    };
    roles.into_iter().filter_map(several).collect()
}

/// `4 exited copied 98 MiB`.
fn exited(profile: &Profile) -> Option<String> {
    let exited = profile.processes.iter();
    let exited = exited.filter(|process| process.exited_at_s.is_some());
    let (processes, bytes) = exited.fold((0_u64, 0_u64), |(processes, bytes), process| {
        let bytes = bytes.saturating_add(process.copied_bytes);
        (processes.saturating_add(process.count()), bytes)
    });
    (processes > 0).then(|| format!("{} exited copied {}", count(processes), size(bytes)))
}

/// Three digits of mebibytes, or as many as there are.
fn mib(bytes: u64) -> String {
    match bytes as f64 / f64::from(1 << 20) {
        mib if mib < 99.95 => format!("{mib:.1}"),
        mib => format!("{mib:.0}"),
    }
}

fn age(seconds: f64) -> String {
    match seconds as u64 {
        seconds @ ..100 => format!("{seconds} s"),
        seconds @ ..6_000 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

fn padded(text: &str, columns: usize) -> String {
    let text = shorten(text, columns);
    let pad = columns.saturating_sub(width(&text));
    text + &" ".repeat(pad)
}
