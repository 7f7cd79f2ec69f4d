//! What it costs to write the largest profile.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::Written;
use crate::host;

/// How long all formats together may take, in processor time, and how much memory.
const MOST_TIME: Duration = Duration::from_secs(2);
const MOST_MEMORY: u64 = 200_000_000;

/// Writes it in every format; the figures, and an error where they are beyond the limits.
///
/// The time is the processor's: that of the clock is also what else the machine had to do.
pub(super) fn check(memtrace: &Path, written: &Written) -> Result<String> {
    let mut command = written.command(memtrace);
    let shown = host::show(&command);
    // A process group of its own, so that no signal for this one ends it halfway.
    command.stdout(Stdio::null()).process_group(0);
    let begin = Instant::now();
    let child = command
        .spawn()
        .with_context(|| format!("cannot run `{shown}`"))?;
    let (status, usage, memory) = wait(&child)?;
    let elapsed = begin.elapsed();
    ensure!(status == 0, "`{shown}` failed: {status}");
    let time = |of: libc::timeval| Duration::new(of.tv_sec as u64, of.tv_usec as u32 * 1_000);
    let worked = time(usage.ru_utime) + time(usage.ru_stime);
    let figures = format!(
        "{:.2} s of processor time, {:.2} s in all, {} MB of memory",
        worked.as_secs_f64(),
        elapsed.as_secs_f64(),
        memory / 1_000_000
    );
    if worked > MOST_TIME || memory > MOST_MEMORY {
        bail!(
            "{figures}; the limits are {} s and {} MB",
            MOST_TIME.as_secs(),
            MOST_MEMORY / 1_000_000
        );
    }
    Ok(figures)
}

/// Waits for a child; its status, what it used, and the most memory that it had.
///
/// The kernel's own figure of the most memory is not taken: a child's begins with what the process
/// had that started it, and this one had all profiles.
fn wait(child: &Child) -> Result<(i32, libc::rusage, u64)> {
    const PAUSE: Duration = Duration::from_millis(2);
    let pid = child.id();
    let mut most = 0;
    let mut status = 0;
    // SAFETY: rusage is numbers only, for which all zeroes are valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        most = most.max(memory(pid).unwrap_or(0));
        // SAFETY: a child of ours that was not waited for, and two places that outlive the call.
        let waited =
            unsafe { libc::wait4(pid as i32, &raw mut status, libc::WNOHANG, &raw mut usage) };
        match waited {
            0 => std::thread::sleep(PAUSE),
            1.. => return Ok((status, usage, most)),
            _ => {
                return Err(std::io::Error::last_os_error()).context("cannot wait for memtrace");
            }
        }
    }
}

/// The most memory that a process has had so far.
fn memory(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}
