//! How much memory processes had, beside what they copied.

use serde::{Deserialize, Serialize};

use super::other::Other;

/// How much memory a process had, while it was looked at.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// When it was first looked at: when tracing began, or soon after the process did.
    pub start: MemorySizes,
    /// When that was, in seconds since the trace began.
    #[serde(default)]
    pub start_s: f64,
    /// What it had copied by then during the trace, in bytes: for a process that was forked, what it
    /// shared at its fork is `start.shared` and this.
    #[serde(default)]
    pub start_copied: u64,
    /// When it was last looked at: when tracing ended, or shortly before the process did.
    pub end: MemorySizes,
    /// When that was.
    #[serde(default)]
    pub end_s: f64,
    /// From the first to the last look, by time; thinned out where there were very many.
    #[serde(default)]
    pub samples: Vec<MemorySample>,
    /// At the first look, by kind of mapping; absent where that was not asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mappings_at_start: Vec<MappingSizes>,
    /// At the end of the trace, by kind of mapping; absent where that was not asked, and for a
    /// process that had ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mappings: Vec<MappingSizes>,
    /// What it had resident when it ended, by the kernel's own count; absent while it lives, and
    /// where the kernel (before 6.16) announces an end after the memory is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_exit: Option<ExitSizes>,
    /// Where its private memory came from; absent where it was looked at once, or the sizes could
    /// not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub growth: Option<PrivateGrowth>,
}

/// Sizes at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MemorySample {
    /// Seconds since the trace began.
    pub t_s: f64,
    /// The sizes.
    #[serde(flatten)]
    pub sizes: MemorySizes,
}

/// Sizes in bytes; `None` where one could not be read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemorySizes {
    /// Address space.
    pub vsz: Option<u64>,
    /// Resident.
    pub rss: Option<u64>,
    /// Resident, each page divided by the processes that map it.
    pub pss: Option<u64>,
    /// Of the resident, what other processes map too.
    pub shared: Option<u64>,
    /// Of the resident, what no other process maps.
    pub private: Option<u64>,
    /// Swapped out.
    pub swap: Option<u64>,
    /// Of the resident, what is of no file: shared with relatives or private.
    #[serde(default)]
    pub anonymous: Option<u64>,
    /// Why sizes are missing; absent where none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Sizes of all mappings of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappingSizes {
    /// Which mappings.
    pub kind: MappingKind,
    /// The sizes.
    #[serde(flatten)]
    pub sizes: MemorySizes,
}

/// What a mapping is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", expecting = "not a name")]
pub enum MappingKind {
    /// The program's own file.
    Program,
    /// Other files with code that are mapped privately.
    Libraries,
    /// What `brk` manages.
    Heap,
    /// The main thread's stack.
    Stack,
    /// Private memory without a file: arenas of allocators, stacks of threads.
    Anonymous,
    /// Files without code that are mapped privately.
    PrivateFile,
    /// Shared mappings, of files or not.
    Shared,
    /// A kind of a later version.
    #[serde(untagged)]
    Other(Other),
}

impl MappingKind {
    /// Those that this version knows, in the order of reports.
    pub const ALL: [Self; 7] = [
        Self::Program,
        Self::Libraries,
        Self::Heap,
        Self::Stack,
        Self::Anonymous,
        Self::PrivateFile,
        Self::Shared,
    ];

    /// As reports spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Program => "program",
            Self::Libraries => "libraries",
            Self::Heap => "heap",
            Self::Stack => "stack",
            Self::Anonymous => "anonymous",
            Self::PrivateFile => "private_file",
            Self::Shared => "shared",
            Self::Other(other) => other.name(),
        }
    }
}

/// What a process had resident when it ended, in bytes. The kernel keeps these counts by CPU and
/// adds them up now and then, so each may be wrong by up to 128 KiB for each CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitSizes {
    /// Of no file.
    pub anonymous: u64,
    /// Of files.
    pub file: u64,
    /// Shared memory.
    pub shared_memory: u64,
    /// Swapped out.
    pub swap: u64,
}

/// Where the growth of a process's private memory came from, between the first and the last look at
/// it, in bytes. `private` is the sum of the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrivateGrowth {
    /// How much more was private at the end; negative where it was less.
    pub private: i64,
    /// What it copied meanwhile, by this trace's own count.
    pub copied: i64,
    /// New memory: pages that were absent, or the zero page, and were written to. They never were
    /// shared.
    pub new: i64,
    /// What became private or shared without a write of its own: others that had shared it copied it,
    /// gave it back or ended; negative where memory of its own came to be shared, as by a fork.
    pub by_others: i64,
    /// Pages of files that came or went.
    pub files: i64,
    /// Memory of no file that it gave back, or that was swapped out: zero or negative.
    pub given_back: i64,
    /// What none of these explains: zero or positive.
    pub unexplained: i64,
}

impl PrivateGrowth {
    /// The sum of the parts.
    #[must_use]
    pub fn parts(&self) -> i64 {
        let parts = [
            self.copied,
            self.new,
            self.by_others,
            self.files,
            self.given_back,
            self.unexplained,
        ];
        // A profile may come from anywhere.
        parts.into_iter().fold(0, i64::saturating_add)
    }

    /// Adds what another process has.
    pub fn absorb(&mut self, other: &Self) {
        for (sum, more) in [
            (&mut self.private, other.private),
            (&mut self.copied, other.copied),
            (&mut self.new, other.new),
            (&mut self.by_others, other.by_others),
            (&mut self.files, other.files),
            (&mut self.given_back, other.given_back),
            (&mut self.unexplained, other.unexplained),
        ] {
            *sum = sum.saturating_add(more);
        }
    }
}
