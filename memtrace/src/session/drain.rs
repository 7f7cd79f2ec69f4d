//! The thread that reads the ring buffer, and does nothing else.
//!
//! What it reads, the session interprets, on another thread: that one reads /proc and asks for
//! files, and may have to wait. This one never waits for anything but records. So the ring buffer is
//! emptied in time whatever happens, and a trace ends when it should.
//!
//! Between the two is a queue of at most [`MOST_QUEUED`] records. When it is full, records stay in
//! the ring buffer, where the BPF side counts what finds no room.

use std::collections::VecDeque;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use log::{debug, warn};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use tokio::sync::Notify;

use super::{Why, priority};
use crate::clock;
use crate::collect::{Collector, Event};

/// Records that wait for the session, at most: about 100 bytes each. The session takes up millions
/// a second; they pile up only while it waits for something.
const MOST_QUEUED: usize = 1 << 20;

/// Records that are read before they are passed on.
const PIECE: usize = 4096;

/// How often the ring buffer is looked at without being asked to. The BPF side asks before it fills
/// up; this bounds how long a few records wait.
const TICK: Duration = Duration::from_millis(50);

/// How often it is looked whether the queue has room again.
const ROOM_TICK: Duration = Duration::from_millis(1);

/// How long programs that began before the detachment may still run.
const SETTLE: Duration = Duration::from_millis(5);

/// When and why the BPF side stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Why.
    pub why: Why,
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
}

/// Something that can be read from, as the ring buffer can.
pub trait Ring: Send + 'static {
    /// Hands up to `limit` records to `take`; returns how many there were.
    fn drain(&mut self, limit: usize, take: impl FnMut(Event)) -> usize;

    /// What becomes readable when there are records.
    fn descriptor(&self) -> BorrowedFd<'_>;

    /// Records that could not be decoded.
    fn undecodable(&self) -> u64;
}

impl Ring for Collector {
    fn drain(&mut self, limit: usize, take: impl FnMut(Event)) -> usize {
        Self::drain(self, limit, take)
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        // SAFETY: the collector keeps its descriptor open as long as it is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.as_raw_fd()) }
    }

    fn undecodable(&self) -> u64 {
        Self::undecodable(self)
    }
}

/// The session's end of the queue.
pub struct Drain {
    shared: Arc<Shared>,
}

/// What both threads see.
struct Shared {
    queue: Mutex<Queue>,
    /// Tells the session that the queue has something.
    filled: Notify,
    /// Wakes the thread.
    wake: OwnedFd,
}

#[derive(Default)]
struct Queue {
    pieces: VecDeque<Vec<Event>>,
    /// Records in all pieces.
    records: usize,
    /// The latest moment before which everything is in the queue, or has been.
    all_until: Option<Instant>,
    /// When to end by itself.
    deadline: Option<Instant>,
    /// Why to stop.
    stop: Option<Why>,
    /// Records that could not be decoded.
    undecodable: u64,
    /// Nothing more will come.
    ended: Option<Ended>,
}

impl Drain {
    /// Starts the thread, which reads `ring` until it is told to stop; then it calls `detach`,
    /// after which nothing more is written, and reads the rest.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(ring: impl Ring, detach: impl FnOnce() + Send + 'static) -> Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .context("cannot make an eventfd")?;
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            filled: Notify::new(),
            wake,
        });
        let its = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("drain".to_owned())
            .spawn(move || {
                priority::stay_ahead();
                its.run(ring, detach);
            })
            .context("cannot start the thread that reads records")?;
        Ok(Self { shared })
    }

    /// Hands up to about `limit` records to `take`.
    pub fn take(&self, limit: usize, mut take: impl FnMut(Event)) -> super::source::Drained {
        let mut drained = super::source::Drained::default();
        while drained.records < limit {
            let mut queue = self.shared.queue();
            let Some(piece) = queue.pieces.pop_front() else {
                drained.all_until = queue.all_until.take();
                break;
            };
            queue.records -= piece.len();
            drop(queue);
            drained.records += piece.len();
            piece.into_iter().for_each(&mut take);
        }
        drained
    }

    /// Has the thread look at once.
    pub fn look(&self) {
        self.shared.wake();
    }

    /// Waits until there may be something to take.
    pub async fn ready(&self) {
        self.shared.filled.notified().await;
    }

    /// Ends the trace at `deadline`.
    pub fn end_at(&self, deadline: Instant) {
        self.shared.queue().deadline = Some(deadline);
        self.shared.wake();
    }

    /// Ends the trace now.
    pub fn stop(&self, why: Why) {
        self.shared.queue().stop.get_or_insert(why);
        self.shared.wake();
    }

    /// When and why it ended; `None` until everything has been taken.
    #[must_use]
    pub fn ended(&self) -> Option<Ended> {
        let queue = self.shared.queue();
        queue.ended.filter(|_| queue.pieces.is_empty())
    }

    /// Records that could not be decoded.
    #[must_use]
    pub fn undecodable(&self) -> u64 {
        self.shared.queue().undecodable
    }
}

