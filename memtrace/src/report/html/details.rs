//! A call site in the page's data: its row, and what is shown when it is unfolded.

use std::collections::BTreeMap;

use serde::Serialize;

use super::stacks::{Chosen, Collected, Tables};
use super::tables::{age, cause_of, latency, mostly, names, place, types_of};
use crate::distribution::Distribution;
use crate::profile::{CauseName, Phase, StackPages};
use crate::report::group::Group;
use crate::report::text::compared::whose;
use crate::report::words::{count, origin_meaning, percent, truncated};

/// Types, processes and stacks of a call site.
const TYPES: usize = 12;
const PROCESSES: usize = 12;
const STACKS: usize = 3;
/// Columns of a curve of latencies or ages.
const CURVE: usize = 40;

/// A row of the table of call sites.
#[derive(Serialize)]
pub(super) struct SiteRow {
    #[serde(rename = "f")]
    function: u32,
    #[serde(rename = "s")]
    place: u32,
    #[serde(rename = "w", skip_serializing_if = "Option::is_none")]
    whole_place: Option<u32>,
    #[serde(rename = "c")]
    cause: usize,
    #[serde(rename = "p")]
    pub pages: u64,
    #[serde(rename = "b")]
    bytes: u64,
    #[serde(rename = "m")]
    mostly: u32,
    #[serde(rename = "n")]
    processes: usize,
    #[serde(rename = "l", skip_serializing_if = "Option::is_none")]
    latency: Option<[u64; 3]>,
    #[serde(rename = "a", skip_serializing_if = "Option::is_none")]
    age: Option<[u64; 3]>,
    #[serde(rename = "d", skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
}

/// What is shown of a call site when it is unfolded.
#[derive(Serialize)]
pub(super) struct Details {
    facts: Vec<u32>,
    types: Vec<(u32, u64)>,
    pub pids: Vec<(u32, u64)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency: Option<Curve>,
    #[serde(skip_serializing_if = "Option::is_none")]
    age: Option<Curve>,
    /// Index of each stack, its pages, and why it ends early.
    stacks: Vec<(usize, u64, Option<u32>)>,
    more_stacks: usize,
}

/// A distribution over a logarithmic axis.
#[derive(Serialize)]
struct Curve {
    from: u64,
    to: u64,
    bins: Vec<u64>,
}

pub(super) fn row(
    group: &Group<'_>,
    causes: &[CauseName],
    details: Option<Details>,
    tables: &mut Tables,
) -> SiteRow {
    let (function, short, whole) = names(group);
    let figures = |distribution: &Distribution| {
        let summary = distribution.summary()?;
        Some([summary.p50, summary.p99, summary.max])
    };
    SiteRow {
        function: tables.text(&function),
        whole_place: (short != whole).then(|| tables.text(&whole)),
        place: tables.text(&short),
        cause: super::data::index_of(causes, cause_of(group)),
        pages: group.pages,
        bytes: group.bytes,
        mostly: tables.text(&mostly(group)),
        processes: group.processes.len(),
        latency: figures(&group.merged(latency)),
        age: figures(&group.merged(age)),
        details,
    }
}

