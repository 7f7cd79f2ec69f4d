//! The result of a trace: pure data, in the shape of the report schema `memtrace/1`.
//!
//! Everything downstream of [`aggregate`](crate::aggregate) reads these types; they know nobody.
//! Serialised, a [`Profile`] *is* the JSON report. Unless said otherwise, counts are pages or
//! faults, sizes are bytes, and a `None` is written as `null`: not known.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::distribution::Distribution;

/// The value of [`Profile::schema`].
pub const SCHEMA: &str = "memtrace/1";

/// One trace, whole.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Profile {
    /// [`SCHEMA`].
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
    /// Every process of the traced set, by first appearance.
    pub processes: Vec<Process>,
    /// By pages, the most first.
    pub call_sites: Vec<CallSite>,
    /// By pages, the most first; empty while object types are not looked at.
    pub types: Vec<TypeRow>,
    /// The files whose code traced processes had mapped, by path, and how stacks were taken through
    /// each; empty when stacks were not taken.
    #[serde(default)]
    pub modules: Vec<ModuleUnwind>,
    /// What would help; empty while nothing is proposed.
    pub advice: Vec<Advice>,
    /// What the reader must know before trusting the figures, besides [`Totals::lost`].
    pub warnings: Vec<String>,
}

/// The machine and how it was observed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Host {
    /// Kernel release, as `uname -r`.
    pub kernel: String,
    /// Architecture, as `uname -m`.
    pub arch: String,
    /// Bytes in a page.
    pub page_size: u64,
    /// How copies were seen: `tracepoint`.
    pub backend: String,
    /// How stacks were taken: `auto`, `dwarf`, `fp` or `off`.
    pub unwind: String,
    /// Why stacks were taken otherwise than was asked for; absent when they were not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unwind_why: Option<String>,
    /// Whether Python frames were taken: `auto` or `off`.
    #[serde(default)]
    pub python: String,
    /// Copies that this backend cannot see, a sentence each.
    pub blind_spots: Vec<String>,
}

/// How a command ended: one of the two is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandExit {
    /// Its exit status.
    pub status: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
}

/// Sums over all processes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Copied pages: those with a record and those whose record was lost.
    pub copied_pages: u64,
    /// Bytes of those.
    pub copied_bytes: u64,
    /// Copied pages by what they were before.
    pub by_origin: ByOrigin,
    /// Copied pages by what the write was.
    pub by_cause: ByCause,
    /// Copied pages whose cause is `refcount` or `gc`.
    pub copy_on_read_pages: u64,
    /// Copied pages that still equal the ancestor's page, of those that were compared:
    /// see [`Totals::unchanged`].
    pub unchanged_pages: Option<u64>,
    /// How it was found out; `None` when nothing was compared.
    #[serde(default)]
    pub unchanged: Option<Unchanged>,
    /// Faults that copied nothing.
    pub not_copied: NotCopied,
    /// What the kernel side had to drop.
    pub lost: Lost,
    /// In a profile that was made while tracing: copied pages that were counted and whose records,
    /// or the names of their stacks, had not been read yet.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub pending: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Copied pages compared with the same page of the nearest living ancestor. What still equals it
/// was copied for nothing. Where a process copied one page twice, it counts once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unchanged {
    /// Pages that still equal the ancestor's.
    pub unchanged_pages: u64,
    /// Pages that were compared.
    pub compared_pages: u64,
    /// Copied pages that could have been: `compared_pages` is a sample of them when it is less.
    pub comparable_pages: u64,
    /// Copied pages that could not be compared: of processes that have ended, or without a living
    /// ancestor, or unmapped since.
    pub gone_pages: u64,
}

/// Pages by what they were before the copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByOrigin {
    /// Anonymous, shared since a fork.
    pub fork: u64,
    /// Merged by KSM.
    pub ksm: u64,
    /// Of a private file mapping.
    pub file: u64,
    /// Of a hugetlb pool.
    pub hugetlb: u64,
}

/// Pages by what the write was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "the names are those of `Cause`, which documents them"
)]
pub struct ByCause {
    pub refcount: u64,
    pub gc: u64,
    pub allocator: u64,
    pub object: u64,
    pub data: u64,
    pub kernel: u64,
    pub remote: u64,
    pub unknown: u64,
}

