//! Every map, its size and why.

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_NOEXIST};
use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::macros::btf_map;
use core::ptr::{read_volatile, write_volatile};
use memtrace_common::interpreter::MAX_INTERPRETERS;
use memtrace_common::interpreter::python::Layout;
use memtrace_common::process::{Health, MAX_PROCESSES, ProcessSlot};
use memtrace_common::record::{
    FUNCTION_FILE_BYTES, FUNCTION_LINES_BYTES, FUNCTION_NAME_BYTES, FunctionRecord, StackRecord,
};
use memtrace_common::unwind::{MAPPINGS_LEN, MAX_RULES, Mapping, Rule};

use crate::cause::{TYPES, WINDOW};
use crate::lineage::COUNTED;
use crate::memory::Words;
use crate::python;
use crate::stack::WORDS;
use crate::task::Task;
use crate::unwind::{CHECKS, Check, KNOWN_ROWS, KnownRow, Seen, Walk};
use crate::window::Window;
use crate::{atomic, globals};

/// The traced processes. Memory-mapped by the loader, so that reading it costs no system call.
#[btf_map]
pub static PROCESSES: Array<ProcessSlot, { MAX_PROCESSES as usize }, { BPF_F_MMAPABLE as usize }> =
    Array::new();

/// What went wrong; see [`Health`]. Memory-mapped.
#[btf_map]
pub static HEALTH: Array<Health, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Records for the loader. The loader sets the size: see its `probe` module.
#[btf_map]
pub static EVENTS: RingBuf<u8, { 1 << 20 }> = RingBuf::new();

/// State of each traced thread, by the address of its `task_struct`, which no other thread has
/// before this one's entry is removed. Each address has one place here; a thread whose place is
/// taken is in [`THREADS`].
///
/// A fault looks here three times. Measured: the kernel's task storage takes about 100 ns, a hash
/// 30, this 4.
#[btf_map]
static PLACES: Array<Place, PLACES_LEN> = Array::new();

/// Entries of [`PLACES`], a power of two.
const PLACES_LEN: usize = 16_384;

/// State of the traced threads that have no place in [`PLACES`].
#[btf_map]
static THREADS: HashMap<u64, Thread, 65_536, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

/// How many traced processes have a pid that ends in these bits. Zero means that a thread is not
/// traced: that is the check which every fault of every process on the machine pays, so it is the
/// cheapest there is.
#[btf_map]
static TRACED_PIDS: Array<u64, TRACED_PIDS_LEN> = Array::new();

/// Entries of [`TRACED_PIDS`], a power of two.
const TRACED_PIDS_LEN: usize = 16_384;

/// Pids that the user named. Written by the loader before it looks for processes.
#[btf_map]
pub static ROOTS: HashMap<u32, u32, 1024> = HashMap::new();

/// Where the search for free process slots goes on.
#[btf_map]
pub static NEXT_SLOT: Array<u64, 1> = Array::new();

/// Threads that [`lineage::visit`](crate::lineage::visit) has taken so far. Memory-mapped.
#[btf_map]
pub static FOUND: Array<u64, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Stacks that the loader has been sent. An old one may be forgotten; it is then sent again.
#[btf_map]
pub static STACKS_SENT: LruHashMap<u64, u8, 65_536> = LruHashMap::new();

/// How each CPython in traced processes is laid out. Memory-mapped; written by the loader.
#[btf_map]
pub static PYTHONS: Array<Layout, { MAX_INTERPRETERS as usize }, { BPF_F_MMAPABLE as usize }> =
    Array::new();

/// Code objects that the loader has been sent, by interpreter and address; what tells them from
/// others at that address. An old one may be forgotten; it is then sent again.
#[btf_map]
pub static CODES_SENT: LruHashMap<u64, u64, 65_536> = LruHashMap::new();

/// Types that have been seen, by interpreter and address. The loader is woken for a new one, to read
/// its name while the process lives.
#[btf_map]
pub static TYPES_SEEN: LruHashMap<u64, u8, 16_384> = LruHashMap::new();

/// Rows of all unwind tables. Memory-mapped; written by the loader, which also sets the size.
#[btf_map]
pub static ROWS: Array<u64, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Rules that do not fit in a row, of all unwind tables. Memory-mapped; written by the loader.
#[btf_map]
pub static RULES: Array<Rule, { MAX_RULES as usize }, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Sets of mappings. Memory-mapped; written by the loader.
#[btf_map]
pub static MAPPINGS: Array<Mapping, { MAPPINGS_LEN as usize }, { BPF_F_MMAPABLE as usize }> =
    Array::new();

/// Room for one stack per CPU: too large for a program's own stack.
#[btf_map]
pub static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// Bytes of the native stack that are read at once.
pub const PIECE: u64 = 1024;
/// Bytes of Python frames that are read at once, at most.
pub const CHUNK: u64 = 4096;

