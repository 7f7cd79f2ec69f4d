//! What is known of copied pages, summed up.

use crate::profile::{NotCompared, Reason, Unchanged};

/// Who had what a page was copied from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum With {
    /// An ancestor of the process.
    Ancestor,
    /// A child.
    Child,
    /// The parent, when the process ended.
    ParentInTime,
}

/// What is known of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It was compared.
    Compared {
        /// Whether it still is what it was.
        same: bool,
        /// Whether it is known to have changed in more than counts.
        changed: bool,
        /// With whose page.
        with: With,
    },
    /// It was not.
    Not(Reason),
}

/// Pages that were compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// How many.
    pub pages: u64,
    /// Those that still are what they were.
    pub unchanged: u64,
    /// Those that are known to have changed in more than counts.
    pub changed: u64,
    /// Those that were compared with a child's.
    pub with_child: u64,
    /// Those that were looked at when their process ended.
    pub at_exit: u64,
}

impl Compared {
    /// Adds what was found of others.
    pub fn absorb(&mut self, other: Self) {
        let Self {
            pages,
            unchanged,
            changed,
            with_child,
            at_exit,
        } = other;
        self.pages += pages;
        self.unchanged += unchanged;
        self.changed += changed;
        self.with_child += with_child;
        self.at_exit += at_exit;
    }
}

/// What was found of some pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Those that were compared.
    pub compared: Compared,
    /// The others.
    pub not: NotCompared,
}

impl Findings {
    fn add(&mut self, found: Found) {
        match found {
            Found::Compared {
                same,
                changed,
                with,
            } => self.compared.absorb(Compared {
                pages: 1,
                unchanged: u64::from(same),
                changed: u64::from(changed),
                with_child: u64::from(with == With::Child),
                at_exit: u64::from(with == With::ParentInTime),
            }),
            Found::Not(reason) => self.not.add(reason, 1),
        }
    }

    /// What these, a sample, say about `pages`. A process of which nothing is in the sample may have
    /// been comparable in all its pages.
    #[must_use]
    pub fn of(&self, pages: u64) -> Unchanged {
        let compared = self.compared.pages;
        let size = compared + self.not.gone();
        let part = |of_sample: u64| match size {
            0 => 0,
            _ => (u128::from(pages) * u128::from(of_sample) / u128::from(size)) as u64,
        };
        let mut not = NotCompared::default();
        for (reason, of_sample) in self.not.reasons() {
            not.add(reason, part(of_sample));
        }
        // What rounding leaves over goes to the largest part, so that sums hold.
        let left = pages - part(compared) - not.gone();
        let largest = self.not.reasons().into_iter().max_by_key(|&(_, n)| n);
        match largest {
            Some((reason, n)) if n > compared => not.add(reason, left),
            _ => not.beyond_budget = left,
        }
        let comparable_pages = pages - not.gone();
        not.beyond_budget = comparable_pages - compared;
        Unchanged {
            unchanged_pages: self.compared.unchanged,
            compared_pages: compared,
            comparable_pages,
            gone_pages: not.gone(),
            compared_with_child_pages: self.compared.with_child,
            compared_at_exit_pages: self.compared.at_exit,
            not_compared: Some(not),
        }
    }
}

impl FromIterator<Found> for Findings {
    fn from_iter<I: IntoIterator<Item = Found>>(all: I) -> Self {
        let mut findings = Self::default();
        all.into_iter().for_each(|found| findings.add(found));
        findings
    }
}

/// Pages that could not be compared for one reason.
#[must_use]
pub fn all_not(reason: Reason, pages: u64) -> Unchanged {
    let mut not = NotCompared::default();
    not.add(reason, pages);
    Unchanged {
        gone_pages: pages,
        not_compared: Some(not),
        ..Unchanged::default()
    }
}
