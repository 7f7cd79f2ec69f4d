//! What a fault did, decided from what the kernel said about its page.
//!
//! The kernel has no event for "a page was copied". It does tell whether the page was present when
//! the fault came (the error code), whether a page was allocated, of which order and whether to be
//! zeroed (`mm_page_alloc`), and which of the process's counters changed (`rss_stat`). Each of
//! these sets a mark on the fault's window; together they decide.
//!
//! The BPF side decides. The function is here because here it can be tested, against the very table
//! that ARCHITECTURE.md shows.

use crate::record::Origin;

/// Mark: the page was present, so the fault was about protection.
pub const PRESENT: u32 = 1 << 0;
/// Mark: a page was allocated.
pub const ALLOCATED: u32 = 1 << 1;
/// Mark: that page is all zeroes, or a huge one, so it holds no old contents.
pub const ZEROED: u32 = 1 << 2;
/// Mark: that page was given back, so the copy was abandoned.
pub const FREED: u32 = 1 << 3;
/// Mark: the process's count of anonymous pages changed.
pub const RSS_ANON: u32 = 1 << 4;
/// Mark: the process's count of file or shared-memory pages changed.
pub const RSS_FILE: u32 = 1 << 5;
/// Mark: a page came back from swap.
pub const SWAPPED_IN: u32 = 1 << 6;
/// Mark: the process's count of hugetlb pages changed.
pub const HUGETLB: u32 = 1 << 7;

/// What a fault did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The process got a new page holding the old contents.
    Copied(Origin),
    /// It was settled without a new page.
    Reuse,
    /// The zero page was replaced.
    Zero,
    /// A page that was absent is now there.
    FirstTouch,
    /// It gave the process no page and copied none: another thread had settled it, or the kernel
    /// had, which moves pages and hides them for a while.
    SettledElsewhere,
}

