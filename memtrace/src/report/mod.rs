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
//! read by people; [`samples`] and, in pictures, [`tree`] and [`palette`] what those share that have
//! stacks.

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::ValueEnum;

use crate::profile::Profile;

mod claims;
mod destination;
pub mod difference;
mod file;
pub mod firefox;
pub mod folded;
pub mod format;
mod frames;
mod group;
pub mod hlog;
pub mod html;
pub mod json;
pub mod json_gz;
mod merged;
mod palette;
pub mod pprof;
pub mod prom;
mod rescue;
mod samples;
pub mod speedscope;
pub mod svg;
pub mod text;
mod tree;
pub(crate) mod words;
mod xml;

pub use destination::Refusal;
use destination::{Destination, check_stdout};
pub use file::remove_unfinished;
pub use format::Format;
pub use group::By;
#[cfg(feature = "live")]
pub(crate) use group::{Group, regroup};
pub use samples::Frames;

/// Pages of copies that were only read, as far as that may be claimed.
#[cfg(feature = "live")]
pub(crate) fn only_read(profile: &Profile) -> u64 {
    claims::Claims::of(profile).pages(claims::Claim::Read)
}

/// Which reports are written, and how they look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Reports to write to files, besides the one on standard output; no path twice.
    pub files: Vec<FileReport>,
    /// The format of the report on standard output.
    pub stdout: Format,
    /// Whether the text report on standard output has colours.
    pub color: Color,
    /// How the text report looks.
    pub text: TextOptions,
    /// Which frames pictures show, and files for other tools have.
    pub frames: Frames,
}

#[cfg(test)]
impl Output {
    /// The text on standard output, and no files.
    pub(crate) fn plain() -> Self {
        Self {
            files: Vec::new(),
            stdout: Format::TEXT,
            color: Color::Auto,
            text: TextOptions {
                by: By::Site,
                top: 20,
            },
            frames: Frames::default(),
        }
    }
}

/// Whether there are colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// Where standard output is a terminal that has them, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// In any case, also in a pipe.
    Always,
    /// In no case.
    Never,
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

/// Writes one report of `profile` as a new file, or in place of one.
///
/// # Errors
///
/// When it cannot be written. Then what was at `path` is as before.
#[cfg(feature = "live")]
pub(crate) fn write_file(
    profile: &Profile,
    path: &Path,
    format: Format,
    output: &Output,
) -> anyhow::Result<()> {
    let report = format.report(output);
    file::write(path, file::Existing::Replaced, &mut |out| {
        report.write(profile, out)
    })
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
    /// Where the profile was saved instead, or why not even that could be done; `None` where it has
    /// been read from a file, which is still there.
    saved: Option<anyhow::Result<PathBuf>>,
}

impl fmt::Display for NotWritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, failure) in self.failures.iter().enumerate() {
            let line_break = if at > 0 { "\n" } else { "" };
            write!(f, "{line_break}{failure:#}")?;
        }
        match &self.saved {
            None => Ok(()),
            Some(Ok(path)) => write!(f, "\n  saved:  the whole profile, as {}", path.display()),
            Some(Err(why)) => write!(f, "\n  lost:   it could not be saved elsewhere: {why:#}"),
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
    let Err((failures, mut beside)) = write_all(profile, output, destinations) else {
        return Ok(());
    };
    let temporary = std::env::temp_dir();
    beside.extend([Path::new("."), &temporary]);
    let saved = Some(rescue::save(profile, &beside));
    Err(NotWritten { failures, saved })
}

/// [`render`], of a profile that was read from a file: nothing is lost when it cannot be written.
///
/// # Errors
///
/// When a report cannot be written. The others are still attempted.
pub fn render_again(
    profile: &Profile,
    output: &Output,
    destinations: &Destinations,
) -> Result<(), NotWritten> {
    let written = write_all(profile, output, destinations);
    written.map_err(|(failures, _)| NotWritten {
        failures,
        saved: None,
    })
}

/// Why reports could not be written, and the directories that files were meant for.
type Failures<'a> = (Vec<anyhow::Error>, Vec<&'a Path>);

