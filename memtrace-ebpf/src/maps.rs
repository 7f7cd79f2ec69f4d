//! Every map, its size and why.

use aya_ebpf::bindings::{
    BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_LOCAL_STORAGE_GET_F_CREATE, bpf_map_type,
};
use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::helpers::generated::bpf_task_storage_get;
use aya_ebpf::macros::btf_map;
use core::ptr;
use memtrace_common::process::{Health, MAX_PROCESSES, ProcessSlot};
use memtrace_common::record::{MAX_FRAMES, StackRecord};

use crate::task::Task;
use crate::window::Window;

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

/// State of each traced thread. A thread without an entry is not traced: that is the check that
/// every fault of every process on the machine pays, and the cheapest there is.
#[btf_map]
pub static THREADS: TaskStorage<Thread> = TaskStorage::new();

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

/// Room for one stack per CPU: too large for a program's own stack.
#[btf_map]
pub static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// What [`SCRATCH`] holds: a record as it is sent.
#[repr(C)]
pub struct Scratch {
    /// The record's fixed part.
    pub record: StackRecord,
    /// Its frames.
    pub frames: [u64; MAX_FRAMES],
    /// Fault records written on this CPU, to wake the loader now and then.
    pub records: u64,
}

/// What is known of one traced thread.
#[repr(C)]
pub struct Thread {
    /// `ABSENT`, `COUNTED` or `GONE`: see [`crate::lineage`].
    pub life: u64,
    /// Its process's index in [`PROCESSES`].
    pub slot: u32,
    /// Its process.
    pub pid: u32,
    /// Itself.
    pub tid: u32,
    _pad: u32,
    /// The fault that it is in.
    pub window: Window,
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

/// A map of the kernel's type `BPF_MAP_TYPE_TASK_STORAGE`, which the library does not have yet:
/// one value per thread, freed with it.
///
/// The fields are read by the loader from the object's type information, not by the programs.
#[repr(C)]
pub struct TaskStorage<T> {
    r#type: *const [i32; bpf_map_type::BPF_MAP_TYPE_TASK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; BPF_F_NO_PREALLOC as usize],
}

// SAFETY: the pointers are never followed; they only carry types to the loader.
unsafe impl<T> Sync for TaskStorage<T> {}

impl<T> TaskStorage<T> {
    /// The definition, for the loader to fill in.
    pub const fn new() -> Self {
        Self {
            r#type: ptr::null(),
            key: ptr::null(),
            value: ptr::null(),
            max_entries: ptr::null(),
            map_flags: ptr::null(),
        }
    }

    #[inline(always)]
    fn lookup(&self, task: Task, flags: u64) -> Option<*mut T> {
        let map = ptr::from_ref(self).cast_mut().cast();
        // SAFETY: the map is one of this type, and `task` is a task to the verifier.
        let value = unsafe { bpf_task_storage_get(map, task.as_ptr(), ptr::null_mut(), flags) };
        (!value.is_null()).then_some(value.cast())
    }

    /// The value of `task`, where it has one.
    #[inline(always)]
    pub fn get(&self, task: Task) -> Option<*mut T> {
        self.lookup(task, 0)
    }

    /// The value of `task`, made of zeroes if it had none; `None` when the kernel has no memory.
    #[inline(always)]
    pub fn get_or_create(&self, task: Task) -> Option<*mut T> {
        self.lookup(task, BPF_LOCAL_STORAGE_GET_F_CREATE.into())
    }
}
