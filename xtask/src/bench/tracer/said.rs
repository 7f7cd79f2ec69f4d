//! What a tracer says in its own words: how much it saw and lost, and of the place where most of it
//! happened, in a few words.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use memtrace::profile::{Lost, Profile, StackPages};
use serde::Serialize;

use super::Tracer;

/// Longer answers are cut.
const LONGEST: usize = 160;

/// The function in which a program starts.
const START: &str = "_start";

/// What memtrace and py-spy say when they have begun.
const MEMTRACE_READY: &str = "memtrace: tracing";
const PY_SPY_READY: &str = "Sampling process";

/// What a tracer said.
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// Copied pages, or faults, where the tracer says how many.
    pub seen: Option<u64>,
    /// Those lost, where the tracer says how many.
    pub lost: Option<u64>,
    /// Of all copies, those whose stack leads to the program's start, where the tracer says so.
    pub whole_share: Option<f64>,
    /// What it says of the place where most of it happened.
    pub answer: Option<String>,
}

/// The files of a tracer that has ended.
pub struct Files {
    pub out: PathBuf,
    pub err: PathBuf,
    /// Only py-spy writes it.
    pub folded: PathBuf,
}

impl Files {
    /// Reads what the tracer said.
    pub fn read(&self, tracer: Tracer) -> Result<Said> {
        let text = |path: &Path| {
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
        };
        match tracer {
            Tracer::Memtrace(_) => Ok(memtrace(&self.profile()?)),
            // A report of another version may have another shape.
            Tracer::OtherMemtrace(_) => {
                Ok(self.profile().map_or(Said::default(), |it| memtrace(&it)))
            }
            Tracer::Perf | Tracer::PerfDwarf => Ok(perf(&text(&self.err)?)),
            Tracer::Bpftrace => Ok(bpftrace(&text(&self.out)?)),
            Tracer::PySpy => Ok(py_spy(&text(&self.folded)?)),
        }
    }

    /// Whether the tracer says that it has begun; `None` when it never says that.
    pub fn says_it_has_begun(&self, tracer: Tracer) -> Option<bool> {
        let (file, words) = match tracer {
            Tracer::Memtrace(_) | Tracer::OtherMemtrace(_) => (&self.err, MEMTRACE_READY),
            // It has no hooks: it stops the process and looks.
            Tracer::PySpy => (&self.out, PY_SPY_READY),
            Tracer::Perf | Tracer::PerfDwarf | Tracer::Bpftrace => return None,
        };
        Some(fs::read_to_string(file).is_ok_and(|text| text.contains(words)))
    }

    fn profile(&self) -> Result<Profile> {
        let file = fs::File::open(&self.out)
            .with_context(|| format!("cannot read {}", self.out.display()))?;
        profile(BufReader::new(file))
    }

    /// The last line that the tracer wrote on standard error.
    pub fn complaint(&self) -> String {
        let text = fs::read_to_string(&self.err).unwrap_or_default();
        let line = text.lines().rfind(|line| !line.trim().is_empty());
        line.unwrap_or("it did not say why").trim().to_owned()
    }
}

/// Reads memtrace's report.
pub fn profile(report: impl Read) -> Result<Profile> {
    serde_json::from_reader(report).context("memtrace's report is not as expected")
}

fn memtrace(profile: &Profile) -> Said {
    // Anything is a loss. Whoever adds to these has to add it here.
    let Lost {
        faults,
        stacks,
        processes,
        threads,
    } = profile.totals.lost;
    Said {
        seen: Some(profile.totals.copied_pages),
        lost: Some(faults + stacks + processes + threads),
        whole_share: Some(whole_share(profile)),
        answer: first_site(profile),
    }
}

/// The first call site of memtrace's report.
fn first_site(profile: &Profile) -> Option<String> {
    let first = profile.call_sites.first()?;
    let site = &first.site;
    let file = site.file.as_deref().unwrap_or("no file");
    let kind = first.object_type.as_deref();
    Some(cut(&format!(
        "{:.0}% {}{} in {}, {}:{}",
        percent(first.pages, profile.totals.copied_pages),
        as_written(&first.cause),
        kind.map_or(String::new(), |kind| format!(" of {kind}")),
        site.function,
        file.rsplit('/').next().unwrap_or(file),
        site.line.map_or("?".into(), |line| line.to_string()),
    )))
}

/// A value that the report has as a word.
fn as_written(value: &impl Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().unwrap_or("?").to_owned()
}

/// The part of memtrace's copies whose stack leads to the program's start.
fn whole_share(profile: &Profile) -> f64 {
    let stacks = profile.call_sites.iter().flat_map(|site| &site.stacks);
    let is_whole = |stack: &&StackPages| {
        let first = stack.frames.last();
        !stack.truncated && first.is_some_and(|frame| *frame.function == *START)
    };
    let whole: u64 = stacks.filter(is_whole).map(|stack| stack.pages).sum();
    whole as f64 / profile.totals.copied_pages as f64
}

fn perf(text: &str) -> Said {
    Said {
        seen: number_before(text, "samples)"),
        lost: Some(perf_lost(text)),
        ..Said::default()
    }
}

/// bpftrace does not say how many stacks its map had no place for.
fn bpftrace(text: &str) -> Said {
    Said {
        seen: Some(bpftrace_counts(text)),
        answer: largest_entry(text),
        ..Said::default()
    }
}

fn py_spy(text: &str) -> Said {
    Said {
        seen: Some(folded_samples(text)),
        answer: folded(text),
        ..Said::default()
    }
}