/// Write faults that copied nothing; `None` where the backend cannot see the kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotCopied {
    /// Write-protection faults settled without a new page.
    pub reuse: Option<u64>,
    /// The zero page, replaced.
    pub zero: Option<u64>,
    /// The first write to an absent page.
    pub first_touch: Option<u64>,
    /// Huge mappings split by a write.
    pub split: Option<u64>,
}

/// What the kernel side had to drop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Copied pages that were counted but whose record was dropped; they stand in call sites of
    /// their own, named `[lost]`, so that sums hold.
    pub faults: u64,
    /// Copied pages whose stack was dropped.
    pub stacks: u64,
    /// Processes that could not be traced.
    pub processes: u64,
    /// Threads that could not be traced.
    pub threads: u64,
}

/// One process of the traced set.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Process {
    /// The kernel's tgid.
    pub pid: u32,
    /// The parent's when it was found or forked.
    pub ppid: u32,
    /// Name at its last exec, escaped.
    pub comm: String,
    /// Arguments; empty where they could not be read.
    pub cmdline: Vec<String>,
    /// When it was forked, in seconds since the trace began; `None` for one found at attach.
    pub forked_at_s: Option<f64>,
    /// When it ended, likewise; `None` when it was alive at the end.
    pub exited_at_s: Option<f64>,
    /// As in [`Totals`].
    pub copied_pages: u64,
    /// As in [`Totals`].
    pub copied_bytes: u64,
    /// As in [`Totals`].
    pub copy_on_read_pages: u64,
    /// As in [`Totals`].
    pub by_origin: ByOrigin,
    /// As in [`Totals`].
    pub by_cause: ByCause,
    /// As in [`Totals`].
    pub not_copied: NotCopied,
    /// Copied pages whose record was dropped.
    pub lost_faults: u64,
    /// As in [`Totals`]; `None` when none of its pages were compared.
    #[serde(default)]
    pub unchanged: Option<Unchanged>,
    /// The interpreter that it runs; `None` without one.
    #[serde(default)]
    pub interpreter: Option<InterpreterSeen>,
    /// Memory accounting; `None` where it was not taken.
    pub memory: Option<serde_json::Value>,
}

/// An interpreter in a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterpreterSeen {
    /// What it is: `CPython 3.11`, `CPython 3.13, free-threaded`.
    pub name: String,
    /// Why its frames could not be read, or only in part; absent when they can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Copies of one place in the code, of one cause, origin and object type.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CallSite {
    /// The blamed frame.
    pub site: Site,
    /// A `Cause`, in lower case.
    pub cause: CauseName,
    /// Why the cause is `unknown`; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause_reason: Option<String>,
    /// What the cause was concluded from; `None` when it is `unknown`.
    #[serde(default)]
    pub evidence: Option<CauseEvidence>,
    /// An `Origin`, in lower case.
    pub origin: OriginName,
    /// Qualified name of the type of the object written to.
    pub object_type: Option<Arc<str>>,
    /// With the cause `object`: bytes from the start of the object to the field.
    #[serde(default)]
    pub field_offset: Option<i32>,
    /// Copied pages.
    pub pages: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Part of all copied pages, 0 to 1.
    pub share: f64,
    /// Pages by pid. Two processes of one pid are added up.
    pub processes: BTreeMap<u32, u64>,
    /// From the fault's entry to its end, in nanoseconds, over the pages whose end was seen.
    pub latency_ns: Distribution,
    /// From the process's fork to the copy, in milliseconds, over the processes forked during the
    /// trace or whose start is known.
    pub age_ms: Distribution,
    /// By pages, the most first.
    pub stacks: Vec<StackPages>,
}

/// The frame that is blamed for copies. Two sites are the same when all fields are equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Site {
    /// Name, or for a frame that has none `module+0x123` or `[unknown]`.
    pub function: Arc<str>,
    /// Source file.
    pub file: Option<Arc<str>>,
    /// Line in it.
    pub line: Option<u32>,
    /// The mapped file's path, or a mapping's bracketed name.
    pub module: Option<Arc<str>>,
    /// What the code was written in.
    pub language: Language,
}

/// Pages that one stack copied.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StackPages {
    /// Copied pages.
    pub pages: u64,
    /// Whether frames are missing at the root.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// Why they are; absent where they are not, or not for a single reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncated_why: Option<Truncated>,
    /// Leaf first; inlined functions come before the one that they are inlined into.
    pub frames: Arc<[Arc<Frame>]>,
}

