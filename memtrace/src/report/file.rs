//! Files that appear when they are complete.
//!
//! A report is written into a new file beside the one that it will be, which takes its name at the
//! end. Until then nobody but memtrace knows of it, and it is removed however memtrace ends, short
//! of SIGKILL: when it is dropped, and by [`remove_unfinished`] where nothing is dropped any more.

use std::ffi::{CString, OsStr};
use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Stat, Uid};

/// Attempts to find a name that is not taken.
const ATTEMPTS: u32 = 100;

/// What a file made in the ordinary way may be used for, less what the umask takes away.
const ORDINARY: u32 = 0o666;

/// What a file may be used for that is its owner's alone.
const PRIVATE: u32 = 0o600;

/// The file that is being written; null when there is none.
static UNFINISHED: AtomicPtr<Name> = AtomicPtr::new(ptr::null_mut());

/// What a file is called. It is known by its directory, which may be renamed meanwhile.
struct Name {
    directory: RawFd,
    name: CString,
}

/// Removes the file that is being written. For the end of the process: it does only what a signal
/// handler may do.
pub fn remove_unfinished() {
    let name = UNFINISHED.load(Ordering::SeqCst);
    if !name.is_null() {
        // SAFETY: what has been there once is never freed, and the name ends with a NUL. At worst
        // the directory has just been closed, and nothing is removed.
        unsafe { libc::unlinkat((*name).directory, (*name).name.as_ptr(), 0) };
    }
}

/// Writes what a file will hold.
pub type Fill<'a> = &'a mut dyn FnMut(&mut dyn Write) -> anyhow::Result<()>;

/// What is done with a file of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It is replaced, and the new file has its owner and permissions, where that is permitted. A
    /// symbolic link is replaced, not followed.
    Replaced,
    /// It is left alone, and nothing is written. The new file is its owner's alone.
    Kept,
}

/// Has `fill` write the file at `path`.
///
/// # Errors
///
/// When it cannot be written, or `fill` fails. Then what was at `path` is as before.
pub fn write(path: &Path, existing: Existing, fill: Fill<'_>) -> anyhow::Result<()> {
    let (directory, name) = parts(path)?;
    let replaced = match existing {
        Existing::Replaced => regular_file(path),
        Existing::Kept => None,
    };
    let mode = match (existing, &replaced) {
        // Nobody may read it whom the file that it replaces keeps out.
        (Existing::Kept, _) | (_, Some(_)) => PRIVATE,
        (Existing::Replaced, None) => ORDINARY,
    };
    let unfinished = Unfinished::create(&directory, mode)?;
    let mut out = BufWriter::new(&unfinished.file);
    let filled = fill(&mut out);
    if filled.is_err() {
        // What is still buffered would be tried again on drop.
        drop(out.into_parts());
        return filled;
    }
    out.into_inner().map_err(io::IntoInnerError::into_error)?;
    if let Some(replaced) = replaced {
        resemble(&unfinished.file, &replaced)?;
    }
    Ok(unfinished.finish(name, existing)?)
}

/// Finds out whether a new file can be made beside `path`. Leaves nothing behind.
///
/// # Errors
///
/// Why not.
pub fn try_beside(path: &Path) -> io::Result<()> {
    Unfinished::create(&parts(path)?.0, PRIVATE).map(drop)
}

/// The directory of `path`.
pub fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// The directory of `path`, and its name in there.
fn parts(path: &Path) -> io::Result<(PathBuf, &OsStr)> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    Ok((directory_of(path).to_owned(), name))
}

/// What is at `path`, if it is a regular file.
fn regular_file(path: &Path) -> Option<Stat> {
    let found = rustix::fs::lstat(path).ok()?;
    (FileType::from_raw_mode(found.st_mode) == FileType::RegularFile).then_some(found)
}

