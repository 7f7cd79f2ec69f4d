//! Messages between memtrace and its helpers: a length in four bytes, then JSON. Files come with
//! the length.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::descriptors;

/// Bytes of one message.
pub const MAX_MESSAGE: u32 = 16 << 20;

/// Sends a message with files.
///
/// # Errors
/// When it could not be sent, within `patience` if that is given.
pub fn send(
    mut to: &UnixStream,
    message: &impl Serialize,
    files: &[BorrowedFd<'_>],
    patience: Option<Duration>,
) -> io::Result<()> {
    if patience.is_some() {
        to.set_write_timeout(patience)?;
    }
    let mut bytes = vec![0; LENGTH];
    serde_json::to_writer(&mut bytes, message)?;
    let length = (bytes.len() - LENGTH) as u32;
    bytes[..LENGTH].copy_from_slice(&length.to_le_bytes());
    let sent = descriptors::send(to.as_fd(), &bytes, files)?;
    to.write_all(&bytes[sent..])
}

/// Receives a message, and the files that came with it; `None` when the other side has closed.
///
/// # Errors
/// When it is none, or has not come by the `deadline`.
pub fn receive<T: DeserializeOwned>(
    from: &UnixStream,
    deadline: Option<Instant>,
) -> io::Result<Option<(T, Vec<File>)>> {
    let mut until = Until {
        socket: from,
        deadline,
    };
    let mut length = [0; LENGTH];
    let (size, files) = until.receive(&mut length)?;
    if size == 0 {
        return Ok(None);
    }
    until.read_exact(&mut length[size..])?;
    let length = u32::from_le_bytes(length);
    if length > MAX_MESSAGE {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the message is too long",
        ));
    }
    let mut bytes = Vec::new();
    until.take(length.into()).read_to_end(&mut bytes)?;
    let message = serde_json::from_slice(&bytes)?;
    Ok(Some((message, files.into_iter().map(File::from).collect())))
}

/// Bytes of the length of a message.
const LENGTH: usize = size_of::<u32>();

/// Reads from a socket until a deadline.
struct Until<'socket> {
    socket: &'socket UnixStream,
    deadline: Option<Instant>,
}

impl Until<'_> {
    /// Lets the next read wait no longer than to the deadline.
    fn limit(&self) -> io::Result<()> {
        let Some(deadline) = self.deadline else {
            return Ok(());
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.socket.set_read_timeout(Some(left))
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        loop {
            self.limit()?;
            match descriptors::receive(self.socket.as_fd(), buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                received => return received,
            }
        }
    }
}

impl Read for Until<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.limit()?;
        let mut socket = self.socket;
        socket.read(buffer)
    }
}
