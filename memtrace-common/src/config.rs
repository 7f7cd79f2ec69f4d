//! What the loader writes into the BPF object before it is loaded: globals, by name.
//!
//! Offsets come from the running kernel's BTF, so that none is written in the source.

/// Defines the names of the object's globals as constants, so that both sides spell them alike.
macro_rules! globals {
    ($($(#[$meta:meta])* $name:ident,)+) => {
        $($(#[$meta])* pub const $name: &str = stringify!($name);)+
    };
}

globals! {
    /// `u32`: offset of `task_struct.tgid`.
    TASK_TGID,
    /// `u32`: offset of `task_struct.flags`.
    TASK_FLAGS,
    /// `u32`: offset of `task_struct.mm`.
    TASK_MM,
    /// `u32`: offset of `task_struct.comm`.
    TASK_COMM,
    /// `u32`: offset of `task_struct.min_flt`.
    TASK_MIN_FLT,
    /// `u32`: offset of `task_struct.maj_flt`.
    TASK_MAJ_FLT,
    /// `u32`: offset of `task_struct.real_parent`.
    TASK_REAL_PARENT,
    /// `u32`: offset of `task_struct.group_leader`.
    TASK_GROUP_LEADER,
    /// `u32`: offset of `task_struct.start_boottime` (before 5.5 `real_start_time`).
    TASK_START_BOOTTIME,
    /// `u32`: offset in `task_struct` of the thread's own pointer, on x86-64 `thread.fsbase`.
    TASK_THREAD_POINTER,
    /// `u32`: offset of `mm_struct.hugetlb_usage`; 0 in a kernel without hugetlb pages.
    MM_HUGETLB_USAGE,
    /// `u32`: offset of `task_struct.signal`.
    TASK_SIGNAL,
    /// `u32`: offset of `task_struct.se.sum_exec_runtime`.
    TASK_RUNTIME,
    /// `u32`: offset of `signal_struct.sum_sched_runtime`.
    SIGNAL_RUNTIME,
    /// `u32`: offset of the first counter in `mm_struct.rss_stat`; 0 where they are no counters by CPU
    /// (before 6.2).
    MM_RESIDENT,
    /// `u32`: bytes from one of these counters to the next.
    MM_RESIDENT_STEP,
    /// `u32`: offset in `pt_regs` of the instruction, on x86-64 `ip`.
    REGS_IP,
    /// `u32`: offset in `pt_regs` of the frame pointer, on x86-64 `bp`.
    REGS_FP,
    /// `u32`: offset in `pt_regs` of the stack pointer, on x86-64 `sp`.
    REGS_SP,
    /// `u32`: offset in `pt_regs` of the other register that unwinding knows, on x86-64 `bx`.
    REGS_OTHER,
    /// `u8`: 1 when children are traced too.
    FOLLOW,
    /// `u8`: how native frames are found, `UNWIND_*`.
    UNWIND,
    /// `u8`: the interpreters whose frames are recorded, each by its
    /// [`bit`](crate::interpreter::Kind::bit).
    INTERPRETERS,
    /// `u8`: 1 when the kernel has the helper `bpf_loop` (5.17).
    HAS_LOOP,
    /// `u8`: 1 when some pages of each process are kept and looked at when it ends, which takes a
    /// kernel that says so while its memory is there (6.16).
    SAMPLES_PAGES,
    /// `u32`: fault records on one CPU after which the loader is woken; a power of two.
    WAKEUP_RECORDS,
}

/// [`UNWIND`]: stacks are not recorded.
pub const UNWIND_OFF: u8 = 0;
/// [`UNWIND`]: by frame pointers.
pub const UNWIND_FP: u8 = 1;
/// [`UNWIND`]: by tables.
pub const UNWIND_DWARF: u8 = 2;
/// [`UNWIND`]: by tables, and by frame pointers through code that does not have a table.
pub const UNWIND_AUTO: u8 = 3;
