//! The thread that builds unwind tables.
//!
//! Files are foreign: what is read of them is bounded, and the thread has nothing but a file's
//! descriptor and the disk cache. Each file is read once, and of files with the same tables one is
//! built.

use std::cell::OnceCell;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use log::{debug, info, warn};
use tokio::sync::mpsc as results;

use super::cache::Cache;
use super::rows;
use super::sections::Input;
use super::table::{Refused, TableIdentity, UnwindTable};
use crate::process::modules::Module;

/// What became of one file.
pub struct Built {
    /// The file, by [`Module::id`].
    pub module: u32,
    /// Its build id, in hexadecimal.
    pub build_id: Option<String>,
    /// The table's identity, and the table itself when it was not given before.
    pub table: Result<(TableIdentity, Option<UnwindTable>), Refused>,
}

/// A file to look into.
pub struct Job {
    /// The file.
    pub module: Arc<Module>,
    /// Whether its table is wanted even if one like it was given before.
    pub again: bool,
}

/// Builds tables on a thread of its own, which ends with this.
pub struct Builder {
    jobs: mpsc::Sender<Job>,
    done: results::UnboundedReceiver<Built>,
    outstanding: usize,
}

impl Builder {
    /// Starts the thread; `None` when that fails, which is logged.
    #[must_use]
    pub fn start() -> Option<Self> {
        let (builder, todo, results) = Self::with_ends();
        let work = move || {
            let mut worker = Worker::default();
            while let Ok(job) = todo.recv() {
                if results.send(worker.build(&job)).is_err() {
                    break;
                }
            }
        };
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
        };
        (builder, todo, results)
    }

    /// Asks for a file's table, `again` when it was given before; false when there is nobody to
    /// build it.
    pub fn ask(&mut self, module: &Arc<Module>, again: bool) -> bool {
        let job = Job {
            module: Arc::clone(module),
            again,
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
        self.outstanding -= 1;
        Some(built)
    }

    /// Waits for the next table; never returns when none has been asked for.
    pub async fn next(&mut self) -> Built {
        match self.done.recv().await {
            Some(built) if self.outstanding > 0 => {
                self.outstanding -= 1;
                built
            }
            _ => std::future::pending().await,
        }
    }
}

#[derive(Default)]
struct Worker {
    /// Opened with the first file; empty when it cannot be.
    cache: OnceCell<Option<Cache>>,
    given: HashSet<TableIdentity>,
}

impl Worker {
    fn build(&mut self, Job { module, again }: &Job) -> Built {
        let mut build_id = None;
        // What parses foreign bytes must not panic. If it does, only this file goes without a
        // table.
        let attempt = AssertUnwindSafe(|| self.table(module, *again, &mut build_id));
        let table = catch_unwind(attempt).unwrap_or_else(|_| {
            let why = "reading its unwind information failed, which is a fault of memtrace's own";
            Err(Refused(why.to_owned()))
        });
        Built {
            module: module.id(),
            build_id,
            table,
        }
    }

    fn table(
        &mut self,
        module: &Module,
        again: bool,
        build_id: &mut Option<String>,
    ) -> Result<(TableIdentity, Option<UnwindTable>), Refused> {
        let start = Instant::now();
        let file = module
            .file()
            .ok_or_else(|| Refused("the file could not be opened".to_owned()))?;
        let input = Input::read(file, module.debug_file())?;
        *build_id = input.build_id().map(hex);
        let identity = input.identity();
        if self.given.contains(&identity) && !again {
            return Ok((identity, None));
        }
        let path = module.path();
        let cache = self.cache.get_or_init(open_cache);
        if let Some(table) = cache.as_ref().and_then(|cache| cache.get(&identity)) {
            let took = start.elapsed();
            info!(
                "read unwind table of {path}: {} rows in {took:.1?}",
                table.rows.len()
            );
            self.given.insert(identity);
            return Ok((identity, Some(table)));
        }
        let table = rows::build(&input)?;
        let took = start.elapsed();
        info!(
            "built unwind table of {path}: {} rows in {took:.1?}",
            table.rows.len()
        );
        // A small table is built as fast as it is read.
        if let Some(cache) = cache
            && took > WORTH_KEEPING
            && let Err(error) = cache.put(&identity, &table)
        {
            debug!("cannot keep the unwind table of {path}: {error}");
        }
        self.given.insert(identity);
        Ok((identity, Some(table)))
    }
}

/// A table that is built in less time is not kept on disk.
const WORTH_KEEPING: Duration = Duration::from_micros(500);

fn open_cache() -> Option<Cache> {
    Cache::open()
        .inspect_err(|why| info!("unwind tables are not kept on disk: {why}"))
        .ok()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
