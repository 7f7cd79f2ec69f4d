use super::figures::range;
use super::*;
use crate::diff::compare;
use crate::profile::Profile;
use crate::profile::sample::sample;

fn written(base: &Profile, new: &Profile, top: usize, screen: Screen) -> String {
    let difference = compare((base, "base.json"), (new, "new.json"));
    let mut text = Vec::new();
    write(&difference, top, screen, &mut text).unwrap();
    String::from_utf8(text).unwrap()
}

fn in_a_file(base: &Profile, new: &Profile) -> String {
    written(base, new, 20, Screen::of_a_file())
}

/// The sample with so many times the pages, all of two alike workers; without the cause `gc` where
/// that is asked for.
fn run(factor: u64, with_gc: bool) -> Profile {
    let mut profile = sample();
    profile.processes.truncate(3);
    profile
        .call_sites
        .retain(|site| with_gc || site.cause != CauseName::Gc);
    for site in &mut profile.call_sites {
        let odd = site.pages % 2;
        site.pages *= factor;
        site.bytes *= factor;
        site.processes = [(4243, site.pages / 2 + odd), (4244, site.pages / 2)].into();
        site.processes.retain(|_, pages| *pages > 0);
        site.pages = site.processes.values().sum();
    }
    for process in &mut profile.processes {
        let pages = profile
            .call_sites
            .iter()
            .filter_map(|site| site.processes.get(&process.pid));
        process.copied_bytes = pages.sum::<u64>() * 4096;
    }
    profile.totals.copied_bytes = profile.call_sites.iter().map(|site| site.bytes).sum();
    profile
}

