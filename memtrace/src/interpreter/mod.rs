//! Which interpreter runs in a process, and how it is laid out in its memory.
//!
//! In three steps, so that another interpreter is one more module: its **loader** recognises a
//! mapped ELF file; what it finds there, the **data** of the file, is kept for all processes that
//! map it; from data and a process's memory comes the **instance**, which the BPF side walks by.
//!
//! Files and memory are of the traced process, so nothing in them is trusted: every read has a
//! bound, and what does not fit is refused with a reason.

pub mod names;
pub mod python;
pub mod tracker;

use std::collections::HashMap;
use std::fs::File;

use memtrace_common::interpreter::python::Layout;

use crate::elf::Symbols;
use crate::process::maps::AddressSpace;
use crate::process::memory::ReadMemory;

/// Files whose data is kept; when there are more, all is read again.
const MAX_DATA: usize = 16_384;

/// Places of one file in an address space that are looked at: a file may be loaded more than once.
const MAX_BIASES: usize = 8;

/// What runs in a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recognised {
    /// No interpreter that is known here.
    None,
    /// It is there, but has not initialised yet, or not any more: ask again later.
    NotYet {
        /// As [`Instance::name`].
        name: String,
    },
    /// `CPython`.
    Python(Instance),
    /// It is there, and its frames cannot be walked: native frames only.
    Refused {
        /// As [`Instance::name`]; without a version where that is not known.
        name: String,
        /// Why, as a clause: "its memory is damaged: ...".
        why: String,
    },
}

/// An interpreter in a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Where it is and how it is laid out. Equal in processes forked from one another.
    pub layout: Layout,
    /// What it is: "`CPython` 3.11.7"; "`CPython` 3.8" where the runtime does not say more;
    /// "`CPython` 3.13.5, free-threaded".
    pub name: String,
}

/// Recognises interpreters; keeps what it found in files, by [`Module::id`].
///
/// [`Module::id`]: crate::process::modules::Module::id
#[derive(Debug, Default)]
pub struct Interpreters {
    data: HashMap<u32, Data>,
}

/// What a file says of interpreters.
#[derive(Debug)]
enum Data {
    None,
    Python(python::Data),
}

impl Data {
    /// Asks each loader.
    fn load(file: &File) -> Self {
        let Some(symbols) = Symbols::read(file) else {
            return Self::None;
        };
        match python::load(&symbols, file) {
            Some(data) => Self::Python(data),
            None => Self::None,
        }
    }
}

impl Interpreters {
    /// What runs in the process that has the mappings `space` and the memory `memory`. Where there
    /// is more than one interpreter, one that is initialised is preferred, then one that may still
    /// become so.
    pub fn recognise(&mut self, space: &AddressSpace, memory: &dyn ReadMemory) -> Recognised {
        let mut best = Recognised::None;
        let mut tried: Vec<(u32, u64)> = Vec::new();
        for mapping in space.mappings() {
            // All of a file is loaded at one bias, which its executable mapping tells.
            let Some(module) = mapping.module().filter(|_| mapping.executable) else {
                continue;
            };
            let Some(file) = module.file() else {
                continue;
            };
            if self.data.len() >= MAX_DATA && !self.data.contains_key(&module.id()) {
                self.data.clear();
            }
            let data = self
                .data
                .entry(module.id())
                .or_insert_with(|| Data::load(file));
            let Data::Python(data) = data else {
                continue;
            };
            let bias = module
                .layout()
                .and_then(|layout| layout.bias_of(mapping.start..mapping.end, mapping.offset));
            let Some(bias) = bias else {
                continue;
            };
            let place = (module.id(), bias);
            if tried.contains(&place) || tried.len() >= MAX_BIASES {
                continue;
            }
            tried.push(place);
            let found = data.instance(bias, memory);
            if found.rank() > best.rank() {
                best = found;
            }
            if matches!(best, Recognised::Python(_)) {
                break;
            }
        }
        best
    }
}

impl Recognised {
    fn rank(&self) -> u8 {
        match self {
            Self::None => 0,
            Self::Refused { .. } => 1,
            Self::NotYet { .. } => 2,
            Self::Python(_) => 3,
        }
    }
}
