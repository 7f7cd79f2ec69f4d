//! Where a session's records come from.

use std::io;
use std::time::Instant;

use anyhow::Result;
use aya_log::EbpfLogger;
use memtrace_common::process::Health;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::Why;
use super::drain::{Drain, Ended};
use crate::collect::{Collector, Event};
use crate::probe::{Found, HealthReader, Probe};

/// What a session needs from the BPF side.
pub trait Source {
    /// Hands up to `limit` records to `take`. Never waits.
    fn drain(&mut self, limit: usize, take: impl FnMut(Event)) -> Drained;

    /// Has what has been written until now handed out soon, and not only when there is more.
    fn look(&mut self);

    /// Waits until there are records, or nothing more will come, or the BPF side logs something.
    /// Nothing is lost when this is dropped while it waits.
    async fn ready(&mut self) -> io::Result<()>;

    /// What went wrong on the BPF side.
    fn health(&self) -> Health;

    /// Records that could not be decoded.
    fn undecodable(&self) -> u64;

    /// Asks the BPF side to stop. What it has written can still be read, up to
    /// [`Source::ended`].
    fn stop(&mut self, why: Why);

    /// Why and when the BPF side stopped; `None` until it has, and all of its records have been
    /// handed out.
    fn ended(&self) -> Option<Ended>;
}

/// What a call of [`Source::drain`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Records that were handed out.
    pub records: usize,
    /// A moment before which everything that was written has been handed out; `None` when none has
    /// come up since the last call.
    pub all_until: Option<Instant>,
}

/// The attached programs, and what they write.
pub struct Attached {
    drain: Drain,
    health: HealthReader,
    logger: Option<AsyncFd<EbpfLogger<&'static dyn log::Log>>>,
}

impl Attached {
    /// Traces `pids` with `probe` from now on; also returns what was found. Must be
    /// called in the event loop.
    ///
    /// # Errors
    /// When the kernel refuses, or no thread can be started.
    pub fn trace(mut probe: Probe, pids: &[u32]) -> Result<(Self, Found)> {
        let collector = Collector::new(probe.events()?);
        let logger = if log::log_enabled!(log::Level::Debug) {
            // SAFETY: the logger keeps its descriptor open, and the same one, until it is dropped.
            Some(unsafe { AsyncFd::register_with_interest(probe.logger()?, Interest::READABLE) }?)
        } else {
            None
        };
        let found = probe.trace(pids)?;
        let health = probe.health();
        let attached = Self {
            drain: Drain::start(collector, move || drop(probe))?,
            health,
            logger,
        };
        Ok((attached, found))
    }

    /// Ends the trace at `deadline`, whatever the session does then.
    pub fn end_at(&self, deadline: Instant) {
        self.drain.end_at(deadline);
    }
}

impl Source for Attached {
    fn drain(&mut self, limit: usize, take: impl FnMut(Event)) -> Drained {
        self.drain.take(limit, take)
    }

    fn look(&mut self) {
        self.drain.look();
    }

    async fn ready(&mut self) -> io::Result<()> {
        tokio::select! {
            biased;
            () = self.drain.ready() => {}
            () = log_records(&mut self.logger) => {}
        }
        Ok(())
    }

    fn health(&self) -> Health {
        self.health.read()
    }

    fn undecodable(&self) -> u64 {
        self.drain.undecodable()
    }

    fn stop(&mut self, why: Why) {
        self.drain.stop(why);
    }

    fn ended(&self) -> Option<Ended> {
        self.drain.ended()
    }
}

async fn log_records(logger: &mut Option<AsyncFd<EbpfLogger<&'static dyn log::Log>>>) {
    let Some(logger) = logger else {
        return std::future::pending().await;
    };
    if let Ok(mut ready) = logger.readable_mut().await {
        ready.get_inner_mut().flush();
        ready.clear_ready();
    }
}
