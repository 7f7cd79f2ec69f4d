//! Processes that look into foreign files.
//!
//! memtrace runs as root, and the files that traced processes run are written by others. So memtrace
//! itself looks into none of them. It has this program started again, in a [`sandbox`](super::sandbox)
//! where it can do nothing but compute and answer, and asks: a [`Question`] is about one file or two,
//! which are sent along as open descriptors, and an [`Answerer`] answers one kind of it. What comes
//! back is not trusted either: it is bounded, and whoever asked checks it.
//!
//! How much memory and time such a process has is said by its [`Kind`]. One that oversteps is ended
//! and not waited for ([`child`]), the question is answered as [`Lost`], and the next one starts
//! another. After [`MAX_LOST`] of them, or when questions that were lost have taken [`MAX_WAIT`],
//! nothing more is asked.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::child::{self, Servant};
use super::messages::{receive, send};
use super::sandbox::{Limits, Sandbox};

/// Processes that may be lost.
pub const MAX_LOST: u32 = 16;

/// How long questions that were lost may take, together.
pub const MAX_WAIT: Duration = Duration::from_secs(20);

/// Files that a process has at once.
const MAX_FILES: usize = 64;

/// Bytes of a question.
const MAX_QUESTION: u32 = 1 << 20;

/// Bytes of what a process says when it is ready.
const MAX_READY: u32 = 64 << 10;

/// What is asked about files.
pub trait Question: Serialize + DeserializeOwned {
    /// Tells it from all others.
    const NAME: &'static str;
    /// What is answered.
    type Answer: Serialize + DeserializeOwned;
}

/// What answers one kind of question.
pub struct Answerer {
    name: &'static str,
    answer: Box<Answer>,
}

/// An encoded question, and the files that it is about; an encoded answer.
type Answer = dyn FnMut(&[u8], &[&File]) -> io::Result<Vec<u8>>;

impl Answerer {
    /// Answers by a function, which is given at least one file.
    #[must_use]
    pub fn new<Q: Question>(mut answer: impl FnMut(&Q, &[&File]) -> Q::Answer + 'static) -> Self {
        Self {
            name: Q::NAME,
            answer: Box::new(move |question, files| {
                let question = decode(question)?;
                encode(&answer(&question, files))
            }),
        }
    }
}

/// What one kind of these processes is for, and what it may use.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// This program's only argument then; not one that a user gives.
    pub argument: &'static str,
    /// What it does, in words.
    pub what: &'static str,
    /// What comes of it when it cannot be asked, in words.
    pub without: &'static str,
    /// Bytes of private memory.
    pub data: u64,
    /// Descriptors that it opens itself.
    pub descriptors: usize,
    /// How long one question may take.
    pub patience: Duration,
    /// Bytes of one answer.
    pub most: u32,
}

impl Kind {
    /// Whether this process was started to be one. Must be asked before anything else.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        child::is_requested(self.argument)
    }

    fn limits(&self) -> Limits {
        Limits {
            data: self.data,
            files: (MAX_FILES + self.descriptors + 64) as u64,
        }
    }
}

/// There is no answer: the process has been ended, could not be started, or failed at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost;

/// A file that is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'file> {
    /// Whatever tells it from all others that this process is asked about.
    pub key: u64,
    /// The file.
    pub file: &'file File,
}

/// Where questions are answered.
pub struct Inspector {
    kind: &'static Kind,
    place: Place,
    lost: u32,
    waited: Duration,
    /// Whether what the sandbox lacks has been said.
    is_told: bool,
}

enum Place {
    Process {
        start: Box<dyn FnMut() -> Command + Send>,
        running: Option<Running>,
    },
    Here(Vec<Answerer>),
}

/// A process that answers, and the socket to it.
struct Running {
    socket: UnixStream,
    given: Given,
    is_ready: bool,
    /// Ends it when this is dropped.
    servant: Servant,
}

/// Which files a process has: of each place the key, and when it was used last, counted in uses.
#[derive(Default)]
struct Given {
    places: Vec<(u64, u64)>,
    uses: u64,
}

/// What a process says when it is ready.
#[derive(Serialize, Deserialize)]
struct Ready {
    /// What its sandbox lacks.
    missing: Vec<String>,
}

/// A question as it is sent.
#[derive(Serialize, Deserialize)]
struct Message<'a> {
    name: &'a str,
    /// Where the files are, and whether they come with the message.
    files: Vec<(usize, bool)>,
    question: &'a [u8],
}

impl Inspector {
    /// A process of this same program. Where this program is a test, which would run its tests, it is
    /// this process that answers, by what `answerers` gives.
    #[must_use]
    pub fn of(kind: &'static Kind, answerers: impl FnOnce() -> Vec<Answerer>) -> Self {
        if cfg!(test) {
            Self::here(kind, answerers())
        } else {
            Self::process(kind)
        }
    }

