//! The thread that builds unwind tables.
//!
//! Files are foreign: they are read in a process of its own ([`maker`]), and reading, hashing and
//! building share one budget for each file. Each file is read once, as a rule, and of files with the
//! same tables one is built.
//!
//! Small files come first ([`Queue`]), and what is in the disk cache before what must be built: a
//! file that was read and has to be built waits again, by the size of what was read.

pub mod maker;
mod worker;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use log::warn;
use tokio::sync::mpsc as results;

pub use self::worker::budget;
use self::worker::{Outcome, Worker};
use super::queue::Queue;
use super::table::{Refused, TableIdentity, UnwindTable};
use crate::process::modules::Module;

/// Rows of finished tables that wait to be fetched. When there are more, the thread waits.
const MAX_UNFETCHED: usize = 1 << 24;

/// How often it looks then.
const PAUSE: Duration = Duration::from_millis(5);

/// A table's identity, and the table itself when it was not given before; or why there is none.
pub type Table = Result<(TableIdentity, Option<UnwindTable>), Refused>;

/// What became of one file.
pub struct Built {
    /// The file, by [`Module::id`].
    pub module: u32,
    /// Its build id, in hexadecimal.
    pub build_id: Option<String>,
    /// Its table.
    pub table: Table,
}

/// A file to look into.
pub struct Job {
    /// The file.
    pub module: Arc<Module>,
    /// Whether its table is wanted even if one like it was given before.
    pub again: bool,
    /// When it was asked for.
    pub asked: Instant,
}

/// Builds tables on a thread of its own, which ends with this.
pub struct Builder {
    jobs: mpsc::Sender<Job>,
    done: results::UnboundedReceiver<Built>,
    outstanding: usize,
    /// Rows of tables that are done and were not fetched.
    unfetched: Arc<AtomicUsize>,
}

impl Builder {
    /// Starts the thread; `None` when that fails, which is logged.
    #[must_use]
    pub fn start() -> Option<Self> {
        let (builder, todo, results) = Self::with_ends();
        let unfetched = Arc::clone(&builder.unfetched);
        let work = move || run(&todo, &results, &unfetched);
        let started = thread::Builder::new()
            .name("unwind-tables".to_owned())
            .spawn(work);
        match started {
            Ok(_) => Some(builder),
            Err(error) => {
                warn!("cannot start a thread that builds unwind tables: {error}");
                None
            }
        }
    }

    /// One for which whoever has the two ends builds the tables: the thread, or a test.
    pub(super) fn with_ends() -> (Self, mpsc::Receiver<Job>, results::UnboundedSender<Built>) {
        let (jobs, todo) = mpsc::channel();
        let (results, done) = results::unbounded_channel();
        let builder = Self {
            jobs,
            done,
            outstanding: 0,
            unfetched: Arc::default(),
        };
        (builder, todo, results)
    }

    /// Asks for a file's table, `again` when it was given before; false when there is nobody to
    /// build it.
    pub fn ask(&mut self, module: &Arc<Module>, again: bool) -> bool {
        let job = Job {
            module: Arc::clone(module),
            again,
            asked: Instant::now(),
        };
        let asked = self.jobs.send(job).is_ok();
        self.outstanding += usize::from(asked);
        asked
    }

    /// How many files have been asked for whose tables have not been fetched yet.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// The next table, if one is ready.
    pub fn try_next(&mut self) -> Option<Built> {
        let built = self.done.try_recv().ok()?;
        Some(self.fetched(built))
    }

    /// Waits for the next table; never returns when none has been asked for.
    pub async fn next(&mut self) -> Built {
        match self.done.recv().await {
            Some(built) if self.outstanding > 0 => self.fetched(built),
            _ => std::future::pending().await,
        }
    }

    fn fetched(&mut self, built: Built) -> Built {
        self.outstanding -= 1;
        // A test's tables were not counted.
        let _ = self
            .unfetched
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |rows| {
                rows.checked_sub(built.rows())
            });
        built
    }
}

impl Built {
    /// Rows of the table that comes with it.
    fn rows(&self) -> usize {
        let table = self
            .table
            .as_ref()
            .ok()
            .and_then(|(_, table)| table.as_ref());
        table.map_or(0, |table| table.rows.len())
    }
}

/// What the thread does until nobody asks or fetches any more.
fn run(
    todo: &mpsc::Receiver<Job>,
    results: &results::UnboundedSender<Built>,
    unfetched: &AtomicUsize,
) {
    let mut worker = Worker::new();
    let mut queue = Queue::new();
    loop {
        if queue.is_empty() {
            let Ok(job) = todo.recv() else { return };
            queue.push_job(job);
        }
        for job in todo.try_iter() {
            queue.push_job(job);
        }
        let Some(task) = queue.pop() else { continue };
        let built = match worker.work(task, !queue.is_empty()) {
            Outcome::Built(built) => built,
            Outcome::Read(read) => {
                queue.push_read(read);
                continue;
            }
        };
        unfetched.fetch_add(built.rows(), Ordering::Relaxed);
        if results.send(built).is_err() {
            return;
        }
        while unfetched.load(Ordering::Relaxed) > MAX_UNFETCHED && !results.is_closed() {
            thread::sleep(PAUSE);
        }
    }
}

#[cfg(test)]
#[path = "builder/tests.rs"]
mod tests;
