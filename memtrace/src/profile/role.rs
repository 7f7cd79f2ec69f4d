//! What processes are there for.

use serde::{Deserialize, Serialize};

use super::PrivateGrowth;
use super::other::Other;

/// Processes that are there for the same: they run the same program, and were forked in the same
/// way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Role {
    /// Names it in this report: `worker`, or with a number where there are several.
    pub id: String,
    /// What it is.
    pub kind: RoleKind,
    /// What its processes are called: `uwsgi`, or the title that they have set.
    pub name: String,
    /// How many processes there were.
    pub processes: u64,
    /// How many followed one another: processes of one generation lived at the same time, and one
    /// that was forked after another had ended is of the next.
    pub generations: u64,
    /// Of these, how many were forked during the trace, and so seen from their first fault.
    pub forked: u64,
    /// How many ended.
    pub ended: u64,
    /// Copied pages of all.
    pub copied_pages: u64,
    /// Bytes of those.
    pub copied_bytes: u64,
    /// Bytes that one process copied, the median over those of which all was seen, or over all where
    /// none was.
    pub median_bytes: u64,
    /// The most that one process copied.
    pub max_bytes: u64,
    /// Where the growth of their private memory came from; absent where memory was not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub growth: Option<PrivateGrowth>,
    /// How fast they lose what they share; absent where none was forked during the trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pace: Option<Pace>,
}

/// How soon after its fork a process copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// Milliseconds after which half of the pages were copied that processes of the role copied
    /// during the trace.
    pub half_ms: u64,
    /// After which 95 % were.
    pub most_ms: u64,
}

/// What a role is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", expecting = "not a name")]
pub enum RoleKind {
    /// It has forked processes that go on with its program, and was not forked so itself.
    Master,
    /// It was forked by another, and goes on with its program.
    Worker,
    /// It runs another program than the one that forked it.
    Helper,
    /// It is alone.
    Single,
    /// A kind of a later version.
    #[serde(untagged)]
    Other(Other),
}

impl RoleKind {
    /// As reports spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::Worker => "worker",
            Self::Helper => "helper",
            Self::Single => "single",
            Self::Other(other) => other.name(),
        }
    }
}
