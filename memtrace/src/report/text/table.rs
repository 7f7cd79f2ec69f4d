//! Tables: aligned columns, of which the last may be as wide as the screen lets it, and lines of
//! detail below a row.

use std::io::{self, Write};

use anstyle::Style;

use super::screen::{BAR, DIM, Screen, bar, shorten, width};

const INDENT: usize = 2;
const GAP: usize = 2;
/// Fewer columns than this a bar does not get; rather it goes.
const SHORTEST_BAR: usize = 3;
/// Columns that a text keeps while there are bars to take columns from.
const LEGIBLE_TEXT: usize = 28;
/// Columns that a text keeps while there are bars to drop: as many as the name of a process has.
const SHORT_TEXT: usize = 15;
/// Columns that a shortened text keeps.
const SHORTEST_TEXT: usize = 8;

/// One column.
pub(super) struct Column {
    pub title: &'static str,
    pub kind: Kind,
    pub style: Style,
}

/// How a column's cells are laid out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// To the right.
    Number,
    /// To the left; shortened where the table is too wide.
    Name,
    /// A bar, beside the column before it; its cell is a ratio.
    Bar,
}

/// One row; `details` are complete lines.
pub(super) struct Row {
    pub cells: Vec<Cell>,
    pub details: Vec<String>,
}

/// One cell.
pub(super) enum Cell {
    /// Escaped.
    Text(String),
    Bar(f64),
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::Text(text.into())
    }
}

/// How a table may fit.
#[derive(Clone, Copy)]
pub(super) enum Fit {
    /// With bars, and with names as long as those of processes.
    Whole,
    /// Without bars, and with names as short as they may get.
    Squeezed,
}

pub(super) struct Table {
    pub columns: Vec<Column>,
    pub rows: Vec<Row>,
}

impl Table {
    pub(super) fn write(&self, screen: Screen, out: &mut dyn Write) -> io::Result<()> {
        let widths = self.widths(screen);
        let titles = self
            .columns
            .iter()
            .map(|column| Cell::from(column.title))
            .collect();
        let titles: Vec<Cell> = titles;
        self.line(screen, out, &widths, &titles, Some(DIM))?;
        for (at, row) in self.rows.iter().enumerate() {
            // Rows with much below them are told apart by an empty line.
            if at > 0 && self.rows[at - 1].details.len() > 1 {
                writeln!(out)?;
            }
            self.line(screen, out, &widths, &row.cells, None)?;
            for detail in &row.details {
                writeln!(out, "{detail}")?;
            }
        }
        Ok(())
    }

    /// Whether the table fits on the screen.
    pub(super) fn fits(&self, screen: Screen, fit: Fit) -> bool {
        let gaps = INDENT + self.columns.iter().skip(1).map(gap).sum::<usize>();
        let widths = self.widths(Screen {
            shorten: false,
            ..screen
        });
        let columns = self.columns.iter().zip(widths);
        let needed = columns.map(|(column, width)| match (column.kind, fit) {
            (Kind::Number, _) => width,
            (Kind::Name, Fit::Whole) => width.min(SHORT_TEXT),
            (Kind::Name, Fit::Squeezed) => width.min(SHORTEST_TEXT),
            (Kind::Bar, Fit::Whole) => SHORTEST_BAR,
            (Kind::Bar, Fit::Squeezed) => 0,
        });
        !screen.shorten || gaps + needed.sum::<usize>() <= screen.width
    }

    fn widths(&self, screen: Screen) -> Vec<usize> {
        let mut widths: Vec<usize> = (self.columns.iter().enumerate())
            .map(|(at, column)| {
                let cells = self.rows.iter().map(|row| match &row.cells[at] {
                    Cell::Text(text) => width(text),
                    Cell::Bar(_) => (screen.width / 10).clamp(6, 20),
                });
                cells.max().unwrap_or(0).max(width(column.title))
            })
            .collect();
        if screen.shorten {
            self.squeeze(&mut widths, screen.width);
        }
        widths
    }

    /// Takes columns from long names, from bars, from all names, drops the bars, and at last
    /// takes from short names, until the table fits.
    fn squeeze(&self, widths: &mut [usize], room: usize) {
        let gaps = INDENT + self.columns.iter().skip(1).map(gap).sum::<usize>();
        for (kind, least) in [
            (Kind::Name, LEGIBLE_TEXT),
            (Kind::Bar, SHORTEST_BAR),
            (Kind::Name, SHORT_TEXT),
            (Kind::Bar, 0),
            (Kind::Name, SHORTEST_TEXT),
        ] {
            for (at, column) in self.columns.iter().enumerate() {
                let excess = (gaps + widths.iter().sum::<usize>()).saturating_sub(room);
                if column.kind == kind && excess > 0 {
                    let most = widths[at].saturating_sub(least);
                    // A bar that is too short to be read goes as a whole.
                    let dropped = kind == Kind::Bar && least == 0;
                    widths[at] -= if dropped { most } else { excess.min(most) };
                }
            }
        }
    }

    fn line(
        &self,
        screen: Screen,
        out: &mut dyn Write,
        widths: &[usize],
        cells: &[Cell],
        style: Option<Style>,
    ) -> io::Result<()> {
        let mut line = " ".repeat(INDENT);
        // Spaces are owed until something follows, so that no line ends with them.
        let mut owed = 0;
        for (at, (column, cell)) in self.columns.iter().zip(cells).enumerate() {
            owed += if at > 0 { gap(column) } else { 0 };
            let text = match cell {
                Cell::Text(text) => shorten(text, widths[at]),
                Cell::Bar(ratio) => bar(*ratio, widths[at]).trim_end().to_owned(),
            };
            let padding = widths[at] - width(&text).min(widths[at]);
            let (before, after) = if column.kind == Kind::Number {
                (padding, 0)
            } else {
                (0, padding)
            };
            owed += before;
            if !text.is_empty() {
                line += &" ".repeat(owed);
                line += &screen.paint(style.unwrap_or(column.style), &text);
                owed = 0;
            }
            owed += after;
        }
        writeln!(out, "{line}")
    }
}

/// Spaces before a column.
fn gap(column: &Column) -> usize {
    if column.kind == Kind::Bar { 1 } else { GAP }
}

/// A column without a style of its own.
pub(super) fn column(title: &'static str, kind: Kind) -> Column {
    let style = if kind == Kind::Bar { BAR } else { Style::new() };
    Column { title, kind, style }
}