/// Gives `file` the owner, the group and the permissions of another file, as far as this user may.
fn resemble(file: &File, other: &Stat) -> io::Result<()> {
    let (owner, group) = (Uid::from_raw(other.st_uid), Gid::from_raw(other.st_gid));
    let mut mode = other.st_mode & 0o777;
    if rustix::fs::fchown(file, Some(owner), Some(group)).is_err()
        && rustix::fs::fchown(file, None, Some(group)).is_err()
    {
        // Of another group, it may be used for no more than everybody may use it for.
        mode &= 0o707 | (mode & 0o007) << 3;
    }
    file.set_permissions(Permissions::from_mode(mode))
}

/// A file that has a temporary name, and goes when this is dropped.
struct Unfinished {
    directory: OwnedFd,
    name: CString,
    file: File,
    /// What [`UNFINISHED`] was set to, if it was.
    registered: *mut Name,
}

impl Unfinished {
    fn create(directory: &Path, mode: u32) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(directory, flags, Mode::empty())?;
        let mut last = io::ErrorKind::AlreadyExists.into();
        for _ in 0..ATTEMPTS {
            let name = new_name();
            // Before it exists, so that there is no moment in which it would be left behind.
            let registered = register(&directory, &name);
            let flags =
                OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match rustix::fs::openat(&directory, &name, flags, Mode::from_raw_mode(mode)) {
                Ok(file) => {
                    return Ok(Self {
                        directory,
                        name,
                        file: file.into(),
                        registered,
                    });
                }
                Err(error) => {
                    unregister(registered);
                    last = error.into();
                    if error != rustix::io::Errno::EXIST {
                        break;
                    }
                }
            }
        }
        Err(last)
    }

    /// Gives it the name that it is for.
    fn finish(self, name: &OsStr, existing: Existing) -> io::Result<()> {
        let (at, old) = (&self.directory, &self.name);
        let flags = match existing {
            Existing::Replaced => RenameFlags::empty(),
            Existing::Kept => RenameFlags::NOREPLACE,
        };
        match rustix::fs::renameat_with(at, old, at, name, flags) {
            // Not every file system can promise not to replace.
            Err(rustix::io::Errno::INVAL) if existing == Existing::Kept => {
                if rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                rustix::fs::renameat(at, old, at, name)?;
            }
            other => other?,
        }
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // This fails when the file has got its final name.
        let _ = rustix::fs::unlinkat(&self.directory, &self.name, AtFlags::empty());
        unregister(self.registered);
    }
}

/// A name that is probably not taken.
fn new_name() -> CString {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!(".memtrace-{}-{count}", std::process::id());
    CString::new(name).unwrap_or_default()
}

/// Has [`remove_unfinished`] remove this file; returns null when it already has another to remove,
/// as only happens where tests run in parallel.
fn register(directory: &OwnedFd, name: &CString) -> *mut Name {
    let name = Box::into_raw(Box::new(Name {
        directory: directory.as_raw_fd(),
        name: name.clone(),
    }));
    let free = ptr::null_mut();
    let set = UNFINISHED.compare_exchange(free, name, Ordering::SeqCst, Ordering::SeqCst);
    if set.is_ok() {
        return name;
    }
    // SAFETY: it was made here, and nobody else has it.
    drop(unsafe { Box::from_raw(name) });
    free
}

