//! Bytes and open files over a socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Files that one message may carry.
pub const MAX_FILES: usize = 2;

/// Sends `bytes`, and `files` with the first of them. Returns how many of the bytes were sent,
/// which on a socket of packets is all of them.
///
/// # Errors
/// When nothing could be sent.
///
/// # Panics
/// When there are more than [`MAX_FILES`].
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(files)));
    }
    let pieces = [IoSlice::new(bytes)];
    loop {
        match sendmsg(socket, &pieces, &mut control, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            sent => return Ok(sent?),
        }
    }
}

/// Receives into `buffer`, and the files that came with what was received. No bytes have come when
/// the other side has closed.
///
/// # Errors
/// When nothing could be received; the socket's own time limit holds.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut pieces = [IoSliceMut::new(buffer)];
    let received = recvmsg(socket, &mut pieces, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let files = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    Ok((received.bytes, files.flatten().collect()))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn files_arrive_with_the_bytes_that_they_were_sent_with() {
        let (mut here, there) = UnixStream::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"content").unwrap();
        here.write_all(b"before").unwrap();
        let sent = send(here.as_fd(), b"head", &[file.as_fd(), file.as_fd()]).unwrap();
        assert_eq!(sent, 4);
        here.write_all(b"after").unwrap();
        let next = |room: usize| {
            let mut buffer = vec![0; room];
            let (size, files) = receive(there.as_fd(), &mut buffer).unwrap();
            (String::from_utf8_lossy(&buffer[..size]).into_owned(), files)
        };
        let (bytes, none) = next(6);
        assert_eq!((bytes.as_str(), none.len()), ("before", 0));
        let (bytes, mut files) = next(4);
        assert_eq!((bytes.as_str(), files.len()), ("head", 2));
        let mut content = String::new();
        let mut received = File::from(files.remove(0));
        io::Seek::rewind(&mut received).unwrap();
        received.read_to_string(&mut content).unwrap();
        assert_eq!(content, "content");
        drop(here);
        assert_eq!(next(5).0, "after");
        assert_eq!(next(1).0, "");
    }
}
