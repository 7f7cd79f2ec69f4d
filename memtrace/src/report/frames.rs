//! What is shown of a stack: which of its frames, and what is said of each.
//!
//! In a stack with Python in it, or another interpreted language, runs of native frames between its
//! frames are only counted where there is little room, since most are the interpreter's way from
//! one function to the next.

use std::borrow::Cow;

use super::words;
use crate::foreign::escape;
use crate::profile::{Frame, Language, StackPages};

/// Native frames shown of those that Python called last, where runs of them are counted.
const LEAVES: usize = 3;

/// How much of a stack is shown.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    /// Lines, besides the one that says what was left out.
    pub most: usize,
    /// Whether runs of native frames between Python frames are counted rather than shown.
    pub outline: bool,
}

/// One line.
pub(super) enum Line<'a> {
    Frame(&'a Frame),
    Natives(usize),
}

/// What is shown of a stack.
pub(super) struct Shown<'a> {
    /// Leaf first.
    pub lines: Vec<Line<'a>>,
    /// Frames in none of the lines, all nearer to the root.
    pub more: u64,
    /// Whether frames of interpreted languages are among them, and among others.
    pub is_mixed: bool,
}

/// As much of a stack as `extent` says.
pub(super) fn shown(stack: &StackPages, extent: Extent) -> Shown<'_> {
    let frames: Vec<&Frame> = stack.frames.iter().map(|frame| &**frame).collect();
    let is_mixed = frames.iter().any(|frame| frame.language.is_interpreted());
    let mut lines = if extent.outline && is_mixed {
        outline(&frames)
    } else {
        frames.iter().map(|frame| Line::Frame(frame)).collect()
    };
    // One line more is shown rather than counted.
    let shown = match lines.len() {
        all if all <= extent.most + 1 => all,
        _ => extent.most,
    };
    let shown = match lines[..shown].last() {
        // What is counted is counted once.
        Some(Line::Natives(_)) if shown < lines.len() => shown - 1,
        _ => shown,
    };
    let rest = lines.split_off(shown);
    Shown {
        lines,
        more: rest.iter().map(Line::frames).sum::<usize>() as u64,
        is_mixed,
    }
}

impl Line<'_> {
    fn frames(&self) -> usize {
        match self {
            Self::Frame(_) => 1,
            Self::Natives(frames) => *frames,
        }
    }
}

/// All frames of interpreted languages; of the others only those that were called last and those
/// that are alone between two.
fn outline<'a>(frames: &[&'a Frame]) -> Vec<Line<'a>> {
    let mut lines = Vec::new();
    for run in frames.chunk_by(|a, b| a.language.is_interpreted() == b.language.is_interpreted()) {
        let shown = match run.len() {
            all if run[0].language.is_interpreted() => all,
            1 => 1,
            all if lines.is_empty() && all <= LEAVES + 1 => all,
            _ if lines.is_empty() => LEAVES,
            _ => 0,
        };
        lines.extend(run[..shown].iter().map(|frame| Line::Frame(frame)));
        if shown < run.len() {
            lines.push(Line::Natives(run.len() - shown));
        }
    }
    lines
}

/// What marks a frame's language in a stack of several.
pub(super) fn language_mark(language: Language) -> &'static str {
    match language {
        Language::Python => "py",
        Language::Native | Language::Kernel => "",
        Language::Other(other) => other.name().get(..2).unwrap_or(other.name()),
    }
}

/// What is said behind a function's name.
pub(super) fn mark(frame: &Frame) -> Cow<'static, str> {
    match frame.unknown {
        Some(reason) => words::unknown_mark(reason),
        None if frame.inlined => " (inlined)".into(),
        None => "".into(),
    }
}

/// Where a frame's function is.
pub(super) fn place_of(frame: &Frame) -> String {
    match place(frame.file.as_deref(), frame.line) {
        Some(place) => place,
        // The name of an unknown function begins with its module.
        None if frame.unknown.is_some() => String::new(),
        None => escape(frame.module.as_deref().unwrap_or_default()).into_owned(),
    }
}

/// `file:line`, escaped.
pub(super) fn place(file: Option<&str>, line: Option<u32>) -> Option<String> {
    let file = escape(file?);
    Some(line.map_or_else(
        || file.clone().into_owned(),
        |line| format!("{file}:{line}"),
    ))
}
