//! The signals that ask memtrace to end, heard from its first instruction to its last.
//!
//! The first one (Ctrl-C, SIGTERM, SIGHUP) asks it to finish. Before tracing has begun there is
//! nothing to finish, and [`check`] makes an error of it; while tracing, [`Arrival`] wakes the
//! session, and the trace ends with a report. The second one ends the process at once, whatever it
//! is doing, from within the handler.
//!
//! Two kinds of signals only ever ask to finish and never count as a second. A closing terminal is
//! told with SIGHUP by the shell and by the kernel both. `timeout` signals its child twice, once
//! alone and once with its process group.
//!
//! They are handled by a thread of their own, which does nothing else, before everything else on the
//! machine. All other threads block them: one that is loading programs, or opens a file that never
//! opens, could not handle a signal.
//!
//! Children inherit what is blocked, and the handlers until they call exec. So they call
//! [`restore`].

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};

use libc::{c_int, c_void, siginfo_t};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::keeper;

/// The signals that ask memtrace to end.
const SIGNALS: [c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// The signals of job control: they are heard on the same thread as [`SIGNALS`], and do what they
/// always do unless [`on_stop`] says otherwise.
const JOBS: [c_int; 2] = [libc::SIGTSTP, libc::SIGCONT];

/// What a shell adds to a signal's number to make an exit status of it.
const SIGNALLED: c_int = 128;

/// The program that says the same thing twice, as `/proc/PID/comm` has it.
const SAYS_IT_TWICE: &[u8] = b"timeout\n";

/// The priority of what must run before everything else.
const FIRST_OF_ALL: c_int = -20;

/// Bytes of the stack of the thread that signals are handled on.
const STACK: usize = 64 << 10;

/// The signal that arrived first; 0 before.
static FIRST: AtomicI32 = AtomicI32::new(0);

/// An eventfd that can be read from when a signal has arrived; -1 before [`install`]. It is never
/// closed.
static WAKE: AtomicI32 = AtomicI32::new(-1);

/// The process that the handlers are for. A child between fork and exec has them too.
static OWNER: AtomicI32 = AtomicI32::new(0);

/// A `fn()` that is called before the second signal ends the process; null before [`install`].
static BEFORE_LEAVING: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

/// A `fn()` that is called before Ctrl-Z stops the process, and one when it goes on; null before
/// [`on_stop`].
#[cfg(feature = "live")]
static AROUND_STOPS: [AtomicPtr<c_void>; 2] = [const { AtomicPtr::new(ptr::null_mut()) }; 2];

/// A signal asked memtrace to end before it had begun to trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted {
    signal: c_int,
}

impl Interrupted {
    /// The exit status that a process has which this signal ends.
    #[must_use]
    pub fn exit_status(self) -> u8 {
        (SIGNALLED + self.signal) as u8
    }
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted before tracing began")
    }
}

impl std::error::Error for Interrupted {}

/// Listens from now on, on a thread of its own; threads that are started later block the signals.
/// `before_leaving` is called when the second signal ends the process; it may
/// do only what a signal handler may do.
///
/// SIGHUP is left alone where it is ignored already, which is what `nohup` does.
///
/// # Errors
/// When the system has no descriptors or no threads left.
pub fn install(before_leaving: fn()) -> io::Result<()> {
    // SAFETY: takes no pointers.
    let wake = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if wake < 0 {
        return Err(io::Error::last_os_error());
    }
    WAKE.store(wake, Ordering::SeqCst);
    BEFORE_LEAVING.store(before_leaving as *mut c_void, Ordering::SeqCst);
    OWNER.store(std::process::id().cast_signed(), Ordering::SeqCst);
    for signal in SIGNALS {
        if signal != libc::SIGHUP || !is_ignored(signal)? {
            listen(signal)?;
        }
    }
    mask(libc::SIG_BLOCK);
    let handler = std::thread::Builder::new()
        .name("signals".to_owned())
        .stack_size(STACK)
        .spawn(handle_for_ever);
    handler.map(drop)
}

/// The thread that signals are handled on.
fn handle_for_ever() {
    // SAFETY: takes no pointers. Whether it is permitted does not matter.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, FIRST_OF_ALL) };
    mask(libc::SIG_UNBLOCK);
    loop {
        // SAFETY: takes no pointers; returns when a signal was handled.
        unsafe { libc::pause() };
    }
}

/// Blocks or unblocks [`SIGNALS`] and [`JOBS`] on this thread.
fn mask(how: c_int) {
    let set = all();
    // SAFETY: the set is initialised and lives through the call.
    unsafe { libc::pthread_sigmask(how, &raw const set, ptr::null_mut()) };
}

/// Fails when a signal has arrived: between any two steps on the way to a trace.
///
/// # Errors
/// [`Interrupted`].
pub fn check() -> Result<(), Interrupted> {
    match FIRST.load(Ordering::SeqCst) {
        0 => Ok(()),
        signal => Err(Interrupted { signal }),
    }
}

