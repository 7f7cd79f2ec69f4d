//! Python: the stack and the cause of every copy, on every interpreter at hand.
//!
//! A test is a function of an interpreter; [`on_every_python`] makes one test of it for each. The
//! programs are those of `tests/python`, which know what they copied, and why.

mod causes;
mod chains;
mod execs;
mod lives;
mod walks;

use std::collections::BTreeMap;

use memtrace::profile::{CallSite, CauseName, Frame, Language, Site};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::support::{Fixture, Python, Report, Trace, Why, privileged, requires};

/// Makes a test of each named function for every interpreter.
macro_rules! on_every_python {
    ($($test:ident)*) => {$(
        mod $test {
            $crate::python::on_every_python! { @ $test
                python3_8 "3.8", python3_9 "3.9", python3_10 "3.10", python3_11 "3.11",
                python3_12 "3.12", python3_13 "3.13", debian "debian", trixie "trixie",
                sid "sid", free_threaded "free-threaded"
            }

            #[test]
            fn extra() {
                $crate::python::on_extra(super::$test);
            }
        }
    )*};
    (@ $test:ident $($name:ident $python:literal),*) => {$(
        #[test]
        fn $name() {
            $crate::python::on($python, super::$test);
        }
    )*};
}
use on_every_python;

/// What a test does with an interpreter; `Err` when that one cannot do it.
type Test = fn(&Python) -> Result<(), Why>;

/// Runs a test with the interpreter of this name, or says why not.
fn on(name: &str, test: Test) {
    requires!(privileged());
    let python = requires!(Python::find(name));
    requires!(test(&python));
}

/// Runs a test with the interpreters that were named for this run.
fn on_extra(test: Test) {
    requires!(privileged());
    for python in Python::extra() {
        requires!(test(&python));
    }
}

/// Pages that a child copies apart from its work: what CPython does after a fork.
const NOISE_OF_A_FORK: u64 = 300;

/// Pages that a workload copies apart from its tested part: its own frames, small objects.
const NOISE: u64 = 60;

/// A place in the code, as the workload knows it.
#[derive(Clone, Debug, Deserialize)]
struct Place {
    function: String,
    /// The last part of its path.
    file: String,
    line: u32,
}

impl Place {
    fn is(&self, site: &CallSite) -> bool {
        self.is_frame(&site.site)
    }

    fn is_frame(&self, site: &Site) -> bool {
        *site.function == *self.function
            && site.line == Some(self.line)
            && site.language == Language::Python
            && site
                .file
                .as_deref()
                .is_some_and(|file| file.rsplit('/').next() == Some(self.file.as_str()))
    }
}

/// What a child of a workload says about itself.
#[derive(Clone, Debug, Deserialize)]
struct Worker {
    pid: u32,
    /// Copied pages from the start to the end of its work, by the page table.
    copied: u64,
    /// In bytes.
    private_dirty_growth: i64,
}

/// Lets a workload work while memtrace looks, and reads both results.
fn trace<T: DeserializeOwned>(fixture: Fixture) -> (Report, T) {
    trace_with(fixture, &[])
}

/// Does what [`trace`] does, with options for memtrace.
fn trace_with<T: DeserializeOwned>(mut fixture: Fixture, options: &[&str]) -> (Report, T) {
    let pid = fixture.pid.to_string();
    let trace = Trace::with(["--pid", &pid].iter().chain(options));
    fixture.go();
    let truth = fixture.done();
    let report = trace.finish();
    fixture.exit();
    report.is_lossless();
    (report, truth)
}

/// The copies of some processes.
pub struct Copies<'a> {
    /// Call sites, with the pages of these processes.
    pub sites: Vec<(&'a CallSite, u64)>,
}

impl<'a> Copies<'a> {
    pub fn of(report: &'a Report, pids: impl IntoIterator<Item = u32>) -> Self {
        let pids: Vec<u32> = pids.into_iter().collect();
        let pages = |site: &CallSite| -> u64 {
            let of_pid = pids.iter().filter_map(|pid| site.processes.get(pid));
            of_pid.sum()
        };
        let sites = report.0.call_sites.iter();
        Self {
            sites: sites
                .map(|site| (site, pages(site)))
                .filter(|(_, pages)| *pages > 0)
                .collect(),
        }
    }

    /// Pages of the call sites that satisfy `is`.
    pub fn pages(&self, is: impl Fn(&CallSite) -> bool) -> u64 {
        let chosen = self.sites.iter().filter(|(site, _)| is(site));
        chosen.map(|(_, pages)| pages).sum()
    }

    pub fn all(&self) -> u64 {
        self.pages(|_| true)
    }

    /// The copies in a function, by its name alone.
    pub fn in_function(&self, function: &str) -> Self {
        Self {
            sites: self
                .sites
                .iter()
                .filter(|(site, _)| *site.site.function == *function)
                .copied()
                .collect(),
        }
    }

    /// Pages by type of the object.
    fn by_type(&self) -> BTreeMap<&'a str, u64> {
        let mut types = BTreeMap::new();
        for &(site, pages) in &self.sites {
            *types
                .entry(site.object_type.as_deref().unwrap_or("none"))
                .or_default() += pages;
        }
        types
    }

    /// A table for the message of a failed test.
    pub fn shown(&self) -> String {
        let lines = self.sites.iter().map(|(site, pages)| {
            format!(
                "{pages:7} {:?} {:?} {:?} {:?} {:?}:{:?} +{:?} {:?}",
                site.cause,
                site.object_type,
                site.evidence,
                site.site.function,
                site.site.file,
                site.site.line,
                site.field_offset,
                site.cause_reason,
            )
        });
        lines.take(60).collect::<Vec<_>>().join("\n")
    }

    /// At least this part of the copies satisfies `is`.
    #[track_caller]
    pub fn mostly(&self, least: f64, what: &str, is: impl Fn(&CallSite) -> bool) {
        let (part, all) = (self.pages(is), self.all());
        assert!(
            all > 0 && part as f64 >= least * all as f64,
            "{what}: {part} of {all} pages, less than {least}\n{}",
            self.shown()
        );
    }

    /// At most this part of the copies satisfies `is`.
    #[track_caller]
    pub fn hardly(&self, most: f64, what: &str, is: impl Fn(&CallSite) -> bool) {
        let (part, all) = (self.pages(is), self.all());
        assert!(
            part as f64 <= most * all as f64,
            "{what}: {part} of {all} pages, more than {most}\n{}",
            self.shown()
        );
    }

    /// Nearly every page has a cause, and what has none has a reason.
    #[track_caller]
    pub fn have_causes(&self) {
        self.hardly(0.02, "unknown cause", |site| {
            site.cause == CauseName::Unknown
        });
        for (site, _) in &self.sites {
            assert_eq!(
                site.cause == CauseName::Unknown,
                site.cause_reason.is_some(),
                "a reason is given for what is unknown, and only for that: {site:?}"
            );
        }
    }
}

/// Python's frames of a stack, leaf first.
pub fn python_frames(frames: &[std::sync::Arc<Frame>]) -> impl Iterator<Item = &Frame> {
    frames
        .iter()
        .map(AsRef::as_ref)
        .filter(|frame| frame.language == Language::Python)
}

/// Asserts that `pages` and `truth` differ by `slack` at most.
#[track_caller]
fn about(what: &str, pages: u64, truth: u64, slack: u64) {
    assert!(
        pages + slack >= truth && pages <= truth + slack,
        "{what}: {pages} pages, in truth {truth}"
    );
}
