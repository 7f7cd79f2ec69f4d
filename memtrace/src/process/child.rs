//! Processes of this same program that do what may end a process, or hold it up for good.
//!
//! A thread that waits in a file system whose server does not answer cannot be ended, not even by
//! SIGKILL, and neither can its process. So such a process is never waited for: it is told to end,
//! and left alone. It ends when it can; what is left of it then goes with memtrace.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};

/// Processes that were told to end. Those that have are removed when another one is.
static DISMISSED: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// A process of this program that answers questions on a socket. It is told to end when this is
/// dropped, when memtrace ends, and when the thread that started it ends.
#[derive(Debug)]
pub struct Servant {
    child: Option<Child>,
}

impl Servant {
    /// This program again, with `argument`.
    #[must_use]
    pub fn command(argument: &str) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command.arg(argument);
        command
    }

    /// Starts `command`, which must call [`begin`] first of all, with `socket` as its standard
    /// input.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(mut command: Command, socket: OwnedFd) -> io::Result<Self> {
        let child = command
            .env_clear()
            .stdin(Stdio::from(socket))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A Ctrl-C on the terminal is meant for memtrace, which still needs answers then.
            .process_group(0)
            .spawn()?;
        Ok(Self { child: Some(child) })
    }

    /// None that runs, for tests.
    #[cfg(test)]
    pub(super) const fn none() -> Self {
        Self { child: None }
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// How it has ended, in words; `None` when it has not.
    #[must_use]
    pub fn ended(&mut self) -> Option<String> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        Some(status.to_string())
    }

    /// Whether it runs, or would if a processor were free. Else it waits, or has ended.
    #[must_use]
    pub fn is_running(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()));
        // The name, in parentheses, may have anything in it.
        stat.is_ok_and(|stat| {
            let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
            state.is_some_and(|state| state.starts_with('R'))
        })
    }
}

impl Drop for Servant {
    fn drop(&mut self) {
        let mut dismissed = DISMISSED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut child) = self.child.take() {
            // This fails only when it has already ended.
            let _ = child.kill();
            dismissed.push(child);
        }
        dismissed.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }
}

/// What such a process does first: it makes sure to end with the one that started it, and closes
/// every descriptor that it has inherited, but for standard input, output and error. Whoever waits
/// for the end of a pipe that memtrace was started with must not wait for this process.
///
/// # Errors
/// When the kernel does not permit that.
pub fn begin() -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    close_inherited();
    // What it reads may be secret, and must not be left in a file.
    limit(Resource::Core, 0)
}

fn close_inherited() {
    // SAFETY: takes no pointers. Nothing in this process owns a descriptor yet, but for the
    // standard ones, which stay. Before Linux 5.9 there is no such call, and they all stay.
    unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) };
}

/// Bounds a resource of this process for good.
///
/// # Errors
/// When it is bounded below that already.
pub fn limit(resource: Resource, most: u64) -> io::Result<()> {
    let limit = Rlimit {
        current: Some(most),
        maximum: Some(most),
    };
    Ok(setrlimit(resource, limit)?)
}

/// Whether this process was started with `argument` alone.
#[must_use]
pub fn is_requested(argument: &str) -> bool {
    let mut arguments = std::env::args_os().skip(1);
    arguments.next().is_some_and(|first| first == argument) && arguments.next().is_none()
}
