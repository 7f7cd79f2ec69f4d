//! The ELF files that traced processes have mapped.
//!
//! A file is opened once, when its first executable mapping is seen, and stays open. That is what
//! lets its addresses be named after the process has exited or the file was deleted, in a chroot
//! or another mount namespace, and it keeps the inode from being given to another file.
//!
//! Bounds: [`MAX_OPEN`] files are open, separate debug files included; those after that do not get
//! symbols. [`MAX_KNOWN`] mapped files are remembered; beyond that, those that are not mapped any
//! more are forgotten. The time that a file system needs to open a file or to read its headers is
//! not bounded, which matters where a user's process serves it (FUSE).

use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use crate::elf::{Headers, Layout};
use crate::foreign;

/// Files that are kept open. A process may usually open 1,024; the rest is left to the probes,
/// which need some for every processor.
pub const MAX_OPEN: usize = 256;

/// Mapped files that are remembered.
pub const MAX_KNOWN: usize = 16_384;

/// Where distributions put debug information that they split off.
const DEBUG_DIR: &str = "/usr/lib/debug";

/// The most bytes of the kernel's shared object, which has two to four pages.
const MAX_VDSO: u64 = 1 << 20;

/// The next [`Module::id`].
static NEXT: AtomicU32 = AtomicU32::new(0);

/// The files mapped by all processes of a trace.
#[derive(Debug)]
pub struct Modules {
    /// By device and inode; several where one inode was mapped under several paths.
    known: HashMap<((u32, u32), u64), Vec<PathModule>>,
    count: usize,
    open: Arc<AtomicUsize>,
    vdso: OnceLock<Option<(u64, Arc<Module>)>>,
    debug_dir: Arc<Path>,
}

/// The module of one path.
#[derive(Debug)]
struct PathModule {
    path: Box<[u8]>,
    module: Arc<Module>,
}

/// A file mapping as a process's maps show it.
#[derive(Clone, Copy, Debug)]
pub struct MappedFile<'path> {
    /// The process whose maps these are.
    pub pid: u32,
    /// First address, and one past the last.
    pub range: (u64, u64),
    /// Whether code in it may run.
    pub executable: bool,
    /// Major and minor number.
    pub device: (u32, u32),
    /// Number of the inode.
    pub inode: u64,
    /// As the kernel prints it, without the ` (deleted)` at its end.
    pub path: &'path [u8],
}

/// One mapped file, shared by all processes that map it.
#[derive(Debug)]
pub struct Module {
    id: u32,
    path: Arc<str>,
    name: Arc<str>,
    /// Unset until an executable mapping is seen through which it could be opened.
    file: OnceLock<Opened>,
    layout: OnceLock<Option<Layout>>,
    debug_file: OnceLock<Option<Opened>>,
    open: Arc<AtomicUsize>,
    debug_dir: Arc<Path>,
}

impl Modules {
    /// No files yet.
    #[must_use]
    pub fn new() -> Self {
        Self::with_debug_dir(PathBuf::from(DEBUG_DIR))
    }

    /// Looks for separate debug files in `debug_dir`, as `.build-id/ab/cdef.debug`, rather than
    /// where distributions put them. It must be writable only by those who may run memtrace.
    #[must_use]
    pub fn with_debug_dir(debug_dir: PathBuf) -> Self {
        Self {
            known: HashMap::new(),
            count: 0,
            open: Arc::default(),
            vdso: OnceLock::new(),
            debug_dir: debug_dir.into(),
        }
    }

    /// The module of a file mapping. Its file is opened when the mapping is the first executable
    /// one that is seen of it.
    ///
    /// Two mappings are of one file when device, inode and path are equal. (On file systems with
    /// several volumes in one device, such as btrfs, two files of one path and inode number, in
    /// snapshots of one volume, are taken for one.)
    pub fn see(&mut self, mapped: &MappedFile<'_>) -> Arc<Module> {
        let known = self.known.entry((mapped.device, mapped.inode)).or_default();
        let same = known.iter().find(|known| *known.path == *mapped.path);
        let module = if let Some(known) = same {
            Arc::clone(&known.module)
        } else {
            let path = foreign::shown_path(mapped.path);
            let module = Arc::new(Module::new(path, &self.open, &self.debug_dir));
            known.push(PathModule {
                path: mapped.path.into(),
                module: Arc::clone(&module),
            });
            self.count += 1;
            if self.count > MAX_KNOWN {
                self.forget();
            }
            module
        };
        if mapped.executable
            && module.file.get().is_none()
            && let Some(opened) = Opened::mapped(mapped, &self.open)
        {
            module.file.get_or_init(|| opened);
        }
        module
    }

