//! Reports: one file per format, and how they reach files and standard output.
//!
//! [`Destinations`] are opened before a trace. [`render`] writes what was asked for, of a profile
//! that adds up ([`sums::check`](crate::profile::sums::check)); what cannot be written is saved
//! beside ([`rescue`]). Everything foreign goes through [`escape`](crate::foreign::escape) on its
//! way to a terminal.
//!
//! [`difference`] writes two profiles compared, in formats of its own.
//!
//! [`format`] lists the formats. [`group`], [`frames`] and [`words`] are what those share that are
//! read by people.

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::profile::Profile;

mod claims;
mod destination;
pub mod difference;
mod file;
pub mod format;
mod frames;
mod group;
pub mod html;
pub mod json;
pub mod json_gz;
mod rescue;
pub mod text;
mod words;

pub use destination::Refusal;
use destination::{Destination, check_stdout};
pub use file::remove_unfinished;
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

/// Where the reports of an [`Output`] go, open.
#[derive(Debug, Default)]
pub struct Destinations {
    /// One for each of [`Output::files`].
    files: Vec<Destination>,
}

impl Destinations {
    /// Finds out whether every report that `output` asks for can be written, before a trace is run
    /// in vain. Leaves nothing behind. `owns_all` says whether this user may do with any file what
    /// its owner may.
    ///
    /// # Errors
    ///
    /// Where one cannot be written, and why; without a path that is standard output.
    pub fn open(output: &Output, owns_all: bool) -> Result<Self, Vec<(Option<PathBuf>, Refusal)>> {
        Self::of(output.files.iter().map(|file| &*file.path), owns_all)
    }

    /// [`Destinations::open`], of these files and standard output.
    fn of<'a>(
        paths: impl Iterator<Item = &'a Path>,
        owns_all: bool,
    ) -> Result<Self, Vec<(Option<PathBuf>, Refusal)>> {
        let (mut files, mut refused) = (Vec::new(), Vec::new());
        for path in paths {
            match Destination::open(path, owns_all) {
                Ok(destination) => files.push(destination),
                Err(why) => refused.push((Some(path.to_owned()), why)),
            }
        }
        if let Err(why) = check_stdout() {
            refused.push((None, why));
        }
        if refused.is_empty() {
            Ok(Self { files })
        } else {
            Err(refused)
        }
    }
}

/// Reports that could not be written.
#[derive(Debug)]
pub struct NotWritten {
    /// Which, and why; at least one.
    failures: Vec<anyhow::Error>,
    /// Where the profile was saved instead, or why not even that could be done.
    saved: anyhow::Result<PathBuf>,
}

impl fmt::Display for NotWritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for failure in &self.failures {
            writeln!(f, "{failure:#}")?;
        }
        match &self.saved {
            Ok(path) => write!(f, "  saved:  the whole profile, as {}", path.display()),
            Err(why) => write!(f, "  lost:   it could not be saved elsewhere: {why:#}"),
        }
    }
}

impl std::error::Error for NotWritten {}

/// Writes every report that `output` asks for: files first, each complete or not at all, then
/// standard output. A reader of standard output that has seen enough and closed it is not an error.
///
/// # Errors
///
/// When a report cannot be written. The others are still attempted, and the profile is saved as
/// `memtrace-PID.json.gz`: beside the file, else in the current directory, else in that for
/// temporary files.
pub fn render(
    profile: &Profile,
    output: &Output,
    destinations: &Destinations,
) -> Result<(), NotWritten> {
    let (mut failures, temporary) = (Vec::new(), std::env::temp_dir());
    let mut beside = Vec::new();
    for (wanted, destination) in output.files.iter().zip(&destinations.files) {
        let report = wanted.format.report(output);
        let written = destination.write(&mut |out| report.write(profile, out));
        let path = &wanted.path;
        let failed = || format!("cannot write the report to '{}'", path.display());
        if let Err(error) = written.with_context(failed) {
            failures.push(error);
            beside.push(file::directory_of(path));
        }
    }
    let report = (output.stdout.make)(output, text::Screen::of_stdout());
    failures.extend(to_stdout(&mut |out| report.write(profile, out)).err());
    if failures.is_empty() {
        return Ok(());
    }
    beside.extend([Path::new("."), &temporary]);
    let saved = rescue::save(profile, &beside);
    Err(NotWritten { failures, saved })
}

fn to_stdout(fill: file::Fill<'_>) -> anyhow::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let written = fill(&mut out).and_then(|()| Ok(out.flush()?));
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
    fn what_was_not_written_is_said_with_where_it_is_instead() {
        let failure = |path: &str| {
            let full: anyhow::Error = io::Error::from_raw_os_error(libc::ENOSPC).into();
            full.context(format!("cannot write the report to '{path}'"))
        };
        let mut error = NotWritten {
            failures: vec![failure("a.json"), failure("b.txt")],
            saved: Ok("/tmp/memtrace-7.json.gz".into()),
        };
        insta::assert_snapshot!(error, @"
        cannot write the report to 'a.json': No space left on device (os error 28)
        cannot write the report to 'b.txt': No space left on device (os error 28)
          saved:  the whole profile, as /tmp/memtrace-7.json.gz
        ");
        error.failures.pop();
        error.saved = Err(failure("/tmp"));
        insta::assert_snapshot!(error, @"
        cannot write the report to 'a.json': No space left on device (os error 28)
          lost:   it could not be saved elsewhere: cannot write the report to '/tmp': No space left on device (os error 28)
        ");
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