    /// A process of this same program, whose `main` begins with [`Kind::is_requested`] and goes on
    /// with a [`Server`].
    #[must_use]
    pub fn process(kind: &'static Kind) -> Self {
        Self::command(kind, || Servant::command(kind.argument))
    }

    /// A process that ends up in a [`Server`].
    pub fn command(kind: &'static Kind, start: impl FnMut() -> Command + Send + 'static) -> Self {
        let start = Box::new(start);
        let running = None;
        Self::with(kind, Place::Process { start, running })
    }

    /// No other process: for files that are trusted, such as those of a test.
    #[must_use]
    pub fn here(kind: &'static Kind, answerers: Vec<Answerer>) -> Self {
        Self::with(kind, Place::Here(answerers))
    }

    fn with(kind: &'static Kind, place: Place) -> Self {
        Self {
            kind,
            place,
            lost: 0,
            waited: Duration::ZERO,
            is_told: false,
        }
    }

    /// Starts the process if none runs, so that it gets ready while other things are done.
    pub fn prepare(&mut self) {
        if let Place::Process { start, running } = &mut self.place
            && running.is_none()
        {
            let started = Running::start(start());
            *running = started
                .inspect_err(|error| log::debug!("cannot start what {}: {error}", self.kind.what))
                .ok();
        }
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// When it does not come in time, or is none; see the module.
    ///
    /// # Panics
    /// When it is about no file, or about more than a message may carry.
    pub fn ask<Q: Question>(
        &mut self,
        question: &Q,
        files: &[Asked<'_>],
    ) -> Result<Q::Answer, Lost> {
        assert!(!files.is_empty());
        if self.is_spent() {
            return Err(Lost);
        }
        let began = Instant::now();
        let answered = self.try_ask(question, files);
        answered.map_err(|error| {
            self.lost += 1;
            self.waited += began.elapsed();
            let Kind { what, without, .. } = self.kind;
            log::debug!("the process that {what} was lost: {error}");
            if self.is_spent() {
                let lost = self.lost;
                log::warn!("the process that {what} failed {lost} times; {without} from now on");
            }
            Lost
        })?
    }

    /// Whether too much was lost to ask again.
    fn is_spent(&self) -> bool {
        self.lost >= MAX_LOST || self.waited >= MAX_WAIT
    }

    /// An error means that the process was lost; [`Lost`] that it failed at this question alone.
    fn try_ask<Q: Question>(
        &mut self,
        question: &Q,
        files: &[Asked<'_>],
    ) -> io::Result<Result<Q::Answer, Lost>> {
        let question = encode(question)?;
        let (start, running) = match &mut self.place {
            Place::Process { start, running } => (start, running),
            Place::Here(answerers) => {
                let files: Vec<&File> = files.iter().map(|asked| asked.file).collect();
                let answer = answer(answerers, Q::NAME, &question, &files);
                return answer.map_or(Ok(Err(Lost)), |answer| decode(&answer).map(Ok));
            }
        };
        let mut process = match running.take() {
            Some(process) => process,
            None => Running::start(start())?,
        };
        let answer = process.ask(self.kind, Q::NAME, &question, files, &mut self.is_told);
        let answer = answer.and_then(|answer| match answer {
            Some(answer) => decode(&answer).map(Ok),
            None => Ok(Err(Lost)),
        });
        let answer = answer.map_err(|error| {
            let ended = process.servant.ended();
            let ended = ended.map_or_else(String::new, |status| format!(" ({status})"));
            io::Error::other(format!("{error}{ended}"))
        });
        // On an error the process is dropped, and so ended.
        *running = answer.is_ok().then_some(process);
        answer
    }
}

impl fmt::Debug for Inspector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("Inspector");
        shown
            .field("kind", &self.kind.argument)
            .finish_non_exhaustive()
    }
}

impl Running {
    fn start(command: Command) -> io::Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        Ok(Self {
            socket,
            given: Given::default(),
            is_ready: false,
            servant: Servant::start(command, theirs.into())?,
        })
    }

