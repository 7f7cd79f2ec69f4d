//! The tables that are read without a script, and the frame of the flame graph that is not there
//! without one.

use std::borrow::Cow;

use super::cause_class;
use super::escape::html;
use super::head::shown_of;
use crate::distribution::Summary;
use crate::profile::{CallSite, CauseName, Profile, Site};
use crate::report::group::{By, Group, reason_of, regroup};
use crate::report::words::{count, duration, no_type, percent, size, unknown_mark};

/// Rows of a table.
pub(super) const ROWS: usize = 100;

/// Where the script draws the flame graph, with what it is worked by.
pub(super) fn flame_graph(profile: &Profile) -> String {
    if profile.totals.copied_pages == 0 {
        return String::new();
    }
    "<section id=\"where\"><h2>Where</h2>\n\
     <noscript><p>The flame graph, search and sorting need JavaScript.</p></noscript>\n\
     <div class=\"tools js\" hidden>\n\
     <label>Search <input id=\"search\" type=\"search\" placeholder=\"function, file or type\" \
     autocomplete=\"off\" spellcheck=\"false\" aria-keyshortcuts=\"/\" aria-describedby=\"found\"></label>\n\
     <label id=\"role-label\" hidden><input id=\"role\" type=\"checkbox\"> By process role</label>\n\
     <label id=\"native-label\"><input id=\"native\" type=\"checkbox\"> Native frames</label>\n\
     <label><input id=\"leaf\" type=\"checkbox\"> Leaf first</label>\n\
     <button id=\"back\" type=\"button\" disabled aria-keyshortcuts=\"Escape\">Zoom out</button>\n\
     <output id=\"found\" aria-live=\"polite\"></output>\n</div>\n\
     <p id=\"zoomed\" class=\"js dim\" hidden></p>\n\
     <div id=\"flame\" class=\"js\" role=\"group\" aria-label=\"Flame graph: arrow keys walk, Enter zooms, \
     Escape goes back\" hidden></div>\n\
     <p id=\"notes\" class=\"js dim\" hidden></p>\n\
     <details id=\"tree-details\" class=\"js\" hidden><summary>The same as a table</summary>\n\
     <div class=\"scroll\"><table id=\"tree\" role=\"treegrid\" aria-label=\"Stacks as a tree\">\n\
     <thead><tr role=\"row\"><th scope=\"col\" role=\"columnheader\">Function</th>\
     <th scope=\"col\" role=\"columnheader\" class=\"n\">Copied</th>\
     <th scope=\"col\" role=\"columnheader\" class=\"n\">Share</th>\
     <th scope=\"col\" role=\"columnheader\">By cause</th></tr></thead>\n\
     <tbody></tbody></table></div></details></section>\n"
        .to_owned()
}

/// A row is a place in the code and a cause.
pub(super) fn call_sites(profile: &Profile) -> String {
    if profile.totals.copied_pages == 0 {
        return String::new();
    }
    let groups = regroup(profile, By::Site);
    let shown = groups.len().min(ROWS);
    let row = |group: &Group<'_>| call_site(profile, group);
    let rows: String = groups.iter().take(ROWS).map(row).collect();
    format!(
        "<section id=\"sites\"><h2>Call sites<span id=\"sites-shown\">{}</span></h2>\n\
         <div class=\"scroll\" role=\"region\" aria-label=\"Call sites\" tabindex=\"0\">\
         <table id=\"site-table\"><thead><tr>\
         <th scope=\"col\">Call site</th><th scope=\"col\" class=\"n\">Copied</th>\
         <th scope=\"col\" class=\"n\">Share</th><th scope=\"col\">Cause</th>\
         <th scope=\"col\">Mostly of type</th><th scope=\"col\" class=\"n more\">Latency p50</th>\
         <th scope=\"col\" class=\"n more\">p99</th><th scope=\"col\" class=\"n more\">Age p50</th>\
         <th scope=\"col\" class=\"n more\">Processes</th></tr></thead>\n\
         <tbody>\n{rows}</tbody></table></div>\n</section>\n",
        shown_of(shown, groups.len() as u64)
    )
}

/// The one cause of a row by call site.
pub(super) fn cause_of(group: &Group<'_>) -> CauseName {
    group
        .causes
        .keys()
        .next()
        .copied()
        .unwrap_or(CauseName::Unknown)
}

/// Function and mark; file and line in short; the same in full.
pub(super) fn names(group: &Group<'_>) -> (String, String, String) {
    let Some((first, _)) = group.parts.first() else {
        return (
            group.name.clone().into_owned(),
            String::new(),
            String::new(),
        );
    };
    let mark = reason_of(first).map_or(Cow::Borrowed(""), unknown_mark);
    let (short, whole) = place(&first.site);
    (format!("{}{mark}", first.site.function), short, whole)
}

