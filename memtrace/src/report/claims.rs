//! What may be said of copied pages, and how certain it is.
//!
//! Every copied page has one [`Claim`]. That a page was only read is claimed where the object in
//! memory shows it, or a function that does nothing else, and its page did not change otherwise; or
//! where pages of the call site were compared and are still what they were. How an instruction
//! writes is a hint, and is called one.

use std::collections::{BTreeMap, BTreeSet};

use crate::profile::{
    CallSite, CauseEvidence, CauseName, Frame, Language, OriginName, Phase, Process, Profile,
    Python, SampleUnchanged, StackPages, UnopenedFile,
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
    /// A reference count was written first, and later more than that.
    Changed,
    /// It was counted in place, and what was compared has changed: the program counts for itself, or
    /// holds references still.
    Counter,
    /// A garbage collector wrote, of a language whose objects are not read, and left its marks.
    Collector,
    /// It was written to, and is what it was before.
    Undone,
    /// The process was on its way out.
    Exit,
    /// The process was about to replace its program.
    BeforeExec,
    /// What was written is not known.
    Unknown,
    /// It was data of a process with a language whose objects are not read.
    Unread,
    /// It was data of a process of which some code could not be looked at.
    Unopened,
    /// It was written to.
    Written,
}

impl Claim {
    /// All of them.
    pub(super) const ALL: [Self; 12] = [
        Self::Read,
        Self::PerhapsRead,
        Self::Changed,
        Self::Counter,
        Self::Collector,
        Self::Undone,
        Self::Exit,
        Self::BeforeExec,
        Self::Unknown,
        Self::Unread,
        Self::Unopened,
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
    /// Files with code that could not be opened, of the processes that copied pages.
    pub unopened: BTreeSet<&'a UnopenedFile>,
    /// Whether Python's objects were looked at where there are any.
    pub looked_at_python: bool,
    /// Whether all that copied pages is Python whose objects are read, and nothing beside it.
    pub looked_at_all: bool,
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
        let copied = |process: &&'a Process| process.copied_pages > 0;
        let without_files = profile.processes.iter().filter(copied);
        let without_files = without_files.filter(|process| !process.unopened.is_empty());
        let mut unopened_of: BTreeSet<u32> = BTreeSet::new();
        let mut unopened = BTreeSet::new();
        for process in without_files {
            unopened_of.insert(process.pid);
            unopened.extend(&process.unopened);
        }
        let mut claims = Self {
            pages: BTreeMap::new(),
            sites: BTreeMap::new(),
            later: 0,
            unread: BTreeSet::new(),
            unopened,
            looked_at_python: profile.host.python != Python::Off,
            looked_at_all: profile.processes.iter().filter(copied).all(is_read),
        };
        for site in &profile.call_sites {
            let claim = claim(site);
            let mut here = site.pages;
            if claim == Claim::Written && site.cause == CauseName::Data {
                let (mut of_unread, mut of_unopened) = (0u64, 0u64);
                for (pid, pages) in &site.processes {
                    let names = unread_of.get(pid);
                    if let Some(names) = names.filter(|names| may_be_of(site, names)) {
                        of_unread = of_unread.saturating_add(*pages);
                        claims.unread.extend(names.iter().cloned());
                    } else if unopened_of.contains(pid) {
                        of_unopened = of_unopened.saturating_add(*pages);
                    }
                }
                for (claim, pages) in [(Claim::Unread, of_unread), (Claim::Unopened, of_unopened)] {
                    let pages = pages.min(here);
                    here -= pages;
                    claims.add(claim, site, pages);
                }
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
            let counts = claim != Claim::Read || needs_confirmation(site);
            site.unchanged.filter(|_| counts)
        });
        found.fold(SampleUnchanged::default(), |sum, one| SampleUnchanged {
            unchanged_pages: sum.unchanged_pages.saturating_add(one.unchanged_pages),
            compared_pages: sum.compared_pages.saturating_add(one.compared_pages),
            changed_pages: sum.changed_pages.saturating_add(one.changed_pages),
            compared_with_child_pages: sum
                .compared_with_child_pages
                .saturating_add(one.compared_with_child_pages),
        })
    }
}

/// Languages of a process whose objects are not read.
fn unread(process: &Process) -> Vec<String> {
    let refused = process.interpreter.iter();
    // What had not begun had no objects.
    let is_refused = |why: &str| why != NOT_INITIALISED;
    let refused = refused.filter(|seen| seen.why.as_deref().is_some_and(is_refused));
    let refused = refused.map(|seen| seen.name.clone());
    let runtimes = process.runtimes.iter().map(|seen| seen.name.clone());
    refused.chain(runtimes).collect()
}

/// Whether all of a process's objects are looked at.
fn is_read(process: &Process) -> bool {
    let interpreter = process.interpreter.as_ref();
    interpreter.is_some_and(|seen| seen.why.is_none())
        && process.runtimes.is_empty()
        && process.unopened.is_empty()
}