    /// The answer; `None` when the process failed at it.
    fn ask(
        &mut self,
        kind: &Kind,
        name: &str,
        question: &[u8],
        asked: &[Asked<'_>],
        is_told: &mut bool,
    ) -> io::Result<Option<Vec<u8>>> {
        let deadline = Instant::now() + kind.patience;
        let places: Vec<_> = asked
            .iter()
            .map(|asked| self.given.place_of(asked.key))
            .collect();
        let new = asked.iter().zip(&places).filter(|(_, (_, is_new))| *is_new);
        let new: Vec<BorrowedFd<'_>> = new.map(|(asked, _)| asked.file.as_fd()).collect();
        let message = encode(&Message {
            name,
            files: places,
            question,
        })?;
        send(&self.socket, &message, &new, Some(kind.patience))?;
        if !self.is_ready {
            let ready: Ready = decode(&self.hear(deadline, MAX_READY)?)?;
            self.is_ready = true;
            if !std::mem::replace(is_told, true) {
                for lacks in ready.missing {
                    log::info!("the process that {} goes without {lacks}", kind.what);
                }
            }
        }
        let mut answer = self.hear(deadline, kind.most)?;
        Ok((answer.pop() == Some(HAS_ANSWER)).then_some(answer))
    }

    fn hear(&self, deadline: Instant, most: u32) -> io::Result<Vec<u8>> {
        let heard = receive(&self.socket, Some(deadline), most)?;
        let closed = || io::Error::from(io::ErrorKind::UnexpectedEof);
        Ok(heard.ok_or_else(closed)?.0)
    }
}

/// What is behind an answer, which may have megabytes, and what is said instead of one.
const HAS_ANSWER: u8 = 1;
const HAS_FAILED: u8 = 0;

impl Given {
    /// The place of a file, and whether the file must be sent there.
    fn place_of(&mut self, key: u64) -> (usize, bool) {
        self.uses += 1;
        let now = self.uses;
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

/// The side of the process that answers.
pub struct Server {
    kind: &'static Kind,
    socket: UnixStream,
}

impl Server {
    /// What such a process does first. After that it may open what it needs, and enter a sandbox.
    ///
    /// # Errors
    /// When the kernel does not permit that.
    pub fn begin(kind: &'static Kind) -> io::Result<Self> {
        child::begin()?;
        // When the clock is read first, it is looked for by calls that a sandbox does not permit.
        let _ = clock_gettime(ClockId::ThreadCPUTime);
        let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        Ok(Self { kind, socket })
    }

    /// What the sandbox is to permit.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.kind.limits()
    }

    /// Answers questions until nobody asks any more.
    ///
    /// # Errors
    /// When something arrives that is no question, or the answer cannot be sent.
    pub fn serve(self, sandbox: Sandbox, mut answerers: Vec<Answerer>) -> io::Result<()> {
        let Self { kind, socket } = self;
        let missing = sandbox.missing;
        send(&socket, &encode(&Ready { missing })?, &[], None)?;
        let mut files: [Option<File>; MAX_FILES] = [const { None }; MAX_FILES];
        while let Some((bytes, sent)) = receive(&socket, None, MAX_QUESTION)? {
            let message: Message<'_> = decode(&bytes)?;
            let mut sent = sent.into_iter();
            for &(place, _) in message.files.iter().filter(|(_, is_new)| *is_new) {
                let place = files.get_mut(place).ok_or(io::ErrorKind::InvalidData)?;
                *place = sent.next();
            }
            let asked: Option<Vec<&File>> = message
                .files
                .iter()
                .map(|&(place, _)| files.get(place)?.as_ref())
                .collect();
            let asked = asked.filter(|asked| !asked.is_empty());
            let asked = asked.ok_or(io::ErrorKind::InvalidData)?;
            // Whoever asked gives up before that and ends this process, unless it was itself ended.
            alarm(2 * kind.patience);
            let answer = answer(&mut answerers, message.name, message.question, &asked);
            let answer = answer.map_or(vec![HAS_FAILED], |mut answer| {
                answer.push(HAS_ANSWER);
                answer
            });
            send(&socket, &answer, &[], None)?;
            alarm(Duration::ZERO);
        }
        Ok(())
    }
}

/// The answer to a question; `None` when nobody here answers it, or whoever does fails.
fn answer(
    answerers: &mut [Answerer],
    name: &str,
    question: &[u8],
    files: &[&File],
) -> Option<Vec<u8>> {
    let asked = answerers.iter_mut().find(|each| each.name == name)?;
    // What parses foreign bytes must not panic. If it does, only this question goes without an
    // answer: nothing is kept of a file that was not read to the end.
    let answer = catch_unwind(AssertUnwindSafe(|| (asked.answer)(question, files)));
    answer.ok()?.ok()
}

fn encode(what: &impl Serialize) -> io::Result<Vec<u8>> {
    postcard::to_stdvec(what).map_err(io::Error::other)
}

fn decode<'bytes, T: Deserialize<'bytes>>(bytes: &'bytes [u8]) -> io::Result<T> {
    let wrong = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let (decoded, rest) = postcard::take_from_bytes(bytes).map_err(wrong)?;
    if !rest.is_empty() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(decoded)
}

/// Ends this process when `after` has passed; never, when it is zero.
fn alarm(after: Duration) {
    // SAFETY: takes no pointers; the signal keeps its default action, which runs no code here.
    unsafe { libc::alarm(after.as_secs() as libc::c_uint) };
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::FileExt as _;

    use super::*;

    const KIND: Kind = Kind {
        argument: "__test",
        what: "is a test",
        without: "nothing is tested",
        data: 64 << 20,
        descriptors: 0,
        patience: Duration::from_secs(5),
        most: 1 << 20,
    };

    /// Asks for the bytes of all files at a place.
    #[derive(Serialize, Deserialize)]
    struct At(u64);

    impl Question for At {
        const NAME: &'static str = "at";
        type Answer = Vec<u8>;
    }

    #[derive(Serialize, Deserialize)]
    struct Nobody;

    impl Question for Nobody {
        const NAME: &'static str = "nobody";
        type Answer = ();
    }

    fn answerers() -> Vec<Answerer> {
        vec![Answerer::new(|&At(place), files| {
            assert!(place < 1000, "a fault of its own");
            let byte = |file: &&File| {
                let mut byte = [0];
                file.read_exact_at(&mut byte, place).map_or(0, |()| byte[0])
            };
            files.iter().map(byte).collect()
        })]
    }

    /// A thread that answers as a process does, without a sandbox, and the socket to it.
    fn served() -> Running {
        let (socket, theirs) = UnixStream::pair().unwrap();
        let server = Server {
            kind: &KIND,
            socket: theirs,
        };
        let sandbox = Sandbox {
            descriptors: std::path::Path::new("/proc/self/fd"),
            missing: vec!["anything: it is a test".to_owned()],
        };
        std::thread::spawn(move || server.serve(sandbox, answerers()));
        Running {
            socket,
            given: Given::default(),
            is_ready: false,
            servant: Servant::none(),
        }
    }

    fn file_of(text: &str) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    #[test]
    fn files_are_sent_once_and_again_when_they_had_to_give_way() {
        let mut running = served();
        let mut ask = |at: u64, asked: &[Asked<'_>]| {
            let question = encode(&At(at)).unwrap();
            let answer = running.ask(&KIND, At::NAME, &question, asked, &mut false);
            answer
                .unwrap()
                .map(|answer| decode::<Vec<u8>>(&answer).unwrap())
        };
        let files: Vec<File> = (0..100).map(|n| file_of(&format!("{n:02}"))).collect();
        let asked = |n: usize| Asked {
            key: n as u64,
            file: &files[n],
        };
        for n in (0..100).chain(0..3) {
            assert_eq!(ask(1, &[asked(n)]), Some(vec![b'0' + (n % 10) as u8]));
        }
        assert_eq!(ask(0, &[asked(90), asked(10)]), Some(b"91".to_vec()));
        assert_eq!(ask(0, &[asked(10), asked(90)]), Some(b"19".to_vec()));
    }

    #[test]
    fn a_question_that_fails_does_not_end_what_answers() {
        let mut inspector = Inspector::here(&KIND, answerers());
        let file = file_of("a");
        let asked = [Asked {
            key: 0,
            file: &file,
        }];
        for _ in 0..2 * MAX_LOST {
            assert_eq!(inspector.ask(&At(1000), &asked), Err(Lost));
            assert_eq!(inspector.ask(&Nobody, &asked), Err(Lost));
        }
        assert_eq!(inspector.ask(&At(0), &asked), Ok(b"a".to_vec()));
    }

    #[test]
    fn what_cannot_start_is_not_tried_for_ever() {
        let mut inspector = Inspector::command(&KIND, || Command::new("/nonexistent"));
        let file = file_of("a");
        let asked = [Asked {
            key: 0,
            file: &file,
        }];
        for _ in 0..MAX_LOST {
            assert!(!inspector.is_spent());
            assert_eq!(inspector.ask(&At(0), &asked), Err(Lost));
        }
        assert!(inspector.is_spent());
    }

    #[test]
    fn only_the_whole_of_an_encoded_value_is_one() {
        let bytes = encode(&vec![1_u32, 2]).unwrap();
        assert_eq!(decode::<Vec<u32>>(&bytes).unwrap(), [1, 2]);
        assert!(decode::<Vec<u32>>(&bytes[..2]).is_err());
        assert!(decode::<Vec<u32>>(&[&bytes[..], &[0]].concat()).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_an_answer_or_none(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = decode::<Message<'_>>(&bytes);
            let _ = decode::<Ready>(&bytes);
            let _ = decode::<Vec<(String, Vec<u8>)>>(&bytes);
        }
    }
}
