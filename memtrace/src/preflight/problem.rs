//! What keeps memtrace from doing its work, and how that is worded.

use std::fmt;

/// Something that keeps memtrace from doing its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong, as a clause.
    pub what: String,
    /// What was found, beside what is needed.
    pub found: String,
    /// What it prevents.
    pub effect: String,
    /// What to do.
    pub remedy: String,
}

/// All problems that were found; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            what,
            found,
            effect,
            remedy,
        } = self;
        write!(
            f,
            "{what}\n  found:  {found}\n  effect: {effect}\n  remedy: {remedy}"
        )
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.0.iter().enumerate() {
            let line_break = if at > 0 { "\n" } else { "" };
            write!(f, "{line_break}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}
impl std::error::Error for Problems {}

/// A problem with these four parts.
#[must_use]
pub fn problem(
    what: impl Into<String>,
    found: impl Into<String>,
    effect: impl Into<String>,
    remedy: impl Into<String>,
) -> Problem {
    Problem {
        what: what.into(),
        found: found.into(),
        effect: effect.into(),
        remedy: remedy.into(),
    }
}
