//! The process in which ELF files are parsed.
//!
//! memtrace runs as root and the files that it symbolizes are written by others, so whatever
//! parsing them does must not end or hold up the trace. The parser ([`engine`](super::engine))
//! runs in a child process: this program again, with [`ARGUMENT`], answering queries on its
//! standard input, which is a socket. Files come with the queries that are about them, as open
//! descriptors; the process can open nothing else, nor do anything but compute and answer: it is in
//! a [`sandbox`]. Bounds:
//!
//! - memory: [`MAX_DATA`] bytes that do not belong to a file (`RLIMIT_DATA`); pages of mapped files
//!   can be reclaimed, so they cost nobody anything, and address space is not bounded;
//! - time: [`PATIENCE`] for one query of at most [`MAX_ADDRESSES`] addresses;
//! - a reply is at most [`MAX_MESSAGE`](crate::process::messages::MAX_MESSAGE) bytes.
//!
//! A helper that oversteps is killed and not waited for ([`child`]), the query is answered as
//! [`Lost`], and the next one starts another helper. After [`MAX_LOST`] of them, or when queries
//! that were lost have taken [`MAX_WAIT`], nothing more is asked.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use foldhash::HashMap;
use serde::{Deserialize, Serialize};

use super::engine::{Engine, Failure, MAX_PARSED, Memory, Query, Reply};
use crate::process::child::{self, Servant};
use crate::process::messages::{receive, send};
use crate::process::opener::{self, MAX_COPIES, MAX_COPY};
use crate::process::sandbox::{self, Limits, Sandbox};

/// The only argument of a helper; not one that a user gives.
pub const ARGUMENT: &str = "__symbolize";

/// Bytes of private memory that a helper may have.
pub const MAX_DATA: u64 = 40 << 20;

/// How long one query may take.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Addresses in one query.
pub const MAX_ADDRESSES: usize = 256;

/// Helpers that may be lost.
pub const MAX_LOST: u32 = 16;

/// How long queries that were lost may take, together.
pub const MAX_WAIT: Duration = Duration::from_secs(20);

/// Files that a helper has at once.
const MAX_FILES: usize = 64;

/// Descriptors that a helper may have: files, those that were opened again and are parsed, and some.
const MAX_DESCRIPTORS: u64 = (MAX_FILES + MAX_PARSED) as u64 + 64;

/// The helper did not answer and has been ended, or could not be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost;

/// A file that is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'file> {
    /// Whatever tells it from all others that this helper is asked about.
    pub key: u64,
    /// The file.
    pub file: &'file File,
}

/// Where queries are answered.
pub struct Helper {
    place: Place,
    lost: u32,
    waited: Duration,
    copies: Copies,
    /// Whether what the sandbox lacks has been said.
    is_told: bool,
}

enum Place {
    Process {
        start: Box<dyn FnMut() -> Command + Send>,
        running: Option<HelperProcess>,
    },
    Thread {
        running: Option<HelperThread>,
    },
}

/// Copies in memory of files that the helper's user may not read.
#[derive(Default)]
struct Copies {
    /// By the file's key; `None` where there is no room for it.
    by_key: HashMap<u64, Option<File>>,
    /// Bytes of them.
    size: u64,
}

/// A process that answers, and the socket to it.
struct HelperProcess {
    socket: UnixStream,
    given: Given,
    is_ready: bool,
    /// Ends it when this is dropped.
    servant: Servant,
}

/// Which files a process has: of each place the key, and the query that used it last.
struct Given {
    places: Vec<(u64, u64)>,
    queries: u64,
}

/// What a process says when it is ready.
#[derive(Serialize, Deserialize)]
struct Ready {
    /// What its sandbox lacks.
    missing: Vec<String>,
}

/// A query, and where the file is, which comes with it when it is not there yet.
#[derive(Serialize, Deserialize)]
struct Message {
    place: usize,
    query: Query,
}

/// A thread that answers, and the channels to it.
struct HelperThread {
    queries: mpsc::Sender<(Query, File)>,
    replies: mpsc::Receiver<Reply>,
}

impl Helper {
    /// A process of this same program, whose `main` calls [`serve`] when [`is_requested`].
    #[must_use]
    pub fn process() -> Self {
        Self::command(|| Servant::command(ARGUMENT))
    }

