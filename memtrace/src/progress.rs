//! One line on standard error while tracing, for who watches a terminal.

use std::io::{self, IsTerminal as _, Stderr, Write};
use std::time::{Duration, Instant};

/// The line is rewritten at most five times a second.
const INTERVAL: Duration = Duration::from_millis(200);
/// Back to the first column, and erase to the end of the line.
const ERASE: &str = "\r\x1b[K";

/// What the line shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Copied so far.
    pub pages: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Live traced processes.
    pub processes: u64,
    /// Lost records so far.
    pub lost: u64,
}

/// The line. Without a terminal it does nothing.
#[derive(Debug)]
pub struct Progress<W: Write = Stderr> {
    /// `None` when nobody watches, or nobody does any more.
    out: Option<W>,
    width: fn() -> usize,
    started: Instant,
    /// When it was last written, and what it said then.
    last: Option<(Duration, Snapshot)>,
}

impl Progress {
    /// On standard error, where that is a terminal.
    #[must_use]
    pub fn new() -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let terminal = io::stderr().is_terminal() && !dumb;
        Self::on(terminal.then(io::stderr), || {
            terminal_size::terminal_size_of(io::stderr()).map_or(80, |(width, _)| width.0.into())
        })
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl<W: Write> Progress<W> {
    fn on(out: Option<W>, width: fn() -> usize) -> Self {
        Self {
            out,
            width,
            started: Instant::now(),
            last: None,
        }
    }

    /// Shows what `take` says, if it is time for that; otherwise `take` is not called.
    pub fn update(&mut self, take: impl FnOnce() -> Snapshot) {
        self.update_at(self.started.elapsed(), take);
    }

    fn update_at(&mut self, elapsed: Duration, take: impl FnOnce() -> Snapshot) {
        let due = self.last.is_none_or(|(last, _)| elapsed >= last + INTERVAL);
        let Some(out) = self.out.as_mut().filter(|_| due) else {
            return;
        };
        let now = take();
        // Over the time since the last line, so that it shows what happens now.
        let (since, before) = self.last.unwrap_or_default();
        let seconds = elapsed.saturating_sub(since).as_secs_f64();
        let rate = if seconds > 0.0 {
            now.bytes.saturating_sub(before.bytes) as f64 / seconds
        } else {
            0.0
        };
        let text = line(elapsed, now, rate as u64);
        // A line that fills the last column makes some terminals begin another.
        let text: String = text
            .chars()
            .take((self.width)().saturating_sub(1))
            .collect();
        self.last = Some((elapsed, now));
        if write!(out, "{ERASE}{text}")
            .and_then(|()| out.flush())
            .is_err()
        {
            self.out = None;
        }
    }

    /// Takes the line away. It comes back with the next [`Progress::update`].
    pub fn clear(&mut self) {
        if self.last.is_some()
            && let Some(out) = &mut self.out
        {
            // Whoever closed standard error does not see the line either.
            let _ = write!(out, "{ERASE}").and_then(|()| out.flush());
        }
    }
}

impl<W: Write> Drop for Progress<W> {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The text; ASCII, so that characters are columns.
fn line(elapsed: Duration, now: Snapshot, rate: u64) -> String {
    let seconds = elapsed.as_secs();
    let size = |bytes| bytesize::ByteSize(bytes).display().iec();
    let lost = if now.lost > 0 {
        format!(", LOST {}", now.lost)
    } else {
        String::new()
    };
    format!(
        "{}:{:02}  {} copied ({} pages), {}/s, {} process{}{lost}",
        seconds / 60,
        seconds % 60,
        size(now.bytes),
        now.pages,
        size(rate),
        now.processes,
        if now.processes == 1 { "" } else { "es" },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const SNAPSHOT: Snapshot = Snapshot {
        pages: 512,
        bytes: 2 << 20,
        processes: 3,
        lost: 0,
    };

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn it_is_rewritten_at_most_five_times_a_second_and_erased() {
        let mut text = Vec::new();
        let mut progress = Progress::on(Some(&mut text), || 80);
        let mut taken = 0;
        for millis in (0..1_000).step_by(10) {
            progress.update_at(at(millis), || {
                taken += 1;
                SNAPSHOT
            });
        }
        assert_eq!(taken, 5);
        drop(progress);
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with("\r\x1b[K0:00  2.0 MiB copied (512 pages)"));
        assert!(text.ends_with("3 processes\r\x1b[K"));
    }

    #[test]
    fn it_says_how_fast_pages_are_copied_now_and_what_is_lost() {
        let now = Snapshot {
            processes: 1,
            lost: 7,
            ..SNAPSHOT
        };
        let text = line(at(61_500), now, 1 << 20);
        assert_eq!(
            text,
            "1:01  2.0 MiB copied (512 pages), 1.0 MiB/s, 1 process, LOST 7"
        );
        let mut text = Vec::new();
        let mut progress = Progress::on(Some(&mut text), || 80);
        progress.update_at(at(1_000), || SNAPSHOT);
        progress.update_at(at(1_500), || Snapshot {
            bytes: 3 << 20,
            ..SNAPSHOT
        });
        drop(progress);
        assert!(
            String::from_utf8(text)
                .unwrap()
                .contains("3.0 MiB copied (512 pages), 2.0 MiB/s")
        );
    }

    #[test]
    fn a_narrow_terminal_gets_a_short_line_and_none_nothing() {
        let mut text = Vec::new();
        let mut progress = Progress::on(Some(&mut text), || 20);
        progress.update_at(at(0), || SNAPSHOT);
        drop(progress);
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "\r\x1b[K0:00  2.0 MiB copie\r\x1b[K"
        );
        let mut progress = Progress::<Vec<u8>>::on(None, || 80);
        progress.update(|| panic!("taken for nobody"));
    }
}
