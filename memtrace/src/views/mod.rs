//! What is shown while a trace runs.
//!
//! Profiles of the trace so far are made on a thread of their own, at ordinary priority, from
//! snapshots that the session takes when it has time. A view is handed each profile there; it never
//! makes the session wait.

pub mod progress;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
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

/// Hands profiles to views.
pub struct Audience {
    /// `None` when nobody watches.
    stage: Option<Stage>,
    interval: Duration,
    patience: Option<Duration>,
    due: Instant,
}

/// The thread that makes profiles and shows them.
struct Stage {
    snapshots: SyncSender<Snapshot>,
    is_busy: Arc<AtomicBool>,
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
        stage.is_some_and(|stage| !stage.is_busy.load(Ordering::Acquire))
            && Instant::now() >= self.due + patience
    }

    /// Shows a snapshot, which `take` takes.
    pub fn show(&mut self, take: impl FnOnce() -> Snapshot) {
        let Some(stage) = &self.stage else { return };
        let start = Instant::now();
        let snapshot = take();
        let pause = self.interval.max(RARELY * start.elapsed());
        self.due = start + pause;
        stage.is_busy.store(true, Ordering::Release);
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
        let is_busy = Arc::new(AtomicBool::new(false));
        let busy = Arc::clone(&is_busy);
        let thread = std::thread::Builder::new()
            .name("views".to_owned())
            .spawn(move || perform(&arriving, views, &busy));
        match thread {
            Ok(thread) => Some(Self {
                snapshots,
                is_busy,
                thread,
            }),
            Err(error) => {
                warn!("nothing is shown while tracing: {error}");
                None
            }
        }
    }
}

fn perform(arriving: &Receiver<Snapshot>, mut views: Vec<Box<dyn View>>, busy: &AtomicBool) {
    while let Ok(snapshot) = arriving.recv() {
        let profile = Arc::new(snapshot.profile());
        for view in &mut views {
            view.show(&profile);
        }
        busy.store(false, Ordering::Release);
    }
    for view in &mut views {
        view.clear();
    }
}

#[cfg(test)]
mod tests;
