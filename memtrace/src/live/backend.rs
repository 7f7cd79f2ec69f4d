//! What ratatui draws with: a frame is gathered as escape sequences, and written at once.
//!
//! Only the 16 colours that every terminal has and its user has chosen; without colours no sequence
//! sets one, but lines are bold or reversed all the same.

use std::fmt::Write as _;
use std::io;

use ratatui_core::backend::{Backend, ClearType, WindowSize};
use ratatui_core::buffer::Cell;
use ratatui_core::layout::{Position, Size};
use ratatui_core::style::{Color, Modifier};

use super::terminal::Terminal;

/// A frame in the making, and where it goes.
pub struct Escapes {
    /// Where it goes.
    pub terminal: Terminal,
    frame: String,
    has_colour: bool,
}

impl Escapes {
    /// Draws on `terminal`.
    #[must_use]
    pub fn new(terminal: Terminal, has_colour: bool) -> Self {
        Self {
            terminal,
            frame: String::new(),
            has_colour,
        }
    }
}

/// How a cell looks.
type Look = (Color, Color, Modifier);

/// Every attribute that is used, with its number.
const ATTRIBUTES: [(Modifier, u8); 5] = [
    (Modifier::BOLD, 1),
    (Modifier::DIM, 2),
    (Modifier::ITALIC, 3),
    (Modifier::UNDERLINED, 4),
    (Modifier::REVERSED, 7),
];

/// The sequence that sets this look, whatever was set before.
fn sequence((text, background, attributes): Look, has_colour: bool) -> String {
    let mut sequence = "\x1b[0".to_owned();
    for (attribute, number) in ATTRIBUTES {
        if attributes.contains(attribute) {
            let _ = write!(sequence, ";{number}");
        }
    }
    if has_colour {
        for (colour, base) in [(text, 30), (background, 40)] {
            if let Some(number) = number(colour) {
                let _ = write!(sequence, ";{}", base + number);
            }
        }
    }
    sequence.push('m');
    sequence
}

/// A colour's number, beyond that of the first one; `None` for the terminal's own.
fn number(colour: Color) -> Option<u8> {
    Some(match colour {
        Color::Black => 0,
        Color::Red => 1,
        Color::Green => 2,
        Color::Yellow => 3,
        Color::Blue => 4,
        Color::Magenta => 5,
        Color::Cyan => 6,
        Color::Gray => 7,
        Color::DarkGray => 60,
        Color::LightRed => 61,
        Color::LightGreen => 62,
        Color::LightYellow => 63,
        Color::LightBlue => 64,
        Color::LightMagenta => 65,
        Color::LightCyan => 66,
        Color::White => 67,
        _ => return None,
    })
}

impl Backend for Escapes {
    type Error = io::Error;

    fn draw<'a, I>(&mut self, content: I) -> io::Result<()>
    where
        I: Iterator<Item = (u16, u16, &'a Cell)>,
    {
        let (mut look, mut next) = (None, None);
        for (x, y, cell) in content {
            if next != Some((x, y)) {
                let _ = write!(self.frame, "\x1b[{};{}H", y + 1, x + 1);
            }
            // A wide character leaves the cursor elsewhere; then it is simply set again.
            next = Some((x + 1, y));
            let wanted = (cell.fg, cell.bg, cell.modifier);
            if look != Some(wanted) {
                self.frame.push_str(&sequence(wanted, self.has_colour));
                look = Some(wanted);
            }
            self.frame.push_str(cell.symbol());
            if !cell.symbol().is_ascii() && cell.symbol().chars().nth(1).is_some() {
                next = None;
            }
        }
        if look.is_some() {
            self.frame.push_str("\x1b[0m");
        }
        Ok(())
    }

    fn hide_cursor(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn show_cursor(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn get_cursor_position(&mut self) -> io::Result<Position> {
        Ok(Position::ORIGIN)
    }

    fn set_cursor_position<P: Into<Position>>(&mut self, _: P) -> io::Result<()> {
        Ok(())
    }

    fn clear(&mut self) -> io::Result<()> {
        self.clear_region(ClearType::All)
    }

    fn clear_region(&mut self, _: ClearType) -> io::Result<()> {
        self.frame.push_str("\x1b[0m\x1b[2J");
        Ok(())
    }

    fn size(&self) -> io::Result<Size> {
        let (width, height) = self.terminal.size()?;
        Ok(Size::new(width, height))
    }

    fn window_size(&mut self) -> io::Result<WindowSize> {
        Ok(WindowSize {
            columns_rows: self.size()?,
            pixels: Size::ZERO,
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        let frame = std::mem::take(&mut self.frame);
        self.terminal.write(frame.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_colours_no_sequence_sets_one() {
        let look = (Color::Red, Color::LightBlue, Modifier::BOLD);
        assert_eq!(sequence(look, true), "\x1b[0;1;31;104m");
        assert_eq!(sequence(look, false), "\x1b[0;1m");
        let plain = (Color::Reset, Color::Reset, Modifier::empty());
        assert_eq!(sequence(plain, true), "\x1b[0m");
    }
}
