//! The process in which ELF files are parsed.
//!
//! memtrace runs as root and the files that it symbolizes are written by others, so whatever
//! parsing them does must not end or hold up the trace. The parser ([`engine`](super::engine))
//! runs in a child process: this program again, with [`ARGUMENT`], answering queries on its
//! standard input, which is a socket. Bounds:
//!
//! - memory: [`MAX_DATA`] bytes that do not belong to a file (`RLIMIT_DATA`); pages of mapped files
//!   can be reclaimed, so they cost nobody anything;
//! - time: [`PATIENCE`] for one query of at most [`MAX_ADDRESSES`] addresses;
//! - a reply is at most [`MAX_MESSAGE`] bytes.
//!
//! A helper that oversteps is killed and not waited for ([`child`]), the query is answered as
//! [`Lost`], and the next one starts another helper. After [`MAX_LOST`] of them, or when queries
//! that were lost have taken [`MAX_WAIT`], nothing more is asked.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::engine::{Engine, Query, Reply};
use crate::process::child::{self, Servant};

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

/// Bytes of one message.
pub const MAX_MESSAGE: u32 = 16 << 20;

/// The helper did not answer and has been ended, or could not be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost;

/// Where queries are answered.
pub struct Helper {
    place: Place,
    lost: u32,
    waited: Duration,
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

/// A process that answers, and the socket to it.
struct HelperProcess {
    socket: UnixStream,
    /// Ends it when this is dropped.
    _servant: Servant,
}

/// A thread that answers, and the channels to it.
struct HelperThread {
    queries: mpsc::Sender<Query>,
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
            lost: 0,
            waited: Duration::ZERO,
        }
    }

    /// A thread of this process, which therefore shares the fate of the parser.
    #[must_use]
    pub fn thread() -> Self {
        Self {
            place: Place::Thread { running: None },
            lost: 0,
            waited: Duration::ZERO,
        }
    }

    /// Asks, and waits for the reply.
    ///
    /// # Errors
    ///
    /// When a reply does not come in time; see the module.
    pub fn ask(&mut self, query: &Query) -> Result<Reply, Lost> {
        if self.is_spent() {
            return Err(Lost);
        }
        let began = Instant::now();
        let asked = match &mut self.place {
            Place::Process { start, running } => ask_process(start, running, query),
            Place::Thread { running } => ask_thread(running, query),
        };
        asked.map_err(|error| {
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

fn ask_process(
    start: &mut dyn FnMut() -> Command,
    running: &mut Option<HelperProcess>,
    query: &Query,
) -> io::Result<Reply> {
    let mut helper = match running.take() {
        Some(helper) => helper,
        None => HelperProcess::start(start())?,
    };
    // On an error the helper is dropped, and so ended.
    let reply = helper.ask(query)?;
    *running = Some(helper);
    Ok(reply)
}

fn ask_thread(running: &mut Option<HelperThread>, query: &Query) -> io::Result<Reply> {
    let thread = match running.take() {
        Some(thread) => thread,
        None => HelperThread::start()?,
    };
    thread
        .queries
        .send(query.clone())
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
            _servant: Servant::start(command, theirs.into())?,
        })
    }

    fn ask(&mut self, query: &Query) -> io::Result<Reply> {
        let deadline = Instant::now() + PATIENCE;
        self.socket.set_write_timeout(Some(PATIENCE))?;
        send(&mut self.socket, query)?;
        receive(&mut Until {
            socket: &self.socket,
            deadline,
        })?
        .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

impl HelperThread {
    fn start() -> io::Result<Self> {
        let (queries, asked) = mpsc::channel::<Query>();
        let (answered, replies) = mpsc::channel();
        std::thread::Builder::new()
            .name("symbolize".to_owned())
            .spawn(move || {
                let mut engine = Engine::default();
                while let Ok(query) = asked.recv() {
                    if answered.send(engine.answer(&query)).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self { queries, replies })
    }
}

/// Reads from a socket until a deadline.
struct Until<'socket> {
    socket: &'socket UnixStream,
    deadline: Instant,
}

impl Read for Until<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.socket.set_read_timeout(Some(left))?;
        self.socket.read(buffer)
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
    match try_serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(2),
    }
}

fn try_serve() -> io::Result<()> {
    child::begin()?;
    child::limit(libc::RLIMIT_DATA, MAX_DATA)?;
    let mut socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut engine = Engine::default();
    while let Some(query) = receive::<Query>(&mut socket)? {
        // Whoever asked gives up before that and ends this process, unless it was itself ended.
        alarm(2 * PATIENCE);
        send(&mut socket, &engine.answer(&query))?;
        alarm(Duration::ZERO);
    }
    Ok(())
}

/// Ends this process when `after` has passed; never, when it is zero.
fn alarm(after: Duration) {
    // SAFETY: takes no pointers; the signal keeps its default action, which runs no code here.
    unsafe { libc::alarm(after.as_secs() as libc::c_uint) };
}

/// Writes a message: its length in four bytes, then JSON.
fn send(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = (bytes.len() - 4) as u32;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    to.write_all(&bytes)
}

/// Reads a message; `None` when the other side has closed.
fn receive<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let length = u32::from_le_bytes(length);
    if length > MAX_MESSAGE {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the message is too long",
        ));
    }
    let mut bytes = Vec::new();
    from.take(length.into()).read_to_end(&mut bytes)?;
    Ok(Some(serde_json::from_slice(&bytes)?))
}
