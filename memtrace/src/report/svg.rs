//! A picture of where copies come from: a flame graph with its root on top, as one SVG without a
//! script, which a README, a ticket or a mail can show.
//!
//! A box is a function, as wide as what was copied in it and in what it called, and filled in the
//! proportions of the causes. What is too narrow to be seen is left out, and that is said.

use std::io::Write;

use unicode_width::UnicodeWidthChar as _;

use super::palette::colour;
use super::samples::{Frames, samples};
use super::tree::{Node, ROOT, Tree};
use super::xml::escaped;
use super::{Format, Report, words};
use crate::foreign::CUT;
use crate::profile::{CauseName, Profile};

pub(super) const FORMAT: Format = Format {
    name: "svg",
    extension: "svg",
    audience: "For a picture",
    remark: "a flame graph by cause",
    is_binary: false,
    make: |output, _| {
        Box::new(Svg {
            frames: output.frames,
        })
    },
};

/// Writes a flame graph.
#[derive(Clone, Copy, Debug)]
pub struct Svg {
    /// Which frames.
    pub frames: Frames,
}

const WIDTH: f64 = 1200.0;
const MARGIN: f64 = 10.0;
const ROW: f64 = 18.0;
/// Where the first line of text stands.
const TOP: f64 = 22.0;
/// Rows of boxes that are drawn; what is deeper is counted.
const MOST_ROWS: usize = 64;
/// A box is drawn that has at least this part of all pages, one in so many.
const PART: u64 = 1000;
/// Pixels of one column of the font, at most.
const COLUMN: f64 = 7.3;

/// A box that is drawn.
struct Drawn<'t, 'a> {
    node: &'t Node<'a>,
    x: f64,
    row: usize,
}

/// What is drawn of a tree, and what is not.
struct Layout<'t, 'a> {
    boxes: Vec<Drawn<'t, 'a>>,
    narrow: u64,
    deep: u64,
}

impl<'t, 'a> Layout<'t, 'a> {
    fn of(tree: &'t Tree<'a>) -> Self {
        let total = tree.root().pages;
        let mut layout = Self {
            boxes: Vec::new(),
            narrow: 0,
            deep: 0,
        };
        let mut open = vec![(ROOT, MARGIN, 0)];
        while let Some((at, x, row)) = open.pop() {
            let node = &tree.nodes[at];
            layout.boxes.push(Drawn { node, x, row });
            let mut x = x;
            for &child in &node.children {
                let pages = tree.nodes[child].pages;
                if pages.saturating_mul(PART) < total {
                    layout.narrow += 1;
                } else if row + 1 >= MOST_ROWS {
                    layout.deep += 1;
                } else {
                    open.push((child, x, row + 1));
                }
                x += width(pages, total);
            }
        }
        // In the order in which they are read.
        (layout.boxes).sort_by(|a, b| a.row.cmp(&b.row).then(a.x.total_cmp(&b.x)));
        layout
    }

    fn rows(&self) -> usize {
        self.boxes
            .iter()
            .map(|drawn| drawn.row + 1)
            .max()
            .unwrap_or(0)
    }

    fn left_out(&self) -> Option<String> {
        let narrow = (self.narrow > 0).then(|| {
            let boxes = words::counted(self.narrow, "box", "boxes");
            format!("{boxes} under 0.1%, and what they called")
        });
        let deep = (self.deep > 0).then(|| {
            let boxes = words::counted(self.deep, "box", "boxes");
            format!("{boxes} below row {MOST_ROWS}, and what they called")
        });
        let parts: Vec<String> = narrow.into_iter().chain(deep).collect();
        (!parts.is_empty()).then(|| format!("Left out: {}.", parts.join("; ")))
    }
}

fn width(pages: u64, total: u64) -> f64 {
    words::ratio(pages, total) * (WIDTH - 2.0 * MARGIN)
}

/// Its causes, the largest first where `by_size`, else always in the same order.
fn causes(node: &Node<'_>, by_size: bool) -> Vec<(CauseName, u64)> {
    let mut causes: Vec<_> = node.causes.iter().map(|(&cause, &n)| (cause, n)).collect();
    if by_size {
        causes.sort_by_key(|(_, pages)| std::cmp::Reverse(*pages));
    }
    causes
}

/// The beginning of a name that fits into so many pixels; nothing where only a letter or two would.
fn fitting(name: &str, pixels: f64) -> String {
    let columns = (pixels / COLUMN) as usize;
    let of = |c: char| c.width().unwrap_or(0);
    let all: usize = name.chars().map(of).sum();
    if all <= columns {
        return name.to_owned();
    }
    if columns < 4 {
        return String::new();
    }
    let mut used = 1;
    let cut = name.chars().take_while(|&c| {
        used += of(c);
        used <= columns
    });
    cut.chain([CUT]).collect()
}