/// Where a site is, in short and in full.
pub(super) fn place(site: &Site) -> (String, String) {
    let whole = site
        .file
        .as_deref()
        .or(site.module.as_deref())
        .unwrap_or("");
    let short = whole.rsplit('/').next().unwrap_or(whole);
    match site.line.filter(|_| site.file.is_some()) {
        Some(line) => (format!("{short}:{line}"), format!("{whole}:{line}")),
        None => (short.to_owned(), whole.to_owned()),
    }
}

/// Pages by type, the most first; what is no object under what stands for it.
pub(super) fn types_of<'a>(group: &Group<'a>) -> Vec<(Cow<'a, str>, u64)> {
    let mut types: std::collections::BTreeMap<Cow<'a, str>, u64> =
        std::collections::BTreeMap::new();
    for &(site, pages) in &group.parts {
        let name = site
            .object_type
            .as_deref()
            .map_or_else(|| no_type(site.cause), Into::into);
        *types.entry(name).or_default() += pages;
    }
    let mut types: Vec<_> = types.into_iter().collect();
    types.sort_by_key(|(_, pages)| std::cmp::Reverse(*pages));
    types
}

/// `str`, or `str +2` where there are others; nothing where no object was written to.
pub(super) fn mostly(group: &Group<'_>) -> String {
    let types = types_of(group);
    let is_known = group
        .parts
        .iter()
        .any(|(site, _)| site.object_type.is_some());
    match &types[..] {
        [] => String::new(),
        _ if !is_known => String::new(),
        [(only, _)] => only.to_string(),
        [(first, _), others @ ..] => format!("{first} +{}", others.len()),
    }
}

pub(super) fn latency(site: &CallSite) -> &crate::distribution::Distribution {
    &site.latency_ns
}

pub(super) fn age(site: &CallSite) -> &crate::distribution::Distribution {
    &site.age_ms
}

fn nanoseconds(summary: Option<Summary>, which: fn(&Summary) -> u64) -> String {
    let value = summary.as_ref().map(which);
    value.map_or_else(
        || "-".to_owned(),
        |ns| duration(std::time::Duration::from_nanos(ns)),
    )
}

fn call_site(profile: &Profile, group: &Group<'_>) -> String {
    let (function, short, whole) = names(group);
    let cause = cause_of(group);
    let time = group.merged(latency).summary();
    let age = group.merged(age).summary();
    let age = age.map_or_else(
        || "-".to_owned(),
        |age| duration(std::time::Duration::from_millis(age.p50)),
    );
    format!(
        "<tr><th scope=\"row\"><code>{}</code> <span class=\"dim\" title=\"{}\">{}</span></th>\
         <td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"cause\"><i class=\"key {}\"></i>{}</td>\
         <td><code>{}</code></td><td class=\"n more\">{}</td><td class=\"n more\">{}</td>\
         <td class=\"n more\">{age}</td><td class=\"n more\">{}</td></tr>\n",
        html(&function),
        html(&whole),
        html(&short),
        size(group.bytes),
        percent(group.pages, profile.totals.copied_pages),
        cause_class(cause),
        html(cause.name()),
        html(&mostly(group)),
        nanoseconds(time, |time| time.p50),
        nanoseconds(time, |time| time.p99),
        count(group.processes.len() as u64),
    )
}

/// The types of the objects that were written to.
pub(super) fn types(profile: &Profile) -> String {
    if profile.types.is_empty() {
        return String::new();
    }
    let total = profile.totals.copied_pages;
    let row = |row: &crate::profile::TypeRow| {
        format!(
            "<tr><th scope=\"row\"><code>{}</code></th><td class=\"n\" data-v=\"{}\">{}</td>\
             <td class=\"n\" data-v=\"{}\">{}</td><td class=\"cause\"><i class=\"key {}\"></i>{}</td></tr>\n",
            html(&row.object_type),
            row.bytes,
            size(row.bytes),
            row.pages,
            percent(row.pages, total),
            cause_class(row.cause),
            html(row.cause.name()),
        )
    };
    let rows: Vec<String> = profile.types.iter().take(ROWS).map(row).collect();
    format!(
        "<section id=\"types\"><h2>Types of the objects written to{}</h2>\n\
         <div class=\"scroll\" role=\"region\" aria-label=\"Types\" tabindex=\"0\">\
         <table class=\"sortable\"><thead><tr><th scope=\"col\">Type</th>\
         <th scope=\"col\" class=\"n\">Copied</th><th scope=\"col\" class=\"n\">Share</th>\
         <th scope=\"col\">Cause</th></tr></thead>\n<tbody>\n{}</tbody></table></div></section>\n",
        shown_of(rows.len(), profile.types.len() as u64),
        rows.concat()
    )
}
