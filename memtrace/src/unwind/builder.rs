//! The thread that builds unwind tables.
//!
//! Files are foreign: reading, hashing and building share one budget for each file, and the thread
//! has nothing but a file's descriptor and the disk cache. Each file is read once, and of files with
//! the same tables one is built.
//!
//! Small files come first ([`Queue`]), and what is in the disk cache before what must be built: a
//! file that was read and has to be built waits again, by the size of what was read.

use std::cell::OnceCell;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use log::{debug, info, warn};
use tokio::sync::mpsc as results;

use super::cache::Cache;
use super::queue::Queue;
use super::rows;
use super::sections::Input;
use super::table::{Refused, TableIdentity, UnwindTable};
use crate::elf::Budget;
use crate::process::modules::Module;

/// For how long one file is worked on; a library with a million functions takes a fifth of a
/// second.
const MAX_TIME: Duration = Duration::from_secs(3);

/// Bytes that are read of one file, or decompressed.
const MAX_BYTES: u64 = 128 << 20;

/// For how long all files of a trace are worked on, and bytes that are read of them. After that
/// files have a [`SMALL`] budget only, which is enough for most, so that others' do not use up what
/// honest ones need; and after twice as much, none.
const ALL: (Duration, u64) = (Duration::from_mins(2), 2 << 30);

/// What a file has when much was spent on others.
const SMALL: (Duration, u64) = (Duration::from_millis(50), 8 << 20);

/// Bytes of files that were read and wait to be built. When there are more, they are built at once.
const MAX_KEPT: u64 = 64 << 20;

/// Rows of finished tables that wait to be fetched. When there are more, the thread waits.
const MAX_UNFETCHED: usize = 1 << 24;

/// How often it looks then.
const PAUSE: Duration = Duration::from_millis(5);

/// What one file may cost.
pub fn budget() -> Budget {
    Budget::new(MAX_TIME, MAX_BYTES)
}

/// What became of one file.
pub struct Built {
    /// The file, by [`Module::id`].
    pub module: u32,
    /// Its build id, in hexadecimal.
    pub build_id: Option<String>,
    /// The table's identity, and the table itself when it was not given before.
    pub table: Table,
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
    let mut worker = Worker::default();
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

/// What the thread has to do.
enum Task {
    /// A file was asked for.
    Look(Job),
    /// It was read, and must be built.
    Build(Box<ReadFile>),
}

/// A file that was read.
struct ReadFile {
    module: Arc<Module>,
    again: bool,
    input: Input,
    identity: TableIdentity,
    build_id: Option<String>,
    /// What is left for building.
    budget: Budget,
}

/// What became of a task.
enum Outcome {
    Built(Built),
    /// It is put back, since it takes longer than what waits.
    Read(Box<ReadFile>),
}

type Table = Result<(TableIdentity, Option<UnwindTable>), Refused>;

impl Queue<Task> {
    fn push_job(&mut self, job: Job) {
        let file = job.module.file();
        let size = file.and_then(|file| Some(file.metadata().ok()?.len()));
        self.push(Task::Look(job), size.unwrap_or(0), Instant::now());
    }

    fn push_read(&mut self, read: Box<ReadFile>) {
        let size = read.input.size();
        self.push(Task::Build(read), size, Instant::now());
    }
}

#[derive(Default)]
struct Worker {
    /// Opened with the first file; empty when it cannot be.
    cache: OnceCell<Option<Cache>>,
    given: HashSet<TableIdentity>,
    /// Bytes of files that were read and wait.
    kept: u64,
    /// What all files have cost.
    time: Duration,
    bytes: u64,
}

impl Worker {
    /// Does a task; when `others_wait`, not more than must be done at once.
    fn work(&mut self, task: Task, others_wait: bool) -> Outcome {
        let began = Instant::now();
        let id = match &task {
            Task::Look(job) => job.module.id(),
            Task::Build(read) => read.module.id(),
        };
        // What parses foreign bytes must not panic. If it does, only this file goes without a
        // table.
        let attempt = AssertUnwindSafe(|| match task {
            Task::Look(job) => self.look(job, others_wait),
            Task::Build(read) => {
                self.kept -= read.input.size();
                let budget = read.budget.resume();
                Outcome::Built(self.build(ReadFile { budget, ..*read }))
            }
        });
        let outcome = catch_unwind(attempt).unwrap_or_else(|_| {
            let why = "reading its unwind information failed, which is a fault of memtrace's own";
            Outcome::Built(Built {
                module: id,
                build_id: None,
                table: Err(Refused(why.to_owned())),
            })
        });
        self.time += began.elapsed();
        outcome
    }

