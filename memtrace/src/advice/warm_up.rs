//! Warming up before the fork: what every worker does first, and does once.
//!
//! What nearly all workers copy right after their fork, at the same place and in the same measure, and
//! not again in the long time after that, is a start of theirs: caches that are filled, tables that
//! are set up, what the first request does. Done once before the fork its result is shared.
//!
//! A little of this every process does for itself, in many places: its own buffers, its own state.
//! So only functions count that write a part of everything that is worth a look.

use std::collections::BTreeSet;

use super::found::{Found, at, is_running, lines, ranked};
use super::rewritten;
use crate::profile::{Advice, CallSite, CauseName, Confidence, OriginName, Process, Site};
use crate::report::words::seconds;

/// Nine of ten copies are made within so many milliseconds after the fork, ...
const SOON_MS: u64 = 5_000;
/// ... if workers live so many times as long; ...
const AFTER_SOON: u64 = 2;
/// ... or within this part of their lives.
const FIRST_PART: u64 = 10;

/// Of so many workers at least, three of four do it.
const LEAST_WORKERS: usize = 2;

/// A function that copied less than this part of everything, in percent, does not count.
const LEAST_PERCENT: u64 = 5;

pub(super) fn advise(found: &Found<'_>) -> Option<Advice> {
    let workers = found.processes(|process| is_seen_whole(found, process));
    if workers.len() < LEAST_WORKERS {
        return None;
    }
    let life_ms = median_life_ms(found, &workers);
    let pids: BTreeSet<u32> = workers.iter().map(|worker| worker.pid).collect();
    let is_first =
        |site: &CallSite| is_once(site) && is_of_all(site, &pids) && is_soon(site, life_ms);
    let theirs = |process: &Process| pids.contains(&process.pid);
    let all = found.copies(is_first, theirs);
    let functions = ranked((all.sites.iter()).map(|(site, pages)| (function(site), *pages)));
    let least = u128::from(LEAST_PERCENT) * u128::from(found.profile.totals.copied_pages);
    let is_large = |site: &CallSite| {
        let mut large = functions.iter();
        large.any(|(it, pages)| *it == function(site) && 100 * u128::from(*pages) >= least)
    };
    let copies = found.copies(|site| is_first(site) && is_large(site), theirs);
    let (place, _) = *copies.places().first()?;
    let soon = copies
        .sites
        .iter()
        .filter_map(|(site, _)| p90(site))
        .max()?;
    let mut evidence = vec![
        format!("{} were copied at the start", found.amount(&copies)),
        format!(
            "nine of ten within {} after the fork, of a life of {}",
            seconds(soon as f64 / 1e3),
            seconds(life_ms as f64 / 1e3),
        ),
    ];
    evidence.extend(copies.where_most());
    Some(Advice {
        id: "warm-up".to_owned(),
        title: format!("Warming up before the fork ({})", at(place)),
        why: "Nearly every worker writes this once, right after its fork. Done before the fork it is \
              written once for all, and shared. It does not help if each worker writes something of \
              its own there."
            .to_owned(),
        saves_bytes: copies.bytes,
        confidence: Confidence::Medium,
        how: how(&workers),
        evidence,
    })
}

/// What a person can act on, whichever line of it.
fn function(site: &CallSite) -> (&str, Option<&str>) {
    let Site {
        function,
        file,
        module,
        ..
    } = site.act_on();
    (function, file.as_deref().or(module.as_deref()))
}

fn how(workers: &[&Process]) -> Vec<String> {
    let mut how = lines(&[
        "do it in the process that forks, before the first fork: imports, caches, and one request to \
         the application itself",
        "what belongs to one process alone, such as sockets and random numbers, is made anew in each",
    ]);
    let mut runtimes = workers.iter().flat_map(|worker| &worker.runtimes);
    if runtimes.any(|runtime| runtime.name == "Ruby") {
        how.extend(lines(&[
            "or fork again from a worker that is warm: fork_worker in puma, refork_after in pitchfork",
        ]));
    }
    how
}

/// Whether it was forked during the trace by a traced process: all of its copies were seen.
fn is_seen_whole(found: &Found<'_>, process: &Process) -> bool {
    process.forked_at_s.is_some() && found.is_forked(process)
}

/// Written once if it is written before the fork: values, and what an allocator notes.
fn is_once(site: &CallSite) -> bool {
    let written = [CauseName::Data, CauseName::Object, CauseName::Allocator];
    let origins = [OriginName::Fork, OriginName::File];
    // What is written again and again without a change needs another remedy.
    written.contains(&site.cause)
        && origins.contains(&site.origin)
        && is_running(site)
        && rewritten::bytes(site) == 0
}

/// Whether three of four workers copied there, each about as much.
fn is_of_all(site: &CallSite, workers: &BTreeSet<u32>) -> bool {
    let theirs = site.processes.iter();
    let theirs: Vec<u64> = theirs
        .filter(|(pid, pages)| workers.contains(pid) && **pages > 0)
        .map(|(_, pages)| *pages)
        .collect();
    let most = theirs.iter().max().copied().unwrap_or(0);
    let alike = theirs.iter().filter(|pages| **pages >= most.div_ceil(2));
    let alike = alike.count();
    alike >= LEAST_WORKERS && 4 * alike >= 3 * workers.len()
}

