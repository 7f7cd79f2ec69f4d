//! What is shown while a trace runs.
//!
//! Profiles of the trace so far are made on a thread of their own, at ordinary priority, from
//! snapshots that the session takes when it has time. A view is handed each profile there; it never
//! makes the session wait.

pub mod progress;

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use log::warn;

use crate::profile::Profile;
use crate::summarize::Snapshot;

/// Something that shows a trace while it runs.
pub trait View: Send {
    /// The least time between two profiles that it wants.
    fn interval(&self) -> Duration;

    /// How long it waits for a moment when few records come; `None` for ever.
    fn patience(&self) -> Option<Duration> {
        None
    }

    /// Shows the trace so far.
    fn show(&mut self, profile: &Arc<Profile>);

    /// Removes what it has shown: the trace is over.
    fn clear(&mut self);
}

/// A profile costs the thread that traces a copy of the sums. The next one is made after this many
/// times as long as that copy took, at the earliest.
const RARELY: u32 = 50;

/// So many times as long as making and showing a profile took, its thread rests afterwards: the
/// processors are there for what is traced.
const REST: u32 = 4;

/// Hands profiles to views.
pub struct Audience {
    /// `None` when nobody watches.
    stage: Option<Stage>,
    interval: Duration,
    patience: Option<Duration>,
    due: Instant,
}

/// From when on the thread of the views takes a snapshot; `None` while it has one.
struct Free(Mutex<Option<Instant>>);

impl Free {
    fn from(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_now(&self) -> bool {
        self.from().is_some_and(|from| from <= Instant::now())
    }
}

/// The thread that makes profiles and shows them.
struct Stage {
    snapshots: SyncSender<Snapshot>,
    free: Arc<Free>,
    thread: JoinHandle<()>,
}

impl Audience {
    /// Gathers `views`. Without any, no profile is ever asked for.
    #[must_use]
    pub fn new(views: Vec<Box<dyn View>>) -> Self {
        let interval = views.iter().map(|view| view.interval()).min();
        Self {
            patience: views.iter().filter_map(|view| view.patience()).min(),
            stage: interval.and_then(|_| Stage::start(views)),
            interval: interval.unwrap_or_default(),
            due: Instant::now(),
        }
    }

    /// Whether it is time for a snapshot: somebody watches, has not just been shown one, and is not
    /// still looking at it; and few records come, or somebody has waited for that too long.
    #[must_use]
    pub fn is_waiting(&self, is_calm: bool) -> bool {
        let patience = match (is_calm, self.patience) {
            (true, _) => Duration::ZERO,
            (false, Some(patience)) => patience,
            (false, None) => return false,
        };
        let stage = self.stage.as_ref();
        stage.is_some_and(|stage| stage.free.is_now()) && Instant::now() >= self.due + patience
    }

    /// Shows a snapshot, which `take` takes.
    pub fn show(&mut self, take: impl FnOnce() -> Snapshot) {
        let Some(stage) = &self.stage else { return };
        let start = Instant::now();
        let snapshot = take();
        let pause = self.interval.max(RARELY * start.elapsed());
        self.due = start + pause;
        *stage.free.from() = None;
        // It is not busy, so there is room; if its thread has failed, nothing is shown any more.
        if stage.snapshots.try_send(snapshot).is_err() {
            self.stage = None;
        }
    }

    /// Removes what has been shown, and waits until it is gone.
    pub fn leave(self) {
        let Some(Stage {
            snapshots, thread, ..
        }) = self.stage
        else {
            return;
        };
        drop(snapshots);
        if thread.join().is_err() {
            warn!("a view has failed");
        }
    }
}

impl Stage {
    fn start(views: Vec<Box<dyn View>>) -> Option<Self> {
        let (snapshots, arriving) = sync_channel(1);
        let free = Arc::new(Free(Mutex::new(Some(Instant::now()))));
        let its = Arc::clone(&free);
        let thread = std::thread::Builder::new()
            .name("views".to_owned())
            .spawn(move || perform(&arriving, views, &its));
        match thread {
            Ok(thread) => Some(Self {
                snapshots,
                free,
                thread,
            }),
            Err(error) => {
                warn!("nothing is shown while tracing: {error}");
                None
            }
        }
    }
}

fn perform(arriving: &Receiver<Snapshot>, mut views: Vec<Box<dyn View>>, free: &Free) {
    while let Ok(snapshot) = arriving.recv() {
        let start = Instant::now();
        let profile = Arc::new(snapshot.profile());
        for view in &mut views {
            view.show(&profile);
        }
        *free.from() = Some(Instant::now() + REST * start.elapsed());
    }
    for view in &mut views {
        view.clear();
    }
}

#[cfg(test)]
mod tests;
