//! The beginning and the end of the page: what was lost, what was copied in sentences, by cause, what
//! would help, and how it was recorded.

use super::escape::{html, sentence};
use super::{cause_class, percentage};
use crate::profile::{Advice, CauseName, Profile};
use crate::report::text::{Screen, summary};
use crate::report::words::{cause_meaning, count, counted, percent, ratio, size, whole_percent};

/// The verdict is in the first so many sentences.
const LEAD: usize = 2;
/// Width of a character of a label in the bar, and of the space around a label, in pixels.
const CHARACTER: f64 = 7.5;
const AROUND: f64 = 18.0;
/// Widths of the bar on a phone and on a wide screen, at least, in pixels.
const NARROW: f64 = 330.0;
const WIDE: f64 = 900.0;

/// What the browser calls the page.
pub(super) fn title(profile: &Profile) -> String {
    html(&format!("memtrace: {}", summary::headline(profile)))
}

/// Everything above the figures that one can explore.
pub(super) fn head(profile: &Profile) -> String {
    let sentences = summary::sentences(profile, Screen::of_a_file());
    let (lead, more) = sentences.split_at(sentences.len().min(LEAD));
    let lead: Vec<String> = lead.iter().map(|text| sentence(text)).collect();
    let item = |text: &String| ["<li>", &sentence(text), "</li>\n"].concat();
    let more: String = more.iter().map(item).collect();
    format!(
        "<header>\n{}<h1>{}</h1>\n<p class=\"lead\">{}</p>\n{}{}<ul class=\"said\">\n{more}</ul>\n\
         <p class=\"facts\">{}</p>\n{}</header>\n{}",
        banner(profile),
        html(&summary::headline(profile)),
        lead.join(" "),
        bar(profile),
        legend(profile),
        html(&summary::how(profile)),
        blind_spots(profile),
        navigation(profile),
    )
}

/// What was lost, and warnings: before any figure.
fn banner(profile: &Profile) -> String {
    let losses = summary::loss_sentences(&profile.totals);
    let lost = losses.iter().map(|text| ("Lost", &**text));
    let warnings = summary::warnings(profile, &losses).map(|text| ("Warning", text));
    let item = |(mark, text): (&str, &str)| {
        [
            "<li><strong>",
            mark,
            ":</strong> ",
            &sentence(text),
            "</li>\n",
        ]
        .concat()
    };
    let items: String = lost.chain(warnings).map(item).collect();
    if items.is_empty() {
        return String::new();
    }
    format!("<ul class=\"banner\" aria-label=\"Losses and warnings\">\n{items}</ul>\n")
}

/// The causes that have pages, the one with the most first.
pub(super) fn causes(profile: &Profile) -> Vec<(CauseName, u64)> {
    let mut causes: Vec<_> = profile.totals.by_cause.iter().collect();
    causes.retain(|(_, pages)| *pages > 0);
    causes.sort_by_key(|(_, pages)| std::cmp::Reverse(*pages));
    causes
}

/// All copies in one bar. A part has its name in it where there is room; the legend has all.
fn bar(profile: &Profile) -> String {
    let total = profile.totals.copied_pages;
    let causes = causes(profile);
    if causes.is_empty() {
        return String::new();
    }
    let (mut at, mut parts, mut said) = (0.0, String::new(), Vec::new());
    for (cause, pages) in causes {
        let share = ratio(pages, total);
        let label = html(&format!("{cause} {}", whole_percent(pages, total)));
        parts.extend([format!(
            "<rect class=\"{}\" x=\"{}%\" width=\"{}%\" height=\"34\"/>\n",
            cause_class(cause),
            percentage(at),
            percentage(share)
        )]);
        let room = label.chars().count() as f64 * CHARACTER + AROUND;
        if share * WIDE > room {
            let class = if share * NARROW > room {
                ""
            } else {
                " class=\"wide\""
            };
            parts.extend([format!(
                "<text{class} x=\"{}%\" dx=\"9\" y=\"22\">{label}</text>\n",
                percentage(at)
            )]);
        }
        at += share;
        said.push(label);
    }
    format!(
        "<svg class=\"bar\" role=\"img\" aria-label=\"Copied pages by cause: {}\">\n{parts}</svg>\n",
        said.join(", ")
    )
}

