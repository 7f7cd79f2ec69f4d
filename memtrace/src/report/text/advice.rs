//! What would help: each remedy with its size, why, how it is done, and the figures behind it.

use std::io::{self, Write};

use super::heading;
use super::screen::{DIM, Screen};
use crate::foreign::escape;
use crate::profile::{Advice, Confidence, Profile};
use crate::report::words::{percent, size};

/// Pieces of advice that are shown; a JSON report has all.
const MOST: usize = 5;

/// `` `gc.freeze()` before the fork would have saved 12.3 MiB: see What would help. ``
pub(super) fn sentence(profile: &Profile) -> Option<String> {
    let first = profile.advice.first()?;
    let would = match first.confidence {
        Confidence::Low => "may have saved",
        _ => "would have saved",
    };
    let (title, saves) = (escape(&first.title), saves(first));
    Some(format!("{title} {would} {saves}: see What would help."))
}

/// `12.3 MiB`, `about 12.3 MiB`, `up to 12.3 MiB`, by how sure that is.
fn saves(advice: &Advice) -> String {
    let size = size(advice.saves_bytes);
    match advice.confidence {
        Confidence::High => size,
        Confidence::Medium | Confidence::Other(_) => format!("about {size}"),
        Confidence::Low => format!("up to {size}"),
    }
}

/// The section; nothing where nothing would help that is known.
pub(super) fn advice(profile: &Profile, screen: Screen, out: &mut dyn Write) -> io::Result<()> {
    if profile.advice.is_empty() {
        return Ok(());
    }
    let remark = "two remedies may save the same pages";
    heading(screen, out, "What would help", remark)?;
    for (at, advice) in profile.advice.iter().take(MOST).enumerate() {
        if at > 0 {
            writeln!(out)?;
        }
        one(profile, advice, at + 1, screen, out)?;
    }
    Ok(())
}

fn one(
    profile: &Profile,
    advice: &Advice,
    number: usize,
    screen: Screen,
    out: &mut dyn Write,
) -> io::Result<()> {
    let title = format!(
        "{number}. {}: saves {} ({}), confidence {}",
        escape(&advice.title),
        saves(advice),
        percent(advice.saves_bytes, profile.totals.copied_bytes),
        escape(advice.confidence.name()),
    );
    wrapped(&title, 2, 5, screen, out)?;
    wrapped(&escape(&advice.why), 5, 5, screen, out)?;
    if !advice.how.is_empty() {
        writeln!(out, "     how:")?;
    }
    for line in &advice.how {
        // Code keeps its own indentation.
        let own = line.len() - line.trim_start_matches(' ').len();
        let from = 7 + own.min(screen.width / 2);
        wrapped(&escape(line), from, from + 2, screen, out)?;
    }
    if !advice.evidence.is_empty() {
        writeln!(out, "     seen:")?;
    }
    for line in &advice.evidence {
        let mut text = Vec::new();
        wrapped(&escape(line), 7, 9, screen, &mut text)?;
        for line in String::from_utf8_lossy(&text).lines() {
            writeln!(out, "{}", screen.paint(DIM, line))?;
        }
    }
    Ok(())
}