/// Gives the signals back their default actions, and blocks none of them: in a child before exec,
/// where it may be called since it makes nothing but system calls, or first of all after it.
pub fn restore() {
    for signal in SIGNALS.into_iter().chain(JOBS) {
        if matches!(is_ignored(signal), Ok(false)) {
            // SAFETY: the default action is a valid one.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
    mask(libc::SIG_UNBLOCK);
}

/// Has `before` called before Ctrl-Z stops this process, and `after` whenever it goes on. They may do
/// only what a signal handler may do. Where the signal is ignored, nothing is changed.
///
/// # Errors
/// When the system does not take the handlers.
#[cfg(feature = "live")]
pub fn on_stop(before: fn(), after: fn()) -> io::Result<()> {
    for (place, hook) in AROUND_STOPS.iter().zip([before, after]) {
        place.store(hook as *mut c_void, Ordering::SeqCst);
    }
    for signal in JOBS {
        if !is_ignored(signal)? {
            handle(
                signal,
                on_job as extern "C" fn(c_int) as usize,
                libc::SA_RESTART,
            )?;
        }
    }
    Ok(())
}

/// Asks memtrace to end, as Ctrl-C does, but no other process.
#[cfg(feature = "live")]
pub fn ask_to_end() {
    // SAFETY: takes no pointers.
    unsafe { libc::kill(libc::getpid(), libc::SIGINT) };
}

/// Ends the process at once, as a second Ctrl-C does.
#[cfg(feature = "live")]
pub fn leave_at_once() -> ! {
    run_hook(&BEFORE_LEAVING);
    leave(libc::SIGINT)
}

/// Waits for a signal.
pub struct Arrival(Option<AsyncFd<BorrowedFd<'static>>>);

impl Arrival {
    /// Must be called in the event loop. Without [`install`] none arrives.
    ///
    /// # Errors
    /// When the event loop cannot listen.
    pub fn new() -> io::Result<Self> {
        let wake = WAKE.load(Ordering::SeqCst);
        if wake < 0 {
            return Ok(Self(None));
        }
        // SAFETY: the descriptor is open, and is never closed.
        let wake = unsafe { BorrowedFd::borrow_raw(wake) };
        // SAFETY: it is always the same descriptor.
        let wake = unsafe { AsyncFd::register_with_interest(wake, Interest::READABLE) }?;
        Ok(Self(Some(wake)))
    }

    /// Waits until one has arrived. It is not used up: from then on this returns at once.
    pub async fn received(&self) {
        if let Some(wake) = &self.0
            && let Ok(mut ready) = wake.readable().await
        {
            ready.retain_ready();
            return;
        }
        std::future::pending::<()>().await;
    }
}

fn is_ignored(signal: c_int) -> io::Result<bool> {
    // SAFETY: all bits zero is a valid sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: only reads what is set now, into a valid place.
    if unsafe { libc::sigaction(signal, ptr::null(), &raw mut action) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(action.sa_sigaction == libc::SIG_IGN)
}

fn listen(signal: c_int) -> io::Result<()> {
    let handler = on_signal as extern "C" fn(c_int, *mut siginfo_t, *mut c_void) as usize;
    // No call elsewhere in memtrace must know of signals.
    handle(signal, handler, libc::SA_SIGINFO | libc::SA_RESTART)
}

fn handle(signal: c_int, handler: usize, flags: c_int) -> io::Result<()> {
    let action = libc::sigaction {
        sa_sigaction: handler,
        // The first is handled whole before the second.
        sa_mask: all(),
        sa_flags: flags,
        sa_restorer: None,
    };
    // SAFETY: the handler does only what a handler may do, and the action is valid.
    match unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The set of all of [`SIGNALS`] and [`JOBS`].
fn all() -> libc::sigset_t {
    // SAFETY: all bits zero is a valid set, and both functions are given a valid one.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in SIGNALS.into_iter().chain(JOBS) {
            libc::sigaddset(&raw mut set, signal);
        }
        set
    }
}

/// The handler. It makes system calls and uses atomics, and nothing else.
extern "C" fn on_signal(signal: c_int, info: *mut siginfo_t, _: *mut c_void) {
    // SAFETY: takes no pointers.
    if unsafe { libc::getpid() } != OWNER.load(Ordering::SeqCst) {
        // A child that has not called exec yet: it is not memtrace, and the signal ends it.
        // SAFETY: takes no pointers, runs no code of this process, and does not return.
        unsafe { libc::_exit(SIGNALLED + signal) }
    }
    let first = FIRST.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst);
    if first.is_err() {
        // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo.
        let (code, sender) = unsafe { ((*info).si_code, (*info).si_pid()) };
        let from_process = code == libc::SI_USER || code == libc::SI_TKILL;
        if signal == libc::SIGHUP || from_process && says_it_twice(sender) {
            return;
        }
        run_hook(&BEFORE_LEAVING);
        leave(signal);
    }
    let (one, wake) = (1_u64, WAKE.load(Ordering::SeqCst));
    // SAFETY: the place of errno is this thread's own. The interrupted code may be about to read
    // it, so it is put back. The buffer is as long as stated.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        libc::write(wake, (&raw const one).cast(), size_of_val(&one));
        *errno = before;
    }
}

/// The handler of [`JOBS`], of which the same is true.
#[cfg(feature = "live")]
extern "C" fn on_job(signal: c_int) {
    let [before, after] = &AROUND_STOPS;
    // SAFETY: takes no pointers.
    let is_own = unsafe { libc::getpid() } == OWNER.load(Ordering::SeqCst);
    // SAFETY: the place of errno is this thread's own.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let was = unsafe { *errno };
    if is_own && signal == libc::SIGCONT {
        run_hook(after);
    } else if signal == libc::SIGTSTP {
        if is_own {
            run_hook(before);
        }
        stop();
    }
    // SAFETY: as above.
    unsafe { *errno = was };
}

/// Stops this process as Ctrl-Z does, and returns when it goes on: the signal comes once more, without
/// a handler, since a shell tells it from others.
#[cfg(feature = "live")]
fn stop() {
    // SAFETY: all of it may be done in a handler, and the sets are valid ones.
    unsafe {
        libc::signal(libc::SIGTSTP, libc::SIG_DFL);
        libc::kill(libc::getpid(), libc::SIGTSTP);
        let mut signal: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut signal);
        libc::sigaddset(&raw mut signal, libc::SIGTSTP);
        // It is delivered here.
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const signal, &raw mut before);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut());
    }
    let handler = on_job as extern "C" fn(c_int) as usize;
    let _ = handle(libc::SIGTSTP, handler, libc::SA_RESTART);
}

