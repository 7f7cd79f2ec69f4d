//! The options that say which reports are made, of a trace or of a saved report.

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};

use super::help::REPORTS;
use crate::options::{By, Color, FileReport, Format, Frames, Output, TextOptions};

/// The arguments that say what becomes of a profile.
#[derive(Debug, Args)]
pub(super) struct Reports {
    #[arg(help_heading = REPORTS, short, long, value_name = "FILE", value_hint = ValueHint::FilePath, help = output_help(), long_help = output_long_help())]
    output: Vec<PathBuf>,

    /// Format of the report on standard output
    #[arg(help_heading = REPORTS, short, long, value_name = "FORMAT", default_value = "text")]
    format: Format,

    /// As other programs call it
    #[arg(help_heading = REPORTS, long, hide = true, conflicts_with = "format")]
    json: bool,

    /// What the rows of the text report's main table are
    #[arg(help_heading = REPORTS, long, value_name = "BY", default_value = "site")]
    by: By,

    /// Whether the text report has colours: where standard output is a terminal, unless `NO_COLOR` is set
    #[arg(help_heading = REPORTS, long, value_name = "WHEN", default_value = "auto")]
    color: Color,

    /// Rows in each table of the text report
    #[arg(help_heading = REPORTS, long, value_name = "N", default_value = "20", value_parser = parse_rows, allow_hyphen_values = true)]
    top: u32,

    /// Which frames are in pictures, and in files for other tools
    ///
    /// The reports as text and JSON have all of them in any case.
    #[arg(help_heading = REPORTS, long, value_name = "FRAMES", default_value = "python")]
    frames: Frames,
}

impl TryFrom<Reports> for Output {
    type Error = String;

    fn try_from(reports: Reports) -> Result<Self, String> {
        let format = if reports.json {
            Format::JSON
        } else {
            reports.format
        };
        Ok(Self {
            files: files(reports.output)?,
            stdout: stdout(format, io::stdout().is_terminal())?,
            color: reports.color,
            text: TextOptions {
                by: reports.by,
                top: reports.top as usize,
            },
            frames: reports.frames,
        })
    }
}

fn output_help() -> String {
    let extensions = Format::extensions("or", Format::with_dot);
    format!("Also write a report to FILE; its name says the format: {extensions}")
}

fn output_long_help() -> String {
    format!(
        "{}\n\nMay be given several times. FILE appears when the report is complete, and replaces \
         what was there. Standard output gets a report in any case, in the format that --format \
         says; naming it as - is allowed and changes nothing.",
        output_help()
    )
}

fn files(paths: Vec<PathBuf>) -> Result<Vec<FileReport>, String> {
    let mut files: Vec<FileReport> = Vec::new();
    for path in paths.into_iter().filter(|path| path != Path::new("-")) {
        let format = Format::of_file(&path)?;
        if files.iter().all(|file| file.path != path) {
            files.push(FileReport { path, format });
        }
    }
    Ok(files)
}

/// Binary reports are for files and pipes.
pub(super) fn stdout(format: Format, is_terminal: bool) -> Result<Format, String> {
    if format.is_binary && is_terminal {
        return Err(format!(
            "a {} report is not text, so a terminal cannot show it; redirect standard output to a \
             file, or name one: -o FILE.{}",
            format.name, format.extension
        ));
    }
    Ok(format)
}

pub(super) fn parse_rows(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(0) => Err("a table has at least one row; give 1 or more".to_owned()),
        Ok(rows) => Ok(rows),
        Err(_) => Err("it is not a number of rows, such as 50".to_owned()),
    }
}
