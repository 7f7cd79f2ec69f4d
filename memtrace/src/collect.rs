//! From the ring buffer's bytes to records: the only place that reads map bytes.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use aya::maps::{MapData, RingBuf};
use memtrace_common::interpreter::{Handle, MAX_SCRIPT_FRAMES};
use memtrace_common::process::NO_SLOT;
use memtrace_common::record::{
    Cause, Evidence, FAULT_NO_END, FRAME_IS_ENTRY, FUNCTION_FILE_BYTES, FUNCTION_LINES_BYTES,
    FUNCTION_NAME_BYTES, FaultRecord, FunctionRecord, MAX_FRAMES, Origin, PAGE_IS_FILE,
    PAGE_UNREAD, PageHash, PagesRecord, ProcessRecord, RecordKind, SAMPLED_PAGES, SCRIPT_DAMAGED,
    SCRIPT_TRUNCATED, ScriptFrame, StackRecord,
};
use memtrace_common::unwind::StackEnd;

/// One copied page, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The process: its index in the process table.
    pub slot: u32,
    /// How often the process had replaced its program.
    pub execs: u32,
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
    /// What the cause was concluded from.
    pub evidence: Evidence,
    /// Address of the type of the object written to.
    pub object_type: Option<u64>,
    /// For [`Evidence::Field`] and [`Evidence::Block`]: bytes from the start of the object or
    /// block.
    pub offset: i32,
    /// The user-mode instruction.
    pub ip: u64,
    /// The stack's id; `None` when none was taken.
    pub stack: Option<u64>,
}

/// Something happened to a process, and what its slot in the process table said then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessChange {
    /// What happened.
    pub what: Lifecycle,
    /// The process: its index in the process table.
    pub slot: u32,
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// Number of the program that it runs from then on.
    pub program: u64,
    /// How often it has replaced its program, this time included.
    pub execs: u32,
    /// The slot of its parent when it was forked or found, where that was traced.
    pub parent_slot: Option<u32>,
    /// Whether it was forked during the trace, and not found when the trace began.
    pub forked: bool,
    /// Its name, as the kernel keeps it.
    pub comm: [u8; 16],
}

/// What happened to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifecycle {
    /// It was found, or forked. The record of one that was found can come after that of its first
    /// exec, since it runs meanwhile.
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
    pub native: Arc<[u64]>,
    /// Frames of the functions that an interpreter ran, innermost first.
    pub script: Box<[TakenFrame]>,
    /// The interpreter that ran them.
    pub interpreter: Handle,
    /// The process that it was taken in: its index in the process table.
    pub slot: u32,
    /// Why the native frames end where they do.
    pub end: StackEnd,
    /// Whether there were more script frames, or they could not be read to the end.
    pub script_truncated: bool,
}

/// A script frame as it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakenFrame {
    /// Address of what the interpreter keeps of the function.
    pub function: u64,
    /// Where in the function it is, as the frame has it.
    pub position: u64,
    /// Tells the function from others at this address; 0 when it could not be read.
    pub fingerprint: u64,
    /// Whether the interpreter's loop was entered with this frame.
    pub is_entry: bool,
}

/// A function as it was when it was first seen. Parts that could not be read are empty, and
/// then have an address to read them from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TakenFunction {
    /// The process that it was seen in: its index in the process table.
    pub slot: u32,
    /// Its interpreter.
    pub interpreter: Handle,
    /// Address of what the interpreter keeps of it.
    pub function: u64,
    /// Tells it from others at this address.
    pub fingerprint: u64,
    /// Line that it begins with, as the interpreter has it.
    pub first_line: u32,
    /// Its name: address and contents of the object that holds it.
    pub name: (u64, Box<[u8]>),
    /// Its file's name: address and contents.
    pub file: (u64, Box<[u8]>),
    /// Its table of lines: address and contents.
    pub lines: (u64, Box<[u8]>),
}

/// What some of the pages held that a process copied, when it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastPages {
    /// The process: its index in the process table.
    pub slot: u32,
    /// The pages, some perhaps more than once.
    pub pages: Vec<LastPage>,
}

