//! What the parts of memtrace may import: read from the source, so that it stays so.
//!
//! A part is a module at the top of `memtrace/src`. `lib.rs` and `main.rs` wire the parts together
//! and are none themselves. Tests are left out: a test may look at anything.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The parts that import each other and nothing else of memtrace: a profile can be read, checked,
/// compared and shown by a program that never traces.
const ON_THEIR_OWN: [&str; 5] = ["profile", "diff", "report", "foreign", "distribution"];

/// The ground: what each part may import, at most.
const GROUND: [(&str, &[&str]); 8] = [
    ("advice", &["profile", "report"]),
    ("clock", &[]),
    ("diff", &["profile"]),
    ("elf", &[]),
    ("foreign", &[]),
    ("gate", &["diff", "foreign", "profile"]),
    ("process", &["clock", "elf", "foreign"]),
    (
        "symbolize",
        &["elf", "foreign", "interpreter", "process", "profile"],
    ),
];

/// Imports that close a circle, or lead out of the parts that are on their own, and must still go.
/// An entry that is not needed any more fails a test, so the list can only get shorter.
const STILL_THERE: [(&str, &str); 0] = [];

/// Which parts each part imports.
type Imports = BTreeMap<String, BTreeSet<String>>;

#[test]
fn no_part_imports_itself_through_others() {
    let mut imports = imports();
    for (from, to) in STILL_THERE {
        imports.get_mut(from).unwrap().remove(to);
    }
    if let Some(circle) = circle(&imports) {
        panic!(
            "these parts import each other in a circle: {}",
            circle.join(" -> ")
        );
    }
}

#[test]
fn what_a_profile_and_its_reports_need_imports_nothing_else() {
    let imports = imports();
    let mut found = BTreeSet::new();
    for part in ON_THEIR_OWN {
        // One of them may become a module of another.
        for to in imports.get(part).into_iter().flatten() {
            if !ON_THEIR_OWN.contains(&to.as_str()) {
                found.insert((part, to.as_str()));
            }
        }
    }
    let allowed = BTreeSet::from(STILL_THERE);
    assert!(
        found.is_subset(&allowed),
        "{found:?} instead of {allowed:?}"
    );
}

#[test]
fn the_ground_imports_only_what_lies_below_it() {
    let imports = imports();
    for (part, below) in GROUND {
        for to in &imports[part] {
            assert!(below.contains(&to.as_str()), "{part} imports {to}");
        }
    }
}

#[test]
fn imports_that_are_said_to_be_still_there_are() {
    let imports = imports();
    for (from, to) in STILL_THERE {
        assert!(
            imports[from].contains(to),
            "{from} does not import {to} any more: remove it from STILL_THERE"
        );
    }
}

#[test]
fn imports_are_found_however_they_are_written() {
    let source = "
//! Not in a comment: crate::one.
use crate::two::Thing;
use crate::{
    three::{A, crate_like},
    four, five as six,
};
fn f() -> crate::seven::Thing {
    crate::run(); // nor behind code: crate::eight
}
#[cfg(test)]
#[expect(dead_code, reason = \"crate::nine\")]
mod tests {
    use crate::ten::Thing;
    mod inner {
    }
}
#[cfg(test)]
use crate::eleven;
#[cfg(test)]
pub(crate) mod sample;
use super::twelve::Thing;
pub(in crate::thirteen) fn g() {}
";
    let parts = [
        "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
        "twelve", "thirteen",
    ];
    let parts = parts.map(str::to_owned).into();
    let found = |is_root| {
        let code = Code::of(source);
        assert_eq!(code.test_modules, ["sample"]);
        imported(&code.text, &parts, is_root)
            .into_iter()
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(found(false), "five four seven thirteen three two");
    assert_eq!(found(true), "five four seven thirteen three twelve two");
}

#[test]
fn a_circle_is_found_wherever_it_is() {
    let imports = |edges: &[(&str, &[&str])]| -> Imports {
        let set = |to: &[&str]| to.iter().map(|&to| to.to_owned()).collect();
        edges
            .iter()
            .map(|&(from, to)| (from.to_owned(), set(to)))
            .collect()
    };
    let tree = imports(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &[])]);
    assert_eq!(circle(&tree), None);
    let ring = imports(&[("a", &["b"]), ("b", &["c"]), ("c", &["d"]), ("d", &["b"])]);
    assert_eq!(circle(&ring).unwrap().join(" "), "b c d b");
}

/// Reads which parts each part imports.
fn imports() -> Imports {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let parts: BTreeSet<String> = entries(&source)
        .iter()
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .filter(|name| name != "lib" && name != "main")
        .collect();
    let mut imports: Imports = parts
        .iter()
        .map(|part| (part.clone(), BTreeSet::new()))
        .collect();
    for part in &parts {
        let found = imports.get_mut(part).unwrap();
        for file in [
            source.join(part).with_extension("rs"),
            source.join(part).join("mod.rs"),
        ] {
            if file.exists() {
                add(&file, &source.join(part), &parts, true, found);
            }
        }
        found.remove(part);
    }
    assert!(
        imports.len() > 10 && imports["session"].len() > 5,
        "{imports:?}"
    );
    imports
}