/// Calls what a place holds, if it holds anything.
fn run_hook(place: &AtomicPtr<c_void>) {
    let hook = place.load(Ordering::SeqCst);
    if !hook.is_null() {
        // SAFETY: only `fn()`s are ever put into such a place.
        let hook: fn() = unsafe { std::mem::transmute::<*mut c_void, fn()>(hook) };
        hook();
    }
}

/// Whether a process is one that signals its child twice.
fn says_it_twice(pid: libc::pid_t) -> bool {
    // "/proc/", ten digits, "/comm" and a NUL, written from the end.
    let mut path = [0_u8; 24];
    let mut at = path.len() - 6;
    path[at..at + 5].copy_from_slice(b"/comm");
    let mut left = pid.unsigned_abs();
    loop {
        at -= 1;
        path[at] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    at -= 6;
    path[at..at + 6].copy_from_slice(b"/proc/");
    let mut name = [0_u8; 16];
    // SAFETY: the path ends with a NUL, the buffer is as long as stated, and the place of errno is
    // this thread's own and is put back.
    let read = unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        let file = libc::open(path[at..].as_ptr().cast(), libc::O_RDONLY | libc::O_CLOEXEC);
        let read = libc::read(file, name.as_mut_ptr().cast(), name.len());
        libc::close(file);
        *errno = before;
        read
    };
    usize::try_from(read).is_ok_and(|read| name[..read] == *SAYS_IT_TWICE)
}

/// Ends the process now.
fn leave(signal: c_int) -> ! {
    keeper::outlive();
    hurry();
    // SAFETY: takes no pointers, runs no code of this process, and does not return.
    unsafe { libc::_exit(SIGNALLED + signal) }
}

/// Puts all threads before everything else on this machine, where that is permitted. To end, each
/// must run once more, and where others want the CPUs that would take them their time.
fn hurry() {
    /// Where the name is in an entry of a folder, and where the entry's own length is.
    const NAME: usize = 19;
    const LENGTH: usize = 16;
    let mut entries = [0_u8; 2048];
    // SAFETY: the path ends with a NUL, and the buffer is as long as stated.
    let read = unsafe {
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
        let folder = libc::open(c"/proc/self/task".as_ptr(), flags);
        let (buffer, size) = (entries.as_mut_ptr(), entries.len());
        libc::syscall(libc::SYS_getdents64, folder, buffer, size)
    };
    let mut entries = &entries[..usize::try_from(read).unwrap_or(0)];
    while let Some(&[low, high]) = entries.get(LENGTH..LENGTH + 2) {
        let length = usize::from(u16::from_ne_bytes([low, high]));
        let (Some(entry), Some(rest)) = (entries.get(NAME..length), entries.get(length..)) else {
            return;
        };
        let digits = entry.iter().take_while(|byte| byte.is_ascii_digit());
        let number = |number: u32, digit: &u8| number.wrapping_mul(10) + u32::from(digit - b'0');
        let thread = digits.fold(0, number);
        // The folder itself and the one above it are not threads.
        if thread != 0 {
            // SAFETY: takes no pointers.
            unsafe { libc::setpriority(libc::PRIO_PROCESS, thread, FIRST_OF_ALL) };
        }
        entries = rest;
    }
}

#[cfg(test)]
pub(crate) mod tests;
