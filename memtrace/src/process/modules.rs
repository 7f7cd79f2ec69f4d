//! The ELF files that traced processes have mapped.
//!
//! A file is opened once, when its first executable mapping is seen, and stays open. That is what
//! lets its addresses be named after the process has exited or the file was deleted, in a chroot
//! or another mount namespace, and it keeps the inode from being given to another file. What it says
//! of itself is asked then ([`Facts`], of an [`Inspector`]: here no file is looked into), and its
//! separate debug file is opened, so that nobody waits for a file later.
//!
//! Bounds: [`MAX_OPEN`] files are open, separate debug files included; those after that do not get
//! symbols. [`MAX_KNOWN`] mapped files are remembered; beyond that, those that are not mapped any
//! more are forgotten. For the time that opening takes see [`opener`](super::opener); whatever is
//! read of a file after that is on this machine's own file systems, or in memory.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use foldhash::HashMap;

use super::inspector::{Answerer, Asked, Inspector, Kind, Question};
use super::opener::{self, NotOpened, Opener, Which};
use crate::elf::{Facts, Layout, Wanted};
use crate::foreign;

/// Files that are kept open. A process may usually open 1,024; the rest is left to the probes,
/// which need some for every processor.
pub const MAX_OPEN: usize = 256;

/// Mapped files that are remembered.
pub const MAX_KNOWN: usize = 16_384;

/// Where distributions put debug information that they split off.
const DEBUG_DIR: &str = "/usr/lib/debug";

/// The process that is asked what files say of themselves. What it reads of one has bounds of its own.
pub const INSPECTOR: Kind = Kind {
    argument: "__facts",
    what: "reads the headers of files",
    without: "files are not known",
    data: 160 << 20,
    descriptors: 0,
    patience: Duration::from_secs(3),
    most: 1 << 20,
};

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
    opener: Opener,
    inspector: Inspector,
    /// What is looked for in each file.
    wanted: Wanted,
    open: Arc<AtomicUsize>,
    /// The kernel's shared object, with its size in memory, once it was asked for.
    vdso: OnceLock<Option<(u64, Arc<Module>)>>,
    /// Where separate debug files are, if there are any.
    debug_dir: Option<PathBuf>,
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
    opened: OnceLock<Opened>,
    /// Why it will not be opened.
    refused: OnceLock<NotOpened>,
    /// Why it could not be opened so far, as an error number; 0 when that is not known.
    failed: AtomicI32,
}

/// An open file, and what was read of it when it was opened.
#[derive(Debug)]
struct Opened {
    file: CountedFile,
    facts: Facts,
    debug_file: Option<CountedFile>,
    /// See [`Module::marks`].
    marks: OnceLock<u32>,
}

impl Modules {
    /// No files yet. They will be opened and looked into by processes of this same program: see
    /// [`Opener::process`] and [`Inspector::of`]. In each, what is `wanted` is looked for.
    #[must_use]
    pub fn looking_for(wanted: Wanted) -> Self {
        // This program is a test then, which would run its tests.
        let opener = if cfg!(test) {
            Opener::here()
        } else {
            Opener::process()
        };
        let mut inspector = Inspector::of(&INSPECTOR, || vec![answerer()]);
        inspector.prepare();
        Self::with(opener, inspector, wanted, Path::new(DEBUG_DIR))
    }

    /// The same, of which only the layout is known.
    #[cfg(test)]
    #[must_use]
    pub fn new() -> Self {
        Self::looking_for(Wanted::default())
    }

