//! Switches and kernel offsets, set by the loader before the object is loaded.
//!
//! They are read-only to the programs, so the verifier knows their values and drops the code that
//! they switch off. Their names and meanings are those of `memtrace_common::config`.

use aya_ebpf::Global;

macro_rules! globals {
    ($($name:ident: $ty:ty,)+) => {
        $(#[unsafe(no_mangle)] pub static $name: Global<$ty> = Global::new(0);)+

        // The loader finds each global under the name that both sides share.
        const _: () = {
            $(assert!(same(stringify!($name), memtrace_common::config::$name));)+
        };
    };
}

const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut i = 0;
    while i < a.len() && i < b.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    a.len() == b.len()
}

globals! {
    TASK_TGID: u32,
    TASK_FLAGS: u32,
    TASK_MM: u32,
    TASK_COMM: u32,
    TASK_MIN_FLT: u32,
    TASK_MAJ_FLT: u32,
    TASK_REAL_PARENT: u32,
    TASK_GROUP_LEADER: u32,
    TASK_START_BOOTTIME: u32,
    TASK_THREAD_POINTER: u32,
    MM_HUGETLB_USAGE: u32,
    TASK_SIGNAL: u32,
    TASK_RUNTIME: u32,
    SIGNAL_RUNTIME: u32,
    MM_RESIDENT: u32,
    MM_RESIDENT_STEP: u32,
    REGS_IP: u32,
    REGS_FP: u32,
    REGS_SP: u32,
    REGS_OTHER: u32,
    FOLLOW: u8,
    UNWIND: u8,
    INTERPRETERS: u8,
    HAS_LOOP: u8,
    SAMPLES_PAGES: u8,
    WAKEUP_RECORDS: u32,
}
