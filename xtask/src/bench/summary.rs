//! Several measurements of one thing.

use serde::Serialize;

/// The median of some measurements, with their extremes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Summary {
    /// `None` when there are no values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (&min, &max) = (values.first()?, values.last()?);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(values[middle - 1], values[middle])
        } else {
            values[middle]
        };
        Some(Self { median, min, max })
    }

    /// "median (min to max)", each with `digits` after the point and an explicit sign if `signed`.
    pub fn show(&self, digits: usize, signed: bool) -> String {
        let one = |value: f64| {
            if signed {
                format!("{value:+.digits$}")
            } else {
                format!("{value:.digits$}")
            }
        };
        format!(
            "{} ({} to {})",
            one(self.median),
            one(self.min),
            one(self.max)
        )
    }
}

/// How far differences of pairs lie apart, and where their true middle can be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Median and extremes.
    pub summary: Summary,
    /// A quarter of the values is at most the first, a quarter at least the second.
    pub quartiles: [f64; 2],
    /// Where the median of many more pairs lies, with a probability of at least 95 %, whatever the
    /// values' distribution; `None` when there are too few to say.
    pub of_median: Option<[f64; 2]>,
}

/// What a spread says of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Difference {
    /// It may be none.
    WithinNoise,
    More,
    Less,
    TooFewPairs,
}

impl Spread {
    /// `None` when there are no values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let summary = Summary::of(values.iter().copied())?;
        let last = values.len() - 1;
        let quartiles = [values[last / 4], values[last - last / 4]];
        let of_median = cut(values.len()).map(|cut| [values[cut], values[last - cut]]);
        Some(Self {
            summary,
            quartiles,
            of_median,
        })
    }

    /// What it says.
    pub fn difference(&self) -> Difference {
        match self.of_median {
            None => Difference::TooFewPairs,
            Some([low, _]) if low > 0.0 => Difference::More,
            Some([_, high]) if high < 0.0 => Difference::Less,
            Some(_) => Difference::WithinNoise,
        }
    }
}

/// How many of `count` sorted values can be left out at each end, so that the median of all that
/// could be measured still lies between the rest with a probability of at least 95 %: a value is
/// above that median as often as below.
fn cut(count: usize) -> Option<usize> {
    const MISSED: f64 = 0.05 / 2.0;
    let mut cut = None;
    // The probability that exactly so many values, and that at most so many, are below.
    let mut exactly = 0.5_f64.powi(i32::try_from(count).ok()?);
    let mut at_most = exactly;
    for below in 0..count / 2 {
        if at_most > MISSED {
            break;
        }
        cut = Some(below);
        exactly *= (count - below) as f64 / (below + 1) as f64;
        at_most += exactly;
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_odd_number_of_values_is_one_of_them() {
        let summary = Summary::of([3.0, 1.0, 100.0]).unwrap();
        assert_eq!(
            summary,
            Summary {
                median: 3.0,
                min: 1.0,
                max: 100.0
            }
        );
        assert_eq!(summary.show(0, true), "+3 (+1 to +100)");
    }

    #[test]
    fn the_median_of_an_even_number_of_values_lies_between_two() {
        assert_eq!(
            Summary::of([4.0, 2.0]).unwrap().show(1, false),
            "3.0 (2.0 to 4.0)"
        );
        assert_eq!(Summary::of([]), None);
    }

    #[test]
    fn a_difference_is_one_only_when_hardly_any_pair_says_the_opposite() {
        let of = |values: &[f64]| Spread::of(values.iter().copied()).unwrap().difference();
        let seven = [3.0, 5.0, 4.0, 6.0, 2.0, 7.0, 1.0];
        assert_eq!(of(&seven), Difference::More);
        assert_eq!(of(&seven.map(|value| -value)), Difference::Less);
        // One of seven says the opposite.
        assert_eq!(of(&seven.map(|value| value - 1.5)), Difference::WithinNoise);
        assert_eq!(of(&seven[..5]), Difference::TooFewPairs);
    }

    #[test]
    fn more_pairs_let_more_of_the_extremes_go() {
        // As tables of the sign test have it.
        let cuts = [5, 6, 8, 9, 12, 15, 20].map(cut);
        let expected = [None, Some(0), Some(0), Some(1), Some(2), Some(3), Some(5)];
        assert_eq!(cuts, expected);
    }

    #[test]
    fn a_spread_has_its_quartiles() {
        let spread = Spread::of((0..9).map(f64::from)).unwrap();
        let expected = Spread {
            summary: Summary {
                median: 4.0,
                min: 0.0,
                max: 8.0,
            },
            quartiles: [2.0, 6.0],
            of_median: Some([1.0, 7.0]),
        };
        assert_eq!(spread, expected);
        assert_eq!(Spread::of([]), None);
    }
}
