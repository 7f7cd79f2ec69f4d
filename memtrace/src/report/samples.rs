//! The stacks of a profile as other tools take them: samples, each a way from the outermost
//! function to the one that copied, with its pages and bytes.
//!
//! [`Frames`] says which frames of a stack are in it. Every page of the profile is in exactly one
//! sample, those without a record too (`[lost]`, `[pending]`), so that totals hold in every format.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use clap::ValueEnum;

use super::words;
use crate::foreign::{CUT, MAX_NAME, shown};
use crate::profile::{CallSite, CauseName, Frame, Language, OriginName, Profile, Site};

/// Steps of the longest stack that is written. Tools refuse more, or draw one function a page; a
/// trace takes fewer, so only a made-up report has them.
pub(super) const MOST_STEPS: usize = 1000;

/// What stands for the frames that were beyond [`MOST_STEPS`].
const MORE: Step<'static> = Step::ours("[more frames]");

/// Which frames of a stack are drawn, and written for other tools. The text and JSON reports have
/// all in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Frames {
    /// All of them
    Mixed,
    /// Of stacks with Python frames only these, and the native function that copied
    #[default]
    Python,
    /// Only the call site
    Site,
}

/// One function on the way to a copy. Its texts are foreign and not escaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Step<'a> {
    pub function: &'a str,
    pub file: Option<&'a str>,
    pub line: Option<u32>,
    pub module: Option<&'a str>,
    pub language: Language,
}

impl<'a> Step<'a> {
    /// One that memtrace names.
    pub const fn ours(function: &'a str) -> Self {
        Self {
            function,
            file: None,
            line: None,
            module: None,
            language: Language::Native,
        }
    }

    /// The same without the line of a native function: in a picture, one function is one box. Of an
    /// interpreted one the line is what a reader can act on.
    pub fn by_function(self) -> Self {
        if self.language.is_interpreted() {
            return self;
        }
        Self {
            file: None,
            line: None,
            ..self
        }
    }

    /// What it is called where there is one line for it: `render (catalog.py:212)`, or the name
    /// alone of a native function. Escaped, and bounded.
    pub fn name(&self) -> String {
        let function = name_of(self.function);
        let Some(file) = self.file.filter(|_| self.language.is_interpreted()) else {
            return function;
        };
        let base = name_of(file.rsplit('/').next().unwrap_or(file));
        match self.line {
            Some(line) => format!("{function} ({base}:{line})"),
            None => format!("{function} ({base})"),
        }
    }
}

impl<'a> From<&'a Frame> for Step<'a> {
    fn from(frame: &'a Frame) -> Self {
        Self {
            function: &frame.function,
            file: frame.file.as_deref(),
            line: frame.line,
            module: frame.module.as_deref(),
            language: frame.language,
        }
    }
}

impl<'a> From<&'a Site> for Step<'a> {
    fn from(site: &'a Site) -> Self {
        Self {
            function: &site.function,
            file: site.file.as_deref(),
            line: site.line,
            module: site.module.as_deref(),
            language: site.language,
        }
    }
}

/// A foreign name for one line of a file: escaped, bounded, never empty.
pub(super) fn name_of(text: &str) -> String {
    if text.is_empty() {
        return "[no name]".to_owned();
    }
    shown(text.as_bytes(), MAX_NAME)
}

/// A foreign path: as [`name_of`], but of a long one the end stays.
pub(super) fn path_of(path: &str) -> String {
    if path.len() <= MAX_NAME {
        return name_of(path);
    }
    let from = path.ceil_char_boundary(path.len() - MAX_NAME);
    format!("{CUT}{}", name_of(&path[from..]))
}

/// Pages that were copied on one way.
pub(super) struct Sample<'a> {
    /// Root first, at least one.
    pub steps: Vec<Step<'a>>,
    /// Where they belong.
    pub site: &'a CallSite,
    pub pages: u64,
    pub bytes: u64,
}

/// What one process copied of a [`Sample`].
pub(super) struct Part {
    /// `None` where the profile does not say it.
    pub pid: Option<u32>,
    pub pages: u64,
    pub bytes: u64,
}

impl<'a> Sample<'a> {
    pub fn cause(&self) -> CauseName {
        self.site.cause
    }

    pub fn origin(&self) -> OriginName {
        self.site.origin
    }

    pub fn object_type(&self) -> Option<&'a str> {
        self.site.object_type.as_deref()
    }

    /// What each process copied, where that is known: a call site of several stacks and several
    /// processes does not say which process took which stack.
    pub fn by_process(&self) -> Vec<Part> {
        let processes = &self.site.processes;
        let whole = |pid| Part {
            pid,
            pages: self.pages,
            bytes: self.bytes,
        };
        if let (Some((&pid, _)), 1) = (processes.first_key_value(), processes.len()) {
            return vec![whole(Some(pid))];
        }
        if self.site.stacks.len() != 1 || processes.is_empty() {
            return vec![whole(None)];
        }
        let pages: Vec<u64> = processes.values().copied().collect();
        let bytes = words::apportion(self.bytes, &pages);
        let parts = processes.iter().zip(bytes);
        parts
            .map(|((&pid, &pages), bytes)| Part {
                pid: Some(pid),
                pages,
                bytes,
            })
            .collect()
    }
}

