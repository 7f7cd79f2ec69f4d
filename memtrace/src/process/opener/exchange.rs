//! What is said between memtrace and the process that opens files.
//!
//! Each message is one packet. An answer to a question carries the descriptor of the file.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

use super::{Answer, NotOpened, Wanted, Which};
use crate::process::descriptors;

/// Bytes of a path; the kernel prints none that is longer.
const MAX_PATH: usize = 4096;

/// Bytes of a message.
const MAX_MESSAGE: usize = MAX_PATH + 256;

/// Codes that an answer begins with.
const READY: u8 = 0;
const LOCAL: u8 = 1;
const COPIED: u8 = 2;
const NOT_THERE: u8 = 3;
const REFUSED: u8 = 4;
const NO_FILE: u8 = 5;

/// A question in bytes.
pub(super) fn encode(wanted: &Wanted) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    let (pid, (start, end), inode) = match &wanted.which {
        Which::Mapped { pid, range, inode } => (*pid, *range, *inode),
        Which::Own => (0, (0, 0), 0),
    };
    for number in [u64::from(pid), start, end, inode, wanted.room] {
        bytes.extend(number.to_ne_bytes());
    }
    let path = wanted.path.as_os_str().as_bytes();
    bytes.extend(path.get(..path.len().min(MAX_PATH)).unwrap_or_default());
    bytes
}

/// A question from its bytes.
fn decode(bytes: &[u8]) -> Option<Wanted> {
    let (numbers, path) = bytes.split_at_checked(40)?;
    let mut numbers = numbers
        .as_chunks::<8>()
        .0
        .iter()
        .map(|&number| u64::from_ne_bytes(number));
    let mut next = || numbers.next();
    let (pid, start, end, inode, room) = (next()?, next()?, next()?, next()?, next()?);
    Some(Wanted {
        which: match u32::try_from(pid).ok()? {
            0 => Which::Own,
            pid => Which::Mapped {
                pid,
                range: (start, end),
                inode,
            },
        },
        path: PathBuf::from(OsString::from_vec(path.to_vec())),
        room,
    })
}

/// Sends a question.
pub(super) fn ask(socket: BorrowedFd<'_>, wanted: &Wanted) -> io::Result<()> {
    send(socket, &encode(wanted), None)
}

/// The next question; `None` when nobody asks any more.
pub(super) fn next_question(socket: BorrowedFd<'_>) -> io::Result<Option<Wanted>> {
    let (bytes, _) = receive(socket)?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let wanted = decode(&bytes);
    wanted
        .map(Some)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Says that questions can be asked now.
pub(super) fn ready(socket: BorrowedFd<'_>) -> io::Result<()> {
    send(socket, &[READY], None)
}

/// Sends an answer.
pub(super) fn answer(socket: BorrowedFd<'_>, answer: &Answer) -> io::Result<()> {
    match answer {
        Ok((file, is_copy)) => {
            let code = if *is_copy { COPIED } else { LOCAL };
            send(socket, &[code], Some(file))
        }
        Err(NotOpened::NotThere(errno)) => send(
            socket,
            &[&[NOT_THERE], &errno.to_ne_bytes()[..]].concat(),
            None,
        ),
        Err(NotOpened::NoFile) => send(socket, &[NO_FILE], None),
        Err(NotOpened::Refused(why)) => send(socket, &[&[REFUSED], why.as_bytes()].concat(), None),
    }
}

/// What was said by the process that opens files.
pub(super) enum Said {
    /// It can be asked now.
    Ready,
    /// An answer.
    Answer(Answer),
}

/// Receives what was said. The socket's own time limit holds.
pub(super) fn hear(socket: BorrowedFd<'_>) -> io::Result<Said> {
    let (bytes, file) = receive(socket)?;
    let Some((code, text)) = bytes.split_first() else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    let answer = match (*code, file) {
        (READY, _) => return Ok(Said::Ready),
        (LOCAL, Some(file)) => Ok((file, false)),
        (COPIED, Some(file)) => Ok((file, true)),
        (NOT_THERE, _) => {
            let errno = text
                .first_chunk()
                .map_or(0, |errno| i32::from_ne_bytes(*errno));
            Err(NotOpened::NotThere(errno))
        }
        (NO_FILE, _) => Err(NotOpened::NoFile),
        (REFUSED, _) => Err(NotOpened::Refused(
            String::from_utf8_lossy(text).into_owned(),
        )),
        _ => return Err(io::ErrorKind::InvalidData.into()),
    };
    Ok(Said::Answer(answer))
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8], file: Option<&File>) -> io::Result<()> {
    let files: Vec<_> = file.map(File::as_fd).into_iter().collect();
    descriptors::send(socket, bytes, &files).map(drop)
}

/// A message, empty when the other side has closed, and the descriptor that came with it.
fn receive(socket: BorrowedFd<'_>) -> io::Result<(Vec<u8>, Option<File>)> {
    let mut bytes = vec![0; MAX_MESSAGE];
    let (size, files) = descriptors::receive(socket, &mut bytes)?;
    bytes.truncate(size);
    Ok((bytes, files.into_iter().next().map(File::from)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_question_is_understood_as_it_was_asked() {
        for which in [
            Which::Own,
            Which::Mapped {
                pid: 7,
                range: (0x1000, u64::MAX),
                inode: u64::MAX - 1,
            },
        ] {
            let wanted = Wanted {
                which,
                path: Path::new("/a/\u{e4} path").to_owned(),
                room: 12,
            };
            assert_eq!(decode(&encode(&wanted)), Some(wanted));
        }
        assert_eq!(decode(&[0; 39]), None);
    }

    #[test]
    fn a_path_that_is_too_long_is_cut() {
        let wanted = Wanted {
            which: Which::Own,
            path: PathBuf::from("x".repeat(100_000)),
            room: 0,
        };
        assert!(encode(&wanted).len() <= MAX_MESSAGE);
    }
}
