//! The side that opens files, in a process that may hang.

use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstatfs, memfd_create};
use rustix::io::Errno;

use super::exchange;
use super::{Answer, MAX_COPY, NotOpened, Wanted, Which};
use crate::process::child;

/// What this process's nice value is: whoever asks waits for it.
const NICE: i32 = -10;

/// Bytes that are copied at once.
const PIECE: usize = 256 << 10;

/// File systems whose files are read from a disk of this machine, or from its memory, by the kernel
/// alone: nobody can keep a read waiting. Any other one may be served by a process or by another
/// machine. Names are those of the kernel's `linux/magic.h`.
const LOCAL: [u32; 22] = [
    0x0000_ef53, // ext2, ext3, ext4
    0x5846_5342, // XFS
    0x9123_683e, // Btrfs
    0x0102_1994, // tmpfs, memfd
    0x8584_58f6, // ramfs
    0x9584_58f6, // hugetlbfs
    0x7371_7368, // SquashFS
    0xe0f5_e1e2, // EROFS
    0xf2f5_2010, // F2FS
    0x2fc1_2fc1, // ZFS
    0xca45_1a4e, // bcachefs
    0x0000_9660, // ISO 9660
    0x1501_3346, // UDF
    0x0000_4d44, // FAT
    0x2011_bab0, // exFAT
    0x7366_746e, // NTFS
    0x3153_464a, // JFS
    0x5265_4973, // ReiserFS
    0x0000_3434, // NILFS
    0x2405_1905, // UBIFS
    0x0000_72b6, // JFFS2
    0x28cd_3d45, // cramfs
];

/// overlayfs, whose files are those of other file systems.
const OVERLAY: u32 = 0x794c_7630;

/// For how long the mounts of this machine are believed to be those that were read last.
const FRESH: Duration = Duration::from_secs(1);

/// The overlays that are mounted where this process can see them. Only the administrator mounts
/// there. Any user can mount one in a namespace of their own, over a file system that they serve.
#[derive(Default)]
pub(super) struct Overlays {
    read: Option<Instant>,
    /// Their devices: major and minor number.
    devices: Vec<(u32, u32)>,
}

impl Overlays {
    fn have(&mut self, device: u64) -> bool {
        if self.read.is_none_or(|read| read.elapsed() > FRESH) {
            let mounts = std::fs::read_to_string("/proc/self/mountinfo");
            self.devices = overlays_of(&mounts.unwrap_or_default());
            self.read = Some(Instant::now());
        }
        let device = (libc::major(device), libc::minor(device));
        self.devices.contains(&device)
    }
}

/// The devices of the overlays that `mounts` lists, as the kernel prints it.
pub(super) fn overlays_of(mounts: &str) -> Vec<(u32, u32)> {
    let device = |line: &str| {
        let (mount, file_system) = line.split_once(" - ")?;
        let (major, minor) = mount.split(' ').nth(2)?.split_once(':')?;
        let is_overlay = file_system.starts_with("overlay ");
        is_overlay.then_some((major.parse().ok()?, minor.parse().ok()?))
    };
    mounts.lines().filter_map(device).collect()
}

/// Opens what is wanted, however long that takes.
pub(super) fn open(wanted: &Wanted, overlays: &mut Overlays) -> Answer {
    let path = &wanted.path;
    let mut why = NotOpened::NotThere(0);
    let mut attempt = |path: &Path, inode: Option<u64>| match open_regular(path, inode, overlays) {
        Ok((file, true)) => Some(Ok((file, false))),
        // What is sent from there is read once, here.
        Ok((file, false)) => Some(copy(&file, wanted.room)),
        Err(not_opened) => {
            if telling(&not_opened) > telling(&why) {
                why = not_opened;
            }
            None
        }
    };
    let opened = match wanted.which {
        Which::Own => attempt(path, None),
        // Through the mapping itself, which also finds a deleted file, one in another mount
        // namespace and one below a chroot; or by its path, as the process sees it and as this one
        // does, if that still leads to the same inode.
        Which::Mapped {
            pid,
            range: (start, end),
            inode,
        } => {
            let mapping = format!("/proc/{pid}/map_files/{start:x}-{end:x}");
            let root = PathBuf::from(format!("/proc/{pid}/root"));
            let below = path.strip_prefix("/").ok().map(|below| root.join(below));
            attempt(Path::new(&mapping), None)
                .or_else(|| attempt(&below?, Some(inode)))
                .or_else(|| attempt(path, Some(inode)))
        }
    };
    opened.unwrap_or(Err(why))
}