    /// The kernel's shared object, mapped from `start` to `end`. Every process sees the same
    /// bytes, so this process's own copy serves them all; but a process of 32 bits has another
    /// one, of which this process does not have a copy.
    #[must_use]
    pub fn vdso(&self, start: u64, end: u64) -> Option<Arc<Module>> {
        if cfg!(target_pointer_width = "64") && end <= 1 << 32 {
            return None;
        }
        let known = self.vdso.get_or_init(|| {
            let (size, file) = own_vdso()?;
            let module = Module::new("[vdso]".to_owned(), &self.open, &self.debug_dir);
            let opened = Opened::new(file, &self.open)?;
            module.file.get_or_init(|| opened);
            Some((size, Arc::new(module)))
        });
        let (own_size, module) = known.as_ref()?;
        (*own_size == end - start).then(|| Arc::clone(module))
    }

    /// Forgets files that are not mapped any more, and closes their descriptors.
    fn forget(&mut self) {
        self.known.retain(|_, known| {
            known.retain(|known| Arc::strong_count(&known.module) > 1);
            !known.is_empty()
        });
        self.count = self.known.values().map(Vec::len).sum();
    }
}

impl Default for Modules {
    fn default() -> Self {
        Self::new()
    }
}

impl Module {
    fn new(path: String, open: &Arc<AtomicUsize>, debug_dir: &Arc<Path>) -> Self {
        let name = path.rsplit('/').next().unwrap_or(&path);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            name: name.into(),
            path: path.into(),
            file: OnceLock::new(),
            layout: OnceLock::new(),
            debug_file: OnceLock::new(),
            open: Arc::clone(open),
            debug_dir: Arc::clone(debug_dir),
        }
    }

    /// Different for every module of this run of memtrace.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Path of the file as the process mapped it, escaped, or `[vdso]`.
    #[must_use]
    pub fn path(&self) -> &Arc<str> {
        &self.path
    }

    /// The last part of the path.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The open file. `None` when it could not be opened, or has no executable mapping.
    #[must_use]
    pub fn file(&self) -> Option<&File> {
        Some(&self.file.get()?.file)
    }

    /// How the file is laid out; `None` when it is not open or not an ELF file.
    pub(crate) fn layout(&self) -> Option<&Layout> {
        let file = self.file()?;
        self.layout.get_or_init(|| Layout::read(file)).as_ref()
    }

    /// The file that has this one's debug information and symbols, found by its build id.
    pub(crate) fn debug_file(&self) -> Option<&File> {
        let opened = self.debug_file.get_or_init(|| {
            let id = self.layout()?.build_id.as_ref()?;
            let (first, rest) = id.split_first()?;
            let mut path = format!(".build-id/{first:02x}/");
            for byte in rest {
                // Writing to a string does not fail.
                let _ = write!(path, "{byte:02x}");
            }
            let path = self.debug_dir.join(path + ".debug");
            let opened = Opened::new(open_regular(&path).ok()?, &self.open)?;
            let same = Headers::read(&opened.file)?.build_id(&opened.file).as_ref() == Some(id);
            same.then_some(opened)
        });
        Some(&opened.as_ref()?.file)
    }
}

/// An open file that counts among the [`MAX_OPEN`].
#[derive(Debug)]
struct Opened {
    file: File,
    open: Arc<AtomicUsize>,
}

impl Opened {
    /// `None` when too many are open.
    fn new(file: File, open: &Arc<AtomicUsize>) -> Option<Self> {
        let before = open.fetch_add(1, Ordering::Relaxed);
        let opened = Self {
            file,
            open: Arc::clone(open),
        };
        (before < MAX_OPEN).then_some(opened)
    }

    /// Opens the file of a mapping: through the mapping itself, which also finds a deleted file,
    /// one in another mount namespace and one below a chroot; or by its path, as the process sees
    /// it and as this one does, if that still leads to the same inode.
    fn mapped(mapped: &MappedFile<'_>, open: &Arc<AtomicUsize>) -> Option<Self> {
        let MappedFile {
            pid,
            range: (start, end),
            path,
            inode,
            ..
        } = *mapped;
        let by_path = |path: &Path| {
            let file = open_regular(path).ok()?;
            (file.metadata().ok()?.ino() == inode).then_some(file)
        };
        let path = Path::new(OsStr::from_bytes(path));
        let file = open_regular(Path::new(&format!(
            "/proc/{pid}/map_files/{start:x}-{end:x}"
        )))
        .ok()
        .or_else(|| {
            let root = PathBuf::from(format!("/proc/{pid}/root"));
            by_path(&root.join(path.strip_prefix("/").ok()?))
        })
        .or_else(|| by_path(path))?;
        Self::new(file, open)
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Opens a regular file for reading and refuses anything else, without the side effects or the wait
/// that opening a device or a pipe could have: its type is checked before it is opened.
fn open_regular(path: &Path) -> io::Result<File> {
    let place = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path)?;
    if !place.metadata()?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        ));
    }
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(format!("/proc/self/fd/{}", place.as_raw_fd()))
}

