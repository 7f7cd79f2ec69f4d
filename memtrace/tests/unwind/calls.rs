//! Copies pages in closures, trait objects, sorts and panics, each at the instruction `copy_here`: see
//! calls.c.

use std::arch::asm;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

static USED: AtomicUsize = AtomicUsize::new(0);
static MEMORY: AtomicUsize = AtomicUsize::new(0);
static SINK: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" {
    fn fork() -> i32;
    fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
    fn _exit(status: i32) -> !;
    fn sleep(seconds: u32) -> u32;
    fn madvise(address: *mut u8, length: usize, advice: i32) -> i32;
}

/// Copies a page.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn touch() {
    let page = MEMORY.load(Ordering::Relaxed) + 4096 * USED.fetch_add(1, Ordering::Relaxed);
    #[allow(named_asm_labels, reason = "a debugger is to stop here")]
    // SAFETY: the page is the program's own.
    unsafe { asm!(".globl copy_here", "copy_here: mov byte ptr [{0}], 2", in(reg) page) };
}

fn count() -> usize {
    SINK.fetch_add(1, Ordering::Relaxed)
}

trait Walk {
    fn walk(&self, depth: u32);
}

struct Narrow;
struct Wide([u64; 40]);

impl Walk for Narrow {
    #[inline(never)]
    fn walk(&self, depth: u32) {
        touch();
        next(depth).walk(depth.saturating_sub(1));
        count();
    }
}

impl Walk for Wide {
    #[inline(never)]
    fn walk(&self, depth: u32) {
        let mut room = self.0;
        room[depth as usize % 40] += 1;
        std::hint::black_box(&mut room);
        if depth > 0 {
            next(depth).walk(depth - 1);
        }
        touch();
        count();
    }
}

#[inline(never)]
fn next(depth: u32) -> Box<dyn Walk> {
    if depth % 2 == 1 { Box::new(Narrow) } else { Box::new(Wide([7; 40])) }
}

struct Guard;

impl Drop for Guard {
    #[inline(never)]
    fn drop(&mut self) {
        touch();
        count();
    }
}

#[inline(never)]
fn panics(depth: u32) {
    let _guard = Guard;
    if depth == 0 {
        std::panic::resume_unwind(Box::new("thrown"));
    }
    panics(depth - 1);
    count();
}

#[inline(never)]
fn sorts() {
    let mut numbers: Vec<u32> = (0..300).map(|n| n * 37 % 300).collect();
    numbers.sort_by(|a, b| {
        if count() % 64 == 0 {
            touch();
        }
        a.cmp(b)
    });
}

fn main() {
    let mut memory = vec![1_u8; 1025 * 4096];
    let start = memory.as_mut_ptr();
    let page = start.wrapping_add(start.align_offset(4096));
    // SAFETY: within the vector.
    unsafe { madvise(page, 1024 * 4096, 15) };
    MEMORY.store(page as usize, Ordering::Relaxed);
    // SAFETY: one thread, and the child ends without running anything of the parent's.
    unsafe {
        if std::env::args().len() > 1 {
            sleep(1);
        }
        let child = fork();
        if child == 0 {
            next(1).walk(21);
            let _ = catch_unwind(AssertUnwindSafe(|| panics(6)));
            sorts();
            _exit(0);
        }
        waitpid(child, std::ptr::null_mut(), 0);
    }
}