    /// A process that ends up in [`serve`].
    pub(super) fn command(start: impl FnMut() -> Command + Send + 'static) -> Self {
        Self {
            place: Place::Process {
                start: Box::new(start),
                running: None,
            },
            ..Self::thread()
        }
    }

    /// A thread of this process, which therefore shares the fate of the parser.
    #[must_use]
    pub fn thread() -> Self {
        Self {
            place: Place::Thread { running: None },
            lost: 0,
            waited: Duration::ZERO,
            copies: Copies::default(),
            is_told: false,
        }
    }

    /// Asks, and waits for the reply. A file that the helper may not read is copied for it.
    ///
    /// # Errors
    ///
    /// When a reply does not come in time; see the module.
    pub fn ask(&mut self, query: &Query, asked: Asked<'_>) -> Result<Reply, Lost> {
        if !self.copies.by_key.contains_key(&asked.key) {
            let reply = self.ask_about(query, asked)?;
            if reply != Err(Failure::NotPermitted) {
                return Ok(reply);
            }
            self.copies.add(asked);
        }
        let copy = self.copies.by_key.get(&asked.key);
        let copy = copy.and_then(|copy| copy.as_ref()?.try_clone().ok());
        let Some(file) = &copy else {
            // What can be read without opening the file again still can.
            return self.ask_about(query, asked);
        };
        let key = asked.key | IS_COPY;
        self.ask_about(query, Asked { key, file })
    }

    fn ask_about(&mut self, query: &Query, asked: Asked<'_>) -> Result<Reply, Lost> {
        if self.is_spent() {
            return Err(Lost);
        }
        let began = Instant::now();
        let answered = match &mut self.place {
            Place::Process { start, running } => {
                ask_process(start, running, query, asked, &mut self.is_told)
            }
            Place::Thread { running } => ask_thread(running, query, asked),
        };
        answered.map_err(|error| {
            self.lost += 1;
            self.waited += began.elapsed();
            log::debug!("the symbolizer's helper was lost: {error}");
            if self.is_spent() {
                log::warn!(
                    "reading symbols failed {} times; from now on no functions are named",
                    self.lost
                );
            }
            Lost
        })
    }

    /// Whether too much was lost to ask again.
    fn is_spent(&self) -> bool {
        self.lost >= MAX_LOST || self.waited >= MAX_WAIT
    }
}

/// Set in the key of a copy.
const IS_COPY: u64 = 1 << 63;

impl Copies {
    fn add(&mut self, asked: Asked<'_>) {
        let room = MAX_COPY.min(MAX_COPIES.saturating_sub(self.size));
        let copy = opener::copy_of(asked.file, room).ok();
        let size = copy.as_ref().and_then(|copy| copy.metadata().ok());
        self.size += size.map_or(0, |of| of.len());
        self.by_key.insert(asked.key, copy);
    }
}

fn ask_process(
    start: &mut dyn FnMut() -> Command,
    running: &mut Option<HelperProcess>,
    query: &Query,
    asked: Asked<'_>,
    is_told: &mut bool,
) -> io::Result<Reply> {
    let mut helper = match running.take() {
        Some(helper) => helper,
        None => HelperProcess::start(start())?,
    };
    let reply = helper.ask(query, asked, is_told).map_err(|error| {
        let ended = helper.servant.ended();
        let ended = ended.map_or_else(String::new, |status| format!(" ({status})"));
        io::Error::other(format!("{error}{ended}"))
    });
    // On an error the helper is dropped, and so ended.
    *running = reply.is_ok().then_some(helper);
    reply
}

fn ask_thread(
    running: &mut Option<HelperThread>,
    query: &Query,
    asked: Asked<'_>,
) -> io::Result<Reply> {
    let thread = match running.take() {
        Some(thread) => thread,
        None => HelperThread::start()?,
    };
    thread
        .queries
        .send((query.clone(), asked.file.try_clone()?))
        .map_err(io::Error::other)?;
    let reply = thread
        .replies
        .recv_timeout(PATIENCE)
        .map_err(io::Error::other)?;
    *running = Some(thread);
    Ok(reply)
}

