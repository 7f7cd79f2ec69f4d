//! Processes with their lives on the trace's axis of time, by role where there are many, and where the
//! private memory of each role came from.

use super::escape::html;
use super::head::causes;
use super::tables::ROWS;
use super::{cause_class, percentage};
use crate::profile::{CauseName, Process, Profile, Role};
use crate::report::claims::Claims;
use crate::report::text::memory;
use crate::report::words::{count, counted, percent, ratio, seconds, size};

/// More processes than that are grouped by role, and of a role no more are listed.
const FLAT: usize = 50;

/// The table, or one for each role.
pub(super) fn section(profile: &Profile) -> String {
    if profile.processes.is_empty() {
        return String::new();
    }
    let table = Table::of(profile);
    let inside = if profile.processes.len() <= FLAT {
        table.html(&sorted(&profile.processes, |_| true))
    } else {
        by_role(profile, &table)
    };
    format!(
        "<section id=\"processes\"><h2>Processes <small>{}</small></h2>\n{}{inside}</section>\n",
        count(profile.process_count()),
        roles(profile),
    )
}

/// Those that copied most first; what stands for several is last.
fn sorted(processes: &[Process], which: impl Fn(&Process) -> bool) -> Vec<&Process> {
    let mut found: Vec<&Process> = processes.iter().filter(|it| which(it)).collect();
    found.sort_by_key(|process| {
        let others = process.stands_for.is_some();
        (others, std::cmp::Reverse(process.copied_pages))
    });
    found
}

fn by_role(profile: &Profile, table: &Table) -> String {
    let mut parts = Vec::new();
    let part = |title: String, processes: &[&Process], open: bool| {
        let copied = processes
            .iter()
            .fold(0u64, |sum, it| sum.saturating_add(it.copied_bytes));
        let number = processes
            .iter()
            .fold(0u64, |sum, it| sum.saturating_add(it.count()));
        format!(
            "<details class=\"role\"{}><summary>{title}: {}, {} copied</summary>\n{}</details>\n",
            if open { " open" } else { "" },
            counted(number, "process", "processes"),
            size(copied),
            table.html(processes)
        )
    };
    for role in &profile.roles {
        let of_role = sorted(&profile.processes, |it| it.role.as_ref() == Some(&role.id));
        if !of_role.is_empty() {
            parts.push(part(
                html(&memory::called(role)),
                &of_role,
                parts.is_empty(),
            ));
        }
    }
    let is_of = |process: &Process, role: &Role| process.role.as_ref() == Some(&role.id);
    let others = sorted(&profile.processes, |it| {
        !profile.roles.iter().any(|role| is_of(it, role))
    });
    if !others.is_empty() {
        let title = if parts.is_empty() { "all" } else { "others" };
        parts.push(part(title.to_owned(), &others, parts.is_empty()));
    }
    parts.concat()
}

/// What all rows of processes are measured by.
struct Table {
    /// The most that one process copied.
    most: u64,
    /// Pages that were only read, by pid.
    read: std::collections::BTreeMap<u32, u64>,
    duration_s: f64,
    /// Causes, the one with the most of all first: so the same ones begin each bar.
    causes: Vec<CauseName>,
}

impl Table {
    fn of(profile: &Profile) -> Self {
        let single = profile
            .processes
            .iter()
            .filter(|it| it.stands_for.is_none());
        let most = single.map(|it| it.copied_pages).max().unwrap_or(0);
        Self {
            most,
            read: Claims::of(profile).read_of_processes(),
            duration_s: profile.duration_s,
            causes: causes(profile)
                .into_iter()
                .map(|(cause, _)| cause)
                .collect(),
        }
    }

    fn html(&self, processes: &[&Process]) -> String {
        let row = |process: &&Process| self.row(process);
        let rows: String = processes.iter().take(FLAT).map(row).collect();
        let rest = match processes.get(FLAT..) {
            Some(rest @ [_, ..]) => {
                let number = rest
                    .iter()
                    .fold(0u64, |sum, it| sum.saturating_add(it.count()));
                let copied = rest
                    .iter()
                    .fold(0u64, |sum, it| sum.saturating_add(it.copied_bytes));
                format!(
                    "<p class=\"dim\">{} more copied {}.</p>\n",
                    count(number),
                    size(copied)
                )
            }
            _ => String::new(),
        };
        format!(
            "<div class=\"scroll\" role=\"region\" aria-label=\"Processes\" tabindex=\"0\">\
             <table class=\"sortable processes\"><thead><tr><th scope=\"col\">Process</th>\
             <th scope=\"col\" class=\"life-column\">Lived</th><th scope=\"col\" class=\"n\">Copied</th>\
             <th scope=\"col\" class=\"bar-column\">By cause</th>\
             <th scope=\"col\" class=\"n\">Only read</th><th scope=\"col\" class=\"n more\">Unchanged</th>\
             </tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n{rest}"
        )
    }

