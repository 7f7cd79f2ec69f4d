//! What a tracer's report says of the place where most of it happened, in a few words.

use std::collections::BTreeMap;
use std::io::Read;

use serde::Deserialize;

/// Longer ones are cut.
const LONGEST: usize = 160;

/// What is read of memtrace's report.
#[derive(Deserialize)]
struct Report {
    totals: Totals,
    call_sites: Vec<CallSite>,
}

#[derive(Deserialize)]
struct Totals {
    copied_pages: u64,
}

#[derive(Deserialize)]
struct CallSite {
    site: Site,
    cause: String,
    object_type: Option<String>,
    pages: u64,
    #[serde(default)]
    stacks: Vec<Stack>,
}

#[derive(Deserialize)]
struct Stack {
    pages: u64,
    #[serde(default)]
    truncated: bool,
    frames: Vec<Frame>,
}

#[derive(Deserialize)]
struct Frame {
    function: String,
}

#[derive(Deserialize)]
struct Site {
    function: String,
    file: Option<String>,
    line: Option<u32>,
}

/// The first call site of memtrace's report.
pub fn memtrace(report: impl Read) -> Option<String> {
    let report: Report = serde_json::from_reader(report).ok()?;
    let first = report.call_sites.first()?;
    let site = &first.site;
    let file = site.file.as_deref().unwrap_or("no file");
    let kind = first.object_type.as_deref();
    Some(cut(&format!(
        "{:.0}% {}{} in {}, {}:{}",
        percent(first.pages, report.totals.copied_pages),
        first.cause,
        kind.map_or(String::new(), |kind| format!(" of {kind}")),
        site.function,
        file.rsplit('/').next().unwrap_or(file),
        site.line.map_or("?".into(), |line| line.to_string()),
    )))
}

/// The part of memtrace's copies whose stack leads to the program's start.
pub fn whole_share(report: impl Read) -> Option<f64> {
    let report: Report = serde_json::from_reader(report).ok()?;
    let stacks = report.call_sites.iter().flat_map(|site| &site.stacks);
    let is_whole = |stack: &&Stack| {
        let first = stack.frames.last();
        !stack.truncated && first.is_some_and(|frame| frame.function == "_start")
    };
    let whole: u64 = stacks.filter(is_whole).map(|stack| stack.pages).sum();
    Some(whole as f64 / report.totals.copied_pages as f64)
}

/// The largest entry of a map of stacks that bpftrace printed.
pub fn bpftrace(text: &str) -> Option<String> {
    let mut all = 0;
    let mut largest: (u64, Vec<&str>) = (0, Vec::new());
    let mut frames = Vec::new();
    for line in text.lines() {
        if line.starts_with("@[") {
            frames.clear();
        } else if let Some(count) = line.strip_prefix("]: ") {
            let count = count.trim().parse().ok()?;
            all += count;
            if count > largest.0 {
                largest = (count, frames.clone());
            }
        } else {
            frames.push(line.trim());
        }
    }
    (all > 0).then(|| {
        let share = percent(largest.0, all);
        cut(&format!("{share:.0}% in {}", chain(largest.1.into_iter())))
    })
}

/// The innermost frames that most samples of a folded file have.
pub fn folded(text: &str) -> Option<String> {
    let mut leaves: BTreeMap<String, u64> = BTreeMap::new();
    for (stack, count) in stacks(text) {
        *leaves.entry(chain(stack.rsplit(';'))).or_default() += count;
    }
    let all = leaves.values().sum();
    let (leaf, count) = leaves.into_iter().max_by_key(|(_, count)| *count)?;
    let share = percent(count, all);
    Some(cut(&format!("{share:.0}% of the time in {leaf}")))
}

/// Samples of a folded file.
pub fn folded_samples(text: &str) -> u64 {
    stacks(text).map(|(_, count)| count).sum()
}

/// "outer;inner 12".
fn stacks(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (stack, count) = line.rsplit_once(' ')?;
        Some((stack, count.parse().ok()?))
    })
}

/// The first frames, leaf first.
fn chain<'a>(frames: impl Iterator<Item = &'a str>) -> String {
    let first: Vec<_> = frames.filter(|frame| !frame.is_empty()).take(2).collect();
    if first.is_empty() {
        return "an empty stack".into();
    }
    first.join(" < ")
}

fn percent(part: u64, all: u64) -> f64 {
    part as f64 * 100.0 / all.max(1) as f64
}

fn cut(text: &str) -> String {
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    text.chars().take(LONGEST).chain("...".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_call_site_is_told() {
        let report = r#"{"totals": {"copied_pages": 200}, "call_sites": [
            {"site": {"function": "walk", "file": "/a/b.py", "line": 7},
             "cause": "refcount", "object_type": "str", "pages": 150}]}"#;
        assert_eq!(
            memtrace(report.as_bytes()).unwrap(),
            "75% refcount of str in walk, b.py:7"
        );
        assert_eq!(memtrace("{}".as_bytes()), None);
    }

    #[test]
    fn the_largest_stack_is_told() {
        let text = "Attaching 1 probe...\n\n@[\n    a+1\n    b+2\n    c+3\n]: 30\n@[\n]: 10\n";
        assert_eq!(bpftrace(text).unwrap(), "75% in a+1 < b+2");
        assert_eq!(bpftrace("Attaching 1 probe...\n"), None);
    }

    #[test]
    fn samples_are_summed_by_their_leaves() {
        let text = "main;walk (a.py:1);eval 3\nother;walk (a.py:1);eval 1\nmain 1\n";
        assert_eq!(folded_samples(text), 5);
        assert_eq!(
            folded(text).unwrap(),
            "80% of the time in eval < walk (a.py:1)"
        );
    }
}