/// Whether what a site wrote may be an object of one of these languages: a page of a file is none,
/// and where a stack is whole and all its functions have names, one of them is the language's.
fn may_be_of(site: &CallSite, names: &[String]) -> bool {
    if site.origin == OriginName::File {
        return false;
    }
    let mut stacks = site.stacks.iter();
    let is_whole = |stack: &StackPages| !stack.truncated && !stack.frames.is_empty();
    site.stacks.is_empty()
        || stacks.any(|stack| {
            let mut frames = stack.frames.iter();
            !is_whole(stack) || frames.any(|frame| frame_may_be_of(frame, names))
        })
}

fn frame_may_be_of(frame: &Frame, names: &[String]) -> bool {
    if frame.language != Language::Native {
        return false;
    }
    let module = frame.module.as_deref().unwrap_or_default();
    let file = module.rsplit('/').next().unwrap_or(module);
    if frame.unknown.is_some() {
        // Code that was made at run time, or a file whose names were stripped; not the C library.
        let libraries = ["libc.", "libc-", "ld-", "ld64."];
        return !libraries.iter().any(|begin| file.starts_with(begin));
    }
    names.iter().any(|name| {
        let known = LANGUAGES.iter().find(|known| name.starts_with(known.name));
        known.is_none_or(|known| {
            known.files.iter().any(|part| file.contains(part))
                || known
                    .functions
                    .iter()
                    .any(|part| frame.function.starts_with(part))
        })
    })
}

/// How the functions of a language are known.
struct KnownLanguage {
    /// What its name begins with.
    name: &'static str,
    /// Parts of the names of its own files.
    files: &'static [&'static str],
    /// What the names of its functions begin with where it is part of another program.
    functions: &'static [&'static str],
}

const fn language(
    name: &'static str,
    files: &'static [&'static str],
    functions: &'static [&'static str],
) -> KnownLanguage {
    KnownLanguage {
        name,
        files,
        functions,
    }
}

const LANGUAGES: [KnownLanguage; 11] = [
    language("PyPy", &["pypy"], &["pypy_"]),
    language("CPython", &["python"], &["Py", "_Py"]),
    language("Ruby", &["ruby"], &["rb_", "ruby_", "vm_"]),
    language("PHP", &["php"], &["zend_", "php_", "execute_ex", "zif_"]),
    language("Perl", &["perl"], &["Perl_", "perl_", "XS_"]),
    language("LuaJIT", &["lua"], &["lua", "lj_"]),
    language("Lua", &["lua"], &["lua"]),
    language("R", &["libR", "R"], &["Rf_", "R_"]),
    language(
        "V8",
        &["node", "v8", "chrom"],
        &["v8::", "Builtins_", "node::"],
    ),
    language("JVM", &["libjvm", "java"], &["JVM_", "Java_"]),
    language("BEAM", &["beam"], &["erts_", "process_main"]),
];

/// What is said of an interpreter that has not begun.
const NOT_INITIALISED: &str = "it had not initialised";

/// Whether that a site only read is told by how it writes alone, or by which function does.
pub(super) fn is_hint(site: &CallSite) -> bool {
    let evidence = site.evidence;
    evidence == Some(CauseEvidence::Instruction) || evidence == Some(CauseEvidence::Function)
}

/// Whether it is the comparison that shows that a site only read. A function that does nothing but
/// count references does not need it.
fn needs_confirmation(site: &CallSite) -> bool {
    is_hint(site)
        && (site.cause == CauseName::Gc || site.evidence == Some(CauseEvidence::Instruction))
}

/// What is said of all pages of a call site, whoever copied them.
fn claim(site: &CallSite) -> Claim {
    match site.phase {
        Phase::Exit => return Claim::Exit,
        Phase::BeforeExec => return Claim::BeforeExec,
        Phase::Run | Phase::Other(_) => {}
    }
    let pages = Pages::of(site);
    match (site.cause, site.evidence) {
        (CauseName::Unknown, _) => Claim::Unknown,
        // A collection leaves the lists that it goes through in another order, and marks.
        (CauseName::Gc, Some(CauseEvidence::Function)) if !pages.are_same() => Claim::Collector,
        (CauseName::Refcount, Some(CauseEvidence::Instruction)) => {
            if pages.are_same() {
                Claim::Read
            } else if pages.are_different() {
                Claim::Counter
            } else {
                Claim::PerhapsRead
            }
        }
        (CauseName::Refcount, _) if pages.have_changed() => Claim::Changed,
        (CauseName::Data, _) if pages.are_same() => Claim::Undone,
        _ if site.is_copy_on_read() => Claim::Read,
        _ => Claim::Written,
    }
}

/// What was found of the pages of a call site.
struct Pages {
    same: u128,
    changed: u128,
    compared: u128,
    are_enough: bool,
}

impl Pages {
    fn of(site: &CallSite) -> Self {
        let found = site.unchanged.unwrap_or_default();
        // A child may have written to its page without a copy, and a few may have written the same.
        let few = if found.compared_with_child_pages > 0 {
            ENOUGH
        } else {
            ENOUGH.min(site.pages)
        };
        Self {
            same: found.unchanged_pages.into(),
            changed: found.changed_pages.into(),
            compared: found.compared_pages.into(),
            are_enough: found.compared_pages > 0 && found.compared_pages >= few,
        }
    }

