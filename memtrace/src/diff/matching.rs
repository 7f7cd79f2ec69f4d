//! Which functions of two profiles are the same, although their lines and files moved.
//!
//! Functions belong together that have name and language in common, the name of their file, and for
//! call sites the cause. Where several do, those of the same path come first, then those whose paths
//! end alike. Of several lines of one function, lines belong together that moved by the same number
//! of lines; what is left over, in order.

use std::collections::BTreeMap;

use super::What;
use super::tally::{Copies, Pair};
use crate::profile::{CallSite, CauseName, Language, Profile, Site};

/// Pairs of lines, or of paths, that are tried; beyond that, what belongs together is taken in order.
const MOST_TRIED: usize = 10_000;

/// Which functions belong together: language, function, name of the file, cause.
type Key<'a> = (Language, &'a str, &'a str, Option<CauseName>);

/// A place in the code, in one profile.
struct Place<'a> {
    site: &'a Site,
    copies: Copies,
    /// Whether a library copied for it.
    by_library: bool,
}

/// The call sites of both.
pub(super) fn call_sites(base: &Profile, new: &Profile) -> Vec<Pair> {
    let places = |profile| places(profile, |site| &site.site, |site| Some(site.cause));
    let pairs = pairs([places(base), places(new)]);
    let what = |cause: Option<CauseName>, places: Found<'_>| What::CallSite {
        cause: cause.unwrap_or(CauseName::Unknown),
        site: places.site(),
        moved_from: places.moved_from(),
    };
    pairs
        .into_iter()
        .map(|(cause, found)| found.pair(|found| what(cause, found)))
        .collect()
}

/// The frames that a person can act on, of both.
pub(super) fn app_frames(base: &Profile, new: &Profile) -> Vec<Pair> {
    let places = |profile| places(profile, CallSite::act_on, |_| None);
    let pairs = pairs([places(base), places(new)]);
    let what = |found: Found<'_>| What::AppFrame {
        by_library: found.0.iter().flatten().any(|place| place.by_library),
        site: found.site(),
        moved_from: found.moved_from(),
    };
    pairs
        .into_iter()
        .map(|(_, found)| found.pair(what))
        .collect()
}

/// Places by key, then by path and line.
type Places<'a> = BTreeMap<Key<'a>, BTreeMap<(&'a str, Option<u32>), Place<'a>>>;

fn places<'a>(
    profile: &'a Profile,
    of: impl Fn(&'a CallSite) -> &'a Site,
    cause: impl Fn(&CallSite) -> Option<CauseName>,
) -> Places<'a> {
    let mut places = Places::new();
    for call_site in &profile.call_sites {
        let site = of(call_site);
        let path = path(site);
        let base = path.rsplit('/').next().unwrap_or(path);
        let key = (site.language, &*site.function, base, cause(call_site));
        let lines = places.entry(key).or_default();
        let place = lines.entry((path, site.line)).or_insert_with(|| Place {
            site,
            copies: Copies::default(),
            by_library: false,
        });
        place.copies.add(call_site);
        place.by_library |= call_site.app.is_some();
    }
    places
}

/// The source file, or the program or library; empty where neither is known.
fn path(site: &Site) -> &str {
    let path = site.file.as_deref().or(site.module.as_deref());
    path.unwrap_or_default()
}

/// The same place in both profiles: base, new. At least one is there.
struct Found<'a>([Option<Place<'a>>; 2]);

impl Found<'_> {
    /// Where it is.
    fn site(&self) -> Site {
        let [base, new] = &self.0;
        let place = new.as_ref().or(base.as_ref());
        place.map_or_else(nowhere, |place| place.site.clone())
    }

    /// Where it was, if that is elsewhere.
    fn moved_from(&self) -> Option<Site> {
        let [Some(base), Some(new)] = &self.0 else {
            return None;
        };
        let is_same = path(base.site) == path(new.site) && base.site.line == new.site.line;
        (!is_same).then(|| base.site.clone())
    }

    fn pair(self, what: impl FnOnce(Found<'_>) -> What) -> Pair {
        let copies = [0, 1].map(|side| {
            let place = self.0[side].as_ref();
            place.map(|place| place.copies.clone()).unwrap_or_default()
        });
        Pair {
            what: what(self),
            copies,
            of: None,
        }
    }
}

/// What stands for a place that is in neither profile, which none is.
fn nowhere() -> Site {
    Site {
        function: "[unknown]".into(),
        file: None,
        line: None,
        module: None,
        language: Language::Native,
    }
}

fn pairs<'a>([base, new]: [Places<'a>; 2]) -> Vec<(Option<CauseName>, Found<'a>)> {
    let mut groups: BTreeMap<Key<'a>, [Vec<Place<'a>>; 2]> = BTreeMap::new();
    for (side, places) in [base, new].into_iter().enumerate() {
        for (key, lines) in places {
            groups.entry(key).or_default()[side] = lines.into_values().collect();
        }
    }
    let groups = groups.into_iter();
    groups
        .flat_map(|(key, places)| {
            let found = of_one_name(places).into_iter();
            found.map(move |found| (key.3, found))
        })
        .collect()
}