/// Every cause with its colour, its part and what it means.
fn legend(profile: &Profile) -> String {
    let totals = &profile.totals;
    let item = |(cause, pages): (CauseName, u64)| {
        let bytes = u128::from(totals.copied_bytes) * u128::from(pages)
            / u128::from(totals.copied_pages.max(1));
        format!(
            "<li><i class=\"key {}\"></i><b>{}</b> {} <span class=\"dim\">{}, {}</span></li>\n",
            cause_class(cause),
            html(cause.name()),
            percent(pages, totals.copied_pages),
            size(bytes as u64),
            html(cause_meaning(cause)),
        )
    };
    let items: Vec<String> = causes(profile).into_iter().map(item).collect();
    if items.is_empty() {
        return String::new();
    }
    format!("<ul class=\"legend\">\n{}</ul>\n", items.concat())
}

fn blind_spots(profile: &Profile) -> String {
    let spots = &profile.host.blind_spots;
    if spots.is_empty() {
        return String::new();
    }
    let item = |spot: &String| ["<li>", &sentence(spot), "</li>\n"].concat();
    let items: String = spots.iter().map(item).collect();
    format!(
        "<details class=\"spots\"><summary>What the {} backend cannot see: {}</summary>\n\
         <ul>\n{items}</ul></details>\n",
        html(&profile.host.backend.to_string()),
        counted(spots.len() as u64, "blind spot", "blind spots"),
    )
}

/// Links to the parts that there are.
fn navigation(profile: &Profile) -> String {
    let copied = profile.totals.copied_pages > 0;
    let links = [
        ("advice", "Advice", !profile.advice.is_empty()),
        ("time", "When", super::curve::is_shown(profile)),
        ("where", "Flame graph", copied),
        ("sites", "Call sites", copied),
        ("types", "Types", !profile.types.is_empty()),
        ("processes", "Processes", !profile.processes.is_empty()),
    ];
    let link = |(id, name, _): &(&str, &str, bool)| format!("<a href=\"#{id}\">{name}</a>\n");
    let links: Vec<String> = links.iter().filter(|it| it.2).map(link).collect();
    if links.is_empty() {
        return String::new();
    }
    format!(
        "<nav aria-label=\"Parts of the report\">\n{}</nav>\n",
        links.concat()
    )
}

/// What would make processes copy less.
pub(super) fn advice(profile: &Profile) -> String {
    if profile.advice.is_empty() {
        return String::new();
    }
    let items: Vec<String> = profile
        .advice
        .iter()
        .map(|it| advised(profile, it))
        .collect();
    format!(
        "<section id=\"advice\"><h2>What would help</h2>\n<ol class=\"advice\">\n{}</ol></section>\n",
        items.concat()
    )
}

fn advised(profile: &Profile, advice: &Advice) -> String {
    let how: Vec<String> = advice.how.iter().map(|line| html(line)).collect();
    let how = if how.is_empty() {
        String::new()
    } else {
        format!("<pre><code>{}</code></pre>\n", how.join("\n"))
    };
    let item = |text: &String| ["<li>", &sentence(text), "</li>\n"].concat();
    let evidence: String = advice.evidence.iter().map(item).collect();
    let evidence = if evidence.is_empty() {
        String::new()
    } else {
        format!("<ul class=\"evidence\">\n{evidence}</ul>\n")
    };
    format!(
        "<li><h3>{}</h3>\n<p><b>{}</b> ({}) <span class=\"dim\">confidence: {}</span></p>\n\
         <p>{}</p>\n{how}{evidence}</li>\n",
        sentence(&advice.title),
        size(advice.saves_bytes),
        percent(advice.saves_bytes, profile.totals.copied_bytes),
        html(advice.confidence.name()),
        sentence(&advice.why),
    )
}

/// Who made the page, of what, and how to make it again.
pub(super) fn foot(profile: &Profile) -> String {
    let command = match &profile.command[..] {
        [] => String::new(),
        words => format!(" Command: <code>{}</code>.", html(&words.join(" "))),
    };
    let host = &profile.host;
    format!(
        "<footer><p>Made by memtrace {} of what was recorded from {} on under Linux {} {}, in {}.{command} \
         To make one like it: <code>memtrace -o report.html …</code>. All of it is in this file, which \
         asks for nothing and has no third-party code.</p></footer>\n",
        html(&profile.memtrace),
        html(&profile.started_at),
        html(&host.kernel),
        html(&host.arch),
        counted(profile.process_count(), "process", "processes"),
    )
}

/// `12 of 340`, or nothing where all are shown.
pub(super) fn shown_of(shown: usize, all: u64) -> String {
    if (shown as u64) < all {
        format!(" <small>{} of {}</small>", count(shown as u64), count(all))
    } else {
        format!(" <small>{}</small>", count(all))
    }
}
