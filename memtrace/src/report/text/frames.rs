//! Stacks and places, a line per frame.
//!
//! In a stack with Python in it, Python's frames are marked `py` and stand out; where there is
//! little room, runs of native frames between them are only counted, since most are the
//! interpreter's way from one Python function to the next.

use super::screen::{DIM, Screen, shorten, shorten_left, width};
use super::words::{self, count, counted};
use crate::foreign::escape;
use crate::profile::{Frame, Language, StackPages};

/// The widest function that places are aligned behind.
const FUNCTION: usize = 36;
/// Columns that a shortened place keeps, so that its file and line stay legible.
pub(super) const PLACE: usize = 28;
/// Native frames shown of those that Python called last, where runs of them are counted.
const LEAVES: usize = 3;
/// What marks a Python frame, and what stands before any other in the same stack.
const MARKS: (&str, &str) = ("py ", "   ");

/// How much of a stack is shown.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    /// Lines, besides the one that says what was left out.
    pub most: usize,
    /// Whether runs of native frames between Python frames are counted rather than shown.
    pub outline: bool,
}

/// One line.
enum Line<'a> {
    Frame(&'a Frame),
    Natives(usize),
}

/// The lines of a stack, leaf first, `indent` columns from the left.
pub(super) fn stack(
    stack: &StackPages,
    indent: usize,
    extent: Extent,
    screen: Screen,
) -> Vec<String> {
    let frames: Vec<&Frame> = stack.frames.iter().map(|frame| &**frame).collect();
    let mixed = frames.iter().any(|frame| is_python(frame));
    let lines = if extent.outline && mixed {
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
    let (lines, rest) = lines.split_at(shown);
    let more = rest.iter().map(Line::frames).sum::<usize>() as u64;
    let widest = lines.iter().filter_map(|line| match line {
        Line::Frame(frame) => Some(width(&escape(&frame.function)) + width(mark(frame))),
        Line::Natives(_) => None,
    });
    let column = widest.filter(|width| *width <= FUNCTION).max().unwrap_or(0);
    let mut text: Vec<String> = (lines.iter())
        .map(|line| line.write(indent, column, mixed, screen))
        .collect();
    let left_out = match (more, stack.truncated) {
        (0, false) => return text,
        (0, true) => format!("... {}", words::truncated(stack.truncated_why)),
        (_, false) => format!("... {} more", count(more)),
        (_, true) => {
            let why = words::truncated(stack.truncated_why);
            format!("... {} more; {why}", count(more))
        }
    };
    let lead = lead(indent, mixed, false);
    text.push(screen.paint(DIM, &(lead + &left_out)));
    text
}

impl Line<'_> {
    fn frames(&self) -> usize {
        match self {
            Self::Frame(_) => 1,
            Self::Natives(frames) => *frames,
        }
    }

    fn write(&self, indent: usize, column: usize, mixed: bool, screen: Screen) -> String {
        match self {
            Self::Natives(frames) => {
                let frames = counted(*frames as u64, "native frame", "native frames");
                screen.paint(DIM, &format!("{}... {frames}", lead(indent, mixed, false)))
            }
            Self::Frame(frame) => {
                let lead = lead(indent, mixed, is_python(frame));
                let line = Located {
                    function: &frame.function,
                    mark: mark(frame),
                    place: &place_of(frame),
                    quiet: mixed && !is_python(frame),
                };
                line.write(&lead, column, screen)
            }
        }
    }
}

fn is_python(frame: &Frame) -> bool {
    frame.language == Language::Python
}

/// What stands before a frame.
fn lead(indent: usize, mixed: bool, python: bool) -> String {
    let mark = match (mixed, python) {
        (false, _) => "",
        (true, true) => MARKS.0,
        (true, false) => MARKS.1,
    };
    " ".repeat(indent) + mark
}

