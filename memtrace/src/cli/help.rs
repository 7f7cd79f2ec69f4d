//! How help is laid out: its parts in order, the groups of options, and the options that ask for it.

use clap::{ArgAction, Args};

/// The groups of options, in the order of the help.
pub(super) const TRACE: &str = "What to trace";
pub(super) const TAKE: &str = "What to take";
pub(super) const REPORTS: &str = "Reports";
pub(super) const OTHER: &str = "Other";

/// The examples are before the options: they are what most people look for.
pub(super) const LAYOUT: &str = "\
{about-with-newline}
{usage-heading} {usage}

{before-help}{all-args}{after-help}";

/// What clap would add by itself, in a group of its own that comes first.
#[derive(Debug, Args)]
pub(super) struct Help {
    /// Print this help: briefly with -h, at length with --help
    #[arg(id = "help", help_heading = OTHER, short, long, action = ArgAction::Help)]
    _help: Option<bool>,
}
