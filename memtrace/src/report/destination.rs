//! Where reports go: found out before a trace, so that none is run in vain.
//!
//! What is no regular file is opened then, and written to through that very descriptor, so the
//! decision what it is cannot be deceived by what is put in its place later. A pipe's reader stays
//! connected that way.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, AsRawFd as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Statx, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use super::file::{self, Existing, Fill};

/// How long a pipe may be full without anybody reading from it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a report cannot be written somewhere.
#[derive(Debug)]
pub enum Refusal {
    /// The directory that it should be in is not there.
    NoDirectory,
    /// What should be its directory is something else.
    NotADirectory,
    /// It is a directory itself.
    IsDirectory,
    /// The name, of so many bytes, is longer than the file system's names are.
    NameTooLong(usize),
    /// The file has the attribute "immutable".
    Immutable,
    /// The file has the attribute "append only".
    AppendOnly,
    /// The directory has the attribute "append only".
    AppendOnlyDirectory,
    /// Something is mounted there, so it cannot be replaced.
    MountPoint,
    /// The file is another user's, in a directory where only owners may replace files.
    NotOwned,
    /// It is a pipe that nobody has opened for reading.
    NoReader,
    /// It is a socket.
    Socket,
    /// It is a disk.
    Disk,
    /// It can be opened, and accepts nothing.
    AcceptsNothing(io::Error),
    /// Another reason, from the system.
    Other(io::Error),
}

/// A place where a report can be written.
#[derive(Debug)]
pub enum Destination {
    /// A regular file, which is replaced by a new one.
    File(PathBuf),
    /// A pipe or a device, open.
    Special(File),
}

impl Destination {
    /// Finds out whether a report can be written to `path`, and leaves nothing behind. A symbolic
    /// link to a pipe or device stands for that, any other is replaced. `owns_all` says whether this
    /// user may do with any file what its owner may.
    ///
    /// # Errors
    ///
    /// Why it cannot.
    pub fn open(path: &Path, owns_all: bool) -> Result<Self, Refusal> {
        // Opened in this way, it is only looked at: no device and no pipe is told.
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let found = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(found) => found,
            // A dangling link is replaced too.
            Err(Errno::NOENT | Errno::LOOP) => return check_file(path, owns_all),
            Err(Errno::NAMETOOLONG) => return Err(Refusal::too_long(path)),
            Err(Errno::NOTDIR) => return Err(Refusal::NotADirectory),
            Err(error) => return Err(Refusal::Other(error.into())),
        };
        let stat = rustix::fs::fstat(&found).map_err(|error| Refusal::Other(error.into()))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => check_file(path, owns_all),
            FileType::Directory => Err(Refusal::IsDirectory),
            FileType::Socket => Err(Refusal::Socket),
            FileType::BlockDevice => Err(Refusal::Disk),
            other => open_special(&found, other),
        }
    }

    /// Has `fill` write the report.
    ///
    /// # Errors
    ///
    /// When it cannot be written, or `fill` fails. A regular file is as before then.
    pub fn write(&self, fill: Fill<'_>) -> anyhow::Result<()> {
        match self {
            Self::File(path) => file::write(path, Existing::Replaced, fill),
            Self::Special(open) => write_special(open, PATIENCE, fill),
        }
    }
}

impl Refusal {
    fn too_long(path: &Path) -> Self {
        Self::NameTooLong(path.file_name().unwrap_or(path.as_os_str()).len())
    }
}

/// Finds out whether standard output accepts anything.
///
/// # Errors
///
/// Why it does not: there is no room on a device, or it is open for reading only.
pub fn check_stdout() -> Result<(), Refusal> {
    accepts(&io::stdout())
}

/// Whether a descriptor can be written to: a write of nothing tells, and changes nothing.
fn accepts(to: &impl AsFd) -> Result<(), Refusal> {
    let written = rustix::io::write(to, &[]);
    written
        .map(drop)
        .map_err(|error| Refusal::AcceptsNothing(error.into()))
}