    /// Reads a file. If its table is not known, it is built, now or later.
    fn look(&mut self, job: Job, others_wait: bool) -> Outcome {
        let Job { module, again } = job;
        let mut build_id = None;
        let looked = self.read(&module, &mut build_id);
        let (input, identity, budget) = match looked {
            Ok(read) => read,
            Err(refused) => return built(&module, build_id, Err(refused)),
        };
        if self.given.contains(&identity) && !again {
            return built(&module, build_id, Ok((identity, None)));
        }
        if let Some(table) = self.kept_table(&module, &identity) {
            return built(&module, build_id, Ok((identity, Some(table))));
        }
        let read = ReadFile {
            module,
            again,
            input,
            identity,
            build_id,
            budget,
        };
        let size = read.input.size();
        if others_wait && self.kept + size <= MAX_KEPT {
            self.kept += size;
            let budget = read.budget.pause();
            return Outcome::Read(Box::new(ReadFile { budget, ..read }));
        }
        Outcome::Built(self.build(read))
    }

    fn read(
        &mut self,
        module: &Module,
        build_id: &mut Option<String>,
    ) -> Result<(Input, TableIdentity, Budget), Refused> {
        let file = module
            .file()
            .ok_or_else(|| Refused(module.why_not_open().to_owned()))?;
        let budget = self.budget()?;
        let read = Input::read(file, module.debug_file(), &budget);
        self.bytes += budget.spent();
        let input = read?;
        *build_id = input.build_id().map(hex);
        let identity = input.identity(&budget)?;
        Ok((input, identity, budget))
    }

    /// What the next file may cost.
    fn budget(&self) -> Result<Budget, Refused> {
        let spent = |times: u32| self.time > ALL.0 * times || self.bytes > ALL.1 * u64::from(times);
        if spent(2) {
            let why = "too much time was spent on the tables of other files";
            return Err(Refused(why.to_owned()));
        }
        Ok(if spent(1) {
            Budget::new(SMALL.0, SMALL.1)
        } else {
            budget()
        })
    }

    /// The table that was kept on disk.
    fn kept_table(&mut self, module: &Module, identity: &TableIdentity) -> Option<UnwindTable> {
        let began = Instant::now();
        let cache = self.cache.get_or_init(open_cache);
        let table = cache.as_ref()?.get(identity)?;
        let (rows, took) = (table.rows.len(), began.elapsed());
        info!(
            "read unwind table of {}: {rows} rows in {took:.1?}",
            module.path()
        );
        self.given.insert(*identity);
        Some(table)
    }

    fn build(&mut self, read: ReadFile) -> Built {
        let ReadFile {
            module,
            again,
            input,
            identity,
            build_id,
            budget,
        } = read;
        if self.given.contains(&identity) && !again {
            return Built {
                module: module.id(),
                build_id,
                table: Ok((identity, None)),
            };
        }
        let began = Instant::now();
        let table = rows::build(&input, &budget).map(|table| {
            let (path, took) = (module.path(), began.elapsed());
            info!(
                "built unwind table of {path}: {} rows in {took:.1?}",
                table.rows.len()
            );
            // A small table is built as fast as it is read.
            if let Some(cache) = self.cache.get_or_init(open_cache)
                && took > WORTH_KEEPING
                && let Err(error) = cache.put(&identity, &table)
            {
                debug!("cannot keep the unwind table of {path}: {error}");
            }
            self.given.insert(identity);
            (identity, Some(table))
        });
        Built {
            module: module.id(),
            build_id,
            table,
        }
    }
}

fn built(module: &Module, build_id: Option<String>, table: Table) -> Outcome {
    Outcome::Built(Built {
        module: module.id(),
        build_id,
        table,
    })
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

#[cfg(test)]
#[path = "builder/tests.rs"]
mod tests;