/// Writes `text`, its first line from column `first` and the others from `rest`.
fn wrapped(
    text: &str,
    first: usize,
    rest: usize,
    screen: Screen,
    out: &mut dyn Write,
) -> io::Result<()> {
    for (at, line) in screen.wrap(rest, text).iter().enumerate() {
        let indent = if at == 0 { first } else { rest };
        writeln!(out, "{:indent$}{}", "", line.trim_start())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advice::advise;
    use crate::profile::sample::sample;

    fn shown(profile: &Profile, screen: Screen) -> String {
        let mut text = Vec::new();
        advice(profile, screen, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    fn terminal() -> Screen {
        Screen {
            width: 80,
            shorten: true,
            color: false,
        }
    }

    fn helped() -> Profile {
        let mut profile = sample();
        profile.advice = advise(&profile);
        profile
    }

    #[test]
    fn what_would_help_has_its_size_its_reason_its_way_and_its_figures() {
        insta::assert_snapshot!(shown(&helped(), terminal()), @r"
        What would help  two remedies may save the same pages
          1. Arrays or packed bytes instead of objects (`Catalog.render`,
             catalog.py:212): saves about 13.3 MiB (48.9%), confidence medium
             Reading an object of Python writes to it: each has a count of its
             references. An array or one block of bytes has one count for all of its
             values.
             how:
               texts: one `bytes` of all, and an array of where each begins
               records: a column for each field (numpy, pandas, pyarrow), or packed
                 with `struct`
               or outside of Python's objects: a database such as SQLite or LMDB, or a
                 file that is mapped with `mmap`
             seen:
               3,402 pages (13.3 MiB, 49% of what was copied) in 3 processes were
                 copied by reading objects
               of the types `str` 73%, `dict` 23%, `tuple` 3%
               3,402 pages in `Catalog.render`, catalog.py:212

          2. `gc.freeze()` before the fork: saves about 4.3 MiB (15.9%), confidence
             medium
             Python's collector writes to the header of every object that it looks at.
             What is frozen it leaves alone, in workers. `gc.disable()` alone does not
             last: any `gc.collect()` undoes it. A freeze in a hook that runs after the
             fork comes too late: it writes to the same headers. What workers go on to
             read is copied all the same, by reference counts. These do read: 4,257
             pages beside were copied so, and how much of the rest was read, too, does
             not show.
             how:
               gc.disable() # first of all, before anything is loaded
               ... # load what workers share
               gc.collect() # so that no garbage is frozen; leaves holes, though
               gc.freeze() # right before the fork
               gc.enable() # in each worker, for what it makes itself
               gunicorn: preload_app = True, and freeze at the end of the
                 application's module or in `when_ready` of its configuration
               uWSGI: without lazy-apps, at the end of the application's module
               multiprocessing: start method fork, before the pool or the first
                 process is made
             seen:
               1,110 pages (4.3 MiB, 16% of what was copied) in 3 processes were
                 copied by collections
               970 pages in `context`, context.py:31
               140 pages in `idle`, gunicorn.conf.py:12
        ");
    }

    #[test]
    fn the_head_names_what_saves_most() {
        let mut profile = helped();
        insta::assert_snapshot!(sentence(&profile).unwrap(), @"Arrays or packed bytes instead of objects (`Catalog.render`, catalog.py:212) would have saved about 13.3 MiB: see What would help.");
        profile.advice.remove(0);
        insta::assert_snapshot!(sentence(&profile).unwrap(), @"`gc.freeze()` before the fork would have saved about 4.3 MiB: see What would help.");
        profile.advice[0].confidence = Confidence::Low;
        insta::assert_snapshot!(sentence(&profile).unwrap(), @"`gc.freeze()` before the fork may have saved up to 4.3 MiB: see What would help.");
        profile.advice.clear();
        assert_eq!(sentence(&profile), None);
        assert_eq!(shown(&profile, terminal()), "");
    }

    #[test]
    fn no_more_than_some_are_shown_and_none_of_them_acts_on_the_terminal() {
        let mut profile = helped();
        let mut hostile = profile.advice[0].clone();
        let text = "evil\u{1b}[2J\u{202e}eman\nline".to_owned();
        hostile.title = text.clone();
        hostile.why = text.clone();
        hostile.how = vec![text.clone(), format!("{}code", " ".repeat(500))];
        hostile.evidence = vec![text, "long".repeat(100)];
        hostile.saves_bytes = 1;
        profile.advice = vec![hostile; 9];
        let text = shown(&profile, terminal());
        assert!(
            text.contains("5. evil") && !text.contains("6. evil"),
            "{text}"
        );
        assert!(
            !text.contains('\u{1b}') && !text.contains('\u{202e}'),
            "{text}"
        );
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
        assert!(!sentence(&profile).unwrap().contains('\u{1b}'));
    }
}
