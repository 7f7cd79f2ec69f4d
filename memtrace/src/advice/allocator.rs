//! What allocators write: their bookkeeping in memory that workers share.
//!
//! An allocator that keeps its lists in the memory that it manages writes to it at every `malloc` and
//! `free`. What was free before the fork is copied when a worker takes it, though nobody needs what
//! is in there: `malloc_trim` gives it back to the kernel, and then it is new memory. Only pages on
//! which the allocator wrote first count here.

use super::found::{Copies, Found, is_running, lines, pages_with};
use crate::profile::{
    Advice, CallSite, CauseEvidence, CauseName, Confidence, OriginName, Process, StackPages,
};
use crate::report::words::counted;

/// Below this part of what was copied, in percent, allocators do not matter.
const LEAST_PERCENT: u64 = 20;

/// Functions that take memory.
const TAKE: [&str; 7] = [
    "malloc",
    "calloc",
    "memalign",
    "aligned_alloc",
    "posix_memalign",
    "operator new",
    "valloc",
];
/// Functions that give it back.
const GIVE: [&str; 4] = ["free", "cfree", "operator delete", "realloc"];

/// What a remedy is against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    /// Workers take what was free before the fork.
    Take,
    /// Workers give back what was taken before the fork.
    Give,
    /// Workers put objects into pools of CPython that were filled in part.
    Pools,
}

pub(super) fn advise(found: &Found<'_>) -> Option<Advice> {
    let who = |process: &Process| found.is_forked(process);
    let of = |habit| (habit, found.part(|site| pages(site, habit), who));
    let all = [of(Habit::Take), of(Habit::Give), of(Habit::Pools)];
    let (habit, copies) = all.into_iter().max_by_key(|(_, copies)| copies.pages)?;
    let least = u128::from(LEAST_PERCENT) * u128::from(found.profile.totals.copied_pages);
    if copies.pages == 0 || 100 * u128::from(copies.pages) < least {
        return None;
    }
    Some(habit.advice(found, &copies))
}

/// Pages of a call site that its allocator copied by this habit.
fn pages(site: &CallSite, habit: Habit) -> u64 {
    let is_allocator =
        site.cause == CauseName::Allocator && site.origin == OriginName::Fork && is_running(site);
    let is_pool = site.evidence == Some(CauseEvidence::Structure);
    match habit {
        _ if !is_allocator => 0,
        Habit::Pools => {
            if is_pool {
                site.pages
            } else {
                0
            }
        }
        Habit::Take | Habit::Give if is_pool => 0,
        Habit::Take => site.pages - pages_with(site, gives_back),
        Habit::Give => pages_with(site, gives_back),
    }
}

/// Whether a stack is one of giving memory back: by the innermost function that says so.
fn gives_back(stack: &StackPages) -> bool {
    let named = |names: &[&str], function: &str| {
        let plain = function.trim_start_matches(['_', '*']);
        names.iter().any(|name| {
            let rest = plain.strip_prefix(name);
            // `operator delete(void*)`, `free`, `malloc_consolidate` within `free`.
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['(', '[']))
                || plain == format!("int_{name}")
                || plain == format!("libc_{name}")
        })
    };
    let mut says = stack.frames.iter().filter_map(|frame| {
        let function = &*frame.function;
        match (named(&GIVE, function), named(&TAKE, function)) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        }
    });
    says.next().unwrap_or(false)
}

