//! What the thread that builds tables does with one file: it has another process look into it
//! ([`maker`](super::maker)), and looks for the table on disk before it has it built.

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::HashSet;
use log::{debug, info};

use super::maker::{self, Allowance, Build, Look, Looked};
use super::{Built, Job, Table};
use crate::elf::Budget;
use crate::process::inspector::{Asked, Inspector};
use crate::process::modules::Module;
use crate::unwind::cache::Cache;
use crate::unwind::queue::Queue;
use crate::unwind::table::{Refused, TableIdentity, UnwindTable};
use crate::unwind::{format, sections};

/// What one file may cost; a library with a million functions takes a fifth of a second.
const EACH: Allowance = Allowance {
    time: Duration::from_secs(3),
    bytes: 128 << 20,
};

/// For how long all files of a trace are worked on, and bytes that are read of them. After that
/// files have a [`SMALL`] budget only, which is enough for most, so that others' do not use up what
/// honest ones need; and after twice as much, none.
const ALL: (Duration, u64) = (Duration::from_mins(2), 2 << 30);

/// What a file has when much was spent on others.
const SMALL: Allowance = Allowance {
    time: Duration::from_millis(50),
    bytes: 8 << 20,
};

/// What one file may cost.
pub fn budget() -> Budget {
    Budget::new(EACH.time, EACH.bytes)
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
    identity: TableIdentity,
    build_id: Option<String>,
    /// Bytes that its table is built from.
    size: u64,
    allowance: Allowance,
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
        let size = job.module.facts().map_or(0, sections::size_of);
        let asked = job.asked;
        self.push(Task::Look(job), size, asked);
    }

    /// Adds a file that was read.
    pub(super) fn push_read(&mut self, read: Box<ReadFile>) {
        let size = read.size;
        self.push(Task::Build(read), size, Instant::now());
    }
}

/// Does what is asked for, and knows what was done.
pub(super) struct Worker {
    inspector: Inspector,
    /// Opened with the first file; empty when it cannot be.
    cache: OnceCell<Option<Cache>>,
    given: HashSet<TableIdentity>,
    /// What all files have cost.
    time: Duration,
    bytes: u64,
}

impl Worker {
    /// One that keeps nothing on disk: what a test has made must not be there for the next one.
    #[cfg(test)]
    pub(super) fn without_cache() -> Self {
        Self {
            cache: OnceCell::from(None),
            ..Self::new()
        }
    }

    /// Nothing was done yet. Files are looked into by a process of this same program.
    pub(super) fn new() -> Self {
        let mut inspector = Inspector::of(&maker::INSPECTOR, || maker::answerers().into());
        inspector.prepare();
        Self {
            inspector,
            cache: OnceCell::new(),
            given: HashSet::default(),
            time: Duration::ZERO,
            bytes: 0,
        }
    }

    /// Does a task; when `others_wait`, not more than must be done at once.
    pub(super) fn work(&mut self, task: Task, others_wait: bool) -> Outcome {
        let began = Instant::now();
        let outcome = match task {
            Task::Look(job) => self.look(job, others_wait),
            Task::Build(read) => Outcome::Built(self.build(*read)),
        };
        self.time += began.elapsed();
        outcome
    }

    /// Finds out what a file's table is called. If it is not known, it is built, now or later.
    fn look(&mut self, job: Job, others_wait: bool) -> Outcome {
        let Job { module, again, .. } = job;
        let mut build_id = None;
        let (identity, size, allowance) = match self.ask(&module, &mut build_id) {
            Ok(found) => found,
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
            identity,
            build_id,
            size,
            allowance,
        };
        if others_wait {
            return Outcome::Read(Box::new(read));
        }
        Outcome::Built(self.build(read))
    }

    /// The name of a file's table, bytes that it would be built from, and what may be spent on it.
    fn ask(
        &mut self,
        module: &Module,
        build_id: &mut Option<String>,
    ) -> Result<(TableIdentity, u64, Allowance), Refused> {
        let files = files(module)?;
        let allowance = self.allowance()?;
        let asked = self.inspector.ask(&Look(allowance), &files);
        let Looked {
            spent,
            build_id: id,
            found,
        } = asked.map_err(|_| failed())?;
        self.bytes = self.bytes.saturating_add(spent);
        *build_id = id.as_deref().map(hex);
        let (identity, size) = found.map_err(Refused)?;
        Ok((identity, size, allowance))
    }

    /// What the next file may cost.
    fn allowance(&self) -> Result<Allowance, Refused> {
        let spent = |times: u32| self.time > ALL.0 * times || self.bytes > ALL.1 * u64::from(times);
        if spent(2) {
            let why = "too much time was spent on the tables of other files";
            return Err(Refused(why.to_owned()));
        }
        Ok(if spent(1) { SMALL } else { EACH })
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
            identity,
            build_id,
            allowance,
            size: _,
        } = read;
        let table = if self.given.contains(&identity) && !again {
            Ok((identity, None))
        } else {
            let table = self.table(&module, identity, allowance);
            table.map(|table| (identity, Some(table)))
        };
        Built {
            module: module.id(),
            build_id,
            table,
        }
    }

    /// Has a table built.
    fn table(
        &mut self,
        module: &Module,
        identity: TableIdentity,
        allowance: Allowance,
    ) -> Result<UnwindTable, Refused> {
        let began = Instant::now();
        let build = Build {
            identity,
            allowance,
        };
        let made = self.inspector.ask(&build, &files(module)?);
        let made = made.map_err(|_| failed())?.map_err(Refused)?;
        let table = format::decode(&made.bytes, &identity).ok_or_else(failed)?;
        let (path, took) = (module.path(), began.elapsed());
        info!(
            "built unwind table of {path}: {} rows in {took:.1?}",
            table.rows.len()
        );
        // A small table is built as fast as it is read.
        if let Some(cache) = self.cache.get_or_init(open_cache)
            && took > WORTH_KEEPING
            && !made.is_partial
            && let Err(error) = cache.put(&identity, &table)
        {
            debug!("cannot keep the unwind table of {path}: {error}");
        }
        self.given.insert(identity);
        Ok(table)
    }
}

/// What a table is built from: the file, and its debug file, if it has one.
fn files(module: &Module) -> Result<Vec<Asked<'_>>, Refused> {
    let file = module.asked();
    let file = file.ok_or_else(|| Refused(module.why_not_open()))?;
    Ok(std::iter::once(file).chain(module.debug_asked()).collect())
}

fn failed() -> Refused {
    Refused("the process that builds unwind tables failed at it".to_owned())
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
        let mut worker = Worker::new();
        assert_eq!(worker.allowance(), Ok(EACH));
        worker.bytes = ALL.1 + 1;
        assert_eq!(worker.allowance(), Ok(SMALL));
        worker.time = 2 * ALL.0 + Duration::from_secs(1);
        assert!(worker.allowance().is_err());
    }
}
