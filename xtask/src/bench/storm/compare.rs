//! The project's memtrace beside another build of it, on the same storm in the same run.
//!
//! A machine's speed drifts by more than a change costs, so figures of two runs say little. Here
//! the two builds run directly after one another, each first by turns; a difference is that of such
//! a pair, and what counts is how the differences of all pairs lie.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::{Bench, Machine, Run, Size, Summary, Tracer, lost, pairs, seen_share, table, time};
use crate::bench::summary::{Difference, Spread};

/// The ways of getting stacks in which the two are compared.
const MODES: [&str; 3] = ["off", "fp", "auto"];

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Results {
    bench: &'static str,
    machine: Machine,
    size: Size,
    other: String,
    untraced_ns: Summary,
    modes: Vec<Mode>,
}

/// The two builds with one `--unwind`.
#[derive(Debug, Serialize)]
struct Mode {
    unwind: &'static str,
    /// Why the other has no figures.
    unavailable: Option<String>,
    figures: Option<Figures>,
}

#[derive(Debug, Serialize)]
struct Figures {
    /// Nanoseconds per copied page more than untraced, in the same round.
    added_ns: Summary,
    other_added_ns: Summary,
    /// By how much the project's adds more than the other, pair by pair.
    difference_ns: Spread,
    difference: Difference,
    seen_share: Option<Summary>,
    other_seen_share: Option<Summary>,
    lost: Option<u64>,
    other_lost: Option<u64>,
}

/// The runs of one mode, one of each build a round.
#[derive(Default)]
struct Runs {
    this: Vec<Run>,
    other: Vec<Run>,
    unavailable: Option<String>,
}

impl Bench<'_> {
    /// Runs both in turn.
    pub fn compare(&self, other: &Path) -> Result<Results> {
        let mut untraced = Vec::new();
        let mut modes = MODES.map(|mode| (mode, Runs::default()));
        for round in 0..=self.size.rounds {
            self.announce(round);
            untraced.push(self.storm(None, false)?);
            for (unwind, runs) in &mut modes {
                self.pair(unwind, round % 2 == 0, runs)?;
            }
        }
        // The warm-up.
        untraced.remove(0);
        let modes = modes.into_iter().map(|(unwind, runs)| {
            let (figures, unavailable) = match runs.unavailable {
                Some(why) => (None, Some(why)),
                None => (
                    Some(figures(&runs.this[1..], &runs.other[1..], &untraced)?),
                    None,
                ),
            };
            Ok(Mode {
                unwind,
                unavailable,
                figures,
            })
        });
        Ok(Results {
            bench: "storm --compare",
            machine: Machine::describe(),
            size: self.size,
            other: other.display().to_string(),
            modes: modes.collect::<Result<_>>()?,
            untraced_ns: time(&untraced)?,
        })
    }

    /// A run of each, the other one first or last. What the other cannot do is a result.
    fn pair(&self, unwind: &'static str, other_first: bool, runs: &mut Runs) -> Result<()> {
        if runs.unavailable.is_some() {
            return Ok(());
        }
        for is_other in [other_first, !other_first] {
            if !is_other {
                runs.this
                    .push(self.storm(Some(Tracer::Memtrace(unwind)), false)?);
                continue;
            }
            match self.storm(Some(Tracer::OtherMemtrace(unwind)), false) {
                Ok(run) => runs.other.push(run),
                Err(error) => runs.unavailable = Some(format!("{error:#}")),
            }
        }
        Ok(())
    }
}

fn figures(this: &[Run], other: &[Run], untraced: &[Run]) -> Result<Figures> {
    let differences = this
        .iter()
        .zip(other)
        .filter_map(|(this, other)| Some(this.ns? - other.ns?));
    let difference_ns = Spread::of(differences).context("no run was timed")?;
    Ok(Figures {
        added_ns: pairs(this, untraced, |with, without| with - without)?,
        other_added_ns: pairs(other, untraced, |with, without| with - without)?,
        difference: difference_ns.difference(),
        difference_ns,
        seen_share: seen_share(this),
        other_seen_share: seen_share(other),
        lost: lost(this),
        other_lost: lost(other),
    })
}

