//! The first lines: what makes the figures doubtful, and the figures in sentences.

use std::collections::BTreeSet;
use std::io::{self, Write};

use super::screen::{DIM, LOSS, Screen, TITLE, WARNING};
use super::{advice, memory, restarts, verdict};
use crate::foreign::escape;
use crate::profile::{CommandExit, OrOther, Process, Profile, Python, Totals, Unwind};
use crate::report::words::{count, counted, percent, seconds, size};

/// So many bytes of new memory are worth a sentence.
const MUCH_NEW_MEMORY: u64 = 1 << 20;

/// Sentences that say what the kernel side had to drop and what that means; none when it dropped
/// nothing.
pub(in crate::report) fn loss_sentences(totals: &Totals) -> Vec<String> {
    let lost = totals.lost;
    let mut sentences = Vec::new();
    if lost.faults > 0 {
        sentences.push(format!(
            "The records of {} of {} copied pages ({}) were lost. They are counted, but where \
             they were copied is not known: they stand under [lost].",
            count(lost.faults),
            count(totals.copied_pages),
            percent(lost.faults, totals.copied_pages),
        ));
    }
    if lost.stacks > 0 {
        sentences.push(format!(
            "The stacks of {} were lost: their call sites are not known.",
            counted(lost.stacks, "copied page", "copied pages")
        ));
    }
    if lost.processes > 0 {
        sentences.push(format!(
            "{} could not be traced: what they copied is missing from every figure.",
            counted(lost.processes, "process", "processes")
        ));
    }
    if lost.threads > 0 {
        sentences.push(format!(
            "{} could not be traced: what they copied is missing from every figure.",
            counted(lost.threads, "thread", "threads")
        ));
    }
    sentences
}

/// Losses and warnings, before anything else.
pub(super) fn losses(profile: &Profile, screen: Screen, out: &mut dyn Write) -> io::Result<()> {
    let losses = loss_sentences(&profile.totals);
    let marked = losses.iter().map(|text| ("lost:", LOSS, &**text));
    let warnings = warnings(profile, &losses).map(|text| ("warning:", WARNING, text));
    let mut any = false;
    for (mark, style, text) in marked.chain(warnings) {
        any = true;
        let lines = screen.wrap(0, &format!("{mark} {}", escape(text)));
        for (at, line) in lines.iter().enumerate() {
            match line.strip_prefix(mark).filter(|_| at == 0) {
                Some(rest) => writeln!(out, "{}{rest}", screen.paint(style, mark))?,
                None => writeln!(out, "  {line}")?,
            }
        }
    }
    if any { writeln!(out) } else { Ok(()) }
}

/// The warnings that say something else than the sentences on what was lost: whoever made the profile
/// may have said the same for readers of the JSON report.
pub(in crate::report) fn warnings<'a>(
    profile: &'a Profile,
    losses: &[String],
) -> impl Iterator<Item = &'a str> {
    let others = profile.warnings.iter().map(String::as_str);
    others.filter(|warning| !losses.iter().any(|loss| loss == warning))
}

/// What was copied, in sentences.
pub(super) fn summary(profile: &Profile, screen: Screen, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}", screen.paint(TITLE, &headline(profile)))?;
    for line in sentences(profile, screen)
        .iter()
        .flat_map(|sentence| screen.wrap(2, sentence))
    {
        writeln!(out, "{line}")?;
    }
    for line in screen.wrap(2, &how(profile)) {
        writeln!(out, "{}", screen.paint(DIM, &line))?;
    }
    Ok(())
}

/// The sentences below the headline, escaped; what matters most comes first.
pub(in crate::report) fn sentences(profile: &Profile, screen: Screen) -> Vec<String> {
    // What is more than all copies comes first.
    let mut sentences: Vec<String> = new_memory(profile).into_iter().collect();
    sentences.extend(verdict::sentences(profile, screen));
    sentences.extend(advice::sentence(profile));
    sentences.push(copied(profile));
    sentences.extend(pending(&profile.totals));
    sentences.extend(memory::melting(profile));
    sentences.extend(memory::pace(profile));
    sentences.extend(memory::churn(profile));
    sentences.extend(memory::sides(profile, screen));
    let remedy = restarts::sentence(profile);
    sentences.extend(memory::late(profile, remedy.is_none()).or_else(|| earlier(profile)));
    sentences.extend(remedy);
    sentences.extend(memory::time(profile));
    sentences.extend(memory::cache(profile));
    if let Some(command) = command(profile) {
        sentences.push(command);
    }
    if loss_sentences(&profile.totals).is_empty() {
        sentences.push("Nothing was lost.".to_owned());
    }
    sentences
}