/// Places of functions of one name, in files of one name.
fn of_one_name<'a>(places: [Vec<Place<'a>>; 2]) -> Vec<Found<'a>> {
    let mut by_path: BTreeMap<&'a str, [Vec<Place<'a>>; 2]> = BTreeMap::new();
    for (side, places) in places.into_iter().enumerate() {
        for place in places {
            by_path.entry(path(place.site)).or_default()[side].push(place);
        }
    }
    let mut found = Vec::new();
    let mut left = [Vec::new(), Vec::new()];
    for (path, places) in by_path {
        match places {
            [base, new] if new.is_empty() => left[0].push((path, base)),
            [base, new] if base.is_empty() => left[1].push((path, new)),
            both => found.extend(of_one_function(both)),
        }
    }
    found.extend(of_other_paths(left).into_iter().flat_map(of_one_function));
    found
}

type ByPath<'a> = Vec<(&'a str, Vec<Place<'a>>)>;

/// Paths that only one profile has: those that end alike belong together.
fn of_other_paths([base, new]: [ByPath<'_>; 2]) -> Vec<[Vec<Place<'_>>; 2]> {
    let mut tried: Vec<(usize, usize, usize)> = Vec::new();
    if base.len().saturating_mul(new.len()) <= MOST_TRIED {
        for (at, (path, _)) in base.iter().enumerate() {
            let others = new.iter().enumerate();
            tried.extend(others.map(|(to, (other, _))| (in_common(path, other), at, to)));
        }
        tried.sort_by_key(|&(common, at, to)| (std::cmp::Reverse(common), at, to));
    } else {
        tried.extend((0..base.len().min(new.len())).map(|at| (0, at, at)));
    }
    let mut base: Vec<_> = base.into_iter().map(|(_, places)| Some(places)).collect();
    let mut new: Vec<_> = new.into_iter().map(|(_, places)| Some(places)).collect();
    let mut both = Vec::new();
    for (_, at, to) in tried {
        if base[at].is_some() && new[to].is_some() {
            both.extend(base[at].take().zip(new[to].take()).map(<[_; 2]>::from));
        }
    }
    both.extend(
        base.into_iter()
            .flatten()
            .map(|places| [places, Vec::new()]),
    );
    both.extend(new.into_iter().flatten().map(|places| [Vec::new(), places]));
    both
}

/// How many parts at their ends two paths have in common.
fn in_common(path: &str, other: &str) -> usize {
    let parts = path.rsplit('/').zip(other.rsplit('/'));
    parts.take_while(|(part, other)| part == other).count()
}

/// Lines of one function.
fn of_one_function<'a>([base, new]: [Vec<Place<'a>>; 2]) -> Vec<Found<'a>> {
    let moved = moved_by(&base, &new);
    let mut base: Vec<Option<Place<'a>>> = base.into_iter().map(Some).collect();
    let mut new: Vec<Option<Place<'a>>> = new.into_iter().map(Some).collect();
    let mut found = Vec::new();
    let at: BTreeMap<i64, usize> = (new.iter().enumerate())
        .filter_map(|(at, place)| Some((line(place.as_ref()?), at)))
        .collect();
    for place in &mut base {
        let to = place
            .as_ref()
            .and_then(|place| at.get(&(line(place) + moved)));
        if let Some(&to) = to {
            found.push(Found([place.take(), new[to].take()]));
        }
    }
    // Places are ordered by line.
    let mut base = base.into_iter().flatten();
    let mut new = new.into_iter().flatten();
    loop {
        match (base.next(), new.next()) {
            (None, None) => return found,
            both => found.push(Found(both.into())),
        }
    }
}

/// By how many lines a function moved: as most of what was copied did.
fn moved_by(base: &[Place<'_>], new: &[Place<'_>]) -> i64 {
    if base.len().saturating_mul(new.len()) > MOST_TRIED {
        return 0;
    }
    let mut same: BTreeMap<i64, u64> = BTreeMap::new();
    for place in base {
        for other in new {
            let bytes = place.copies.bytes.min(other.copies.bytes);
            let sum = same.entry(line(other) - line(place)).or_default();
            *sum = sum.saturating_add(bytes);
        }
    }
    // Of equals the shortest way.
    let most = same
        .into_iter()
        .max_by_key(|&(moved, bytes)| (bytes, std::cmp::Reverse(moved.abs())));
    most.map_or(0, |(moved, _)| moved)
}

/// A line that is not known is none of the others.
fn line(place: &Place<'_>) -> i64 {
    place.site.line.map_or(-1, i64::from)
}
