//! The demo's server where there is no python3: workers write to a buffer of their parent's.
//!
//! Each function that writes is a function of its own in the report.

use std::hint::black_box;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const PAGE: usize = 4096;

/// 60 MB, as many as the Python server's objects.
const PAGES: usize = 15_000;

const WORKERS: usize = 4;

/// How long a worker serves before a fresh one takes its place.
const WORKER_LIFE: Duration = Duration::from_millis(1600);

/// What the demo traces where there is no python3.
#[derive(clap::Args)]
pub struct Args {
    /// How long to serve, in seconds
    seconds: u64,
}

/// Serves for as long as was asked for: prints its pid and keeps as many workers as there are
/// to be.
pub fn run(args: &Args) -> Result<ExitCode> {
    let mut buffer = vec![1_u8; PAGES * PAGE];
    let master = std::process::id();
    let end = Instant::now() + Duration::from_secs(args.seconds);
    println!("{master}");
    std::io::stdout().flush()?;
    let mut workers = [0; WORKERS];
    while Instant::now() < end {
        for (number, pid) in workers.iter_mut().enumerate() {
            if *pid == 0 {
                // SAFETY: this program has one thread, so the child may do anything that the
                // parent may.
                *pid = unsafe { libc::fork() };
                match *pid {
                    0 => {
                        serve(&mut buffer, number, master);
                        std::process::exit(0);
                    }
                    ..0 => bail!("cannot fork: {}", std::io::Error::last_os_error()),
                    _ => {}
                }
            }
        }
        let exited = wait();
        for pid in &mut workers {
            if *pid == exited {
                *pid = 0;
            }
        }
    }
    for _ in workers.iter().filter(|pid| **pid != 0) {
        wait();
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits for any child; its pid, or -1 when there is none.
fn wait() -> libc::pid_t {
    // SAFETY: the status may be null: it is not wanted.
    unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) }
}

/// Handles requests until it is time for a fresh worker, or the master is gone.
fn serve(buffer: &mut [u8], worker: usize, master: u32) {
    let end = Instant::now() + WORKER_LIFE + Duration::from_millis(300) * worker as u32;
    let mut request = worker;
    while Instant::now() < end && std::os::unix::process::parent_id() == master {
        handle_request(buffer, request);
        request += WORKERS;
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[inline(never)]
fn handle_request(buffer: &mut [u8], request: usize) {
    let size = buffer.len() / 40;
    let start = (request * 7919 * PAGE) % (buffer.len() - size);
    let part = &mut buffer[start..start + size];
    match request % 4 {
        0 | 1 => update_counters(part),
        2 => mark_seen(part),
        _ => append_log(part),
    }
}

/// Writes one byte to each page.
#[inline(never)]
fn update_counters(part: &mut [u8]) {
    for byte in part.iter_mut().step_by(PAGE) {
        *byte = black_box(byte.wrapping_add(1));
    }
}

/// Writes one byte to every other page.
#[inline(never)]
fn mark_seen(part: &mut [u8]) {
    for byte in part.iter_mut().step_by(2 * PAGE) {
        *byte = black_box(1);
    }
}

/// Fills a few pages as a whole.
#[inline(never)]
fn append_log(part: &mut [u8]) {
    let size = part.len() / 8;
    black_box(&mut part[..size]).fill(b'.');
}
