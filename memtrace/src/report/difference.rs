//! Two profiles compared, as text or JSON: the formats, and how they reach files and standard
//! output.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use super::text::{self, Screen};
use super::{Color, Destinations, Refusal, json, to_stdout};
use crate::diff::Difference;

/// How a comparison is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DiffFormat {
    /// For people
    Text,
    /// For programs: schema memtrace-diff/1
    Json,
}

/// Where a comparison is written to, and how it looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiffOutput {
    /// Files, besides standard output; no path twice.
    pub files: Vec<(PathBuf, DiffFormat)>,
    /// The format on standard output.
    pub stdout: DiffFormat,
    /// Whether the text on standard output has colours.
    pub color: Color,
    /// Rows in each table of the text, at least one.
    pub top: usize,
}

impl DiffFormat {
    /// The format that a file's name asks for.
    ///
    /// # Errors
    ///
    /// What is wrong with the name.
    pub fn of_file(path: &Path) -> Result<Self, String> {
        let extension = path
            .extension()
            .map(|end| end.to_string_lossy().to_lowercase());
        match extension.as_deref() {
            Some("txt") => Ok(Self::Text),
            Some("json") => Ok(Self::Json),
            _ => Err(format!(
                "cannot write a comparison to '{}': its name says the format, and ends with .txt or \
                 .json (schema {})",
                path.display(),
                crate::diff::SCHEMA
            )),
        }
    }

    fn write(
        self,
        difference: &Difference,
        top: usize,
        screen: Screen,
        out: &mut dyn Write,
    ) -> Result<()> {
        match self {
            Self::Text => Ok(text::difference::write(difference, top, screen, out)?),
            Self::Json => json::write(difference, out),
        }
    }
}

impl DiffOutput {
    /// Finds out whether all of it can be written. `owns_all` says whether this user may do with any
    /// file what its owner may.
    ///
    /// # Errors
    ///
    /// Where it cannot, and why; without a path that is standard output.
    pub fn open(&self, owns_all: bool) -> Result<Destinations, Vec<(Option<PathBuf>, Refusal)>> {
        Destinations::of(self.files.iter().map(|(path, _)| &**path), owns_all)
    }

    /// Writes it: files first, each complete or not at all.
    ///
    /// # Errors
    ///
    /// When one cannot be written, after the others were attempted: the first of those.
    pub fn write(&self, difference: &Difference, destinations: &Destinations) -> Result<()> {
        let mut failure = None;
        for ((path, format), destination) in self.files.iter().zip(&destinations.files) {
            let screen = Screen::of_a_file();
            let written =
                destination.write(&mut |out| format.write(difference, self.top, screen, out));
            let failed = || format!("cannot write the comparison to '{}'", path.display());
            failure = failure.or(written.with_context(failed).err());
        }
        let screen = Screen::of_stdout(self.color);
        let written = to_stdout(&mut |out| self.stdout.write(difference, self.top, screen, out));
        failure.or(written.err()).map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_file_says_the_format() {
        let of = |path| DiffFormat::of_file(Path::new(path));
        assert_eq!(of("a.TXT"), Ok(DiffFormat::Text));
        assert_eq!(of("dir.d/a.json"), Ok(DiffFormat::Json));
        for path in ["a.json.gz", "a", "txt", "a.svg"] {
            assert!(of(path).unwrap_err().contains("ends with .txt or .json"));
        }
    }
}
