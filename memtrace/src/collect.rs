//! From the ring buffer's bytes to records: the only place that reads map bytes.

use std::os::fd::{AsRawFd, RawFd};

use aya::maps::{MapData, RingBuf};
use memtrace_common::interpreter::MAX_PYTHON_FRAMES;
use memtrace_common::record::{
    CODE_FILENAME_BYTES, CODE_LINES_BYTES, CODE_NAME_BYTES, Cause, CodeRecord, Evidence,
    FAULT_NO_END, FRAME_IS_ENTRY, FaultRecord, MAX_FRAMES, Origin, PYTHON_DAMAGED,
    PYTHON_TRUNCATED, ProcessRecord, PythonFrame, RecordKind, StackRecord,
};
use memtrace_common::unwind::StackEnd;

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
    /// The address written to.
    pub address: u64,
    /// What the write was, as far as the kernel side says.
    pub cause: Cause,
    /// What it was concluded from.
    pub evidence: Evidence,
    /// Address of the type of the object written to.
    pub object_type: Option<u64>,
    /// With [`Evidence::Field`] and [`Evidence::Block`]: bytes from the start of the object or
    /// block.
    pub offset: i32,
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

/// A stack as it was taken.
#[derive(Debug, PartialEq, Eq)]
pub struct TakenStack {
    /// Return addresses, the leaf's instruction first.
    pub native: Box<[u64]>,
    /// Python frames, innermost first.
    pub python: Box<[TakenFrame]>,
    /// The table entry of the interpreter that ran them; 0 without one.
    pub interpreter: u32,
    /// The process that it was taken in: its index in the process table.
    pub slot: u32,
    /// Why the native frames end where they do.
    pub end: StackEnd,
    /// Whether there were more Python frames, or they could not be read to the end.
    pub python_truncated: bool,
}

/// A Python frame as it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakenFrame {
    /// Address of the code object.
    pub code: u64,
    /// The instruction as the frame has it: an address in the bytecode, or an index.
    pub instruction: u64,
    /// Tells the code object from others at this address; 0 when it could not be read.
    pub print: u64,
    /// Whether the interpreter's loop was entered with this frame.
    pub is_entry: bool,
}

/// A code object as it was when it was first seen. Parts that could not be read are empty, and
/// then have an address to read them from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TakenCode {
    /// The process that it was seen in: its index in the process table.
    pub slot: u32,
    /// The table entry of its interpreter.
    pub interpreter: u32,
    /// Address of the code object.
    pub code: u64,
    /// Tells it from others at this address.
    pub print: u64,
    /// Line that it begins with, as the code object has it.
    pub first_line: u32,
    /// Its qualified name: address and beginning of a `str` object.
    pub name: (u64, Box<[u8]>),
    /// Its file's name: likewise.
    pub filename: (u64, Box<[u8]>),
    /// Its table of lines: address and beginning of a `bytes` object.
    pub lines: (u64, Box<[u8]>),
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
        /// Its frames.
        stack: TakenStack,
    },
    /// A code object was seen for the first time.
    Code(Box<TakenCode>),
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
                    address: record.address,
                    cause: Cause::from_code(record.cause)?,
                    evidence: Evidence::from_code(u8::try_from(record.evidence).ok()?)?,
                    object_type: (record.object_type != 0).then_some(record.object_type),
                    offset: record.offset,
                    ip: record.ip,
                    stack: (record.stack_id != 0).then_some(record.stack_id),
                }))
            }
            RecordKind::Stack => Some(decode_stack(bytes)?),
            RecordKind::Code => Some(Self::Code(Box::new(decode_code(bytes)?))),
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

