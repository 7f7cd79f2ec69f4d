//! What the text is shown on: its width, whether names may be shortened, and colours.

use std::io::IsTerminal as _;

use anstyle::{AnsiColor, Style};
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::report::Color;

/// Width of prose and bars where there is no terminal.
const PAPER: usize = 100;

/// Narrower terminals break lines themselves.
const NARROWEST: usize = 72;

/// Where a text report goes.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    /// Columns.
    pub width: usize,
    /// Whether a line longer than that is shortened. If not, only prose keeps to the width.
    pub shorten: bool,
    /// Whether escape sequences for colours are written.
    pub color: bool,
}

impl Screen {
    /// A file: nothing is shortened or coloured.
    #[must_use]
    pub fn of_a_file() -> Self {
        Self {
            width: PAPER,
            shorten: false,
            color: false,
        }
    }

    /// This process's standard output: as a file when it is not a terminal, but for colours that are
    /// asked for.
    #[must_use]
    pub fn of_stdout(color: Color) -> Self {
        let stdout = std::io::stdout();
        if !stdout.is_terminal() {
            return Self {
                color: color == Color::Always,
                ..Self::of_a_file()
            };
        }
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let dumb = set("TERM").is_none_or(|term| term == "dumb");
        let width = terminal_size::terminal_size_of(stdout).map_or(PAPER, |(w, _)| w.0.into());
        // Below that there is nothing left to shorten.
        Self {
            width: width.max(NARROWEST),
            shorten: true,
            color: match color {
                Color::Auto => set("NO_COLOR").is_none() && !dumb,
                Color::Always => true,
                Color::Never => false,
            },
        }
    }

    /// `text`, in `style` where there are colours.
    pub(super) fn paint(self, style: Style, text: &str) -> String {
        if self.color && !text.is_empty() && style != Style::new() {
            format!("{style}{text}{style:#}")
        } else {
            text.to_owned()
        }
    }

    /// The columns that a text may take which begins at column `from`.
    pub(super) fn room(self, from: usize) -> usize {
        if self.shorten {
            self.width.saturating_sub(from)
        } else {
            usize::MAX
        }
    }

    /// `text` broken at spaces into lines that begin with `indent` spaces.
    pub(super) fn wrap(self, indent: usize, text: &str) -> Vec<String> {
        let room = self.width.min(PAPER).saturating_sub(indent).max(20);
        let mut lines: Vec<String> = Vec::new();
        let mut used = room;
        for word in text.split_whitespace() {
            // On a terminal no name, however long, makes a line too wide.
            let word = &*if self.shorten {
                shorten(word, room)
            } else {
                word.to_owned()
            };
            let needed = width(word);
            match lines.last_mut() {
                Some(line) if used + 1 + needed <= room => {
                    line.push(' ');
                    line.push_str(word);
                    used += 1 + needed;
                }
                _ => {
                    lines.push(" ".repeat(indent) + word);
                    used = needed;
                }
            }
        }
        lines
    }
}

/// Of headings.
pub(super) const TITLE: Style = Style::new().bold();
/// Of what is read second.
pub(super) const DIM: Style = Style::new().dimmed();
/// Of bars.
pub(super) const BAR: Style = AnsiColor::Cyan.on_default();
/// Of what makes figures doubtful.
pub(super) const WARNING: Style = AnsiColor::Yellow.on_default().bold();
/// Of what was lost.
pub(super) const LOSS: Style = AnsiColor::Red.on_default().bold();

/// Columns that `text` takes.
pub(crate) fn width(text: &str) -> usize {
    text.width()
}

/// `text`, its middle left out when it is wider than `room`.
pub(crate) fn shorten(text: &str, room: usize) -> String {
    if width(text) <= room {
        return text.to_owned();
    }
    let kept = room.saturating_sub(1);
    // The end tells functions of a namespace apart, the beginning the namespace.
    let front = take(text.chars(), kept.div_ceil(2));
    let back: String = take(text.chars().rev(), kept - width(&front))
        .chars()
        .rev()
        .collect();
    if room == 0 {
        String::new()
    } else {
        format!("{front}…{back}")
    }
}

