//! The data that the page's script reads: stacks with their pages by cause, call sites and processes.
//!
//! Text is in one table and frames are in another, both named by index. Stacks are in order, root
//! first, and each says only how it differs from the one before: 10,000 stacks take less than a
//! megabyte so. Stacks that are too many, or too rare to be seen, are added up as `[other]`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::details::{SiteRow, details, row};
use super::escape;
use super::roles::Roles;
use super::stacks::{Collected, Tables};
use crate::profile::{CauseName, Process, Profile};
use crate::report::group::{By, regroup};

/// Boxes of a flame graph, and bytes of all data. Beyond either, rare stacks are added up.
const MOST_NODES: usize = 200_000;
const MOST_BYTES: usize = 1_250_000;
/// First those that have less than one of so many pages, then those with the fewest.
const RARE: u64 = 10_000;
/// Call sites in the table, and how many of them can be unfolded.
const MOST_SITES: usize = 1_500;
const UNFOLDED: usize = 300;

/// Everything, in short.
#[derive(Serialize)]
pub(super) struct Data {
    /// All copied pages.
    pub pages: u64,
    /// Bytes of a page; absent where pages differ in size.
    pub unit: Option<u64>,
    /// Names of causes, which are named by index elsewhere.
    pub causes: Vec<&'static str>,
    /// Names of roles, and one for several; none where all copies are of one role.
    roles: Vec<u32>,
    /// All other text.
    strings: Vec<String>,
    /// Of each frame: function, file or module, line or 0, and whether it is of an interpreted
    /// language.
    frames: Vec<u32>,
    /// Of each stack: frames that it has in common with the one before, further ones and which, kinds
    /// and for each its number (the role's times the number of causes, and the cause's) and pages.
    pub stacks: Vec<u64>,
    /// Stacks that were added up, and their pages.
    pub folded: Option<(u64, u64)>,
    pub sites: Vec<SiteRow>,
    /// Call sites that are not among them, and their pages.
    pub more_sites: Option<(u64, u64)>,
    /// What processes are called, by pid, as far as call sites name them.
    processes: BTreeMap<u32, u32>,
}

/// The embedded data; none of its text can end the element that it stands in.
pub(super) fn json(profile: &Profile) -> serde_json::Result<String> {
    let roles = Roles::of(profile);
    let mut collected = Collected::of(profile, &causes(profile), &roles);
    let mut keep = usize::MAX;
    loop {
        let (data, nodes) = of(profile, &roles, &mut collected, keep);
        let text = escape::json(&data)?;
        let excess = (nodes as f64 / MOST_NODES as f64).max(text.len() as f64 / MOST_BYTES as f64);
        if excess <= 1.0 || keep == 0 {
            return Ok(text);
        }
        // First those that nobody sees.
        let rare = profile.totals.copied_pages / RARE + 1;
        keep = match keep {
            usize::MAX => collected.with_at_least(rare),
            keep => (keep as f64 * 0.9 / excess) as usize,
        };
    }
}

/// The data with so many stacks, the others added up, and how many boxes the stacks make.
pub(super) fn of(
    profile: &Profile,
    roles: &Roles,
    collected: &mut Collected,
    keep: usize,
) -> (Data, usize) {
    let mut tables = Tables::default();
    let causes = causes(profile);
    let totals = &profile.totals;
    let keep = keep.min(collected.with_at_least(0));
    let chosen = collected.choose(keep, &mut tables);
    let groups = regroup(profile, By::Site);
    let mut processes = BTreeMap::new();
    let sites = groups
        .iter()
        .take(MOST_SITES)
        .enumerate()
        .map(|(at, group)| {
            let details = (at < UNFOLDED).then(|| details(group, collected, &chosen, &mut tables));
            for (pid, _) in details.iter().flat_map(|it| &it.pids) {
                let name = profile.processes.iter().rev().find(|it| it.pid == *pid);
                let name = name.map_or_else(String::new, Process::called);
                let name = tables.text(&name);
                processes.insert(*pid, name);
            }
            row(group, &causes, details, &mut tables)
        });
    let sites = sites.collect();
    let rest = groups.get(MOST_SITES..).unwrap_or_default();
    let rest_pages = rest
        .iter()
        .fold(0u64, |sum, it| sum.saturating_add(it.pages));
    let page = profile.host.page_size;
    let is_uniform = totals.copied_bytes == totals.copied_pages.saturating_mul(page);
    let roles = roles.names.iter().map(|name| tables.text(name)).collect();
    let data = Data {
        roles,
        pages: totals.copied_pages,
        unit: is_uniform.then_some(page),
        causes: causes.iter().map(|cause| cause.name()).collect(),
        stacks: chosen.coded,
        folded: chosen.folded,
        sites,
        more_sites: (!rest.is_empty()).then_some((rest.len() as u64, rest_pages)),
        processes,
        strings: tables.strings,
        frames: tables.frames,
    };
    (data, chosen.nodes)
}

/// Causes in the order in which the data names them.
pub(super) fn causes(profile: &Profile) -> Vec<CauseName> {
    let mut causes: Vec<CauseName> = profile
        .totals
        .by_cause
        .iter()
        .map(|(name, _)| name)
        .collect();
    // The sums of a profile that was read may lack one.
    for site in &profile.call_sites {
        if !causes.contains(&site.cause) {
            causes.push(site.cause);
        }
    }
    causes
}

pub(super) fn index_of(causes: &[CauseName], cause: CauseName) -> usize {
    causes.iter().position(|it| *it == cause).unwrap_or(0)
}