#[test]
fn what_is_gone_is_the_first_thing_that_is_said() {
    insta::assert_snapshot!(in_a_file(&run(2, true), &run(2, false)), @"
    Garbage collection vanished: 4.3 MiB per worker before, 0 B now.
    In all: 27.2 MiB per worker (each of 2 workers) -> 22.9 MiB (each of 2 workers), which may be chance
    with so few workers; only read: 21.0 MiB per worker (each of 2 workers) -> 16.7 MiB (each of 2
    workers), which may be chance with so few workers.

            REPORT     RECORDED                 FOR         OF    COPIED
      base  base.json  2026-03-14T15:09:26Z  10.2 s  2 workers  54.4 MiB
      new   new.json   2026-03-14T15:09:26Z  10.2 s  2 workers  45.7 MiB
      Figures are of one worker, on average; a difference counts where workers differ less, and equal
      runs (taken to differ by 2.0%) would show one in 1,000 comparisons at most.
      base.json has two workers, which may agree by chance: trace more to see more.
      new.json has two workers, which may agree by chance: trace more to see more.

    Vanished
       BEFORE  NOW  CHANGE  WHAT
      4.3 MiB  0 B   -100%  cause      gc
             4.3 MiB per worker (each of 2 workers) -> 0 B (each of 2 workers)
      3.8 MiB  0 B   -100%  call site  context  context.py:31
             /srv/shop/app/context.py:31; cause gc
             3.8 MiB per worker (each of 2 workers) -> 0 B (each of 2 workers)

    Within the spread, or too little to matter: 6 causes, 11 call sites, 8 object types, 2 roles.
    ");
}

#[test]
fn what_grew_and_moved_says_from_where() {
    let mut new = run(4, true);
    for site in &mut new.call_sites {
        site.site.line = site.site.line.map(|line| line + 3);
    }
    new.duration_s = 10.3;
    insta::assert_snapshot!(written(&run(1, true), &new, 2, Screen::of_a_file()), @"
    Reference counts grew to 4.0 times as much: 8.3 MiB per worker before, 33.3 MiB now.
    Garbage collection grew to 4.0 times as much: 2.2 MiB per worker before, 8.7 MiB now.
    In all: 13.6 MiB per worker (each of 2 workers) -> 54.4 MiB (each of 2 workers) (+300%); only read:
    10.5 MiB per worker (each of 2 workers) -> 42.0 MiB (each of 2 workers) (+300%).

            REPORT     RECORDED                 FOR         OF     COPIED
      base  base.json  2026-03-14T15:09:26Z  10.2 s  2 workers   27.2 MiB
      new   new.json   2026-03-14T15:09:26Z  10.3 s  2 workers  108.8 MiB
      Figures are of one worker, on average; a difference counts where workers differ less, and equal
      runs (taken to differ by 2.0%) would show one in 1,000 comparisons at most.
      base.json has two workers, which may agree by chance: trace more to see more.
      new.json has two workers, which may agree by chance: trace more to see more.

    Grew  2 of 7
       BEFORE       NOW  CHANGE  WHAT
      8.3 MiB  33.3 MiB   +300%  cause  refcount
             8.3 MiB per worker (each of 2 workers) -> 33.3 MiB (each of 2 workers)
      2.2 MiB   8.7 MiB   +300%  cause  gc
             2.2 MiB per worker (each of 2 workers) -> 8.7 MiB (each of 2 workers)

    Within the spread, or too little to matter: 5 causes, 10 call sites, 6 object types, 1 role.
    ");
}

#[test]
fn equal_runs_have_no_tables() {
    insta::assert_snapshot!(in_a_file(&run(2, true), &run(2, true)), @"
    No significant difference.
    In all: 27.2 MiB per worker (each of 2 workers) -> 27.2 MiB (each of 2 workers), within the spread;
    only read: 21.0 MiB per worker (each of 2 workers) -> 21.0 MiB (each of 2 workers), within the
    spread.

            REPORT     RECORDED                 FOR         OF    COPIED
      base  base.json  2026-03-14T15:09:26Z  10.2 s  2 workers  54.4 MiB
      new   new.json   2026-03-14T15:09:26Z  10.2 s  2 workers  54.4 MiB
      Figures are of one worker, on average; a difference counts where workers differ less, and equal
      runs (taken to differ by 2.0%) would show one in 1,000 comparisons at most.
      base.json has two workers, which may agree by chance: trace more to see more.
      new.json has two workers, which may agree by chance: trace more to see more.

    Within the spread, or too little to matter: 7 causes, 12 call sites, 8 object types, 2 roles.
    ");
}

#[test]
fn without_workers_it_is_said_what_figures_are_of() {
    let single = |seconds: f64, with_gc| {
        let mut profile = run(1, with_gc);
        profile.processes.drain(..1);
        profile.processes[1].ppid = 1;
        profile.duration_s = seconds;
        profile
    };
    insta::assert_snapshot!(in_a_file(&single(10.0, true), &single(30.0, false)), @"
    Garbage collection vanished: 444.0 KiB per second before, 0 B now (one process each: no spread is
    known).
    In all: 2.7 MiB per second -> 780.3 KiB, which may be chance: no spread is known; only read: 2.1 MiB
    per second -> 568.8 KiB, which may be chance: no spread is known.

            REPORT     RECORDED                 FOR           OF    COPIED
      base  base.json  2026-03-14T15:09:26Z  10.0 s  2 processes  27.2 MiB
      new   new.json   2026-03-14T15:09:26Z  30.0 s  2 processes  22.9 MiB
      There are no workers on both sides; figures are of one second; no spread is known, so a difference
      counts from 3 times as much on.

    Vanished
         BEFORE  NOW  CHANGE  WHAT
      444.0 KiB  0 B   -100%  cause      gc
             444.0 KiB per second -> 0 B; one process each: no spread is known
      388.0 KiB  0 B   -100%  call site  context  context.py:31
             /srv/shop/app/context.py:31; cause gc
             388.0 KiB per second -> 0 B; one process each: no spread is known

    Within the spread, or too little to matter: 6 causes, 11 call sites, 8 object types, 1 role.
    ");
}

#[test]
fn foreign_names_do_nothing_to_a_terminal_and_lines_keep_to_it() {
    let base = run(1, true);
    let mut new = run(6, true);
    for site in &mut new.call_sites {
        site.site.function = format!("\u{1b}[2J\u{202e}{}", "long".repeat(40)).into();
        site.site.file = Some("/srv/\u{1b}[31m/app.py".into());
        site.object_type = Some("\u{1b}]0;title\u{7}".into());
    }
    for process in &mut new.processes {
        process.comm = "\u{1b}[1m".to_owned();
    }
    new.started_at = "\u{1b}[5n".to_owned();
    new.host.kernel = "\u{1b}[6n".to_owned();
    let screen = Screen {
        width: 90,
        shorten: true,
        color: false,
    };
    let text = written(&base, &new, 20, screen);
    assert!(!text.contains(['\u{1b}', '\u{202e}', '\u{7}']), "{text}");
    for line in text.lines() {
        assert!(super::super::screen::width(line) <= 90, "{line}");
    }
}

#[test]
fn sizes_of_a_range_share_their_unit() {
    let range = |least, most| range(least, most).unwrap_or_default();
    assert_eq!(range(4_089_446, 4_613_734), "3.9 to 4.4 MiB");
    assert_eq!(range(900 << 10, 2 << 20), "900.0 KiB to 2.0 MiB");
    assert_eq!(range(4_096, 4_096), "");
}

#[test]
fn changes_read_as_people_say_them() {
    assert_eq!(signed_percent(-0.571), "-57%");
    assert_eq!(signed_percent(0.0213), "+2.1%");
    assert_eq!(signed_percent(-0.9996), "-99.9%");
    assert_eq!(signed_percent(-1.0), "-100%");
    assert_eq!(signed_percent(1e12), "+>99999%");
    assert_eq!(figure(1e300), words::size(u64::MAX));
    assert_eq!(figure(f64::NAN), "0 B");
}
