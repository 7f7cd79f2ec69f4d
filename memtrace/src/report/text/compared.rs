//! What the comparison of copied pages proves, and why pages were not compared, in a sentence.

use crate::profile::{NotCompared, Reason, Unchanged};
use crate::report::words::{count, counted, whole_percent};

/// The sentence; `None` when there is nothing to say.
pub(super) fn sentence(unchanged: Unchanged) -> Option<String> {
    let Unchanged {
        unchanged_pages: same,
        compared_pages: compared,
        comparable_pages: comparable,
        gone_pages: gone,
        compared_with_child_pages: with_child,
        compared_at_exit_pages: _,
        not_compared: not,
    } = unchanged;
    let pages = |n| counted(n, "copied page", "copied pages");
    let of = if compared < comparable {
        format!("a sample of {} of {}", count(compared), pages(comparable))
    } else {
        pages(compared)
    };
    let whose = whose(with_child, compared);
    let (equal, they) = match same {
        1 => ("equals", "it was"),
        _ => ("equal", "they were"),
    };
    let not_compared = |one: &str, many: &str| {
        let why = why(not.unwrap_or_default(), gone);
        format!("{} could not be compared{why}.", counted(gone, one, many))
    };
    let found = match (compared, same) {
        (0, _) if gone == 0 => return None,
        (0, _) => return Some(not_compared("copied page", "copied pages")),
        (_, 0) => format!("Of {of}, none still equals {whose}."),
        _ => format!(
            "Of {of}, {} ({}) still {equal} {whose}: {they} copied for nothing.",
            count(same),
            whole_percent(same, compared),
        ),
    };
    Some(match gone {
        0 => found,
        _ => format!("{found} {}", not_compared("page", "pages")),
    })
}

/// With whose pages those were compared of which `with_child` were with a child's.
pub(in crate::report) fn whose(with_child: u64, compared: u64) -> &'static str {
    match with_child {
        0 => "the parent's",
        _ if with_child < compared => "the parent's or a child's",
        _ => "a child's",
    }
}

/// `: 812 were of processes that had ended, 30 were mapped after the fork`; nothing where it is not known,
/// as in reports of earlier versions.
fn why(not: NotCompared, gone: u64) -> String {
    let mut reasons = not.reasons().to_vec();
    reasons.retain(|(_, pages)| *pages > 0);
    // The most first; of equals the order of the fields.
    reasons.sort_by_key(|(_, pages)| std::cmp::Reverse(*pages));
    match &reasons[..] {
        [] => String::new(),
        [(only, _)] => format!(": {}", of_all(*only, gone)),
        several => {
            let parts: Vec<String> = several.iter().map(|&(why, n)| of_some(why, n)).collect();
            format!(": {}", parts.join(", "))
        }
    }
}

/// The reason of all pages, of which there are `pages`.
fn of_all(reason: Reason, pages: u64) -> String {
    let (its, they_are, they_were) = match pages {
        1 => ("its", "it is", "it was"),
        _ => ("their", "they are", "they were"),
    };
    match reason {
        Reason::Ended => format!("{its} process had ended"),
        Reason::Replaced => format!("{its} process had replaced its program"),
        Reason::Unreadable => format!("the memory of {its} process may not be read"),
        Reason::Unmapped => format!("{they_are} not mapped in both processes"),
        Reason::MappedAfterFork => format!("{they_were} mapped after the fork"),
        Reason::Absent => format!("{they_are} not in memory in both processes"),
        Reason::NoRelative => "no living relative has the original".to_owned(),
    }
}

