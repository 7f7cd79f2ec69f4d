//! Some of the pages that each process copied, and what they hold when it ends.
//!
//! The memory of a process is given back before anybody can ask for it. Where the kernel says before
//! that that a process ends (Linux 6.16), some of its pages are hashed there and then, and the
//! loader compares the hashes with what the parent, which lives, has at the same places.
//!
//! This is for children that were forked during the trace and run their parent's program: nobody
//! else's pages are kept. It costs an end about a microsecond for each page that is looked at; how
//! many are is bounded by how long the process lived, see [`LIFE_PER_PAGE_NS`].

use aya_ebpf::btf_maps::{Array, PerCpuArray};
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::macros::btf_map;
use core::hint::black_box;
use core::mem::size_of;
use core::ptr::{read_volatile, write_volatile};
use memtrace_common::hash::{mix, of_page};
use memtrace_common::process::{MAX_PROCESSES, ProcessSlot, SLOT_LIVE};
use memtrace_common::record::{
    Origin, PAGE_IS_FILE, PAGE_UNREAD, PageHash, PagesRecord, RecordKind, SAMPLED_PAGES,
};

use crate::maps::PROCESSES;
use crate::memory::{self, PAGE_SIZE};
use crate::task::Task;
use crate::thread::Thread;
use crate::{atomic, globals, ring};

/// A process has at most one page looked at for so long that it lived, in nanoseconds: its end
/// takes that much longer than it would.
const LIFE_PER_PAGE_NS: u64 = 50_000;

/// Words of a page.
const PAGE_WORDS: usize = (PAGE_SIZE / 8) as usize;

/// A uniform sample of the copies of one process.
#[repr(C)]
struct Sample {
    /// How many copies it is a sample of.
    copies: u64,
    /// Where they were made, with [`PAGE_IS_FILE`].
    pages: [u64; SAMPLED_PAGES],
}

/// By slot.
#[btf_map]
static SAMPLES: Array<Sample, { MAX_PROCESSES as usize }> = Array::new();

/// What one CPU has for a process that ends. Only the program for that uses it, which does not nest.
#[btf_map]
static ROOM: PerCpuArray<Room, 1> = PerCpuArray::new();

#[repr(C)]
struct Room {
    record: PagesRecord,
    pages: [PageHash; SAMPLED_PAGES],
    /// A page.
    words: [u64; PAGE_WORDS],
}

/// A process has got this slot, and has copied nothing yet.
#[inline(always)]
pub fn begin(slot: u32) {
    if globals::SAMPLES_PAGES.load() == 0 {
        return;
    }
    if let Some(sample) = SAMPLES.get_ptr_mut(slot) {
        // SAFETY: the lookup gave a live map value; the slot has been claimed.
        unsafe { write_volatile(&raw mut (*sample).copies, 0) };
    }
}

/// Whether the pages of a process can be compared with its parent's, as they are.
#[inline(always)]
fn is_comparable(process: *const ProcessSlot) -> bool {
    // SAFETY: callers pass a live map value.
    unsafe { (*process).forked_ns != 0 && (*process).execs == 0 }
}

/// A process copied the page at `address`.
#[inline(always)]
pub fn copied(process: *const ProcessSlot, slot: u32, address: u64, origin: Origin) {
    if globals::SAMPLES_PAGES.load() == 0 || !is_comparable(process) {
        return;
    }
    let Some(sample) = SAMPLES.get_ptr_mut(slot) else {
        return;
    };
    // SAFETY: the lookup gave a live map value.
    let before = unsafe { atomic::fetch_add(&raw mut (*sample).copies, 1) };
    let place = if before < SAMPLED_PAGES as u64 {
        before
    } else {
        // Each copy has the same chance to be there in the end.
        ((mix(address, before) >> 32) * (before + 1)) >> 32
    };
    // The verifier wants to see the bound.
    let place = black_box(place);
    if place >= SAMPLED_PAGES as u64 {
        return;
    }
    let is_file = if matches!(origin, Origin::File) {
        PAGE_IS_FILE
    } else {
        0
    };
    let page = address & !(PAGE_SIZE - 1) | is_file;
    // SAFETY: the lookup gave a live map value, and the place is within the array.
    unsafe {
        write_volatile(
            (&raw mut (*sample).pages).cast::<u64>().add(place as usize),
            page,
        );
    }
}