/// A copied page when its process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastPage {
    /// Where it begins.
    pub address: u64,
    /// Whether it was copied from a file.
    pub is_file: bool,
    /// The [hash](memtrace_common::hash::of_page) of what it held; `None` when it was not in memory.
    pub hash: Option<u64>,
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
    /// A function was seen for the first time.
    Function(Box<TakenFunction>),
    /// A process changed.
    Process(ProcessChange),
    /// A process is about to end.
    Pages(LastPages),
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
                    execs: record.execs,
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
            RecordKind::Pages => Some(Self::Pages(decode_pages(bytes)?)),
            RecordKind::Function => Some(Self::Function(Box::new(decode_function(bytes)?))),
            kind @ (RecordKind::Fork | RecordKind::Exec | RecordKind::Exit) => {
                let record: ProcessRecord = read(bytes)?;
                let what = match kind {
                    RecordKind::Fork => Lifecycle::Fork,
                    RecordKind::Exec => Lifecycle::Exec,
                    _ => Lifecycle::Exit,
                };
                Some(Self::Process(ProcessChange {
                    what,
                    slot: record.slot,
                    time_ns: record.time_ns,
                    program: record.program,
                    execs: record.execs,
                    parent_slot: (record.parent_slot != NO_SLOT).then_some(record.parent_slot),
                    forked: record.forked != 0,
                    comm: record.comm,
                }))
            }
        }
    }
}

fn decode_stack(bytes: &[u8]) -> Option<Event> {
    let record: StackRecord = read(bytes)?;
    let (native, script) = (
        usize::from(record.frames),
        usize::from(record.script_frames),
    );
    if native > MAX_FRAMES || script > MAX_SCRIPT_FRAMES {
        return None;
    }
    let rest = bytes.get(size_of::<StackRecord>()..)?;
    let (addresses, rest) = rest.split_at_checked(native * 8)?;
    let frames = rest.get(..script * size_of::<ScriptFrame>())?;
    let script = frames.chunks_exact(size_of::<ScriptFrame>()).map(|bytes| {
        let frame: ScriptFrame = read(bytes)?;
        Some(TakenFrame {
            function: frame.function & !FRAME_IS_ENTRY,
            position: frame.position,
            fingerprint: frame.fingerprint,
            is_entry: frame.function & FRAME_IS_ENTRY != 0,
        })
    });
    Some(Event::Stack {
        id: record.id,
        stack: TakenStack {
            native: addresses.chunks_exact(8).map(read_word).collect(),
            script: script.collect::<Option<_>>()?,
            interpreter: Handle::from_raw(record.interpreter),
            slot: record.slot,
            end: StackEnd::from_code(record.end)?,
            script_truncated: record.flags & (SCRIPT_TRUNCATED | SCRIPT_DAMAGED) != 0,
        },
    })
}

fn decode_pages(bytes: &[u8]) -> Option<LastPages> {
    let record: PagesRecord = read(bytes)?;
    let count = usize::from(record.count);
    if count > SAMPLED_PAGES {
        return None;
    }
    let rest = bytes.get(size_of::<PagesRecord>()..)?;
    let pages = rest.get(..count * size_of::<PageHash>())?;
    let pages = pages.chunks_exact(size_of::<PageHash>()).map(|bytes| {
        let page: PageHash = read(bytes)?;
        Some(LastPage {
            address: page.page & !PAGE_IS_FILE,
            is_file: page.page & PAGE_IS_FILE != 0,
            hash: (page.hash != PAGE_UNREAD).then_some(page.hash),
        })
    });
    Some(LastPages {
        slot: record.slot,
        pages: pages.collect::<Option<_>>()?,
    })
}

fn decode_function(bytes: &[u8]) -> Option<TakenFunction> {
    let record: FunctionRecord = read(bytes)?;
    let parts = bytes.get(size_of::<FunctionRecord>()..)?;
    let part = |start: usize, most: usize, size: u32| {
        let size = size as usize;
        let bytes = parts.get(start..)?.get(..size)?;
        (size <= most).then(|| Box::from(bytes))
    };
    let lines_at = FUNCTION_NAME_BYTES + FUNCTION_FILE_BYTES;
    Some(TakenFunction {
        slot: record.slot,
        interpreter: Handle::from_raw(record.interpreter),
        function: record.function,
        fingerprint: record.fingerprint,
        first_line: record.first_line,
        name: (record.name, part(0, FUNCTION_NAME_BYTES, record.name_size)?),
        file: (
            record.file,
            part(FUNCTION_NAME_BYTES, FUNCTION_FILE_BYTES, record.file_size)?,
        ),
        lines: (
            record.lines,
            part(lines_at, FUNCTION_LINES_BYTES, record.lines_size)?,
        ),
    })
}

