//! Stacks of a profile, their frames, and what was not known of them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::other::Other;

/// Pages that one stack copied.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StackPages {
    /// Copied pages.
    pub pages: u64,
    /// Whether frames are missing at the root.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// Why they are; absent where they are not, and in reports of versions that
    /// did not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncated_why: Option<Truncated>,
    /// Leaf first; inlined functions come before the one that they are inlined into.
    pub frames: Arc<[Arc<Frame>]>,
}

/// Why frames are missing at a stack's root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", expecting = "not a name")]
pub enum Truncated {
    /// There were more than are taken.
    Depth,
    /// The address of the last one was in no code that was known to be mapped.
    NoMapping,
    /// Its code had been mapped so shortly before that it was not known yet.
    JustMapped,
    /// The unwind tables of its file had not been built yet.
    TablesNotBuilt,
    /// Its code has no unwind tables, and frame pointers were not to be followed or led no further.
    NoTables,
    /// There was no room for the unwind tables of its file.
    NoRoom,
    /// The unwind tables of its file do not cover it, and the code itself does not show where its
    /// caller is.
    Gap,
    /// Its unwind table has a rule that is not supported.
    Unsupported,
    /// The stack could not be read there.
    Unreadable,
    /// What was read is not a stack.
    Damaged,
    /// It is where a coroutine's stack begins: a greenlet's, or that of a context of `makecontext`.
    /// Who let it go on is not on that stack.
    Coroutine,
    /// There were more Python frames than are taken, or they could not be read.
    Python,
    /// The stack was not taken, or got lost.
    NotTaken,
    /// It stands for stacks of its call site that were rarer than all others, when there were too
    /// many to keep: only the blamed frame is left.
    Others,
    /// A reason of a later version.
    #[serde(untagged)]
    Other(Other),
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

#[cfg(test)]
impl Frame {
    /// A native function of this module, for tests.
    pub(crate) fn native(function: &str, module: &str) -> Self {
        Self {
            function: function.into(),
            file: None,
            line: None,
            module: Some(module.into()),
            address: 1,
            language: Language::Native,
            inlined: false,
            unknown: None,
        }
    }
}

impl Frame {
    /// A frame in place of one that is not known: `function` is what is shown, such as `[unknown]`.
    #[must_use]
    pub fn placeholder(function: &str, why: Unknown) -> Self {
        Self {
            function: function.into(),
            file: None,
            line: None,
            module: None,
            address: 0,
            language: Language::Native,
            inlined: false,
            unknown: Some(why),
        }
    }
}

/// What a function was written in, as far as it matters to a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", expecting = "not a name")]
pub enum Language {
    /// Python, run by CPython.
    Python,
    /// Compiled code.
    Native,
    /// The kernel.
    Kernel,
    /// A language of a later version.
    #[serde(untagged)]
    Other(Other),
}

impl Language {
    /// As reports spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Native => "native",
            Self::Kernel => "kernel",
            Self::Other(other) => other.name(),
        }
    }

    /// Whether an interpreter runs it: its functions are what a reader knows, and native frames
    /// between them are the interpreter's. So are, to this version, all languages of later ones.
    #[must_use]
    pub fn is_interpreted(self) -> bool {
        match self {
            Self::Python | Self::Other(_) => true,
            Self::Native | Self::Kernel => false,
        }
    }
}

/// Why a frame has no function name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", expecting = "not a name")]
pub enum Unknown {
    /// The process's mappings could not be read, since it had already exited.
    ProcessGone,
    /// The process's mappings may not be read.
    NotPermitted,
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
    /// The record of the fault, or the name of its stack, was still on its way when the profile was
    /// made.
    Pending,
    /// The stack was dropped on its way from the kernel.
    StackLost,
    /// The end of the fault was not seen, so no stack was taken.
    NoEnd,
    /// Stacks were not asked for.
    UnwindOff,
    /// The code object of a Python frame could not be read, or had been freed.
    CodeGone,
    /// A reason of a later version.
    #[serde(untagged)]
    Other(Other),
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
    /// What the tables were built from: `.eh_frame`, `.debug_frame`, `code` or several of them, with
    /// ` and ` in between; `None` without tables. `code` is code that the others say nothing of:
    /// its own instructions show where its callers are.
    pub source: Option<String>,
    /// Rows of the tables, of 8 bytes each.
    pub rows: u64,
    /// How many of these are of `code`; absent when none are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub code_rows: u64,
    /// Why there are no tables, or not all; absent when there is nothing to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What a module's frames are found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", expecting = "not a name")]
pub enum UnwoundBy {
    /// Tables of the file.
    Tables,
    /// The code itself, since the file has no tables.
    Code,
    /// Frame pointers.
    FramePointers,
    /// Nothing: a stack ends there.
    Nothing,
    /// Something of a later version.
    #[serde(untagged)]
    Other(Other),
}
