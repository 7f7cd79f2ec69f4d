//! From the ring buffer's bytes to records: the only place that reads map bytes.

use std::os::fd::{AsRawFd, RawFd};

use aya::maps::{MapData, RingBuf};
use memtrace_common::record::{
    Cause, FAULT_NO_END, FaultRecord, MAX_FRAMES, Origin, ProcessRecord, RecordKind,
    STACK_TRUNCATED, StackRecord,
};

/// One copied page, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The process: its index in the process table.
    pub slot: u32,
    /// Entry of the fault, in nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// From entry to end, in nanoseconds; `None` when the end was not seen.
    pub latency_ns: Option<u32>,
    /// What the page was.
    pub origin: Origin,
    /// What the write was.
    pub cause: Cause,
    /// The user-mode instruction.
    pub ip: u64,
    /// The stack's id; `None` when none was taken.
    pub stack: Option<u64>,
}

/// What happened to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifecycle {
    /// It was found, or forked.
    Fork,
    /// It replaced its program.
    Exec,
    /// It ended.
    Exit,
}

/// One record of the ring buffer, decoded.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A page was copied.
    Fault(Fault),
    /// A stack was seen for the first time.
    Stack {
        /// Its id.
        id: u64,
        /// Return addresses, the leaf's instruction first.
        frames: Box<[u64]>,
        /// Whether there were more.
        truncated: bool,
    },
    /// A process changed.
    Process {
        /// How.
        what: Lifecycle,
        /// Its index in the process table.
        slot: u32,
    },
}

impl Event {
    /// Decodes a record; `None` for bytes that this version does not understand.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match RecordKind::from_code(*bytes.first()?)? {
            RecordKind::Fault => {
                let record: FaultRecord = read(bytes)?;
                let seen = record.flags & FAULT_NO_END == 0;
                Some(Self::Fault(Fault {
                    slot: record.slot,
                    time_ns: record.time_ns,
                    latency_ns: seen.then_some(record.latency_ns),
                    origin: Origin::from_code(record.origin)?,
                    cause: Cause::from_code(record.cause)?,
                    ip: record.ip,
                    stack: (record.stack_id != 0).then_some(record.stack_id),
                }))
            }
            RecordKind::Stack => {
                let record: StackRecord = read(bytes)?;
                let count = usize::from(record.frames);
                let words = bytes.get(size_of::<StackRecord>()..)?;
                if count > MAX_FRAMES || words.len() < count * 8 {
                    return None;
                }
                Some(Self::Stack {
                    id: record.id,
                    frames: words.chunks_exact(8).take(count).map(read_word).collect(),
                    truncated: record.flags & STACK_TRUNCATED != 0,
                })
            }
            kind @ (RecordKind::Fork | RecordKind::Exec | RecordKind::Exit) => {
                let record: ProcessRecord = read(bytes)?;
                let what = match kind {
                    RecordKind::Fork => Lifecycle::Fork,
                    RecordKind::Exec => Lifecycle::Exec,
                    _ => Lifecycle::Exit,
                };
                Some(Self::Process {
                    what,
                    slot: record.slot,
                })
            }
        }
    }
}

/// A record type: integers only, so that any bytes are a value.
///
/// # Safety
/// The type must be `repr(C)`, of integers and arrays of them.
unsafe trait Record: Copy {}
// SAFETY: as required.
unsafe impl Record for FaultRecord {}
// SAFETY: as required.
unsafe impl Record for StackRecord {}
// SAFETY: as required.
unsafe impl Record for ProcessRecord {}

fn read<T: Record>(bytes: &[u8]) -> Option<T> {
    // SAFETY: the length is checked, any bytes are a value of `T`, and the read is unaligned.
    (bytes.len() >= size_of::<T>()).then(|| unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

fn read_word(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |word, &byte| word << 8 | u64::from(byte))
}

/// Reads the ring buffer.
pub struct Collector {
    ring: RingBuf<MapData>,
    undecodable: u64,
}

impl Collector {
    /// A reader of `ring`.
    #[must_use]
    pub fn new(ring: RingBuf<MapData>) -> Self {
        Self {
            ring,
            undecodable: 0,
        }
    }

    /// Hands up to `limit` records to `take`; returns how many there were.
    pub fn drain(&mut self, limit: usize, mut take: impl FnMut(Event)) -> usize {
        let mut count = 0;
        while count < limit {
            let Some(item) = self.ring.next() else { break };
            match Event::decode(&item) {
                Some(event) => take(event),
                None => self.undecodable += 1,
            }
            count += 1;
        }
        count
    }

    /// Records that could not be decoded: the loader and its BPF object do not fit together.
    #[must_use]
    pub fn undecodable(&self) -> u64 {
        self.undecodable
    }
}

impl AsRawFd for Collector {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes_of<T: Record>(record: &T) -> Vec<u8> {
        // SAFETY: records are integers without padding.
        let bytes = unsafe {
            std::slice::from_raw_parts(std::ptr::from_ref(record).cast::<u8>(), size_of::<T>())
        };
        bytes.to_vec()
    }

    fn fault() -> FaultRecord {
        FaultRecord {
            kind: RecordKind::Fault.code(),
            origin: Origin::File.code(),
            cause: Cause::Kernel.code(),
            flags: 0,
            slot: 7,
            tid: 12,
            latency_ns: 900,
            time_ns: 5,
            address: 0x1000,
            ip: 0x2000,
            stack_id: 9,
            object_type: 0,
        }
    }

    #[test]
    fn a_fault_keeps_its_fields() {
        let Some(Event::Fault(decoded)) = Event::decode(&bytes_of(&fault())) else {
            panic!("not decoded")
        };
        assert_eq!(decoded.slot, 7);
        assert_eq!(decoded.latency_ns, Some(900));
        assert_eq!(
            (decoded.origin, decoded.cause),
            (Origin::File, Cause::Kernel)
        );
        assert_eq!((decoded.ip, decoded.stack), (0x2000, Some(9)));
    }

    #[test]
    fn a_fault_without_end_has_no_latency() {
        let record = FaultRecord {
            flags: FAULT_NO_END,
            stack_id: 0,
            ..fault()
        };
        let Some(Event::Fault(decoded)) = Event::decode(&bytes_of(&record)) else {
            panic!("not decoded")
        };
        assert_eq!((decoded.latency_ns, decoded.stack), (None, None));
    }

    #[test]
    fn a_stack_has_as_many_frames_as_it_says() {
        let record = StackRecord {
            kind: RecordKind::Stack.code(),
            flags: STACK_TRUNCATED,
            frames: 2,
            slot: 1,
            id: 3,
        };
        let mut bytes = bytes_of(&record);
        bytes.extend(
            [1u64, 0x0102_0304_0506_0708, 3]
                .iter()
                .flat_map(|word| word.to_le_bytes()),
        );
        let expected = Event::Stack {
            id: 3,
            frames: Box::new([1, 0x0102_0304_0506_0708]),
            truncated: true,
        };
        assert_eq!(Event::decode(&bytes), Some(expected));
        assert_eq!(Event::decode(&bytes[..24]), None, "cut short");
    }

    #[test]
    fn unknown_numbers_are_refused() {
        assert_eq!(Event::decode(&[]), None);
        assert_eq!(Event::decode(&[99; 80]), None);
        let record = FaultRecord {
            cause: 200,
            ..fault()
        };
        assert_eq!(Event::decode(&bytes_of(&record)), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..1200)) {
            let _ = Event::decode(&bytes);
        }
    }
}
