//! Where a session's records come from.

use std::io;

use anyhow::Result;
use aya_log::EbpfLogger;
use memtrace_common::process::Health;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::collect::{Collector, Event};
use crate::probe::{Found, Probe};

/// What a session needs from the BPF side.
pub trait Source {
    /// Hands up to `limit` records to `take`; returns how many there were.
    fn drain(&mut self, limit: usize, take: impl FnMut(Event)) -> usize;

    /// Waits until the BPF side says that there are records, or logs something. Nothing is lost
    /// when this is dropped while it waits.
    async fn ready(&mut self) -> io::Result<()>;

    /// What went wrong on the BPF side.
    fn health(&self) -> Health;

    /// Records that could not be decoded.
    fn undecodable(&self) -> u64;

    /// Stops the BPF side. What it has written can still be read.
    fn detach(&mut self);
}

/// The attached programs, and what they write.
pub struct Attached {
    probe: Probe,
    records: AsyncFd<Collector>,
    logger: Option<AsyncFd<EbpfLogger<&'static dyn log::Log>>>,
}

impl Attached {
    /// Listens to `probe`. Must be called in the event loop.
    pub fn new(mut probe: Probe) -> Result<Self> {
        let collector = Collector::new(probe.events()?);
        let logger = if log::log_enabled!(log::Level::Debug) {
            // SAFETY: the logger keeps its descriptor open, and the same one, until it is dropped.
            Some(unsafe { AsyncFd::register_with_interest(probe.logger()?, Interest::READABLE) }?)
        } else {
            None
        };
        Ok(Self {
            probe,
            // SAFETY: the collector keeps its descriptor open, and the same one, until it is
            // dropped.
            records: unsafe { AsyncFd::register_with_interest(collector, Interest::READABLE) }?,
            logger,
        })
    }

    /// Traces `pids` from now on; returns what was found.
    pub fn trace(&mut self, pids: &[u32]) -> Result<Found> {
        self.probe.trace(pids)
    }
}

impl Source for Attached {
    fn drain(&mut self, limit: usize, take: impl FnMut(Event)) -> usize {
        self.records.get_mut().drain(limit, take)
    }

    async fn ready(&mut self) -> io::Result<()> {
        tokio::select! {
            biased;
            ready = self.records.readable() => ready?.clear_ready(),
            () = log_records(&mut self.logger) => {}
        }
        Ok(())
    }

    fn health(&self) -> Health {
        self.probe.health()
    }

    fn undecodable(&self) -> u64 {
        self.records.get_ref().undecodable()
    }

    fn detach(&mut self) {
        self.probe.detach();
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
