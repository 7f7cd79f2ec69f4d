//! Reports: one file per format, and how they reach files and standard output.
//!
//! [`render`] writes what was asked for, of a profile that adds up
//! ([`sums::check`](crate::profile::sums::check)). Everything foreign goes through
//! [`escape`](crate::foreign::escape) on its way to a terminal.
//!
//! [`format`] lists the formats. [`group`], [`frames`] and [`words`] are what those share that are
//! read by people.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Context as _;

use crate::profile::Profile;

pub mod file;
pub mod format;
mod frames;
mod group;
pub mod json;
pub mod json_gz;
pub mod text;
mod words;

pub use file::check_writable;
pub use format::Format;
pub use group::By;

/// Which reports are written, and how they look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Reports to write to files, besides the one on standard output; no path twice.
    pub files: Vec<FileReport>,
    /// The format of the report on standard output.
    pub stdout: Format,
    /// How the text report looks.
    pub text: TextOptions,
}

/// A report written to a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileReport {
    /// Where to.
    pub path: PathBuf,
    /// In which format.
    pub format: Format,
}

/// How the text report looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextOptions {
    /// What a row of its main table is.
    pub by: By,
    /// Rows in a table, at least one.
    pub top: usize,
}

/// A way to write a profile.
pub trait Report {
    /// Writes all of `profile` to `out`.
    ///
    /// # Errors
    ///
    /// When `out` does not take it; its [`io::Error`] is in the chain.
    fn write(&self, profile: &Profile, out: &mut dyn Write) -> anyhow::Result<()>;
}

/// Writes every report that `output` asks for: files first, each complete or not at all, then
/// standard output. A reader of standard output that has seen enough and closed it is not an error.
///
/// # Errors
///
/// When a report cannot be written. The others are still attempted; the first error is returned.
pub fn render(profile: &Profile, output: &Output) -> anyhow::Result<()> {
    let mut result = Ok(());
    for wanted in &output.files {
        let report = wanted.format.report(output);
        let written = file::write(&wanted.path, &mut |out| report.write(profile, out));
        result = result.and(written);
    }
    let report = (output.stdout.make)(output, text::Screen::of_stdout());
    let written = to_stdout(profile, report.as_ref());
    result.and(written)
}

fn to_stdout(profile: &Profile, report: &dyn Report) -> anyhow::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let written = report
        .write(profile, &mut out)
        .and_then(|()| Ok(out.flush()?));
    if written.is_err() {
        // What is still buffered would be tried again on drop.
        drop(out.into_parts());
    }
    unless_closed(written).context("cannot write the report to standard output")
}

/// Turns the error of a pipe whose reader has gone into success.
fn unless_closed(result: anyhow::Result<()>) -> anyhow::Result<()> {
    let closed = |error: &anyhow::Error| {
        error
            .chain()
            .filter_map(|cause| cause.downcast_ref::<io::Error>())
            .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
    };
    match result {
        Err(error) if closed(&error) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::sample::sample;

    struct Full(io::ErrorKind);

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_closed_pipe_is_no_error_and_a_full_disk_is_one() {
        let output = Output {
            files: Vec::new(),
            stdout: Format::TEXT,
            text: TextOptions {
                by: By::Site,
                top: 20,
            },
        };
        for format in Format::ALL {
            let report = format.report(&output);
            let write = |kind| unless_closed(report.write(&sample(), &mut Full(kind)));
            write(io::ErrorKind::BrokenPipe).unwrap();
            write(io::ErrorKind::StorageFull).unwrap_err();
        }
    }
}
