//! A tracer at work: attached, then ended, and what that cost.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::said::{Files, Said};
use super::watch::Watch;
use super::{PY_SPY_FILE, Tracer};
use crate::host;

/// The file in the scratch folder that gets a tracer's standard output.
pub const OUTPUT: &str = "tracer.out";

/// How long attaching may last, and ending.
const PATIENCE: Duration = Duration::from_mins(1);

/// A tracer is attached once it has said so, or has held the same number of kernel hooks, for this
/// long.
const SETTLED: Duration = Duration::from_millis(400);

/// A tracer at work.
pub struct Running {
    tracer: Tracer,
    child: Child,
    /// Waited for: its number may be another process's by now.
    reaped: bool,
    watch: Watch,
    files: Files,
}

/// What a tracer saw and what it used.
#[derive(Clone, Debug)]
pub struct Finished {
    pub said: Said,
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
    /// Runs a tracer whose output goes to `scratch`, and waits until it is attached.
    pub fn start(tracer: Tracer, mut command: Command, scratch: &Path) -> Result<Self> {
        let files = Files {
            out: scratch.join(OUTPUT),
            err: scratch.join("tracer.err"),
            folded: scratch.join(PY_SPY_FILE),
        };
        let child = command
            .stdin(Stdio::null())
            .stdout(File::create(&files.out)?)
            .stderr(File::create(&files.err)?)
            .spawn()
            .with_context(|| format!("cannot run `{}`", host::show(&command)))?;
        let mut running = Self {
            tracer,
            watch: Watch::start(child.id()),
            child,
            reaped: false,
            files,
        };
        running.wait_until_attached()?;
        Ok(running)
    }

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
                self.files.complaint()
            );
        }
        Ok(Finished {
            said: self.files.read(self.tracer)?,
            cpu: duration(usage.ru_utime) + duration(usage.ru_stime),
            peak_rss,
            peak_anonymous,
            stop,
        })
    }

    /// Waits until the tracer says that it has begun, or where it says nothing, until it holds its
    /// hooks: file descriptors of BPF links and perf events.
    fn wait_until_attached(&mut self) -> Result<()> {
        let begin = Instant::now();
        let mut last = (0, Instant::now());
        loop {
            if let Some((status, _)) = self.reap(Instant::now())? {
                bail!(
                    "{} does not work here, {status}: {}",
                    self.tracer.name(),
                    self.files.complaint()
                );
            }
            let signs = match self.files.says_it_has_begun(self.tracer) {
                Some(says) => usize::from(says),
                None => hooks(self.child.id()),
            };
            if signs != last.0 {
                last = (signs, Instant::now());
            }
            if signs > 0 && last.1.elapsed() >= SETTLED {
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
