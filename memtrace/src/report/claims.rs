//! What may be said of copied pages, and how certain it is.
//!
//! Every copied page has one [`Claim`]. That a page was only read is claimed where the object in
//! memory shows it, or where pages of the call site were compared and are still what they were. How
//! an instruction writes, or which function it is in, is a hint, and is called one.

use std::collections::{BTreeMap, BTreeSet};

use crate::profile::{
    CallSite, CauseEvidence, CauseName, Phase, Process, Profile, Python, SampleUnchanged,
};

/// Fewer compared pages say nothing of a call site, unless they are all of its pages.
const ENOUGH: u64 = 8;
/// From so many percent of its compared pages on, a call site's pages are still what they were.
const NEARLY_ALL: u64 = 90;
/// Up to so many percent, they are not.
const NEARLY_NONE: u64 = 10;

/// What is said of a copied page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Claim {
    /// It was only read.
    Read,
    /// It was perhaps only read: the way of writing is that of a reference count or of a collector,
    /// and nothing confirms or refutes it.
    PerhapsRead,
    /// It looked like that, and what was compared has changed: the program counts for itself.
    Counter,
    /// The process was on its way out.
    Exit,
    /// The process was about to replace its program.
    BeforeExec,
    /// What was written is not known.
    Unknown,
    /// It was data of a process with a language whose objects are not read.
    Unread,
    /// It was written to.
    Written,
}

impl Claim {
    /// All of them.
    pub(super) const ALL: [Self; 8] = [
        Self::Read,
        Self::PerhapsRead,
        Self::Counter,
        Self::Exit,
        Self::BeforeExec,
        Self::Unknown,
        Self::Unread,
        Self::Written,
    ];
}

/// The copied pages of a profile by claim.
pub(super) struct Claims<'a> {
    /// Pages by claim.
    pages: BTreeMap<Claim, u64>,
    /// Call sites by claim, with their pages.
    sites: BTreeMap<Claim, Vec<(&'a CallSite, u64)>>,
    /// Of [`Claim::Read`], pages that a later version says were only read, of causes that this one
    /// does not know; they have no call sites here.
    pub later: u64,
    /// Languages that are not read, of the processes with [`Claim::Unread`].
    pub unread: BTreeSet<String>,
    /// Whether Python's objects were looked at where there are any.
    pub looked_at_python: bool,
}

impl<'a> Claims<'a> {
    /// What may be said of this profile.
    pub(super) fn of(profile: &'a Profile) -> Self {
        let mut unread_of: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for process in &profile.processes {
            let names = unread(process);
            if !names.is_empty() {
                unread_of.entry(process.pid).or_default().extend(names);
            }
        }
        let mut claims = Self {
            pages: BTreeMap::new(),
            sites: BTreeMap::new(),
            later: 0,
            unread: BTreeSet::new(),
            looked_at_python: profile.host.python != Python::Off,
        };
        for site in &profile.call_sites {
            let claim = claim(site);
            let mut here = site.pages;
            if claim == Claim::Written && site.cause == CauseName::Data {
                let mut of_unread = 0u64;
                for (pid, pages) in &site.processes {
                    if let Some(names) = unread_of.get(pid) {
                        of_unread = of_unread.saturating_add(*pages);
                        claims.unread.extend(names.iter().cloned());
                    }
                }
                let of_unread = of_unread.min(here);
                here -= of_unread;
                claims.add(Claim::Unread, site, of_unread);
            }
            claims.add(claim, site, here);
        }
        claims.add_later(profile);
        claims
    }

    fn add_later(&mut self, profile: &Profile) {
        let read = profile
            .call_sites
            .iter()
            .filter(|site| site.is_copy_on_read());
        let known = read.fold(0u64, |sum, site| sum.saturating_add(site.pages));
        let later = profile.totals.copy_on_read_pages.saturating_sub(known);
        self.later = later.min(self.pages(Claim::Written));
        *self.pages.entry(Claim::Written).or_default() -= self.later;
        *self.pages.entry(Claim::Read).or_default() += self.later;
    }

