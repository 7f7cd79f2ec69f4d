//! Whoever traces: how each is called and started. [`running`] watches one at work, [`said`] reads
//! what it has seen.

mod running;
pub mod said;
pub mod watch;

use std::path::Path;
use std::process::Command;

use anyhow::Result;

pub use self::running::{Finished, OUTPUT, Running};
use crate::{host, tools};

/// Where py-spy writes, in the scratch folder.
const PY_SPY_FILE: &str = "py-spy.folded";

const TRACEFS: &str = "/sys/kernel/tracing";

/// A tracer that is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracer {
    /// memtrace, with `--unwind` so.
    Memtrace(&'static str),
    /// The same of another version, whose report may not be understood.
    OtherMemtrace(&'static str),
    /// Every fault with its stack, as a sample.
    Perf,
    /// Every fault with a copy of its stack, as a sample.
    PerfDwarf,
    /// Every fault counted by stack, in the kernel.
    Bpftrace,
    /// Where Python's time goes, sampled, with native frames.
    PySpy,
}

impl Tracer {
    /// What it is called in the table.
    pub fn name(self) -> String {
        match self {
            Self::Memtrace(unwind) => format!("memtrace --unwind {unwind}"),
            Self::OtherMemtrace(unwind) => format!("the other memtrace --unwind {unwind}"),
            Self::Perf => "perf record -c1 -g -e page-faults".into(),
            Self::PerfDwarf => "perf record -c1 --call-graph dwarf -e page-faults".into(),
            Self::Bpftrace => "bpftrace page_fault_user [ustack]".into(),
            Self::PySpy => "py-spy record --native --subprocesses".into(),
        }
    }

    /// Why it cannot be measured here, if so.
    pub fn missing(self) -> Option<String> {
        let (program, package) = match self {
            Self::Memtrace(_) | Self::OtherMemtrace(_) => return None,
            Self::Perf | Self::PerfDwarf => ("perf", "linux-perf"),
            Self::Bpftrace => ("bpftrace", "bpftrace"),
            Self::PySpy if tools::program("py-spy").is_some() => return None,
            Self::PySpy => return Some(format!("py-spy is not installed; {}", tools::REMEDY)),
        };
        host::find_program(program)
            .is_none()
            .then(|| format!("{program} is not installed (apt-get install {package})"))
    }

    /// Starts it on process `pid`, all of whose processes are called `comm`, and waits until it is
    /// attached. Files go to `scratch`.
    pub fn attach(self, memtrace: &Path, pid: u32, comm: &str, scratch: &Path) -> Result<Running> {
        Running::start(self, self.command(memtrace, pid, comm, scratch), scratch)
    }

    fn command(self, memtrace: &Path, pid: u32, comm: &str, scratch: &Path) -> Command {
        match self {
            Self::Memtrace(unwind) | Self::OtherMemtrace(unwind) => {
                let mut command = Command::new(memtrace);
                command.args([
                    "--pid",
                    &pid.to_string(),
                    "--unwind",
                    unwind,
                    "--format",
                    "json",
                ]);
                command
            }
            Self::Perf | Self::PerfDwarf => {
                let how = if self == Self::Perf { "fp" } else { "dwarf" };
                let mut command = Command::new("perf");
                command
                    .args([
                        "record",
                        "-c1",
                        "--call-graph",
                        how,
                        "-e",
                        "page-faults",
                        "-p",
                        &pid.to_string(),
                        "-o",
                    ])
                    .arg(scratch.join("perf.data"));
                command
            }
            Self::Bpftrace => {
                // A user who wants the forked processes too has no filter but the name.
                let script = format!(
                    "tracepoint:exceptions:page_fault_user /comm == \"{comm}\"/ \
                     {{ @[ustack] = count(); }}"
                );
                if Path::new(TRACEFS).join("events").is_dir() {
                    let mut command = Command::new("bpftrace");
                    command.args(["-e", &script]);
                    return command;
                }
                // Mounted for bpftrace alone: in a mount namespace that ends with it.
                let mount = format!("mount -t tracefs nodev {TRACEFS} && exec bpftrace -e \"$0\"");
                let mut command = Command::new("unshare");
                command.args(["--mount", "sh", "-c", &mount, &script]);
                command
            }
            Self::PySpy => {
                let program = tools::program("py-spy").unwrap_or_else(|| "py-spy".into());
                let mut command = Command::new(program);
                command
                    .args(["record", "--native", "--subprocesses", "--format", "raw"])
                    .args(["--pid", &pid.to_string(), "--output"])
                    .arg(scratch.join(PY_SPY_FILE));
                command
            }
        }
    }
}
