//! When in the life of its process a page was copied.

use serde::{Deserialize, Serialize};

use super::other::Other;

/// When in the life of its process a page was copied.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case", expecting = "not a name")]
pub enum Phase {
    /// While its program ran.
    #[default]
    Run,
    /// After the fork that made it, before it replaced its program, which it did soon after.
    BeforeExec,
    /// While it was on its way out: in exit handlers, or in what its language does at the end.
    Exit,
    /// A phase of a later version.
    #[serde(untagged)]
    Other(Other),
}

impl Phase {
    /// As reports spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::BeforeExec => "before_exec",
            Self::Exit => "exit",
            Self::Other(other) => other.name(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_is_spelled_as_it_is_written() {
        let later: Phase = serde_json::from_str("\"reload\"").unwrap();
        for phase in [Phase::Run, Phase::BeforeExec, Phase::Exit, later] {
            let written = serde_json::to_string(&phase).unwrap();
            assert_eq!(written, format!("\"{}\"", phase.name()));
            assert_eq!(serde_json::from_str::<Phase>(&written).unwrap(), phase);
        }
    }
}
