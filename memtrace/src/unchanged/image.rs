//! The memory of a live process: who it is, what is present, and what it holds.
//!
//! Memory is read through /proc/PID/mem and not by `process_vm_readv`: that call pins what it
//! reads, and since Linux 5.19 pinning a page that is shared since a fork *copies* it for the
//! process that is looked at. /proc/PID/mem only holds a reference. It and /proc/PID/pagemap belong
//! to the memory that the process had when they were opened, whatever becomes of its pid.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

/// Bytes of an auxiliary vector that are kept; the kernel makes fewer.
const MAX_AUXV: u64 = 4096;

/// Bits of an entry of /proc/PID/pagemap.
const PRESENT: u64 = 1 << 63;
const FRAME: u64 = (1 << 55) - 1;

/// `KCMP_VM` of `kcmp(2)`: compare the address spaces.
const KCMP_VM: libc::c_int = 1;

/// Who has a pid, and which program's memory that process has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pid: u32,
    /// Start, in clock ticks since boot.
    started: u64,
    /// Device and inode of the executable.
    exe: (u64, u64),
    /// The auxiliary vector. It has addresses that each exec draws anew, and a fork keeps it.
    auxv: Vec<u8>,
}

impl Identity {
    /// Looks at the process that has `pid` now.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`] when it does not have memory (any more), and others when it may
    /// not be looked at.
    pub fn of(pid: u32) -> io::Result<Self> {
        let started = started(pid).ok_or_else(gone)?;
        let exe = fs::metadata(format!("/proc/{pid}/exe"))?;
        let mut auxv = Vec::new();
        let file = File::open(format!("/proc/{pid}/auxv"))?;
        file.take(MAX_AUXV).read_to_end(&mut auxv)?;
        let identity = Self {
            pid,
            started,
            exe: (exe.dev(), exe.ino()),
            auxv,
        };
        if !identity.auxv.is_empty() && identity.is_there() {
            Ok(identity)
        } else {
            Err(gone())
        }
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether the process started at `boottime_ns`, in nanoseconds of `CLOCK_BOOTTIME`.
    #[must_use]
    pub fn started_at(&self, boottime_ns: u64) -> bool {
        self.started == boottime_ns / ns_per_tick()
    }

    /// Whether the memory of both once was one process's: neither has replaced its program since a
    /// fork led from one to the other. Without randomised addresses (`setarch -R`), two runs of one
    /// program may look the same.
    #[must_use]
    pub fn has_image_of(&self, other: &Self) -> bool {
        self.exe == other.exe && self.auxv == other.auxv
    }

    /// Whether both have the very same memory: after a fork that shares it (`vfork`).
    #[must_use]
    pub fn is_same_memory(&self, other: &Self) -> bool {
        // SAFETY: no pointers are passed.
        let order = unsafe { libc::syscall(libc::SYS_kcmp, self.pid, other.pid, KCMP_VM, 0, 0) };
        // If the kernel cannot tell, they count as different.
        order == 0
    }

    /// Whether this process still has its pid.
    fn is_there(&self) -> bool {
        started(self.pid) == Some(self.started)
    }
}

/// When the process that has `pid` started, in clock ticks since boot.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may have any bytes.
    let name_end = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = str::from_utf8(&stat[name_end + 1..]).ok()?;
    // Field 22 of the line, the 20th after the name.
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// The error of a process that has ended.
fn gone() -> io::Error {
    io::Error::from(io::ErrorKind::NotFound)
}

fn ns_per_tick() -> u64 {
    // SAFETY: no pointers are passed.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    1_000_000_000 / u64::try_from(ticks).unwrap_or(100).max(1)
}

/// The memory of one process, open for reading.
pub struct Image {
    memory: File,
    table: File,
    page_size: u64,
}

impl Image {
    /// Opens the memory of the process that `identity` names.
    ///
    /// # Errors
    ///
    /// When it has ended, or its memory may not be read.
    pub fn open(identity: &Identity, page_size: u64) -> io::Result<Self> {
        let pid = identity.pid;
        let image = Self {
            memory: File::open(format!("/proc/{pid}/mem"))?,
            table: File::open(format!("/proc/{pid}/pagemap"))?,
            page_size,
        };
        // It lived before and lives now, so it had the pid all the time.
        if identity.is_there() {
            Ok(image)
        } else {
            Err(gone())
        }
    }

