//! Stacks of a profile with the cause as their last frame, equal ones added up: for tools that know
//! nothing but frames, and refer to frames and stacks by number.

use foldhash::HashMap;

use super::samples::{Frames, Step, cause_frame, path_of, samples};
use crate::profile::{CauseName, Profile};

/// What a frame is: a function, or the cause.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Key<'a> {
    Step(Step<'a>),
    Cause(CauseName),
}

impl Key<'_> {
    /// Its name, with the line of an interpreted function, since a box shows nothing but its name.
    pub fn name(&self) -> String {
        match self {
            Self::Step(step) => step.name(),
            Self::Cause(cause) => cause_frame(*cause),
        }
    }

    /// Where the function is: its source file, or else what was mapped.
    pub fn place(&self) -> Option<String> {
        match self {
            Self::Step(step) => step.file.or(step.module).map(path_of),
            Self::Cause(_) => None,
        }
    }

    pub fn line(&self) -> Option<u32> {
        match self {
            Self::Step(step) => step.line,
            Self::Cause(_) => None,
        }
    }
}

/// All stacks of a profile.
#[derive(Default)]
pub(super) struct Merged<'a> {
    /// What stacks refer to, each once, in the order of their appearance.
    pub keys: Vec<Key<'a>>,
    /// Places in [`keys`](Self::keys), root first, and the cause last.
    pub stacks: Vec<Vec<usize>>,
    /// Pages and bytes of each stack.
    pub pages: Vec<u64>,
    pub bytes: Vec<u64>,
}

/// The stacks of a profile, in its order.
pub(super) fn merged(profile: &Profile, frames: Frames) -> Merged<'_> {
    let mut merged = Merged::default();
    let (mut places, mut known) = (HashMap::default(), HashMap::default());
    for sample in samples(profile, frames) {
        let steps = sample.steps.iter();
        let keys = steps
            .map(|step| Key::Step(step.by_function()))
            .chain([Key::Cause(sample.cause())]);
        let stack: Vec<usize> = keys
            .map(|key| {
                *places.entry(key).or_insert_with(|| {
                    merged.keys.push(key);
                    merged.keys.len() - 1
                })
            })
            .collect();
        let at = *known.entry(stack.clone()).or_insert_with(|| {
            merged.stacks.push(stack);
            merged.pages.push(0);
            merged.bytes.push(0);
            merged.pages.len() - 1
        });
        merged.pages[at] = merged.pages[at].saturating_add(sample.pages);
        merged.bytes[at] = merged.bytes[at].saturating_add(sample.bytes);
    }
    merged
}
