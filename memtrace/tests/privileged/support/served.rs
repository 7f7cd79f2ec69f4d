//! A file system with one file, which a thread of the test serves by the kernel's FUSE protocol, and
//! which stops answering when it is told to.
//!
//! It is mounted in a mount namespace of the test's own thread, so that nothing is left of it when
//! the test ends, however that happens. All requests that were not answered end then, too.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;

use super::Why;

/// The name of the file.
const NAME: &str = "served";

/// The number of the file's inode; the folder's is 1.
const INODE: u64 = 2;

/// For how long the kernel may believe what it was told: for good.
const VALID: u64 = 1 << 30;

/// Bytes that one request may have: as many as the kernel wants room for, and more.
const LARGEST: usize = 256 << 10;

/// Opening another time does not drop what is in the page cache.
const KEEP_CACHE: u32 = 1 << 1;

/// Operations of the protocol, by the kernel's `linux/fuse.h`.
mod operation {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const FLUSH: u32 = 25;
    pub const INIT: u32 = 26;
    pub const INTERRUPT: u32 = 36;
    pub const BATCH_FORGET: u32 = 42;
}

/// A mounted file system. Dropping it ends all requests.
pub struct Served {
    path: PathBuf,
    stuck: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

/// What is not answered any more.
#[derive(Clone, Copy, Debug)]
pub enum Stuck {
    /// Opening the file.
    Open = operation::OPEN as isize,
    /// Reading what is not in the page cache.
    Read = operation::READ as isize,
}

impl Served {
    /// Mounts it at `folder`, where whatever this thread starts sees it, with a file that is
    /// executable and has this content. Its first `cached` bytes are in the page cache then.
    pub fn mount(folder: &Path, content: Vec<u8>, cached: usize) -> Result<Self, Why> {
        super::privileged()?;
        let device = File::options().read(true).write(true).open("/dev/fuse");
        let device = device
            .map_err(|error| Why::Unavailable(format!("/dev/fuse cannot be opened: {error}")))?;
        mount(folder, &device).expect("root can mount");
        let stuck = Arc::new(AtomicU32::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let server = Server {
            device,
            content,
            stuck: Arc::clone(&stuck),
        };
        let stopped = Arc::clone(&stop);
        let mounted = Self {
            path: folder.join(NAME),
            stuck,
            stop,
            server: Some(std::thread::spawn(move || server.serve(&stopped))),
        };
        let mut start = vec![0; cached];
        let mut file = File::open(&mounted.path).expect("it is served");
        file.read_exact(&mut start).expect("it is served");
        Ok(mounted)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Stops answering.
    pub fn stop_answering(&self, what: Stuck) {
        self.stuck.store(what as u32, Ordering::Relaxed);
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // When nobody has the device open any more, the kernel ends all requests.
        self.stop.store(true, Ordering::Relaxed);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

/// Moves this thread to a mount namespace of its own, and mounts what `device` serves at `folder`.
fn mount(folder: &Path, device: &File) -> io::Result<()> {
    let folder = CString::new(folder.as_os_str().as_bytes())?;
    let options = CString::new(format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,allow_other",
        device.as_raw_fd()
    ))?;
    let check = |result| match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    let none = std::ptr::null();
    // SAFETY: takes no pointers.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    let private = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: the path is a valid C string; this kind of mounting reads nothing else.
    check(unsafe { libc::mount(none, c"/".as_ptr(), none, private, none.cast()) })?;
    let options = options.as_ptr().cast();
    let fuse = c"fuse".as_ptr();
    // SAFETY: all strings are valid C strings that outlive the call.
    check(unsafe { libc::mount(fuse, folder.as_ptr(), fuse, 0, options) })
}

/// The thread that serves.
struct Server {
    device: File,
    content: Vec<u8>,
    stuck: Arc<AtomicU32>,
}

impl Server {
    fn serve(mut self, stop: &AtomicBool) {
        let mut request = vec![0; LARGEST];
        while !stop.load(Ordering::Relaxed) {
            let mut ready = libc::pollfd {
                fd: self.device.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: one valid entry, for the whole call.
            if unsafe { libc::poll(&raw mut ready, 1, 20) } < 1 {
                continue;
            }
            match self.device.read(&mut request) {
                Ok(size) => self.handle(&request[..size]),
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return,
                // The request was taken back meanwhile.
                Err(_) => {}
            }
        }
    }

    fn handle(&mut self, request: &[u8]) {
        let (header, body) = request.split_at(40);
        let (operation, node) = (word(header, 4), wide(header, 16));
        if operation == self.stuck.load(Ordering::Relaxed) {
            return;
        }
        let answer = match operation {
            operation::FORGET | operation::BATCH_FORGET | operation::INTERRUPT => return,
            operation::INIT => Ok(init()),
            operation::LOOKUP if body == format!("{NAME}\0").as_bytes() => Ok(self.entry()),
            operation::LOOKUP => Err(libc::ENOENT),
            operation::GETATTR => Ok([&VALID.to_ne_bytes()[..], &[0; 8], &self.of(node)].concat()),
            operation::OPEN => Ok(numbers(&[0, 0, KEEP_CACHE, 0])),
            operation::READ => Ok(self.piece(wide(body, 8), word(body, 16))),
            operation::STATFS => Ok(vec![0; 80]),
            operation::FLUSH | operation::RELEASE => Ok(Vec::new()),
            _ => Err(libc::ENOSYS),
        };
        let (error, content) = match answer {
            Ok(content) => (0, content),
            Err(error) => (-error, Vec::new()),
        };
        let size = 16 + content.len() as u32;
        let answer = [
            &size.to_ne_bytes()[..],
            &error.to_ne_bytes(),
            &header[8..16],
            &content,
        ];
        // It fails when the request was taken back.
        let _ = self.device.write(&answer.concat());
    }

    /// What is at an offset.
    fn piece(&self, offset: u64, size: u32) -> Vec<u8> {
        let rest = self.content.get(offset as usize..).unwrap_or_default();
        rest[..rest.len().min(size as usize)].to_vec()
    }

    /// The file, as looking it up finds it.
    fn entry(&self) -> Vec<u8> {
        let numbers = [INODE, 0, VALID, VALID, 0].map(u64::to_ne_bytes).concat();
        [numbers, self.of(INODE)].concat()
    }

    /// The attributes of a node.
    fn of(&self, node: u64) -> Vec<u8> {
        let is_file = node == INODE;
        let size = if is_file {
            self.content.len() as u64
        } else {
            0
        };
        let mode = if is_file {
            libc::S_IFREG | 0o755
        } else {
            libc::S_IFDIR | 0o755
        };
        let head = [node, size, size.div_ceil(512), 0, 0, 0];
        let tail = numbers(&[0, 0, 0, mode, 1, 0, 0, 0, 4096, 0]);
        [head.map(u64::to_ne_bytes).concat(), tail].concat()
    }
}

/// What is agreed on: version 7.31 of the protocol, and nothing that may be left out.
fn init() -> Vec<u8> {
    let (no_flags, read_ahead, largest_write) = (0, 128 << 10, 4096);
    let mut answer = numbers(&[7, 31, read_ahead, no_flags, 0, largest_write, 1]);
    answer.resize(64, 0);
    answer
}

fn numbers(numbers: &[u32]) -> Vec<u8> {
    numbers
        .iter()
        .flat_map(|number| number.to_ne_bytes())
        .collect()
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn wide(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