pub(super) fn details(
    group: &Group<'_>,
    collected: &mut Collected,
    chosen: &Chosen,
    tables: &mut Tables,
) -> Details {
    let facts = facts(group);
    let mut pids: Vec<(u32, u64)> = group.processes.iter().map(|(&p, &n)| (p, n)).collect();
    pids.sort_by_key(|(_, pages)| std::cmp::Reverse(*pages));
    pids.truncate(PROCESSES);
    let mut stacks: BTreeMap<usize, (u64, Option<&StackPages>)> = BTreeMap::new();
    for stack in group.parts.iter().flat_map(|(site, _)| &site.stacks) {
        // What was added up elsewhere has no index.
        if let Some(at) = collected.find(&stack.frames, chosen) {
            let (pages, one) = stacks.entry(at).or_default();
            *pages = pages.saturating_add(stack.pages);
            *one = one.or(Some(stack).filter(|it| it.truncated));
        }
    }
    let mut stacks: Vec<_> = stacks.into_iter().collect();
    stacks.sort_by_key(|(_, (pages, _))| std::cmp::Reverse(*pages));
    let more_stacks = stacks.len().saturating_sub(STACKS);
    let stacks = stacks.into_iter().take(STACKS).map(|(at, (pages, cut))| {
        let why = cut.map(|stack| tables.text(&truncated(stack.truncated_why)));
        (at, pages, why)
    });
    Details {
        stacks: stacks.collect(),
        more_stacks,
        facts: facts.iter().map(|fact| tables.text(fact)).collect(),
        types: (types_of(group).iter().take(TYPES))
            .map(|(name, pages)| (tables.text(name), *pages))
            .collect(),
        pids,
        latency: curve(&group.merged(latency)),
        age: curve(&group.merged(age)),
    }
}

/// What else is known of a call site, a sentence each.
fn facts(group: &Group<'_>) -> Vec<String> {
    let Some((first, _)) = group.parts.first() else {
        return Vec::new();
    };
    let mut facts = Vec::new();
    for (what, site) in [
        ("application's frame", &first.app),
        ("called by", &first.caller),
    ] {
        if let Some(site) = site {
            facts.push(format!("{what}: {} {}", site.function, place(site).0));
        }
    }
    let origins = group.origins.iter();
    let origins: Vec<String> = origins
        .map(|(origin, pages)| {
            let meaning = origin_meaning(*origin);
            if *pages == group.pages {
                meaning.to_owned()
            } else {
                format!("{meaning} {}", percent(*pages, group.pages))
            }
        })
        .collect();
    facts.push(format!("origin: {}", origins.join(", ")));
    if let Some(evidence) = first.evidence
        && let Ok(serde_json::Value::String(name)) = serde_json::to_value(evidence)
    {
        facts.push(format!("the cause is known by: {name}"));
    }
    facts.extend(
        first
            .cause_reason
            .as_ref()
            .map(|why| format!("not known: {why}")),
    );
    facts.extend(match first.phase {
        Phase::Run => None,
        Phase::BeforeExec => Some("when: between fork and exec".to_owned()),
        Phase::Exit => Some("when: while processes exited".to_owned()),
        Phase::Other(other) => Some(format!("when: {other}")),
    });
    let found = group.parts.iter().filter_map(|(site, _)| site.unchanged);
    let (mut same, mut all, mut with_child) = (0u64, 0u64, 0u64);
    for found in found {
        same = same.saturating_add(found.unchanged_pages);
        all = all.saturating_add(found.compared_pages);
        with_child = with_child.saturating_add(found.compared_with_child_pages);
    }
    if all > 0 {
        let whose = whose(with_child, all);
        let (same, all) = (count(same), count(all));
        facts.push(format!(
            "of {all} compared pages, {same} still equal {whose}"
        ));
    }
    facts
}

/// As many bins as fit, of equal width in the logarithm.
fn curve(distribution: &Distribution) -> Option<Curve> {
    let summary = distribution.summary()?;
    let (from, to) = (summary.min.max(1), summary.max.max(2));
    let span = (to as f64 / from as f64).ln().max(f64::EPSILON);
    let mut bins = vec![0u64; CURVE];
    for bucket in distribution.histogram().iter_recorded() {
        let value = bucket.value_iterated_to().max(from) as f64;
        let at = (value / from as f64).ln() / span * CURVE as f64;
        bins[(at as usize).min(CURVE - 1)] += bucket.count_since_last_iteration();
    }
    // Only the form is drawn, in so many steps of height.
    let most = bins.iter().max().copied().unwrap_or(0).max(1);
    let height = |bin: u64| (u128::from(bin) * 100).div_ceil(u128::from(most)) as u64;
    Some(Curve {
        from,
        to,
        bins: bins.into_iter().map(height).collect(),
    })
}