    fn add(&mut self, claim: Claim, site: &'a CallSite, pages: u64) {
        if pages > 0 {
            let sum = self.pages.entry(claim).or_default();
            *sum = sum.saturating_add(pages);
            self.sites.entry(claim).or_default().push((site, pages));
        }
    }

    /// Pages of a claim.
    pub(super) fn pages(&self, claim: Claim) -> u64 {
        self.pages.get(&claim).copied().unwrap_or(0)
    }

    /// Call sites of a claim, each with its pages of that.
    pub(super) fn parts(&self, claim: Claim) -> &[(&'a CallSite, u64)] {
        self.sites.get(&claim).map_or(&[], Vec::as_slice)
    }

    /// Call sites of a claim.
    pub(super) fn sites(&self, claim: Claim) -> Vec<&'a CallSite> {
        self.parts(claim).iter().map(|(site, _)| *site).collect()
    }

    /// Pages that were only read, by pid.
    pub(super) fn read_of_processes(&self) -> BTreeMap<u32, u64> {
        let mut pages: BTreeMap<u32, u64> = BTreeMap::new();
        for (&pid, &read) in self
            .sites(Claim::Read)
            .iter()
            .flat_map(|site| &site.processes)
        {
            let sum = pages.entry(pid).or_default();
            *sum = sum.saturating_add(read);
        }
        pages
    }

    /// What was found of the compared pages of a claim's call sites.
    pub(super) fn compared(&self, claim: Claim) -> SampleUnchanged {
        let found = self.sites(claim).into_iter().filter_map(|site| {
            let hint = is_hint(site);
            site.unchanged.filter(|_| hint)
        });
        found.fold(SampleUnchanged::default(), |sum, one| SampleUnchanged {
            unchanged_pages: sum.unchanged_pages.saturating_add(one.unchanged_pages),
            compared_pages: sum.compared_pages.saturating_add(one.compared_pages),
            compared_with_child_pages: sum
                .compared_with_child_pages
                .saturating_add(one.compared_with_child_pages),
        })
    }
}

/// Languages of a process whose objects are not read.
fn unread(process: &Process) -> Vec<String> {
    let refused = process.interpreter.iter();
    let refused = refused.filter(|seen| seen.why.is_some());
    let refused = refused.map(|seen| seen.name.clone());
    let runtimes = process.runtimes.iter().map(|seen| seen.name.clone());
    refused.chain(runtimes).collect()
}

/// Whether that a site only read is told by how it writes alone.
pub(super) fn is_hint(site: &CallSite) -> bool {
    let evidence = site.evidence;
    evidence == Some(CauseEvidence::Instruction) || evidence == Some(CauseEvidence::Function)
}

