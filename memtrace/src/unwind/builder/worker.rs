//! What the thread that builds tables does with one file.

use std::cell::OnceCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::HashSet;
use log::{debug, info};

use super::{Built, Job, Table};
use crate::elf::Budget;
use crate::process::modules::Module;
use crate::unwind::cache::Cache;
use crate::unwind::queue::Queue;
use crate::unwind::rows;
use crate::unwind::sections::{self, Input};
use crate::unwind::table::{Refused, TableIdentity, UnwindTable};

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

/// For how long the headers of a file are read to find out what it costs, and bytes of them.
const HEADERS: (Duration, u64) = (Duration::from_secs(1), 8 << 20);

/// Bytes of files that were read and wait to be built. When there are more, they are built at once.
const MAX_KEPT: u64 = 64 << 20;

/// What one file may cost.
pub fn budget() -> Budget {
    Budget::new(MAX_TIME, MAX_BYTES)
}

/// What the thread has to do.
pub(super) enum Task {
    /// A file was asked for.
    Look(Job),
    /// It was read, and must be built.
    Build(Box<ReadFile>),
}

/// A file that was read.
pub(super) struct ReadFile {
    module: Arc<Module>,
    again: bool,
    input: Input,
    identity: TableIdentity,
    build_id: Option<String>,
    /// What is left for building.
    budget: Budget,
}

/// What became of a task.
pub(super) enum Outcome {
    /// It is done.
    Built(Built),
    /// It is put back, since it takes longer than what waits.
    Read(Box<ReadFile>),
}

impl Queue<Task> {
    /// Adds a file, by what its table would be built from: a file can be small and have much in it
    /// that is compressed.
    pub(super) fn push_job(&mut self, job: Job) {
        let (time, bytes) = HEADERS;
        let budget = Budget::new(time, bytes);
        let attempt = AssertUnwindSafe(|| {
            let file = job.module.file();
            file.map_or(0, |file| sections::size_of(file, &budget))
        });
        let size = catch_unwind(attempt).unwrap_or(MAX_BYTES) + budget.spent();
        let asked = job.asked;
        self.push(Task::Look(job), size, asked);
    }

    /// Adds a file that was read.
    pub(super) fn push_read(&mut self, read: Box<ReadFile>) {
        let size = read.input.size();
        self.push(Task::Build(read), size, Instant::now());
    }
}

/// Does what is asked for, and knows what was done.
#[derive(Default)]
pub(super) struct Worker {
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
    pub(super) fn work(&mut self, task: Task, others_wait: bool) -> Outcome {
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
        let Job { module, again, .. } = job;
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
            .ok_or_else(|| Refused(module.why_not_open()))?;
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
                && !table.is_partial
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
mod tests {
    use super::*;

    #[test]
    fn after_much_was_spent_files_get_little_and_then_nothing() {
        let mut worker = Worker::default();
        assert!(worker.budget().unwrap().spend(MAX_BYTES));
        worker.bytes = ALL.1 + 1;
        let small = worker.budget().unwrap();
        assert!(small.spend(SMALL.1) && !small.spend(1));
        worker.time = 2 * ALL.0 + Duration::from_secs(1);
        assert!(worker.budget().is_err());
    }
}
