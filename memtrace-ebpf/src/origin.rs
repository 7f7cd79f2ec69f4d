//! What the kernel said about a fault's page, and what follows from it.
//!
//! The kernel has no event for "a page was copied". What it has: the page was present or not when
//! the fault came (the error code), whether a page was allocated, of which order and whether to be
//! zeroed (`mm_page_alloc`), and which of the process's counters changed (`rss_stat`). Together
//! they decide.

use memtrace_common::record::Origin;

/// The page was present: the fault was about protection.
pub const PRESENT: u32 = 1 << 0;
/// A page was allocated.
pub const ALLOCATED: u32 = 1 << 1;
/// That page is all zeroes, or a huge one: it holds no old contents.
pub const ZEROED: u32 = 1 << 2;
/// That page was given back: the copy was abandoned.
pub const FREED: u32 = 1 << 3;
/// The process's count of anonymous pages changed.
pub const RSS_ANON: u32 = 1 << 4;
/// The process's count of file or shared-memory pages changed.
pub const RSS_FILE: u32 = 1 << 5;
/// A page came back from swap.
pub const SWAPPED_IN: u32 = 1 << 6;

/// What a fault did.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The process got a new page holding the old contents.
    Copied(Origin),
    /// Settled without a new page.
    Reuse,
    /// The zero page was replaced.
    Zero,
    /// A page that was absent is now there.
    FirstTouch,
    /// Another thread had been faster.
    Aborted,
}

/// Decides what a fault did whose marks are `marks`.
#[inline(always)]
pub fn outcome(marks: u32) -> Outcome {
    let present = marks & PRESENT != 0;
    let anon = marks & RSS_ANON != 0;
    if marks & ALLOCATED == 0 {
        return match (present, anon) {
            // Only the huge zero page is replaced without an allocation that can be told.
            (true, true) => Outcome::Zero,
            (true, false) => Outcome::Reuse,
            (false, _) => Outcome::FirstTouch,
        };
    }
    if marks & FREED != 0 {
        return Outcome::Aborted;
    }
    if marks & ZEROED != 0 {
        return if present {
            Outcome::Zero
        } else {
            Outcome::FirstTouch
        };
    }
    if present {
        // A present file page leaves one count and enters the other; a shared anonymous page,
        // KSM's too, stays in the same.
        let file = anon && marks & RSS_FILE != 0;
        return Outcome::Copied(if file { Origin::File } else { Origin::Fork });
    }
    if marks & SWAPPED_IN != 0 {
        // What came back from swap was shared, and a page was allocated after that.
        return Outcome::Copied(Origin::Fork);
    }
    // An absent page that is not zeroed holds a file's contents: private to the process when it
    // counts as anonymous, the shared page itself when it does not.
    if anon {
        Outcome::Copied(Origin::File)
    } else {
        Outcome::FirstTouch
    }
}
