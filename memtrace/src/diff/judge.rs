//! Judges whether what two profiles copied of one thing differs by more than chance explains.
//!
//! Workers are the sample. A difference of averages over workers is significant where the test of
//! Welch says so at [`LEVEL`], corrected by the method of Holm for all that is compared beside it,
//! whether what is copied grows with time or not ([`doubt`](super::doubt) says what is added to the
//! spread that is seen). Two workers may agree by chance, so of them much is asked besides
//! ([`FEW_FACTOR`]). What other processes copied has no spread; there one must be a multiple of the
//! other ([`LARGE_FACTOR`]).

use std::collections::BTreeSet;

use super::doubt::{LEVEL, holm, parts, usual};
use super::sample::{Sample, chance};
use super::tally::{Members, Pair};
use super::workers::{Workers, forks};
use super::{Amount, Judged, Kind, Reason, Row, Unit, What};
use crate::profile::Profile;

/// Less than this, in bytes over all workers, does not matter, unless it is a hundredth of all.
const SMALL: f64 = 65_536.0;
/// So many times as much is a difference where there is no spread to judge by.
pub const LARGE_FACTOR: f64 = 3.0;
/// So many times as much is a difference where there are [`FEW`] workers on a side.
const FEW_FACTOR: f64 = 2.0;
/// Workers that tell little of how workers differ.
const FEW: u64 = 2;
/// From this part of all on, something matters however little it is.
const PART_OF_ALL: f64 = 0.01;
/// Less than this part of all is nothing that a single process may not do by chance.
const MUCH_OF_ALL: f64 = 0.1;
/// Traces of lengths that differ by less than this part are of the same length.
const SAME_LENGTH: f64 = 0.05;
/// What both profiles are beside their copies.
pub(super) struct Judge<'a> {
    /// What the main figures are of.
    pub unit: Unit,
    workers: &'a [Workers; 2],
    forked: [BTreeSet<u32>; 2],
    forks: [f64; 2],
    processes: [f64; 2],
    seconds: [f64; 2],
    /// Bytes that were copied in all, in that of the two where they are more.
    all: f64,
}

/// The figures of a pair, before it is compared with others.
struct Case {
    unit: Unit,
    samples: [Sample; 2],
    evidence: Evidence,
    /// How much longer the new ones were traced.
    stretch: f64,
    /// Whether enough was copied at all to be compared: what is not is no test of its own.
    matters: bool,
}

/// How much is known of how processes differ.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Evidence {
    /// On one side there is one process, or one sum.
    None,
    /// On one side there are no more than [`FEW`].
    Little,
    /// There are more on both.
    Enough,
}

/// What becomes of a case.
#[derive(Clone, Copy)]
struct Outcome {
    p: Option<f64>,
    by: Reason,
}

impl<'a> Judge<'a> {
    pub(super) fn of(both: [&Profile; 2], workers: &'a [Workers; 2]) -> Self {
        let seconds = both.map(|profile| match profile.duration_s {
            seconds if seconds.is_finite() && seconds > 0.0 => seconds,
            _ => 0.0,
        });
        let forked = both.map(|profile| {
            let forked = profile.processes.iter();
            let forked = forked.filter(|process| process.forked_at_s.is_some());
            forked.map(|process| process.pid).collect()
        });
        let all = both.map(|profile| profile.totals.copied_bytes as f64);
        let unit = if workers.iter().all(|workers| workers.count() > 0) {
            Unit::Worker
        } else {
            by_time(seconds)
        };
        Self {
            unit,
            workers,
            forked,
            forks: both.map(|profile| forks(profile) as f64),
            processes: both.map(|profile| profile.process_count() as f64),
            seconds,
            all: all[0].max(all[1]),
        }
    }

    /// Judges lists of pairs together: the more is compared, the less of it may be chance.
    pub(super) fn family(&self, lists: Vec<Vec<Pair>>) -> Vec<Vec<Row>> {
        let cases: Vec<Vec<[Case; 2]>> = (lists.iter())
            .map(|pairs| pairs.iter().map(|pair| self.cases(pair)).collect())
            .collect();
        let outcomes: Vec<Vec<Outcome>> = (cases.iter())
            .map(|cases| {
                let firsts = cases.iter().map(|[case, _]| case);
                let firsts = firsts.filter(|case| case.evidence != Evidence::None);
                let usual = usual(firsts.flat_map(|case| &case.samples));
                let first = cases.iter().map(|[case, _]| self.outcome(case, usual));
                first.collect()
            })
            .collect();
        // What is too little on both sides was not tested: that says nothing of how it differs.
        let tested = outcomes.iter().flatten();
        let limit = holm(tested.filter_map(|outcome| outcome.p).collect());
        let lists = lists.into_iter().zip(cases).zip(outcomes);
        lists
            .map(|((pairs, cases), outcomes)| {
                let all = pairs.into_iter().zip(cases).zip(outcomes);
                all.map(|((pair, cases), outcome)| self.row(pair, cases, outcome, limit))
                    .collect()
            })
            .collect()
    }

