//! How much memory the traced processes have, and how it changes.
//!
//! A thread of its own looks at each process: when it is found or forked, then again and again, and
//! when the trace ends. What the kernel has counted for the process by then is kept beside the sizes,
//! so that the two can be compared. Reading takes the kernel as long as the process is large; what
//! is looked at again and again takes at most [`SHARE`] of a processor, and the pauses get longer if
//! need be.

mod cache;
mod history;
mod sizes;

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use foldhash::HashMap;
use log::debug;
use memtrace_common::process::{ProcessSlot, SLOT_LIVE};

use self::cache::Caches;
use self::history::{Counted, MOST_SAMPLES};
pub use self::history::{History, Look};
use crate::clock;
use crate::probe::SharedArray;
use crate::process::processes::ProcessId;
use crate::profile::CacheUse;

/// The part of one processor that repeated looks take, at most.
const SHARE: f64 = 0.01;
/// The part that first looks take, beyond [`ALLOWANCE`].
const FIRST_SHARE: f64 = 0.02;
/// Time that first looks may take in one go.
const ALLOWANCE: Duration = Duration::from_millis(100);
/// Time that looks by kind of mapping may take at the start, and again at the end.
const KINDS: Duration = Duration::from_millis(300);
/// Time that last looks may take.
const LAST: Duration = Duration::from_secs(2);
/// Looks that are kept of all processes together, about.
const ALL_SAMPLES: usize = 60_000;
/// Looks that are kept of one process, at least.
const FEW_SAMPLES: usize = 8;

/// How memory was looked at, and what was found.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    /// By process.
    pub histories: HashMap<ProcessId, Box<History>>,
    /// Time that was asked for between two looks.
    pub interval: Duration,
    /// Time that reading took.
    pub reading: Duration,
    /// How often the last cache was asked, by process; only at the end, and where that was wanted.
    pub caches: HashMap<ProcessId, CacheUse>,
    /// Why it is not known of all, where that was wanted.
    pub no_caches: Option<String>,
}

/// Looks at processes.
pub struct Accountant {
    orders: Sender<Order>,
    accounts: Arc<Mutex<Accounts>>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread is told.
enum Order {
    /// A process was found or forked.
    Begin(ProcessId, Watched),
    /// A process ended.
    End(ProcessId),
    /// Processes have been added up.
    Forget(Vec<ProcessId>),
    /// The trace is over.
    Finish,
}

/// A process that is looked at.
#[derive(Clone, Copy, Debug)]
struct Watched {
    slot: u32,
    pid: u32,
}

impl Accountant {
    /// Begins to look at the processes of `table` that it is told of, every `interval`; if that is
    /// zero, only when they are found and at the end. With `cache`, the last cache is looked at, too.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        table: SharedArray<ProcessSlot>,
        interval: Duration,
        cache: bool,
    ) -> io::Result<Self> {
        let (orders, received) = channel();
        let accounts = Arc::new(Mutex::new(Accounts {
            interval,
            ..Accounts::default()
        }));
        let worker = Worker {
            table,
            interval,
            accounts: Arc::clone(&accounts),
            watched: HashMap::default(),
            first: VecDeque::new(),
            due: VecDeque::new(),
            first_at: Instant::now(),
            again_at: Instant::now(),
            kinds_left: KINDS,
            caches: cache.then(Caches::default),
        };
        let thread = std::thread::Builder::new().name("memory".to_owned());
        let thread = thread.spawn(move || worker.run(&received))?;
        Ok(Self {
            orders,
            accounts,
            thread: Some(thread),
        })
    }

    fn tell(&self, order: Order) {
        // If the thread is gone, memory is not looked at any more, and the report says so.
        let _ = self.orders.send(order);
    }

    /// A process was found or forked.
    pub fn begins(&self, process: ProcessId, slot: u32, pid: u32) {
        self.tell(Order::Begin(process, Watched { slot, pid }));
    }

    /// A process has ended.
    pub fn ended(&self, process: ProcessId) {
        self.tell(Order::End(process));
    }

    /// Processes that have ended are not told apart any more.
    pub fn forget(&self, processes: &[ProcessId]) {
        if !processes.is_empty() {
            self.tell(Order::Forget(processes.to_vec()));
        }
    }

    /// The trace is over: has a last look at the processes that live, without waiting for that.
    pub fn finish(&self) {
        self.tell(Order::Finish);
    }

    /// What was found until now.
    #[must_use]
    pub fn accounts(&self) -> Accounts {
        lock(&self.accounts).clone()
    }

