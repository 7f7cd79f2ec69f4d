//! Unwind tables kept on disk between runs.
//!
//! memtrace runs as root, often by way of `sudo`, which may leave the home directory of an ordinary
//! user in the environment. So the directory is only used if nobody else could have put something
//! into it: each directory on the way to it belongs to root or to the user who runs memtrace,
//! nobody else can write to any of them (except where they cannot remove what is not theirs), and
//! symbolic links are not followed. Everything is done through the directory's descriptor.
//!
//! A file is written under a name of its own and then renamed, so that two writers at once do not
//! disturb each other and a file that is there is whole. It is not flushed to the disk: what a
//! crash of the machine leaves behind is found out by its checksum and built again.

use std::env;
use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{self as at, AtFlags, Dir, Mode, OFlags};

use super::format;
use super::table::{TableIdentity, UnwindTable};

/// Bytes that are kept; the tables of a large Python installation have 20 MB.
const BOUND: u64 = 256 << 20;

/// How many quarters of the bound are left once it was exceeded.
const KEPT_PARTS: u64 = 3;

/// A table that is used is marked as used, but not more often than this.
const TOUCH_AFTER: Duration = Duration::from_hours(1);

/// Nobody is still writing an unfinished file that was begun longer ago than this.
const ABANDONED: Duration = Duration::from_hours(1);

/// The permission of others to write.
const OTHERS_WRITE: u32 = 0o022;
/// In such a directory only the owner of a file can remove it.
const STICKY: u32 = 0o1000;

/// A directory of tables.
pub struct Cache {
    directory: OwnedFd,
    bound: u64,
}

impl Cache {
    /// The user's own directory, made if it is not there: `memtrace/unwind` in `$XDG_CACHE_HOME`,
    /// else in `.cache` in `$HOME`, else in `.cache` in the home directory that the user database
    /// has.
    ///
    /// # Errors
    /// When none of them can be used: why, in words.
    pub fn open() -> Result<Self, String> {
        let given = |name| env::var_os(name).map(PathBuf::from);
        let own = home_directory().map(|home| home.join(".cache"));
        let candidates = [
            given("XDG_CACHE_HOME"),
            given("HOME").map(|home| home.join(".cache")),
            own,
        ];
        let mut reasons = Vec::new();
        for path in candidates.into_iter().flatten() {
            if !path.is_absolute() {
                continue;
            }
            let path = path.join("memtrace/unwind");
            match Self::at(&path, BOUND) {
                Ok(cache) => return Ok(cache),
                Err(error) => reasons.push(format!("{}: {error}", path.display())),
            }
        }
        if reasons.is_empty() {
            return Err("no home directory is known".to_owned());
        }
        reasons.dedup();
        Err(reasons.join("; "))
    }

