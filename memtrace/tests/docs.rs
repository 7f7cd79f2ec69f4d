//! The documents: their links lead somewhere, the README is short, and every option is described.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines that somebody reads before deciding whether to go on.
const README_LINES: usize = 130;

/// Bytes of a picture in a document.
const PICTURE_BYTES: u64 = 60_000;

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All Markdown files of the project, but for what is built or hidden.
fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![project().to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type().unwrap().is_dir() {
                if name != "target" && !name.starts_with('.') {
                    folders.push(entry.path());
                }
            } else if entry.path().extension().is_some_and(|end| end == "md") {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

/// The text without blocks and spans of code, in which brackets do not make links.
fn prose(text: &str) -> String {
    let mut in_block = false;
    let mut prose = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            // Code in a line is what is between an odd backtick and the next.
            prose.extend(line.split('`').step_by(2));
            prose.push('\n');
        }
    }
    prose
}

/// Where the links and pictures of a document lead.
fn links(text: &str) -> Vec<String> {
    let prose = prose(text);
    let starts = prose.match_indices("](").map(|(at, _)| at + 2);
    starts
        .filter_map(|at| prose[at..].split([')', '\n']).next())
        .map(str::to_owned)
        .collect()
}

/// The anchors of a document's headings, as forges make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut in_block = false;
    let headings = text.lines().filter(|line| {
        in_block ^= line.starts_with("```");
        !in_block && line.starts_with('#')
    });
    headings
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            let kept = title
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.collect::<String>().replace(' ', "-")
        })
        .collect()
}

/// Why a link leads nowhere, if it does.
fn broken(document: &Path, link: &str) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = if path.is_empty() {
        document.to_path_buf()
    } else {
        document.parent().unwrap().join(path)
    };
    let shown = document.strip_prefix(project()).unwrap().display();
    if !target.exists() {
        return Some(format!("{shown}: there is no {path}"));
    }
    (!anchor.is_empty() && !anchors(&read(&target)).contains(anchor))
        .then(|| format!("{shown}: {} has no heading #{anchor}", target.display()))
}

/// The names of long options in a line: `--pid`, `--no-follow`.
fn options_in(line: &str) -> impl Iterator<Item = String> + '_ {
    line.match_indices("--").filter_map(|(at, _)| {
        let name: String = line[at + 2..]
            .chars()
            .take_while(|c| c.is_ascii_lowercase() || *c == '-')
            .collect();
        (!name.is_empty() && !name.starts_with('-')).then(|| format!("--{name}"))
    })
}

#[test]
fn every_relative_link_leads_to_a_file_and_its_heading() {
    let documents = documents();
    assert!(documents.contains(&project().join("docs/usage.md")));
    let mut all = 0;
    let mut broken_links = Vec::new();
    for document in &documents {
        for link in links(&read(document)) {
            all += 1;
            broken_links.extend(broken(document, &link));
        }
    }
    assert!(all > 50, "only {all} links were found");
    assert!(broken_links.is_empty(), "{}", broken_links.join("\n"));
}

#[test]
fn a_link_that_leads_nowhere_is_noticed() {
    let readme = project().join("README.md");
    let text =
        "[a](docs/gone.md), [b](docs/usage.md#gone), [c](#limits)\n```\n[d](code)\n```\n`[e](x)`";
    let found: Vec<_> = links(text)
        .iter()
        .filter_map(|link| broken(&readme, link))
        .collect();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("there is no docs/gone.md"));
    assert!(found[1].contains("has no heading #gone"));
}

#[test]
fn the_readme_is_short_and_its_pictures_are_small() {
    let text = read(&project().join("README.md"));
    let lines = text.lines().count();
    assert!(lines <= README_LINES, "README.md has {lines} lines");

    let pictures: Vec<_> = links(&text)
        .into_iter()
        .filter(|link| Path::new(link).extension().is_some_and(|end| end == "svg"))
        .collect();
    assert!(!pictures.is_empty());
    for picture in pictures {
        let size = fs::metadata(project().join(&picture)).unwrap().len();
        assert!(size < PICTURE_BYTES, "{picture} has {size} bytes");
    }
}

#[test]
fn the_table_of_options_has_what_the_help_has() {
    let help = Command::new(env!("CARGO_BIN_EXE_memtrace"))
        .arg("--help")
        .output()
        .unwrap();
    assert!(help.status.success());
    let help = String::from_utf8(help.stdout).unwrap();
    let in_help: BTreeSet<_> = help
        .lines()
        .filter(|line| line.trim_start().starts_with('-'))
        .filter_map(|line| options_in(line).next())
        .collect();

    let usage = read(&project().join("docs/usage.md"));
    let in_table: BTreeSet<_> = usage
        .lines()
        .filter(|line| line.starts_with("| `-"))
        .filter_map(|line| options_in(line).next())
        .collect();
    assert!(in_help.contains("--pid"));
    assert_eq!(in_table, in_help);
}
