//! What a run is to do: the validated form of the command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// One run, validated. Nothing after this looks at flags.
#[derive(Clone, Debug)]
pub struct Options {
    /// What is traced.
    pub target: Target,
    /// Whether descendants are traced too.
    pub follow: bool,
    /// When to stop by itself.
    pub duration: Option<Duration>,
    /// Reports to write to files, besides the one on standard output; no path twice.
    pub files: Vec<FileReport>,
    /// The format of the report on standard output.
    pub stdout: Format,
    /// How the text report looks.
    pub text: TextOptions,
    /// How copies are seen.
    pub backend: Backend,
    /// How stacks are taken.
    pub unwind: Unwind,
    /// Whether Python frames are taken.
    pub python: Python,
    /// Whether copied pages are compared with the ancestor's at the end.
    pub unchanged: bool,
    /// 0: warnings; 1: what is done; 2 and more: what the kernel side does.
    pub verbosity: u8,
}

/// What is traced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Running processes; tracing lasts while `load` runs, where there is one.
    Attach {
        /// At least one, each once.
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

/// A report written to a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileReport {
    /// Where to.
    pub path: PathBuf,
    /// In which format.
    pub format: Format,
}

/// A report format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// Schema `memtrace/1`.
    Json,
}

/// How the text report looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextOptions {
    /// What a row of its main table is.
    pub by: By,
    /// Rows in a table, at least one.
    pub top: usize,
}

/// What a row of the main table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Call site and cause.
    Site,
    /// Function.
    Function,
    /// Whole stack.
    Stack,
    /// Type of the object written to.
    Type,
    /// Process.
    Process,
    /// Source file, or module where that is not known.
    File,
    /// Cause.
    Cause,
}

/// How copies are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The best that this kernel permits.
    Auto,
    /// Tracepoints and software events.
    Tracepoint,
}

impl Backend {
    /// As it is spelled in the report and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Tracepoint => "tracepoint",
        }
    }
}

/// Whether Python frames and the kinds of Python's writes are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Python {
    /// In every process that runs CPython.
    Auto,
    /// Nowhere.
    Off,
}

/// How stacks are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unwind {
    /// By the unwind tables of the files that have them, by frame pointers through other code.
    Auto,
    /// By unwind tables only.
    Dwarf,
    /// Follow frame pointers.
    FramePointers,
    /// Take no stacks.
    Off,
}