/// Decides what a fault did whose marks are `marks`. Bits that are not marks are ignored.
#[must_use]
#[inline(always)]
pub const fn outcome(marks: u32) -> Outcome {
    let present = marks & PRESENT != 0;
    let anon = marks & RSS_ANON != 0;
    // An absent page that comes is counted somewhere.
    let came = marks & (RSS_ANON | RSS_FILE | SWAPPED_IN | HUGETLB) != 0;
    if marks & ALLOCATED == 0 {
        return match (present, anon) {
            // Only the huge zero page is replaced without an allocation that can be told.
            (true, true) => Outcome::Zero,
            (true, false) => Outcome::Reuse,
            (false, _) if came => Outcome::FirstTouch,
            (false, _) => Outcome::SettledElsewhere,
        };
    }
    if marks & FREED != 0 {
        return Outcome::SettledElsewhere;
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
    // counts as anonymous, the shared page itself when it does not. Where nothing is counted, it is
    // in the page cache, and another thread had mapped it.
    if anon {
        Outcome::Copied(Origin::File)
    } else if came {
        Outcome::FirstTouch
    } else {
        Outcome::SettledElsewhere
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;

    /// The document whose table is the truth. It says of itself that the first row that fits
    /// decides.
    const DOCUMENT: &str = include_str!("../../ARCHITECTURE.md");

    /// What the table begins with.
    const HEADING: &str = concat!(
        "| allocated | freed | zeroed | present | counts changed | outcome |\n",
        "|---|---|---|---|---|---|\n"
    );

    /// Every combination of marks.
    const COMBINATIONS: u32 = 1 << 8;

    /// One row of the table.
    #[derive(Debug)]
    struct Row {
        /// Whether a mark must be there; `None` where it does not matter.
        marks: [(u32, Option<bool>); 4],
        counts: Counts,
        outcome: Outcome,
    }

    /// What a row asks of the counts.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Counts {
        /// All these marks are there.
        All(u32),
        /// One of these marks is there.
        OneOf(u32),
        /// Anything.
        Any,
        /// What no row above with the same marks asks for.
        Rest,
    }

    impl Row {
        fn parse(line: &str) -> Self {
            let line = line.strip_prefix('|').unwrap().strip_suffix('|').unwrap();
            let cells: Vec<_> = line.split('|').map(str::trim).collect();
            let [allocated, freed, zeroed, present, counts, outcome] = cells[..] else {
                panic!("six columns in {line}");
            };
            let mark = |cell| match cell {
                "yes" => Some(true),
                "no" => Some(false),
                "" | "any" => None,
                other => panic!("{other:?} in {line}"),
            };
            Self {
                marks: [
                    (ALLOCATED, mark(allocated)),
                    (FREED, mark(freed)),
                    (ZEROED, mark(zeroed)),
                    (PRESENT, mark(present)),
                ],
                counts: match counts {
                    "any" => Counts::Any,
                    "other, none" => Counts::Rest,
                    "anonymous" => Counts::All(RSS_ANON),
                    "file, hugetlb" => Counts::OneOf(RSS_FILE | HUGETLB),
                    "one of them" => Counts::OneOf(RSS_ANON | RSS_FILE | SWAPPED_IN | HUGETLB),
                    "anonymous and file" => Counts::All(RSS_ANON | RSS_FILE),
                    "swap, before the allocation" => Counts::All(SWAPPED_IN),
                    other => panic!("{other:?} in {line}"),
                },
                outcome: match outcome {
                    _ if outcome.starts_with("**copied, `fork`**") => Outcome::Copied(Origin::Fork),
                    _ if outcome.starts_with("**copied, `file`**") => Outcome::Copied(Origin::File),
                    _ if outcome.starts_with("`zero`") => Outcome::Zero,
                    _ if outcome.starts_with("`reuse`") => Outcome::Reuse,
                    _ if outcome.starts_with("`first_touch`") => Outcome::FirstTouch,
                    _ if outcome.starts_with("`settled_elsewhere`") => Outcome::SettledElsewhere,
                    other => panic!("{other:?} in {line}"),
                },
            }
        }

        fn fits(&self, marks: u32) -> bool {
            let has = |(mark, wanted): &(u32, Option<bool>)| {
                wanted.is_none_or(|wanted| wanted == (marks & mark != 0))
            };
            self.marks.iter().all(has)
                && match self.counts {
                    Counts::All(counts) => marks & counts == counts,
                    Counts::OneOf(counts) => marks & counts != 0,
                    Counts::Any | Counts::Rest => true,
                }
        }
    }

    fn table() -> Vec<Row> {
        let (_, rest) = DOCUMENT
            .split_once(HEADING)
            .expect("ARCHITECTURE.md has the table of outcomes");
        rest.lines()
            .take_while(|line| line.starts_with('|'))
            .map(Row::parse)
            .collect()
    }

    #[test]
    fn the_outcome_of_every_fault_is_the_one_in_the_document() {
        let table = table();
        for marks in 0..COMBINATIONS {
            let row = table.iter().find(|row| row.fits(marks));
            let row = row.unwrap_or_else(|| panic!("a row for the marks {marks:#b}"));
            assert_eq!(
                outcome(marks),
                row.outcome,
                "of the marks {marks:#b} and {row:?}"
            );
        }
    }

    #[test]
    fn every_row_of_the_document_is_what_decides_some_fault() {
        let table = table();
        assert_eq!(table.len(), 13, "rows");
        for (n, row) in table.iter().enumerate() {
            let decides = |marks| table.iter().position(|row| row.fits(marks)) == Some(n);
            assert!((0..COMBINATIONS).any(decides), "{row:?} decides nothing");
        }
    }

    #[test]
    fn the_rest_is_last_among_the_rows_with_the_same_marks() {
        let table = table();
        for (n, row) in table.iter().enumerate() {
            if row.counts == Counts::Rest {
                let overruled = |other: &Row| other.marks == row.marks;
                assert!(!table[n + 1..].iter().any(overruled), "after {row:?}");
                assert!(table[..n].iter().any(overruled), "before {row:?}");
            }
        }
    }

    #[test]
    fn bits_that_are_not_marks_change_no_outcome() {
        for marks in 0..COMBINATIONS {
            let more = marks | !(COMBINATIONS - 1);
            assert_eq!(outcome(more), outcome(marks), "of the marks {marks:#b}");
        }
    }
}
