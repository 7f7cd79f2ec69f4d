//! The kernel's `task_struct`, as far as memtrace reads it.
//!
//! All reads go through pointers that the verifier knows to be a `task_struct` or `pt_regs`, at
//! offsets that are constants to it: it checks each against the kernel's own types, and a read
//! that faults gives 0. No read of kernel memory by helper is needed, which lockdown refuses.

use aya_ebpf::Global;
use aya_ebpf::bindings::task_struct;
use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_task_pt_regs};
use aya_ebpf::programs::BtfTracePointContext;
use core::ffi::c_void;
use core::ptr::read_volatile;

use crate::globals;

/// `PF_EXITING`: the thread has begun to end.
const PF_EXITING: u32 = 0x0000_0004;
/// `PF_KTHREAD`: a thread of the kernel.
const PF_KTHREAD: u32 = 0x0020_0000;

/// A thread.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Task(*mut task_struct);

/// Reads a field of a structure that the verifier knows.
#[inline(always)]
pub fn field<T: Copy>(base: *const c_void, offset: &Global<u32>) -> T {
    // SAFETY: the verifier knows `base` as a pointer to a kernel structure and `offset` as a
    // constant, and accepts the read only if the structure has a field of this size there.
    unsafe { read_volatile(base.byte_add(offset.load() as usize).cast()) }
}

impl Task {
    /// The thread that is running.
    #[inline(always)]
    pub fn current() -> Self {
        // SAFETY: the helper has no preconditions; the kernel gives it to all tracing programs.
        Self(unsafe { bpf_get_current_task_btf() })
    }

    /// The tracepoint's argument `n`, which must be a `struct task_struct *`.
    #[inline(always)]
    pub fn from_arg(ctx: &BtfTracePointContext, n: usize) -> Option<Self> {
        Self::from_ptr(ctx.arg::<*const c_void>(n))
    }

    /// The task at `ptr`, which the verifier must know as one; `None` for null.
    #[inline(always)]
    pub fn from_ptr(ptr: *const c_void) -> Option<Self> {
        (!ptr.is_null()).then_some(Self(ptr.cast_mut().cast()))
    }

    /// Where it is, as a number that tells it from all other threads.
    #[inline(always)]
    pub fn address(self) -> u64 {
        self.0 as u64
    }

    #[inline(always)]
    fn field<T: Copy>(self, offset: &Global<u32>) -> T {
        field(self.0.cast(), offset)
    }

    /// The kernel's pid: the thread.
    #[inline(always)]
    pub fn tid(self) -> u32 {
        self.field(&globals::TASK_PID)
    }

    /// The kernel's tgid: the process.
    #[inline(always)]
    pub fn pid(self) -> u32 {
        self.field(&globals::TASK_TGID)
    }

    /// Whether it has begun to end.
    #[inline(always)]
    pub fn is_exiting(self) -> bool {
        self.field::<u32>(&globals::TASK_FLAGS) & PF_EXITING != 0
    }

    /// Whether it is a thread of the kernel.
    #[inline(always)]
    pub fn is_kernel_thread(self) -> bool {
        self.field::<u32>(&globals::TASK_FLAGS) & PF_KTHREAD != 0
    }

    /// Its `mm_struct`, as a number to compare.
    #[inline(always)]
    pub fn mm(self) -> u64 {
        self.field(&globals::TASK_MM)
    }

    /// Faults that the kernel has completed for it: minor and major, one by one.
    #[inline(always)]
    pub fn faults(self) -> u64 {
        self.field::<u64>(&globals::TASK_MIN_FLT)
            .wrapping_add(self.field(&globals::TASK_MAJ_FLT))
    }

    /// The thread's own pointer: on x86-64 the base of its segment `fs`, which is what
    /// `pthread_self` gives.
    #[inline(always)]
    pub fn thread_pointer(self) -> u64 {
        self.field(&globals::TASK_THREAD_POINTER)
    }

    /// When it was started, in nanoseconds of `CLOCK_BOOTTIME`.
    #[inline(always)]
    pub fn start_boottime(self) -> u64 {
        self.field(&globals::TASK_START_BOOTTIME)
    }

    /// The thread that its process began with.
    #[inline(always)]
    pub fn group_leader(self) -> Option<Self> {
        Self::from_ptr(self.field::<*const c_void>(&globals::TASK_GROUP_LEADER))
    }

    /// The thread that forked its process, or the one that inherited it.
    #[inline(always)]
    pub fn real_parent(self) -> Option<Self> {
        Self::from_ptr(self.field::<*const c_void>(&globals::TASK_REAL_PARENT))
    }

    /// Its name.
    #[inline(always)]
    pub fn comm(self) -> [u8; 16] {
        let mut comm = [0; 16];
        for (i, byte) in comm.iter_mut().enumerate() {
            // SAFETY: as in `field`; byte by byte, since the verifier knows an array of bytes.
            *byte = unsafe {
                let start = self.0.cast::<u8>();
                read_volatile(start.add(globals::TASK_COMM.load() as usize + i))
            };
        }
        comm
    }

    /// The user-mode instruction that it continues with when it leaves the kernel.
    #[inline(always)]
    pub fn user_ip(self) -> u64 {
        self.user_registers().ip
    }

    /// Its registers when it entered the kernel from user mode.
    #[inline(always)]
    pub fn user_registers(self) -> Registers {
        // SAFETY: the helper takes any task that the verifier knows as one.
        let regs = unsafe { bpf_task_pt_regs(self.0) } as *const c_void;
        if regs.is_null() {
            return Registers::default();
        }
        Registers {
            ip: field(regs, &globals::REGS_IP),
            fp: field(regs, &globals::REGS_FP),
            sp: field(regs, &globals::REGS_SP),
        }
    }
}

/// What a walk over the stack begins with.
#[derive(Clone, Copy, Default)]
pub struct Registers {
    /// Instruction.
    pub ip: u64,
    /// Frame pointer, or whatever the register is used for.
    pub fp: u64,
    /// Stack pointer.
    pub sp: u64,
}
