//! The keys, on a screen of their own.

use ratatui_core::buffer::Buffer;
use ratatui_core::layout::Rect;
use ratatui_core::style::Style;

use super::canvas::{Pen, STRONG};

/// Each key, and what it does; a blank line between groups.
const KEYS: [(&str, &str); 20] = [
    (
        "↑ ↓ PgUp PgDn",
        "move; Home and End: the first and the last row",
    ),
    (
        "Enter",
        "all about the row: causes, types, latency, age, the stack",
    ),
    (
        "Esc",
        "back; without anything to go back from: drop the filter",
    ),
    ("", ""),
    (
        "g",
        "rows: call site, function, object type, process, file, cause",
    ),
    ("s  S", "sort by the next column; the other way round"),
    ("/", "only rows with this in their names"),
    (
        "r",
        "shares of all that was copied, or of the last 3 seconds",
    ),
    ("", ""),
    (
        "Space",
        "freeze the picture, or go on; tracing goes on in any case",
    ),
    ("z", "count from now on in the view; the report has all"),
    (
        "w",
        "write memtrace-PID-TIME.html and .json.gz; tracing goes on",
    ),
    ("", ""),
    ("q  Ctrl-C", "finish, and print the report"),
    ("Q", "leave at once, without a report; so does Ctrl-C again"),
    (
        "Ctrl-Z",
        "stop; until fg nothing is read, and much may be lost",
    ),
    ("Ctrl-L", "draw everything again"),
    ("", ""),
    (
        "refcount, gc",
        "only read: a count or the collector's mark was written",
    ),
    ("cause+", "most of it has this cause, and some has others"),
];

/// Draws them.
pub fn draw(area: Rect, buffer: &mut Buffer) {
    Pen::new(buffer, area, 0).put(" memtrace --live: keys", STRONG);
    // Where there is little room, the blank lines go.
    let all = usize::from(area.height) > KEYS.len() + 1;
    let keys = KEYS.iter().filter(|(key, _)| all || !key.is_empty());
    let from = if all { 2 } else { 1 };
    for ((key, text), line) in keys.zip(from..) {
        let mut pen = Pen::new(buffer, area, line);
        pen.put(&format!("  {key:<15}"), STRONG)
            .put(text, Style::new());
    }
}
