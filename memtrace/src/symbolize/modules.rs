//! The mapped files of the traced processes.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::ops::Range;
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use log::debug;

use super::native::MAX_FILE_SIZE;
use crate::report::escape::escape;

/// Files that are held open; what is mapped beyond that has no names.
const MAX_OPEN: usize = 512;

/// A mapped file.
#[derive(Debug)]
pub struct Module {
    /// Different for each module of a trace.
    pub id: usize,
    /// Its path in the process's own file system, escaped; `[vdso]` for the kernel's.
    pub path: Arc<str>,
    file: Option<File>,
}

impl Module {
    /// Where this process can read it, whatever became of its path; `None` when it could not be
    /// opened.
    #[must_use]
    pub fn readable_path(&self) -> Option<PathBuf> {
        let file = self.file.as_ref()?;
        Some(PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())))
    }

    /// The last part of its path.
    #[must_use]
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }
}

/// All mapped files of a trace, each once.
#[derive(Debug, Default)]
pub struct Modules {
    files: HashMap<((u32, u32), u64), Arc<Module>>,
    vdso: Option<Arc<Module>>,
    count: usize,
    open: usize,
}

impl Modules {
    /// The file mapped at `range` of process `pid`, as /proc/PID/maps describes it.
    pub fn file(
        &mut self,
        pid: u32,
        range: Range<u64>,
        device: (u32, u32),
        inode: u64,
        path: &[u8],
    ) -> Arc<Module> {
        // While a file is held open its inode is not given to another, so this key stays good.
        if let Some(known) = self.files.get(&(device, inode)) {
            return Arc::clone(known);
        }
        let file = self.open(pid, range, inode, path);
        let module = self.add(path, file);
        self.files.insert((device, inode), Arc::clone(&module));
        module
    }

    /// The code that the kernel maps into every process. Ours is the same as everybody's.
    pub fn vdso(&mut self) -> Arc<Module> {
        if let Some(known) = &self.vdso {
            return Arc::clone(known);
        }
        let file = copy_of_vdso()
            .inspect_err(|error| debug!("no vDSO: {error}"))
            .ok();
        let module = self.add(b"[vdso]", file);
        self.vdso = Some(Arc::clone(&module));
        module
    }

    fn add(&mut self, path: &[u8], file: Option<File>) -> Arc<Module> {
        let id = self.count;
        self.count += 1;
        self.open += usize::from(file.is_some());
        let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
        let path = escape(&String::from_utf8_lossy(path)).into();
        Arc::new(Module { id, path, file })
    }

    fn open(&self, pid: u32, range: Range<u64>, inode: u64, path: &[u8]) -> Option<File> {
        if self.open >= MAX_OPEN {
            debug!("{MAX_OPEN} files are open, not opening another");
            return None;
        }
        // By the mapping: right also when the path is gone, or means another file here.
        let mapped = format!("/proc/{pid}/map_files/{:x}-{:x}", range.start, range.end);
        let opened: io::Result<File> = open_regular(Path::new(&mapped)).or_else(|error| {
            debug!("{mapped}: {error}");
            let path = Path::new(std::ffi::OsStr::from_bytes(path));
            let inside = Path::new("/proc").join(pid.to_string()).join("root");
            let file = open_regular(&inside.join(path.strip_prefix("/").unwrap_or(path)))?;
            let same = file.metadata()?.ino() == inode;
            same.then_some(file)
                .ok_or_else(|| io::ErrorKind::NotFound.into())
        });
        opened
            .inspect_err(|error| debug!("{}: {error}", String::from_utf8_lossy(path)))
            .ok()
    }
}

/// Opens a file to read, if it is one: a device or pipe could block or do something.
fn open_regular(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if metadata.size() > MAX_FILE_SIZE {
        return Err(io::Error::other("too large to be looked into"));
    }
    Ok(file)
}

/// Our own vDSO, as a file in memory.
fn copy_of_vdso() -> io::Result<File> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let range = maps
        .lines()
        .find(|line| line.ends_with("[vdso]"))
        .and_then(|line| line.split(' ').next()?.split_once('-'))
        .and_then(|(start, end)| {
            Some((
                usize::from_str_radix(start, 16).ok()?,
                usize::from_str_radix(end, 16).ok()?,
            ))
        });
    let (start, end) = range.ok_or(io::ErrorKind::NotFound)?;
    // SAFETY: the kernel says that these addresses are mapped and readable, and keeps them so for
    // as long as the process lives.
    let bytes = unsafe { std::slice::from_raw_parts(start as *const u8, end - start) };
    // SAFETY: the name is a C string; no other pointers are passed.
    let fd = unsafe { libc::memfd_create(c"memtrace-vdso".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and nobody else has it.
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(bytes)?;
    Ok(file)
}