    /// The directory `path`, which is absolute, of at most `bound` bytes.
    ///
    /// # Errors
    /// When it cannot be made, or others could write to it or to a directory on the way.
    pub fn at(path: &Path, bound: u64) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut directory = at::open("/", flags, Mode::empty())?;
        for part in path.components() {
            let name = match part {
                Component::RootDir | Component::CurDir => continue,
                Component::Normal(name) => name,
                Component::ParentDir | Component::Prefix(_) => {
                    return Err(refused("its path has `..` in it"));
                }
            };
            match at::mkdirat(&directory, name, Mode::RWXU) {
                // It may be there already, on a file system that is mounted read-only.
                Ok(()) | Err(rustix::io::Errno::EXIST | rustix::io::Errno::ROFS) => {}
                Err(error) => return Err(error.into()),
            }
            directory = at::openat(&directory, name, flags, Mode::empty())?;
            check(&directory, name)?;
        }
        let of = at::fstat(&directory)?;
        if of.st_uid != own_id() || of.st_mode & OTHERS_WRITE != 0 {
            return Err(refused("it belongs to somebody else"));
        }
        Ok(Self { directory, bound })
    }

    /// The table that was kept under this name; `None` when there is none, or it is damaged.
    #[must_use]
    pub fn get(&self, identity: &TableIdentity) -> Option<UnwindTable> {
        let name = format::file_name(identity);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = at::openat(&self.directory, &name, flags, Mode::empty()).ok()?;
        let mut file = File::from(file);
        let of = file.metadata().ok()?;
        if !of.is_file() || of.uid() != own_id() || of.nlink() != 1 || of.len() > format::MAX_SIZE {
            return None;
        }
        let mut bytes = Vec::with_capacity(of.len() as usize);
        (&mut file).take(of.len()).read_to_end(&mut bytes).ok()?;
        let Some(table) = format::decode(&bytes, identity) else {
            log::debug!("the kept unwind table {name} is damaged; it is built again");
            let _ = at::unlinkat(&self.directory, &name, AtFlags::empty());
            return None;
        };
        let age = of.modified().ok().and_then(|then| then.elapsed().ok());
        if age.is_some_and(|age| age > TOUCH_AFTER) {
            // A table that is used is kept longer. If it cannot be marked, it goes sooner.
            let _ = file.set_modified(SystemTime::now());
        }
        Some(table)
    }

    /// Keeps a table, and where there are too many removes those that have not been used for the
    /// longest time.
    ///
    /// # Errors
    /// When it cannot be written; nothing is left behind then.
    pub fn put(&self, identity: &TableIdentity, table: &UnwindTable) -> io::Result<()> {
        let bytes = format::encode(identity, table);
        if bytes.len() as u64 > self.bound / 2 {
            return Err(io::Error::other("it is too large to be kept"));
        }
        let name = format::file_name(identity);
        let unfinished = format!(
            "{name}.{}-{:?}.tmp",
            std::process::id(),
            std::thread::current().id()
        );
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let written = at::openat(&self.directory, &unfinished, flags, Mode::RUSR | Mode::WUSR)
            .map_err(io::Error::from)
            .and_then(|file| File::from(file).write_all(&bytes))
            .and_then(|()| {
                let directory = &self.directory;
                Ok(at::renameat(directory, &unfinished, directory, &name)?)
            });
        if let Err(error) = written {
            let _ = at::unlinkat(&self.directory, &unfinished, AtFlags::empty());
            return Err(error);
        }
        self.prune()
    }

    /// Removes files until the bound holds.
    fn prune(&self) -> io::Result<()> {
        let mut files = Vec::new();
        let now = SystemTime::now();
        for entry in Dir::read_from(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name();
            // Another memtrace may have removed it.
            let Ok(of) = at::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            if at::FileType::from_raw_mode(of.st_mode) != at::FileType::RegularFile {
                continue;
            }
            let seconds = u64::try_from(of.st_mtime).unwrap_or(0);
            let used = SystemTime::UNIX_EPOCH + Duration::new(seconds, of.st_mtime_nsec as u32);
            let age = now.duration_since(used).unwrap_or_default();
            if name.to_bytes().ends_with(b".tmp") && age > ABANDONED {
                self.remove(name);
            } else {
                files.push((
                    used,
                    u64::try_from(of.st_size).unwrap_or(0),
                    name.to_owned(),
                ));
            }
        }
        let mut total: u64 = files.iter().map(|&(_, size, _)| size).sum();
        if total <= self.bound {
            return Ok(());
        }
        files.sort();
        for (_, size, name) in files {
            if total <= self.bound / 4 * KEPT_PARTS {
                break;
            }
            self.remove(&name);
            total -= size;
        }
        Ok(())
    }

    fn remove(&self, name: &CStr) {
        // Another memtrace may remove the same file.
        let _ = at::unlinkat(&self.directory, name, AtFlags::empty());
    }
}

/// A directory on the way must be one to which only root or this user can write.
fn check(directory: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let of = at::fstat(directory)?;
    let is_own = of.st_uid == 0 || of.st_uid == own_id();
    let is_open = of.st_mode & OTHERS_WRITE != 0 && of.st_mode & STICKY == 0;
    if is_own && !is_open {
        return Ok(());
    }
    let name = name.display();
    Err(refused(&format!(
        "others than its user could write to the directory `{name}`"
    )))
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}

fn own_id() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The home directory that the user database has for this user.
fn home_directory() -> Option<PathBuf> {
    let mut buffer = vec![0; 16 << 10];
    // SAFETY: all-zero bytes are a value of this type.
    let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
    let mut found = std::ptr::null_mut();
    // SAFETY: the entry and the buffer can be written to, and the buffer is as long as we say.
    let failed = unsafe {
        libc::getpwuid_r(
            own_id(),
            &raw mut entry,
            buffer.as_mut_ptr(),
            buffer.len(),
            &raw mut found,
        )
    };
    if failed != 0 || found.is_null() || entry.pw_dir.is_null() {
        return None;
    }
    // SAFETY: the call filled the entry in, whose strings lie in the buffer and end with NUL.
    let home = unsafe { CStr::from_ptr(entry.pw_dir) };
    Some(PathBuf::from(OsStr::from_bytes(home.to_bytes())))
}

#[cfg(test)]
#[path = "cache/tests.rs"]
mod tests;
