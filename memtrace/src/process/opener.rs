//! Opens files that traced processes have mapped, without ever waiting long.
//!
//! A file system may be served by a process of a user (FUSE) or by another machine (NFS). A thread
//! that opens or reads a file there waits until the server answers; if it never does, the thread
//! waits forever, not even SIGKILL ends it, and its process cannot end. So files are opened in a
//! process of its own: this program again, with [`ARGUMENT`], which answers with descriptors. Files
//! of this machine's own file systems are handed over as they are. Those of any other are copied
//! into memory first, so that memtrace itself never reads from a server. An overlay counts as this
//! machine's own if it is mounted where memtrace sees it, as container engines do that run as root.
//!
//! Bounds:
//!
//! - [`PATIENCE`] for one file. A process that is late is given up, and left to itself
//!   ([`child`]); another one takes its place.
//! - [`MAX_LATE`] and [`MAX_DEVICE_WAIT`] for the files of one device, [`MAX_LOST`] and
//!   [`MAX_WAIT`] for all. After that, nothing more is opened on that device, or on any that has
//!   not given a file before.
//! - [`MAX_COPY`] bytes of one file are copied, [`MAX_COPIES`] of all.

mod exchange;
mod serve;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use foldhash::HashMap;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use self::exchange::Said;
use super::child::{self, Servant};

/// The only argument of the process that opens files; not one that a user gives.
pub const ARGUMENT: &str = "__open";

/// How long opening a file may take, copying included.
pub const PATIENCE: Duration = Duration::from_millis(200);

/// How long it may take where that does not depend on a server: on a device that has given a file
/// before, and when the process that opens files is not waiting but has no processor.
const LONG_PATIENCE: Duration = Duration::from_secs(1);

/// How long the process may take to start.
const START: Duration = Duration::from_secs(2);

/// An answer that comes sooner than this is not counted as a wait on a device that is local.
const PROMPT: Duration = Duration::from_millis(5);

/// Files of one device that may be late.
const MAX_LATE: u32 = 2;

/// How long all files of one device may be waited for.
const MAX_DEVICE_WAIT: Duration = Duration::from_secs(1);

/// Processes that may be lost.
const MAX_LOST: u32 = 8;

/// How long all files may be waited for.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// Devices that are remembered. More of them are not known to be anything.
const MAX_DEVICES: usize = 1024;

/// Bytes of one file that are copied.
pub const MAX_COPY: u64 = 64 << 20;

/// Bytes of all files that are copied.
pub const MAX_COPIES: u64 = 256 << 20;

/// A device's major and minor number.
pub type Device = (u32, u32);

/// A file to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Whose it is.
    pub which: Which,
    /// Its path, as its user names it.
    pub path: PathBuf,
    /// Bytes that may be copied of it.
    pub(super) room: u64,
}

/// Whose file it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// One that a process has mapped.
    Mapped {
        /// The process.
        pid: u32,
        /// First address of the mapping, and one past the last.
        range: (u64, u64),
        /// Number of the inode.
        inode: u64,
    },
    /// One of this machine, by its path.
    Own,
}

/// Why a file was not opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotOpened {
    /// It is not there, or not permitted, as the error number says; 0 when there is none. By way of
    /// another process it may be.
    NotThere(i32),
    /// It is a device, a pipe, or anything else but a regular file, which has no program in it.
    NoFile,
    /// It will not be, in words.
    Refused(String),
}

impl NotOpened {
    /// What can be said of it: `permission denied (13)`.
    #[must_use]
    pub fn in_words(&self) -> String {
        match self {
            Self::NotThere(0) => "the file could not be opened".to_owned(),
            Self::NotThere(errno) => errno_in_words(*errno),
            Self::NoFile => "it is not a regular file".to_owned(),
            Self::Refused(why) => why.clone(),
        }
    }
}

/// `permission denied (13)`.
#[must_use]
pub fn errno_in_words(errno: i32) -> String {
    let text = io::Error::from_raw_os_error(errno).to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    format!("{} ({errno})", text.to_lowercase())
}

/// An open file, and whether it is a copy.
type Answer = Result<(File, bool), NotOpened>;

/// Opens files, one after the other.
#[derive(Debug)]
pub struct Opener {
    place: Place,
    devices: HashMap<Device, Known>,
    waited: Duration,
    lost: u32,
    copied: u64,
}

