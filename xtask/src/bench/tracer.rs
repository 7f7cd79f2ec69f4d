//! Who traces, and what that costs the tracer.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufReader;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::answer;
use crate::{host, tools};

/// Where py-spy writes, in the scratch folder.
const PY_SPY_FILE: &str = "py-spy.folded";

/// What py-spy says when it has begun.
const PY_SPY_READY: &str = "Sampling process";

/// How long a tracer may take to attach, and to end.
const PATIENCE: Duration = Duration::from_mins(1);

/// Attached is who holds the same number of kernel hooks for this long.
const SETTLED: Duration = Duration::from_millis(400);

const TRACEFS: &str = "/sys/kernel/tracing";

/// A tracer that is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracer {
    /// memtrace, with `--unwind` so.
    Memtrace(&'static str),
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
            Self::Perf => "perf record -c1 -g -e page-faults".into(),
            Self::PerfDwarf => "perf record -c1 --call-graph dwarf -e page-faults".into(),
            Self::Bpftrace => "bpftrace page_fault_user [ustack]".into(),
            Self::PySpy => "py-spy record --native --subprocesses".into(),
        }
    }

    /// Why it cannot be measured here, if so.
    pub fn missing(self) -> Option<String> {
        let program = match self {
            Self::Memtrace(_) => return None,
            Self::Perf | Self::PerfDwarf => "perf",
            Self::Bpftrace => "bpftrace",
            Self::PySpy if tools::program("py-spy").is_some() => return None,
            Self::PySpy => return Some(format!("py-spy is not installed; {}", tools::REMEDY)),
        };
        host::find_program(program)
            .is_none()
            .then(|| format!("{program} is not installed"))
    }

    /// Starts it on process `pid`, all of whose processes are called `comm`, and waits until it is
    /// attached. Files go to `scratch`.
    pub fn attach(self, memtrace: &Path, pid: u32, comm: &str, scratch: &Path) -> Result<Running> {
        let out = scratch.join("tracer.out");
        let err = scratch.join("tracer.err");
        let mut command = self.command(memtrace, pid, comm, scratch);
        let child = command
            .stdin(Stdio::null())
            .stdout(File::create(&out)?)
            .stderr(File::create(&err)?)
            .spawn()
            .with_context(|| format!("cannot run `{}`", host::show(&command)))?;
        let watch = Watch::start(child.id());
        let mut running = Running {
            tracer: self,
            child,
            reaped: false,
            watch,
            out,
            err,
        };
        running.wait_until_attached()?;
        Ok(running)
    }

    fn command(self, memtrace: &Path, pid: u32, comm: &str, scratch: &Path) -> Command {
        match self {
            Self::Memtrace(unwind) => {
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

/// A tracer at work.
pub struct Running {
    tracer: Tracer,
    child: Child,
    /// Waited for: its number may be another process's by now.
    reaped: bool,
    watch: Watch,
    out: PathBuf,
    err: PathBuf,
}

/// What a tracer saw and what it took.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Copied pages, or faults, where the tracer says how many.
    pub seen: Option<u64>,
    /// Those lost, where the tracer says how many.
    pub lost: Option<u64>,
    /// Of all copies, those whose stack leads to the program's start, where the tracer says so.
    pub whole_share: Option<f64>,
    /// What it says of the place where most of it happened, in a few words.
    pub answer: Option<String>,
    /// User and system time of its own.
    pub cpu: Duration,
    /// Peak of its resident memory, in bytes.
    pub peak_rss: u64,
    /// Peak of its anonymous memory, in bytes.
    pub peak_anonymous: u64,
    /// From Ctrl-C to its exit: the report is complete.
    pub stop: Duration,
}

impl Running {
    /// The tracer's pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ctrl-C; waits for the report.
    pub fn finish(mut self) -> Result<Finished> {
        let begin = Instant::now();
        // SAFETY: sends a signal to a child of ours that was not waited for, so the number still
        // is its.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGINT) };
        let Some((status, usage)) = self.reap(begin + PATIENCE)? else {
            bail!(
                "{} did not end within {PATIENCE:?} of Ctrl-C",
                self.tracer.name()
            );
        };
        let stop = begin.elapsed();
        let (peak_rss, peak_anonymous) = self.watch.peaks();
        let interrupted = status.signal() == Some(libc::SIGINT);
        // perf ends itself by the signal that it was sent, once its file is complete.
        let is_perf = matches!(self.tracer, Tracer::Perf | Tracer::PerfDwarf);
        let ended_well = status.success() || (interrupted && is_perf);
        if !ended_well {
            bail!(
                "{} failed, {status}: {}",
                self.tracer.name(),
                self.complaint()
            );
        }
        let (seen, lost) = self.result()?;
        Ok(Finished {
            seen,
            lost,
            whole_share: self.whole_share(),
            answer: self.answer(),
            cpu: duration(usage.ru_utime) + duration(usage.ru_stime),
            peak_rss,
            peak_anonymous,
            stop,
        })
    }

    /// Waits until the tracer holds its hooks: file descriptors of BPF links and perf events.
    fn wait_until_attached(&mut self) -> Result<()> {
        let begin = Instant::now();
        let mut last = (0, Instant::now());
        loop {
            if let Some((status, _)) = self.reap(Instant::now())? {
                bail!(
                    "{} does not work here, {status}: {}",
                    self.tracer.name(),
                    self.complaint()
                );
            }
            let hooks = hooks(self.child.id());
            if hooks != last.0 {
                last = (hooks, Instant::now());
            }
            // py-spy has no hooks: it stops the process and looks.
            let samples = self.tracer == Tracer::PySpy
                && fs::read_to_string(&self.out).is_ok_and(|text| text.contains(PY_SPY_READY));
            if (hooks > 0 || samples) && last.1.elapsed() >= SETTLED {
                return Ok(());
            }
            if begin.elapsed() > PATIENCE {
                bail!("{} did not attach within {PATIENCE:?}", self.tracer.name());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What it used, once it has exited; `None` when it has not by `deadline`.
    fn reap(&mut self, deadline: Instant) -> Result<Option<(ExitStatus, libc::rusage)>> {
        let pid = self.child.id() as libc::pid_t;
        loop {
            let mut status = 0;
            // SAFETY: an all-zero rusage is a valid value of that C struct of integers.
            let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
            // SAFETY: both pointers are to locals of the types that wait4 fills.
            let got = unsafe { libc::wait4(pid, &raw mut status, libc::WNOHANG, &raw mut usage) };
            match got {
                0 if Instant::now() >= deadline => return Ok(None),
                0 => thread::sleep(Duration::from_millis(1)),
                -1 => bail!(
                    "cannot wait for the tracer: {}",
                    std::io::Error::last_os_error()
                ),
                _ => {
                    self.reaped = true;
                    return Ok(Some((ExitStatus::from_raw(status), usage)));
                }
            }
        }
    }

    /// The last line that the tracer wrote on standard error.
    fn complaint(&self) -> String {
        let text = fs::read_to_string(&self.err).unwrap_or_default();
        let line = text.lines().rfind(|line| !line.trim().is_empty());
        line.unwrap_or("it did not say why").trim().to_owned()
    }

    /// What it saw and what it lost.
    fn result(&self) -> Result<(Option<u64>, Option<u64>)> {
        match self.tracer {
            Tracer::Memtrace(_) => {
                let report = BufReader::new(File::open(&self.out)?);
                let totals = serde_json::from_reader::<_, Report>(report)
                    .context("memtrace's report is not as expected")?
                    .totals;
                let lost = totals.lost.values().sum();
                Ok((Some(totals.copied_pages), Some(lost)))
            }
            Tracer::Perf | Tracer::PerfDwarf => {
                let text = fs::read_to_string(&self.err)?;
                Ok((number_before(&text, "samples)"), Some(perf_lost(&text))))
            }
            // bpftrace does not say how many stacks its map had no place for.
            Tracer::Bpftrace => {
                let text = fs::read_to_string(&self.out)?;
                Ok((Some(bpftrace_counts(&text)), None))
            }
            Tracer::PySpy => {
                let text = fs::read_to_string(self.py_spy_file())?;
                Ok((Some(answer::folded_samples(&text)), None))
            }
        }
    }

    fn whole_share(&self) -> Option<f64> {
        let Tracer::Memtrace(_) = self.tracer else {
            return None;
        };
        answer::whole_share(BufReader::new(File::open(&self.out).ok()?))
    }

    fn answer(&self) -> Option<String> {
        match self.tracer {
            Tracer::Memtrace(_) => answer::memtrace(BufReader::new(File::open(&self.out).ok()?)),
            Tracer::Perf | Tracer::PerfDwarf => None,
            Tracer::Bpftrace => answer::bpftrace(&fs::read_to_string(&self.out).ok()?),
            Tracer::PySpy => answer::folded(&fs::read_to_string(self.py_spy_file()).ok()?),
        }
    }

    fn py_spy_file(&self) -> PathBuf {
        self.out.with_file_name(PY_SPY_FILE)
    }
}

impl Drop for Running {
    /// A tracer that was not finished is ended.
    fn drop(&mut self) {
        if !self.reaped {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// What is read of memtrace's report. Only this: a report may be large, and a process that is
/// forked off a large one counts that as its own peak.
#[derive(Deserialize)]
struct Report {
    totals: Totals,
}

#[derive(Deserialize)]
struct Totals {
    copied_pages: u64,
    /// By what was lost: anything is a loss.
    lost: BTreeMap<String, u64>,
}

/// The sum of a printed map's counts: each entry ends with `]: count`.
fn bpftrace_counts(text: &str) -> u64 {
    let counts = text
        .lines()
        .filter_map(|line| line.rsplit_once("]: ")?.1.parse::<u64>().ok());
    counts.sum()
}

/// The number in front of `word`: "(400123 samples)".
fn number_before(text: &str, word: &str) -> Option<u64> {
    let before = text
        .split(word)
        .next()
        .filter(|before| before.len() < text.len())?;
    let number = before
        .trim_end()
        .rsplit(|c: char| !c.is_ascii_digit())
        .next()?;
    number.parse().ok()
}

/// Samples that perf says it lost: "Processed 9 events and lost 3 chunks!", "lost 3 samples".
fn perf_lost(text: &str) -> u64 {
    text.split("lost ")
        .skip(1)
        .filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok())
        .sum()
}

/// How many kernel hooks process `pid` holds.
fn hooks(pid: u32) -> usize {
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return 0;
    };
    let is_hook = |target: PathBuf| {
        let target = target.to_string_lossy();
        ["bpf_link", "bpf-link", "[perf_event]"]
            .iter()
            .any(|kind| target.contains(kind))
    };
    files
        .flatten()
        .filter_map(|file| fs::read_link(file.path()).ok())
        .filter(|target| is_hook(target.clone()))
        .count()
}

fn duration(time: libc::timeval) -> Duration {
    Duration::from_secs(time.tv_sec.max(0) as u64)
        + Duration::from_micros(time.tv_usec.max(0) as u64)
}

/// Watches the memory of a process.
struct Watch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    rss: AtomicU64,
    anonymous: AtomicU64,
}

impl Watch {
    fn start(pid: u32) -> Self {
        let shared = Arc::new(Shared::default());
        let seen = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            while !seen.stop.load(Ordering::Relaxed) {
                let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                // VmHWM is the kernel's own peak, of this program alone: that of wait4 includes
                // us, as we were when we forked. Of anonymous memory the kernel keeps no peak.
                seen.rss
                    .fetch_max(status_bytes(&status, "VmHWM:"), Ordering::Relaxed);
                seen.anonymous
                    .fetch_max(status_bytes(&status, "RssAnon:"), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(5));
            }
        });
        Self {
            shared,
            thread: Some(thread),
        }
    }

    /// Peaks of resident and of anonymous memory, in bytes.
    fn peaks(&mut self) -> (u64, u64) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        (
            self.shared.rss.load(Ordering::Relaxed),
            self.shared.anonymous.load(Ordering::Relaxed),
        )
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.peaks();
    }
}

/// The number of bytes that /proc/PID/status gives for `field`, or 0.
fn status_bytes(status: &str, field: &str) -> u64 {
    let line = status.lines().find(|line| line.starts_with(field));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perfs_words_are_understood() {
        let text = "[ perf record: Captured and wrote 61.6 MB /tmp/perf.data (400123 samples) ]\n";
        assert_eq!(number_before(text, "samples)"), Some(400_123));
        assert_eq!(perf_lost(text), 0);
        assert_eq!(number_before("nothing", "samples)"), None);
        assert_eq!(perf_lost("Processed 900 events and lost 31 chunks!\n"), 31);
    }

    #[test]
    fn bpftraces_map_is_summed() {
        let text = "Attaching 1 probe...\n\n@[\n    a+1\n    b+2\n]: 12\n@[\n]: 30\n";
        assert_eq!(bpftrace_counts(text), 42);
    }

    #[test]
    fn sizes_of_the_status_file_are_kib() {
        assert_eq!(
            status_bytes("Name:\tx\nRssAnon:\t    1024 kB\n", "RssAnon:"),
            1 << 20
        );
        assert_eq!(status_bytes("Name:\tx\n", "RssAnon:"), 0);
    }
}