    /// What was found, when the last look that [`Accountant::finish`] asked for is over.
    #[must_use]
    pub fn into_accounts(mut self) -> Accounts {
        self.finish();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            debug!("the thread that looks at memory has failed");
        }
        std::mem::take(&mut *lock(&self.accounts))
    }
}

fn lock(accounts: &Mutex<Accounts>) -> MutexGuard<'_, Accounts> {
    accounts.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread's own.
struct Worker {
    table: SharedArray<ProcessSlot>,
    interval: Duration,
    accounts: Arc<Mutex<Accounts>>,
    watched: HashMap<ProcessId, Watched>,
    /// Those that have not been looked at.
    first: VecDeque<ProcessId>,
    /// When each is looked at again, the next first.
    due: VecDeque<(Instant, ProcessId)>,
    /// Before these, there are no first looks, and none again.
    first_at: Instant,
    again_at: Instant,
    kinds_left: Duration,
    caches: Option<Caches>,
}

impl Worker {
    fn run(mut self, orders: &Receiver<Order>) {
        loop {
            let now = Instant::now();
            let wait = self.next().map(|at| at.saturating_duration_since(now));
            let order = match wait {
                Some(wait) => orders.recv_timeout(wait),
                None => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match order {
                Ok(Order::Finish) => return self.last_looks(),
                Ok(order) => self.obey(order),
                Err(RecvTimeoutError::Timeout) => self.look_once(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Begin(process, watched) => {
                if let Some(caches) = &mut self.caches {
                    caches.begin(process, watched.pid);
                }
                self.watched.insert(process, watched);
                self.first.push_back(process);
            }
            Order::End(process) => {
                if let Some(caches) = &mut self.caches {
                    caches.end(process);
                }
                self.watched.remove(&process);
                if let Some(history) = lock(&self.accounts).histories.get_mut(&process) {
                    history.ended();
                }
            }
            Order::Forget(processes) => {
                if let Some(caches) = &mut self.caches {
                    caches.forget(&processes);
                }
                let mut accounts = lock(&self.accounts);
                for process in processes {
                    accounts.histories.remove(&process);
                }
            }
            Order::Finish => {}
        }
    }

    /// When there is something to look at; `None` until somebody says so.
    fn next(&self) -> Option<Instant> {
        let first = (!self.first.is_empty()).then_some(self.first_at);
        let again = self.due.front().map(|(due, _)| self.again_at.max(*due));
        first.into_iter().chain(again).min()
    }

    fn look_once(&mut self) {
        let now = Instant::now();
        if now >= self.first_at
            && let Some(process) = self.first.pop_front()
        {
            let took = self.look(process);
            let pause = took.mul_f64(1.0 / FIRST_SHARE);
            // What was not used for a while may be used at once.
            let since = self.first_at.max(now.checked_sub(ALLOWANCE).unwrap_or(now));
            self.first_at = since + pause;
            self.look_at_kinds(process);
            return;
        }
        if now >= self.again_at
            && let Some((_, process)) = self.due.pop_front_if(|(due, _)| *due <= now)
        {
            let took = self.look(process);
            self.again_at = now + took.mul_f64(1.0 / SHARE);
        }
    }

    /// Looks at a process, and lets it be looked at again; returns how long that took.
    fn look(&mut self, process: ProcessId) -> Duration {
        let Some(&watched) = self.watched.get(&process) else {
            return Duration::ZERO;
        };
        let start = Instant::now();
        // Not by the clock: what others do meanwhile is no cost of this.
        let before = clock::thread_cpu();
        let look = self.look_at(watched);
        let cpu_ns = look.is_some().then(|| sizes::cpu_ns(watched.pid)).flatten();
        let took = clock::thread_cpu().saturating_sub(before);
        let count = self.watched.len();
        let mut accounts = lock(&self.accounts);
        accounts.reading += took;
        if let Some(look) = look {
            let most = (ALL_SAMPLES / count.max(1)).clamp(FEW_SAMPLES, MOST_SAMPLES);
            let history = accounts.histories.entry(process);
            let history = history
                .and_modify(|history| history.add(look.clone(), most))
                .or_insert_with(|| Box::new(History::new(look)));
            if history.cpu_ns[0].is_none() {
                history.cpu_ns[0] = cpu_ns;
            }
            history.cpu_ns[1] = cpu_ns.or(history.cpu_ns[1]);
        }
        drop(accounts);
        if !self.interval.is_zero() {
            self.due.push_back((start + self.interval, process));
        }
        took
    }

    /// What a process has now; `None` where it has ended, or replaced its program meanwhile.
    fn look_at(&self, watched: Watched) -> Option<Look> {
        let entry = || {
            let entry = self.table.read(watched.slot as usize)?;
            (entry.state == SLOT_LIVE && entry.pid == watched.pid).then_some(entry)
        };
        let before = entry()?;
        let at_ns = clock::monotonic_ns();
        let sizes = sizes::read(watched.pid).ok()?;
        let after = entry()?;
        (before.execs == after.execs).then(|| Look {
            at_ns,
            sizes,
            counted: Counted::of(&after.counters, after.execs),
        })
    }

    /// Looks at the mappings of a process by kind, while there is time for that.
    fn look_at_kinds(&mut self, process: ProcessId) {
        self.kinds(process, 0);
    }

    fn kinds(&mut self, process: ProcessId, moment: usize) {
        let Some(&watched) = self.watched.get(&process) else {
            return;
        };
        if self.kinds_left.is_zero() {
            return;
        }
        let start = Instant::now();
        let kinds = sizes::by_kind(watched.pid).unwrap_or_default();
        let took = start.elapsed();
        self.kinds_left = self.kinds_left.saturating_sub(took);
        let mut accounts = lock(&self.accounts);
        accounts.reading += took;
        if let Some(history) = accounts.histories.get_mut(&process) {
            history.mappings[moment] = kinds;
        }
    }

    /// Looks at all that live, for the last time.
    fn last_looks(&mut self) {
        let start = Instant::now();
        if let Some(caches) = self.caches.take() {
            let (found, why) = caches.finish();
            let mut accounts = lock(&self.accounts);
            (accounts.caches, accounts.no_caches) = (found, why);
        }
        let mut all: Vec<ProcessId> = self.watched.keys().copied().collect();
        all.sort_unstable();
        self.interval = Duration::ZERO;
        for &process in &all {
            if start.elapsed() > LAST {
                debug!("not all processes were looked at when the trace ended");
                break;
            }
            self.look(process);
        }
        self.kinds_left = KINDS;
        for process in all {
            self.kinds(process, 1);
        }
        debug!(
            "looked at memory for the last time in {:?}",
            start.elapsed()
        );
    }
}

#[cfg(test)]
mod tests {
    use memtrace_common::process::Counters;

    use super::*;

    /// A table with this process in a slot.
    fn table(slot: u32) -> SharedArray<ProcessSlot> {
        let table: SharedArray<ProcessSlot> = SharedArray::in_memory(64).unwrap();
        let mut process = table.read(slot as usize).unwrap();
        process.state = SLOT_LIVE;
        process.pid = std::process::id();
        process.counters = Counters::ZERO;
        table.set(slot, &process);
        table
    }

    fn waited(accountant: &Accountant, until: impl Fn(&Accounts) -> bool) -> Accounts {
        let start = Instant::now();
        loop {
            let accounts = accountant.accounts();
            if until(&accounts) {
                return accounts;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "{accounts:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_process_is_looked_at_first_again_and_last() {
        let accountant = Accountant::start(table(3), Duration::from_millis(10), false).unwrap();
        accountant.begins(7, 3, std::process::id());
        let looks = |accounts: &Accounts| {
            let history = accounts.histories.get(&7);
            history.map_or(0, |history| history.looks().count())
        };
        let seen = waited(&accountant, |accounts| looks(accounts) > 2);
        let accounts = accountant.into_accounts();
        assert!(looks(&accounts) > looks(&seen));
        let history = &accounts.histories[&7];
        assert!(history.first.sizes.shown.rss > Some(0));
        assert!(!history.mappings[0].is_empty() && !history.mappings[1].is_empty());
        assert!(accounts.reading > Duration::ZERO);
    }

    #[test]
    fn without_an_interval_there_are_two_looks() {
        let accountant = Accountant::start(table(3), Duration::ZERO, true).unwrap();
        accountant.begins(7, 3, std::process::id());
        waited(&accountant, |accounts| accounts.histories.contains_key(&7));
        std::thread::sleep(Duration::from_millis(50));
        let accounts = accountant.into_accounts();
        assert_eq!(accounts.histories[&7].looks().count(), 2);
    }

    #[test]
    fn what_has_ended_or_is_another_process_is_not_looked_at() {
        let accountant = Accountant::start(table(3), Duration::from_millis(5), false).unwrap();
        accountant.begins(7, 3, 1);
        accountant.begins(8, 4, std::process::id());
        accountant.begins(9, 3, std::process::id());
        waited(&accountant, |accounts| accounts.histories.contains_key(&9));
        accountant.ended(9);
        accountant.forget(&[9]);
        waited(&accountant, |accounts| accounts.histories.is_empty());
        assert!(accountant.into_accounts().histories.is_empty());
    }
}
