//! A process that has memtrace's descriptors, too, so that memtrace need not wait for what the kernel
//! does when the last of them is closed.
//!
//! To detach a program from a tracepoint that somebody else uses as well, the kernel waits until all
//! CPUs have passed through a quiet state: tens of milliseconds for each of them on a busy machine, in
//! which nothing can end the thread that waits. A child that shares memtrace's memory, and has
//! descriptors of its own for what memtrace has open, can be made in no time. Whoever closes the last
//! one waits, and that is the child.

use std::cell::UnsafeCell;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use libc::{c_int, c_void};

/// Bytes of a child's stack. It makes system calls, and nothing else.
const STACK: usize = 16 << 10;

/// How often a child looks whether it should end, in nanoseconds.
const TICK_NS: libc::c_long = 200_000;

/// What a child looks at.
struct Orders {
    /// Whose child it is.
    parent: AtomicI32,
    /// Whether it should end while that lives.
    end: AtomicBool,
}

impl Orders {
    const fn new() -> Self {
        Self {
            parent: AtomicI32::new(0),
            end: AtomicBool::new(false),
        }
    }
}

#[repr(align(16))]
struct Stack(UnsafeCell<[u8; STACK]>);

impl Stack {
    const fn new() -> Self {
        Self(UnsafeCell::new([0; STACK]))
    }
}

// SAFETY: nobody but the one child that it is given to looks into it.
unsafe impl Sync for Stack {}

/// Something whose end the kernel may need long for: its descriptors are closed as [`close`] does.
pub struct Kept<T>(ManuallyDrop<T>);

impl<T> Kept<T> {
    /// Takes it.
    pub fn new(kept: T) -> Self {
        Self(ManuallyDrop::new(kept))
    }
}

impl<T> Deref for Kept<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Kept<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T> Drop for Kept<T> {
    fn drop(&mut self) {
        // SAFETY: it is dropped here and not looked at any more.
        close(|| unsafe { ManuallyDrop::drop(&mut self.0) });
    }
}

/// Calls `close`, and waits as long as the kernel needs for what that gives back. A signal that ends
/// memtrace meanwhile ends it at once.
fn close(close: impl FnOnce()) {
    let (orders, stack) = (Orders::new(), Box::new(Stack::new()));
    // SAFETY: both stay where they are until the child has ended, which is waited for below.
    let child = unsafe { start(&orders, &stack) };
    close();
    orders.end.store(true, Ordering::Release);
    if let Some(child) = child {
        // SAFETY: asks for no status. A child that sends no signal is only waited for with __WALL.
        while unsafe { libc::waitpid(child, ptr::null_mut(), libc::__WALL) } < 0 {
            if std::io::Error::last_os_error().kind() != std::io::ErrorKind::Interrupted {
                break;
            }
        }
    }
}

/// Has what this process has open closed by another one after its end. A signal handler may call it;
/// from the second call on it does nothing.
pub fn outlive() {
    static CALLED: AtomicBool = AtomicBool::new(false);
    static ORDERS: Orders = Orders::new();
    static LAST: Stack = Stack::new();
    if !CALLED.swap(true, Ordering::SeqCst) {
        // SAFETY: both are where they are for ever, and nobody else comes here.
        unsafe { start(&ORDERS, &LAST) };
    }
}

/// Starts a child that has this process's memory, and its own descriptors for what this process has
/// open; it ends when it is told to, or when this process has ended. It blocks the signals that this
/// thread does, which on memtrace's threads are those that end memtrace. `None` when there can be no
/// child.
///
/// # Safety
/// `orders` and `stack` are left alone and stay where they are until the child has ended, and nobody
/// else uses the stack.
unsafe fn start(orders: &Orders, stack: &Stack) -> Option<libc::pid_t> {
    // SAFETY: takes no pointers.
    let own = unsafe { libc::getpid() };
    orders.parent.store(own, Ordering::Release);
    // Without a signal at its end it is nobody's business but that of who waits for it.
    // SAFETY: the stack is the child's own, from its end downwards, and aligned; what it runs needs
    // nothing of the thread that it is a copy of.
    let child = unsafe {
        let end = stack.0.get().cast::<u8>().add(STACK);
        let orders = ptr::from_ref(orders).cast_mut();
        libc::clone(keep, end.cast(), libc::CLONE_VM, orders.cast())
    };
    (child > 0).then_some(child)
}

/// What a child does. It has the memory of its parent, whose threads may hold any lock: it only makes
/// system calls.
extern "C" fn keep(orders: *mut c_void) -> c_int {
    // SAFETY: `start` passes valid orders, which stay there.
    let orders = unsafe { &*orders.cast_const().cast::<Orders>() };
    let tick = libc::timespec {
        tv_sec: 0,
        tv_nsec: TICK_NS,
    };
    let parent = orders.parent.load(Ordering::Acquire);
    // SAFETY: takes no pointers. Another process is the parent once all threads of the first have
    // ended and given back their descriptors.
    while !orders.end.load(Ordering::Acquire) && unsafe { libc::getppid() } == parent {
        // SAFETY: the time is valid, and what is left of it is not asked for.
        unsafe { libc::syscall(libc::SYS_nanosleep, &raw const tick, ptr::null::<c_void>()) };
    }
    // Whoever reads what was written there should not wait for the rest.
    for descriptor in 0..=libc::STDERR_FILENO {
        // SAFETY: nothing of this process uses it any more.
        unsafe { libc::syscall(libc::SYS_close, descriptor) };
    }
    0
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, pipe};

    use super::*;

    #[test]
    fn what_is_closed_is_closed_for_all() {
        let (mut reader, writer) = pipe().unwrap();
        drop(Kept::new(writer));
        // A descriptor that were left somewhere would keep it from ending.
        assert_eq!(reader.read(&mut [0; 1]).unwrap(), 0);
    }

    #[test]
    fn a_child_is_there_until_it_is_told() {
        let (orders, stack) = (Orders::new(), Stack::new());
        // SAFETY: the child is waited for below.
        let child = unsafe { start(&orders, &stack) }.unwrap();
        let (mut reader, writer) = pipe().unwrap();
        drop(writer);
        // It was made before, so it does not have the pipe.
        assert_eq!(reader.read(&mut [0; 1]).unwrap(), 0);
        let status = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap();
        assert!(!status.contains(") Z "), "{status}");
        orders.end.store(true, Ordering::Release);
        // SAFETY: asks for no status.
        let ended = unsafe { libc::waitpid(child, ptr::null_mut(), libc::__WALL) };
        assert_eq!(ended, child);
    }
}
