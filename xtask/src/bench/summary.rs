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

#[cfg(test)]
mod tests {
    use super::Summary;

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
}
