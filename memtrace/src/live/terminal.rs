//! The terminal that the picture is drawn on: `/dev/tty`, whatever standard output is.
//!
//! It is put back as it was however memtrace ends, short of SIGKILL: when the view leaves, on a
//! panic, before a second signal ends the process, and before Ctrl-Z stops it. The last two happen in
//! signal handlers, so what they need is in statics, and [`restore`] makes system calls alone.
//!
//! Nothing waits for a terminal: it is written to without blocking, and what it does not take within
//! [`PATIENCE`] is dropped, and drawn anew later.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::signals;

/// How long a terminal may take nothing.
const PATIENCE: Duration = Duration::from_millis(500);

/// A screen of its own, without a cursor.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l\x1b[0m\x1b[2J";

/// What was there before.
const LEAVE: &[u8] = b"\x1b[0m\x1b[?25h\x1b[?1049l";

/// Who the screen belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Screen {
    /// It is as it was before.
    Left,
    /// The view has it.
    Ours,
    /// The process was stopped meanwhile: the view has to take it again.
    Interrupted,
    /// It is gone for good.
    Lost,
}

/// A [`Screen`].
static SCREEN: AtomicU8 = AtomicU8::new(Screen::Left as u8);

/// The open terminal; -1 before [`Terminal::open`]. It is never closed.
static DESCRIPTOR: AtomicI32 = AtomicI32::new(-1);

/// Whether something is being written to it.
static BUSY: AtomicBool = AtomicBool::new(false);

/// How it was set before.
static BEFORE: OnceLock<libc::termios> = OnceLock::new();

/// The terminal, open.
#[derive(Debug)]
pub struct Terminal {
    file: File,
}

impl Terminal {
    /// Opens the terminal of this process, and changes nothing about it yet.
    ///
    /// # Errors
    /// When there is none, or it can show nothing but text: what to do instead.
    pub fn open() -> Result<Self> {
        let refused = |why: &str| {
            anyhow!(
                "cannot show a live view: {why}; leave out --live, or run memtrace in a terminal that \
                 can move its cursor"
            )
        };
        let term = std::env::var_os("TERM").unwrap_or_default();
        if term.is_empty() || term == "dumb" {
            let found = term.to_string_lossy();
            return Err(refused(&format!(
                "TERM is '{found}', a terminal without a cursor that can be moved, so a picture could \
                 not be drawn anew"
            )));
        }
        let open = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open("/dev/tty");
        let file = open.map_err(|error| {
            refused(&format!(
                "this process has no terminal (/dev/tty: {error}), so there is nothing to draw on"
            ))
        })?;
        let mut settings = MaybeUninit::<libc::termios>::uninit();
        // SAFETY: there is room for the settings.
        if unsafe { libc::tcgetattr(file.as_raw_fd(), settings.as_mut_ptr()) } != 0 {
            let error = io::Error::last_os_error();
            return Err(refused(&format!("the terminal does not answer ({error})")));
        }
        // SAFETY: they have just been filled in.
        let settings = unsafe { settings.assume_init() };
        let _ = BEFORE.set(settings);
        Ok(Self { file })
    }

    /// Takes the screen, for the first time or after it was interrupted.
    ///
    /// # Errors
    /// When the terminal cannot be set.
    pub fn enter(&mut self) -> io::Result<()> {
        let descriptor = self.file.as_raw_fd();
        if DESCRIPTOR.swap(descriptor, Ordering::SeqCst) < 0 {
            put_back_on_panic();
            signals::on_stop(restore_before_stop, interrupted)?;
        }
        let Some(before) = BEFORE.get() else {
            return Ok(());
        };
        let mut raw = *before;
        // Signals stay: Ctrl-C reaches COMMAND too, and Ctrl-Z the whole job, as without a view.
        raw.c_lflag &= !(libc::ICANON | libc::ECHO | libc::ECHONL | libc::IEXTEN);
        // Otherwise Ctrl-S would hold up the picture, without a hint at what does.
        raw.c_iflag &= !(libc::IXON | libc::ICRNL | libc::INLCR | libc::IGNCR);
        // A dump of memory would leave the terminal as it is.
        raw.c_cc[libc::VQUIT] = libc::_POSIX_VDISABLE;
        set(descriptor, &raw)?;
        SCREEN.store(Screen::Ours as u8, Ordering::SeqCst);
        self.write(ENTER)
    }

    /// Who has the screen.
    #[must_use]
    pub fn screen() -> Screen {
        match SCREEN.load(Ordering::SeqCst) {
            code if code == Screen::Ours as u8 => Screen::Ours,
            code if code == Screen::Interrupted as u8 => Screen::Interrupted,
            code if code == Screen::Lost as u8 => Screen::Lost,
            _ => Screen::Left,
        }
    }