/// A record type: integers only, so that any bytes are a valid value.
///
/// # Safety
/// The type must be `repr(C)`, of integers and arrays of them.
unsafe trait Record: Copy {}
// SAFETY: `repr(C)`, integers and arrays of them.
unsafe impl Record for FaultRecord {}
// SAFETY: `repr(C)`, integers and arrays of them.
unsafe impl Record for StackRecord {}
// SAFETY: `repr(C)`, integers and arrays of them.
unsafe impl Record for ProcessRecord {}
// SAFETY: `repr(C)`, integers and arrays of them.
unsafe impl Record for ScriptFrame {}
// SAFETY: `repr(C)`, integers and arrays of them.
unsafe impl Record for PagesRecord {}
// SAFETY: `repr(C)`, integers and arrays of them.
unsafe impl Record for PageHash {}
// SAFETY: `repr(C)`, integers and arrays of them.
unsafe impl Record for FunctionRecord {}

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

    /// Records that could not be decoded: the loader and its BPF object do not match.
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
            execs: 3,
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
        assert_eq!((decoded.slot, decoded.execs), (7, 3));
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
            script_frames: 1,
            interpreter: 4,
            end: StackEnd::Depth.code(),
            reserved: [0; 3],
        };
        let mut bytes = bytes_of(&record);
        let words = [1u64, 0x0102_0304_0506_0708, 0x7001, 5, 6, 99];
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        let expected = TakenStack {
            native: Arc::new([1, 0x0102_0304_0506_0708]),
            script: Box::new([TakenFrame {
                function: 0x7000,
                position: 5,
                fingerprint: 6,
                is_entry: true,
            }]),
            interpreter: Handle::from_raw(4),
            slot: 1,
            end: StackEnd::Depth,
            script_truncated: false,
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
        let record = FunctionRecord {
            kind: RecordKind::Function.code(),
            reserved: 0,
            interpreter: 2,
            slot: 1,
            function: 0x1000,
            fingerprint: 7,
            name: 0x2000,
            file: 0x3000,
            lines: 0x4000,
            first_line: 12,
            name_size: 3,
            file_size: 0,
            lines_size: 2,
        };
        let mut bytes = bytes_of(&record);
        bytes.extend([1; FUNCTION_NAME_BYTES]);
        bytes.extend([2; FUNCTION_FILE_BYTES]);
        bytes.extend([3; 8]);
        let Some(Event::Function(code)) = Event::decode(&bytes) else {
            panic!("not decoded")
        };
        assert_eq!(code.name, (0x2000, Box::from([1; 3])));
        assert_eq!(code.file, (0x3000, Box::from([])));
        assert_eq!(code.lines, (0x4000, Box::from([3; 2])));
        assert_eq!(Event::decode(&bytes[..800]), None, "cut short");
    }

    #[test]
    fn a_change_of_a_process_says_what_its_slot_said_then() {
        let record = ProcessRecord {
            kind: RecordKind::Exec.code(),
            forked: 1,
            reserved: [0; 2],
            slot: 5,
            time_ns: 1000,
            program: 1 << 40,
            execs: 2,
            parent_slot: 4,
            comm: *b"sleep\0\0\0\0\0\0\0\0\0\0\0",
        };
        let expected = ProcessChange {
            what: Lifecycle::Exec,
            slot: 5,
            time_ns: 1000,
            program: 1 << 40,
            execs: 2,
            parent_slot: Some(4),
            forked: true,
            comm: record.comm,
        };
        let bytes = bytes_of(&record);
        assert_eq!(Event::decode(&bytes), Some(Event::Process(expected)));
        assert_eq!(Event::decode(&bytes[..40]), None, "cut short");
        let found = ProcessRecord {
            kind: RecordKind::Fork.code(),
            forked: 0,
            parent_slot: NO_SLOT,
            ..record
        };
        let expected = ProcessChange {
            what: Lifecycle::Fork,
            parent_slot: None,
            forked: false,
            ..expected
        };
        let decoded = Event::decode(&bytes_of(&found));
        assert_eq!(decoded, Some(Event::Process(expected)));
    }

    #[test]
    fn pages_are_decoded_as_many_as_there_are() {
        let record = PagesRecord {
            kind: RecordKind::Pages.code(),
            reserved: 0,
            count: 2,
            slot: 3,
            copies: 9,
        };
        let pages = [
            PageHash {
                page: 0x7000,
                hash: 17,
            },
            PageHash {
                page: 0x9000 | PAGE_IS_FILE,
                hash: PAGE_UNREAD,
            },
        ];
        let bytes = [bytes_of(&record), bytes_of(&pages[0]), bytes_of(&pages[1])].concat();
        let page = |address, is_file, hash| LastPage {
            address,
            is_file,
            hash,
        };
        let expected = LastPages {
            slot: 3,
            pages: vec![page(0x7000, false, Some(17)), page(0x9000, true, None)],
        };
        assert_eq!(Event::decode(&bytes), Some(Event::Pages(expected)));
        assert_eq!(Event::decode(&bytes[..47]), None, "cut short");
        let many = PagesRecord {
            count: SAMPLED_PAGES as u16 + 1,
            ..record
        };
        let bytes = [bytes_of(&many), vec![0; 4096]].concat();
        assert_eq!(Event::decode(&bytes), None);
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
