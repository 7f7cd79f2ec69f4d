//! Records on their way to the loader.

use aya_ebpf::bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::helpers::generated::bpf_ringbuf_output;
use core::ffi::c_void;
use memtrace_common::record::{FaultRecord, ProcessRecord};

use crate::globals;
use crate::maps::EVENTS;
use crate::scratch::scratch;

/// Sends a record of `size` bytes, without waking the loader; returns whether it went.
///
/// # Safety
/// There are `size` bytes at `record`, as far as the verifier can tell.
#[inline(always)]
pub unsafe fn send<T>(record: *const T, size: u64) -> bool {
    // SAFETY: by the caller; the map is a ring buffer.
    unsafe {
        bpf_ringbuf_output(
            core::ptr::from_ref(&EVENTS).cast_mut().cast(),
            record.cast_mut().cast::<c_void>(),
            size,
            u64::from(BPF_RB_NO_WAKEUP),
        ) == 0
    }
}

/// Sends a copy's record; returns whether it went.
#[inline(always)]
pub fn send_fault(record: FaultRecord) -> bool {
    let Some(mut entry) = EVENTS.reserve_untyped::<FaultRecord>(0) else {
        return false;
    };
    entry.write(record);
    entry.submit(u64::from(wakeup()));
    true
}

/// Sends what happened to a process, and wakes the loader at once: it has to read /proc while the
/// process is there. It must be forced, since by itself the kernel wakes nobody while older records
/// have not been read, and copies do not wake. Returns whether it went.
#[inline(always)]
pub fn announce(record: ProcessRecord) -> bool {
    let wake = u64::from(BPF_RB_FORCE_WAKEUP);
    EVENTS.output_untyped::<ProcessRecord>(record, wake).is_ok()
}

/// Whether to wake the loader with this record: now and then, since each wake-up costs the target.
#[inline(always)]
fn wakeup() -> u32 {
    let Some(scratch) = scratch() else {
        return BPF_RB_NO_WAKEUP;
    };
    let wakeups = &mut scratch.wakeups;
    wakeups.records = wakeups.records.wrapping_add(1);
    let asked = wakeups.due != 0;
    wakeups.due = 0;
    if asked || wakeups.records & u64::from(globals::WAKEUP_RECORDS.load() - 1) == 0 {
        BPF_RB_FORCE_WAKEUP
    } else {
        BPF_RB_NO_WAKEUP
    }
}
