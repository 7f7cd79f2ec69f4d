//! Where and how a profile was recorded.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::other::{OrOther, Other};

/// The machine and how it was observed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Host {
    /// Kernel release, as `uname -r`.
    pub kernel: String,
    /// Architecture, as `uname -m`.
    pub arch: String,
    /// Bytes in a page.
    pub page_size: u64,
    /// How copies were seen.
    pub backend: BackendName,
    /// How stacks were taken.
    pub unwind: OrOther<Unwind>,
    /// Why stacks were taken otherwise than was asked for; absent when they were not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unwind_why: Option<String>,
    /// Whether Python frames were taken. Reports of versions that could not do it lack this.
    #[serde(default = "not_taken")]
    pub python: OrOther<Python>,
    /// Copies that this backend cannot see, a sentence each.
    pub blind_spots: Vec<String>,
}

fn not_taken() -> OrOther<Python> {
    Python::Off.into()
}

/// How copies were seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", expecting = "not a name")]
pub enum BackendName {
    /// Tracepoints and software events.
    Tracepoint,
    /// A backend of a later version.
    #[serde(untagged)]
    Other(Other),
}

impl fmt::Display for BackendName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tracepoint => "tracepoint",
            Self::Other(other) => other.name(),
        })
    }
}

/// How stacks are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Unwind {
    /// By unwind tables, and by frame pointers through code that has none.
    Auto,
    /// By unwind tables only.
    Dwarf,
    /// Follow frame pointers only.
    #[serde(rename = "fp")]
    #[value(name = "fp")]
    FramePointers,
    /// Take no stacks.
    Off,
}

/// Where Python frames and the kinds of Python's writes are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Python {
    /// In every process that runs CPython.
    Auto,
    /// Nowhere.
    Off,
}
