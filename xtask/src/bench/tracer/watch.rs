//! The memory of a process, watched while it runs.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Watches the memory of a process.
pub struct Watch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    rss: AtomicU64,
    anonymous: AtomicU64,
}

impl Watch {
    /// Watches from now on.
    pub fn start(pid: u32) -> Self {
        let shared = Arc::new(Shared::default());
        let seen = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            while !seen.stop.load(Ordering::Relaxed) {
                let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                // VmHWM is the kernel's own peak, of this program alone: that of wait4 includes
                // us, as we were when we forked. Of anonymous memory the kernel keeps no peak.
                seen.rss
                    .fetch_max(status_bytes(&status, "VmHWM:"), Ordering::Relaxed);
                seen.anonymous
                    .fetch_max(status_bytes(&status, "RssAnon:"), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(5));
            }
        });
        Self {
            shared,
            thread: Some(thread),
        }
    }

    /// Peaks of resident and of anonymous memory, in bytes.
    pub fn peaks(&mut self) -> (u64, u64) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        (
            self.shared.rss.load(Ordering::Relaxed),
            self.shared.anonymous.load(Ordering::Relaxed),
        )
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.peaks();
    }
}

/// The number of bytes that /proc/PID/status gives for `field`, or 0.
pub fn status_bytes(status: &str, field: &str) -> u64 {
    let line = status.lines().find(|line| line.starts_with(field));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::status_bytes;

    #[test]
    fn sizes_of_the_status_file_are_kib() {
        assert_eq!(
            status_bytes("Name:\tx\nRssAnon:\t    1024 kB\n", "RssAnon:"),
            1 << 20
        );
        assert_eq!(status_bytes("Name:\tx\n", "RssAnon:"), 0);
    }
}