/// The figures for people, in Markdown.
pub fn markdown(results: &Results) -> String {
    let size = &results.size;
    let mut out = String::from("# What a copied page costs under two builds of memtrace\n\n");
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "A process forks {} children, one after the other; each writes one byte to each of {} shared \
         pages. The project's memtrace and the other one ({}) run directly after one another, each \
         first by turns, once in each of {} rounds after a warm-up that is thrown away. Untraced, a page takes \
         {} ns. Figures are medians, with minimum and maximum.\n\n{}\n",
        size.forks,
        size.pages,
        results.other,
        size.rounds,
        results.untraced_ns.show(0, false),
        results.machine.markdown(),
    );
    out.push_str(
        "| --unwind | added ns | the other's | difference of the pairs | middle half | median, 95 % \
         sure | | seen | lost |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for mode in &results.modes {
        let _ = writeln!(out, "{}", line(mode));
    }
    out
}

fn line(mode: &Mode) -> String {
    let Some(figures) = &mode.figures else {
        let why = mode.unavailable.as_deref().unwrap_or_default();
        let why = why.replace('|', "\\|");
        return format!("| {} | not measured: {why} | | | | | | | |", mode.unwind);
    };
    let range = |[low, high]: [f64; 2]| format!("{low:+.0} to {high:+.0}");
    let spread = &figures.difference_ns;
    format!(
        "| {} | {} | {} | {} | {} | {} | {} | {} and {} | {} and {} |",
        mode.unwind,
        figures.added_ns.show(0, true),
        figures.other_added_ns.show(0, true),
        spread.summary.show(0, true),
        range(spread.quartiles),
        spread.of_median.map_or("?".into(), range),
        match figures.difference {
            Difference::WithinNoise => "within noise",
            Difference::More => "MORE than the other",
            Difference::Less => "less than the other",
            Difference::TooFewPairs => "too few rounds to say",
        },
        table::percent(figures.seen_share),
        table::percent(figures.other_seen_share),
        table::said(figures.lost),
        table::said(figures.other_lost),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(times: &[f64]) -> Vec<Run> {
        let run = |&ns| Run {
            ns: Some(ns),
            pages: 1000,
            tracer: None,
        };
        times.iter().map(run).collect()
    }

    #[test]
    fn a_difference_is_that_of_a_pair_however_the_machine_drifts() {
        let untraced = runs(&[1000.0, 2000.0, 1500.0, 3000.0, 1000.0, 1200.0]);
        let other = runs(&[2000.0, 3000.0, 2500.0, 4000.0, 2000.0, 2200.0]);
        let this = runs(&[2010.0, 3012.0, 2508.0, 4011.0, 2009.0, 2210.0]);
        let figures = figures(&this, &other, &untraced).unwrap();
        assert!((figures.difference_ns.summary.median - 10.0).abs() < 1e-9);
        assert_eq!(figures.difference, Difference::More);
        assert!((figures.other_added_ns.median - 1000.0).abs() < 1e-9);
    }

    #[test]
    fn a_line_says_what_the_pairs_say() {
        let untraced = runs(&[1000.0; 6]);
        let other = runs(&[2000.0, 2100.0, 2200.0, 2000.0, 2100.0, 2200.0]);
        let this = runs(&[2020.0, 2080.0, 2230.0, 1990.0, 2110.0, 2190.0]);
        let mode = Mode {
            unwind: "auto",
            unavailable: None,
            figures: Some(figures(&this, &other, &untraced).unwrap()),
        };
        let line = line(&mode);
        assert!(line.contains("| +0 (-20 to +30) |"), "{line}");
        assert!(line.contains("| within noise |"), "{line}");
        assert!(line.contains("not said and not said"), "{line}");
    }

    #[test]
    fn what_the_other_cannot_do_is_said_in_its_place() {
        let mode = Mode {
            unwind: "auto",
            unavailable: Some("unknown value | auto".into()),
            figures: None,
        };
        let line = line(&mode);
        assert!(
            line.starts_with("| auto | not measured: unknown value \\| auto |"),
            "{line}"
        );
    }
}
