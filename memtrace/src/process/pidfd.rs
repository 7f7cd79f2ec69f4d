//! A process, known by more than its pid, which the kernel may give to another one.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd as _, OwnedFd, RawFd};

use anyhow::{Context as _, Result};

/// A handle on a process.
#[derive(Debug)]
pub struct PidFd {
    pid: u32,
    fd: OwnedFd,
}

impl PidFd {
    /// A handle on the process that has this pid now.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(pid: u32) -> Result<Self> {
        // SAFETY: the call is given numbers and touches no memory.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error())
                .with_context(|| format!("cannot watch process {pid}"));
        }
        // SAFETY: the call has just made this descriptor, so nothing else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
        Ok(Self { pid, fd })
    }

    /// Its pid, while it lives.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        let mut poll = libc::pollfd {
            fd: self.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: `poll` is one entry, as the count says, and may be written for the whole call.
        unsafe { libc::poll(&raw mut poll, 1, 0) > 0 }
    }
}

impl AsRawFd for PidFd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
