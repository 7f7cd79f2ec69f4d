//! How many tests ran, and which skipped themselves and why.
//!
//! Tests that passed and those that skipped themselves look the same to cargo, so a test that skips
//! itself leaves a line in a file (`memtrace/tests/skipped`), and the end of a run sums them up.

use std::collections::{BTreeMap, BTreeSet};

/// What the test harness writes in front of a program's figures.
const RESULT: &str = "test result: ";

/// What is known of the tests of a run.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    passed: usize,
    failed: usize,
    /// Names of tests by why they were skipped.
    skipped: BTreeMap<String, BTreeSet<String>>,
    /// Tests that were not even started, and why.
    not_started: Vec<(usize, String)>,
}

impl Tally {
    /// Reads a line that a test program printed.
    pub fn line(&mut self, line: &str) {
        let Some((_, figures)) = line.split_once(RESULT) else {
            return;
        };
        let count = |what: &str| {
            let before = figures.split(what).next().unwrap_or_default();
            let digits = before.rsplit(' ').next().unwrap_or_default();
            digits.parse().unwrap_or(0)
        };
        self.passed += count(" passed");
        self.failed += count(" failed");
    }

    /// Reads the file in which tests say that they skip themselves: a name, a tab and why.
    pub fn skips(&mut self, text: &str) {
        for line in text.lines() {
            if let Some((name, why)) = line.split_once('\t') {
                let names = self.skipped.entry(why.to_owned()).or_default();
                names.insert(name.to_owned());
            }
        }
    }

    /// So many tests are not started at all.
    pub fn not_started(&mut self, count: usize, why: &str) {
        self.not_started.push((count, why.to_owned()));
    }

    /// The end of a run, for whoever reads it.
    pub fn shown(&self) -> String {
        let not_started = || self.not_started.iter().map(|(count, why)| (*count, why));
        let themselves = self.skipped.values().flatten().collect::<BTreeSet<_>>();
        let skipped = themselves.len() + not_started().map(|(count, _)| count).sum::<usize>();
        let all = self.passed + self.failed + not_started().map(|(count, _)| count).sum::<usize>();
        let failed = match self.failed {
            0 => String::new(),
            failed => format!(", {failed} FAILED"),
        };
        let mut reasons: Vec<_> = self
            .skipped
            .iter()
            .map(|(why, names)| (names.len(), why))
            .chain(not_started())
            .collect();
        if reasons.is_empty() {
            return format!("xtask: {all} tests{failed}, none skipped");
        }
        // The most frequent first.
        reasons.sort_by(|(one, why), (other, because)| (other, why).cmp(&(one, because)));
        let mut lines = vec![format!("xtask: {all} tests{failed}, {skipped} skipped:")];
        lines.extend(
            reasons
                .iter()
                .map(|(count, why)| format!("xtask:   {count} because {why}")),
        );
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_harness_figures_are_added_up_in_colour_too() {
        let mut tally = Tally::default();
        tally.line("running 3 tests");
        tally.line("test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out");
        tally.line("test result: \u{1b}[31mFAILED\u{1b}(B\u{1b}[m. 30 passed; 2 failed; 0 ignored");
        tally.line("a test that prints passed; failed");
        assert_eq!((tally.passed, tally.failed), (42, 2));
        assert_eq!(tally.shown(), "xtask: 44 tests, 2 FAILED, none skipped");
    }

    #[test]
    fn skips_are_summed_up_by_their_reasons() {
        let mut tally = Tally {
            passed: 20,
            ..Tally::default()
        };
        tally.skips(
            "a::one\tthere is no Python 3.8 here (pyenv install 3.8)\n\
             a::two\tgdb is not installed (apt-get install gdb)\n\
             a::two\tgdb is not installed (apt-get install gdb)\n\
             a::three\tgdb is not installed (apt-get install gdb)\n\
             a line without a tab\n",
        );
        assert_eq!(
            tally.shown(),
            "xtask: 20 tests, 3 skipped:\n\
             xtask:   2 because gdb is not installed (apt-get install gdb)\n\
             xtask:   1 because there is no Python 3.8 here (pyenv install 3.8)"
        );
    }

    #[test]
    fn a_test_that_skips_two_parts_is_one_skipped_test() {
        let mut tally = Tally::default();
        tally.skips("one\tthere is no gcc\none\tthere is no gdb\n");
        assert!(tally.shown().contains(" 1 skipped:"), "{}", tally.shown());
    }

    #[test]
    fn tests_that_were_not_started_count_as_skipped() {
        let mut tally = Tally {
            passed: 5,
            ..Tally::default()
        };
        tally.not_started(100, "they need root, and there is no sudo here");
        assert_eq!(
            tally.shown(),
            "xtask: 105 tests, 100 skipped:\n\
             xtask:   100 because they need root, and there is no sudo here"
        );
    }
}