/// What is known about a device.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Whether a file of it was handed over as it is.
    is_local: bool,
    late: u32,
    waited: Duration,
}

enum Place {
    Process(Process),
    /// This thread, which then waits as long as it takes.
    Here,
}

/// A process that opens files, and how to start one.
struct Process {
    start: Box<dyn FnMut() -> Command + Send>,
    running: Option<Running>,
}

struct Running {
    socket: OwnedFd,
    servant: Servant,
    is_ready: bool,
}

/// Why there is no answer.
enum NoAnswer {
    /// It did not come in time.
    Late,
    /// The process has ended, or could not be started.
    Lost(io::Error),
}

impl Opener {
    /// A process of this same program, whose `main` calls [`serve`] when [`is_requested`].
    #[must_use]
    pub fn process() -> Self {
        Self::command(|| Servant::command(ARGUMENT))
    }

    /// A process that ends up in [`serve`].
    pub(super) fn command(start: impl FnMut() -> Command + Send + 'static) -> Self {
        let mut process = Process {
            start: Box::new(start),
            running: None,
        };
        // It starts while other things are done. When it cannot, that is found when it is needed.
        process.prepare();
        Self::with(Place::Process(process))
    }

    /// No other process: whoever asks may have to wait for ever. For files that are trusted.
    #[must_use]
    pub fn here() -> Self {
        Self::with(Place::Here)
    }

    fn with(place: Place) -> Self {
        Self {
            place,
            devices: HashMap::default(),
            waited: Duration::ZERO,
            lost: 0,
            copied: 0,
        }
    }

    /// Opens a file of `device`, and waits for it, not longer than the bounds of this module say.
    ///
    /// # Errors
    /// Why there is none.
    pub fn open(
        &mut self,
        which: Which,
        path: PathBuf,
        device: Option<Device>,
    ) -> Result<File, NotOpened> {
        let known = device.and_then(|device| self.devices.get(&device).copied());
        let known = known.unwrap_or_default();
        self.permits(known)?;
        let wanted = Wanted {
            which,
            path,
            room: MAX_COPIES.saturating_sub(self.copied),
        };
        let began = Instant::now();
        let patience = if known.is_local {
            LONG_PATIENCE
        } else {
            PATIENCE
        };
        let answer = match &mut self.place {
            Place::Here => Ok(serve::open(&wanted, &mut serve::Overlays::default())),
            Place::Process(process) => process.ask(&wanted, patience),
        };
        self.count(device, began.elapsed(), &answer);
        match answer {
            Ok(answer) => Ok(answer?.0),
            Err(NoAnswer::Late) => {
                log::debug!("{} was not opened in time", wanted.path.display());
                Err(NotOpened::Refused(format!(
                    "its file system did not answer within {} s",
                    patience.as_secs_f64()
                )))
            }
            Err(NoAnswer::Lost(error)) => {
                log::debug!("the process that opens files was lost: {error}");
                Err(NotOpened::NotThere(0))
            }
        }
    }

    /// Whether anything is opened on a device.
    fn permits(&self, known: Known) -> Result<(), NotOpened> {
        let refuse = |why: &str| Err(NotOpened::Refused(why.to_owned()));
        if known.late >= MAX_LATE || known.waited >= MAX_DEVICE_WAIT {
            return refuse("its file system did not answer in time for other files");
        }
        let is_spent = self.lost >= MAX_LOST || self.waited >= MAX_WAIT;
        // A device that has given files is this machine's own, unless its number was given away.
        if is_spent && (!known.is_local || self.lost >= 2 * MAX_LOST) {
            return refuse("too many other files were not opened in time");
        }
        Ok(())
    }

    fn count(&mut self, device: Option<Device>, took: Duration, answer: &Result<Answer, NoAnswer>) {
        let is_local = matches!(answer, Ok(Ok((_, false))));
        let known = device.and_then(|device| self.devices.get(&device));
        let was_local = known.is_some_and(|known| known.is_local);
        if let Ok(Ok((copy, true))) = answer {
            self.copied += copy.metadata().map_or(0, |of| of.len());
        }
        let is_late = matches!(answer, Err(NoAnswer::Late));
        self.lost += u32::from(answer.is_err());
        let waited = if (is_local || was_local) && took < PROMPT {
            Duration::ZERO
        } else {
            took
        };
        self.waited += waited;
        let Some(device) = device else {
            return;
        };
        if self.devices.len() >= MAX_DEVICES && !self.devices.contains_key(&device) {
            return;
        }
        let known = self.devices.entry(device).or_default();
        known.is_local |= is_local;
        known.late += u32::from(is_late);
        known.waited += waited;
    }
}

