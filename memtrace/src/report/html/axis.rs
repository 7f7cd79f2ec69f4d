//! The axes of the curve: columns of time, and round figures at their ends.

use super::percentage;
use crate::profile::Timeline;
use crate::report::words::{seconds, size};

/// Columns of an area: more than that are too narrow to be seen.
const COLUMNS: usize = 300;

/// The axis of time.
pub(super) struct Axis {
    pub bins: usize,
    /// Bins in one column.
    pub step: usize,
    pub interval_s: f64,
}

impl Axis {
    pub fn of(timeline: &Timeline) -> Self {
        let bins = timeline.bins();
        Self {
            bins,
            step: bins.div_ceil(COLUMNS).max(1),
            interval_s: timeline.interval_s,
        }
    }

    pub fn span_s(&self) -> f64 {
        self.bins as f64 * self.interval_s
    }

    /// Seconds of a column.
    pub fn column_s(&self) -> f64 {
        self.step as f64 * self.interval_s
    }

    /// Sums of the bins of each column.
    pub fn columns(&self, bins: &[u64]) -> Vec<u64> {
        let sum = |bins: &[u64]| {
            bins.iter()
                .fold(0, |sum: u64, &bin| sum.saturating_add(bin))
        };
        bins.chunks(self.step).map(sum).collect()
    }

    /// Where a bin begins, 0 to 1000.
    pub fn x(&self, bin: usize) -> f64 {
        percentage(bin.min(self.bins) as f64 / self.bins.max(1) as f64) * 10.0
    }

    /// Round seconds, with their places.
    pub fn labels(&self) -> String {
        let span = self.span_s();
        let step = step(span / 8.0);
        let mut labels = String::new();
        for at in 0..=8 {
            let at_s = f64::from(at) * step;
            let x = at_s / span;
            if !x.is_finite() || x > 1.0 {
                break;
            }
            let anchor = match x {
                0.0 => "start",
                x if x > 0.95 => "end",
                _ => "middle",
            };
            // Every other label is left out on a phone.
            let class = if at % 2 == 1 { " class=\"wide\"" } else { "" };
            let text = if at == 0 {
                "0 s".to_owned()
            } else {
                short_seconds(at_s)
            };
            labels.extend([format!(
                "<text{class} x=\"{}%\" y=\"12\" text-anchor=\"{anchor}\">{text}</text>",
                percentage(x)
            )]);
        }
        format!(
            "<div class=\"row\"><span class=\"y\"></span><svg class=\"axis\" aria-hidden=\"true\">{labels}</svg></div>\n"
        )
    }
}

/// `2.5 s`, `90 s`, `10m 00s`: without digits that say nothing.
pub(super) fn short_seconds(at_s: f64) -> String {
    match at_s {
        ..1.0 => seconds(at_s),
        ..120.0 => format!("{} s", (at_s * 100.0).round() / 100.0),
        _ => seconds(at_s),
    }
}

/// Between labels of the axis: the next 1, 2 or 5 of a power of ten, at least `value`.
fn step(value: f64) -> f64 {
    if !(value.is_finite() && value > 0.0) {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 5.0].map(|factor| factor * power);
    let fitting = steps.into_iter().find(|it| *it >= value);
    fitting.unwrap_or(10.0 * power)
}

/// What a plot reaches up to: a round size, at least `most`.
pub(super) fn ceiling(most: u64) -> u64 {
    let mut unit = 1u64;
    while most / 1000 >= unit && unit < 1 << 50 {
        unit <<= 10;
    }
    let tens = [1, 10, 100, 1000].into_iter();
    let round = tens.flat_map(|ten| [10, 15, 20, 30, 40, 50, 60, 80].map(|it| it * ten));
    let mut sizes = round.map(|tenths| unit.saturating_mul(tenths) / 10);
    let fitting = sizes.find(|size| *size >= most);
    fitting.unwrap_or(most).max(1)
}

/// `300 MiB`, where [`size`] has digits that say nothing.
pub(super) fn round_size(bytes: u64) -> String {
    size(bytes).replace(".0 ", " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_figures() {
        for (span, expected) in [(0.7, 1.0), (3.1, 5.0), (71.0, 100.0), (f64::NAN, 1.0)] {
            assert!((step(span) - expected).abs() < 1e-9, "{span}");
        }
        for (most, top) in [
            (0, "1 B"),
            (900, "1000 B"),
            (300 << 20, "300 MiB"),
            (587 << 20, "600 MiB"),
            (1023 << 20, "1 GiB"),
        ] {
            assert_eq!(round_size(ceiling(most)), top);
        }
        for most in [1, 999, 1_000, 1_025, 1 << 30, u64::MAX] {
            assert!(ceiling(most) >= most);
        }
    }
}
