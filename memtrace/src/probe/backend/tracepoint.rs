//! Copies seen by raw tracepoints and software events, which need no kprobes and work under
//! lockdown.

use anyhow::{Context as _, Result, ensure};
use aya::programs::PerfEvent;
use aya::programs::perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent};
use aya::util::online_cpus;
use aya::{Btf, Ebpf};
use log::info;

use super::{Backend, Sees};
use crate::preflight::{Facts, Problem, problem};
use crate::probe::btf::KernelTypes;
use crate::probe::programs::{attach_tracepoints, load_tracepoints, program, timed};
use crate::profile::BackendName;

/// The oldest kernel that this works on.
const OLDEST_KERNEL: (u32, u32) = (6, 6);

/// Tracepoints, each with the program of the same name.
const TRACEPOINTS: [&str; 5] = [
    "rss_stat",
    "mm_page_free",
    "mm_page_alloc",
    "page_fault_kernel",
    "page_fault_user",
];

/// The program that is called when a fault ends.
const FAULT_END: &str = "fault_end";

/// Ends of faults are software events, one for minor and one for major faults.
const FAULT_ENDS: [SoftwareEvent; 2] = [SoftwareEvent::PageFaultsMin, SoftwareEvent::PageFaultsMaj];

/// The allocation flags and counters that are compiled into the programs. Kernels before 6.9 have
/// the flags as macros, with these values.
const KNOWN_VALUES: [(&str, u32); 8] = [
    ("MM_FILEPAGES", 0),
    ("MM_ANONPAGES", 1),
    ("MM_SWAPENTS", 2),
    ("MM_SHMEMPAGES", 3),
    ("___GFP_MOVABLE_BIT", 3),
    ("___GFP_ZERO_BIT", 8),
    ("___GFP_DIRECT_RECLAIM_BIT", 10),
    ("___GFP_NORETRY_BIT", 16),
];

/// The backend.
pub struct Tracepoint;

impl Backend for Tracepoint {
    fn name(&self) -> BackendName {
        BackendName::Tracepoint
    }

    fn missing(&self, facts: &Facts) -> Vec<Problem> {
        let checks = [architecture(facts), kernel_version(facts)];
        checks.into_iter().flatten().collect()
    }

    fn sees(&self) -> Sees {
        Sees::default()
    }

    fn blind_spots(&self) -> &'static [&'static str] {
        &[
            "copies made by another process or without a fault of the process itself: ptrace, \
             /proc/PID/mem, process_vm_writev, O_DIRECT reads, io_uring's registered buffers",
            "copies of pages of a hugetlb pool: they look like reuse, and are counted there",
            "whether a shared page was one that KSM had merged: it is counted as origin fork",
            "what the kernel writes for a process's last thread while it ends",
        ]
    }

    fn check_kernel(&self, kernel: &KernelTypes) -> Result<()> {
        for (name, expected) in KNOWN_VALUES {
            let value = kernel.enumerator(name).unwrap_or(expected);
            ensure!(
                value == expected,
                "this kernel's {name} is {value} where memtrace knows {expected}: it would count \
                 wrongly, so this kernel needs a newer memtrace"
            );
        }
        Ok(())
    }

    fn attach(&self, ebpf: &mut Ebpf, btf: &Btf) -> Result<()> {
        load_tracepoints(ebpf, btf, &TRACEPOINTS)?;
        attach_fault_ends(ebpf)?;
        attach_tracepoints(ebpf, &TRACEPOINTS)
    }
}

fn architecture(facts: &Facts) -> Option<Problem> {
    (facts.arch != "x86_64").then(|| {
        problem(
            "this machine's architecture is not supported",
            format!("{}; needed: x86_64", facts.arch),
            "copies cannot be seen: only x86-64 kernels have the tracepoints of page faults",
            "run memtrace on an x86-64 machine",
        )
    })
}

fn kernel_version(facts: &Facts) -> Option<Problem> {
    let (major, minor) = OLDEST_KERNEL;
    // If the release cannot be parsed, loading the programs decides.
    let found = facts.kernel_version()?;
    (found < OLDEST_KERNEL).then(|| {
        problem(
            "this kernel is too old",
            format!("Linux {}; needed: {major}.{minor} or newer", facts.kernel),
            "copies of file pages cannot be told from others: older kernels batch the counters \
             that show it",
            format!("boot a kernel {major}.{minor} or newer"),
        )
    })
}

/// Attaches the program for ends of faults on every CPU.
fn attach_fault_ends(ebpf: &mut Ebpf) -> Result<()> {
    let cpus = online_cpus()
        .map_err(|(_, error)| error)
        .context("cannot list the CPUs")?;
    let program: &mut PerfEvent = program(ebpf, FAULT_END)?;
    timed(FAULT_END, || program.load())?;
    for event in FAULT_ENDS {
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