fn write_all<'a>(
    profile: &Profile,
    output: &'a Output,
    destinations: &Destinations,
) -> Result<(), Failures<'a>> {
    let (mut failures, mut beside) = (Vec::new(), Vec::new());
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
    let report = (output.stdout.make)(output, text::Screen::of_stdout(output.color));
    failures.extend(to_stdout(&mut |out| report.write(profile, out)).err());
    if failures.is_empty() {
        Ok(())
    } else {
        Err((failures, beside))
    }
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
    use std::time::{Duration, Instant};

    use super::*;
    use crate::profile::sample::sample;
    use crate::profile::{Frame, StackPages};

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
            saved: Some(Ok("/tmp/memtrace-7.json.gz".into())),
        };
        insta::assert_snapshot!(error, @"
        cannot write the report to 'a.json': No space left on device (os error 28)
        cannot write the report to 'b.txt': No space left on device (os error 28)
          saved:  the whole profile, as /tmp/memtrace-7.json.gz
        ");
        error.failures.pop();
        error.saved = Some(Err(failure("/tmp")));
        insta::assert_snapshot!(error, @"
        cannot write the report to 'a.json': No space left on device (os error 28)
          lost:   it could not be saved elsewhere: cannot write the report to '/tmp': No space left on device (os error 28)
        ");
        error.saved = None;
        insta::assert_snapshot!(error, @"cannot write the report to 'a.json': No space left on device (os error 28)");
    }

    #[test]
    fn a_closed_pipe_is_no_error_and_a_full_disk_is_one() {
        let output = Output::plain();
        for format in Format::ALL {
            let report = format.report(&output);
            let write = |kind| unless_closed(report.write(&sample(), &mut Full(kind)));
            write(io::ErrorKind::BrokenPipe).unwrap();
            write(io::ErrorKind::StorageFull).unwrap_err();
        }
    }

    /// A profile of so many stacks, all of them different.
    fn of_many_stacks(stacks: u64) -> Profile {
        let mut profile = sample();
        let site = profile.call_sites[0].clone();
        let pages = |n: u64| 1 + n % 7;
        profile.call_sites = (0..stacks / 10)
            .map(|of| {
                let mut site = site.clone();
                site.stacks = (of * 10..of * 10 + 10)
                    .map(|n| {
                        let mut frames = site.stacks[0].frames.to_vec();
                        for (at, frame) in frames.iter_mut().enumerate() {
                            let mut other = Frame::clone(frame);
                            let differs = n >> at.min(60) & 1;
                            other.function = format!("{}_{differs}", frame.function).into();
                            *frame = other.into();
                        }
                        StackPages {
                            pages: pages(n),
                            frames: frames.into(),
                            ..site.stacks[0].clone()
                        }
                    })
                    .collect();
                site.pages = site.stacks.iter().map(|stack| stack.pages).sum();
                site.bytes = site.pages * 4096;
                site
            })
            .collect();
        profile
    }

    /// How long each format takes, slowest first, and whether it wrote anything.
    fn timed(profile: &Profile) -> Vec<(Duration, &'static str, usize)> {
        let output = Output {
            frames: Frames::Mixed,
            ..Output::plain()
        };
        let mut times: Vec<_> = (Format::ALL.iter())
            .map(|format| {
                let (mut bytes, start) = (Vec::new(), Instant::now());
                format.report(&output).write(profile, &mut bytes).unwrap();
                (start.elapsed(), format.name, bytes.len())
            })
            .collect();
        times.sort_unstable_by(|a, b| b.cmp(a));
        times
    }

    #[test]
    fn every_format_takes_many_stacks() {
        for (_, name, bytes) in timed(&of_many_stacks(1_000)) {
            assert!(bytes > 500, "{name}: {bytes}");
        }
    }

    /// `cargo test --release -p memtrace --lib ten_thousand -- --ignored --nocapture`
    #[test]
    #[ignore = "it measures, and only a release build says anything"]
    fn ten_thousand_stacks_are_written_in_two_seconds() {
        let times = timed(&of_many_stacks(10_000));
        for (time, name, bytes) in &times {
            println!("{name:>12} {time:>12.1?} {bytes:>10} bytes");
        }
        assert!(times[0].0 < Duration::from_secs(2), "{:?}", times[0]);
    }
}