/// How much a reason says: of several ways to one file, the best is told. A file that is not there
/// by one way may not be permitted by the other.
fn telling(why: &NotOpened) -> u8 {
    match why {
        NotOpened::NotThere(0) => 0,
        NotOpened::NotThere(libc::ENOENT) => 1,
        NotOpened::NotThere(libc::EPERM) => 3,
        NotOpened::NotThere(libc::EACCES) => 4,
        NotOpened::NotThere(_) => 2,
        NotOpened::NoFile | NotOpened::Refused(_) => 5,
    }
}

/// Opens a regular file, of this inode if one is given, for reading; and whether its file system is
/// a local one. Refuses anything else, without the side effects or the wait that opening a device
/// or a pipe could have: its type is checked before it is opened.
pub(super) fn open_regular(
    path: &Path,
    inode: Option<u64>,
    overlays: &mut Overlays,
) -> Result<(File, bool), NotOpened> {
    let failed = |error: io::Error| NotOpened::NotThere(error.raw_os_error().unwrap_or(0));
    let place = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path)
        .map_err(failed)?;
    let of = place.metadata().map_err(failed)?;
    if inode.is_some_and(|inode| of.ino() != inode) {
        // Another file has this path now, or here.
        return Err(NotOpened::NotThere(libc::ENOENT));
    }
    if !of.is_file() {
        return Err(NotOpened::NoFile);
    }
    let file_system = fstatfs(&place)
        .map_err(|errno| failed(errno.into()))?
        .f_type as u32;
    let is_local =
        LOCAL.contains(&file_system) || (file_system == OVERLAY && overlays.have(of.dev()));
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(format!("/proc/self/fd/{}", place.as_raw_fd()))
        .map_err(failed)?;
    Ok((file, is_local))
}

/// A copy of `file` in memory that nobody can change, if it has at most `room` bytes.
pub(super) fn copy(file: &File, room: u64) -> Answer {
    let failed = |_| NotOpened::Refused("its file system did not give its contents".to_owned());
    let room = room.min(MAX_COPY);
    let mut copy = memory_file(c"memtrace-copy").map_err(failed)?;
    let mut piece = vec![0; PIECE];
    let mut size = 0;
    loop {
        let read = match file.read_at(&mut piece, size) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(error)),
        };
        size += read as u64;
        if size > room {
            return Err(NotOpened::Refused(
                "it would have to be copied from a file system that is not this machine's own, \
                 and is too large for that"
                    .to_owned(),
            ));
        }
        copy.write_all(&piece[..read]).map_err(failed)?;
    }
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    fcntl_add_seals(&copy, seals).map_err(|errno| failed(errno.into()))?;
    copy.rewind().map_err(failed)?;
    Ok((copy, true))
}

/// A file in memory.
pub(super) fn memory_file(name: &CStr) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let made = match memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        // Before Linux 6.3.
        Err(Errno::INVAL) => memfd_create(name, flags),
        made => made,
    };
    Ok(File::from(made?))
}

/// Answers on standard input until it is closed.
pub(super) fn serve() -> ExitCode {
    match try_serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(2),
    }
}

fn try_serve() -> io::Result<()> {
    child::begin()?;
    // Only some users may do this; others wait a little longer on a busy machine.
    // SAFETY: takes no pointers.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
    let stdin = io::stdin();
    exchange::ready(stdin.as_fd())?;
    let mut overlays = Overlays::default();
    while let Some(wanted) = exchange::next_question(stdin.as_fd())? {
        exchange::answer(stdin.as_fd(), &open(&wanted, &mut overlays))?;
    }
    Ok(())
}