impl Habit {
    fn advice(self, found: &Found<'_>, copies: &Copies<'_>) -> Advice {
        let (title, why, confidence, how) = match self {
            Self::Take => (
                "`malloc_trim(0)` before the fork",
                "Workers take memory that was free already when they were forked, and the allocator \
                 writes its lists into it. Given back to the kernel before the fork it is new memory \
                 when it is taken, and no copy; so are the pages of it that workers write to first, \
                 which are not counted here. Pages that are free in part stay shared and are copied.",
                Confidence::Medium,
                lines(&[
                    "malloc_trim(0);  /* right before the fork; glibc */",
                    "in Python: `ctypes.CDLL(None).malloc_trim(0)`, after `gc.collect()`",
                    "fewer holes to begin with: MALLOC_ARENA_MAX=2 in the environment, or jemalloc, \
                     which keeps its lists apart from what it gives out",
                ]),
            ),
            Self::Give => (
                "Freeing before the fork what workers free",
                "Workers give back memory that was taken before the fork, and the allocator writes \
                 into every piece of it. What nobody needs is freed once, before the fork, or left \
                 alone: giving it back in a worker frees nothing for the machine.",
                Confidence::Medium,
                lines(&[
                    "free it in the process that forks, and `malloc_trim(0)` then; in Python \
                     `gc.collect()`, and `del` of what was only needed to load",
                    "or do not free it in workers",
                    "or jemalloc, which keeps its lists apart from what it gives out",
                ]),
            ),
            Self::Pools => (
                "No holes between objects when workers are forked",
                "Python keeps objects of one size in pools of 16 KiB (4 KiB up to 3.9), and workers \
                 put new ones where objects have died. Each such pool is copied. How many holes can \
                 be avoided is not known.",
                Confidence::Low,
                lines(&[
                    "gc.disable()  # before anything is loaded: what it frees meanwhile leaves holes",
                    "load long-lived data last, and in one go: what is parsed or read for it dies \
                     between what stays",
                ]),
            ),
        };
        let mut evidence = vec![format!(
            "{} were first written to by an allocator",
            found.amount(copies)
        )];
        let workers = copies.pids.len() as u64;
        if workers > 1 {
            evidence.push(format!(
                "{} in each of them, on average",
                counted(copies.pages / workers, "page", "pages")
            ));
        }
        evidence.extend(copies.where_most());
        Advice {
            id: "allocator".to_owned(),
            title: title.to_owned(),
            why: why.to_owned(),
            saves_bytes: copies.bytes,
            confidence,
            how,
            evidence,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::made::{self, Made};
    use super::*;
    use crate::profile::Profile;

    fn allocating(functions: &[&str], pages: u64) -> Profile {
        let mut profile = made::profile(&[
            Made::new(pages, CauseName::Allocator, "take"),
            Made::new(1_000 - pages, CauseName::Data, "work"),
        ]);
        let mut sites = profile.call_sites.iter_mut();
        let site = sites.find(|site| site.cause == CauseName::Allocator);
        let site = site.unwrap();
        site.evidence = Some(CauseEvidence::Function);
        made::native(site, functions, "/lib/libc.so.6");
        profile
    }

    fn advised(profile: &Profile) -> Option<Advice> {
        advise(&Found::of(profile))
    }

    #[test]
    fn what_is_taken_of_inherited_memory_is_saved() {
        for functions in [
            &["malloc", "take"][..],
            &["libc.so.6+0x9a1b0", "malloc", "take"],
            &["_int_malloc", "calloc", "take"],
            &["sysmalloc", "take"],
        ] {
            let advice = advised(&allocating(functions, 300)).unwrap();
            assert_eq!(
                advice.title, "`malloc_trim(0)` before the fork",
                "{functions:?}"
            );
            assert_eq!(advice.saves_bytes, 600 * 4096);
            assert_eq!(advice.confidence, Confidence::Medium);
            assert_eq!(advice.evidence[1], "300 pages in each of them, on average");
        }
    }

    #[test]
    fn what_is_given_back_is_told_from_that() {
        for functions in [
            &["_int_free", "free", "drop"][..],
            &["libc.so.6+0x9a1b0", "cfree", "drop"],
            &["operator delete(void*)", "drop"],
            &["malloc_consolidate", "_int_free", "drop"],
        ] {
            let advice = advised(&allocating(functions, 300)).unwrap();
            assert!(advice.title.starts_with("Freeing before"), "{functions:?}");
            assert_eq!(advice.saves_bytes, 600 * 4096);
        }
    }

    #[test]
    fn pools_of_python_are_another_matter() {
        let profile = made::profile(&[Made::new(300, CauseName::Allocator, "append")]);
        let advice = advised(&profile).unwrap();
        assert_eq!(advice.saves_bytes, 600 * 4096);
        assert_eq!(advice.confidence, Confidence::Low);
    }

    #[test]
    fn a_little_bookkeeping_is_none_of_it_and_neither_is_a_masters() {
        assert!(advised(&allocating(&["malloc", "take"], 200)).is_some());
        assert_eq!(advised(&allocating(&["malloc", "take"], 199)), None);
        let mut profile = allocating(&["malloc", "take"], 300);
        let mut sites = profile.call_sites.iter_mut();
        let site = sites.find(|site| site.cause == CauseName::Allocator);
        site.unwrap().processes = [(made::MASTER, 600)].into();
        made::settle(&mut profile);
        assert_eq!(advised(&profile), None);
    }
}
