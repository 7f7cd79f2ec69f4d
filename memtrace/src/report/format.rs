//! The formats of reports, and what there is to know of each without writing one.

use std::path::Path;

use clap::ValueEnum;
use clap::builder::PossibleValue;

use super::{
    Output, Report, firefox, folded, hlog, html, json, json_gz, pprof, prom, speedscope, svg, text,
};

/// A report format. To add one, write its file and add a line to [`Format::ALL`]: options, help and
/// errors follow.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// What `--format` calls it.
    pub name: &'static str,
    /// How names of its files end, without the first dot.
    pub extension: &'static str,
    /// For whom it is.
    pub audience: &'static str,
    /// What to know of it besides; empty where there is nothing.
    pub remark: &'static str,
    /// Whether it is anything but text, which a terminal must not be shown.
    pub is_binary: bool,
    /// Makes what writes it, for a file or for the terminal that is standard output.
    pub(super) make: fn(&Output, text::Screen) -> Box<dyn Report>,
}

impl Format {
    /// Every format, the default first.
    pub const ALL: &[Self] = &[
        text::FORMAT,
        json::FORMAT,
        json_gz::FORMAT,
        html::FORMAT,
        svg::FORMAT,
        folded::FORMAT,
        speedscope::FORMAT,
        firefox::FORMAT,
        pprof::FORMAT,
        hlog::FORMAT,
        prom::FORMAT,
    ];
    /// For people.
    pub const TEXT: Self = text::FORMAT;
    /// Schema `memtrace/1`.
    pub const JSON: Self = json::FORMAT;
    /// Schema `memtrace/1`, compressed.
    pub const JSON_GZ: Self = json_gz::FORMAT;

    /// What writes it to a file.
    #[must_use]
    pub fn report(&self, output: &Output) -> Box<dyn Report> {
        (self.make)(output, text::Screen::of_a_file())
    }

    /// The format that a file's name asks for. Of two that fit it is the longer extension's.
    ///
    /// # Errors
    ///
    /// What is wrong with the name and which extensions there are.
    pub fn of_file(path: &Path) -> Result<Self, String> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = name.to_lowercase();
        let fits = |format: &&Self| {
            let stem = name.strip_suffix(format.extension);
            stem.is_some_and(|stem| stem.len() > 1 && stem.ends_with('.'))
        };
        let fitting = Self::ALL.iter().filter(fits);
        if let Some(format) = fitting.max_by_key(|format| format.extension.len()) {
            return Ok(*format);
        }
        let found = match Path::new(&name).extension() {
            Some(other) => format!(
                "'.{}' is not a report format of this version",
                other.display()
            ),
            None => "its name has no extension, which says the report's format".to_owned(),
        };
        let supported = Self::extensions("and", Self::with_remark);
        Err(format!(
            "cannot write a report to '{}': {found}; supported are {supported}",
            path.display()
        ))
    }

    /// `.a, .b or .c`, by the alphabet.
    #[must_use]
    pub fn extensions(last: &str, shown: fn(&Self) -> String) -> String {
        let mut all: Vec<&Self> = Self::ALL.iter().collect();
        all.sort_by_key(|format| format.extension);
        let all: Vec<String> = all.into_iter().map(shown).collect();
        match &all[..] {
            [] => String::new(),
            [only] => only.clone(),
            [others @ .., end] => format!("{} {last} {end}", others.join(", ")),
        }
    }

    /// `.json`.
    #[must_use]
    pub fn with_dot(&self) -> String {
        format!(".{}", self.extension)
    }

    /// `.json (schema memtrace/1)`.
    fn with_remark(&self) -> String {
        match self.remark {
            "" => self.with_dot(),
            remark => format!("{} ({remark})", self.with_dot()),
        }
    }
}

impl PartialEq for Format {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Format {}

impl ValueEnum for Format {
    fn value_variants<'a>() -> &'a [Self] {
        Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self.remark {
            "" => self.audience.to_owned(),
            remark => format!("{}: {remark}", self.audience),
        };
        Some(PossibleValue::new(self.name).help(help))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_extensions_tell_formats_apart() {
        for (at, format) in Format::ALL.iter().enumerate() {
            for other in &Format::ALL[..at] {
                assert_ne!(format.name, other.name);
                assert_ne!(format.extension, other.extension);
            }
            let path = format!("dir.d/report.{}", format.extension.to_uppercase());
            assert_eq!(Format::of_file(Path::new(&path)), Ok(*format));
        }
    }

    #[test]
    fn of_two_extensions_that_fit_the_longer_counts() {
        let of = |path| Format::of_file(Path::new(path)).map(|format| format.name);
        assert_eq!(of("a.json"), Ok("json"));
        assert_eq!(of("a.json.gz"), Ok("json.gz"));
        assert_eq!(of("a.b.JSON.GZ"), Ok("json.gz"));
        assert!(of("a.gz").is_err() && of("json.gz").is_err());
    }

    #[test]
    fn a_name_that_is_only_an_extension_says_no_format() {
        for path in [".json", "json", "dir.json/report", "..", "/", ""] {
            let error = Format::of_file(Path::new(path)).unwrap_err();
            assert!(error.contains("no extension"), "{path:?}: {error}");
        }
        let error = Format::of_file(Path::new("a.json.bak")).unwrap_err();
        assert!(error.contains("'.bak' is not a report format"), "{error}");
    }

    #[test]
    fn the_default_is_the_first() {
        assert_eq!(Format::ALL[0], Format::TEXT);
        assert_eq!(
            Format::extensions("or", Format::with_dot),
            ".firefox.json, .folded, .hlog, .html, .json, .json.gz, .pb.gz, .prom, .speedscope.json, .svg or .txt"
        );
    }
}