/// Rows that were found lately, per CPU.
#[btf_map]
pub static KNOWN: PerCpuArray<[KnownRow; KNOWN_ROWS], 1> = PerCpuArray::new();

/// What [`SCRATCH`] holds: a record as it is sent.
#[repr(C)]
pub struct Scratch {
    /// The record's fixed part.
    pub record: StackRecord,
    /// Its frames: native ones, and behind them Python's.
    pub frames: [u64; WORDS],
    /// Fault records written on this CPU, to wake the loader now and then.
    pub records: u64,
    /// Whether to wake the loader with the next one.
    pub wake: u64,
    /// Where the walk over the stack is.
    pub walk: Walk,
    /// The walk that the native frames are of.
    pub seen: Seen,
    /// What it read of the stack.
    pub checks: [Check; CHECKS],
    /// Where the walk over Python frames is.
    pub python: python::Walk,
    /// A thread state.
    pub state: Words,
    /// A code object, to be sent.
    pub code: CodeRoom,
    /// Memory around the address written to.
    pub window: [u64; WINDOW],
    /// A pool's header, or what a block in it begins with.
    pub pool: [u64; WINDOW],
    /// Types that were seen lately: address and interpreter, and flags.
    pub types: [(u64, u64); TYPES],
    /// A type.
    pub type_words: Words,
    /// A piece of the target's memory, and room so that a field behind it is still within.
    pub piece: [u64; (CHUNK / 8) as usize + 16],
}

/// A code object and its record as it is sent.
#[repr(C)]
pub struct CodeRoom {
    /// The object itself.
    pub words: Words,
    /// The record's fixed part; the others are right behind it.
    pub record: FunctionRecord,
    /// Its name.
    pub name: [u64; FUNCTION_NAME_BYTES / 8],
    /// Its file's name.
    pub file: [u64; FUNCTION_FILE_BYTES / 8],
    /// Its table of lines.
    pub lines: [u64; FUNCTION_LINES_BYTES / 8],
}

/// The entry of [`TRACED_PIDS`] for a pid.
#[inline(always)]
pub fn traced_pids(pid: u32) -> Option<*mut u64> {
    TRACED_PIDS.get_ptr_mut(pid & (TRACED_PIDS_LEN as u32 - 1))
}

/// What is known of one traced thread.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Thread {
    /// `COUNTED` or `GONE`: see [`crate::lineage`].
    pub life: u64,
    /// Its process's index in [`PROCESSES`].
    pub slot: u32,
    /// Its process.
    pub pid: u32,
    /// Itself.
    pub tid: u32,
    _pad: u32,
    /// The stack of its last copy that the loader has been sent.
    pub last_stack: u64,
    /// The fault that it is in.
    pub window: Window,
}

/// A place for the state of a thread.
#[repr(C)]
struct Place {
    /// Address of its `task_struct`; 0 when the place is free.
    task: u64,
    thread: Thread,
}

/// The place of a thread.
#[inline(always)]
fn place_of(task: Task) -> Option<*mut Place> {
    // The verifier permits no arithmetic with an address, except the difference of two; this one
    // is from a place that stays where it is. Addresses are far apart, and differ in the middle.
    let distance = task
        .address()
        .wrapping_sub((&raw const globals::FOLLOW) as u64);
    let spread = (distance >> 6).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    PLACES.get_ptr_mut(spread as u32 & (PLACES_LEN as u32 - 1))
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
    pub const fn new(slot: u32, pid: u32, tid: u32) -> Self {
        Self {
            life: COUNTED,
            slot,
            pid,
            tid,
            _pad: 0,
            last_stack: 0,
            window: Window::CLOSED,
        }
    }

    /// Makes this the state of `task`; returns whether it had none, and there was room.
    ///
    /// Two may try at once for the same thread. Whoever has written its address into the place has
    /// won; one that then finds this, having inserted into the hash, takes that back.
    #[inline(always)]
    pub fn insert(self, task: Task) -> bool {
        let address = task.address();
        let Some(place) = place_of(task) else {
            return false;
        };
        // SAFETY: the lookup gave a live map value. Only who has written its address into it fills
        // it in.
        unsafe {
            let owner = &raw mut (*place).task;
            if THREADS.get_ptr(address).is_none() && atomic::replace(owner, 0, address) {
                let thread = &raw mut (*place).thread;
                (*thread).slot = self.slot;
                (*thread).pid = self.pid;
                (*thread).tid = self.tid;
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

    /// Forgets `task`, which the kernel frees.
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

/// Adds one to a field of [`HEALTH`].
macro_rules! count_health {
    ($field:ident) => {
        if let Some(health) = $crate::maps::HEALTH.get_ptr_mut(0) {
            // SAFETY: the lookup gave a live map value.
            unsafe { $crate::atomic::add(&raw mut (*health).$field, 1) }
        }
    };
}
pub(crate) use count_health;
