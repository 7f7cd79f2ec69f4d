//! Reports: one file per format, and how they reach files and standard output.
//!
//! [`render`] writes what was asked for. Before it, [`sums::check`] tells whether the profile adds
//! up. Everything foreign goes through [`escape`](crate::foreign::escape) on its way to a terminal.

use std::io::{self, Write};

use anyhow::Context as _;

use crate::options::{Format, Options, TextOptions};
use crate::profile::Profile;

pub mod file;
pub mod json;
#[cfg(test)]
pub(crate) mod sample;
pub mod sums;
pub mod text;

pub use file::check_writable;

/// A way to write a profile.
pub trait Report {
    /// Writes all of `profile` to `out`.
    ///
    /// # Errors
    ///
    /// When `out` does not take it; its [`io::Error`] is in the chain.
    fn write(&self, profile: &Profile, out: &mut dyn Write) -> anyhow::Result<()>;
}

/// Writes every report that `options` ask for: files first, each complete or not at all, then
/// standard output. A reader of standard output that has seen enough and closed it is no error.
///
/// # Errors
///
/// When a report cannot be written. The others are still attempted; the first error is returned.
pub fn render(profile: &Profile, options: &Options) -> anyhow::Result<()> {
    let mut result = Ok(());
    for wanted in &options.files {
        let report = report(wanted.format, options.text, text::Screen::of_a_file());
        let written = file::write(&wanted.path, &mut |out| report.write(profile, out));
        result = result.and(written);
    }
    let report = report(options.stdout, options.text, text::Screen::of_stdout());
    let written = to_stdout(profile, report.as_ref());
    result.and(written)
}

fn report(format: Format, options: TextOptions, screen: text::Screen) -> Box<dyn Report> {
    match format {
        Format::Text => Box::new(text::Text { options, screen }),
        Format::Json => Box::new(json::Json),
    }
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
    use super::sample::sample;
    use super::*;
    use crate::options::By;

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
        for format in [Format::Text, Format::Json] {
            let options = TextOptions {
                by: By::Site,
                top: 20,
            };
            let report = report(format, options, text::Screen::of_a_file());
            let write = |kind| unless_closed(report.write(&sample(), &mut Full(kind)));
            write(io::ErrorKind::BrokenPipe).unwrap();
            write(io::ErrorKind::StorageFull).unwrap_err();
        }
    }
}
