//! How much of a file is read, and until when.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Bytes that are read at once; the clock is looked at in between.
const PIECE: usize = 1 << 20;

/// How much longer something may take than this thread works on it. On a busy machine a thread has
/// to wait for a processor, and that is no fault of the file's.
const WAITING: u32 = 3;

/// Where the bytes of an ELF file are read.
pub trait Source {
    /// Fills `buffer` with what is at `offset`.
    ///
    /// # Errors
    /// When there are fewer bytes, they cannot be read, or a budget is used up.
    fn fill(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// The file's size in bytes.
    ///
    /// # Errors
    /// When it cannot be told.
    fn size(&self) -> io::Result<u64>;

    /// Bytes that may still be read.
    fn left(&self) -> u64 {
        u64::MAX
    }

    /// Accounts for `bytes` that are made of what was read; false when that is too much.
    fn spend(&self, bytes: u64) -> bool {
        let _ = bytes;
        true
    }
}

impl Source for File {
    fn fill(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

/// What may still be spent on a file, or on several: time that a thread works on it, and bytes that
/// are read, or made of what was read. Whatever reads foreign files is handed one, rather than having
/// bounds of its own, and uses it on the thread that made or resumed it, whose time it is.
#[derive(Debug)]
pub struct Budget {
    time: Duration,
    /// How much time there was when it was started last.
    left: Duration,
    started: Moment,
    most: u64,
    bytes: Cell<u64>,
    over: Cell<Option<Over>>,
}

/// Which part of a [`Budget`] was used up first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// The time.
    Time,
    /// The bytes.
    Bytes,
}

/// A moment of a thread's life.
#[derive(Clone, Copy, Debug)]
struct Moment {
    at: Instant,
    /// For how long the thread had worked by then.
    worked: Duration,
}

impl Moment {
    fn now() -> Self {
        let worked = clock_gettime(ClockId::ThreadCPUTime);
        Self {
            at: Instant::now(),
            worked: worked.try_into().unwrap_or_default(),
        }
    }

    /// How much time has been used on this thread since: what it worked, or the part of what passed
    /// that it should have had.
    fn elapsed(self) -> Duration {
        let now = Self::now();
        let worked = now.worked.saturating_sub(self.worked);
        worked.max((now.at - self.at) / WAITING)
    }
}

impl Budget {
    /// From now on, for `time` and `bytes`.
    #[must_use]
    pub fn new(time: Duration, bytes: u64) -> Self {
        Self {
            time,
            left: time,
            started: Moment::now(),
            most: bytes,
            bytes: Cell::new(bytes),
            over: Cell::new(None),
        }
    }

    /// Takes `bytes`; false when they are not there or the time is up, and then forever.
    pub fn spend(&self, bytes: u64) -> bool {
        match self.bytes.get().checked_sub(bytes) {
            Some(left) => self.bytes.set(left),
            None => self.end(Over::Bytes),
        }
        self.has_time()
    }

    /// Whether there is still time, and nothing else was used up.
    pub fn has_time(&self) -> bool {
        if self.started.elapsed() > self.left {
            self.end(Over::Time);
        }
        self.over.get().is_none()
    }

    /// Stops the clock, until [`resume`](Self::resume).
    #[must_use]
    pub fn pause(mut self) -> Self {
        self.left = self.left.saturating_sub(self.started.elapsed());
        self
    }

    /// Lets the clock go on after [`pause`](Self::pause).
    #[must_use]
    pub fn resume(mut self) -> Self {
        self.started = Moment::now();
        self
    }

    /// Bytes that were taken.
    #[must_use]
    pub fn spent(&self) -> u64 {
        self.most - self.bytes.get()
    }

    /// What was used up, if anything was.
    #[must_use]
    pub fn over(&self) -> Option<Over> {
        self.over.get()
    }

    /// Why reading was given up, in words, if it was.
    #[must_use]
    pub fn why(&self) -> Option<String> {
        Some(match self.over()? {
            Over::Time => format!("reading it takes more than {:?}", self.time),
            Over::Bytes => format!("more than {} MiB of it would be read", self.most >> 20),
        })
    }

    /// `file`, of which no more is read than this permits.
    #[must_use]
    pub fn of<'budget>(&'budget self, file: &'budget File) -> Limited<'budget> {
        Limited { file, budget: self }
    }

    fn end(&self, over: Over) {
        if self.over.get().is_none() {
            self.over.set(Some(over));
        }
    }
}

/// A file that is read within a [`Budget`].
#[derive(Clone, Copy, Debug)]
pub struct Limited<'budget> {
    file: &'budget File,
    budget: &'budget Budget,
}

impl Source for Limited<'_> {
    fn fill(&self, buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        for piece in buffer.chunks_mut(PIECE) {
            if !self.budget.spend(piece.len() as u64) {
                return Err(io::ErrorKind::QuotaExceeded.into());
            }
            self.file.read_exact_at(piece, offset)?;
            // At the end of what can be numbered, the next read fails.
            offset = offset.saturating_add(piece.len() as u64);
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn left(&self) -> u64 {
        self.budget.bytes.get()
    }

    fn spend(&self, bytes: u64) -> bool {
        self.budget.spend(bytes)
    }
}