impl Report for Svg {
    fn write(&self, profile: &Profile, out: &mut dyn Write) -> anyhow::Result<()> {
        let tree = Tree::of(&samples(profile, self.frames));
        let layout = Layout::of(&tree);
        let legend = causes(tree.root(), true);
        let lines = 1 + legend.len() + usize::from(layout.left_out().is_some());
        let top = TOP + lines as f64 * ROW;
        let height = top + layout.rows() as f64 * ROW + MARGIN;
        let title = title(profile, &tree);
        writeln!(
            out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
             viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
             font-family=\"DejaVu Sans Mono, Menlo, Consolas, monospace\" font-size=\"12\">"
        )?;
        writeln!(out, "<title>{}</title>", escaped(&title))?;
        writeln!(
            out,
            "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>"
        )?;
        writeln!(
            out,
            "<text x=\"{MARGIN}\" y=\"{TOP}\" font-size=\"15\">{}</text>",
            escaped(&title)
        )?;
        for (at, (cause, pages)) in legend.iter().enumerate() {
            let y = TOP + (at + 1) as f64 * ROW;
            writeln!(
                out,
                "<rect x=\"{MARGIN}\" y=\"{}\" width=\"12\" height=\"12\" fill=\"{}\"/>\
                 <text x=\"{}\" y=\"{y}\">{}</text>",
                y - 10.0,
                colour(*cause),
                MARGIN + 18.0,
                escaped(&in_legend(*cause, *pages, tree.root().pages))
            )?;
        }
        if let Some(left_out) = layout.left_out() {
            let y = TOP + (lines - 1) as f64 * ROW;
            writeln!(out, "<text x=\"{MARGIN}\" y=\"{y}\">{left_out}</text>")?;
        }
        for drawn in &layout.boxes {
            draw(drawn, top, tree.root().pages, out)?;
        }
        writeln!(out, "</svg>")?;
        Ok(())
    }
}

/// The first line: how much, and in which time.
fn title(profile: &Profile, tree: &Tree<'_>) -> String {
    let Node { pages, bytes, .. } = tree.root();
    let lost = match profile.totals.lost.faults {
        0 => String::new(),
        lost => format!("; {} without a record", words::count(lost)),
    };
    format!(
        "{} copied on write: {} in {}{lost}",
        words::size(*bytes),
        words::counted(*pages, "page", "pages"),
        words::seconds(profile.duration_s)
    )
}

fn in_legend(cause: CauseName, pages: u64, total: u64) -> String {
    let share = words::percent(pages, total);
    format!("{share} {cause}: {}", words::cause_meaning(cause))
}

fn draw(drawn: &Drawn<'_, '_>, top: f64, total: u64, out: &mut dyn Write) -> std::io::Result<()> {
    let Drawn { node, x, row } = drawn;
    let (name, is_native) = match &node.step {
        None => ("all".to_owned(), false),
        Some(step) => (step.name(), !step.language.is_interpreted()),
    };
    let (y, wide) = (top + *row as f64 * ROW, width(node.pages, total));
    let shares = causes(node, true)
        .into_iter()
        .map(|(cause, pages)| format!("{cause} {}", words::percent(pages, node.pages)));
    write!(
        out,
        "<g><title>{}\n{}, {}, {} of all\n{}</title>",
        escaped(&name),
        words::counted(node.pages, "page", "pages"),
        words::size(node.bytes),
        words::percent(node.pages, total),
        escaped(&shares.collect::<Vec<_>>().join(", "))
    )?;
    let mut from = *x;
    for (cause, pages) in causes(node, false) {
        let part = words::ratio(pages, node.pages) * wide;
        write!(
            out,
            "<rect x=\"{from:.2}\" y=\"{y}\" width=\"{part:.2}\" height=\"{}\" fill=\"{}\"/>",
            ROW - 1.0,
            colour(cause)
        )?;
        from += part;
    }
    // A box ends where the white line at its right side is.
    write!(
        out,
        "<rect x=\"{:.2}\" y=\"{y}\" width=\"1\" height=\"{}\" fill=\"#ffffff\"/>",
        x + wide - 0.5,
        ROW - 1.0
    )?;
    let text = fitting(&name, wide - 6.0);
    if !text.is_empty() {
        let style = if is_native {
            " font-style=\"italic\""
        } else {
            ""
        };
        write!(
            out,
            "<text x=\"{:.2}\" y=\"{}\"{style}>{}</text>",
            x + 3.0,
            y + 13.0,
            escaped(&text)
        )?;
    }
    writeln!(out, "</g>")
}

#[cfg(test)]
mod tests;
