//! What would help.

use serde::{Deserialize, Serialize};

use super::other::Other;

/// Something that would make processes copy less.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Advice {
    /// Stable name of the rule: `gc-freeze`.
    pub id: String,
    /// What to do, as the subject of a sentence: `gc.freeze()` before the fork.
    pub title: String,
    /// Why it would help, and what not to expect of it.
    pub why: String,
    /// By how much: bytes of copies that were seen and would not have been made.
    pub saves_bytes: u64,
    /// How sure that is.
    #[serde(default)]
    pub confidence: Confidence,
    /// How it is done, step by step or as code, a line each.
    #[serde(default)]
    pub how: Vec<String>,
    /// The figures behind it.
    pub evidence: Vec<String>,
}

/// How sure a saving is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", expecting = "not a name")]
pub enum Confidence {
    /// What was written was seen, and the remedy is known to avoid it.
    High,
    /// The remedy avoids what was seen, if the program is as it seems to be.
    #[default]
    Medium,
    /// It may help: try it, and compare.
    Low,
    /// One of a later version.
    #[serde(untagged)]
    Other(Other),
}

impl Confidence {
    /// As reports spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Medium => "medium",
            Self::Low => "low",
            Self::Other(other) => other.name(),
        }
    }
}