/// What was copied, in a line.
pub(in crate::report) fn headline(profile: &Profile) -> String {
    let (totals, duration) = (&profile.totals, profile.duration_s);
    let time = seconds(duration);
    if totals.copied_pages == 0 {
        return format!("Nothing was copied in {time}");
    }
    let size_in_time = format!("{} copied in {time}", size(totals.copied_bytes));
    if duration > 0.0 {
        let rate = totals.copied_bytes as f64 / duration;
        format!("{size_in_time}, {}/s", size(rate as u64))
    } else {
        size_in_time
    }
}

fn copied(profile: &Profile) -> String {
    let totals = &profile.totals;
    let seen = profile.process_count();
    if totals.copied_pages == 0 {
        return format!(
            "The kernel copied no page for {}.",
            counted(seen, "traced process", "traced processes")
        );
    }
    let copied = profile
        .processes
        .iter()
        .filter(|process| process.copied_pages > 0)
        .count() as u64;
    let page = profile.host.page_size;
    // Huge pages count as one each, so then there is no one size.
    let each = if totals.copied_bytes == totals.copied_pages.saturating_mul(page) {
        format!(" of {}", size(page))
    } else {
        String::new()
    };
    format!(
        "The kernel copied {}{each} for {} of {}.",
        counted(totals.copied_pages, "page", "pages"),
        count(copied),
        counted(seen, "process", "processes"),
    )
}

/// Who may have copied what this trace has not seen.
fn earlier(profile: &Profile) -> Option<String> {
    let found = |process: &&Process| process.stands_for.is_none() && process.forked_at_s.is_none();
    let found = profile.processes.iter().filter(found);
    let pids: BTreeSet<u32> = found.clone().map(|process| process.pid).collect();
    let forked = found.filter(|process| pids.contains(&process.ppid)).count();
    Some(match forked {
        0 => return None,
        1 => "1 process had been forked before the trace began: what it had copied until then is \
              not in these figures."
            .to_owned(),
        many => format!(
            "{} processes had been forked before the trace began: what they had copied until then \
             is not in these figures.",
            count(many as u64)
        ),
    })
}

/// Memory that grew and is no copy, where there is more of it than of copies.
fn new_memory(profile: &Profile) -> Option<String> {
    let pages = profile.totals.not_copied.first_touch?;
    let size_of_new = pages.saturating_mul(profile.host.page_size);
    if size_of_new < MUCH_NEW_MEMORY || size_of_new <= profile.totals.copied_bytes {
        return None;
    }
    Some(format!(
        "More than was copied is new memory: {} ({} at least) were filled for the first time, which is no \
         copy.",
        counted(pages, "absent page", "absent pages"),
        size(size_of_new)
    ))
}

/// What was counted and will be known a moment later.
fn pending(totals: &Totals) -> Option<String> {
    Some(match totals.pending {
        0 => return None,
        1 => "The record of 1 copied page was still on its way: it is listed as [pending]."
            .to_owned(),
        pages => format!(
            "The records of {} copied pages were still on their way: they are listed as [pending].",
            count(pages)
        ),
    })
}

fn command(profile: &Profile) -> Option<String> {
    let program = profile.command.first()?;
    let ended = match profile.command_exit {
        Some(CommandExit {
            status: Some(status),
            ..
        }) => format!("exited with status {status}"),
        Some(CommandExit {
            signal: Some(signal),
            ..
        }) => format!("was ended by signal {signal}"),
        _ => "was still running at the end".to_owned(),
    };
    Some(format!("The command '{}' {ended}.", escape(program)))
}

/// How it was seen: backend, stacks, kernel, time; escaped.
pub(in crate::report) fn how(profile: &Profile) -> String {
    let host = &profile.host;
    let stacks = match host.unwind {
        OrOther::This(Unwind::FramePointers) => "stacks by frame pointer".to_owned(),
        OrOther::This(Unwind::Auto) => "stacks by unwind tables".to_owned(),
        OrOther::This(Unwind::Dwarf) => "stacks by unwind tables alone".to_owned(),
        OrOther::This(Unwind::Off) => "no stacks".to_owned(),
        OrOther::Other(other) => format!("stacks by {other}"),
    };
    let python = match host.python {
        OrOther::This(Python::Off) => ", Python not looked at",
        OrOther::This(Python::Auto) | OrOther::Other(_) => "",
    };
    let text = format!(
        "memtrace {}, {} backend, {stacks}{python}, Linux {} {}, {}",
        profile.memtrace, host.backend, host.kernel, host.arch, profile.started_at
    );
    escape(&text).into_owned()
}