impl Drop for Drain {
    /// The thread must not outlive the trace: its programs would go on.
    fn drop(&mut self) {
        self.stop(Why::Interrupted);
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // What is in it is whole at any moment.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // It fails when it would overflow: then the thread is awake.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// What the thread does.
    fn run(&self, mut ring: impl Ring, detach: impl FnOnce()) {
        let waker = Waker::new(self.wake.as_fd(), ring.descriptor());
        let why = loop {
            self.pass_on(&mut ring);
            match self.why_end() {
                Some(why) => break why,
                None => waker.wait(self.longest_wait()),
            }
            self.empty_wake();
        };
        let start = Instant::now();
        let at_ns = clock::monotonic_ns();
        detach();
        std::thread::sleep(SETTLE);
        // Now everything must go: there is room as soon as the session has taken some.
        while !self.pass_on(&mut ring) {
            std::thread::sleep(ROOM_TICK);
        }
        debug!("detached and drained after {:?}", start.elapsed());
        self.queue().ended = Some(Ended { why, at_ns });
        self.filled.notify_one();
    }

    /// Moves records from the ring buffer to the queue; returns whether that was all.
    fn pass_on(&self, ring: &mut impl Ring) -> bool {
        loop {
            if self.queue().records >= MOST_QUEUED {
                self.filled.notify_one();
                return false;
            }
            let now = Instant::now();
            let mut piece = Vec::new();
            let records = ring.drain(PIECE, |event| piece.push(event));
            let is_all = records < PIECE;
            let mut queue = self.queue();
            queue.undecodable = ring.undecodable();
            queue.records += piece.len();
            if !piece.is_empty() {
                queue.pieces.push_back(piece);
            }
            if is_all {
                queue.all_until = Some(now);
            }
            drop(queue);
            if records > 0 {
                self.filled.notify_one();
            }
            if is_all {
                return true;
            }
            if self.why_end().is_some() {
                return false;
            }
        }
    }

    /// Why to end now.
    fn why_end(&self) -> Option<Why> {
        let queue = self.queue();
        let is_over = queue.deadline.is_some_and(|at| at <= Instant::now());
        if is_over {
            Some(Why::Duration)
        } else {
            queue.stop
        }
    }

    /// How long to wait at most.
    fn longest_wait(&self) -> Duration {
        let queue = self.queue();
        let left = |at: Instant| at.saturating_duration_since(Instant::now());
        let left = queue.deadline.map_or(TICK, left);
        let is_full = queue.records >= MOST_QUEUED;
        left.min(if is_full { ROOM_TICK } else { TICK })
    }

    /// Forgets who has woken the thread.
    fn empty_wake(&self) {
        let mut woken = [0; 8];
        // Nobody has, most of the time.
        let _ = rustix::io::read(self.wake.as_fd(), &mut woken);
    }
}

/// What the thread waits for. It must be woken by the BPF side, and not by each record: that would
/// cost more than reading them.
struct Waker {
    /// `None` when there is none to be had; then it only sleeps.
    epoll: Option<OwnedFd>,
}

impl Waker {
    /// Waits for either of these.
    fn new(wake: BorrowedFd<'_>, ring: BorrowedFd<'_>) -> Self {
        let both = || {
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            let edges = EventFlags::IN | EventFlags::ET;
            epoll::add(&epoll, wake, EventData::new_u64(0), edges)?;
            epoll::add(&epoll, ring, EventData::new_u64(1), edges)?;
            Ok::<_, rustix::io::Errno>(epoll)
        };
        let epoll = both().inspect_err(|error| warn!("records are only looked for: {error}"));
        Self { epoll: epoll.ok() }
    }

