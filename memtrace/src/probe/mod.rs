//! The BPF side, as the loader handles it: load, set, attach, find.

mod btf;
mod shared;

use std::io::Read as _;

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{HashMap, Map, MapData, RingBuf};
use aya::programs::perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent};
use aya::programs::{BtfTracePoint, Iter, PerfEvent, Program, ProgramError, ProgramType};
use aya::sys::{BpfHelper, is_helper_supported};
use aya::util::online_cpus;
use aya::{Btf, Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use log::{debug, info};
use memtrace_common::config;
use memtrace_common::interpreter::{Kind, MAX_INTERPRETERS, python};
use memtrace_common::process::{Health, MAX_PROCESSES, ProcessSlot};
use memtrace_common::unwind::{MAPPINGS_LEN, MAX_RULES, Mapping, Row, Rule};

use self::btf::KernelTypes;
pub use self::shared::SharedArray;
use crate::options::{Python, Unwind};

/// The object built by `cargo xtask ebpf`, aligned as its parser needs it.
static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/memtrace.bpf.o"));

/// Bytes of the ring buffer: 233,016 copies, which even a storm on all of a small machine's CPUs
/// takes a third of a second to make. Twice that is mapped into memtrace's memory.
const RING_BYTES: u32 = 16 << 20;

/// Fault records on one CPU after which memtrace is woken; it looks by itself now and then too.
const WAKEUP_RECORDS: u32 = 1024;

/// How often the search for processes is repeated while it still finds some.
const MAX_PASSES: usize = 1000;

/// Tracepoints, each with the program of the same name.
const TRACEPOINTS: [&str; 9] = [
    // First what a fault does, which is nothing while no process is traced; then who is traced.
    "rss_stat",
    "mm_page_free",
    "mm_page_alloc",
    "page_fault_kernel",
    "page_fault_user",
    "sched_process_free",
    "sched_process_exit",
    "sched_process_exec",
    "sched_process_fork",
];

/// How the BPF side is to work.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Whether the kernel has `bpf_loop`; see [`has_loop`].
    pub has_loop: bool,
    /// Whether descendants are traced too.
    pub follow: bool,
    /// How stacks are taken.
    pub unwind: Unwind,
    /// Rows of unwind tables that there is room for.
    pub rows: u32,
    /// Whether Python frames are taken.
    pub python: Python,
    /// What the BPF side logs; `None` is nothing.
    pub log: Option<log::Level>,
}

/// The loaded programs, attached until [`Probe::detach`] or the end of memtrace, however it ends.
pub struct Probe {
    /// `None` once detached.
    ebpf: Option<Ebpf>,
    found: SharedArray<u64>,
    tables: Tables,
    health: SharedArray<Health>,
}

/// The kernel side's tables, which the loader reads and fills in. A clone is the same tables.
#[derive(Clone)]
pub struct Tables {
    /// The traced processes.
    pub processes: SharedArray<ProcessSlot>,
    /// How each CPython is laid out, by the index in a process's handle.
    pub pythons: SharedArray<python::Layout>,
    /// Rows of the unwind tables of all files.
    pub rows: SharedArray<Row>,
    /// Rules that do not fit in a row.
    pub rules: SharedArray<Rule>,
    /// Sets of mappings.
    pub mappings: SharedArray<Mapping>,
}

impl Tables {
    /// Those of a loaded object, with room for `rows` rows.
    fn of(ebpf: &Ebpf, rows: u32) -> Result<Self> {
        Ok(Self {
            processes: array(ebpf, "PROCESSES", MAX_PROCESSES as usize)?,
            pythons: array(ebpf, "PYTHONS", MAX_INTERPRETERS as usize)?,
            rows: array(ebpf, "ROWS", rows as usize)?,
            rules: array(ebpf, "RULES", MAX_RULES as usize)?,
            mappings: array(ebpf, "MAPPINGS", MAPPINGS_LEN as usize)?,
        })
    }

    /// Tables that no BPF program knows of, for tests: all zero, with room for `rows` rows.
    #[cfg(test)]
    pub fn in_memory(rows: u32) -> Self {
        let room = "there is memory for the tables";
        Self {
            processes: SharedArray::in_memory(MAX_PROCESSES as usize).expect(room),
            pythons: SharedArray::in_memory(MAX_INTERPRETERS as usize).expect(room),
            rows: SharedArray::in_memory(rows as usize).expect(room),
            rules: SharedArray::in_memory(MAX_RULES as usize).expect(room),
            mappings: SharedArray::in_memory(MAPPINGS_LEN as usize).expect(room),
        }
    }
}

