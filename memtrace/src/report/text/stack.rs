//! Stacks and places, a line per frame.
//!
//! In a stack with Python in it, Python's frames are marked `py` and stand out.

use super::screen::{DIM, Screen, shorten, shorten_left, width};
use crate::foreign::escape;
use crate::profile::{Language, StackPages};
use crate::report::frames::{Extent, Line, Shown, language_mark, mark, place_of, shown};
use crate::report::words::{self, count, counted};

/// The widest function that places are aligned behind.
const FUNCTION: usize = 36;
/// Columns that a shortened place keeps, so that its file and line stay legible.
pub(super) const PLACE: usize = 28;
/// Columns of what marks a language, where a stack has several.
const MARK: usize = 3;

/// The lines of a stack, leaf first, `indent` columns from the left.
pub(super) fn stack(
    stack: &StackPages,
    indent: usize,
    extent: Extent,
    screen: Screen,
) -> Vec<String> {
    let Shown {
        lines,
        more,
        is_mixed: mixed,
    } = shown(stack, extent);
    let widest = lines.iter().filter_map(|line| match line {
        Line::Frame(frame) => Some(width(&escape(&frame.function)) + width(&mark(frame))),
        Line::Natives(_) => None,
    });
    let column = widest.filter(|width| *width <= FUNCTION).max().unwrap_or(0);
    let mut text: Vec<String> = (lines.iter())
        .map(|line| write(line, indent, column, mixed, screen))
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
    let lead = lead(indent, mixed, None);
    text.push(screen.paint(DIM, &(lead + &left_out)));
    text
}

fn write(line: &Line<'_>, indent: usize, column: usize, mixed: bool, screen: Screen) -> String {
    match line {
        Line::Natives(frames) => {
            let frames = counted(*frames as u64, "native frame", "native frames");
            screen.paint(DIM, &format!("{}... {frames}", lead(indent, mixed, None)))
        }
        Line::Frame(frame) => {
            let lead = lead(indent, mixed, Some(frame.language));
            let line = Located {
                function: &frame.function,
                mark: &mark(frame),
                place: &place_of(frame),
                quiet: mixed && !frame.language.is_interpreted(),
            };
            line.write(&lead, column, screen)
        }
    }
}

/// What is before a frame.
fn lead(indent: usize, mixed: bool, language: Option<Language>) -> String {
    let mark = language.map_or("", language_mark);
    let columns = if mixed { MARK } else { 0 };
    format!("{}{mark:columns$}", " ".repeat(indent))
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::profile::Frame;

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
