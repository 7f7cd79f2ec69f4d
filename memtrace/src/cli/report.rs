//! The command line of `memtrace report`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::Reports;
use super::help::{Help, LAYOUT};
use crate::options::ReportOptions;

const LONG_ABOUT: &str = "\
Shows a saved report again, or writes it in another format.

FILE is a report that memtrace has written as .json or .json.gz; these have everything, and every \
other format is made of them as it is at the end of a trace. Nothing is traced, so no rights are \
needed but to read FILE.";

const EXAMPLES: &str = "\
Examples:
  As text, by source file:
    memtrace report profile.json.gz --by file

  A flame graph, and files for speedscope and go tool pprof:
    memtrace report profile.json.gz -o p.svg -o p.speedscope.json -o p.pb.gz

  Stacks with all native frames, for another program:
    memtrace report profile.json.gz --frames mixed -f folded | flamegraph.pl > p.svg";

const ENDS: &str = "\
Exit status: 0 done, 2 an error.";

/// Show a saved report, or write it in another format
#[derive(Debug, Args)]
#[command(long_about = LONG_ABOUT, before_help = EXAMPLES, after_help = ENDS, help_template = LAYOUT)]
pub(super) struct ReportArgs {
    /// The report: one that memtrace has written as .json or .json.gz
    #[arg(value_name = "FILE", required = true, num_args = 1.., value_hint = ValueHint::FilePath)]
    paths: Vec<PathBuf>,

    #[command(flatten)]
    reports: Reports,

    #[command(flatten)]
    _help: Help,
}

impl TryFrom<ReportArgs> for ReportOptions {
    type Error = String;

    fn try_from(args: ReportArgs) -> Result<Self, String> {
        let given = args.paths.len();
        let mut paths = args.paths.into_iter();
        let (Some(file), None) = (paths.next(), paths.next()) else {
            return Err(format!(
                "{given} reports cannot be shown as one: this version of memtrace does not merge \
                 reports yet; give one FILE, or compare two with memtrace diff"
            ));
        };
        Ok(Self {
            file,
            output: args.reports.try_into()?,
        })
    }
}
