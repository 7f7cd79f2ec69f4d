//! `cargo xtask demo`: memtrace at work, on a machine with nothing but Rust.
//!
//! A prefork server of our own runs for a few seconds, without a network; memtrace attaches to it
//! by pid while it works, and prints its report.

pub mod native;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::host;

/// The server in Python.
const SERVER: &str = include_str!("prefork.py");

/// How much longer than the trace the server lives, should nobody end it: attaching and the
/// report need time, too.
const SPARE: u64 = 30;

/// Trace a small prefork server of our own and show the report.
#[derive(clap::Args)]
pub struct Args {
    /// How long to trace, in seconds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Use the server in Rust even where there is a python3
    #[arg(long)]
    native: bool,
    /// More options for memtrace
    #[arg(last = true)]
    memtrace: Vec<String>,
}

/// Builds memtrace, starts the server, traces it and ends it.
pub fn run(args: &Args) -> Result<ExitCode> {
    if !host::is_root() && host::find_program("sudo").is_none() {
        bail!("memtrace needs root, and there is no sudo here: run this as root");
    }
    eprintln!("xtask: building memtrace");
    let memtrace = host::build_memtrace()?;

    let scratch = tempfile::tempdir().context("cannot create a temporary directory")?;
    let mut server = Server::start(args, scratch.path())?;
    eprintln!("xtask: the server runs, its master is {}", server.pid);

    let mut command = host::as_root(&memtrace);
    command
        .args(["--pid", &server.pid.to_string()])
        .args(["--duration", &format!("{}s", args.seconds)])
        .args(&args.memtrace);
    eprintln!("xtask: {}\n", host::show(&command));
    let traced = host::run(&mut command);
    server.stop();
    traced?;
    Ok(ExitCode::SUCCESS)
}

/// Traces the server for some seconds, and saves the report. For whoever is root.
pub fn trace(memtrace: &Path, seconds: u64, report: &Path) -> Result<()> {
    let scratch = tempfile::tempdir().context("cannot create a temporary directory")?;
    let args = Args {
        seconds,
        native: false,
        memtrace: Vec::new(),
    };
    let mut server = Server::start(&args, scratch.path())?;
    let mut command = Command::new(memtrace);
    command
        .args(["--pid", &server.pid.to_string()])
        .args(["--duration", &format!("{seconds}s"), "-o"])
        .arg(report);
    let traced = host::quietly(&mut command);
    server.stop();
    traced.map(|_| ())
}

/// The running server; ended when dropped.
struct Server {
    child: Child,
    pid: i32,
}

impl Server {
    /// Starts the server and waits until its data is built.
    fn start(args: &Args, scratch: &Path) -> Result<Self> {
        let seconds = (args.seconds + SPARE).to_string();
        let mut command = match host::find_program("python3") {
            Some(python) if !args.native => {
                // A file, so that the report can name it.
                let script = scratch.join("prefork.py");
                host::write_atomically(&script, SERVER.as_bytes())?;
                let mut command = Command::new(python);
                command.arg(script).arg(seconds);
                command
            }
            _ => {
                let this = std::env::current_exe().context("cannot find this program's file")?;
                let mut command = Command::new(this);
                command.arg("demo-server").arg(seconds);
                command
            }
        };
        eprintln!("xtask: starting the server: {}", host::show(&command));
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run `{}`", host::show(&command)))?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        // What was started may be a wrapper, so the master says itself who it is.
        let pid = line.trim().parse().ok().filter(|pid| *pid > 1);
        let mut server = Self {
            child,
            pid: pid.unwrap_or(0),
        };
        if pid.is_none() {
            server.stop();
            bail!("the server did not start: it said {line:?} instead of its pid");
        }
        // A few requests, so that the trace begins in the middle of the work.
        std::thread::sleep(Duration::from_millis(300));
        Ok(server)
    }

    /// Ends the master, by its pid, and waits for it; its workers see that and end too.
    fn stop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        if self.pid > 1 {
            // SAFETY: sends a signal to a child of ours that was not waited for, so the number
            // still is its.
            unsafe { libc::kill(self.pid, libc::SIGTERM) };
        } else {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}