/// Adds what the module in `file` imports, and the modules below it, which are in `folder`.
fn add(
    file: &Path,
    folder: &Path,
    parts: &BTreeSet<String>,
    is_root: bool,
    found: &mut BTreeSet<String>,
) {
    let code = Code::of(&fs::read_to_string(file).unwrap());
    found.extend(imported(&code.text, parts, is_root));
    if !folder.is_dir() {
        return;
    }
    for path in entries(folder) {
        let name = path.file_stem().unwrap().to_str().unwrap();
        if name == "mod" || code.test_modules.iter().any(|module| module == name) {
            continue;
        }
        let below = folder.join(name);
        if path.is_dir() {
            // Of a module with a file beside its folder, that file leads here.
            let inside = path.join("mod.rs");
            if inside.exists() {
                add(&inside, &below, parts, false, found);
            }
        } else {
            add(&path, &below, parts, false, found);
        }
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.is_dir() || path.extension().is_some_and(|it| it == "rs"))
        .collect()
}

/// A file without comments and without what is compiled for tests only.
struct Code {
    text: String,
    /// Modules in files of their own that are for tests.
    test_modules: Vec<String>,
}

impl Code {
    fn of(source: &str) -> Self {
        let mut code = Self {
            text: String::new(),
            test_modules: Vec::new(),
        };
        let mut lines = source.lines();
        while let Some(line) = lines.next() {
            if line.trim_start().starts_with("#[cfg(test)]") {
                code.skip_item(&mut lines);
            } else {
                code.text.push_str(line.split("//").next().unwrap());
                code.text.push('\n');
            }
        }
        code
    }

    /// Skips the item after an attribute: up to its last line, which rustfmt indents as its first.
    fn skip_item<'source>(&mut self, lines: &mut impl Iterator<Item = &'source str>) {
        let mut first = None;
        for line in lines {
            let text = line.trim_start();
            let indent = line.len() - text.len();
            match first {
                None if text.starts_with('#') => {}
                None => {
                    if let Some(module) = text.strip_suffix(';').and_then(module_name) {
                        self.test_modules.push(module.to_owned());
                    }
                    if text.ends_with(';') || text.ends_with('}') {
                        return;
                    }
                    first = Some(indent);
                }
                Some(first) if indent == first && text.starts_with('}') => return,
                Some(_) => {}
            }
        }
    }
}

/// The module that a declaration names: `pub(crate) mod name`.
fn module_name(declaration: &str) -> Option<&str> {
    let (before, name) = declaration.rsplit_once(' ')?;
    (before == "mod" || before.ends_with(" mod")).then_some(name)
}

/// The parts that `code` names by `crate::`; and by `super::`, where that is the same.
fn imported(code: &str, parts: &BTreeSet<String>, is_root: bool) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let roots: &[&str] = if is_root {
        &["crate::", "super::"]
    } else {
        &["crate::"]
    };
    for root in roots {
        for (at, _) in code.match_indices(root) {
            let rest = &code[at + root.len()..];
            match rest.strip_prefix('{') {
                Some(list) => found.extend(listed(list)),
                None => found.extend(word(rest)),
            }
        }
    }
    found.retain(|name| parts.contains(*name));
    found.into_iter().map(str::to_owned).collect()
}

/// The first words of what is listed up to a closing brace.
fn listed(list: &str) -> Vec<&str> {
    let (mut depth, mut start, mut found) = (0_usize, 0, Vec::new());
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                found.extend(word(list[start..at].trim_start()));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    found
}

fn word(text: &str) -> Option<&str> {
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    (end > 0).then(|| &text[..end])
}

/// Parts of which each imports the next and the last is the first.
fn circle(imports: &Imports) -> Option<Vec<&str>> {
    let mut done = BTreeSet::new();
    imports
        .keys()
        .find_map(|part| circle_from(part, imports, &mut Vec::new(), &mut done))
}

fn circle_from<'a>(
    part: &'a str,
    imports: &'a Imports,
    path: &mut Vec<&'a str>,
    done: &mut BTreeSet<&'a str>,
) -> Option<Vec<&'a str>> {
    if let Some(at) = path.iter().position(|&each| each == part) {
        return Some([&path[at..], &[part]].concat());
    }
    if !done.insert(part) {
        return None;
    }
    path.push(part);
    let next = imports.get(part).into_iter().flatten();
    let found = next
        .map(String::as_str)
        .find_map(|to| circle_from(to, imports, path, done));
    path.pop();
    found
}
