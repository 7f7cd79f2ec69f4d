//! The result of a trace: pure data, in the shape of the report schema `memtrace/1`.
//!
//! Serialised, a [`Profile`] *is* the JSON report; [`read`] reads one again, and [`sums::check`]
//! tells whether it adds up. The types know nobody but [`distribution`](crate::distribution).
//! Unless said otherwise, counts are pages or faults, sizes are bytes, and a `None` is written as
//! `null`: not known.
//!
//! `docs/report-schema.md` is generated from the comments on these types by `cargo xtask schema`.

use serde::{Deserialize, Serialize};

mod advice;
mod by;
mod host;
mod memory;
mod other;
mod phase;
mod process;
mod read;
mod role;
mod runtimes;
#[cfg(test)]
pub(crate) mod sample;
mod site;
mod stack;
pub mod sums;
mod timeline;
mod unchanged;

pub use advice::{Advice, Confidence};
pub use by::{ByCause, ByOrigin, CauseName, OriginName};
pub use host::{BackendName, Host, Python, Unwind};
pub use memory::{
    ExitSizes, MappingKind, MappingSizes, Memory, MemorySample, MemorySizes, PrivateGrowth,
};
pub use other::{NotAName, OrOther, Other};
pub use phase::Phase;
pub use process::{
    CacheUse, CommandExit, Container, InterpreterSeen, Process, RuntimeSeen, UnopenedFile,
};
pub use read::{LARGEST_REPORT, read};
pub use role::{Pace, Role, RoleKind};
pub use runtimes::{UnreadRuntime, unread_runtimes};
pub use site::{CallSite, CauseEvidence, STATIC_TYPE, Site, TypeRow, Unrecorded, type_rows};
pub use stack::{Frame, Language, ModuleUnwind, StackPages, Truncated, Unknown, UnwoundBy};
pub use timeline::{MOST_BINS, RoleTimeline, Timeline};
pub use unchanged::{NotCompared, Reason, SampleUnchanged, Unchanged};

/// The value of [`Profile::schema`].
pub const SCHEMA: &str = "memtrace/1";

/// One trace, whole.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Profile {
    /// [`SCHEMA`]; a later version that adds to it may append a minor number.
    pub schema: String,
    /// Version of the memtrace that recorded it.
    pub memtrace: String,
    /// Where it was recorded.
    pub host: Host,
    /// The COMMAND given after `--`, empty when there was none.
    pub command: Vec<String>,
    /// How COMMAND ended; `None` when there was none, or it was still running.
    pub command_exit: Option<CommandExit>,
    /// RFC 3339.
    pub started_at: String,
    /// From the moment that tracing was attached to its end.
    pub duration_s: f64,
    /// Sums over all processes.
    pub totals: Totals,
    /// Every process of the traced set, by first appearance. Of very many that have ended, those
    /// that copied least are added up in a last one, see its `stands_for`.
    pub processes: Vec<Process>,
    /// By pages, the most first.
    pub call_sites: Vec<CallSite>,
    /// By pages, the most first; empty while object types are not looked at.
    pub types: Vec<TypeRow>,
    /// The files whose code traced processes had mapped, by path, and how stacks were taken through
    /// each; empty when stacks were not taken.
    #[serde(default)]
    pub modules: Vec<ModuleUnwind>,
    /// What would help, by what it would save, the most first; empty where nothing would that is
    /// known.
    pub advice: Vec<Advice>,
    /// What the processes are there for: masters first, then by what was copied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<Role>,
    /// What happened when; absent in reports of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<Timeline>,
    /// How memory was looked at; absent where it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling: Option<Sampling>,
    /// Why the use of the last cache is not known, or not of all processes; absent where it is, or was
    /// not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_cache: Option<String>,
    /// What the reader must know before trusting the figures, besides what was lost.
    pub warnings: Vec<String>,
}

impl Profile {
    /// How many processes were traced.
    #[must_use]
    pub fn process_count(&self) -> u64 {
        let counts = self.processes.iter().map(Process::count);
        // A profile may come from anywhere.
        counts.fold(0, u64::saturating_add)
    }
}

/// How memory was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Seconds between two looks at a process that were asked for; 0 where only its first and its
    /// last state were.
    pub asked_s: f64,
    /// Seconds that there were in fact, on average; longer where reading took long. `None` where
    /// there were no two looks.
    pub used_s: Option<f64>,
    /// Seconds that reading took, in all.
    pub reading_s: f64,
}

/// Sums over all processes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Copied pages: those with a record and those whose record was lost or is pending.
    pub copied_pages: u64,
    /// Bytes of those.
    pub copied_bytes: u64,
    /// Copied pages by what they were before.
    pub by_origin: ByOrigin,
    /// Copied pages by what the write was.
    pub by_cause: ByCause,
    /// Copied pages that are copy-on-read: the cause is `refcount` or `gc`, and the phase `run`.
    pub copy_on_read_pages: u64,
    /// Copied pages that still equal what they were copied from, of those that were compared, as in
    /// `unchanged`; `None` when none were.
    pub unchanged_pages: Option<u64>,
    /// How it was found out; `None` while tracing went on, where that was not wanted, and when
    /// nothing was copied.
    #[serde(default)]
    pub unchanged: Option<Unchanged>,
    /// Faults that copied nothing.
    pub not_copied: NotCopied,
    /// What the kernel side had to drop.
    pub lost: Lost,
    /// Copied pages whose record had not been read yet, in call sites of their own, named
    /// `[pending]`, so that sums hold; only in a profile that was made while tracing went on, and
    /// absent when 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub pending: u64,
}

/// Write faults that copied nothing; `None` where the backend cannot see the kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotCopied {
    /// Write-protection faults settled without a new page. In a process of several threads, also
    /// faults on a page that another thread had just made writable.
    pub reuse: Option<u64>,
    /// The zero page, replaced.
    pub zero: Option<u64>,
    /// The first write to an absent page.
    pub first_touch: Option<u64>,
    /// Huge mappings split by a write.
    pub split: Option<u64>,
    /// Faults that gave the process no page: another thread had settled them, or the kernel, which
    /// moves pages and hides them for a while. Reports of earlier versions do not have it.
    #[serde(default)]
    pub settled_elsewhere: Option<u64>,
}

/// What the kernel side had to drop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Copied pages that were counted but whose record was dropped; they are in call sites of
    /// their own, named `[lost]`, so that sums hold.
    pub faults: u64,
    /// Copied pages whose stack was dropped.
    pub stacks: u64,
    /// Processes that could not be traced.
    pub processes: u64,
    /// Threads that could not be traced.
    pub threads: u64,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes fields by reference"
)]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[cfg(test)]
mod tests;
