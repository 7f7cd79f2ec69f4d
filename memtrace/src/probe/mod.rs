//! The BPF side, as the loader handles it: load, set, attach, find.

pub mod backend;
mod btf;
mod load;
mod programs;
mod shared;
mod tables;

use std::io::Read as _;

use anyhow::{Context as _, Result, bail};
use aya::maps::{HashMap, MapData, RingBuf};
use aya::programs::Iter;
use aya::{Btf, Ebpf};
use aya_log::EbpfLogger;
use log::debug;
use memtrace_common::process::{Health, Search};

use self::backend::Backend;
pub use self::btf::KernelTypes;
use self::load::load;
use self::programs::{attach_tracepoints, load_tracepoints, program, timed};
pub use self::shared::SharedArray;
pub use self::tables::Tables;
use self::tables::array;
use crate::keeper::Kept;
use crate::options::{Python, Unwind};
use crate::signals;

/// How often the search for processes is repeated while it still finds some.
const MAX_PASSES: usize = 1000;

/// Tracepoints that say who is traced, whatever the backend. Each has a program of the same name.
const LINEAGE: [&str; 4] = [
    "sched_process_free",
    "sched_process_exit",
    "sched_process_exec",
    "sched_process_fork",
];

/// How the BPF side must work.
#[derive(Clone, Copy)]
pub struct Settings {
    /// How copies are seen.
    pub backend: &'static dyn Backend,
    /// Whether the kernel has the helper `bpf_loop`.
    pub has_loop: bool,
    /// Whether descendants are traced too.
    pub follow: bool,
    /// Whether copied pages are compared.
    pub unchanged: bool,
    /// How stacks are taken.
    pub unwind: Unwind,
    /// Rows of unwind tables that there is room for.
    pub rows: u32,
    /// Whether Python frames are taken.
    pub python: Python,
    /// What the BPF side logs; `None` is nothing.
    pub log: Option<log::Level>,
}

/// The loaded programs, attached as long as this is there or until the end of memtrace, however it
/// ends. What they have written can be read after that.
pub struct Probe {
    ebpf: Kept<Ebpf>,
    search: SharedArray<Search>,
    tables: Tables,
    health: SharedArray<Health>,
    /// What there was no room for when the search was over, as against [`Health`].
    refused: Refused,
}

/// What the search for processes came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Processes that are traced.
    pub processes: usize,
    /// Those of the named pids that are not.
    pub missing: Vec<u32>,
    /// Processes that there was no room for.
    pub refused: u64,
}

/// What there is no room for at the end of the search.
#[derive(Clone, Copy, Debug, Default)]
struct Refused {
    processes: u64,
    threads: u64,
    /// What [`Health`] said when the last pass began: whoever was lost until then was there for the
    /// pass, or has ended.
    before: Health,
}

/// Reads what went wrong on the BPF side.
#[derive(Clone)]
pub struct HealthReader {
    table: SharedArray<Health>,
    refused: Refused,
}

impl HealthReader {
    /// What has gone wrong until now.
    #[must_use]
    pub fn read(&self) -> Health {
        let health = self.table.read(0).unwrap_or_default();
        let Refused {
            processes,
            threads,
            before,
        } = self.refused;
        Health {
            processes_lost: health.processes_lost - before.processes_lost + processes,
            threads_lost: health.threads_lost - before.threads_lost + threads,
            ..health
        }
    }
}

impl Probe {
    /// Loads the programs and attaches them. Nothing is traced until [`Probe::trace`].
    pub fn attach(settings: Settings) -> Result<Self> {
        let kernel = KernelTypes::of_running_kernel()?;
        settings.backend.check_kernel(&kernel)?;
        let btf = Btf::from_sys_fs().context("cannot read the kernel's BTF")?;
        signals::check()?;
        let ebpf = load(&kernel, settings, &btf).context("cannot load memtrace's BPF object")?;
        let mut ebpf = Kept::new(ebpf);
        drop(kernel);
        // The backend's programs come first: they do nothing while no process is traced.
        settings.backend.attach(&mut ebpf, &btf)?;
        load_tracepoints(&mut ebpf, &btf, &LINEAGE)?;
        attach_tracepoints(&mut ebpf, &LINEAGE)?;
        let finder: &mut Iter = program(&mut ebpf, "find_processes")?;
        timed("find_processes", || finder.load("task", &btf))?;
        drop(btf);
        give_memory_back();
        Ok(Self {
            search: array(&ebpf, "SEARCH", 1)?,
            tables: Tables::of(&ebpf, settings.rows)?,
            health: array(&ebpf, "HEALTH", 1)?,
            refused: Refused::default(),
            ebpf,
        })
    }

    /// Traces `pids` from now on, and with [`Settings::follow`] their descendants, present and
    /// future.
    pub fn trace(&mut self, pids: &[u32]) -> Result<Found> {
        let map = self
            .ebpf
            .map_mut("ROOTS")
            .context("the BPF object has no map `ROOTS`")?;
        let mut roots: HashMap<_, u32, u32> = HashMap::try_from(map)?;
        for pid in pids {
            roots
                .insert(pid, 1, 0)
                .with_context(|| format!("cannot tell the BPF side of process {pid}"))?;
        }
        let mut before = Search::default();
        for pass in 1..=MAX_PASSES {
            signals::check()?;
            let health = self.health.read(0).unwrap_or_default();
            self.find()?;
            let now = self.search.read(0).unwrap_or_default();
            let taken = now.taken - before.taken;
            debug!("pass {pass} over the system's threads: {taken} taken");
            if taken == 0 {
                self.refused = Refused {
                    processes: now.processes_refused - before.processes_refused,
                    threads: now.threads_refused - before.threads_refused,
                    before: health,
                };
                return Ok(self.found(pids));
            }
            before = now;
        }
        bail!("processes are forked faster than they can be found")
    }

    fn found(&self, pids: &[u32]) -> Found {
        let traced = self.tables.processes.pids();
        let missing = pids.iter().filter(|pid| !traced.contains(pid));
        Found {
            processes: traced.len(),
            missing: missing.copied().collect(),
            refused: self.refused.processes,
        }
    }

    /// One pass of the kernel over all threads.
    fn find(&mut self) -> Result<()> {
        let finder: &mut Iter = program(&mut self.ebpf, "find_processes")?;
        let link = finder.attach().context("cannot attach `find_processes`")?;
        let mut file = finder.take_link(link)?.into_file()?;
        let mut nothing = Vec::new();
        file.read_to_end(&mut nothing)
            .context("cannot visit the system's threads")?;
        Ok(())
    }

    /// The records that the BPF side writes. Can be taken once.
    pub fn events(&mut self) -> Result<RingBuf<MapData>> {
        let map = self
            .ebpf
            .take_map("EVENTS")
            .context("the BPF object has no map `EVENTS`")?;
        Ok(RingBuf::try_from(map)?)
    }

    /// The kernel side's tables.
    #[must_use]
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Reads what went wrong on the BPF side, also after the programs are detached.
    #[must_use]
    pub fn health(&self) -> HealthReader {
        HealthReader {
            table: self.health.clone(),
            refused: self.refused,
        }
    }

    /// A reader of what the programs log, for [`Settings::log`].
    pub fn logger(&mut self) -> Result<EbpfLogger<&'static dyn log::Log>> {
        EbpfLogger::init(&mut self.ebpf).context("cannot read the BPF side's log")
    }
}

/// Returns freed memory: the kernel's types took tens of megabytes.
fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the allocator may be asked at any time; it only returns what nobody uses.
    unsafe {
        libc::malloc_trim(0);
    }
}
