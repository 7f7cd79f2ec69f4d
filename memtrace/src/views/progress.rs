//! One line on a terminal while tracing, rewritten in place and gone at the end.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;

use super::View;
use crate::profile::Profile;

/// How often it changes.
const INTERVAL: Duration = Duration::from_millis(250);

/// Back to the line's beginning, and erase what is there.
const ERASE: &str = "\r\x1b[K";

/// The line.
#[derive(Default)]
pub struct Progress {
    is_shown: bool,
    /// When it was last written, in seconds since the start, and how many bytes had been copied.
    last: (f64, u64),
}

impl Progress {
    /// A line that has not been shown yet; `None` when standard error is not a terminal.
    #[must_use]
    pub fn on_terminal() -> Option<Self> {
        std::io::stderr().is_terminal().then(Self::default)
    }

    /// The line for a profile, without what erases the one before.
    fn line(&mut self, profile: &Profile) -> String {
        let (seconds, copied) = (profile.duration_s, profile.totals.copied_bytes);
        let (before, copied_before) = self.last;
        let rate = copied.saturating_sub(copied_before) as f64 / (seconds - before).max(1e-3);
        self.last = (seconds, copied);
        let processes = profile.processes.iter();
        let alive = processes
            .filter(|process| process.exited_at_s.is_none())
            .count();
        let bytes = |bytes: u64| ByteSize(bytes).display().iec();
        format!(
            "{seconds:>5.1} s  {} copied  {}/s  {alive} processes  Ctrl-C to finish",
            bytes(copied),
            bytes(rate as u64),
        )
    }
}

impl View for Progress {
    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn show(&mut self, profile: &Arc<Profile>) {
        let line = format!("{ERASE}{}", self.line(profile));
        // A terminal that has gone does not end the trace.
        let _ = std::io::stderr().write_all(line.as_bytes());
        self.is_shown = true;
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.is_shown) {
            let _ = std::io::stderr().write_all(ERASE.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::sample::sample;

    #[test]
    fn the_line_says_how_much_and_how_fast() {
        let mut progress = Progress::default();
        let mut profile = sample();
        profile.duration_s = 2.0;
        profile.totals.copied_bytes = 4 << 20;
        let alive = profile
            .processes
            .iter()
            .filter(|process| process.exited_at_s.is_none())
            .count();
        let end = format!("{alive} processes  Ctrl-C to finish");
        assert_eq!(
            progress.line(&profile),
            format!("  2.0 s  4.0 MiB copied  2.0 MiB/s  {end}")
        );
        profile.duration_s = 2.5;
        profile.totals.copied_bytes = 5 << 20;
        assert_eq!(
            progress.line(&profile),
            format!("  2.5 s  5.0 MiB copied  2.0 MiB/s  {end}")
        );
    }
}