impl HelperProcess {
    fn start(command: Command) -> io::Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        Ok(Self {
            socket,
            given: Given {
                places: Vec::new(),
                queries: 0,
            },
            is_ready: false,
            servant: Servant::start(command, theirs.into())?,
        })
    }

    fn ask(&mut self, query: &Query, asked: Asked<'_>, is_told: &mut bool) -> io::Result<Reply> {
        let deadline = Instant::now() + PATIENCE;
        let (place, is_new) = self.given.place_of(asked.key);
        let message = Message {
            place,
            query: query.clone(),
        };
        let files = [asked.file.as_fd()];
        let files = if is_new { &files[..] } else { &[] };
        send(&self.socket, &message, files, Some(PATIENCE))?;
        let closed = || io::Error::from(io::ErrorKind::UnexpectedEof);
        if !self.is_ready {
            let (ready, _) = receive::<Ready>(&self.socket, Some(deadline))?.ok_or_else(closed)?;
            self.is_ready = true;
            if !std::mem::replace(is_told, true) {
                for what in ready.missing {
                    log::info!("the process that reads symbols goes without {what}");
                }
            }
        }
        let (reply, _) = receive(&self.socket, Some(deadline))?.ok_or_else(closed)?;
        Ok(reply)
    }
}

impl Given {
    /// The place of a file, and whether the file must be sent there.
    fn place_of(&mut self, key: u64) -> (usize, bool) {
        self.queries += 1;
        let now = self.queries;
        let known = self.places.iter().position(|&(known, _)| known == key);
        if let Some(place) = known {
            self.places[place].1 = now;
            return (place, false);
        }
        if self.places.len() < MAX_FILES {
            self.places.push((key, now));
            return (self.places.len() - 1, true);
        }
        let last_used = |&place: &usize| self.places[place].1;
        let oldest = (0..self.places.len()).min_by_key(last_used).unwrap_or(0);
        self.places[oldest] = (key, now);
        (oldest, true)
    }
}

impl HelperThread {
    fn start() -> io::Result<Self> {
        let (queries, asked) = mpsc::channel::<(Query, File)>();
        let (answered, replies) = mpsc::channel();
        std::thread::Builder::new()
            .name("symbolize".to_owned())
            .spawn(move || {
                let here = PathBuf::from("/proc/self/fd");
                let mut engine = Engine::new(Memory::of_this_process(), here);
                while let Ok((query, file)) = asked.recv() {
                    if answered.send(engine.answer(&query, &file)).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self { queries, replies })
    }
}

/// Whether this process was started to be a helper. Must be asked before anything else.
#[must_use]
pub fn is_requested() -> bool {
    child::is_requested(ARGUMENT)
}

/// Answers queries on standard input until it is closed.
#[must_use]
pub fn serve() -> ExitCode {
    match serve_in(sandbox::enter) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(2),
    }
}

/// Answers, in what `enter` makes of this process.
pub(super) fn serve_in(enter: impl FnOnce(Limits) -> Sandbox) -> io::Result<()> {
    child::begin()?;
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let memory = Memory::of_this_process();
    let sandbox = enter(Limits {
        data: MAX_DATA,
        files: MAX_DESCRIPTORS,
    });
    let missing = sandbox.missing;
    send(&socket, &Ready { missing }, &[], None)?;
    let mut engine = Engine::new(memory, sandbox.descriptors.to_owned());
    let mut files: [Option<File>; MAX_FILES] = [const { None }; MAX_FILES];
    while let Some((message, sent)) = receive::<Message>(&socket, None)? {
        let place = files.get_mut(message.place);
        let place = place.ok_or(io::ErrorKind::InvalidData)?;
        if let Some(file) = sent.into_iter().next() {
            *place = Some(file);
        }
        let file = place.as_ref().ok_or(io::ErrorKind::InvalidData)?;
        // Whoever asked gives up before that and ends this process, unless it was itself ended.
        alarm(2 * PATIENCE);
        send(&socket, &engine.answer(&message.query, file), &[], None)?;
        alarm(Duration::ZERO);
    }
    Ok(())
}

/// Ends this process when `after` has passed; never, when it is zero.
fn alarm(after: Duration) {
    // SAFETY: takes no pointers; the signal keeps its default action, which runs no code here.
    unsafe { libc::alarm(after.as_secs() as libc::c_uint) };
}
