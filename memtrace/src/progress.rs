//! One line on a terminal while tracing, rewritten in place and gone at the end.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use bytesize::ByteSize;

use crate::process::traced::Processes;

/// How often it changes.
const INTERVAL: Duration = Duration::from_millis(250);

/// Back to the line's beginning, and erase what is there.
const ERASE: &str = "\r\x1b[K";

/// The line. Nothing is written when standard error is not a terminal.
pub struct Progress {
    shown: bool,
    started: Instant,
    /// When it was last written, and how many pages had been copied.
    last: (Instant, u64),
    terminal: bool,
}

impl Progress {
    /// Not shown yet.
    #[must_use]
    pub fn new() -> Self {
        let now = Instant::now();
        Self {
            shown: false,
            started: now,
            last: (now, 0),
            terminal: std::io::stderr().is_terminal(),
        }
    }

    /// Shows how far the trace is, if it is time to.
    pub fn update(&mut self, processes: &Processes, page_size: u64) {
        let since = self.last.0.elapsed();
        if !self.terminal || since < INTERVAL {
            return;
        }
        let pages: u64 = processes
            .all()
            .iter()
            .flat_map(|process| process.recorded)
            .sum();
        let bytes = |pages: u64| ByteSize(pages * page_size).display().iec();
        let rate = (pages - self.last.1) as f64 / since.as_secs_f64();
        let line = format!(
            "{ERASE}{:>5.1} s  {} copied  {}/s  {} processes  Ctrl-C to finish",
            self.started.elapsed().as_secs_f64(),
            bytes(pages),
            bytes(rate as u64),
            processes.live(),
        );
        // A terminal that has gone does not end the trace.
        let _ = std::io::stderr().write_all(line.as_bytes());
        self.shown = true;
        self.last = (Instant::now(), pages);
    }

    /// Takes the line away.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = std::io::stderr().write_all(ERASE.as_bytes());
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}