/// `path`, its beginning left out when it is wider than `room`; at a slash, where one is near.
pub(super) fn shorten_left(path: &str, room: usize) -> String {
    if width(path) <= room {
        return path.to_owned();
    }
    if room == 0 {
        return String::new();
    }
    let back: String = take(path.chars().rev(), room - 1).chars().rev().collect();
    let whole = back.find('/').map_or("", |slash| &back[slash..]);
    // Half of a folder's name says less than the room for it is worth, unless that is much.
    let kept = if width(whole) * 2 > room {
        whole
    } else {
        &back
    };
    format!("…{kept}")
}

/// The first characters that fit into `room` columns.
fn take(chars: impl Iterator<Item = char>, room: usize) -> String {
    let mut used = 0;
    chars
        .take_while(|c| {
            used += c.width().unwrap_or(0);
            used <= room
        })
        .collect()
}

/// A bar for a ratio of 0 to 1, `columns` wide, padded with spaces; an eighth is the least that a
/// part above 0 gets.
pub(crate) fn bar(ratio: f64, columns: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let least = usize::from(ratio > 0.0 && columns > 0);
    let eighths = ((ratio.clamp(0.0, 1.0) * columns as f64 * 8.0).round() as usize).max(least);
    let mut bar = "█".repeat(eighths / 8) + EIGHTHS[eighths % 8];
    bar += &" ".repeat(columns - width(&bar).min(columns));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shortened_in_the_middle_to_their_room() {
        assert_eq!(shorten("shop::pricing::apply", 20), "shop::pricing::apply");
        assert_eq!(shorten("shop::pricing::apply", 11), "shop:…apply");
        assert_eq!(shorten("日本語日本語", 7), "日…本語");
        assert_eq!(shorten("abc", 1), "…");
        assert_eq!(shorten("abc", 0), "");
        assert_eq!(shorten_left("/srv/shop/app.py:31", 10), "…app.py:31");
        assert_eq!(shorten_left("/srv/shop/app.py:31", 14), "…/app.py:31");
        assert_eq!(shorten_left("a.py", 0), "");
        for room in 1..30 {
            assert!(width(&shorten("größe::日本語::größe::日本語", room)) <= room);
            assert!(width(&shorten_left("größe/日本語/größe/日本語", room)) <= room);
        }
    }

    #[test]
    fn bars_grow_by_eighths_and_are_padded() {
        assert_eq!(bar(0.0, 4), "    ");
        assert_eq!(bar(0.001, 4), "▏   ");
        assert_eq!(bar(0.5, 4), "██  ");
        assert_eq!(bar(0.53, 4), "██▏ ");
        assert_eq!(bar(1.0, 4), "████");
        assert_eq!(bar(f64::NAN, 4), "    ");
        assert_eq!(bar(2.0, 3), "███");
        assert_eq!(bar(0.5, 0), "");
    }

    #[test]
    fn prose_is_wrapped_to_the_width() {
        let screen = Screen {
            width: 30,
            shorten: true,
            color: false,
        };
        assert_eq!(
            screen.wrap(2, "The records of 12 pages were lost on the way."),
            ["  The records of 12 pages were", "  lost on the way."]
        );
    }

    #[test]
    fn a_long_word_is_shortened_on_a_terminal_alone() {
        let mut screen = Screen {
            width: 30,
            shorten: true,
            color: false,
        };
        let text = format!("in {}", "long".repeat(20));
        assert!(screen.wrap(2, &text).iter().all(|line| width(line) <= 30));
        screen.shorten = false;
        assert_eq!(screen.wrap(2, &text)[1], format!("  {}", "long".repeat(20)));
    }

    #[test]
    fn colour_is_only_written_where_there_is_colour() {
        let mut screen = Screen {
            width: 80,
            shorten: true,
            color: true,
        };
        assert_eq!(screen.paint(TITLE, "x"), "\x1b[1mx\x1b[0m");
        screen.color = false;
        assert_eq!(screen.paint(TITLE, "x"), "x");
    }
}
