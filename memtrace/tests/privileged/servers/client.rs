//! A bounded load, and what the server answered.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Deserialize;

use crate::support::{PATIENCE, eventually};

/// Requests of a load, and the pause after each, so that it lasts longer than an attachment.
const REQUESTS: usize = 480;
const PAUSE: Duration = Duration::from_millis(5);

/// Requests that are answered before memtrace attaches in the middle.
const SOME: usize = 40;

/// How often each segment is asked for before the next one, so that several workers read it.
const REPEATS: usize = 8;

/// What a server answers.
#[derive(Clone, Debug, Deserialize)]
struct Answer {
    pid: u32,
    segment: usize,
    pages: u64,
}

/// A load that runs.
pub struct Load {
    answers: Arc<Mutex<Vec<Answer>>>,
    thread: Option<JoinHandle<()>>,
    /// How many answers there were when memtrace was started, and when it was attached.
    attaching: usize,
    attached: usize,
}

impl Load {
    /// Sends requests to a port of loopback, one after the other.
    pub fn start(port: u16) -> Self {
        let answers = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&answers);
        let thread = std::thread::spawn(move || {
            for request in 0..REQUESTS {
                let answer = ask(port, request / REPEATS);
                seen.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(answer);
                std::thread::sleep(PAUSE);
            }
        });
        Self {
            answers,
            thread: Some(thread),
            attaching: 0,
            attached: 0,
        }
    }

    fn count(&self) -> usize {
        let answers = self.answers.lock();
        answers.unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Waits until some requests were answered.
    pub fn wait_for_some(&self) {
        eventually("the server answers", || {
            let ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
            assert!(!ended, "the load ended after {} answers", self.count());
            (self.count() >= SOME).then_some(())
        });
    }

    /// memtrace is about to be started.
    pub fn attaching(&mut self) {
        self.attaching = self.count();
    }

    /// memtrace is attached. A request that is under way counts as sent before.
    pub fn attached(&mut self) {
        self.attached = if self.attaching == 0 {
            0
        } else {
            self.count() + 1
        };
    }

    /// Waits for the end of the load.
    pub fn wait(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().expect("every request was answered");
        }
    }

    /// Processes that answered.
    pub fn workers(&self) -> BTreeSet<u32> {
        let answers = self.answers.lock().expect("the load has ended");
        answers.iter().map(|answer| answer.pid).collect()
    }

    /// Pages that were copied for answers while memtrace was attached: at least and at most.
    pub fn pages(&self) -> (u64, u64) {
        let answers = self.answers.lock().expect("the load has ended");
        // Only the first answer from a segment by a process copies it.
        let mut first: BTreeMap<(u32, usize), (usize, u64)> = BTreeMap::new();
        for (number, answer) in answers.iter().enumerate() {
            first
                .entry((answer.pid, answer.segment))
                .or_insert((number, answer.pages));
        }
        let since = |begin: usize| -> u64 {
            let later = first.values().filter(|(number, _)| *number >= begin);
            later.map(|(_, pages)| pages).sum()
        };
        (since(self.attached), since(self.attaching))
    }
}

/// The process that answers a request with its pid; `None` where the server is about to replace it.
pub fn who_answers(port: u16) -> Option<u32> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.split("\r\n\r\n").nth(1)?.trim().parse().ok()
}

fn ask(port: u16, segment: usize) -> Answer {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    // Sent in one piece: the small servers read once.
    let request = format!("GET /{segment} HTTP/1.0\r\nConnection: close\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .expect("the server reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let body = text.split("\r\n\r\n").nth(1).unwrap_or_default();
    serde_json::from_str(body).unwrap_or_else(|error| panic!("not an answer: {text:?}: {error}"))
}
