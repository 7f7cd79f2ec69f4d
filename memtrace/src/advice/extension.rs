//! Extension modules that count references: reading in C or C++ of objects of Python.
//!
//! Here no line of Python reads the objects, so nothing in the program's own code can be changed but
//! what the module is given. Modules of Python's own (`lib-dynload`) are not named: nobody changes
//! those.

use super::found::{Found, is_running, lines, module_of, pages_with, quoted, ranked};
use crate::profile::{
    Advice, CallSite, CauseEvidence, CauseName, Confidence, Frame, Language, OriginName, StackPages,
};
use crate::report::words::counted;

/// Functions that are named as evidence.
const NAMED: usize = 3;

/// Beginnings of the names of files that are no extension modules: CPython itself, the C library, and
/// what belongs to these.
const NO_EXTENSIONS: [&str; 10] = [
    "libpython",
    "python",
    "libc.",
    "libc-",
    "libm.",
    "libpthread",
    "ld-",
    "libstdc++",
    "libgcc_s",
    "uwsgi",
];

pub(super) fn advise(found: &Found<'_>) -> Option<Advice> {
    let who = |process: &_| found.is_python_fork(process);
    let all = found.part(|site| counted_in(site, |_| true), who);
    let stacks = all.sites.iter().flat_map(|(site, _)| &site.stacks);
    let modules = ranked(stacks.filter_map(|stack| Some((path(stack)?, stack.pages))));
    let (first, _) = *modules.first()?;
    let copies = found.part(|site| counted_in(site, |path| path == first), who);
    if copies.pages == 0 {
        return None;
    }
    let stacks = copies.sites.iter().flat_map(|(site, _)| &site.stacks);
    let functions = ranked(stacks.filter_map(|stack| {
        let leaf = leaf(stack).filter(|_| path(stack) == Some(first))?;
        Some((&*leaf.function, stack.pages))
    }));
    let file = quoted(first.rsplit('/').next().unwrap_or(first));
    let mut evidence = vec![format!(
        "{} were copied for reference counts that the module writes",
        found.amount(&copies)
    )];
    evidence.push(format!("the module is {}", quoted(first)));
    evidence.extend(functions.iter().take(NAMED).map(|(function, pages)| {
        let pages = counted(*pages, "page", "pages");
        format!("{pages} in its function {}", quoted(function))
    }));
    evidence.extend(
        copies
            .where_most()
            .iter()
            .map(|line| format!("for the caller: {line}")),
    );
    Some(Advice {
        id: "extension".to_owned(),
        title: format!("An extension module that counts no references ({file})"),
        why: format!(
            "{file} takes a reference to each object of Python that it reads, in its own code, and so \
             writes to what was only to be shared. `gc.freeze()` does not help against that."
        ),
        saves_bytes: copies.bytes,
        confidence: Confidence::Low,
        how: lines(&[
            "let the module keep the values, and not objects: many can store integers or bytes of \
             their own",
            "in the module: read through a borrowed reference, or through the buffer protocol",
        ]),
        evidence,
    })
}

/// Pages of a call site whose counts a module wrote that satisfies `which`.
fn counted_in(site: &CallSite, which: impl Fn(&str) -> bool) -> u64 {
    let is_count = site.cause == CauseName::Refcount
        && site.evidence == Some(CauseEvidence::Structure)
        && site.origin == OriginName::Fork
        && is_running(site);
    if !is_count {
        return 0;
    }
    pages_with(site, |stack| path(stack).is_some_and(&which))
}

/// The extension module whose own code wrote, by a stack: the name of its file.
pub(super) fn module(stack: &StackPages) -> Option<&str> {
    module_of(leaf(stack)?)
}

/// Its path.
fn path(stack: &StackPages) -> Option<&str> {
    leaf(stack)?.module.as_deref()
}

/// The function of an extension module that wrote.
fn leaf(stack: &StackPages) -> Option<&Frame> {
    let leaf = stack.frames.first()?;
    let path = leaf.module.as_deref()?;
    let file = module_of(leaf)?;
    let is_shared = file.split('.').skip(1).any(|part| part == "so");
    let is_extension = leaf.language == Language::Native
        && is_shared
        && !NO_EXTENSIONS.iter().any(|begin| file.starts_with(begin))
        && !path.contains("/lib-dynload/");
    is_extension.then_some(leaf)
}

#[cfg(test)]
mod tests {
    use super::super::made::{self, Made};
    use super::*;
    use crate::profile::Profile;

    fn reading(module: &str) -> Profile {
        let mut profile = made::profile(&[
            Made::new(400, CauseName::Refcount, "match").of("str"),
            Made::new(300, CauseName::Refcount, "walk").of("str"),
        ]);
        let site = &mut profile.call_sites[0];
        made::put_leaf(site, Frame::native("automaton_next", module));
        profile
    }

    fn advised(profile: &Profile) -> Option<Advice> {
        advise(&Found::of(profile))
    }

    #[test]
    fn the_module_and_its_function_are_named() {
        let advice = advised(&reading("/srv/lib/_automaton.cpython-311.so")).unwrap();
        assert_eq!(advice.saves_bytes, 800 * 4096);
        assert_eq!(
            advice.title,
            "An extension module that counts no references (`_automaton.cpython-311.so`)"
        );
        assert_eq!(
            advice.evidence[1..],
            [
                "the module is `/srv/lib/_automaton.cpython-311.so`",
                "800 pages in its function `automaton_next`",
                "for the caller: 800 pages in `match`, app.py:28",
            ]
        );
    }

    #[test]
    fn a_native_thread_of_a_module_counts_too() {
        let mut profile = reading("/srv/lib/_automaton.so");
        let site = &mut profile.call_sites[0];
        made::native(site, &["automaton_next"], "/srv/lib/_automaton.so");
        assert_eq!(advised(&profile).unwrap().saves_bytes, 800 * 4096);
    }

    #[test]
    fn python_itself_and_its_modules_are_no_extensions() {
        for module in [
            "/usr/lib/libpython3.11.so.1.0",
            "/usr/bin/python3.11",
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/usr/lib/python3.11/lib-dynload/_json.cpython-311-x86_64-linux-gnu.so",
        ] {
            assert_eq!(advised(&reading(module)), None, "{module}");
        }
    }

    #[test]
    fn what_only_the_instruction_tells_is_not_of_python() {
        let mut profile = reading("/srv/lib/_pricing.so");
        profile.call_sites[0].evidence = Some(CauseEvidence::Instruction);
        assert_eq!(advised(&profile), None);
    }
}