impl Process {
    /// Starts the process if none runs; it may not be ready yet.
    fn prepare(&mut self) -> Option<&mut Running> {
        if self.running.is_none() {
            let started = Running::start((self.start)());
            self.running = started
                .inspect_err(|error| log::debug!("cannot start the opener of files: {error}"))
                .ok();
        }
        self.running.as_mut()
    }

    fn ask(&mut self, wanted: &Wanted, patience: Duration) -> Result<Answer, NoAnswer> {
        let cannot_start = || NoAnswer::Lost(io::ErrorKind::NotFound.into());
        let running = self.prepare().ok_or_else(cannot_start)?;
        let answer = running
            .make_ready()
            .and_then(|()| running.ask(wanted, patience));
        if answer.is_err() {
            // It is given up, and the next one gets ready meanwhile.
            self.running = None;
            self.prepare();
        }
        answer
    }
}

impl Running {
    fn start(command: Command) -> io::Result<Self> {
        let (socket, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok(Self {
            socket,
            servant: Servant::start(command, theirs)?,
            is_ready: false,
        })
    }

    /// Waits until it has started. That takes a millisecond, but on a machine that is overloaded it
    /// may take as long as a file system that does not answer.
    fn make_ready(&mut self) -> Result<(), NoAnswer> {
        if !self.is_ready {
            match self.hear(START) {
                Ok(Said::Ready) => self.is_ready = true,
                Ok(Said::Answer(_)) => {
                    return Err(NoAnswer::Lost(io::ErrorKind::InvalidData.into()));
                }
                Err(NoAnswer::Late) => return Err(NoAnswer::Lost(io::ErrorKind::TimedOut.into())),
                Err(lost) => return Err(lost),
            }
        }
        Ok(())
    }

    fn ask(&mut self, wanted: &Wanted, patience: Duration) -> Result<Answer, NoAnswer> {
        exchange::ask(self.socket.as_fd(), wanted).map_err(NoAnswer::Lost)?;
        match self.hear(patience)? {
            Said::Answer(answer) => Ok(answer),
            Said::Ready => Err(NoAnswer::Lost(io::ErrorKind::InvalidData.into())),
        }
    }

    fn hear(&mut self, patience: Duration) -> Result<Said, NoAnswer> {
        let began = Instant::now();
        let mut until = began + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // A process that waits for a server does not run.
                if began.elapsed() >= LONG_PATIENCE || !self.servant.is_running() {
                    return Err(NoAnswer::Late);
                }
                until = Instant::now() + PATIENCE / 4;
                continue;
            }
            let limited = set_socket_timeout(&self.socket, Timeout::Recv, Some(left));
            limited.map_err(|errno| NoAnswer::Lost(errno.into()))?;
            match exchange::hear(self.socket.as_fd()) {
                Ok(said) => return Ok(said),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(NoAnswer::Lost(error)),
            }
        }
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Process(_) => "Process",
            Self::Here => "Here",
        })
    }
}

/// A file in memory.
///
/// # Errors
/// When the kernel does not give one.
pub fn memory_file(name: &CStr) -> io::Result<File> {
    serve::memory_file(name)
}

/// A copy of `file` in memory that nobody can change, and that everybody may read who has it.
///
/// # Errors
/// When it has more than `room` bytes, or more than [`MAX_COPY`], or cannot be read.
pub fn copy_of(file: &File, room: u64) -> Result<File, NotOpened> {
    serve::copy(file, room).map(|(copy, _)| copy)
}

/// Whether this process was started to open files. Must be asked before anything else.
#[must_use]
pub fn is_requested() -> bool {
    child::is_requested(ARGUMENT)
}

/// Opens files for whoever asks on standard input, until it is closed.
#[must_use]
pub fn serve() -> ExitCode {
    serve::serve()
}

#[cfg(test)]
mod tests;