/// Whether a file can get the name `path`.
fn check_file(path: &Path, owns_all: bool) -> Result<Destination, Refusal> {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    let looked_at = rustix::fs::statx(CWD, path, flags, StatxFlags::BASIC_STATS);
    let directory = file::directory_of(path);
    let around = rustix::fs::statx(CWD, directory, AtFlags::empty(), StatxFlags::BASIC_STATS);
    let around = around.map_err(|error| match error {
        Errno::NOENT => Refusal::NoDirectory,
        Errno::NOTDIR => Refusal::NotADirectory,
        other => Refusal::Other(other.into()),
    })?;
    if around.stx_attributes.contains(StatxAttributes::APPEND) {
        return Err(Refusal::AppendOnlyDirectory);
    }
    match looked_at {
        Ok(found) => check_replaceable(&found, &around, owns_all)?,
        Err(Errno::NOENT) => {}
        Err(Errno::NAMETOOLONG) => return Err(Refusal::too_long(path)),
        Err(error) => return Err(Refusal::Other(error.into())),
    }
    file::try_beside(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Refusal::NoDirectory,
        io::ErrorKind::NotADirectory => Refusal::NotADirectory,
        _ => Refusal::Other(error),
    })?;
    Ok(Destination::File(path.to_owned()))
}

/// Whether a file can be replaced that is in the directory `around`.
fn check_replaceable(found: &Statx, around: &Statx, owns_all: bool) -> Result<(), Refusal> {
    let has = |attribute| found.stx_attributes.contains(attribute);
    if has(StatxAttributes::IMMUTABLE) {
        return Err(Refusal::Immutable);
    }
    if has(StatxAttributes::APPEND) {
        return Err(Refusal::AppendOnly);
    }
    if has(StatxAttributes::MOUNT_ROOT) {
        return Err(Refusal::MountPoint);
    }
    let own = rustix::process::geteuid().as_raw();
    let is_sticky = u32::from(around.stx_mode) & libc::S_ISVTX != 0;
    if is_sticky && !owns_all && found.stx_uid != own && around.stx_uid != own {
        return Err(Refusal::NotOwned);
    }
    Ok(())
}

/// Opens what was looked at, and nothing else, for writing.
fn open_special(found: &impl AsFd, kind: FileType) -> Result<Destination, Refusal> {
    let path = format!("/proc/self/fd/{}", found.as_fd().as_raw_fd());
    // Without waiting: neither for a reader now, nor for one that does not read later.
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| match error {
        Errno::NXIO if kind == FileType::Fifo => Refusal::NoReader,
        other => Refusal::Other(other.into()),
    })?;
    accepts(&file)?;
    Ok(Destination::Special(file.into()))
}

/// Has `fill` write into a pipe or a device. A reader that has seen enough and closes it is not an
/// error; one that has seen nothing is.
fn write_special(open: &File, patience: Duration, fill: Fill<'_>) -> anyhow::Result<()> {
    let mut patient = Patient {
        file: open,
        patience,
        has_written: false,
    };
    let mut out = BufWriter::new(&mut patient);
    let filled = fill(&mut out).and_then(|()| Ok(out.flush()?));
    if filled.is_err() {
        // What is still buffered would be tried again on drop.
        drop(out.into_parts());
    } else {
        drop(out);
    }
    if patient.has_written {
        super::unless_closed(filled)
    } else {
        filled
    }
}

/// Writes into a descriptor that does not wait, and waits, but not for ever.
struct Patient<'file> {
    file: &'file File,
    patience: Duration,
    has_written: bool,
}

impl Write for Patient<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let deadline = Instant::now() + self.patience;
        loop {
            match (&mut &*self.file).write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait_for_room(self.file, deadline, self.patience)?;
                }
                written => {
                    self.has_written |= written.is_ok();
                    return written;
                }
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits until something can be written.
fn wait_for_room(file: &File, deadline: Instant, patience: Duration) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        let text = format!("nobody has read from it for {} s", patience.as_secs());
        return Err(io::Error::new(io::ErrorKind::TimedOut, text));
    }
    let mut asked = libc::pollfd {
        fd: file.as_raw_fd(),
        events: libc::POLLOUT,
        revents: 0,
    };
    // One more, since what is left of the last millisecond is rounded down.
    let left = left.as_millis() as libc::c_int + 1;
    // SAFETY: there is one valid pollfd.
    match unsafe { libc::poll(&raw mut asked, 1, left) } {
        -1 => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            error => Err(error),
        },
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