/// The last thread of a process ends, and its memory is still there: sends what some of the pages
/// hold that it copied.
#[inline(always)]
pub fn send(task: Task, thread: *mut Thread) -> Option<()> {
    // SAFETY: callers pass a live value of the running thread.
    let slot = unsafe { (*thread).slot };
    let process = PROCESSES.get_ptr(slot)?;
    if !is_comparable(process) || !has_parent(task, process) {
        return None;
    }
    // SAFETY: the lookup gave a live map value.
    let copies = unsafe { read_volatile(&raw const (*SAMPLES.get_ptr(slot)?).copies) };
    let held = copies.min(SAMPLED_PAGES as u64);
    if copies == 0 {
        return None;
    }
    // SAFETY: the helper has no preconditions, and the slot is this process's.
    let lived = unsafe { bpf_ktime_get_ns().wrapping_sub((*process).forked_ns) };
    let wanted = held.min(lived / LIFE_PER_PAGE_NS);
    sample_look_at(u64::from(slot), held, wanted);
    let room = room()?;
    room.record = PagesRecord {
        kind: RecordKind::Pages.code(),
        reserved: 0,
        count: wanted as u16,
        slot,
        copies,
    };
    // The verifier wants to see the bound.
    let wanted = black_box(wanted);
    if wanted > SAMPLED_PAGES as u64 {
        return None;
    }
    let size = size_of::<PagesRecord>() as u64 + wanted * size_of::<PageHash>() as u64;
    // SAFETY: the record and the pages behind it are within this CPU's room. One that finds no room
    // in the ring is missed by nobody: the process has just ended for the loader.
    unsafe { ring::send(core::ptr::from_mut(room).cast_const(), size) };
    Some(())
}

/// Whether the process that forked this one is traced, lives, and has another memory.
#[inline(always)]
fn has_parent(task: Task, process: *const ProcessSlot) -> bool {
    // SAFETY: callers pass a live map value.
    let (slot, pid) = unsafe { ((*process).parent_slot, (*process).parent_pid) };
    let lives = PROCESSES.get_ptr(slot).is_some_and(|parent| {
        // SAFETY: the lookup gave a live map value.
        unsafe { (*parent).state == SLOT_LIVE && (*parent).pid == pid }
    });
    lives
        && task
            .real_parent()
            .is_some_and(|parent| parent.mm() != task.mm())
}

/// Puts the hashes of `wanted` pages of a process's sample, which holds `held`, into this CPU's room,
/// as the pages are now.
///
/// Global, so that the verifier does not follow what comes after the loop for each way out of it:
/// see [`main`](crate).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sample_look_at(slot: u64, held: u64, wanted: u64) -> u64 {
    for n in 0..SAMPLED_PAGES as u64 {
        if n >= wanted {
            break;
        }
        // Evenly over the sample, in which the first copies are at the front.
        sample_look_at_page(slot, n * held / wanted, n);
    }
    0
}

/// Puts the hash of a page of a process's sample, as it is now, into place `n` of this CPU's room.
///
/// Global, so that the verifier follows the loop once: see [`main`](crate).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sample_look_at_page(slot: u64, at: u64, n: u64) -> u64 {
    let (Some(sample), Some(room)) = (SAMPLES.get_ptr(slot as u32), room()) else {
        return 0;
    };
    let (at, n) = (
        at as usize & (SAMPLED_PAGES - 1),
        n as usize & (SAMPLED_PAGES - 1),
    );
    // SAFETY: the lookup gave a live map value, and the mask keeps the place within the array.
    let page = unsafe { read_volatile((&raw const (*sample).pages).cast::<u64>().add(at)) };
    let address = page & !(PAGE_SIZE - 1);
    // SAFETY: there is room for a page.
    let was_read = unsafe { memory::read((&raw mut room.words).cast(), PAGE_SIZE, address) };
    let hash = if was_read {
        of_page(&room.words)
    } else {
        PAGE_UNREAD
    };
    // SAFETY: the mask keeps the place within the array.
    unsafe {
        let place = (&raw mut room.pages).cast::<PageHash>().add(n);
        write_volatile(place, PageHash { page, hash });
    }
    1
}

/// This CPU's room.
#[inline(always)]
fn room() -> Option<&'static mut Room> {
    // SAFETY: the lookup gave this CPU's value, which only the running program uses.
    ROOM.get_ptr_mut(0).map(|room| unsafe { &mut *room })
}