fn decode_stack(bytes: &[u8]) -> Option<Event> {
    let record: StackRecord = read(bytes)?;
    let (native, python) = (
        usize::from(record.frames),
        usize::from(record.python_frames),
    );
    if native > MAX_FRAMES || python > MAX_PYTHON_FRAMES {
        return None;
    }
    let rest = bytes.get(size_of::<StackRecord>()..)?;
    let (addresses, rest) = rest.split_at_checked(native * 8)?;
    let frames = rest.get(..python * size_of::<PythonFrame>())?;
    let python = frames.chunks_exact(size_of::<PythonFrame>()).map(|bytes| {
        let frame: PythonFrame = read(bytes)?;
        Some(TakenFrame {
            code: frame.code & !FRAME_IS_ENTRY,
            instruction: frame.instruction,
            print: frame.print,
            is_entry: frame.code & FRAME_IS_ENTRY != 0,
        })
    });
    Some(Event::Stack {
        id: record.id,
        stack: TakenStack {
            native: addresses.chunks_exact(8).map(read_word).collect(),
            python: python.collect::<Option<_>>()?,
            interpreter: u32::from(record.interpreter),
            slot: record.slot,
            end: StackEnd::from_code(record.end)?,
            python_truncated: record.flags & (PYTHON_TRUNCATED | PYTHON_DAMAGED) != 0,
        },
    })
}

fn decode_code(bytes: &[u8]) -> Option<TakenCode> {
    let record: CodeRecord = read(bytes)?;
    let parts = bytes.get(size_of::<CodeRecord>()..)?;
    let part = |start: usize, most: usize, size: u32| {
        let size = size as usize;
        let bytes = parts.get(start..)?.get(..size)?;
        (size <= most).then(|| Box::from(bytes))
    };
    let lines_at = CODE_NAME_BYTES + CODE_FILENAME_BYTES;
    Some(TakenCode {
        slot: record.slot,
        interpreter: u32::from(record.interpreter),
        code: record.code,
        print: record.print,
        first_line: record.first_line,
        name: (record.name, part(0, CODE_NAME_BYTES, record.name_size)?),
        filename: (
            record.filename,
            part(CODE_NAME_BYTES, CODE_FILENAME_BYTES, record.filename_size)?,
        ),
        lines: (
            record.lines,
            part(lines_at, CODE_LINES_BYTES, record.lines_size)?,
        ),
    })
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
// SAFETY: as required.
unsafe impl Record for PythonFrame {}
// SAFETY: as required.
unsafe impl Record for CodeRecord {}

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
            object_type: 0x3000,
            evidence: u32::from(Evidence::Field.code()),
            offset: 24,
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
        assert_eq!(decoded.address, 0x1000);
        assert_eq!(decoded.evidence, Evidence::Field);
        assert_eq!((decoded.object_type, decoded.offset), (Some(0x3000), 24));
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
            flags: 0,
            frames: 2,
            slot: 1,
            id: 3,
            python_frames: 1,
            interpreter: 4,
            end: StackEnd::Depth.code(),
            reserved: [0; 3],
        };
        let mut bytes = bytes_of(&record);
        let words = [1u64, 0x0102_0304_0506_0708, 0x7001, 5, 6, 99];
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        let expected = TakenStack {
            native: Box::new([1, 0x0102_0304_0506_0708]),
            python: Box::new([TakenFrame {
                code: 0x7000,
                instruction: 5,
                print: 6,
                is_entry: true,
            }]),
            interpreter: 4,
            slot: 1,
            end: StackEnd::Depth,
            python_truncated: false,
        };
        let expected = Event::Stack {
            id: 3,
            stack: expected,
        };
        assert_eq!(Event::decode(&bytes), Some(expected));
        assert_eq!(Event::decode(&bytes[..60]), None, "cut short");
    }

    #[test]
    fn a_code_object_has_its_parts() {
        let record = CodeRecord {
            kind: RecordKind::Code.code(),
            reserved: 0,
            interpreter: 2,
            slot: 1,
            code: 0x1000,
            print: 7,
            name: 0x2000,
            filename: 0x3000,
            lines: 0x4000,
            first_line: 12,
            name_size: 3,
            filename_size: 0,
            lines_size: 2,
        };
        let mut bytes = bytes_of(&record);
        bytes.extend([1; CODE_NAME_BYTES]);
        bytes.extend([2; CODE_FILENAME_BYTES]);
        bytes.extend([3; 8]);
        let Some(Event::Code(code)) = Event::decode(&bytes) else {
            panic!("not decoded")
        };
        assert_eq!(code.name, (0x2000, Box::from([1; 3])));
        assert_eq!(code.filename, (0x3000, Box::from([])));
        assert_eq!(code.lines, (0x4000, Box::from([3; 2])));
        assert_eq!(Event::decode(&bytes[..800]), None, "cut short");
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