/// Why frames are missing at a stack's root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Truncated {
    /// There were more than are taken.
    Depth,
    /// The address of the last one was in no code that was known to be mapped.
    NoMapping,
    /// The unwind tables of its file had not been built yet.
    TablesNotBuilt,
    /// Its file has no unwind tables, and frame pointers were not to be followed.
    NoTables,
    /// There was no room for the unwind tables of its file.
    NoRoom,
    /// The unwind tables of its file do not cover it.
    Gap,
    /// Its unwind table has a rule that is not supported.
    Unsupported,
    /// The stack could not be read there.
    Unreadable,
    /// What was read is no stack.
    Damaged,
    /// There were more Python frames than are taken, or they could not be read.
    Python,
    /// The stack was not taken, or got lost.
    NotTaken,
}

/// One function in a stack.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Frame {
    /// Name; for an unknown function `module+0x123`, or `[unknown]` without a module.
    pub function: Arc<str>,
    /// Source file.
    pub file: Option<Arc<str>>,
    /// Line in it.
    pub line: Option<u32>,
    /// The mapped file's path, or a mapping's bracketed name.
    pub module: Option<Arc<str>>,
    /// The instruction, or for a caller the return address, in the process.
    pub address: u64,
    /// What the code was written in.
    pub language: Language,
    /// Whether the compiler inlined it into the next frame.
    pub inlined: bool,
    /// Why the function has no name; absent when it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<Unknown>,
}

/// What a function was written in, as far as it matters to a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Language {
    /// Python, run by CPython.
    Python,
    /// Compiled code.
    Native,
    /// The kernel.
    Kernel,
}

impl Language {
    /// Whether an interpreter runs it.
    #[must_use]
    pub fn is_interpreted(self) -> bool {
        match self {
            Self::Python => true,
            Self::Native | Self::Kernel => false,
        }
    }
}

/// Why a frame has no function name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unknown {
    /// The process's mappings could not be read, since it had already exited.
    ProcessGone,
    /// No mapping of the process covers the address.
    NoMapping,
    /// The mapping is not of a file: code made at run time.
    Anonymous,
    /// The mapped file could not be opened.
    NoFile,
    /// The mapped file has no symbol that covers the address.
    NoSymbol,
    /// The mapped file is not an ELF file that could be read.
    BadElf,
    /// The record of the fault was dropped on its way from the kernel; only its count is known.
    FaultLost,
    /// The stack was dropped on its way from the kernel.
    StackLost,
    /// The end of the fault was not seen, so no stack was taken.
    NoEnd,
    /// Stacks were not asked for.
    UnwindOff,
    /// The record of the copy, or the names of its stack, had not been read yet.
    Pending,
    /// The code object of a Python frame could not be read, or had been freed.
    CodeGone,
}

/// A [`Cause`](memtrace_common::record::Cause), as reports spell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(
    missing_docs,
    reason = "the names are those of `Cause`, which documents them"
)]
pub enum CauseName {
    Refcount,
    Gc,
    Allocator,
    Object,
    Data,
    Kernel,
    Remote,
    Unknown,
}

/// What a cause was concluded from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CauseEvidence {
    /// The object in memory at the address, as it was before the write.
    Structure,
    /// The instruction that wrote.
    Instruction,
    /// The function that wrote, by its name and module.
    Function,
    /// What is mapped at the address.
    Mapping,
    /// The kernel said who wrote.
    Kernel,
}

/// An [`Origin`](memtrace_common::record::Origin), as reports spell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(
    missing_docs,
    reason = "the names are those of `Origin`, which documents them"
)]
pub enum OriginName {
    Fork,
    Ksm,
    File,
    Hugetlb,
}

/// Copies of objects of one type.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TypeRow {
    /// Qualified name.
    pub object_type: Arc<str>,
    /// What the writes were.
    pub cause: CauseName,
    /// Copied pages.
    pub pages: u64,
    /// Bytes of those.
    pub bytes: u64,
}

