//! One file's unwind table: as it is built, kept on disk, and given to the BPF side.

use memtrace_common::unwind::{Row, Rule};

/// How the callers of a file's functions are found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnwindTable {
    /// What the rows' addresses are counted from, in the file's own numbering.
    pub base: u64,
    /// Strictly by address; neighbours differ in more than their address. A row of the kind
    /// `CFA_RULE` refers to [`UnwindTable::rules`]. The last one is a gap.
    pub rows: Vec<Row>,
    /// Rules that do not fit in a row, each once; at most `MAX_RULES`.
    pub rules: Vec<Rule>,
    /// What it was built from.
    pub source: RowSource,
    /// How many of the rows were made of the code itself, where no section says anything of it.
    pub from_code: u64,
    /// Whether there was no time to look at all of the code.
    pub is_partial: bool,
    /// Functions whose description was damaged, and left out.
    pub damaged: u64,
}

/// Which sections rows come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RowSource {
    /// The file has neither of the two.
    #[default]
    None,
    /// `.eh_frame`.
    EhFrame,
    /// `.debug_frame`.
    DebugFrame,
    /// Both: `.debug_frame` only where `.eh_frame` has nothing.
    Both,
}

/// A hash of all that a table is built from, which is its name, too.
pub type TableIdentity = [u8; 32];

/// Why there is no table, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(pub String);