    /// The row of what neither has.
    pub(super) fn nothing(&self, what: What) -> Row {
        Row {
            what,
            kind: Kind::Same,
            base: Amount::default(),
            new: Amount::default(),
            judged: Judged {
                unit: self.unit,
                p: None,
                by: Reason::Small,
            },
        }
    }

    /// A pair as seen by workers, or by the processes that it is about, and by all others.
    fn cases(&self, pair: &Pair) -> [Case; 2] {
        let rest = |of: &dyn Fn(usize, u32) -> bool| {
            let sums = [0, 1].map(|side| {
                let copied = pair.copies[side].by_pid.iter();
                let copied = copied.filter(|&(&pid, _)| of(side, pid));
                copied.fold(0, |sum: u64, (_, &bytes)| sum.saturating_add(bytes))
            });
            self.without_spread(sums)
        };
        if let Some(members) = &pair.of {
            return [self.of_members(pair, members), rest(&|_, _| false)];
        }
        if self.unit != Unit::Worker {
            return [rest(&|_, _| true), rest(&|_, _| false)];
        }
        let is_worker = |side: usize, pid: u32| self.workers[side].pids.contains(&pid);
        let samples = [0, 1].map(|side| {
            let copied = pair.copies[side].by_pid.iter();
            let copied = copied.filter(|&(&pid, _)| is_worker(side, pid));
            Sample::of(copied.map(|(_, &bytes)| bytes), self.workers[side].count())
        });
        let lives = [0, 1].map(|side| self.workers[side].seconds);
        let cut = self.workers.iter().map(|workers| workers.cut).sum();
        let workers = self.case(Unit::Worker, samples, true, self.stretch(lives, cut));
        [workers, rest(&|side, pid| !is_worker(side, pid))]
    }

    /// The processes of a role.
    fn of_members(&self, pair: &Pair, members: &[Members; 2]) -> Case {
        let samples = [0, 1].map(|side| {
            let copied = pair.copies[side].by_pid.values().copied();
            Sample::of(copied, members[side].count)
        });
        // Where processes are added up, their spread is not known.
        let are_single = [0, 1]
            .into_iter()
            .all(|side| members[side].count <= pair.copies[side].by_pid.len() as u64);
        let lives = [0, 1].map(|side| {
            let members = &members[side];
            members.seconds / members.count.max(1) as f64
        });
        let cut = members[0].cut.saturating_add(members[1].cut);
        self.case(Unit::Process, samples, are_single, self.stretch(lives, cut))
    }

    /// How many times as long the new ones were traced as the others. Where none was `cut` short by the
    /// trace, how long they lived may be what the change has done, and how long the trace was is not: of
    /// the two, what is nearer to the same.
    fn stretch(&self, lives: [f64; 2], cut: u64) -> f64 {
        let (of_lives, of_traces) = (stretch(lives), stretch(self.seconds));
        if cut == 0 && of_traces.ln().abs() < of_lives.ln().abs() {
            of_traces
        } else {
            of_lives
        }
    }

    /// What the processes that are no workers copied, or where there are none, all.
    fn without_spread(&self, sums: [u64; 2]) -> Case {
        let unit = by_time(self.seconds);
        let samples = sums.map(|bytes| Sample::of([bytes].into_iter(), 1));
        self.case(unit, samples, false, stretch(self.seconds))
    }

    fn case(&self, unit: Unit, samples: [Sample; 2], known: bool, stretch: f64) -> Case {
        let fewest = samples.map(|sample| sample.spread.processes);
        let evidence = match fewest[0].min(fewest[1]) {
            _ if !known => Evidence::None,
            0 | 1 => Evidence::None,
            FEW => Evidence::Little,
            _ => Evidence::Enough,
        };
        let [base, new] = samples.map(|sample| sample.mean * sample.count());
        Case {
            unit,
            samples,
            evidence,
            stretch,
            matters: self.is_enough(base.max(new), evidence),
        }
    }

    /// Whether so many bytes matter.
    fn is_enough(&self, bytes: f64, evidence: Evidence) -> bool {
        match evidence {
            Evidence::Enough => bytes >= SMALL || bytes >= PART_OF_ALL * self.all,
            Evidence::Little | Evidence::None => bytes >= SMALL && bytes >= MUCH_OF_ALL * self.all,
        }
    }

