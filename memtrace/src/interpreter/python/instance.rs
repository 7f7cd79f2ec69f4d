//! From what a file exports, and a process's memory, to an instance.
//!
//! The process may run meanwhile: a thread state may go while it is looked at. So what does not fit
//! is looked at again, [`ATTEMPTS`] times, before it is called damaged.
//!
//! Bounds: [`MAX_INTERPRETERS`] interpreters and [`MAX_THREADS`] thread states are looked at, and
//! a few words of each.

use std::fmt::Write as _;
use std::sync::Arc;

use memtrace_common::interpreter::python::{Layout, NO_FIELD, SHIM_FRAMES};

use super::offsets::{self, Offsets};
use super::{Exports, Python, TOO_NEW, TOO_OLD, debug_offsets};
use crate::interpreter::Recognised;
use crate::process::memory::ReadMemory;

/// How often memory that does not fit is looked at.
const ATTEMPTS: usize = 3;
/// Interpreters of a process that are looked at.
const MAX_INTERPRETERS: usize = 64;
/// Thread states of a process that are looked at.
const MAX_THREADS: usize = 256;
/// Frames of a thread that are looked at for a code object.
const MAX_FRAMES: usize = 8;

/// Where the GNU C library keeps a thread's values of its first 32 keys, from the thread's own
/// pointer, on x86-64: each a sequence number and the value, 8 bytes both.
const FIRST_KEY: u32 = 0x310;
/// Keys of which that is so. Other C libraries keep them elsewhere, which shows in memory.
const KEYS: u32 = 32;

/// Why there is no instance.
enum Absent {
    NotYet,
    Refused(String),
}

/// Recognises the runtime that `exports` locates in `memory`.
pub(super) fn recognise(exports: &Exports, memory: &dyn ReadMemory) -> Recognised {
    let mut name = String::from("CPython");
    let offsets = match describe(exports, memory, &mut name) {
        Ok(offsets) => offsets,
        Err(why) => return Recognised::Refused { name, why },
    };
    let mut last = Absent::NotYet;
    for _ in 0..ATTEMPTS {
        match build(exports, memory, offsets) {
            Ok(layout) => return Recognised::Runs(Arc::new(Python { layout, name })),
            Err(absent) => last = absent,
        }
    }
    match last {
        Absent::NotYet => Recognised::NotYet { name },
        Absent::Refused(why) => Recognised::Refused { name, why },
    }
}

/// Version and offsets. Completes `name` as far as it can.
fn describe(
    exports: &Exports,
    memory: &dyn ReadMemory,
    name: &mut String,
) -> Result<Offsets, String> {
    let mut bytes = [0; debug_offsets::WORDS * 8];
    if !memory.read(exports.runtime, &mut bytes) {
        return Err("its memory cannot be read where its runtime should be".to_owned());
    }
    if bytes[..8] == debug_offsets::COOKIE {
        let mut words = [0; debug_offsets::WORDS];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        let hex = debug_offsets::version(&words).ok_or("its version cannot be right")?;
        let version = full_version(name, hex)?;
        let found = debug_offsets::read(&words, version);
        let found = found.map_err(|why| format!("its memory is damaged: {why}"))?;
        if words[2] == 1 {
            name.push_str(", free-threaded");
        }
        return found.ok_or_else(|| unsupported(version));
    }
    let version = if let Some(at) = exports.version {
        let hex = memory.half(at).ok_or("its version cannot be read")?;
        let version = full_version(name, hex)?;
        if (0x030d..=0x030e).contains(&version) {
            return Err("its memory is damaged: its table of offsets is not there".to_owned());
        }
        version
    } else if let Some(version) = exports.api {
        // Writing to a string does not fail.
        let _ = write!(name, " {}.{}", version >> 8, version & 0xff);
        version
    } else {
        return Err("it exports nothing that tells its version".to_owned());
    };
    offsets::of(version).ok_or_else(|| unsupported(version))
}

fn unsupported(version: u32) -> String {
    let why = if version < 0x0308 { TOO_OLD } else { TOO_NEW };
    why.to_owned()
}

/// Appends a `PY_VERSION_HEX` to `name`; returns major and minor, as 0x030a for 3.10.
fn full_version(name: &mut String, hex: u32) -> Result<u32, String> {
    let [major, minor, micro, release] = hex.to_be_bytes();
    if !(2..=4).contains(&major) || minor > 99 {
        return Err(format!("its version cannot be right: {hex:#010x}"));
    }
    let (level, serial) = (release >> 4, release & 15);
    // Writing to a string does not fail.
    let _ = write!(name, " {major}.{minor}.{micro}");
    let suffix = match level {
        0xa => "a",
        0xb => "b",
        0xc => "rc",
        _ => "",
    };
    if !suffix.is_empty() {
        let _ = write!(name, "{suffix}{serial}");
    }
    if matches!(level, 0xa | 0xb) {
        return Err("structures still change in alpha and beta versions".to_owned());
    }
    Ok(hex >> 16)
}

