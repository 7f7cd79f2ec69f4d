//! The signals that finish a trace.

use anyhow::{Context as _, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens for SIGINT and SIGTERM.
pub struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    /// Listens from now on. Must be called in the event loop.
    pub fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// Waits for one of them.
    pub async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Lets the next signal end memtrace at once; nothing listens any more.
    pub fn restore(self) {
        drop(self);
        for signal in [libc::SIGINT, libc::SIGTERM] {
            // SAFETY: the default action is a valid one; none of our handlers runs any more.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
}
