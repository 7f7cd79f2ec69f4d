//! The command line of `memtrace diff`.

use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};

use super::help::{Help, LAYOUT, REPORTS};
use super::reports::parse_rows;
use crate::options::{Color, DiffFormat, DiffOptions, DiffOutput, Growth};

const LONG_ABOUT: &str = "\
Compares two saved reports, and says what appeared, vanished, grew or shrank.

Figures are by worker process where both reports have workers: processes that another one has \
forked and that go on with its program. A difference counts if workers of one report do not differ as \
much themselves, if it is large enough to matter, and if the length of the traces does not explain \
it. Call sites that moved to other lines, or with their file, are still the same.";

const EXAMPLES: &str = "\
Examples:
  What a change has done:
    memtrace diff before.json.gz after.json.gz

  Fail a build when workers copy 10 % more than before:
    memtrace diff --fail-over +10% main.json.gz branch.json.gz

  Only what was copied though it was only read, and keep the comparison:
    memtrace diff --fail-over +256KiB:copy-on-read -o diff.txt main.json branch.json";

const ENDS: &str = "\
Exit status: 0 done, 1 over the limit of --fail-over, 2 an error.";

/// Compare two saved reports: what appeared, vanished, grew or shrank
#[derive(Debug, Args)]
#[command(long_about = LONG_ABOUT, before_help = EXAMPLES, after_help = ENDS, help_template = LAYOUT)]
pub(super) struct DiffArgs {
    /// The report that is compared with: one that memtrace has written as .json or .json.gz
    #[arg(value_name = "BASE", value_hint = ValueHint::FilePath)]
    base: PathBuf,

    /// The report that is compared
    #[arg(value_name = "NEW", value_hint = ValueHint::FilePath)]
    new: PathBuf,

    /// Also write the comparison to FILE; its name says the format: .json or .txt
    #[arg(help_heading = REPORTS, short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    output: Vec<PathBuf>,

    /// Format of the comparison on standard output
    #[arg(help_heading = REPORTS, short, long, value_name = "FORMAT", default_value = "text")]
    format: DiffFormat,

    /// As other programs call it
    #[arg(help_heading = REPORTS, long, hide = true, conflicts_with = "format")]
    json: bool,

    /// Whether the text has colours
    #[arg(help_heading = REPORTS, long, value_name = "WHEN", default_value = "auto")]
    color: Color,

    /// Rows in each table of the text
    #[arg(help_heading = REPORTS, long, value_name = "N", default_value = "20", value_parser = parse_rows, allow_hyphen_values = true)]
    top: u32,

    /// Exit with status 1 when NEW copied so much more than BASE: +10%, +2MiB, +10%:copy-on-read
    ///
    /// What is compared is the figure of the first lines, by worker where there are workers. Less
    /// than what equal runs may differ by is not held against NEW. With :copy-on-read only what was
    /// copied though it was only read counts.
    #[arg(help_heading = REPORTS, long, value_name = "LIMIT", allow_hyphen_values = true)]
    fail_over: Option<Growth>,

    #[command(flatten)]
    _help: Help,
}

impl TryFrom<DiffArgs> for DiffOptions {
    type Error = String;

    fn try_from(args: DiffArgs) -> Result<Self, String> {
        let mut files: Vec<(PathBuf, DiffFormat)> = Vec::new();
        for path in args
            .output
            .into_iter()
            .filter(|path| path != Path::new("-"))
        {
            let format = DiffFormat::of_file(&path)?;
            if files.iter().all(|(other, _)| *other != path) {
                files.push((path, format));
            }
        }
        Ok(Self {
            base: args.base,
            new: args.new,
            output: DiffOutput {
                files,
                stdout: if args.json {
                    DiffFormat::Json
                } else {
                    args.format
                },
                color: args.color,
                top: args.top as usize,
            },
            gate: args.fail_over,
        })
    }
}