    /// Whether the shell has given this job the terminal.
    #[must_use]
    pub fn is_in_foreground(&self) -> bool {
        is_in_foreground(self.file.as_raw_fd())
    }

    /// Columns and lines.
    ///
    /// # Errors
    /// When the terminal does not say it.
    pub fn size(&self) -> io::Result<(u16, u16)> {
        let size = rustix::termios::tcgetwinsize(&self.file)?;
        Ok((size.ws_col, size.ws_row))
    }

    /// Waits until there are keys, or `wake` can be read from, or `longest` is over.
    pub fn wait(&self, wake: RawFd, longest: Duration) {
        let asked = |fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        let mut both = [asked(wake), asked(self.file.as_raw_fd())];
        // A job in the background that read from its terminal would be stopped.
        let several = if Self::screen() == Screen::Ours { 2 } else { 1 };
        // SAFETY: there are that many.
        unsafe { libc::poll(both.as_mut_ptr(), several, longest.as_millis() as i32) };
        if both[1].revents & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0 {
            lose();
        }
    }

    /// The keys that were pressed, as the terminal sends them.
    pub fn read(&mut self) -> Vec<u8> {
        let mut bytes = [0; 256];
        match self.file.read(&mut bytes) {
            Ok(read) => bytes[..read].to_vec(),
            Err(_) => Vec::new(),
        }
    }

    /// Writes all of `bytes`, as long as the screen is the view's.
    ///
    /// # Errors
    /// When the terminal does not take them in time, or is gone.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut left = bytes;
        let deadline = Instant::now() + PATIENCE;
        while !left.is_empty() {
            BUSY.store(true, Ordering::SeqCst);
            // Looked at after that, so that whoever restores it waits, or this writes nothing.
            let written = match Self::screen() {
                Screen::Ours => rustix::io::write(&self.file, left),
                _ => Ok(left.len()),
            };
            BUSY.store(false, Ordering::SeqCst);
            match written {
                Ok(written) => left = &left[written..],
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    let wait = deadline.saturating_duration_since(Instant::now());
                    if wait.is_zero() {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    wait_for_room(self.file.as_raw_fd(), wait);
                }
                Err(error) => {
                    lose();
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }
}

/// Puts the screen back as it was, where the view has it. It does only what a signal handler may do.
pub fn restore() {
    give_back(Screen::Left);
}

/// The terminal is gone: nothing is written to it any more.
fn lose() {
    SCREEN.store(Screen::Lost as u8, Ordering::SeqCst);
}

/// Before Ctrl-Z stops this process.
fn restore_before_stop() {
    give_back(Screen::Interrupted);
}

/// This process goes on. Whoever had the terminal meanwhile may have set it as they like.
fn interrupted() {
    let (ours, interrupted) = (Screen::Ours as u8, Screen::Interrupted as u8);
    let _ = SCREEN.compare_exchange(ours, interrupted, Ordering::SeqCst, Ordering::SeqCst);
}

fn give_back(next: Screen) {
    let (ours, next) = (Screen::Ours as u8, next as u8);
    if SCREEN
        .compare_exchange(ours, next, Ordering::SeqCst, Ordering::SeqCst)
        .is_err()
    {
        return;
    }
    // What is being written would come after what is written here. It does not take long, and if it
    // does, the terminal takes nothing anyway.
    for _ in 0..100 {
        if !BUSY.load(Ordering::SeqCst) {
            break;
        }
        // SAFETY: no descriptor is waited for.
        unsafe { libc::poll(std::ptr::null_mut(), 0, 1) };
    }
    let descriptor = DESCRIPTOR.load(Ordering::SeqCst);
    // Whoever has the terminal now has set it: a job in the background may not.
    if descriptor < 0 || !is_in_foreground(descriptor) {
        return;
    }
    wait_for_room(descriptor, PATIENCE);
    // SAFETY: the descriptor is open, and the bytes are as many as stated.
    unsafe { libc::write(descriptor, LEAVE.as_ptr().cast(), LEAVE.len()) };
    if let Some(before) = BEFORE.get() {
        let _ = set(descriptor, before);
    }
}

fn is_in_foreground(descriptor: RawFd) -> bool {
    // SAFETY: takes no pointers.
    unsafe { libc::tcgetpgrp(descriptor) == libc::getpgrp() }
}

fn wait_for_room(descriptor: RawFd, longest: Duration) {
    let mut asked = libc::pollfd {
        fd: descriptor,
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: there is one.
    unsafe { libc::poll(&raw mut asked, 1, longest.as_millis() as i32 + 1) };
}

fn set(descriptor: RawFd, settings: &libc::termios) -> io::Result<()> {
    // SAFETY: the settings are valid, and live through the call.
    match unsafe { libc::tcsetattr(descriptor, libc::TCSANOW, settings) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has the screen put back before a panic says anything: else nobody could read it.
fn put_back_on_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        restore();
        before(panic);
    }));
}