/// The sum of a printed map's counts: each entry ends with `]: count`.
fn bpftrace_counts(text: &str) -> u64 {
    let counts = text
        .lines()
        .filter_map(|line| line.rsplit_once("]: ")?.1.parse::<u64>().ok());
    counts.sum()
}

/// The number in front of `word`: "(400123 samples)".
fn number_before(text: &str, word: &str) -> Option<u64> {
    let before = text
        .split(word)
        .next()
        .filter(|before| before.len() < text.len())?;
    let number = before
        .trim_end()
        .rsplit(|c: char| !c.is_ascii_digit())
        .next()?;
    number.parse().ok()
}

/// Samples that perf says it lost: "Processed 9 events and lost 3 chunks!", "lost 3 samples".
fn perf_lost(text: &str) -> u64 {
    text.split("lost ")
        .skip(1)
        .filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok())
        .sum()
}

/// The largest entry of a map of stacks that bpftrace printed.
fn largest_entry(text: &str) -> Option<String> {
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
fn folded(text: &str) -> Option<String> {
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
fn folded_samples(text: &str) -> u64 {
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
    use memtrace::profile::{ByCause, ByOrigin, NotCopied};
    use serde_json::json;

    /// A report with one call site of 150 pages and 50 others.
    fn report() -> serde_json::Value {
        let nothing: &[u8] = &[];
        let empty = json!({"hdr": null});
        let frame = |function: &str| {
            json!({"function": function, "file": null, "line": null, "module": null,
                   "address": 1, "language": "native", "inlined": false})
        };
        json!({
            "schema": "memtrace/1", "memtrace": "0.1.0", "started_at": "", "duration_s": 1.0,
            "host": {"kernel": "", "arch": "", "page_size": 4096, "backend": "tracepoint", "unwind": "auto",
                     "blind_spots": nothing},
            "command": nothing, "command_exit": null, "processes": nothing, "types": nothing,
            "advice": nothing, "warnings": nothing,
            "totals": {
                "copied_pages": 200, "copied_bytes": 0, "copy_on_read_pages": 0,
                "by_origin": ByOrigin::default(), "by_cause": ByCause::default(),
                "unchanged_pages": null, "not_copied": NotCopied::default(),
                "lost": {"faults": 3, "stacks": 4, "processes": 0, "threads": 0},
            },
            "call_sites": [{
                "site": {"function": "walk", "file": "/a/b.py", "line": 7, "module": null,
                         "language": "python"},
                "cause": "refcount", "origin": "fork", "object_type": "str", "pages": 150,
                "bytes": 0, "share": 0.75, "processes": {}, "latency_ns": empty, "age_ms": empty,
                "stacks": [
                    {"pages": 100, "frames": [frame("walk"), frame("_start")]},
                    {"pages": 50, "truncated": true, "frames": [frame("_start")]},
                ],
            }],
        })
    }

    #[test]
    fn memtraces_report_is_read_through_its_own_schema() {
        let text = report().to_string();
        let said = memtrace(&profile(text.as_bytes()).unwrap());
        assert_eq!((said.seen, said.lost), (Some(200), Some(7)));
        assert_eq!(said.answer.unwrap(), "75% refcount of str in walk, b.py:7");
        // What is truncated is not whole, nor is what has no frames.
        assert!((said.whole_share.unwrap() - 0.5).abs() < 1e-9);
        assert!(profile("{}".as_bytes()).is_err());
    }

    #[test]
    fn only_another_versions_report_may_be_unreadable() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files {
            out: folder.path().join("out"),
            err: folder.path().join("err"),
            folded: folder.path().join("folded"),
        };
        fs::write(&files.out, "{\"schema\": \"memtrace/0\"}").unwrap();
        fs::write(&files.err, "memtrace: why\n\n").unwrap();
        assert!(files.read(Tracer::Memtrace("off")).is_err());
        assert_eq!(files.read(Tracer::OtherMemtrace("off")).unwrap().seen, None);
        assert_eq!(files.complaint(), "memtrace: why");
        // What failed to begin has not begun, however many hooks it held.
        let memtrace = Tracer::Memtrace("off");
        assert_eq!(files.says_it_has_begun(memtrace), Some(false));
        fs::write(&files.err, "memtrace: tracing process 7\n").unwrap();
        assert_eq!(files.says_it_has_begun(memtrace), Some(true));
        assert_eq!(files.says_it_has_begun(Tracer::Perf), None);
    }

    #[test]
    fn perfs_words_are_understood() {
        let text = "[ perf record: Captured and wrote 61.6 MB /tmp/perf.data (400123 samples) ]\n";
        assert_eq!(number_before(text, "samples)"), Some(400_123));
        assert_eq!(perf_lost(text), 0);
        assert_eq!(number_before("nothing", "samples)"), None);
        assert_eq!(perf_lost("Processed 900 events and lost 31 chunks!\n"), 31);
    }

    #[test]
    fn bpftraces_map_is_summed() {
        let text = "Attaching 1 probe...\n\n@[\n    a+1\n    b+2\n]: 12\n@[\n]: 30\n";
        assert_eq!(bpftrace_counts(text), 42);
    }

    #[test]
    fn the_largest_stack_is_told() {
        let text = "Attaching 1 probe...\n\n@[\n    a+1\n    b+2\n    c+3\n]: 30\n@[\n]: 10\n";
        assert_eq!(largest_entry(text).unwrap(), "75% in a+1 < b+2");
        assert_eq!(largest_entry("Attaching 1 probe...\n"), None);
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