impl Probe {
    /// Loads the programs and attaches them. Nothing is traced until [`Probe::trace`].
    pub fn attach(settings: Settings) -> Result<Self> {
        let kernel = KernelTypes::of_running_kernel()?;
        check_kernel(&kernel)?;
        let btf = Btf::from_sys_fs().context("cannot read the kernel's BTF")?;
        let mut ebpf =
            load(&kernel, settings, &btf).context("cannot load memtrace's BPF object")?;
        drop(kernel);
        for name in TRACEPOINTS {
            let program: &mut BtfTracePoint = program(&mut ebpf, name)?;
            program
                .load(name, &btf)
                .map_err(|error| refused(name, error))?;
        }
        attach_fault_ends(&mut ebpf)?;
        for name in TRACEPOINTS {
            let program: &mut BtfTracePoint = program(&mut ebpf, name)?;
            program
                .attach()
                .with_context(|| format!("cannot attach `{name}`"))?;
        }
        let finder: &mut Iter = program(&mut ebpf, "find_processes")?;
        finder
            .load("task", &btf)
            .map_err(|error| refused("find_processes", error))?;
        drop(btf);
        give_memory_back();
        Ok(Self {
            found: array(&ebpf, "FOUND", 1)?,
            tables: Tables::of(&ebpf, settings.rows)?,
            health: array(&ebpf, "HEALTH", 1)?,
            ebpf: Some(ebpf),
        })
    }

    /// Traces `pids` from now on, and with [`Settings::follow`] their descendants, present and
    /// future. Returns how many processes were found.
    pub fn trace(&mut self, pids: &[u32]) -> Result<usize> {
        let map = self
            .ebpf()?
            .map_mut("ROOTS")
            .context("the BPF object has no map `ROOTS`")?;
        let mut roots: HashMap<_, u32, u32> = HashMap::try_from(map)?;
        for pid in pids {
            roots.insert(pid, 1, 0).context("too many pids")?;
        }
        let mut before = 0;
        for pass in 1..=MAX_PASSES {
            self.find()?;
            let now = self.found.read(0).unwrap_or(0);
            debug!(
                "pass {pass} over the system's threads: {} taken",
                now - before
            );
            if now == before {
                return Ok((0..MAX_PROCESSES)
                    .filter(|&slot| self.tables.processes.is_used(slot))
                    .count());
            }
            before = now;
        }
        bail!("processes are forked faster than they can be found")
    }

    /// One pass of the kernel over all threads.
    fn find(&mut self) -> Result<()> {
        let finder: &mut Iter = program(self.ebpf()?, "find_processes")?;
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
            .ebpf()?
            .take_map("EVENTS")
            .context("the BPF object has no map `EVENTS`")?;
        Ok(RingBuf::try_from(map)?)
    }

    /// The kernel side's tables.
    #[must_use]
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// What went wrong on the BPF side.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health.read(0).unwrap_or_default()
    }

    /// A reader of what the programs log, for [`Settings::log`].
    pub fn logger(&mut self) -> Result<EbpfLogger<&'static dyn log::Log>> {
        EbpfLogger::init(self.ebpf()?).context("cannot read the BPF side's log")
    }

    /// Detaches the programs. What they have written can still be read.
    pub fn detach(&mut self) {
        self.ebpf = None;
    }

    fn ebpf(&mut self) -> Result<&mut Ebpf> {
        self.ebpf.as_mut().context("the BPF programs are detached")
    }
}

/// Set in the environment: do as on a kernel without `bpf_loop`. For memtrace's own tests, which have
/// no such kernel.
const WITHOUT_LOOP: &str = "MEMTRACE_TEST_WITHOUT_BPF_LOOP";

/// Whether the kernel has the helper `bpf_loop` (Linux 5.17), which unwinding by tables and taking
/// Python frames need.
#[must_use]
pub fn has_loop() -> bool {
    // Where the question cannot be answered, loading the programs will answer it.
    std::env::var_os(WITHOUT_LOOP).is_none()
        && is_helper_supported(ProgramType::PerfEvent, BpfHelper::BPF_FUNC_loop).unwrap_or(true)
}

/// The kernel's types took tens of megabytes, which are not needed while tracing.
fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the allocator may be asked at any time; it only returns what nobody uses.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The allocation flags and counters that the programs rely on must be this kernel's own.
fn check_kernel(kernel: &KernelTypes) -> Result<()> {
    for (name, expected) in [
        ("MM_FILEPAGES", 0),
        ("MM_ANONPAGES", 1),
        ("MM_SWAPENTS", 2),
        ("MM_SHMEMPAGES", 3),
        ("___GFP_MOVABLE_BIT", 3),
        ("___GFP_ZERO_BIT", 8),
        ("___GFP_DIRECT_RECLAIM_BIT", 10),
        ("___GFP_NORETRY_BIT", 16),
    ] {
        // Kernels before 6.9 have the flags as macros, with these values.
        let value = kernel.enumerator(name).unwrap_or(expected);
        ensure!(
            value == expected,
            "this kernel's {name} is {value} where memtrace knows {expected}: it would count \
             wrongly, so this kernel needs a newer memtrace"
        );
    }
    Ok(())
}