/// The opposite. What was registered is kept for ever, some bytes for each report: a signal handler
/// on another thread may be using it.
fn unregister(name: *mut Name) {
    if !name.is_null() {
        let free = ptr::null_mut();
        let _ = UNFINISHED.compare_exchange(name, free, Ordering::SeqCst, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use anyhow::bail;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    fn put(path: &Path, text: &str) {
        let fill: Fill<'_> = &mut |out| Ok(out.write_all(text.as_bytes())?);
        write(path, Existing::Replaced, fill).unwrap();
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_file_appears_whole_with_ordinary_permissions() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.txt");
        put(&path, "new");
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(names(dir.path()), ["report.txt"]);
        let plain = dir.path().join("plain");
        File::create(&plain).unwrap();
        assert_eq!(mode(&path), mode(&plain));
    }

    #[test]
    fn a_file_that_is_replaced_keeps_its_owner_and_permissions() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.txt");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        // SAFETY: takes no pointers.
        let is_root = unsafe { libc::geteuid() } == 0;
        if is_root {
            std::os::unix::fs::chown(&path, Some(12), Some(34)).unwrap();
        }
        let before = fs::metadata(&path).unwrap();
        put(&path, "new");
        let after = fs::metadata(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(mode(&path), 0o640);
        assert_eq!((after.uid(), after.gid()), (before.uid(), before.gid()));
        assert_ne!(after.ino(), before.ino());
        // Bits that give more than access are not kept.
        fs::set_permissions(&path, Permissions::from_mode(0o4755)).unwrap();
        put(&path, "newer");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o755);
    }

    #[test]
    fn a_failure_leaves_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.txt");
        fs::write(&path, "old").unwrap();
        let error = write(&path, Existing::Replaced, &mut |out| {
            out.write_all(b"half")?;
            bail!("no more")
        });
        assert_eq!(error.unwrap_err().to_string(), "no more");
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(names(dir.path()), ["report.txt"]);
    }

    #[test]
    fn a_link_is_replaced_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (link, target) = (dir.path().join("link"), dir.path().join("target"));
        fs::write(&target, "mine").unwrap();
        symlink(&target, &link).unwrap();
        put(&link, "report");
        assert_eq!(fs::read_to_string(&target).unwrap(), "mine");
        assert!(fs::symlink_metadata(&link).unwrap().is_file());
    }

    #[test]
    fn a_file_that_is_there_can_be_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.txt");
        let fill: Fill<'_> = &mut |out| Ok(out.write_all(b"report")?);
        write(&path, Existing::Kept, fill).unwrap();
        assert_eq!(mode(&path), PRIVATE);
        fs::write(&path, "old").unwrap();
        let error = write(&path, Existing::Kept, fill).unwrap_err();
        let error: &io::Error = error.downcast_ref().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(names(dir.path()), ["report.txt"]);
    }

    /// Not a test itself: the process that the next test runs, and interrupts.
    #[test]
    #[ignore = "run by a_file_that_is_being_written_goes_with_the_process"]
    fn writer_that_is_interrupted() {
        let Some(path) = std::env::var_os("MEMTRACE_TEST_PATH") else {
            return;
        };
        crate::signals::install(remove_unfinished).unwrap();
        let never = write(Path::new(&path), Existing::Replaced, &mut |out| {
            out.write_all(&vec![b'x'; 1 << 16])?;
            println!("\nwriting");
            std::thread::sleep(std::time::Duration::from_secs(100));
            Ok(())
        });
        never.unwrap();
    }

    #[test]
    fn a_file_that_is_being_written_goes_with_the_process() {
        use std::io::BufRead as _;
        let dir = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture"])
            .arg("report::file::tests::writer_that_is_interrupted")
            .env("MEMTRACE_TEST_PATH", dir.path().join("report.txt"))
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = io::BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "writing"));
        assert_eq!(names(dir.path()).len(), 1);
        let pid = child.id().cast_signed();
        // Two that are pending at once count as one.
        for signal in [libc::SIGINT, libc::SIGTERM] {
            // SAFETY: the process is a child that has not been waited for.
            unsafe { libc::kill(pid, signal) };
        }
        assert!(child.wait().unwrap().code().is_some_and(|code| code > 128));
        assert_eq!(names(dir.path()), Vec::<String>::new());
    }

    #[test]
    fn trying_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        try_beside(&dir.path().join("report.txt")).unwrap();
        assert_eq!(names(dir.path()), Vec::<String>::new());
        let missing = try_beside(&dir.path().join("no/report.txt")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
