//! How often traced processes asked the last cache before memory, and missed it, by the processor's own
//! counters. Only where somebody asks for it: the kernel switches the counters with every thread.

use std::fs;
use std::io;

use foldhash::HashMap;
use perf_event::events::{Cache, CacheId, CacheOp, CacheResult};
use perf_event::{Builder, Counter, ReadFormat};

use crate::process::processes::ProcessId;
use crate::profile::CacheUse;

/// Threads that are counted, at most: each takes two descriptors.
const MOST_THREADS: usize = 400;

/// The counters of all processes.
#[derive(Default)]
pub struct Caches {
    counters: HashMap<ProcessId, Vec<[Counter; 2]>>,
    threads: usize,
    /// Of processes that have ended.
    found: HashMap<ProcessId, CacheUse>,
    /// Why there are no figures, or not of all.
    why: Option<String>,
}

impl Caches {
    /// Counts what the threads of process `pid` do from now on, and those that they start.
    pub fn begin(&mut self, process: ProcessId, pid: u32) {
        if self.why.is_some() {
            return;
        }
        for thread in threads(pid) {
            if self.threads >= MOST_THREADS {
                self.why = Some(format!(
                    "more than {MOST_THREADS} threads: those that came later are not counted"
                ));
                return;
            }
            match counters(thread) {
                Ok(pair) => {
                    self.threads += 1;
                    self.counters.entry(process).or_default().push(pair);
                }
                // It has ended meanwhile.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                Err(error) => {
                    self.why = Some(why(&error));
                    return;
                }
            }
        }
    }

    /// A process has ended: its counters stay as they are.
    pub fn end(&mut self, process: ProcessId) {
        if let Some(counters) = self.counters.remove(&process) {
            self.threads -= counters.len();
            if let Some(sum) = read(counters) {
                self.found.insert(process, sum);
            }
        }
    }

    /// Processes are not told apart any more.
    pub fn forget(&mut self, processes: &[ProcessId]) {
        for process in processes {
            self.found.remove(process);
        }
    }

    /// What was counted, and why that is not all.
    pub fn finish(mut self) -> (HashMap<ProcessId, CacheUse>, Option<String>) {
        for (process, counters) in std::mem::take(&mut self.counters) {
            if let Some(sum) = read(counters) {
                self.found.insert(process, sum);
            }
        }
        (self.found, self.why)
    }
}

/// The threads that a process has now.
fn threads(pid: u32) -> Vec<i32> {
    let folder = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten();
    let names = folder.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter_map(|name| name.parse().ok()).collect()
}

/// Counters of what a thread loads through the last cache, and of what was not there; its own threads to
/// come are counted with it, and processes that it forks are not.
fn counters(thread: i32) -> io::Result<[Counter; 2]> {
    let counter = |result| {
        let cache = Cache {
            which: CacheId::LL,
            operation: CacheOp::READ,
            result,
        };
        let mut builder = Builder::new(cache);
        builder
            .observe_pid(thread)
            .any_cpu()
            .inherit(true)
            .inherit_thread(true)
            .enabled(true)
            .read_format(ReadFormat::TOTAL_TIME_ENABLED | ReadFormat::TOTAL_TIME_RUNNING);
        builder.build()
    };
    Ok([counter(CacheResult::ACCESS)?, counter(CacheResult::MISS)?])
}

/// The sums of a process's counters; `None` where none of them has run.
fn read(counters: Vec<[Counter; 2]>) -> Option<CacheUse> {
    let mut sum = CacheUse::default();
    let mut has_run = false;
    for [mut loads, mut misses] in counters {
        if let (Some(loads), Some(misses)) = (scaled(&mut loads), scaled(&mut misses)) {
            has_run = true;
            sum.loads += loads;
            sum.misses += misses;
        }
    }
    has_run.then_some(sum)
}

/// The value of a counter: where it had to share the processor's with others, as much more as it did not
/// run. `None` where it has not run at all.
fn scaled(counter: &mut Counter) -> Option<u64> {
    let data = counter.read_full().ok()?;
    let (enabled, running) = (data.time_enabled()?, data.time_running()?);
    if running.is_zero() {
        return None;
    }
    Some((data.count() as f64 * (enabled.as_secs_f64() / running.as_secs_f64())) as u64)
}

fn why(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::EOPNOTSUPP | libc::ENODEV) => {
            "this machine has no counters of its last cache, as most virtual machines".to_owned()
        }
        Some(libc::EINVAL) => "this kernel does not count threads alone (before 5.13)".to_owned(),
        _ => format!("the processor's counters may not be used: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_cache_is_counted_or_it_is_said_why_not() {
        let mut caches = Caches::default();
        caches.begin(7, std::process::id());
        let sum: u64 = (0..1_000_000_u64).map(std::hint::black_box).sum();
        assert!(sum > 0);
        caches.end(7);
        let (found, why) = caches.finish();
        match (found.get(&7), why) {
            (Some(found), None) => assert!(found.loads >= found.misses, "{found:?}"),
            (None, Some(why)) => assert!(!why.is_empty()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_machine_without_counters_is_said_to_have_none() {
        let missing = io::Error::from_raw_os_error(libc::ENOENT);
        assert!(why(&missing).contains("no counters"));
        let denied = io::Error::from_raw_os_error(libc::EACCES);
        assert!(why(&denied).contains("may not be used"));
    }
}
