//! Other data structures: arrays and packed bytes instead of many small objects.
//!
//! Every object has a count of its references beside its value, so reading many of them writes to
//! all of their pages. What holds its values itself, an array or one block of bytes, has one count.
//! Only objects of CPython's own types are counted here: those of classes stay objects.

use super::extension;
use super::found::{Copies, Found, at, is_running, lines, pages_with, types_in_words};
use super::gc_walk::is_of_a_walk;
use crate::profile::{
    Advice, CallSite, CauseEvidence, CauseName, Confidence, Language, OriginName, Process, Site,
    StackPages,
};
use crate::report::words::counted;

/// Types whose values an array, a table or packed bytes can hold.
const TYPES: [&str; 11] = [
    "str",
    "int",
    "float",
    "tuple",
    "dict",
    "list",
    "bytes",
    "complex",
    "set",
    "frozenset",
    "bytearray",
];

/// Those that are numbers.
const NUMBERS: [&str; 3] = ["int", "float", "complex"];
/// Those that are text or bytes.
const TEXTS: [&str; 3] = ["str", "bytes", "bytearray"];

/// Fewer compared pages say nothing of a call site, unless they are all of its pages.
const ENOUGH: u64 = 8;

/// Functions that are advised about.
const MOST_FRAMES: usize = 3;

/// A function that copied less than this part of everything, in percent, is not advised about.
const LEAST_PERCENT: u64 = 5;

pub(super) fn advise(found: &Found<'_>) -> Option<Advice> {
    let who = |process: &Process| found.is_python_fork(process);
    let counts = found.part(read_by_program, who);
    let builtin = found.part(
        |site| {
            if is_builtin(site) {
                read_by_program(site)
            } else {
                0
            }
        },
        who,
    );
    let all = counts.places();
    let all_of = |place: &Site| all.iter().find(|(it, _)| *it == place).map_or(0, |it| it.1);
    let least = u128::from(LEAST_PERCENT) * u128::from(found.profile.totals.copied_pages);
    let frames: Vec<&Site> = (builtin.places().into_iter())
        .filter(|(place, pages)| 100 * u128::from(*pages) >= least && 2 * pages >= all_of(place))
        .map(|(place, _)| place)
        .take(MOST_FRAMES)
        .collect();
    let first = *frames.first()?;
    let copies = found.part(
        |site| {
            if is_builtin(site) && frames.contains(&site.act_on()) {
                read_by_program(site)
            } else {
                0
            }
        },
        who,
    );
    let more = match frames.len() {
        1 => String::new(),
        many => format!(
            " and {}",
            counted(many as u64 - 1, "other place", "other places")
        ),
    };
    let mut evidence = vec![format!(
        "{} were copied by reading objects",
        found.amount(&copies)
    )];
    evidence.extend(types_in_words(&copies).map(|types| format!("of the types {types}")));
    evidence.extend(copies.where_most());
    let loader = copies.sites.iter().any(|(site, _)| is_data_loader(site));
    let mut why =
        "Reading an object of Python writes to it: each has a count of its references. An \
                   array or one block of bytes has one count for all of its values."
            .to_owned();
    if loader {
        why +=
            " These objects are the dataset of a DataLoader, of which each worker reads its part.";
    }
    Some(Advice {
        id: "data-structures".to_owned(),
        title: format!(
            "Arrays or packed bytes instead of objects ({}{more})",
            at(first)
        ),
        why,
        saves_bytes: copies.bytes,
        confidence: Confidence::Medium,
        how: how(
            &copies,
            loader || copies.sites.iter().any(|(site, _)| is_dataset(site)),
        ),
        evidence,
    })
}

/// Ways that fit what was read.
fn how(copies: &Copies<'_>, is_dataset: bool) -> Vec<String> {
    let types: Vec<&str> = copies.types().iter().map(|(name, _)| *name).collect();
    let any = |of: &[&str]| types.iter().any(|name| of.contains(name));
    let mut how = Vec::new();
    if any(&NUMBERS) {
        how.extend(lines(&["numbers: an `array.array`, or an array of numpy"]));
    }
    if any(&TEXTS) {
        how.extend(lines(&[
            "texts: one `bytes` of all, and an array of where each begins",
        ]));
    }
    if types
        .iter()
        .any(|name| !NUMBERS.contains(name) && !TEXTS.contains(name))
    {
        how.extend(lines(&[
            "records: a column for each field (numpy, pandas, pyarrow), or packed with `struct`",
        ]));
    }
    how.extend(lines(&[
        "or outside of Python's objects: a database such as SQLite or LMDB, or a file that is mapped \
         with `mmap`",
    ]));
    if is_dataset {
        how.extend(lines(&[
            "a dataset of a DataLoader: keep arrays or tensors in `__init__` instead of lists and \
             dicts, and make the sample in `__getitem__`",
        ]));
    }
    how
}

/// Pages of a call site that a program's own reading copied: not a walk over all objects, and not an
/// extension module, which needs the objects.
fn read_by_program(site: &CallSite) -> u64 {
    let is_read = site.cause == CauseName::Refcount
        && site.evidence == Some(CauseEvidence::Structure)
        && site.origin == OriginName::Fork
        && site.act_on().language == Language::Python
        && is_running(site);
    if !is_read || has_changed(site) {
        return 0;
    }
    let own = |stack: &StackPages| !is_of_a_walk(stack) && extension::module(stack).is_none();
    pages_with(site, own)
}