/// What is said of all pages of a call site, whoever copied them.
fn claim(site: &CallSite) -> Claim {
    match site.phase {
        Phase::Exit => return Claim::Exit,
        Phase::BeforeExec => return Claim::BeforeExec,
        Phase::Run | Phase::Other(_) => {}
    }
    if site.cause == CauseName::Unknown {
        return Claim::Unknown;
    }
    if !site.is_copy_on_read() {
        return Claim::Written;
    }
    if !is_hint(site) {
        return Claim::Read;
    }
    let Some(SampleUnchanged {
        unchanged_pages: same,
        compared_pages: compared,
        compared_with_child_pages: with_child,
    }) = site.unchanged
    else {
        return Claim::PerhapsRead;
    };
    // A child may have written to its page without a copy, and a few may have written the same.
    let few = if with_child > 0 {
        ENOUGH
    } else {
        ENOUGH.min(site.pages)
    };
    let (same, compared) = (u128::from(same), u128::from(compared));
    let is_enough = compared >= u128::from(few);
    if is_enough && 100 * same >= u128::from(NEARLY_ALL) * compared {
        Claim::Read
    } else if is_enough && 100 * same <= u128::from(NEARLY_NONE) * compared {
        Claim::Counter
    } else {
        Claim::PerhapsRead
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::sample::sample_of;
    use crate::profile::{InterpreterSeen, RuntimeSeen};

    /// A profile of one call site that wrote to counters, by this evidence.
    fn counters(evidence: CauseEvidence, compared: Option<(u64, u64)>) -> Profile {
        let mut profile = sample_of(&[(100, CauseName::Refcount, "count", None)]);
        let site = &mut profile.call_sites[0];
        site.evidence = Some(evidence);
        site.unchanged = compared.map(|(unchanged_pages, compared_pages)| SampleUnchanged {
            unchanged_pages,
            compared_pages,
            compared_with_child_pages: 0,
        });
        profile
    }

    #[test]
    fn a_hint_is_believed_when_pages_are_what_they_were() {
        use CauseEvidence::{Function, Instruction, Structure};
        for (evidence, compared, expected) in [
            (Structure, None, Claim::Read),
            (Structure, Some((0, 64)), Claim::Read),
            (Instruction, None, Claim::PerhapsRead),
            (Function, None, Claim::PerhapsRead),
            (Instruction, Some((0, 64)), Claim::Counter),
            (Instruction, Some((6, 64)), Claim::Counter),
            (Instruction, Some((32, 64)), Claim::PerhapsRead),
            (Function, Some((62, 64)), Claim::Read),
            (Function, Some((7, 7)), Claim::PerhapsRead),
        ] {
            let profile = counters(evidence, compared);
            let claims = Claims::of(&profile);
            assert_eq!(claims.pages(expected), 100, "{evidence:?} {compared:?}");
        }
    }

    #[test]
    fn a_few_pages_that_equal_a_childs_prove_nothing() {
        for (with_child, expected) in [(0, Claim::Read), (1, Claim::PerhapsRead)] {
            let mut profile = counters(CauseEvidence::Instruction, Some((1, 1)));
            let site = &mut profile.call_sites[0];
            site.pages = 1;
            let found = site.unchanged.as_mut().unwrap();
            found.compared_with_child_pages = with_child;
            assert_eq!(Claims::of(&profile).pages(expected), 1, "{with_child}");
        }
    }

    #[test]
    fn what_is_copied_on_the_way_out_or_before_an_exec_is_not_read() {
        for (phase, expected) in [
            (Phase::Exit, Claim::Exit),
            (Phase::BeforeExec, Claim::BeforeExec),
        ] {
            let mut profile = counters(CauseEvidence::Structure, None);
            profile.call_sites[0].phase = phase;
            let claims = Claims::of(&profile);
            assert_eq!(claims.pages(expected), 100);
            assert_eq!(claims.pages(Claim::Read), 0);
        }
    }

    #[test]
    fn data_of_a_language_that_is_not_read_may_be_anything() {
        let mut profile = sample_of(&[(100, CauseName::Data, "store", None)]);
        let copied: Vec<u32> = profile.call_sites[0].processes.keys().copied().collect();
        let row = |profile: &mut Profile| {
            let rows = profile.processes.iter_mut();
            rows.filter(|row| copied.contains(&row.pid))
                .for_each(|row| {
                    row.interpreter = None;
                });
        };
        row(&mut profile);
        assert_eq!(Claims::of(&profile).pages(Claim::Written), 100);
        let first = profile
            .processes
            .iter_mut()
            .find(|row| row.pid == copied[0]);
        let first = first.unwrap();
        first.runtimes.push(RuntimeSeen {
            name: "PHP".to_owned(),
            version: None,
        });
        first.interpreter = Some(InterpreterSeen {
            name: "CPython 3.15".to_owned(),
            why: Some("it is too new".to_owned()),
        });
        let claims = Claims::of(&profile);
        assert_eq!(
            claims.pages(Claim::Unread) + claims.pages(Claim::Written),
            100
        );
        assert!(claims.pages(Claim::Unread) > 0);
        let names: Vec<&str> = claims.unread.iter().map(String::as_str).collect();
        assert_eq!(names, ["CPython 3.15", "PHP"]);
    }
}