/// The reason of some of the pages.
fn of_some(reason: Reason, pages: u64) -> String {
    let (are, were, processes) = match pages {
        1 => ("is", "was", "a process that"),
        _ => ("are", "were", "processes that"),
    };
    let n = count(pages);
    match reason {
        Reason::Ended => format!("{n} {were} of {processes} had ended"),
        Reason::Replaced => format!("{n} {were} of {processes} had replaced the program"),
        Reason::Unreadable => format!("{n} may not be read"),
        Reason::Unmapped => format!("{n} {are} not mapped in both processes"),
        Reason::MappedAfterFork => format!("{n} {were} mapped after the fork"),
        Reason::Absent => format!("{n} {are} not in memory in both processes"),
        Reason::NoRelative => format!("for {n} no living relative has the original"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sentence on `same` of `compared` of `comparable` pages, and on those that were not.
    fn found(same: u64, compared: u64, comparable: u64, not: NotCompared) -> String {
        let sentence = sentence(Unchanged {
            unchanged_pages: same,
            compared_pages: compared,
            comparable_pages: comparable,
            gone_pages: not.gone(),
            compared_with_child_pages: 0,
            compared_at_exit_pages: 0,
            not_compared: Some(not),
        });
        sentence.unwrap_or_default()
    }

    fn ended(pages: u64) -> NotCompared {
        NotCompared {
            ended: pages,
            ..NotCompared::default()
        }
    }

    #[test]
    fn what_was_copied_for_nothing_is_proven() {
        insta::assert_snapshot!(found(4_994, 5_117, 5_117, ended(0)), @"Of 5,117 copied pages, 4,994 (98%) still equal the parent's: they were copied for nothing.");
        insta::assert_snapshot!(found(4_994, 5_117, 40_000, ended(0)), @"Of a sample of 5,117 of 40,000 copied pages, 4,994 (98%) still equal the parent's: they were copied for nothing.");
        insta::assert_snapshot!(found(4_994, 5_117, 5_117, ended(1_200)), @"Of 5,117 copied pages, 4,994 (98%) still equal the parent's: they were copied for nothing. 1,200 pages could not be compared: their process had ended.");
        insta::assert_snapshot!(found(1, 5_117, 5_117, ended(1)), @"Of 5,117 copied pages, 1 (<1%) still equals the parent's: it was copied for nothing. 1 page could not be compared: its process had ended.");
        insta::assert_snapshot!(found(0, 5_117, 5_117, ended(0)), @"Of 5,117 copied pages, none still equals the parent's.");
        insta::assert_snapshot!(found(1, 1, 1, ended(0)), @"Of 1 copied page, 1 (100%) still equals the parent's: it was copied for nothing.");
        insta::assert_snapshot!(found(0, 0, 0, ended(12)), @"12 copied pages could not be compared: their process had ended.");
        assert_eq!(found(0, 0, 0, ended(0)), "");
    }

    #[test]
    fn the_reasons_are_named_by_size() {
        let several = NotCompared {
            ended: 30,
            replaced: 1,
            unreadable: 2,
            unmapped: 3,
            mapped_after_fork: 812,
            absent: 5,
            no_relative: 6,
            beyond_budget: 0,
        };
        insta::assert_snapshot!(found(0, 0, 0, several), @"859 copied pages could not be compared: 812 were mapped after the fork, 30 were of processes that had ended, for 6 no living relative has the original, 5 are not in memory in both processes, 3 are not mapped in both processes, 2 may not be read, 1 was of a process that had replaced the program.");
        let alone: Vec<String> = (several.reasons().into_iter())
            .flat_map(|(reason, _)| [of_all(reason, 1), of_all(reason, 2)])
            .collect();
        insta::assert_snapshot!(alone.join("\n"), @"
        its process had ended
        their process had ended
        its process had replaced its program
        their process had replaced its program
        the memory of its process may not be read
        the memory of their process may not be read
        it is not mapped in both processes
        they are not mapped in both processes
        it was mapped after the fork
        they were mapped after the fork
        it is not in memory in both processes
        they are not in memory in both processes
        no living relative has the original
        no living relative has the original
        ");
    }

    #[test]
    fn a_report_of_an_earlier_version_does_not_say_why() {
        let earlier = Unchanged {
            gone_pages: 12,
            ..Unchanged::default()
        };
        insta::assert_snapshot!(sentence(earlier).unwrap_or_default(), @"12 copied pages could not be compared.");
    }

    #[test]
    fn it_is_said_with_whose_pages_they_were_compared() {
        assert_eq!(whose(0, 64), "the parent's");
        assert_eq!(whose(3, 64), "the parent's or a child's");
        assert_eq!(whose(64, 64), "a child's");
    }
}