/// Whether most of what was compared differs in more than counts: it was written to as well, and a
/// process that writes needs its own.
fn has_changed(site: &CallSite) -> bool {
    let found = site.unchanged.unwrap_or_default();
    found.compared_pages >= ENOUGH.min(site.pages)
        && u128::from(found.changed_pages) * 2 > found.compared_pages.into()
}

fn is_builtin(site: &CallSite) -> bool {
    let name = site.object_type.as_deref();
    name.is_some_and(|name| TYPES.contains(&name))
}

/// Whether torch's loader is among those who call.
fn is_data_loader(site: &CallSite) -> bool {
    let mut frames = site.stacks.iter().flat_map(|stack| stack.frames.iter());
    frames.any(|frame| {
        let file = frame.file.as_deref();
        file.is_some_and(|file| file.contains("torch/utils/data"))
    })
}

/// Whether it is read item by item, as a dataset is.
fn is_dataset(site: &CallSite) -> bool {
    let sites = [&site.site, site.act_on()];
    let names = sites.map(|site| site.function.rsplit('.').next());
    names.contains(&Some("__getitem__"))
}

#[cfg(test)]
mod tests {
    use super::super::made::{self, Made};
    use super::*;
    use crate::profile::{Frame, Profile};

    fn read(copies: &[(u64, &'static str, &'static str)]) -> Profile {
        let made = copies.iter();
        let made: Vec<_> = made
            .map(|&(pages, function, kind)| {
                Made::new(pages, CauseName::Refcount, function).of(kind)
            })
            .collect();
        made::profile(&made)
    }

    fn advised(profile: &Profile) -> Option<Advice> {
        advise(&Found::of(profile))
    }

    #[test]
    fn pages_of_builtin_types_in_the_largest_functions_are_saved() {
        let profile = read(&[
            (500, "walk", "str"),
            (200, "walk", "int"),
            (100, "walk", "shop.Product"),
            (300, "render", "tuple"),
            (40, "little", "str"),
            (50, "mixed", "str"),
            (90, "mixed", "shop.Product"),
        ]);
        let advice = advised(&profile).unwrap();
        assert_eq!(advice.saves_bytes, 2 * (500 + 200 + 300) * 4096);
        assert_eq!(
            advice.title,
            "Arrays or packed bytes instead of objects (`walk`, app.py:28 and 1 other place)"
        );
        assert_eq!(
            advice.evidence[1..],
            [
                "of the types `str` 50%, `tuple` 30%, `int` 20%",
                "1,400 pages in `walk`, app.py:28",
                "600 pages in `render`, app.py:28",
            ]
        );
        assert_eq!(advice.how.len(), 4, "{:?}", advice.how);
    }

    #[test]
    fn what_is_said_of_a_way_fits_the_types() {
        let advice = advised(&read(&[(500, "walk", "float")])).unwrap();
        assert_eq!(advice.how.len(), 2, "{:?}", advice.how);
        assert!(advice.how[0].starts_with("numbers"));
    }

    #[test]
    fn a_data_loader_is_recognised() {
        let is_said = |advice: &Advice| {
            let way = advice.how.iter().any(|line| line.contains("DataLoader"));
            (advice.why.contains("DataLoader"), way)
        };
        let advice = advised(&read(&[(500, "Images.__getitem__", "tuple")])).unwrap();
        assert_eq!(is_said(&advice), (false, true));
        let mut profile = read(&[(500, "walk", "str")]);
        assert_eq!(is_said(&advised(&profile).unwrap()), (false, false));
        let mut frame = (*profile.call_sites[0].stacks[0].frames[0]).clone();
        frame.function = "fetch".into();
        frame.file = Some("/srv/lib/torch/utils/data/_utils/fetch.py".into());
        made::put_leaf(&mut profile.call_sites[0], frame);
        assert_eq!(is_said(&advised(&profile).unwrap()), (true, true));
    }

    #[test]
    fn it_is_silent_of_classes_of_other_languages_and_of_what_others_do() {
        assert_eq!(advised(&read(&[(500, "walk", "shop.Product")])), None);
        let mut profile = read(&[(500, "walk", "str")]);
        profile.call_sites[0].evidence = Some(CauseEvidence::Instruction);
        assert_eq!(advised(&profile), None);
        let mut profile = read(&[(500, "fill", "list")]);
        let mut found = made::compared(0, 64);
        found.changed_pages = 60;
        profile.call_sites[0].unchanged = Some(found);
        assert_eq!(advised(&profile), None);
        let mut profile = read(&[(500, "walk", "str")]);
        made::native(&mut profile.call_sites[0], &["walk"], "/usr/bin/walk");
        assert_eq!(advised(&profile), None);
        for leaf in [
            Frame::native("gc_get_objects", "libpython3.11.so.1.0"),
            Frame::native("automaton_next", "/srv/lib/_automaton.so"),
        ] {
            let mut profile = read(&[(500, "walk", "str")]);
            made::put_leaf(&mut profile.call_sites[0], leaf);
            assert_eq!(advised(&profile), None);
        }
    }
}
