//! What is said on standard error, and held back while a view has the terminal.
//!
//! A line in the middle of a picture would destroy it, and be gone with the next one. So what is
//! logged meanwhile is kept, the latest shown by the view, and all of it said when the screen is as it
//! was before. What COMMAND would write on the terminal goes into a file without a name until then.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes that are kept, at most: of more, the beginning.
const MOST: usize = 64 << 10;

/// What COMMAND writes meanwhile; `None` where that goes where it always does.
static OUTPUT: Mutex<Option<File>> = Mutex::new(None);

/// What is held back; `None` while nothing is.
static HELD: Mutex<Option<Held>> = Mutex::new(None);

#[derive(Default)]
struct Held {
    text: Vec<u8>,
    /// Bytes for which there was no room.
    left_out: usize,
    /// How much of it [`latest`] has seen.
    seen: usize,
}

fn held() -> MutexGuard<'static, Option<Held>> {
    // What is in it is whole at any moment.
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Holds back what is said from now on.
pub fn hold() {
    held().get_or_insert_default();
}

/// Says what was held back, and holds back nothing any more.
pub fn release() {
    let Some(Held { text, left_out, .. }) = held().take() else {
        return;
    };
    // Standard error may be a terminal that has been closed.
    let mut out = io::stderr().lock();
    let _ = out.write_all(&text);
    if left_out > 0 {
        let _ = writeln!(
            out,
            "memtrace: {left_out} bytes more of messages were left out"
        );
    }
}

/// A file for what COMMAND writes, which [`say_output`] says.
///
/// # Errors
/// When no file can be made.
pub fn output_file() -> io::Result<File> {
    let file = tempfile::tempfile()?;
    let its = file.try_clone()?;
    *OUTPUT.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
    Ok(its)
}

/// Says on standard error what COMMAND has written into [`output_file`] until now.
pub fn say_output() {
    let Some(file) = OUTPUT.lock().unwrap_or_else(PoisonError::into_inner).take() else {
        return;
    };
    let mut out = io::stderr().lock();
    let (mut bytes, mut at) = (vec![0; 64 << 10], 0);
    // COMMAND may still write, from where it is.
    while let Ok(read @ 1..) = file.read_at(&mut bytes, at) {
        if out.write_all(&bytes[..read]).is_err() {
            return;
        }
        at += read as u64;
    }
}

/// The last warning or error among what was held back since this was last called, without what the log
/// has before it; `None` without any.
#[must_use]
pub fn latest() -> Option<String> {
    let mut held = held();
    let held = held.as_mut()?;
    let new = &held.text[held.seen..];
    let line = String::from_utf8_lossy(new);
    let weighty = |line: &&str| line.contains(" WARN ") || line.contains(" ERROR ");
    let line = line.lines().rfind(weighty).map(|line| {
        let text = line.split_once("] ").map_or(line, |(_, text)| text);
        text.to_owned()
    });
    held.seen = held.text.len();
    line
}

/// Standard error, for whoever logs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Notices;

impl Write for Notices {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut held = held();
        let Some(held) = held.as_mut() else {
            return io::stderr().write(bytes);
        };
        if held.left_out == 0 && held.text.len() + bytes.len() <= MOST {
            held.text.extend_from_slice(bytes);
        } else {
            held.left_out += bytes.len();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_back_is_bounded_and_its_last_line_told_once() {
        hold();
        let log = "[T WARN  memtrace] one\n[T WARN  memtrace] two\n[T INFO  memtrace] three\n";
        Notices.write_all(log.as_bytes()).unwrap();
        assert_eq!(latest().as_deref(), Some("two"));
        assert_eq!(latest(), None);
        Notices.write_all(&vec![b'x'; MOST]).unwrap();
        Notices.write_all(b"more").unwrap();
        let kept = held().as_ref().map(|held| (held.text.len(), held.left_out));
        assert_eq!(kept, Some((log.len(), MOST + 4)));
        *held() = None;
        assert_eq!(latest(), None);
    }
}
