//! How much chance there is in averages over workers, and in many comparisons.
//!
//! Two doubts are added to the spread that is seen: that the few workers of one row may be alike by
//! chance ([`usual`]), and that workers of one run are more alike than two runs are
//! ([`RUNS_DIFFER`]).

use super::sample::{Part, Sample};

/// How often equal runs are said to differ anywhere, at most.
pub const LEVEL: f64 = 0.001;
/// How far the averages of two equal runs are taken to lie apart, each, as a part of them, however
/// alike the workers of one run are.
pub const RUNS_DIFFER: f64 = 0.02;
/// How much the spread that is usual counts beside that of a row: as much as one more process.
const USUAL_FREEDOM: f64 = 1.0;
/// The least deviation of processes that copied something: a page, since nothing is copied in parts.
const PAGE: f64 = 4_096.0;

/// How far processes usually lie apart in a list, as the square of a part of their average, weighed
/// by what was copied. Of a few processes that agree by chance, others of the list tell so.
pub(super) fn usual<'a>(samples: impl Iterator<Item = &'a Sample>) -> f64 {
    let (mut sum, mut weights) = (0.0, 0.0);
    for sample in samples.filter(|sample| sample.mean > 0.0) {
        // The weight is what was copied: the square of the deviation, by that of the average.
        sum += sample.count() * sample.variance / sample.mean;
        weights += sample.count() * sample.mean;
    }
    let usual = sum / weights;
    if usual.is_finite() { usual } else { 0.0 }
}

/// The parts of the uncertainty of an average.
pub(super) fn parts(sample: &Sample, usual: f64) -> Vec<Part> {
    if sample.mean <= 0.0 {
        return Vec::new();
    }
    let own = sample.count() - 1.0;
    let square = sample.mean * sample.mean;
    let variance = (own * sample.variance + USUAL_FREEDOM * usual * square) / (own + USUAL_FREEDOM);
    vec![
        Part {
            variance: variance.max(PAGE * PAGE) / sample.count(),
            freedom: own + USUAL_FREEDOM,
        },
        Part {
            variance: RUNS_DIFFER * RUNS_DIFFER * square,
            freedom: f64::INFINITY,
        },
    ]
}

/// The largest chance that is still significant, by the method of Holm: of `n` tests the smallest
/// must be below [`LEVEL`] by `n`, the next below [`LEVEL`] by `n - 1`, and so on.
pub(super) fn holm(mut chances: Vec<f64>) -> f64 {
    chances.sort_by(f64::total_cmp);
    let all = chances.len();
    let kept = chances.iter().enumerate();
    let kept = kept.take_while(|&(at, &p)| p <= LEVEL / (all - at) as f64);
    kept.last().map_or(-1.0, |(_, &p)| p)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_is_compared_the_less_of_it_may_be_chance() {
        assert!(holm(vec![]) < 0.0);
        assert!(holm(vec![LEVEL * 1.01]) < 0.0);
        assert!((holm(vec![LEVEL]) - LEVEL).abs() < 1e-12);
        // The first is below a third, the second is not below a half.
        let third = LEVEL / 3.1;
        assert!((holm(vec![0.9, LEVEL * 0.9, third]) - third).abs() < 1e-12);
        assert!((holm(vec![0.9, LEVEL * 0.49, third]) - LEVEL * 0.49).abs() < 1e-12);
    }

    #[test]
    fn processes_of_a_list_lie_as_far_apart_as_most_of_what_they_copied() {
        let sample = |bytes: [u64; 2]| Sample::of(bytes.into_iter(), 2);
        let (alike, apart) = (sample([1_000, 1_000]), sample([0, 2_000]));
        assert!(usual([alike].iter()) < 1e-12);
        assert!((usual([apart].iter()) - 2.0).abs() < 1e-12);
        assert!((usual([alike, apart].iter()) - 1.0).abs() < 1e-12);
        let little = sample([0, 2]);
        assert!(usual([alike, little].iter()) < 0.01);
        assert!(usual([].iter()) < 1e-12);
    }
}