/// All of Python's frames; of the native ones only those that Python called last and those that
/// stand alone.
fn outline<'a>(frames: &[&'a Frame]) -> Vec<Line<'a>> {
    let mut lines = Vec::new();
    for run in frames.chunk_by(|a, b| is_python(a) == is_python(b)) {
        let shown = match run.len() {
            all if is_python(run[0]) => all,
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

/// A function and where it is.
pub(super) struct Located<'a> {
    /// Not escaped yet.
    pub function: &'a str,
    /// What is said behind its name.
    pub mark: &'a str,
    /// Escaped.
    pub place: &'a str,
    /// Whether others on the screen matter more.
    pub quiet: bool,
}

impl Located<'_> {
    /// `function mark  place` behind `lead`, the place from `column` on where there is room; each
    /// shortened only as far as the line needs it.
    pub(super) fn write(&self, lead: &str, column: usize, screen: Screen) -> String {
        let &Self { mark, place, .. } = self;
        let function = escape(self.function);
        let room = screen.room(width(lead));
        let gap = if place.is_empty() { 0 } else { 2 };
        let fixed = width(mark) + gap;
        let excess = (width(&function) + fixed + width(place)).saturating_sub(room);
        let place_room = width(place)
            .saturating_sub(excess)
            .max(width(place).min(PLACE));
        let place = shorten_left(place, place_room);
        let function = shorten(&function, room.saturating_sub(fixed + width(&place)));
        let used = width(&function) + fixed + width(&place);
        let padding = column.saturating_sub(width(&function) + width(mark));
        let padding = if place.is_empty() {
            0
        } else {
            padding.min(room.saturating_sub(used))
        };
        let tail = format!("{mark}{}{place}", " ".repeat(gap + padding));
        if self.quiet {
            return screen.paint(DIM, &format!("{lead}{function}{tail}"));
        }
        format!("{lead}{function}{}", screen.paint(DIM, &tail))
    }
}

/// What is said behind a function's name.
fn mark(frame: &Frame) -> &'static str {
    match frame.unknown {
        Some(reason) => words::unknown_mark(reason),
        None if frame.inlined => " (inlined)",
        None => "",
    }
}

/// Where a frame's function is.
fn place_of(frame: &Frame) -> String {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const WHOLE: Extent = Extent {
        most: 40,
        outline: false,
    };
    const OUTLINE: Extent = Extent {
        outline: true,
        ..WHOLE
    };

    /// A frame for each letter: `p` of Python, others native.
    fn shown(languages: &str, extent: Extent) -> String {
        let frame = |letter| Frame {
            function: String::from(letter).into(),
            file: None,
            line: None,
            module: None,
            address: 0,
            language: match letter {
                'p' => Language::Python,
                _ => Language::Native,
            },
            inlined: false,
            unknown: None,
        };
        let pages = StackPages {
            pages: 1,
            truncated: false,
            truncated_why: None,
            frames: languages
                .chars()
                .map(|letter| Arc::new(frame(letter)))
                .collect(),
        };
        stack(&pages, 0, extent, Screen::of_a_file()).join("\n")
    }

    #[test]
    fn frames_of_python_are_marked_where_there_are_any() {
        assert_eq!(shown("ab", WHOLE), "a\nb");
        assert_eq!(shown("ab", OUTLINE), "a\nb");
        assert_eq!(shown("apb", WHOLE), "   a\npy p\n   b");
    }

    #[test]
    fn an_outline_keeps_python_whole_and_counts_what_is_between() {
        assert_eq!(shown("abcdp", OUTLINE), "   a\n   b\n   c\n   d\npy p");
        assert_eq!(
            shown("abcdepp", OUTLINE),
            "   a\n   b\n   c\n   ... 2 native frames\npy p\npy p"
        );
        assert_eq!(
            shown("pabcpdp", OUTLINE),
            "py p\n   ... 3 native frames\npy p\n   d\npy p"
        );
    }

    #[test]
    fn every_frame_is_shown_or_counted() {
        for languages in ["papabapabcpabcdpa", "aaaaaaaa", "pppppppp", "abcdefp"] {
            for most in 1..10 {
                let text = shown(languages, Extent { most, ..OUTLINE });
                let counted = text
                    .lines()
                    .filter_map(|line| line.trim().strip_prefix("... "));
                let counted: usize = counted
                    .map(|line| line.split(' ').next().unwrap().parse::<usize>().unwrap())
                    .sum();
                let shown = text.lines().filter(|line| !line.contains("...")).count();
                assert_eq!(
                    shown + counted,
                    languages.len(),
                    "{languages} {most}: {text}"
                );
            }
        }
    }
}
