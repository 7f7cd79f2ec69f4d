//! Statistics of few values: averages, spreads, and how likely it is that two differ by chance.

use super::Spread;

/// Degrees of freedom beyond which nothing changes any more.
const MANY: f64 = 1_000.0;
/// Steps after which a continued fraction is near enough.
const STEPS: u32 = 500;

/// Bytes that processes copied, each.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sample {
    pub mean: f64,
    /// Square of the deviation of one process, as estimated from all; 0 for fewer than two.
    pub variance: f64,
    pub spread: Spread,
}

impl Sample {
    /// Of `processes`, of which those that are not in `bytes` copied nothing.
    pub(super) fn of(bytes: impl Iterator<Item = u64> + Clone, processes: u64) -> Self {
        let named = bytes.clone().count() as u64;
        let silent = processes.saturating_sub(named);
        let processes = processes.max(named);
        if processes == 0 {
            return Self::default();
        }
        let mean = bytes.clone().map(|b| b as f64).sum::<f64>() / processes as f64;
        let squares: f64 = bytes.clone().map(|b| (b as f64 - mean).powi(2)).sum();
        let squares = squares + silent as f64 * mean * mean;
        let least = bytes.clone().min().filter(|_| silent == 0);
        Self {
            mean,
            variance: squares / (processes as f64 - 1.0).max(1.0),
            spread: Spread {
                processes,
                min: least.unwrap_or(0),
                max: bytes.max().unwrap_or(0),
            },
        }
    }

    pub(super) fn count(&self) -> f64 {
        self.spread.processes as f64
    }

    /// The same, every value multiplied.
    pub(super) fn scaled(mut self, by: f64) -> Self {
        self.mean *= by;
        self.variance *= by * by;
        self
    }
}

/// A part of the uncertainty of a difference: a variance, and how much it is based on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub variance: f64,
    /// Degrees of freedom; infinite for what is assumed.
    pub freedom: f64,
}

/// How likely equal averages differ by `difference` or more, to either side, by chance: the test of
/// Welch.
pub(super) fn chance(difference: f64, parts: &[Part]) -> f64 {
    let variance: f64 = parts.iter().map(|part| part.variance).sum();
    if difference == 0.0 {
        return 1.0;
    }
    if variance <= 0.0 {
        return 0.0;
    }
    let doubt: f64 = (parts.iter())
        .map(|part| part.variance * part.variance / part.freedom)
        .sum();
    let freedom = (variance * variance / doubt).min(MANY);
    let t = difference / variance.sqrt();
    let chance = incomplete_beta(freedom / 2.0, 0.5, freedom / (freedom + t * t));
    // Figures of a made-up profile may be beyond all measure; then nothing is claimed.
    if chance.is_finite() {
        chance.clamp(0.0, 1.0)
    } else {
        1.0
    }
}

/// The regularised incomplete beta function.
fn incomplete_beta(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return x.clamp(0.0, 1.0);
    }
    let front = ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (1.0 - x).ln();
    // Each of the two fractions converges fast on its side.
    if x < (a + 1.0) / (a + b + 2.0) {
        front.exp() * fraction(a, b, x) / a
    } else {
        1.0 - front.exp() * fraction(b, a, 1.0 - x) / b
    }
}

/// Its continued fraction, by the method of Lentz.
fn fraction(a: f64, b: f64, x: f64) -> f64 {
    let not_zero = |value: f64| if value.abs() < 1e-300 { 1e-300 } else { value };
    let mut above = 1.0;
    let mut below = 1.0 / not_zero(1.0 - (a + b) * x / (a + 1.0));
    let mut result = below;
    for step in 1..=STEPS {
        let step = f64::from(step);
        let twice = a + 2.0 * step;
        let even = step * (b - step) * x / ((twice - 1.0) * twice);
        let odd = -(a + step) * (a + b + step) * x / (twice * (twice + 1.0));
        let before = result;
        for term in [even, odd] {
            below = 1.0 / not_zero(1.0 + term * below);
            above = not_zero(1.0 + term / above);
            result *= above * below;
        }
        if (result - before).abs() < 1e-14 * result.abs() {
            break;
        }
    }
    result
}

/// The logarithm of the gamma function of a positive number, by the series of Stirling.
fn ln_gamma(x: f64) -> f64 {
    // The series is good from here on; below, Γ(x) = Γ(x + 1) / x leads there.
    let (mut x, mut shift) = (x, 0.0);
    while x < 10.0 {
        shift += x.ln();
        x += 1.0;
    }
    let series = 1.0 / (12.0 * x) - 1.0 / (360.0 * x.powi(3)) + 1.0 / (1260.0 * x.powi(5))
        - 1.0 / (1680.0 * x.powi(7));
    (x - 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln() + series - shift
}

#[cfg(test)]
mod tests {
    use super::*;

    fn student(t: f64, freedom: f64) -> f64 {
        let part = Part {
            variance: 1.0,
            freedom,
        };
        chance(t, &[part])
    }

    #[test]
    fn chances_are_those_of_tables_of_the_t_distribution() {
        for (t, freedom, expected) in [
            (12.706, 1.0, 0.05),
            (4.303, 2.0, 0.05),
            (2.776, 4.0, 0.05),
            (2.228, 10.0, 0.05),
            (3.169, 10.0, 0.01),
            (4.587, 10.0, 0.001),
            (31.599, 2.0, 0.001),
            (5.959, 6.0, 0.001),
            (-2.086, 20.0, 0.05),
        ] {
            let found = student(t, freedom);
            assert!(
                (found - expected).abs() < expected * 0.005,
                "t {t}, {freedom}: {found} and {expected}"
            );
        }
        assert!((student(1.95996, f64::INFINITY) - 0.05).abs() < 4e-4);
        assert!(student(400.0, 14.0) < 1e-20);
    }

    #[test]
    fn nothing_is_claimed_of_figures_beyond_all_measure() {
        assert!((student(0.0, 3.0) - 1.0).abs() < 1e-12);
        assert!(
            (chance(
                f64::NAN,
                &[Part {
                    variance: 1.0,
                    freedom: 2.0
                }]
            ) - 1.0)
                .abs()
                < 1e-12
        );
        let huge = Part {
            variance: f64::INFINITY,
            freedom: 2.0,
        };
        assert!((chance(f64::INFINITY, &[huge]) - 1.0).abs() < 1e-12);
        assert!(chance(1.0, &[]).abs() < 1e-12);
    }

    #[test]
    fn processes_that_are_not_named_have_copied_nothing() {
        let sample = Sample::of([6, 6].into_iter(), 4);
        assert_eq!((sample.mean, sample.variance), (3.0, 12.0));
        assert_eq!((sample.spread.min, sample.spread.max), (0, 6));
        let all = Sample::of([2, 4].into_iter(), 2);
        assert_eq!((all.mean, all.variance, all.spread.min), (3.0, 2.0, 2));
        assert_eq!(Sample::of([].into_iter(), 0), Sample::default());
        let one = Sample::of([5].into_iter(), 1);
        assert_eq!((one.mean, one.variance), (5.0, 0.0));
    }
}
