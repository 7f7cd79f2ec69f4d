//! Lines of text on a part of the screen, and the few styles there are.
//!
//! Styles use the terminal's own colours: whoever has a light background has colours that can be read
//! on it. Nothing is told by a colour alone.

use ratatui_core::buffer::Buffer;
use ratatui_core::layout::Rect;
use ratatui_core::style::{Color, Modifier, Style};

use crate::profile::CauseName;
use crate::report::text::screen::width;

/// Of what is said beside the figures.
pub const QUIET: Style = Style::new().add_modifier(Modifier::DIM);
/// Of what stands out.
pub const STRONG: Style = Style::new().add_modifier(Modifier::BOLD);
/// Of what must not be overlooked.
pub const NOTE: Style = Style::new().add_modifier(Modifier::REVERSED);
/// Of what was lost.
pub const LOSS: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
/// Of memory that is shared.
pub const SHARED: Style = Style::new().fg(Color::Cyan);
/// Of memory that is private.
pub const PRIVATE: Style = Style::new().fg(Color::Yellow);

/// The colour of a cause.
#[must_use]
pub fn of_cause(cause: CauseName) -> Style {
    let colour = match cause {
        CauseName::Refcount => Color::Red,
        CauseName::Gc => Color::Cyan,
        CauseName::Allocator => Color::Green,
        CauseName::Object => Color::Yellow,
        CauseName::Data => Color::Blue,
        CauseName::Kernel | CauseName::Remote => Color::Magenta,
        CauseName::Unknown | CauseName::Other(_) => Color::Reset,
    };
    Style::new().fg(colour)
}

/// A line that grows to the right, up to an edge.
pub struct Pen<'a> {
    buffer: &'a mut Buffer,
    x: u16,
    y: u16,
    edge: u16,
}

impl<'a> Pen<'a> {
    /// At the beginning of a line of `area`, counted from its top.
    pub fn new(buffer: &'a mut Buffer, area: Rect, line: u16) -> Self {
        let (y, bottom) = (area.y + line, area.bottom());
        Self {
            buffer,
            x: area.x,
            y,
            // Below the area there is no room.
            edge: if y < bottom { area.right() } else { area.x },
        }
    }

    /// Columns that are left.
    #[must_use]
    pub fn room(&self) -> usize {
        usize::from(self.edge.saturating_sub(self.x))
    }

    /// Writes as much of `text` as there is room for.
    pub fn put(&mut self, text: &str, style: Style) -> &mut Self {
        if self.room() > 0 {
            let (x, _) = (self.buffer).set_stringn(self.x, self.y, text, self.room(), style);
            self.x = x;
        }
        self
    }

    /// Writes `text` against the right edge, where there is room.
    pub fn put_right(&mut self, text: &str, style: Style) -> &mut Self {
        let columns = width(text);
        if columns <= self.room() {
            self.x = self.edge - columns as u16;
            self.put(text, style);
        }
        self
    }

    /// Fills the line up to `keep` columns before the edge.
    pub fn fill(&mut self, symbol: &str, keep: usize, style: Style) -> &mut Self {
        let columns = self.room().saturating_sub(keep);
        self.put(&symbol.repeat(columns), style)
    }
}