    fn outcome(&self, case: &Case, usual: f64) -> Outcome {
        let small = Outcome {
            p: None,
            by: Reason::Small,
        };
        if !case.matters {
            return small;
        }
        // As if nothing more were copied in a longer time, and as if all were.
        let [base, new] = case.samples;
        let ways = [1.0, case.stretch].map(|by| (base.scaled(by), new));
        let gaps = ways.map(|(base, new)| new.mean - base.mean);
        let is_one_way = gaps[0] * gaps[1] > 0.0;
        let least = gaps[0].abs().min(gaps[1].abs());
        let processes = base.count().max(new.count());
        let is_small = !self.is_enough(least * processes, case.evidence);
        let factor = match case.evidence {
            Evidence::None => LARGE_FACTOR,
            Evidence::Little => FEW_FACTOR,
            Evidence::Enough => 1.0,
        };
        let is_multiple = |(base, new): (Sample, Sample)| {
            base.mean.max(new.mean) >= factor * base.mean.min(new.mean)
        };
        let multiples = ways.map(is_multiple);
        if case.evidence == Evidence::None {
            let by = match multiples {
                [false, _] => Reason::NoSpread,
                [true, other] if !other || !is_one_way => Reason::Length,
                _ if is_small => Reason::Small,
                _ => Reason::LargeFactor,
            };
            return Outcome { p: None, by };
        }
        let chances = ways.map(|(base, new)| {
            let parts = [parts(&base, usual), parts(&new, usual)].concat();
            chance(new.mean - base.mean, &parts)
        });
        let p = if is_one_way {
            chances[0].max(chances[1])
        } else {
            1.0
        };
        let by = match p {
            _ if chances[0] <= LEVEL && p > LEVEL => Reason::Length,
            _ if p > LEVEL => Reason::WithinSpread,
            _ if multiples != [true, true] => Reason::FewWorkers,
            _ if is_small => Reason::Small,
            _ => Reason::BeyondSpread,
        };
        Outcome { p: Some(p), by }
    }

    fn row(&self, pair: Pair, cases: [Case; 2], outcome: Outcome, limit: f64) -> Row {
        let mut outcome = outcome;
        if outcome.by == Reason::BeyondSpread && outcome.p.is_none_or(|p| p > limit) {
            outcome.by = Reason::WithinSpread;
        }
        let [first, rest] = cases;
        let mut case = first;
        if !outcome.by.is_significant() {
            let other = self.outcome(&rest, 0.0);
            let size = |case: &Case| -> f64 {
                let sizes = case.samples.map(|sample| sample.mean * sample.count());
                sizes[0] + sizes[1]
            };
            if other.by.is_significant() || size(&case) == 0.0 && size(&rest) > 0.0 {
                (case, outcome) = (rest, other);
            }
        }
        let amount = |side: usize| self.amount(&pair, &case, side);
        let (base, new) = (amount(0), amount(1));
        let kind = match outcome.by.is_significant() {
            false => Kind::Same,
            true if base.figure == 0.0 => Kind::Appeared,
            true if new.figure == 0.0 => Kind::Vanished,
            true if new.figure > base.figure => Kind::Grew,
            true => Kind::Shrank,
        };
        Row {
            what: pair.what,
            kind,
            base,
            new,
            judged: Judged {
                unit: case.unit,
                p: outcome.p,
                by: outcome.by,
            },
        }
    }

    fn amount(&self, pair: &Pair, case: &Case, side: usize) -> Amount {
        let copies = &pair.copies[side];
        let bytes = copies.bytes as f64;
        let per = |count: f64| (count > 0.0).then(|| bytes / count);
        let forked = copies.by_pid.iter();
        let forked = forked.filter(|(pid, _)| self.forked[side].contains(pid));
        let forked: f64 = forked.map(|(_, &bytes)| bytes as f64).sum();
        let sample = case.samples[side];
        let is_average = matches!(case.unit, Unit::Worker | Unit::Process);
        Amount {
            bytes: copies.bytes,
            per_process: per(self.processes[side]).unwrap_or(0.0),
            per_second: per(self.seconds[side]),
            per_fork: (self.forks[side] > 0.0).then(|| forked / self.forks[side]),
            figure: match case.unit {
                Unit::Second => sample.mean / self.seconds[side],
                Unit::Worker | Unit::Process | Unit::Trace => sample.mean,
            },
            spread: is_average.then_some(sample.spread),
        }
    }
}

/// By second where the lengths of both traces are known and differ.
fn by_time(seconds: [f64; 2]) -> Unit {
    let stretch = stretch(seconds);
    if (stretch - 1.0).abs() > SAME_LENGTH {
        Unit::Second
    } else {
        Unit::Trace
    }
}

/// How many times as long the second is; 1 where that is not known.
fn stretch([base, new]: [f64; 2]) -> f64 {
    let stretch = new / base;
    if stretch.is_finite() && stretch > 0.0 {
        stretch
    } else {
        1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_that_is_not_known_stretches_nothing() {
        assert!((stretch([10.0, 20.0]) - 2.0).abs() < 1e-12);
        for lengths in [[0.0, 1.0], [1.0, 0.0], [0.0, 0.0], [f64::NAN, 1.0]] {
            assert!((stretch(lengths) - 1.0).abs() < 1e-12);
        }
        assert_eq!(by_time([10.0, 10.2]), Unit::Trace);
        assert_eq!(by_time([10.0, 20.0]), Unit::Second);
        assert_eq!(by_time([0.0, 20.0]), Unit::Trace);
    }
}
