//! Arrays that the BPF side writes and the loader reads in place, without system calls.
//!
//! Not asking the kernel also spares the target: while a program somewhere on the machine is in a
//! map's system call, the kernel skips other BPF programs that interrupt it.

use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd as _, RawFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use foldhash::HashSet;
use memtrace_common::interpreter::Handle;
use memtrace_common::interpreter::python::Layout;
use memtrace_common::process::{Health, ProcessSlot, SLOT_EXITED, SLOT_FREE, SLOT_LIVE, Search};
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
// SAFETY: `repr(C)`, integers only.
unsafe impl Shared for Search {}

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

    /// How often the process in `slot` has replaced its program: what is read of it in /proc from
    /// now on is of this generation or a later one. `None` beyond the end of the table.
    #[must_use]
    pub fn generation(&self, slot: u32) -> Option<u32> {
        Some(self.shared_slot(slot)?.execs.load(Ordering::Acquire))
    }

    /// The pids of the processes that have a slot, with those that have ended.
    #[must_use]
    pub fn pids(&self) -> HashSet<u32> {
        let used = (0..self.len as u32).filter(|&slot| self.is_used(slot));
        used.filter_map(|slot| Some(self.read(slot as usize)?.pid))
            .collect()
    }

    /// Says which interpreter the process in `slot` has, as was found out about its program of this
    /// `generation`. Its children to come inherit it. Returns whether that was stored: it is not
    /// when the process has replaced its program since.
    ///
    /// For this and the functions that follow, the slot must not have been released, and one thread
    /// at a time stores what is known of a process.
    pub fn set_interpreter(&self, slot: u32, generation: u32, interpreter: Handle) -> bool {
        let word = interpreter.in_slot(generation);
        self.set_word(slot, generation, word, |slot| slot.interpreter)
    }

    /// Says which set of mappings the process in `slot` has, under the conditions of
    /// [`SharedArray::set_interpreter`]. The set has been written. Its children to come inherit it.
    pub fn set_mappings(&self, slot: u32, generation: u32, set: SetHandle) -> bool {
        self.set_word(slot, generation, set.0, |slot| slot.mappings)
    }

    /// Gives the program that the process in `slot` runs another number, under the conditions of
    /// [`SharedArray::set_interpreter`]: that of another process that runs the same.
    pub fn set_program(&self, slot: u32, generation: u32, program: u64) -> bool {
        self.set_word(slot, generation, program, |slot| slot.program)
    }

    /// Replaces a word of a slot, unless its process is no longer of this generation: see
    /// [`ProcessSlot::program`], which says why in this order.
    fn set_word(
        &self,
        slot: u32,
        generation: u32,
        new: u64,
        word: impl for<'t> FnOnce(&SharedSlot<'t>) -> &'t AtomicU64,
    ) -> bool {
        let Some(slot) = self.shared_slot(slot) else {
            return false;
        };
        if slot.execs.load(Ordering::SeqCst) != generation {
            return false;
        }
        let word = word(&slot);
        let before = word.load(Ordering::SeqCst);
        let known = slot.interpreter.load(Ordering::SeqCst);
        Handle::generation_in_slot(known) == generation
            && word
                .compare_exchange(before, new, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
    }

    fn state(&self, slot: u32) -> Option<&AtomicU64> {
        Some(self.shared_slot(slot)?.state)
    }

    /// What both sides write of a slot.
    fn shared_slot(&self, slot: u32) -> Option<SharedSlot<'_>> {
        if slot as usize >= self.len {
            return None;
        }
        // SAFETY: within the mapping, aligned, and the BPF side writes `state` by atomic
        // instructions, and the others when the slot is taken and at exec, each as one word.
        unsafe {
            let slot = self.base().as_ptr().add(slot as usize);
            Some(SharedSlot {
                state: AtomicU64::from_ptr(&raw mut (*slot).state),
                execs: AtomicU32::from_ptr(&raw mut (*slot).execs),
                interpreter: AtomicU64::from_ptr(&raw mut (*slot).interpreter),
                mappings: AtomicU64::from_ptr(&raw mut (*slot).mappings),
                program: AtomicU64::from_ptr(&raw mut (*slot).program),
            })
        }
    }
}

/// The words of a [`ProcessSlot`] that one side reads or writes while the other one may write them.
struct SharedSlot<'table> {
    state: &'table AtomicU64,
    execs: &'table AtomicU32,
    interpreter: &'table AtomicU64,
    mappings: &'table AtomicU64,
    program: &'table AtomicU64,
}