fn load(kernel: &KernelTypes, settings: Settings, btf: &Btf) -> Result<Ebpf> {
    let task = |members: &[&str]| kernel.offset("task_struct", members);
    let offsets = [
        (config::TASK_TGID, task(&["tgid"])?),
        (config::TASK_FLAGS, task(&["flags"])?),
        (config::TASK_MM, task(&["mm"])?),
        (config::TASK_COMM, task(&["comm"])?),
        (config::TASK_MIN_FLT, task(&["min_flt"])?),
        (config::TASK_MAJ_FLT, task(&["maj_flt"])?),
        (config::TASK_REAL_PARENT, task(&["real_parent"])?),
        (config::TASK_GROUP_LEADER, task(&["group_leader"])?),
        (
            config::TASK_START_BOOTTIME,
            task(&["start_boottime", "real_start_time"])?,
        ),
        (
            config::TASK_THREAD_POINTER,
            task(&["thread"])? + kernel.offset("thread_struct", &["fsbase"])?,
        ),
        (config::REGS_SP, kernel.offset("pt_regs", &["sp"])?),
        (config::REGS_OTHER, kernel.offset("pt_regs", &["bx"])?),
        (config::REGS_IP, kernel.offset("pt_regs", &["ip"])?),
        (config::REGS_FP, kernel.offset("pt_regs", &["bp"])?),
        (config::WAKEUP_RECORDS, WAKEUP_RECORDS),
    ];
    let follow = u8::from(settings.follow);
    let unwind = match settings.unwind {
        Unwind::Auto => config::UNWIND_AUTO,
        Unwind::Dwarf => config::UNWIND_DWARF,
        Unwind::FramePointers => config::UNWIND_FP,
        Unwind::Off => config::UNWIND_OFF,
    };
    let interpreters = u8::from(settings.python == Python::Auto) * Kind::Python.bit();
    let has_loop = u8::from(settings.has_loop);
    let log_level = settings.log.map_or(0, |level| level as u8);
    let mut loader = EbpfLoader::new();
    loader
        .btf(Some(btf))
        .map_max_entries("EVENTS", RING_BYTES)
        .map_max_entries("ROWS", settings.rows)
        .override_global(config::HAS_LOOP, &has_loop, true)
        .override_global(config::FOLLOW, &follow, true)
        .override_global(config::UNWIND, &unwind, true)
        .override_global(config::INTERPRETERS, &interpreters, true)
        .override_global(aya_log::LEVEL, &log_level, true);
    for (name, value) in &offsets {
        loader.override_global(name, value, true);
    }
    Ok(loader.load(OBJECT)?)
}

/// The program that is called when a fault ends.
const FAULT_END: &str = "fault_end";

/// Ends of faults are software events, one for minor and one for major ones, opened on every CPU.
fn attach_fault_ends(ebpf: &mut Ebpf) -> Result<()> {
    let cpus = online_cpus()
        .map_err(|(_, error)| error)
        .context("cannot list the CPUs")?;
    let program: &mut PerfEvent = program(ebpf, FAULT_END)?;
    program.load().map_err(|error| refused(FAULT_END, error))?;
    for event in [SoftwareEvent::PageFaultsMin, SoftwareEvent::PageFaultsMaj] {
        for &cpu in &cpus {
            program
                .attach(
                    PerfEventConfig::Software(event),
                    PerfEventScope::AllProcessesOneCpu { cpu },
                    SamplePolicy::Period(1),
                    false,
                )
                .with_context(|| format!("cannot attach `{FAULT_END}` on CPU {cpu}"))?;
        }
    }
    info!("attached to {} CPUs", cpus.len());
    Ok(())
}

/// The kernel does not take a program. Its verifier's reasons are for developers.
fn refused(name: &str, error: ProgramError) -> anyhow::Error {
    let error = match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => {
            debug!("the verifier on `{name}`: {verifier_log}");
            anyhow::Error::new(io_error)
        }
        other => other.into(),
    };
    error.context(format!("the kernel refuses the BPF program `{name}`"))
}

fn program<'a, T>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut T>
where
    &'a mut T: TryFrom<&'a mut Program, Error: std::error::Error + Send + Sync + 'static>,
{
    let program = ebpf.program_mut(name);
    Ok(program
        .with_context(|| format!("the BPF object has no program `{name}`"))?
        .try_into()?)
}

fn array<T: shared::Shared>(ebpf: &Ebpf, name: &str, len: usize) -> Result<SharedArray<T>> {
    match ebpf.map(name) {
        Some(Map::Array(map)) => SharedArray::new(map, len),
        _ => bail!("the BPF object has no array `{name}`"),
    }
}
