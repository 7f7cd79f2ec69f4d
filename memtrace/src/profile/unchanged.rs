//! What became of copied pages.

use serde::{Deserialize, Serialize};

/// Copied pages compared with the page that they were copied from, where a relative still has it:
/// the nearest living ancestor, or for what a parent copied a living child. What still equals it was
/// copied for nothing. Where a process copied one page twice, it counts once.
///
/// `compared_pages` and `not_compared.beyond_budget` are `comparable_pages`; the other numbers of
/// `not_compared` are `gone_pages`; and both together are the pages that were copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unchanged {
    /// Pages that still equal what they were copied from.
    pub unchanged_pages: u64,
    /// Pages that were compared.
    pub compared_pages: u64,
    /// Copied pages that could have been: `compared_pages` is a sample of them when it is less.
    pub comparable_pages: u64,
    /// Copied pages that could not be compared; `not_compared` says why.
    pub gone_pages: u64,
    /// Of the compared pages, those of a parent that were compared with a living child's. Reports
    /// of earlier versions do not have it.
    #[serde(default)]
    pub compared_with_child_pages: u64,
    /// Of the compared pages, those that were looked at when their process ended. Reports of earlier
    /// versions do not have it.
    #[serde(default)]
    pub compared_at_exit_pages: u64,
    /// Why the others were not compared. Reports of earlier versions do not have it.
    #[serde(default)]
    pub not_compared: Option<NotCompared>,
}

impl Unchanged {
    /// Adds what was found of another process.
    pub fn absorb(&mut self, other: &Self) {
        // Without the rest pattern, so that a new figure is not forgotten.
        let Self {
            unchanged_pages,
            compared_pages,
            comparable_pages,
            gone_pages,
            compared_with_child_pages,
            compared_at_exit_pages,
            not_compared,
        } = *other;
        self.unchanged_pages += unchanged_pages;
        self.compared_pages += compared_pages;
        self.comparable_pages += comparable_pages;
        self.gone_pages += gone_pages;
        self.compared_with_child_pages += compared_with_child_pages;
        self.compared_at_exit_pages += compared_at_exit_pages;
        if let Some(more) = not_compared {
            self.not_compared.get_or_insert_default().absorb(&more);
        }
    }
}

/// Copied pages that were not compared, each counted under one reason that holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotCompared {
    /// Their process had ended.
    pub ended: u64,
    /// Their process had replaced its program.
    pub replaced: u64,
    /// The memory of their process may not be read.
    pub unreadable: u64,
    /// Their process has nothing mapped there any more, or the ancestor has not. Anonymous memory
    /// that a process mapped after the fork, and shared with children that have ended, looks the
    /// same.
    pub unmapped: u64,
    /// Their process has a file mapped there that the ancestor does not have, such as a library that
    /// it opened after the fork. A library that the ancestor has closed since looks the same.
    pub mapped_after_fork: u64,
    /// Mapped on both sides, but one of them has no page in memory there: swapped out, given back,
    /// or never looked at. What a process has unmapped when it ends is not told from that.
    pub absent: u64,
    /// No living relative has what they were copied from.
    pub no_relative: u64,
    /// There were more than are compared.
    pub beyond_budget: u64,
}

impl NotCompared {
    /// Those that could not be compared.
    #[must_use]
    pub fn gone(&self) -> u64 {
        let sum = |sum: u64, (_, pages): &(_, u64)| sum.saturating_add(*pages);
        self.reasons().iter().fold(0, sum)
    }

    /// Why pages could not be compared, with their numbers.
    #[must_use]
    pub fn reasons(&self) -> [(Reason, u64); 7] {
        // Without the rest pattern, so that a new reason is not forgotten.
        let Self {
            ended,
            replaced,
            unreadable,
            unmapped,
            mapped_after_fork,
            absent,
            no_relative,
            beyond_budget: _,
        } = *self;
        [
            (Reason::Ended, ended),
            (Reason::Replaced, replaced),
            (Reason::Unreadable, unreadable),
            (Reason::Unmapped, unmapped),
            (Reason::MappedAfterFork, mapped_after_fork),
            (Reason::Absent, absent),
            (Reason::NoRelative, no_relative),
        ]
    }

    /// Adds pages of which one reason is known.
    pub fn add(&mut self, reason: Reason, pages: u64) {
        *match reason {
            Reason::Ended => &mut self.ended,
            Reason::Replaced => &mut self.replaced,
            Reason::Unreadable => &mut self.unreadable,
            Reason::Unmapped => &mut self.unmapped,
            Reason::MappedAfterFork => &mut self.mapped_after_fork,
            Reason::Absent => &mut self.absent,
            Reason::NoRelative => &mut self.no_relative,
        } += pages;
    }

    /// Adds others.
    pub fn absorb(&mut self, other: &Self) {
        for (reason, pages) in other.reasons() {
            self.add(reason, pages);
        }
        self.beyond_budget += other.beyond_budget;
    }
}

/// Why a page could not be compared: a field of [`NotCompared`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// [`NotCompared::ended`].
    Ended,
    /// [`NotCompared::replaced`].
    Replaced,
    /// [`NotCompared::unreadable`].
    Unreadable,
    /// [`NotCompared::unmapped`].
    Unmapped,
    /// [`NotCompared::mapped_after_fork`].
    MappedAfterFork,
    /// [`NotCompared::absent`].
    Absent,
    /// [`NotCompared::no_relative`].
    NoRelative,
}

/// Pages of a call site, at most 64 by chance, compared as in [`Unchanged`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleUnchanged {
    /// Pages that still equal what they were copied from.
    pub unchanged_pages: u64,
    /// Pages that were compared.
    pub compared_pages: u64,
    /// Of those, pages that differ in more than counts: in a number by more than 64. It is not known of
    /// pages that were compared when their process ended. Reports of earlier versions do not have it.
    #[serde(default)]
    pub changed_pages: u64,
    /// Of those that were compared, pages of a parent that were compared with a living child's.
    /// Reports of earlier versions do not have it.
    #[serde(default)]
    pub compared_with_child_pages: u64,
}
