//! Messages between memtrace and its helpers: a length in four bytes, then so many bytes. Files come
//! with the length.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::descriptors;

/// Sends a message with files.
///
/// # Errors
/// When it could not be sent, within `patience` if that is given.
pub fn send(
    mut to: &UnixStream,
    message: &[u8],
    files: &[BorrowedFd<'_>],
    patience: Option<Duration>,
) -> io::Result<()> {
    if patience.is_some() {
        to.set_write_timeout(patience)?;
    }
    let length = u32::try_from(message.len()).map_err(|_| too_long())?;
    // A small message goes in one piece.
    let mut head = length.to_le_bytes().to_vec();
    let (first, rest) = message.split_at(message.len().min(AT_ONCE));
    head.extend_from_slice(first);
    let sent = descriptors::send(to.as_fd(), &head, files)?;
    to.write_all(&head[sent..])?;
    to.write_all(rest)
}

/// Receives a message of at most `most` bytes, and the files that came with it; `None` when the
/// other side has closed.
///
/// # Errors
/// When it is none, or has not come by the `deadline`.
pub fn receive(
    from: &UnixStream,
    deadline: Option<Instant>,
    most: u32,
) -> io::Result<Option<(Vec<u8>, Vec<File>)>> {
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
    if length > most {
        return Err(too_long());
    }
    let mut message = Vec::new();
    until.take(length.into()).read_to_end(&mut message)?;
    if message.len() < length as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some((message, files.into_iter().map(File::from).collect())))
}

/// Bytes of the length of a message.
const LENGTH: usize = size_of::<u32>();

/// Bytes of a message that are sent together with its length.
const AT_ONCE: usize = 16 << 10;

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the message is too long")
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_whole_with_their_files() {
        let (here, there) = UnixStream::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        let large = vec![7; 3 << 20];
        let sender = std::thread::spawn(move || {
            send(&here, b"", &[], None).unwrap();
            send(&here, &large, &[file.as_fd()], None).unwrap();
            send(&here, b"last", &[], None).unwrap();
        });
        let next = || receive(&there, None, 4 << 20).unwrap();
        assert!(next().is_some_and(|(bytes, files)| bytes.is_empty() && files.is_empty()));
        assert!(next().is_some_and(|(bytes, files)| bytes.len() == 3 << 20 && files.len() == 1));
        assert_eq!(next().unwrap().0, b"last");
        assert!(next().is_none());
        sender.join().unwrap();
    }

    #[test]
    fn what_is_too_long_late_or_cut_is_an_error() {
        let (here, there) = UnixStream::pair().unwrap();
        send(&here, b"four", &[], None).unwrap();
        let error = receive(&there, None, 3).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);

        let (here, there) = UnixStream::pair().unwrap();
        let soon = Instant::now() + Duration::from_millis(20);
        assert!(receive(&there, Some(soon), 3).is_err());
        (&here).write_all(&[4, 0, 0, 0, b'c']).unwrap();
        drop(here);
        let error = receive(&there, None, 10).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
