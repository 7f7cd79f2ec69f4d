//! Arrays that the BPF side writes and the loader reads in place, without system calls.
//!
//! Not asking the kernel also spares the target: while a program somewhere on the machine is in a
//! map's system call, the kernel skips other BPF programs that interrupt it.

use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd as _, RawFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use memtrace_common::interpreter::Handle;
use memtrace_common::interpreter::python::Layout;
use memtrace_common::process::{Health, ProcessSlot, SLOT_EXITED, SLOT_FREE, SLOT_LIVE};
use memtrace_common::unwind::{Mapping, Row, Rule, SetHandle};

/// A type that is laid out as on the BPF side, and for which every bit pattern is valid.
///
/// # Safety
/// The type must be `repr(C)`, of integers only.
pub unsafe trait Shared: Copy {}

// SAFETY: `repr(C)`, integers only.
unsafe impl Shared for ProcessSlot {}
// SAFETY: `repr(C)`, integers only.
unsafe impl Shared for Health {}
// SAFETY: `repr(C)`, integers only.
unsafe impl Shared for Layout {}
// SAFETY: `repr(C)`, integers only.
unsafe impl Shared for Row {}
// SAFETY: `repr(C)`, integers only.
unsafe impl Shared for Rule {}
// SAFETY: `repr(C)`, integers only.
unsafe impl Shared for Mapping {}
// SAFETY: an integer.
unsafe impl Shared for u64 {}

/// A memory-mapped BPF array of `T`. A clone refers to the same array.
pub struct SharedArray<T: Shared> {
    memory: Arc<Memory>,
    len: usize,
    _values: PhantomData<T>,
}

/// Memory that is mapped for as long as somebody refers to it.
struct Memory {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping is not bound to a thread, and is only read and written by volatile or atomic
// accesses.
unsafe impl Send for Memory {}
// SAFETY: all accesses are volatile or atomic.
unsafe impl Sync for Memory {}

impl Memory {
    /// Maps `bytes` of `file`, or of no file: zeroes.
    fn map(bytes: usize, file: Option<RawFd>) -> Result<Self> {
        let bytes = bytes.next_multiple_of(4096);
        let anonymous = if file.is_none() {
            libc::MAP_ANONYMOUS
        } else {
            0
        };
        // SAFETY: a new mapping, of no file or of a descriptor that is open; the kernel refuses a
        // length beyond the map's.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | anonymous,
                file.unwrap_or(-1),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error()).context("cannot map a BPF array");
        }
        let base = NonNull::new(base.cast()).context("a BPF array was mapped at address 0")?;
        Ok(Self { base, bytes })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing borrows from it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

impl<T: Shared> Clone for SharedArray<T> {
    fn clone(&self) -> Self {
        Self {
            memory: Arc::clone(&self.memory),
            len: self.len,
            _values: PhantomData,
        }
    }
}

impl<T: Shared> SharedArray<T> {
    /// Maps `len` elements of `map`, which must be a memory-mappable array of them.
    pub fn new(map: &MapData, len: usize) -> Result<Self> {
        Self::map(len, Some(map.fd().as_fd().as_raw_fd()))
    }

    /// An array of `len` elements, all zero, that no BPF program knows of: for tests.
    #[cfg(test)]
    pub fn in_memory(len: usize) -> Result<Self> {
        Self::map(len, None)
    }

    fn map(len: usize, file: Option<RawFd>) -> Result<Self> {
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        Ok(Self {
            memory: Arc::new(Memory::map(len * size_of::<T>(), file)?),
            len,
            _values: PhantomData,
        })
    }

    /// The first element.
    fn base(&self) -> NonNull<T> {
        self.memory.base.cast()
    }

    /// A copy of element `index`, or `None` beyond the end. The BPF side may write meanwhile, so
    /// fields of one copy can be from different moments.
    #[must_use]
    pub fn read(&self, index: usize) -> Option<T> {
        // SAFETY: within the mapping, and any bit pattern is a value.
        (index < self.len).then(|| unsafe { self.base().add(index).read_volatile() })
    }
}

/// A [`Shared`] type that only the loader writes.
pub trait Written: Shared {}

impl Written for Layout {}
impl Written for Row {}
impl Written for Rule {}
impl Written for Mapping {}

impl<T: Written> SharedArray<T> {
    /// Fills in an entry, to which no process may refer yet. Nothing happens beyond the end.
    pub fn write(&self, index: usize, value: &T) {
        if index < self.len {
            // SAFETY: within the mapping, and aligned.
            unsafe { self.base().add(index).write_volatile(*value) };
        }
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }
}

impl SharedArray<ProcessSlot> {
    /// Gives an exited process's slot back to the BPF side. Its counters are gone after that.
    pub fn release(&self, slot: u32) {
        if let Some(state) = self.state(slot) {
            let _ =
                state.compare_exchange(SLOT_EXITED, SLOT_FREE, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// Whether the slot is of a process, live or exited.
    #[must_use]
    pub fn is_used(&self, slot: u32) -> bool {
        self.state(slot)
            .is_some_and(|state| matches!(state.load(Ordering::Acquire), SLOT_LIVE | SLOT_EXITED))
    }

    /// Says which interpreter the process in `slot` has. Its children to come inherit it.
    pub fn set_interpreter(&self, slot: u32, interpreter: Handle) {
        if (slot as usize) < self.len {
            // SAFETY: within the mapping, aligned; the BPF side writes it when the slot is taken
            // and at exec, otherwise only reads it.
            let field = unsafe {
                AtomicU64::from_ptr(&raw mut (*self.base().as_ptr().add(slot as usize)).interpreter)
            };
            field.store(u64::from(interpreter.raw()), Ordering::Release);
        }
    }

    /// Says which set of mappings the process in `slot` has. Its children to come inherit it.
    pub fn set_mappings(&self, slot: u32, set: SetHandle) {
        if (slot as usize) < self.len {
            // SAFETY: within the mapping, aligned; the BPF side writes it when the slot is taken
            // and at exec, otherwise only reads it.
            let field = unsafe {
                AtomicU64::from_ptr(&raw mut (*self.base().as_ptr().add(slot as usize)).mappings)
            };
            // The set's contents were written before.
            field.store(set.0, Ordering::Release);
        }
    }

    fn state(&self, slot: u32) -> Option<&AtomicU64> {
        if slot as usize >= self.len {
            return None;
        }
        // SAFETY: within the mapping, aligned, and the BPF side writes it by atomic instructions.
        Some(unsafe {
            AtomicU64::from_ptr(&raw mut (*self.base().as_ptr().add(slot as usize)).state)
        })
    }
}

#[cfg(test)]
impl SharedArray<ProcessSlot> {
    /// Does what the BPF side would: fills in the slot of a process.
    pub fn set(&self, slot: u32, process: &ProcessSlot) {
        assert!((slot as usize) < self.len, "within the table");
        // SAFETY: within the mapping, and aligned; no BPF program has it.
        unsafe { self.base().add(slot as usize).write_volatile(*process) };
    }
}
