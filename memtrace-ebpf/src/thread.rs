//! The table of traced threads, and the gate: what every event asks first.
//!
//! The gate is what all processes of the machine pay, traced or not, so it is the cheapest there
//! is: an array of counters by the low bits of the pid. The table behind it is an array, and a hash
//! for the threads that have to share a place. No lock is held: see [`Thread::insert`].

use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST};
use aya_ebpf::btf_maps::{Array, HashMap};
use aya_ebpf::macros::btf_map;
use core::ptr::{read_volatile, write_volatile};
use memtrace_common::hash::SPREAD;

use crate::task::Task;
use crate::{atomic, globals};

/// State of each traced thread, by the address of its `task_struct`, which is not used again before
/// this thread's entry is removed. Each address has one place here; a thread whose place is
/// occupied is in [`THREADS`].
///
/// A fault looks here three times. Measured: the kernel's task storage takes about 100 ns, a hash
/// 30, this 4.
#[btf_map]
static PLACES: Array<Place, PLACES_LEN> = Array::new();

/// Entries of [`PLACES`], a power of two.
const PLACES_LEN: usize = 16_384;

/// State of the traced threads that do not have a place in [`PLACES`].
#[btf_map]
static THREADS: HashMap<u64, Thread, 65_536, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

/// How many traced processes have a pid that ends in these bits. Zero means that a thread is not
/// traced.
#[btf_map]
static TRACED_PIDS: Array<u64, TRACED_PIDS_LEN> = Array::new();

/// Entries of [`TRACED_PIDS`], a power of two.
const TRACED_PIDS_LEN: usize = 16_384;

/// [`Thread::life`]: traced, and counted in its process's `threads`.
pub const COUNTED: u64 = 1;
/// [`Thread::life`]: ended, and not counted any more.
pub const GONE: u64 = 2;

/// What is known of one traced thread.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Thread {
    /// [`COUNTED`] or [`GONE`]; 0 while the entry is being filled in.
    pub life: u64,
    /// Its process's index in [`PROCESSES`](crate::maps::PROCESSES).
    pub slot: u32,
    /// Its process.
    pub pid: u32,
    /// The stack of its last copy that the loader has been sent.
    pub last_stack: u64,
    /// The fault that it is in.
    pub window: Window,
}

/// A fault, while it lasts: see [`window`](crate::window).
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Window {
    /// The address written to.
    pub address: u64,
    /// The user-mode instruction.
    pub ip: u64,
    /// When it began.
    pub opened_ns: u64,
    /// The page that was allocated, as the kernel's pointer; only compared.
    pub page: u64,
    /// The thread's completed faults when it began.
    pub faults: u64,
    /// What is known so far.
    pub marks: u32,
    /// The hugetlb pages of the process when it began, for a fault on an absent page.
    pub hugetlb_pages: u32,
}

impl Window {
    /// Not a fault.
    const CLOSED: Self = Self {
        address: 0,
        ip: 0,
        opened_ns: 0,
        page: 0,
        faults: 0,
        marks: 0,
        hugetlb_pages: 0,
    };
}

/// A place for the state of a thread.
#[repr(C)]
struct Place {
    /// Address of its `task_struct`; 0 when the place is free.
    task: u64,
    thread: Thread,
}

/// The entry of [`TRACED_PIDS`] for a pid.
#[inline(always)]
pub fn traced_pids(pid: u32) -> Option<*mut u64> {
    TRACED_PIDS.get_ptr_mut(pid & (TRACED_PIDS_LEN as u32 - 1))
}

/// The place of a thread.
#[inline(always)]
fn place_of(task: Task) -> Option<*mut Place> {
    // The verifier permits no arithmetic with an address, except the difference of two; this one
    // is from a place that stays where it is. Addresses are far apart, and differ in the middle.
    let distance = task
        .address()
        .wrapping_sub((&raw const globals::FOLLOW) as u64);
    let spread = (distance >> 6).wrapping_mul(SPREAD) >> 40;
    PLACES.get_ptr_mut(spread as u32 & (PLACES_LEN as u32 - 1))
}

/// The thread that is running, where it is traced: the gate.
#[inline(always)]
pub fn current() -> Option<(Task, *mut Thread)> {
    let task = Task::current();
    Some((task, Thread::of(task)?))
}

impl Thread {
    /// The state of `task`, where it is traced.
    #[inline(always)]
    pub fn of(task: Task) -> Option<*mut Self> {
        // SAFETY: the lookup gave a live map value.
        if unsafe { *traced_pids(task.pid())? } == 0 {
            return None;
        }
        Self::find(task)
    }

    /// The state of `task`, whether its pid says that it is traced or not.
    #[inline(always)]
    pub fn find(task: Task) -> Option<*mut Self> {
        let place = place_of(task)?;
        // SAFETY: the lookup gave a live map value. Another CPU may be filling it in; `life` is
        // what it writes last.
        unsafe {
            if (*place).task == task.address() {
                let thread = &raw mut (*place).thread;
                return (read_volatile(&raw const (*thread).life) != 0).then_some(thread);
            }
        }
        THREADS.get_ptr_mut(task.address())
    }

    /// A traced thread of the process in `slot`, outside of any fault.
    #[inline(always)]
    pub const fn new(slot: u32, pid: u32) -> Self {
        Self {
            life: COUNTED,
            slot,
            pid,
            last_stack: 0,
            window: Window::CLOSED,
        }
    }

    /// Makes this the state of `task`; returns whether it had none, and there was room.
    ///
    /// Two may try at once for the same thread. Whoever has written its address into the place has
    /// won; whoever then finds this after inserting into the hash removes that entry again.
    #[inline(always)]
    pub fn insert(self, task: Task) -> bool {
        let address = task.address();
        let Some(place) = place_of(task) else {
            return false;
        };
        // SAFETY: the lookup gave a live map value. Only whoever has written the address into it
        // fills it in.
        unsafe {
            let owner = &raw mut (*place).task;
            if THREADS.get_ptr(address).is_none() && atomic::replace(owner, 0, address) {
                let thread = &raw mut (*place).thread;
                (*thread).slot = self.slot;
                (*thread).pid = self.pid;
                (*thread).last_stack = self.last_stack;
                (*thread).window = self.window;
                write_volatile(&raw mut (*thread).life, self.life);
                return true;
            }
            if read_volatile(owner) == address
                || THREADS
                    .insert(address, self, u64::from(BPF_NOEXIST))
                    .is_err()
            {
                return false;
            }
            if read_volatile(owner) == address {
                let _ = THREADS.remove(address);
                return false;
            }
        }
        true
    }

    /// Whether another CPU is filling in the place of `task`.
    #[inline(always)]
    pub fn is_being_made(task: Task) -> bool {
        // SAFETY: the lookup gave a live map value.
        place_of(task).is_some_and(|place| unsafe { (*place).task } == task.address())
    }

    /// Removes the state of `task`, which the kernel frees.
    #[inline(always)]
    pub fn forget(task: Task) {
        let address = task.address();
        if let Some(place) = place_of(task) {
            // SAFETY: the lookup gave a live map value; nobody looks for a thread that is freed.
            unsafe {
                if (*place).task == address {
                    write_volatile(&raw mut (*place).thread.life, 0);
                    write_volatile(&raw mut (*place).task, 0);
                    return;
                }
            }
        }
        let _ = THREADS.remove(address);
    }
}