fn is_soon(site: &CallSite, life_ms: u64) -> bool {
    p90(site).is_some_and(|age| {
        let is_early = age.saturating_mul(AFTER_SOON) <= life_ms;
        age < SOON_MS && is_early || age.saturating_mul(FIRST_PART) <= life_ms
    })
}

fn p90(site: &CallSite) -> Option<u64> {
    Some(site.age_ms.summary()?.p90)
}

/// How long workers lived, as far as the trace goes.
fn median_life_ms(found: &Found<'_>, workers: &[&Process]) -> u64 {
    let end = found.profile.duration_s;
    let lives = workers.iter().map(|worker| {
        let life = worker.exited_at_s.unwrap_or(end) - worker.forked_at_s.unwrap_or(end);
        // A profile may come from anywhere: what is no number becomes 0.
        (life * 1e3) as u64
    });
    let mut lives: Vec<u64> = lives.collect();
    lives.sort_unstable();
    lives.get(lives.len() / 2).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::made::{self, Made};
    use super::*;
    use crate::distribution::Distribution;
    use crate::profile::{Profile, RuntimeSeen};

    /// Both workers, which live for 59 seconds, copy 400 pages each at these ages.
    fn filling(ages_ms: std::ops::Range<u64>) -> Profile {
        let mut profile = made::profile(&[
            Made::new(400, CauseName::Data, "fill"),
            Made::new(400, CauseName::Refcount, "walk"),
        ]);
        for site in &mut profile.call_sites {
            site.age_ms = Distribution::new();
            for at in 0..site.pages {
                let span = ages_ms.end - ages_ms.start;
                site.age_ms.record(ages_ms.start + at * span / site.pages);
            }
        }
        profile
    }

    fn advised(profile: &Profile) -> Option<Advice> {
        advise(&Found::of(profile))
    }

    fn site<'a>(profile: &'a mut Profile, function: &str) -> &'a mut CallSite {
        let mut sites = profile.call_sites.iter_mut();
        sites.find(|site| &*site.site.function == function).unwrap()
    }

    #[test]
    fn what_all_workers_write_at_their_start_is_saved() {
        let advice = advised(&filling(20..900)).unwrap();
        assert_eq!(
            advice.title,
            "Warming up before the fork (`fill`, app.py:28)"
        );
        assert_eq!(advice.saves_bytes, 800 * 4096);
        assert_eq!(
            advice.evidence,
            [
                "800 pages (3.1 MiB, 50% of what was copied) in 2 processes were copied at the start",
                "nine of ten within 810 ms after the fork, of a life of 59.0 s",
                "800 pages in `fill`, app.py:28",
            ]
        );
        // A tenth of a long life, though more than a moment.
        let mut profile = filling(4_000..9_000);
        assert_eq!(advised(&profile), None);
        profile.duration_s = 600.0;
        assert!(advised(&profile).is_some());
    }

    #[test]
    fn what_a_short_life_is_spent_on_is_no_start() {
        let mut profile = filling(20..900);
        for worker in &mut profile.processes[1..] {
            worker.exited_at_s = Some(2.0);
        }
        assert_eq!(advised(&profile), None);
    }

    #[test]
    fn it_is_silent_of_one_worker_and_of_what_each_does_in_its_own_measure() {
        let mut profile = filling(20..900);
        site(&mut profile, "fill").processes = [(4243, 800)].into();
        made::settle(&mut profile);
        assert_eq!(advised(&profile), None);
        let mut profile = filling(20..900);
        site(&mut profile, "fill").processes = [(4243, 600), (4244, 200)].into();
        made::settle(&mut profile);
        assert_eq!(advised(&profile), None);
        let mut profile = filling(20..900);
        site(&mut profile, "fill").processes = [(made::MASTER, 800)].into();
        made::settle(&mut profile);
        assert_eq!(advised(&profile), None);
    }

    #[test]
    fn it_is_silent_of_workers_that_were_there_before_and_of_what_is_rewritten() {
        let mut profile = filling(20..900);
        profile.processes[1].forked_at_s = None;
        assert_eq!(advised(&profile), None);
        let mut profile = filling(20..900);
        site(&mut profile, "fill").unchanged = Some(made::compared(64, 64));
        assert_eq!(advised(&profile), None);
    }

    #[test]
    fn what_is_scattered_over_many_places_is_each_ones_own() {
        let functions: [&str; 20] = std::array::from_fn(|at| &"abcdefghijklmnopqrst"[at..=at]);
        let made = functions.map(|function| Made::new(20, CauseName::Data, function));
        let mut profile = made::profile(&made);
        for site in &mut profile.call_sites {
            site.age_ms = Distribution::new();
            site.age_ms.record(20);
        }
        // Twenty times 5 %.
        assert_eq!(advised(&profile).unwrap().saves_bytes, 800 * 4096);
        site(&mut profile, "a").processes = [(4243, 60), (4244, 60)].into();
        made::settle(&mut profile);
        assert_eq!(advised(&profile).unwrap().saves_bytes, 120 * 4096);
    }

    #[test]
    fn servers_of_ruby_can_fork_again() {
        let mut profile = filling(20..900);
        profile.processes[1].runtimes = vec![RuntimeSeen {
            name: "Ruby".to_owned(),
            version: None,
        }];
        let advice = advised(&profile).unwrap();
        assert!(advice.how[2].contains("pitchfork"), "{:?}", advice.how);
    }
}