/// This process's copy of the kernel's shared object: its size in memory, and a file that holds it.
fn own_vdso() -> Option<(u64, File)> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.ends_with("[vdso]"))?;
    let (start, rest) = line.split_once('-')?;
    let start = u64::from_str_radix(start, 16).ok()?;
    let end = u64::from_str_radix(rest.split(' ').next()?, 16).ok()?;
    let size = end.checked_sub(start).filter(|&size| size <= MAX_VDSO)?;
    let mut image = vec![0; size as usize];
    File::open("/proc/self/mem")
        .ok()?
        .read_exact_at(&mut image, start)
        .ok()?;
    let mut file = memory_file(c"memtrace-vdso").ok()?;
    file.write_all(&image).ok()?;
    Some((size, file))
}

/// A file in memory.
fn memory_file(name: &CStr) -> io::Result<File> {
    // SAFETY: `name` is a valid C string that outlives the call, which touches no other memory.
    let descriptor = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just created this descriptor, so nothing else owns it.
    Ok(unsafe { File::from_raw_fd(descriptor) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(path: &Path, inode: u64) -> MappedFile<'_> {
        MappedFile {
            pid: u32::MAX,
            range: (0x1000, 0x2000),
            executable: true,
            device: (1, 2),
            inode,
            path: path.as_os_str().as_bytes(),
        }
    }

    fn inode(path: &Path) -> u64 {
        path.metadata().unwrap().ino()
    }

    #[test]
    fn processes_share_a_module_and_only_code_is_opened() {
        let exe = std::env::current_exe().unwrap();
        let mut modules = Modules::new();
        let mut data = mapped(&exe, inode(&exe));
        data.executable = false;
        let first = modules.see(&data);
        assert!(first.file().is_none());
        let second = modules.see(&mapped(&exe, inode(&exe)));
        assert!(Arc::ptr_eq(&first, &second));
        assert!(first.file().is_some());
        assert_eq!(modules.open.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_path_that_leads_elsewhere_is_not_opened() {
        let exe = std::env::current_exe().unwrap();
        assert!(
            Modules::new()
                .see(&mapped(&exe, inode(&exe) + 1))
                .file()
                .is_none()
        );
    }

    #[test]
    fn only_regular_files_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap();
        assert!(made.success());
        for path in [Path::new("/dev/zero"), dir.path(), &pipe] {
            assert_eq!(
                open_regular(path).unwrap_err().kind(),
                io::ErrorKind::InvalidInput
            );
            assert!(
                Modules::new()
                    .see(&mapped(path, inode(path)))
                    .file()
                    .is_none()
            );
        }
    }

    #[test]
    fn files_beyond_the_bound_are_not_opened() {
        let exe = std::env::current_exe().unwrap();
        let open = Arc::new(AtomicUsize::new(MAX_OPEN - 1));
        let file = || File::open(&exe).unwrap();
        let last = Opened::new(file(), &open);
        assert!(last.is_some());
        assert!(Opened::new(file(), &open).is_none());
        drop(last);
        assert!(Opened::new(file(), &open).is_some());
    }

    #[test]
    fn unused_files_are_forgotten() {
        let mut modules = Modules::new();
        let kept = modules.see(&mapped(Path::new("/kept"), 0));
        for inode in 1..=MAX_KNOWN as u64 {
            modules.see(&mapped(Path::new("/x"), inode));
        }
        // The last one was in use, by the caller, when the others were forgotten.
        assert_eq!(modules.count, 2);
        assert!(Arc::ptr_eq(
            &kept,
            &modules.see(&mapped(Path::new("/kept"), 0))
        ));
    }

    #[test]
    fn the_vdso_is_an_elf_file() {
        let modules = Modules::new();
        let Some((size, _)) = own_vdso() else {
            crate::skipped::skipped("this kernel gives no vDSO");
            return;
        };
        let high = 0x7fff_0000_0000;
        let vdso = modules.vdso(high, high + size).unwrap();
        assert!(vdso.layout().is_some());
        assert_eq!(vdso.path().as_ref(), "[vdso]");
        assert!(modules.vdso(high, high + size + 4096).is_none());
        assert!(modules.vdso(0x1000, 0x1000 + size).is_none());
    }
}
