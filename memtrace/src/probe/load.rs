//! Fits the BPF object to the running kernel: its globals are set to the kernel's own offsets, from
//! BTF, and to the trace's switches.

use anyhow::Result;
use aya::{Btf, Ebpf, EbpfLoader};
use memtrace_common::config;
use memtrace_common::interpreter::Kind;
use memtrace_common::process::MAX_PROCESSES;

use super::Settings;
use super::btf::KernelTypes;
use crate::options::{Python, Unwind};

/// The object built by `cargo xtask ebpf`, aligned as its parser needs it.
static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/memtrace.bpf.o"));

/// Bytes of the ring buffer: 233,016 copies, which even a storm on all of a small machine's CPUs
/// takes a third of a second to make. Twice that is mapped into memtrace's memory.
const RING_BYTES: u32 = 16 << 20;

/// Fault records on one CPU after which memtrace is woken; it also looks by itself now and then.
const WAKEUP_RECORDS: u32 = 1024;

/// Sets offsets and switches, then loads the object.
///
/// # Errors
/// When the kernel lacks a type, or refuses the object's maps.
pub fn load(kernel: &KernelTypes, settings: Settings, btf: &Btf) -> Result<Ebpf> {
    let task = |members: &[&str]| kernel.offset("task_struct", members);
    let (resident, step) = resident_counters(kernel).unwrap_or((0, 0));
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
        (
            config::MM_HUGETLB_USAGE,
            // Not there in a kernel without hugetlb pages.
            kernel.offset("mm_struct", &["hugetlb_usage"]).unwrap_or(0),
        ),
        (config::TASK_SIGNAL, task(&["signal"])?),
        (
            config::TASK_RUNTIME,
            task(&["se"])? + kernel.offset("sched_entity", &["sum_exec_runtime"])?,
        ),
        (
            config::SIGNAL_RUNTIME,
            kernel.offset("signal_struct", &["sum_sched_runtime"])?,
        ),
        (config::MM_RESIDENT, resident),
        (config::MM_RESIDENT_STEP, step),
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
    // Since 6.16 the end of a process is announced before its memory goes, with one argument more.
    let ends = kernel.tracepoint_arguments("sched_process_exit");
    let samples_pages = u8::from(settings.unchanged && ends >= Some(2));
    let log_level = settings.log.map_or(0, |level| level as u8);
    let mut loader = EbpfLoader::new();
    loader
        .btf(Some(btf))
        .map_max_entries("EVENTS", RING_BYTES)
        .map_max_entries("ROWS", settings.rows)
        .map_max_entries(
            "SAMPLES",
            if samples_pages == 0 { 1 } else { MAX_PROCESSES },
        )
        .override_global(config::HAS_LOOP, &has_loop, true)
        .override_global(config::SAMPLES_PAGES, &samples_pages, true)
        .override_global(config::FOLLOW, &follow, true)
        .override_global(config::UNWIND, &unwind, true)
        .override_global(config::INTERPRETERS, &interpreters, true)
        .override_global(aya_log::LEVEL, &log_level, true);
    for (name, value) in &offsets {
        loader.override_global(name, value, true);
    }
    Ok(loader.load(OBJECT)?)
}

/// Where the first of the kernel's counters of resident pages is in `mm_struct`, and how far the next
/// one is; `None` where they are not counters by CPU.
fn resident_counters(kernel: &KernelTypes) -> Option<(u32, u32)> {
    let first = kernel.offset("mm_struct", &["rss_stat"]).ok()?;
    // Before that, `rss_stat` is a structure of its own.
    if kernel.size("mm_rss_stat").is_some() {
        return None;
    }
    let count = kernel.offset("percpu_counter", &["count"]).ok()?;
    Some((first + count, kernel.size("percpu_counter")?))
}