    fn row(&self, process: &Process) -> String {
        let name = html(&process.called());
        let name = match process.stands_for {
            Some(_) => name,
            None => format!("{} <span class=\"dim\">{name}</span>", process.pid),
        };
        let read = self
            .read
            .get(&process.pid)
            .copied()
            .unwrap_or(0)
            .min(process.copied_pages);
        let unchanged = process.unchanged.filter(|it| it.compared_pages > 0);
        let unchanged = unchanged.map_or_else(
            || "-".to_owned(),
            |it| percent(it.unchanged_pages, it.compared_pages),
        );
        let only_read = match process.copied_pages {
            0 => "-".to_owned(),
            all => percent(read, all),
        };
        format!(
            "<tr><th scope=\"row\" data-v=\"{}\">{name}</th><td data-v=\"{}\">{}</td>\
             <td class=\"n\" data-v=\"{}\">{}</td><td data-v=\"{}\">{}</td>\
             <td class=\"n\" data-v=\"{}\">{only_read}</td><td class=\"n more\">{unchanged}</td></tr>\n",
            process.pid,
            process.forked_at_s.unwrap_or(0.0),
            self.life(process),
            process.copied_bytes,
            size(process.copied_bytes),
            process.copied_pages,
            self.bar(process),
            ratio(read, process.copied_pages),
        )
    }

    /// From fork to end, on the trace's axis.
    fn life(&self, process: &Process) -> String {
        if process.stands_for.is_some() {
            return String::new();
        }
        let from = process.forked_at_s.unwrap_or(0.0) / self.duration_s;
        let to = process.exited_at_s.map_or(1.0, |at| at / self.duration_s);
        let (from, to) = (percentage(from), percentage(to));
        let said = match (process.forked_at_s, process.exited_at_s) {
            (None, None) => "all the time".to_owned(),
            (Some(from), None) => format!("from {} on", seconds(from)),
            (None, Some(to)) => format!("until {}", seconds(to)),
            (Some(from), Some(to)) => format!("from {} to {}", seconds(from), seconds(to)),
        };
        format!(
            "<svg class=\"life\" role=\"img\" aria-label=\"{said}\"><title>{said}</title>\
             <rect class=\"whole\" width=\"100%\" y=\"4\" height=\"2\"/>\
             <rect class=\"lived\" x=\"{from}%\" width=\"{}%\" height=\"10\" rx=\"2\"/></svg>",
            ((to - from).max(0.4) * 100.0).round() / 100.0
        )
    }

    /// What it copied, by cause; as long as its part of what the first one copied.
    fn bar(&self, process: &Process) -> String {
        let all = self
            .causes
            .iter()
            .map(|&cause| (cause, process.by_cause.get(cause)));
        let causes: Vec<(CauseName, u64)> = all.filter(|it| it.1 > 0).collect();
        let said: Vec<String> = causes
            .iter()
            .map(|(cause, pages)| format!("{cause} {}", percent(*pages, process.copied_pages)))
            .collect();
        let said = html(&said.join(", "));
        let (mut at, mut parts) = (0.0, String::new());
        for (cause, pages) in causes {
            let width = ratio(pages, self.most.max(process.copied_pages));
            parts.extend([format!(
                "<rect class=\"{}\" x=\"{}%\" width=\"{}%\" height=\"12\"/>",
                cause_class(cause),
                percentage(at),
                percentage(width)
            )]);
            at += width;
        }
        if parts.is_empty() {
            return String::new();
        }
        format!(
            "<svg class=\"copied\" role=\"img\" aria-label=\"{said}\"><title>{said}</title>{parts}</svg>"
        )
    }
}

/// What the processes are there for.
fn roles(profile: &Profile) -> String {
    if profile.roles.len() < 2 && profile.roles.iter().all(|role| role.processes < 2) {
        return String::new();
    }
    let row = |role: &Role| {
        format!(
            "<tr><th scope=\"row\">{}</th><td class=\"n\">{}</td><td class=\"n more\">{}</td>\
             <td class=\"n more\">{}</td><td class=\"n\" data-v=\"{}\">{}</td>\
             <td class=\"n\" data-v=\"{}\">{}</td><td class=\"n more\" data-v=\"{}\">{}</td></tr>\n",
            html(&memory::called(role)),
            count(role.processes),
            count(role.generations),
            count(role.ended),
            role.copied_bytes,
            size(role.copied_bytes),
            role.median_bytes,
            size(role.median_bytes),
            role.max_bytes,
            size(role.max_bytes),
        )
    };
    let rows: Vec<String> = profile.roles.iter().take(ROWS).map(row).collect();
    format!(
        "<div class=\"scroll\" role=\"region\" aria-label=\"Roles\" tabindex=\"0\">\
         <table class=\"sortable roles\"><thead><tr><th scope=\"col\">Role</th>\
         <th scope=\"col\" class=\"n\">Processes</th><th scope=\"col\" class=\"n more\">Generations</th>\
         <th scope=\"col\" class=\"n more\">Ended</th><th scope=\"col\" class=\"n\">Copied</th>\
         <th scope=\"col\" class=\"n\">Each, median</th><th scope=\"col\" class=\"n more\">The most</th>\
         </tr></thead>\n<tbody>\n{}</tbody></table></div>\n",
        rows.concat()
    )
}

/// Where private memory came from, by role.
pub(super) fn growth(profile: &Profile) -> String {
    let known = profile
        .roles
        .iter()
        .filter_map(|role| Some((role, role.growth?)));
    let item = |(role, growth)| {
        let words = memory::growth_in_words(&growth);
        [
            "<li><b>",
            &html(&memory::called(role)),
            "</b>: ",
            &html(&words),
            "</li>\n",
        ]
        .concat()
    };
    let items: String = known.map(item).collect();
    if items.is_empty() {
        return String::new();
    }
    format!(
        "<section id=\"growth\"><h2>Where private memory came from</h2>\n\
         <p class=\"dim\">Between the first and the last look at each process.</p>\n\
         <ul>\n{items}</ul></section>\n"
    )
}