    /// Waits, for `longest` at most.
    fn wait(&self, longest: Duration) {
        let Some(epoll) = &self.epoll else {
            std::thread::sleep(longest.min(ROOM_TICK));
            return;
        };
        let mut events = Vec::with_capacity(2);
        let longest = Timespec::try_from(longest).ok();
        // An interrupted wait is one that has ended.
        let _ = epoll::wait(epoll, spare_capacity(&mut events), longest.as_ref());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::collect::{Lifecycle, ProcessChange};

    /// A ring buffer from which records can be read until it is detached.
    struct Endless {
        readable: OwnedFd,
        detached: Arc<AtomicBool>,
        /// Records that are there after that.
        left: usize,
    }

    impl Endless {
        fn new(left: usize) -> (Self, Arc<AtomicBool>) {
            let detached = Arc::new(AtomicBool::new(false));
            let ring = Self {
                readable: eventfd(1, EventfdFlags::CLOEXEC).unwrap(),
                detached: Arc::clone(&detached),
                left,
            };
            (ring, detached)
        }
    }

    impl Ring for Endless {
        fn drain(&mut self, limit: usize, mut take: impl FnMut(Event)) -> usize {
            let records = if self.detached.load(Ordering::Relaxed) {
                self.left.min(limit)
            } else {
                limit
            };
            if self.detached.load(Ordering::Relaxed) {
                self.left -= records;
            }
            for _ in 0..records {
                take(record());
            }
            records
        }

        fn descriptor(&self) -> BorrowedFd<'_> {
            self.readable.as_fd()
        }

        fn undecodable(&self) -> u64 {
            0
        }
    }

    fn record() -> Event {
        Event::Process(ProcessChange {
            what: Lifecycle::Exit,
            slot: 0,
            time_ns: 0,
            program: 0,
            execs: 0,
            parent_slot: None,
            forked: false,
            comm: [0; 16],
        })
    }

    #[test]
    fn a_trace_ends_in_time_in_an_endless_storm_that_nobody_interprets() {
        let (ring, detached) = Endless::new(10_000);
        let detach = move || detached.store(true, Ordering::Relaxed);
        let drain = Drain::start(ring, detach).unwrap();
        let start = clock::monotonic_ns();
        drain.end_at(Instant::now() + Duration::from_millis(100));
        // The session is held up for longer than the trace lasts.
        std::thread::sleep(Duration::from_millis(300));
        assert!(drain.shared.queue().records < MOST_QUEUED + PIECE);
        let mut records = 0;
        let ended = loop {
            records += drain.take(1 << 20, |_| {}).records;
            match drain.ended() {
                Some(ended) => break ended,
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        assert_eq!(ended.why, Why::Duration);
        let took = Duration::from_nanos(ended.at_ns - start);
        assert!(took < Duration::from_millis(200), "{took:?}");
        // All that was there after the end, too.
        assert!(records > 10_000);
    }

    #[test]
    fn a_trace_that_is_stopped_says_why_it_was_first() {
        let (ring, detached) = Endless::new(0);
        let detach = move || detached.store(true, Ordering::Relaxed);
        let drain = Drain::start(ring, detach).unwrap();
        drain.stop(Why::Command);
        drain.stop(Why::Interrupted);
        while drain.ended().is_none() {
            drain.take(usize::MAX, |_| {});
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(drain.ended().unwrap().why, Why::Command);
    }
}
