//! The report for people.
//!
//! From top to bottom: what was lost, a summary in sentences, what would help, why pages were written
//! and of which objects, a row per process, what the processes are there for and how their memory
//! changed, the main table (by call site unless asked otherwise) with the
//! heaviest stack below each row, what the pages were, faults that copied nothing, and what could
//! not be seen.

use std::io::Write;

use super::{By, Format, Report, TextOptions};
use crate::profile::Profile;

mod advice;
pub(super) mod compared;
pub(crate) mod copies;
pub(super) mod difference;
pub(crate) mod memory;
mod processes;
mod restarts;
pub(crate) mod screen;
mod stack;
pub(super) mod summary;
mod table;
mod totals;
mod verdict;
mod written;

pub use screen::Screen;

pub(super) const FORMAT: Format = Format {
    name: "text",
    extension: "txt",
    audience: "For people",
    remark: "",
    is_binary: false,
    make: |output, screen| {
        let options = output.text;
        Box::new(Text { options, screen })
    },
};

/// Writes the profile as text.
#[derive(Clone, Copy, Debug)]
pub struct Text {
    /// What its main table shows, and how many rows.
    pub options: TextOptions,
    /// What it is shown on.
    pub screen: Screen,
}

impl Report for Text {
    fn write(&self, profile: &Profile, out: &mut dyn Write) -> anyhow::Result<()> {
        let Self { options, screen } = *self;
        summary::losses(profile, screen, out)?;
        summary::summary(profile, screen, out)?;
        advice::advice(profile, screen, out)?;
        totals::by_cause(profile, screen, out)?;
        // The main table shows the same and more.
        if options.by != By::Type {
            totals::by_type(profile, options.top, screen, out)?;
        }
        processes::processes(profile, options.top, screen, out)?;
        memory::roles(profile, screen, out)?;
        copies::copies(profile, options, screen, out)?;
        totals::by_origin(profile, screen, out)?;
        totals::not_copied(profile, screen, out)?;
        totals::blind_spots(profile, screen, out)?;
        Ok(())
    }
}

/// A heading with a remark, after an empty line.
fn heading(screen: Screen, out: &mut dyn Write, title: &str, remark: &str) -> std::io::Result<()> {
    let remark = if remark.is_empty() {
        String::new()
    } else {
        format!("  {remark}")
    };
    let title = screen.paint(screen::TITLE, title);
    writeln!(out, "\n{title}{}", screen.paint(screen::DIM, &remark))
}

#[cfg(test)]
mod tests;