/// The rows of [`Profile::types`]: what the call sites with an object type copied, by type and
/// cause; by pages, the most first, then by name and cause. Call sites without a type are in no
/// row.
#[must_use]
pub fn type_rows(call_sites: &[CallSite]) -> Vec<TypeRow> {
    let mut sums: BTreeMap<(&Arc<str>, CauseName), (u64, u64)> = BTreeMap::new();
    for site in call_sites {
        if let Some(object_type) = &site.object_type {
            let (pages, bytes) = sums.entry((object_type, site.cause)).or_default();
            *pages += site.pages;
            *bytes += site.bytes;
        }
    }
    let mut rows: Vec<TypeRow> = sums
        .into_iter()
        .map(|((object_type, cause), (pages, bytes))| TypeRow {
            object_type: Arc::clone(object_type),
            cause,
            pages,
            bytes,
        })
        .collect();
    // Stable, so rows of equal pages stay by name and cause.
    rows.sort_by_key(|row| std::cmp::Reverse(row.pages));
    rows
}

/// How stacks were taken through one file's code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleUnwind {
    /// As the processes mapped it, escaped; `[vdso]` is the kernel's.
    pub path: Arc<str>,
    /// In hexadecimal; `None` where the file has none.
    pub build_id: Option<String>,
    /// By what.
    pub unwind: UnwoundBy,
    /// What the tables were built from: `.eh_frame`, `.debug_frame` or both; `None` without tables.
    pub source: Option<String>,
    /// Rows of the tables, of 8 bytes each.
    pub rows: u64,
    /// Why there are no tables, or not all; absent when there is nothing to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What a module's frames are found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnwoundBy {
    /// Tables of the file.
    Tables,
    /// Frame pointers.
    FramePointers,
    /// Nothing: a stack ends there.
    Nothing,
}

/// Something that would make a process copy less.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Advice {
    /// Stable name.
    pub id: String,
    /// What to do.
    pub title: String,
    /// Why it would help.
    pub why: String,
    /// By how much.
    pub saves_bytes: u64,
    /// The figures behind it.
    pub evidence: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample::sample_of;

    #[test]
    fn types_are_summed_over_call_sites_and_ordered() {
        let copies = [
            (3, CauseName::Refcount, "walk", Some("str")),
            (4, CauseName::Refcount, "render", Some("str")),
            (7, CauseName::Gc, "walk", Some("dict")),
            (7, CauseName::Refcount, "walk", Some("dict")),
            (9, CauseName::Refcount, "walk", Some("tuple")),
            (50, CauseName::Data, "walk", None),
        ];
        let rows = type_rows(&sample_of(&copies).call_sites);
        let rows: Vec<_> = rows
            .iter()
            .map(|row| (&*row.object_type, row.cause, row.pages, row.bytes))
            .collect();
        assert_eq!(
            rows,
            [
                ("tuple", CauseName::Refcount, 9, 9 * 4096),
                ("dict", CauseName::Refcount, 7, 7 * 4096),
                ("dict", CauseName::Gc, 7, 7 * 4096),
                ("str", CauseName::Refcount, 7, 7 * 4096),
            ]
        );
        assert!(type_rows(&[]).is_empty());
    }
}

impl ByCause {
    /// Adds pages of one cause.
    pub fn add_pages(&mut self, cause: CauseName, pages: u64) {
        *match cause {
            CauseName::Refcount => &mut self.refcount,
            CauseName::Gc => &mut self.gc,
            CauseName::Allocator => &mut self.allocator,
            CauseName::Object => &mut self.object,
            CauseName::Data => &mut self.data,
            CauseName::Kernel => &mut self.kernel,
            CauseName::Remote => &mut self.remote,
            CauseName::Unknown => &mut self.unknown,
        } += pages;
    }

    /// Adds all of another.
    pub fn add(&mut self, more: &Self) {
        self.refcount += more.refcount;
        self.gc += more.gc;
        self.allocator += more.allocator;
        self.object += more.object;
        self.data += more.data;
        self.kernel += more.kernel;
        self.remote += more.remote;
        self.unknown += more.unknown;
    }

    /// Pages that were only read.
    #[must_use]
    pub fn copy_on_read(&self) -> u64 {
        self.refcount + self.gc
    }
}

impl ByOrigin {
    /// Adds all of another.
    pub fn add(&mut self, more: &Self) {
        self.fork += more.fork;
        self.ksm += more.ksm;
        self.file += more.file;
        self.hugetlb += more.hugetlb;
    }
}