/// Checks that the offsets lead to live thread states, and fills in what memory tells.
fn build(exports: &Exports, memory: &dyn ReadMemory, offsets: Offsets) -> Result<Layout, Absent> {
    let mut layout = Layout {
        runtime: exports.runtime,
        ..offsets.layout
    };
    let threads = threads(memory, &layout, offsets.thread_interpreter)?;
    layout.thread_local = thread_local(memory, &layout, offsets.key, &threads);
    let running = code_type(memory, &layout, &threads);
    // An executable may have a copy of a type of its library's, which then is the one in use. The
    // library's own is still of the type that is in use, as is what runs.
    let known = [exports.type_type, exports.code_type, running];
    let type_type = known
        .into_iter()
        .flatten()
        .find_map(|address| meta_type(memory, &layout, address));
    layout.type_type = type_type.ok_or_else(|| {
        if known.iter().any(Option::is_some) {
            damaged("its type of types is none")
        } else {
            // It exports no type, and nothing runs yet that would lead to one.
            Absent::NotYet
        }
    })?;
    layout.code_type = running
        .filter(|&kind| type_of(memory, &layout, kind) == Some(layout.type_type))
        .or(exports.code_type)
        .unwrap_or(0);
    Ok(layout)
}

fn damaged(why: &str) -> Absent {
    Absent::Refused(format!("its memory is damaged: {why}"))
}

/// A thread state's address, and the thread's own pointer.
struct Thread {
    state: u64,
    id: u64,
}

/// The thread states of all interpreters; at least one.
fn threads(
    memory: &dyn ReadMemory,
    layout: &Layout,
    thread_interpreter: u32,
) -> Result<Vec<Thread>, Absent> {
    let word = |base: u64, offset: u32| {
        let address = base.checked_add(u64::from(offset));
        address
            .and_then(|address| memory.word(address))
            .ok_or_else(|| damaged("a list of interpreters or threads leads nowhere"))
    };
    let mut threads = Vec::new();
    let mut interpreter = word(layout.runtime, layout.interpreters_head)?;
    for _ in 0..MAX_INTERPRETERS {
        if interpreter == 0 {
            break;
        }
        let mut state = word(interpreter, layout.threads_head)?;
        while state != 0 && threads.len() < MAX_THREADS {
            if word(state, thread_interpreter)? != interpreter {
                return Err(damaged("a thread state is not of its interpreter"));
            }
            let id = word(state, layout.thread_id)?;
            threads.push(Thread { state, id });
            state = word(state, layout.thread_next)?;
        }
        interpreter = word(interpreter, layout.interpreter_next)?;
    }
    // A thread state is made first, and bound to its thread then.
    if threads.iter().all(|thread| thread.id == 0) {
        return Err(Absent::NotYet);
    }
    Ok(threads)
}

/// Where threads keep their thread state under the runtime's key, shown by one that does.
fn thread_local(memory: &dyn ReadMemory, layout: &Layout, key: u32, threads: &[Thread]) -> u32 {
    if key == NO_FIELD || cfg!(not(target_arch = "x86_64")) {
        return NO_FIELD;
    }
    let at = |offset: u32| layout.runtime.checked_add(u64::from(offset));
    let number = |offset| at(offset).and_then(|address| memory.half(address));
    let (Some(1..), Some(number @ 0..KEYS)) = (number(key), number(key + 4)) else {
        return NO_FIELD;
    };
    let offset = FIRST_KEY + 16 * number + 8;
    let shown = threads.iter().any(|thread| {
        let value = thread.id.checked_add(u64::from(offset));
        value.and_then(|address| memory.word(address)) == Some(thread.state)
    });
    if shown { offset } else { NO_FIELD }
}

/// The type of the object at `address`.
fn type_of(memory: &dyn ReadMemory, layout: &Layout, address: u64) -> Option<u64> {
    memory.word(address.checked_add(u64::from(layout.object_type))?)
}

/// The type whose type it is itself, reached from the type at `address`.
fn meta_type(memory: &dyn ReadMemory, layout: &Layout, mut address: u64) -> Option<u64> {
    // A type, its metaclass, that one's: there is no fourth in CPython itself.
    for _ in 0..3 {
        let kind = type_of(memory, layout, address).filter(|&kind| kind != 0)?;
        if kind == address {
            return Some(address);
        }
        address = kind;
    }
    None
}

/// The type of the code objects that threads run.
fn code_type(memory: &dyn ReadMemory, layout: &Layout, threads: &[Thread]) -> Option<u64> {
    let word = |base: u64, offset: u32| memory.word(base.checked_add(u64::from(offset))?);
    let of_thread = |thread: &Thread| {
        let mut frame = word(thread.state, layout.frame)?;
        if layout.frame_indirect != NO_FIELD {
            frame = word(frame, layout.frame_indirect)?;
        }
        for _ in 0..MAX_FRAMES {
            let mut owner = [0];
            let shim = layout.flags & SHIM_FRAMES != 0 && {
                let at = frame.checked_add(u64::from(layout.frame_owner))?;
                memory.read(at, &mut owner).then_some(())?;
                u32::from(owner[0]) >= layout.owner_shim
            };
            if !shim {
                let code = word(frame, layout.frame_code)? & !7;
                let kind = word(code, layout.object_type)?;
                let name = memory.c_string(word(kind, layout.type_name)?, 8)?;
                return (name == b"code").then_some(kind);
            }
            frame = word(frame, layout.frame_previous)?;
        }
        None
    };
    threads.iter().find_map(of_thread)
}

#[cfg(test)]
mod tests;