    /// Whether nearly all are what they were.
    fn are_same(&self) -> bool {
        self.are_enough && 100 * self.same >= u128::from(NEARLY_ALL) * self.compared
    }

    /// Whether hardly any are.
    fn are_different(&self) -> bool {
        self.are_enough && 100 * self.same <= u128::from(NEARLY_NONE) * self.compared
    }

    /// Whether most have changed in more than counts.
    fn have_changed(&self) -> bool {
        self.are_enough && 2 * self.changed > self.compared
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
            ..SampleUnchanged::default()
        });
        profile
    }

    #[test]
    fn a_hint_is_believed_when_pages_are_what_they_were() {
        use CauseEvidence::{Function, Instruction, Structure};
        for (evidence, compared, expected) in [
            (Structure, None, Claim::Read),
            (Structure, Some((0, 64)), Claim::Read),
            (Function, None, Claim::Read),
            (Function, Some((62, 64)), Claim::Read),
            (Instruction, None, Claim::PerhapsRead),
            (Instruction, Some((0, 64)), Claim::Counter),
            (Instruction, Some((6, 64)), Claim::Counter),
            (Instruction, Some((32, 64)), Claim::PerhapsRead),
            (Instruction, Some((62, 64)), Claim::Read),
            (Instruction, Some((7, 7)), Claim::PerhapsRead),
        ] {
            let profile = counters(evidence, compared);
            let claims = Claims::of(&profile);
            assert_eq!(claims.pages(expected), 100, "{evidence:?} {compared:?}");
        }
    }

    #[test]
    fn what_changed_in_more_than_counts_was_written_to() {
        for (changed, expected) in [(0, Claim::Read), (32, Claim::Read), (33, Claim::Changed)] {
            let mut profile = counters(CauseEvidence::Structure, Some((0, 64)));
            let found = profile.call_sites[0].unchanged.as_mut().unwrap();
            found.changed_pages = changed;
            assert_eq!(Claims::of(&profile).pages(expected), 100, "{changed}");
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
    fn a_collector_that_leaves_its_marks_is_no_counter() {
        for (compared, expected) in [
            (None, Claim::Collector),
            (Some((0, 64)), Claim::Collector),
            (Some((62, 64)), Claim::Read),
        ] {
            let mut profile = counters(CauseEvidence::Function, compared);
            profile.call_sites[0].cause = CauseName::Gc;
            assert_eq!(Claims::of(&profile).pages(expected), 100, "{compared:?}");
        }
    }

    #[test]
    fn data_that_is_what_it_was_is_said_to_be() {
        let mut profile = counters(CauseEvidence::Mapping, Some((60, 64)));
        profile.call_sites[0].cause = CauseName::Data;
        profile.totals.copy_on_read_pages = 0;
        assert_eq!(Claims::of(&profile).pages(Claim::Undone), 100);
    }

    #[test]
    fn a_language_that_was_not_on_the_stack_wrote_nothing() {
        let lua = ["Lua 5.1".to_owned()];
        let named = |function: &str| Frame::native(function, "/usr/bin/redis-server");
        assert!(!frame_may_be_of(&named("dictAddRaw"), &lua));
        assert!(frame_may_be_of(&named("luaV_execute"), &lua));
        let own = Frame::native("anything", "/usr/lib/libluajit-5.1.so.2");
        assert!(frame_may_be_of(&own, &lua));
        let unnamed = |module| Frame {
            unknown: Some(crate::profile::Unknown::NoSymbol),
            ..Frame::native("x+0x1", module)
        };
        assert!(frame_may_be_of(&unnamed("/usr/bin/redis-server"), &lua));
        assert!(!frame_may_be_of(&unnamed("/usr/lib/libc.so.6"), &lua));
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
    fn data_of_a_process_whose_program_could_not_be_opened_may_be_anything() {
        let mut profile = sample_of(&[(100, CauseName::Data, "store", None)]);
        let here = profile.call_sites[0].processes.clone();
        let (&pid, &pages) = here.iter().next().unwrap();
        for row in profile.processes.iter_mut().filter(|row| row.pid == pid) {
            row.copied_pages = pages;
            row.unopened = vec![UnopenedFile {
                path: "/home/x/venv/bin/python3".to_owned(),
                why: "permission denied (13)".to_owned(),
            }];
        }
        let claims = Claims::of(&profile);
        assert_eq!(claims.pages(Claim::Unopened), pages);
        assert_eq!(claims.pages(Claim::Written), 100 - pages);
        assert_eq!(claims.unopened.len(), 1);
    }

    #[test]
    fn data_of_a_language_that_is_not_read_may_be_anything() {
        let mut profile = sample_of(&[(100, CauseName::Data, "store", None)]);
        // What was on the stack is not known.
        profile.call_sites[0].stacks.clear();
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
