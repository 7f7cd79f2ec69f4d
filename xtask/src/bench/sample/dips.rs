//! How much less was done around moments than a little earlier and later.
//!
//! How fast a machine is that others use, too, changes by more than what is looked for, but not within
//! a quarter of a second. So what is done in each hundredth of a second near a look is compared with
//! what is done in those around that are not near one.

use std::collections::BTreeMap;

/// Hundredths of a second before and after the one in which a look began that it can be felt in: it
/// takes less than one, and what it pushed out of caches is back soon.
const NEAR: (i64, i64) = (-3, 5);

/// Hundredths of a second on each side that are compared with.
const AROUND: i64 = 30;

/// What was done, by hundredths of a second.
pub type Done = BTreeMap<i64, u64>;

/// What was lost near moments, in seconds, as a part of all that would have been done; `None` where
/// nothing can be compared.
pub fn lost(done: &Done, moments: &[f64]) -> Option<f64> {
    // The first and the last are not whole.
    let (first, last) = (done.keys().next()? + 1, done.keys().next_back()? - 1);
    let mut is_near = vec![false; usize::try_from(last - first).ok()?];
    for moment in moments {
        let at = (moment * 100.0).floor() as i64;
        for at in at + NEAR.0..=at + NEAR.1 {
            let at = usize::try_from(at - first).ok();
            if let Some(near) = at.and_then(|at| is_near.get_mut(at)) {
                *near = true;
            }
        }
    }
    let counts: Vec<f64> = (first..last)
        .map(|at| done.get(&at).copied().unwrap_or(0) as f64)
        .collect();
    let (mut missing, mut all) = (0.0, 0.0);
    for (at, (&count, &near)) in counts.iter().zip(&is_near).enumerate() {
        let expected = if near {
            around(&counts, &is_near, at)?
        } else {
            count
        };
        missing += expected - count;
        all += expected;
    }
    (all > 0.0).then_some(missing / all)
}

/// What is done around `at` where nothing is near.
fn around(counts: &[f64], is_near: &[bool], at: usize) -> Option<f64> {
    let from = at.saturating_sub(AROUND as usize);
    let to = (at + AROUND as usize + 1).min(counts.len());
    let quiet = (from..to).filter(|&at| !is_near[at]);
    let (sum, of) = quiet.fold((0.0, 0_u32), |(sum, of), at| (sum + counts[at], of + 1));
    (of > 0).then(|| sum / f64::from(of))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is done in ten seconds, with `dip` less in the hundredth of a second after each second,
    /// on a machine that gets half as fast again meanwhile.
    fn done(dip: f64) -> Done {
        let at = |at: i64| {
            let speed = 1000.0 * (1.0 + at as f64 / 2000.0);
            let lost = if at % 100 == 0 { dip } else { 0.0 };
            (at + 500, (speed * (1.0 - lost)) as u64)
        };
        (0..1000).map(at).collect()
    }

    #[test]
    fn what_is_missing_near_moments_is_found_whatever_the_machine_does_meanwhile() {
        let moments: Vec<f64> = (5..15).map(|second| f64::from(second) + 0.005).collect();
        // Half of a hundredth of each second.
        let lost_of = |dip| lost(&done(dip), &moments).unwrap();
        assert!((lost_of(0.5) - 0.005).abs() < 0.0007, "{}", lost_of(0.5));
        assert!(lost_of(0.0).abs() < 0.0002, "{}", lost_of(0.0));
    }

    #[test]
    fn where_all_is_near_nothing_is_said() {
        let always: Vec<f64> = (0..2000).map(|at| f64::from(at) / 100.0).collect();
        assert_eq!(lost(&done(0.0), &always), None);
        assert_eq!(lost(&Done::new(), &[]), None);
    }
}