    /// Fills `frames` with what is behind each page of the range of page numbers. What cannot be
    /// read is absent. Nothing is brought into memory.
    pub fn frames(&self, pages: Range<u64>, frames: &mut Vec<Frame>) {
        let count = (pages.end - pages.start) as usize;
        let mut bytes = vec![0; count * size_of::<u64>()];
        let mut done = 0;
        while done < bytes.len() {
            let at = pages.start * size_of::<u64>() as u64 + done as u64;
            match self.table.read_at(&mut bytes[done..], at) {
                Ok(0) | Err(_) => break,
                Ok(read) => done += read,
            }
        }
        let entries = bytes.as_chunks().0.iter().copied();
        frames.clear();
        frames.extend(entries.map(u64::from_ne_bytes).map(Frame::decode));
    }

    /// Reads whole pages from page number `first` on; returns how many could be read.
    pub fn read(&self, first: u64, buffer: &mut [u8]) -> usize {
        let mut done = 0;
        while done < buffer.len() {
            let at = first * self.page_size + done as u64;
            match self.memory.read_at(&mut buffer[done..], at) {
                Ok(0) | Err(_) => break,
                Ok(read) => done += read,
            }
        }
        done / self.page_size as usize
    }
}

/// What is behind a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Nothing in memory: never touched, unmapped, or swapped out.
    Absent,
    /// A page of memory, by its number, which is 0 when it is hidden from us.
    Present(u64),
}

impl Frame {
    fn decode(entry: u64) -> Self {
        if entry & PRESENT == 0 {
            Self::Absent
        } else {
            Self::Present(entry & FRAME)
        }
    }

    /// Whether both are certainly one page of memory.
    #[must_use]
    pub fn is_same(self, other: Self) -> bool {
        self == other && !matches!(self, Self::Absent | Self::Present(0))
    }

    /// Whether there is something in memory, and what it is is hidden from us.
    #[must_use]
    pub fn is_hidden(self) -> bool {
        self == Self::Present(0)
    }

    /// Whether there is something in memory.
    #[must_use]
    pub fn is_present(self) -> bool {
        self != Self::Absent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_its_own_image_and_not_another_programs() {
        let own = Identity::of(std::process::id()).unwrap();
        assert!(own.has_image_of(&own));
        let mut other = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let identity = Identity::of(other.id());
        other.kill().unwrap();
        other.wait().unwrap();
        let identity = identity.unwrap();
        assert!(!own.has_image_of(&identity));
        assert!(!own.is_same_memory(&identity));
        assert!(Identity::of(other.id()).is_err(), "it has ended");
        assert!(Image::open(&identity, 4096).is_err());
    }

    #[test]
    fn frames_are_the_same_only_when_they_are_seen() {
        assert!(Frame::Present(7).is_same(Frame::Present(7)));
        assert!(!Frame::Present(7).is_same(Frame::Present(8)));
        assert!(!Frame::Present(0).is_same(Frame::Present(0)));
        assert!(!Frame::Absent.is_same(Frame::Absent));
        assert_eq!(Frame::decode(PRESENT | 5), Frame::Present(5));
        assert_eq!(Frame::decode(1 << 62 | 5), Frame::Absent, "swapped out");
    }

    #[test]
    fn reading_ends_where_nothing_is_mapped() {
        let page_size = crate::host::page_size();
        let identity = Identity::of(std::process::id()).unwrap();
        let image = Image::open(&identity, page_size).unwrap();
        let mut buffer = vec![0; 2 * page_size as usize];
        assert_eq!(image.read(0, &mut buffer), 0);
        let bytes = vec![9_u8; 4 * page_size as usize];
        let first = (bytes.as_ptr() as u64).div_ceil(page_size);
        assert_eq!(image.read(first, &mut buffer), 2);
        assert!(buffer.iter().all(|&byte| byte == 9));
        let mut frames = Vec::new();
        image.frames(first..first + 2, &mut frames);
        assert!(frames.len() == 2 && frames.iter().all(|frame| frame.is_present()));
    }
}
