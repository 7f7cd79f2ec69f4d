//! Runs COMMAND, held back until tracing is attached.
//!
//! [`Held`] is a child that exists, so that it can be traced, and has not begun to be the program
//! yet: between fork and exec it waits for one byte from a pipe, its gate. Should memtrace end
//! without opening the gate, in whatever way, the pipe closes and the child ends too, without
//! having run anything.
//!
//! Fork, search in `PATH`, exec and the report of its failure are the standard library's. Its
//! `spawn` returns when the child has run exec, which here is after the gate is opened, so it is
//! called on a thread of its own.

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::thread::JoinHandle;

use anyhow::{Context as _, anyhow, bail};
use tokio::process::{Child, Command};

use crate::profile::CommandExit;
use crate::report::escape::escape;

/// A command that is a process already and waits to be let go. Dropping it ends the process.
#[derive(Debug)]
pub struct Held {
    program: OsString,
    pid: u32,
    gate: PipeWriter,
    spawned: JoinHandle<io::Result<Child>>,
}

/// A command that runs. Dropping it lets it run on.
#[derive(Debug)]
pub struct Running {
    child: Child,
}

impl Held {
    /// Makes the process for `command`, a program and its arguments. It shares memtrace's standard
    /// streams and its terminal's Ctrl-C.
    ///
    /// # Errors
    ///
    /// When there can be no process. Whether the program exists is known at [`Held::release`].
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime that does I/O.
    pub fn spawn(command: &[OsString]) -> anyhow::Result<Self> {
        let (program, arguments) = command.split_first().context("COMMAND is empty")?;
        let failed = || format!("cannot start '{}'", shown(program));
        let (waits, gate) = io::pipe().with_context(failed)?;
        let (mut tells, pid) = io::pipe().with_context(failed)?;

        let mut command = Command::new(program);
        command.args(arguments);
        let gate_fd = gate.as_raw_fd();
        // SAFETY: the closure calls nothing but getpid, write, close and read, which are allowed
        // between fork and exec, and takes no memory or lock.
        unsafe { command.pre_exec(move || wait_at_gate(&pid, &waits, gate_fd)) };

        let runtime = tokio::runtime::Handle::current();
        let spawned = std::thread::Builder::new()
            .name("memtrace-command".to_owned())
            .spawn(move || {
                let _runtime = runtime.enter();
                command.spawn()
                // `command` is dropped here, and with it this process's ends of the pipes that
                // are the child's.
            })
            .with_context(failed)?;
        let mut pid = [0; 4];
        if tells.read_exact(&mut pid).is_err() {
            // There was no child to tell it.
            let error = joined(spawned)
                .err()
                .unwrap_or_else(|| ErrorKind::UnexpectedEof.into());
            return Err(anyhow!(error).context(failed()));
        }
        let pid = u32::from_ne_bytes(pid);
        Ok(Self {
            program: program.clone(),
            pid,
            gate,
            spawned,
        })
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Lets it become the program.
    ///
    /// # Errors
    ///
    /// When the program does not exist or cannot be run.
    pub fn release(self) -> anyhow::Result<Running> {
        let Self {
            program,
            mut gate,
            spawned,
            ..
        } = self;
        match gate.write_all(&[1]) {
            // Somebody ended the child while it waited; how it ended tells.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            result => result.context("cannot let COMMAND go")?,
        }
        drop(gate);
        match joined(spawned) {
            Ok(child) => Ok(Running { child }),
            Err(error) => bail!("{}", explain(&program, &error)),
        }
    }
}

/// In the child: says who it is, and waits to be let go.
fn wait_at_gate(mut pid: &PipeWriter, mut gate: &PipeReader, own_end: RawFd) -> io::Result<()> {
    // SAFETY: the child's copy of the parent's end, which nothing in the child uses. While it is
    // open the gate would not close when the parent ends.
    unsafe { libc::close(own_end) };
    pid.write_all(&std::process::id().to_ne_bytes())?;
    loop {
        match gate.read(&mut [0]) {
            Ok(1) => return Ok(()),
            // The parent has gone, or wants it no more.
            Ok(_) => return Err(io::Error::from_raw_os_error(libc::ECANCELED)),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn joined(spawned: JoinHandle<io::Result<Child>>) -> io::Result<Child> {
    spawned
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the thread that starts it panicked")))
}

/// What hinders `program` from running, and what to do.
fn explain(program: &OsStr, error: &io::Error) -> String {
    let is_path = program.as_encoded_bytes().contains(&b'/');
    let program = shown(program);
    let why = match error.kind() {
        ErrorKind::NotFound if is_path => {
            "there is no such file, or the interpreter that it names does not exist".to_owned()
        }
        ErrorKind::NotFound => {
            let path = std::env::var_os("PATH").unwrap_or_default();
            format!(
                "there is no such program in PATH, which is {}; name it by its path, or correct \
                 PATH (sudo sets one of its own)",
                shown(&path)
            )
        }
        ErrorKind::PermissionDenied => {
            "it is not permitted; is it a file, executable, and not on a noexec file system?"
                .to_owned()
        }
        _ => error.to_string(),
    };
    format!("cannot run '{program}': {why}")
}

fn shown(text: &OsStr) -> String {
    escape(&text.to_string_lossy()).into_owned()
}

impl Running {
    /// Waits for its end. May be dropped before; the command runs on then.
    ///
    /// # Errors
    ///
    /// When the kernel does not say how it ended.
    pub async fn wait(mut self) -> io::Result<CommandExit> {
        Ok(exit(self.child.wait().await?))
    }
}

fn exit(status: ExitStatus) -> CommandExit {
    CommandExit {
        status: status.code(),
        signal: status.signal(),
    }
}

#[cfg(test)]
mod tests;