    /// Opens files by `opener`, and has `inspector` look into them. Looks for separate debug files in
    /// `debug_dir`, as `.build-id/ab/cdef.debug`. It must be writable only by those who may run
    /// memtrace.
    #[must_use]
    pub fn with(opener: Opener, inspector: Inspector, wanted: Wanted, debug_dir: &Path) -> Self {
        let debug_dir = debug_dir.join(".build-id");
        Self {
            known: HashMap::default(),
            count: 0,
            opener,
            inspector,
            wanted,
            open: Arc::default(),
            vdso: OnceLock::new(),
            debug_dir: debug_dir.is_dir().then_some(debug_dir),
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
            let module = Arc::new(Module::new(path));
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
        if mapped.executable && module.opened.get().is_none() && module.refused.get().is_none() {
            self.open(mapped, &module);
        }
        module
    }

    fn open(&mut self, mapped: &MappedFile<'_>, module: &Module) {
        if self.open.load(Ordering::Relaxed) >= MAX_OPEN {
            module.failed.store(libc::EMFILE, Ordering::Relaxed);
            return;
        }
        let which = Which::Mapped {
            pid: mapped.pid,
            range: mapped.range,
            inode: mapped.inode,
        };
        let path = PathBuf::from(OsStr::from_bytes(mapped.path));
        match self.opener.open(which, path, Some(mapped.device)) {
            Ok(file) => {
                if let Some(opened) = self.opened(file, module.id) {
                    module.opened.get_or_init(|| opened);
                }
            }
            // Another process may have it too.
            Err(NotOpened::NotThere(errno)) => module.failed.store(errno, Ordering::Relaxed),
            Err(why) => {
                module.refused.get_or_init(|| why);
            }
        }
    }

    /// Asks what a file says of itself, and opens its debug file; `None` when too many are open.
    fn opened(&mut self, file: File, id: u32) -> Option<Opened> {
        let file = CountedFile::new(file, &self.open)?;
        let asked = Asked {
            key: key_of(id),
            file: &file.file,
        };
        let facts = self.inspector.ask(&self.wanted, &[asked]);
        // Nothing, when that cannot be asked.
        let facts = facts.unwrap_or_default();
        let layout = facts.layout.as_ref();
        Some(Opened {
            debug_file: layout.and_then(|layout| self.debug_file(layout, key_of(id) | DEBUG)),
            facts,
            file,
            marks: OnceLock::new(),
        })
    }

    /// The file that has this one's debug information and symbols, found by its build id, unless it
    /// has its own.
    fn debug_file(&mut self, layout: &Layout, key: u64) -> Option<CountedFile> {
        let directory = self.debug_dir.as_ref()?;
        let id = layout.build_id.as_ref()?;
        if layout.has_debug_info && !layout.has_debug_link {
            return None;
        }
        let (first, rest) = id.split_first()?;
        let mut path = format!("{first:02x}/");
        for byte in rest {
            // Writing to a string does not fail.
            let _ = write!(path, "{byte:02x}");
        }
        let path = directory.join(path + ".debug");
        let file = self.opener.open(Which::Own, path, None).ok()?;
        let file = CountedFile::new(file, &self.open)?;
        let asked = Asked {
            key,
            file: &file.file,
        };
        // Nothing is looked for in it: its table of symbols may be large.
        let facts = self.inspector.ask(&Wanted::default(), &[asked]).ok()?;
        let same = facts.layout?.build_id.as_ref() == Some(id);
        same.then_some(file)
    }

    /// The kernel's shared object, mapped from `start` to `end`. Every process sees the same
    /// bytes, so this process's own copy serves them all; but a process of 32 bits has another
    /// one, of which this process does not have a copy.
    #[must_use]
    pub fn vdso(&mut self, start: u64, end: u64) -> Option<Arc<Module>> {
        if cfg!(target_pointer_width = "64") && end <= 1 << 32 {
            return None;
        }
        if self.vdso.get().is_none() {
            let own = own_vdso().and_then(|(size, file)| {
                let module = Module::new("[vdso]".to_owned());
                let opened = self.opened(file, module.id)?;
                module.opened.get_or_init(|| opened);
                Some((size, Arc::new(module)))
            });
            self.vdso.get_or_init(|| own);
        }
        let (own_size, module) = self.vdso.get()?.as_ref()?;
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

impl Module {
    fn new(path: String) -> Self {
        let name = path.rsplit('/').next().unwrap_or(&path);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            name: name.into(),
            path: path.into(),
            opened: OnceLock::new(),
            refused: OnceLock::new(),
            failed: AtomicI32::new(0),
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
        Some(&self.opened.get()?.file.file)
    }

    /// Why [`file`](Self::file) is `None`, in words.
    #[must_use]
    pub fn why_not_open(&self) -> String {
        let failed = NotOpened::NotThere(self.failed.load(Ordering::Relaxed));
        self.refused.get().unwrap_or(&failed).in_words()
    }

    /// Why the file could not be opened, in words, so that what is in it is not known; `None` when
    /// it is open, or nothing that could be a program.
    #[must_use]
    pub fn why_not_known(&self) -> Option<String> {
        let is_none = self.refused.get() == Some(&NotOpened::NoFile);
        let is_known = self.opened.get().is_some() || is_none;
        (!is_known).then(|| self.why_not_open())
    }

    /// How the file is laid out; `None` when it is not open or not an ELF file.
    pub(crate) fn layout(&self) -> Option<&Layout> {
        self.facts()?.layout.as_ref()
    }

    /// What the file says of itself; `None` when it is not open.
    pub(crate) fn facts(&self) -> Option<&Facts> {
        Some(&self.opened.get()?.facts)
    }

    /// What `tell` tells by that, as bits, of which this module knows nothing else. It is asked once
    /// for each file, whoever wants to know; 0 when the file is not open.
    pub(crate) fn marks(&self, tell: impl FnOnce(&Facts) -> u32) -> u32 {
        let opened = self.opened.get();
        opened.map_or(0, |opened| {
            *opened.marks.get_or_init(|| tell(&opened.facts))
        })
    }

    /// The file, for asking an [`Inspector`] about it; `None` when it is not open.
    pub(crate) fn asked(&self) -> Option<Asked<'_>> {
        let file = self.file()?;
        Some(Asked {
            key: key_of(self.id),
            file,
        })
    }

    /// The same of [`Self::debug_file`].
    pub(crate) fn debug_asked(&self) -> Option<Asked<'_>> {
        let file = self.debug_file()?;
        Some(Asked {
            key: key_of(self.id) | DEBUG,
            file,
        })
    }

    /// The file that has this one's debug information and symbols; `None` when it has them itself,
    /// or there is none.
    pub(crate) fn debug_file(&self) -> Option<&File> {
        Some(&self.opened.get()?.debug_file.as_ref()?.file)
    }
}

impl Question for Wanted {
    const NAME: &'static str = "facts";
    type Answer = Facts;
}

/// What answers the questions of [`Modules`].
#[must_use]
pub fn answerer() -> Answerer {
    Answerer::new(|wanted: &Wanted, files| Facts::read(files[0], wanted))
}

/// What an [`Inspector`] knows a module's file by.
fn key_of(id: u32) -> u64 {
    u64::from(id) << 1
}

/// Set in the key of its debug file.
const DEBUG: u64 = 1;

/// An open file that counts among the [`MAX_OPEN`].
#[derive(Debug)]
struct CountedFile {
    file: File,
    open: Arc<AtomicUsize>,
}

impl CountedFile {
    /// `None` when too many are open.
    fn new(file: File, open: &Arc<AtomicUsize>) -> Option<Self> {
        let before = open.fetch_add(1, Ordering::Relaxed);
        let counted = Self {
            file,
            open: Arc::clone(open),
        };
        (before < MAX_OPEN).then_some(counted)
    }
}

impl Drop for CountedFile {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
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
    let mut file = opener::memory_file(c"memtrace-vdso").ok()?;
    file.write_all(&image).ok()?;
    Some((size, file))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

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
            let module = Modules::new().see(&mapped(path, inode(path)));
            assert!(module.file().is_none());
            assert_eq!(module.why_not_open(), "it is not a regular file");
        }
    }

    #[test]
    fn a_file_that_cannot_be_opened_says_why() {
        let nowhere = Path::new("/nowhere/at/all");
        let module = Modules::new().see(&mapped(nowhere, 7));
        let why = module.why_not_known();
        assert_eq!(why.as_deref(), Some("no such file or directory (2)"));
        let device = Path::new("/dev/zero");
        let module = Modules::new().see(&mapped(device, inode(device)));
        assert_eq!(module.why_not_known(), None);
    }

    #[test]
    fn files_beyond_the_bound_are_not_opened() {
        let exe = std::env::current_exe().unwrap();
        let open = Arc::new(AtomicUsize::new(MAX_OPEN - 1));
        let file = || File::open(&exe).unwrap();
        let last = CountedFile::new(file(), &open);
        assert!(last.is_some());
        assert!(CountedFile::new(file(), &open).is_none());
        drop(last);
        assert!(CountedFile::new(file(), &open).is_some());
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
        let mut modules = Modules::new();
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