#[cfg(test)]
impl SharedArray<ProcessSlot> {
    /// Does what the BPF side would: fills in the slot of a process.
    pub fn set(&self, slot: u32, process: &ProcessSlot) {
        assert!((slot as usize) < self.len, "within the table");
        // SAFETY: within the mapping, and aligned; no BPF program has it.
        unsafe { self.base().add(slot as usize).write_volatile(*process) };
    }

    /// Does what the BPF side does at exec.
    pub fn exec(&self, slot: u32, program: u64) {
        let slot = self.shared_slot(slot).expect("within the table");
        let generation = slot.execs.load(Ordering::SeqCst) + 1;
        let unknown = Handle::NONE.in_slot(generation);
        slot.interpreter.store(unknown, Ordering::SeqCst);
        let unknown = SetHandle::none(generation).0;
        slot.mappings.store(unknown, Ordering::SeqCst);
        slot.program.store(program, Ordering::SeqCst);
        slot.execs.store(generation, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use memtrace_common::interpreter::Kind;

    use super::*;

    fn table() -> SharedArray<ProcessSlot> {
        SharedArray::in_memory(4).expect("there is memory for the table")
    }

    #[test]
    fn what_is_known_of_a_program_is_stored_while_the_process_runs_it() {
        let table = table();
        let interpreter = Handle::new(Kind::Python, 3);
        for generation in [0, 1] {
            let set = SetHandle::new(5, 7, 1 + generation);
            assert_eq!(table.generation(2), Some(generation));
            assert!(table.set_interpreter(2, generation, interpreter));
            assert!(table.set_mappings(2, generation, set));
            assert!(table.set_program(2, generation, 99));
            let slot = table.read(2).unwrap();
            assert_eq!(Handle::from_slot(slot.interpreter), interpreter);
            assert_eq!((slot.mappings, slot.program), (set.0, 99));
            table.exec(2, 100 + u64::from(generation));
        }
        let slot = table.read(2).unwrap();
        assert_eq!(Handle::from_slot(slot.interpreter), Handle::NONE);
        assert_eq!(SetHandle(slot.mappings), SetHandle::none(2));
        assert_eq!(slot.program, 101);
    }

    #[test]
    fn what_is_known_of_another_program_is_not_stored() {
        let table = table();
        table.exec(1, 8);
        let before = table.read(1).unwrap();
        for generation in [0, 2] {
            assert!(!table.set_interpreter(1, generation, Handle::new(Kind::Python, 3)));
            assert!(!table.set_mappings(1, generation, SetHandle::new(5, 7, 1)));
            assert!(!table.set_program(1, generation, 99));
        }
        let after = table.read(1).unwrap();
        assert_eq!(after.interpreter, before.interpreter);
        assert_eq!(after.mappings, before.mappings);
        assert_eq!(after.program, 8);
        assert_eq!(table.generation(4), None, "beyond the end");
        assert!(!table.set_program(4, 0, 99));
    }

    /// One side execs without a pause, the other stores what it knows of the generation that it
    /// saw. Each value says which generation it is of.
    #[test]
    fn nothing_that_is_stored_for_one_program_is_found_with_another() {
        const EXECS: u32 = 200_000;
        let table = table();
        let tagged = |generation: u32| SetHandle::new(1, 1, generation + 1);
        std::thread::scope(|scope| {
            let (table, execing) = (&table, table.clone());
            let execs = scope.spawn(move || {
                for generation in 0..EXECS {
                    let slot = execing.read(0).unwrap();
                    let set = SetHandle(slot.mappings);
                    assert!(
                        set == SetHandle::none(generation) || set == tagged(generation),
                        "in generation {generation}: {set:?}"
                    );
                    let program = slot.program;
                    assert!(program >> 1 == u64::from(generation), "{program:#x}");
                    execing.exec(0, u64::from(generation + 1) << 1);
                }
            });
            let mut stored = 0;
            while !execs.is_finished() {
                let generation = table.generation(0).unwrap();
                let program = u64::from(generation) << 1 | 1;
                stored += u32::from(table.set_mappings(0, generation, tagged(generation)));
                stored += u32::from(table.set_program(0, generation, program));
            }
            execs.join().expect("no value was of another generation");
            assert!(stored > 0);
        });
    }
}