/// What stands for the cause as the last frame of a stack, in formats that know nothing but frames.
pub(super) fn cause_frame(cause: CauseName) -> String {
    format!("[{cause}]")
}

/// All samples, in the profile's order.
pub(super) fn samples(profile: &Profile, frames: Frames) -> Vec<Sample<'_>> {
    let mut samples = Vec::new();
    for site in &profile.call_sites {
        let pages: Vec<u64> = site.stacks.iter().map(|stack| stack.pages).collect();
        // All pages of a call site are of one size, since they have one origin.
        let bytes = words::apportion(site.bytes, &pages);
        for (stack, bytes) in site.stacks.iter().zip(bytes) {
            samples.push(Sample {
                steps: steps(site, &stack.frames, frames),
                site,
                pages: stack.pages,
                bytes,
            });
        }
    }
    samples
}

/// The steps of one stack, root first.
fn steps<'a>(
    site: &'a CallSite,
    stack: &'a [std::sync::Arc<Frame>],
    frames: Frames,
) -> Vec<Step<'a>> {
    let all = || stack.iter().map(|frame| &**frame);
    let interpreted = |frame: &Frame| frame.language.is_interpreted();
    let mut steps: Vec<Step<'_>> = match frames {
        Frames::Site => vec![Step::from(&site.site)],
        Frames::Python if all().any(interpreted) => (all().enumerate())
            .filter(|(at, frame)| *at == 0 || interpreted(frame))
            .map(|(_, frame)| Step::from(frame))
            .take(MOST_STEPS + 1)
            .collect(),
        Frames::Python | Frames::Mixed => all().map(Step::from).take(MOST_STEPS + 1).collect(),
    };
    if steps.is_empty() {
        steps.push(Step::from(&site.site));
    }
    if steps.len() > MOST_STEPS {
        steps.truncate(MOST_STEPS - 1);
        steps.push(MORE);
    }
    steps.reverse();
    steps
}

/// The program that was traced: the file of most of the functions that processes begin with, or
/// what the first process is called.
pub(super) fn program(profile: &Profile) -> String {
    let mut begun: BTreeMap<&str, u64> = BTreeMap::new();
    let stacks = profile.call_sites.iter().flat_map(|site| &site.stacks);
    for stack in stacks {
        let first = (stack.frames.last()).filter(|frame| &*frame.function == "_start");
        if let Some(module) = first.and_then(|frame| frame.module.as_deref()) {
            let pages = begun.entry(module).or_default();
            *pages = pages.saturating_add(stack.pages);
        }
    }
    if let Some((module, _)) = begun.into_iter().max_by_key(|(_, pages)| *pages) {
        return module.to_owned();
    }
    let process = profile.processes.first();
    let names = process.and_then(|process| process.cmdline.first().or(Some(&process.comm)));
    names.cloned().unwrap_or_default()
}

