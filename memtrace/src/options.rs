//! What a run must do: the validated form of the command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

pub use crate::gate::{Growth, Limit};
use crate::profile::BackendName;
pub use crate::profile::{Python, Unwind};
pub use crate::report::difference::{DiffFormat, DiffOutput};
pub use crate::report::{By, Color, FileReport, Format, Frames, Output, TextOptions};
use crate::user::User;

/// What memtrace is asked to do, validated. Nothing after this looks at flags.
#[derive(Clone, Debug)]
pub enum Task {
    /// To trace, and to report what was seen.
    Trace(Box<Options>),
    /// To compare two reports.
    Diff(DiffOptions),
    /// To show a saved report, in any format.
    Report(ReportOptions),
}

/// A saved report that is shown, and what becomes of that.
#[derive(Clone, Debug)]
pub struct ReportOptions {
    /// The saved report.
    pub file: PathBuf,
    /// Which reports are written.
    pub output: Output,
}

/// Two reports that are compared, and what becomes of that.
#[derive(Clone, Debug)]
pub struct DiffOptions {
    /// The report that is compared with.
    pub base: PathBuf,
    /// The report that is compared.
    pub new: PathBuf,
    /// Where the comparison goes.
    pub output: DiffOutput,
    /// By how much the new one may be more.
    pub gate: Option<Growth>,
}

/// One trace, validated.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which running processes are chosen besides those that are named by pid.
    pub choice: Choice,
    /// What is traced, and how.
    pub trace: TraceOptions,
    /// Which reports are written.
    pub output: Output,
    /// The most that may be copied.
    pub gate: Option<Limit>,
    /// How long to wait before tracing begins.
    pub delay: Option<Duration>,
    /// Whether memtrace leaves with COMMAND's exit status.
    pub exit_as_command: bool,
    /// What is logged. 0: warnings; 1: progress; 2 and more: what the kernel side does, too.
    pub verbosity: u8,
}

/// Which running processes are chosen by what they are called, or where they run. The module `choice`
/// turns it into pids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Those that are called so.
    pub names: Vec<OsString>,
    /// Only those of this control group; all of them where neither names nor pids are given.
    pub cgroup: Option<OsString>,
    /// Whether a name may stand for several trees of processes.
    pub all: bool,
}

impl Choice {
    /// Whether processes are chosen by anything but their pids.
    #[must_use]
    pub fn is_made(&self) -> bool {
        !self.names.is_empty() || self.cgroup.is_some()
    }
}

/// What is traced, and how.
#[derive(Clone, Debug)]
pub struct TraceOptions {
    /// What is traced.
    pub target: Target,
    /// Whether descendants are traced too.
    pub follow: bool,
    /// After what time to stop.
    pub duration: Option<Duration>,
    /// How copies are seen.
    pub backend: Backend,
    /// How stacks are taken.
    pub unwind: Unwind,
    /// Whether Python frames are taken.
    pub python: Python,
    /// Who COMMAND runs as; `None` for who memtrace does.
    pub user: Option<User>,
    /// Whether arguments of processes are in the report.
    pub arguments: bool,
    /// What is said beside the report.
    pub talk: Talk,
    /// Whether copied pages are compared with the ancestor's at the end.
    pub unchanged: bool,
    /// How memory is looked at; `None` where it is not.
    pub memory: Option<MemoryOptions>,
}

/// How memory is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryOptions {
    /// How often; zero for at the start and at the end alone.
    pub interval: Duration,
    /// Whether the use of the last cache is counted.
    pub cache: bool,
}

/// What is said beside the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Talk {
    /// Also that tracing has begun, and how far it is.
    Progress,
    /// Warnings and errors alone.
    Warnings,
    /// A view on the terminal shows how far it is.
    View,
}

/// What is traced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Running processes; tracing lasts while `load` runs, where there is one.
    Attach {
        /// Each once; at least one when the choice has been made.
        pids: Vec<u32>,
        /// The command that puts load on them.
        load: Option<Vec<OsString>>,
    },
    /// A command, from its first instruction.
    Launch {
        /// Program and arguments, at least the program.
        command: Vec<OsString>,
    },
}

impl Target {
    /// The processes that were named.
    #[must_use]
    pub fn pids(&self) -> &[u32] {
        match self {
            Self::Attach { pids, .. } => pids,
            Self::Launch { .. } => &[],
        }
    }

    /// COMMAND, program first; empty without one.
    #[must_use]
    pub fn command(&self) -> &[OsString] {
        match self {
            Self::Attach { load, .. } => load.as_deref().unwrap_or_default(),
            Self::Launch { command } => command,
        }
    }
}

/// How copies are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// The best that this kernel permits.
    Auto,
    /// Tracepoints and software events.
    Tracepoint,
    /// Not in this version; [`cli`](crate::cli) refuses it.
    #[value(hide = true)]
    Fentry,
    /// Not in this version; [`cli`](crate::cli) refuses it.
    #[value(hide = true)]
    Kprobe,
}

impl Backend {
    /// The backend that was asked for by name, if this version has it; else the best.
    #[must_use]
    pub fn name(self) -> Option<BackendName> {
        match self {
            Self::Tracepoint => Some(BackendName::Tracepoint),
            Self::Auto | Self::Fentry | Self::Kprobe => None,
        }
    }
}