/// When the trace began, since 1970; `None` where the profile has no such time.
pub(super) fn since_1970(profile: &Profile) -> Option<Duration> {
    let started = humantime::parse_rfc3339_weak(&profile.started_at).ok()?;
    started.duration_since(UNIX_EPOCH).ok()
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::profile::sample::{sample, sample_pending, sample_with_losses, sample_with_memory};
    use crate::profile::{StackPages, Unknown};

    /// Every profile that formats are tested with, by name.
    pub(in crate::report) fn profiles() -> [(&'static str, Profile); 4] {
        [
            ("plain", sample()),
            ("losses", sample_with_losses()),
            ("pending", sample_pending()),
            ("memory", sample_with_memory()),
        ]
    }

    pub(in crate::report) const ALL_FRAMES: [Frames; 3] =
        [Frames::Mixed, Frames::Python, Frames::Site];

    fn names(sample: &Sample<'_>) -> Vec<String> {
        sample.steps.iter().map(Step::name).collect()
    }

    #[test]
    fn every_page_and_byte_is_in_one_sample() {
        for (name, profile) in profiles() {
            for frames in ALL_FRAMES {
                let samples = samples(&profile, frames);
                let pages: u64 = samples.iter().map(|sample| sample.pages).sum();
                let bytes: u64 = samples.iter().map(|sample| sample.bytes).sum();
                assert_eq!(pages, profile.totals.copied_pages, "{name}, {frames:?}");
                assert_eq!(bytes, profile.totals.copied_bytes, "{name}, {frames:?}");
                let parts = samples.iter().flat_map(Sample::by_process);
                let parts = parts.fold((0, 0), |sum, it| (sum.0 + it.pages, sum.1 + it.bytes));
                assert_eq!(parts, (pages, bytes), "{name}, {frames:?}");
                assert!(samples.iter().all(|sample| !sample.steps.is_empty()));
            }
        }
    }

    #[test]
    fn python_frames_alone_are_shown_where_there_are_any_with_the_native_leaf() {
        let profile = sample();
        insta::assert_snapshot!(names(&samples(&profile, Frames::Python)[0]).join("\n"), @r"
        SyncWorker.run (sync.py:130)
        SyncWorker.handle_request (sync.py:177)
        Flask.dispatch_request (app.py:1484)
        checkout (views.py:91)
        Catalog.render (catalog.py:212)
        unicode_hash
        ");
        insta::assert_snapshot!(names(&samples(&profile, Frames::Site)[0]).join("\n"), @"Catalog.render (catalog.py:212)");
        assert_eq!(samples(&profile, Frames::Mixed)[0].steps.len(), 15);
        // A stack without Python stays as it is.
        let native = |frames| {
            let samples = samples(&profile, frames);
            let pricing = samples
                .iter()
                .find(|it| it.steps[0].function == "shop::pricing::apply");
            pricing.unwrap().steps.len()
        };
        assert_eq!((native(Frames::Python), native(Frames::Mixed)), (2, 2));
    }

    #[test]
    fn copies_without_a_record_are_steps_of_their_own() {
        let has = |profile: &Profile, name: &str| {
            let samples = samples(profile, Frames::Python);
            let found = samples.iter().filter(|sample| names(sample) == [name]);
            found.map(|sample| sample.pages).sum::<u64>()
        };
        assert_eq!(has(&sample_with_losses(), "[lost]"), 1_204);
        assert_eq!(has(&sample_pending(), "[pending]"), 250);
    }

    #[test]
    fn a_process_is_said_only_where_it_is_known() {
        let mut profile = sample();
        let pids = |profile: &Profile| -> Vec<_> {
            let samples = samples(profile, Frames::Site);
            let first = samples
                .iter()
                .filter(|it| std::ptr::eq(it.site, &raw const profile.call_sites[0]));
            let parts = first.flat_map(Sample::by_process);
            parts.map(|part| (part.pid, part.pages)).collect()
        };
        let one_stack = pids(&profile);
        assert_eq!(
            one_stack,
            [(Some(4243), 1_120), (Some(4244), 1_080), (Some(4245), 300)]
        );
        let site = &mut profile.call_sites[0];
        let mut other = site.stacks[0].clone();
        (site.stacks[0].pages, other.pages) = (2_000, 500);
        site.stacks.push(other);
        assert_eq!(pids(&profile), [(None, 2_000), (None, 500)]);
        profile.call_sites[0].processes = [(7, 2_500)].into();
        assert_eq!(pids(&profile), [(Some(7), 2_000), (Some(7), 500)]);
        profile.call_sites[0].processes.clear();
        assert_eq!(pids(&profile), [(None, 2_000), (None, 500)]);
    }

    #[test]
    fn a_stack_without_end_is_cut_at_its_root_and_one_without_frames_is_its_site() {
        let mut profile = sample();
        let deep: Vec<_> = (0..5_000)
            .map(|n| Arc::new(Frame::placeholder(&format!("f{n}"), Unknown::NoSymbol)))
            .collect();
        profile.call_sites[0].stacks = vec![StackPages {
            frames: deep.into(),
            ..profile.call_sites[0].stacks[0].clone()
        }];
        profile.call_sites[1].stacks[0].frames = Arc::default();
        let samples = samples(&profile, Frames::Mixed);
        let steps = &samples[0].steps;
        assert_eq!(steps.len(), MOST_STEPS);
        assert_eq!(
            (steps[0].function, steps[1].function),
            ("[more frames]", "f998")
        );
        assert_eq!(steps[MOST_STEPS - 1].function, "f0");
        let bare = samples
            .iter()
            .find(|it| std::ptr::eq(it.site, &raw const profile.call_sites[1]));
        assert_eq!(bare.unwrap().steps.len(), 1);
    }

    #[test]
    fn names_are_bounded_and_of_one_line() {
        let long = "x".repeat(1 << 20);
        let step = Step {
            file: Some("/a/\u{7}\n.py"),
            line: Some(3),
            language: Language::Python,
            ..Step::ours(&long)
        };
        let name = step.name();
        assert!(name.len() < MAX_NAME + 40, "{}", name.len());
        assert!(name.ends_with(r" (\u{7}\n.py:3)"), "{name}");
        assert_eq!(Step::ours("").name(), "[no name]");
        assert!(path_of(&format!("/{long}/end.so")).ends_with("/end.so"));
        assert!(path_of(&format!("/{long}/end.so")).len() < MAX_NAME + 10);
    }
}
