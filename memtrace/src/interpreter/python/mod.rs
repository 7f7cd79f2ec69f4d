//! `CPython` 3.8 to 3.14, free-threaded builds included.
//!
//! The loader is [`load`]: a file that exports `_PyRuntime`, or has a section of that name, is a
//! `CPython`, whatever the file is called; so are programs that embed it. The version is the
//! runtime's own, and with it come the offsets: from the runtime where it has a table of them (3.13
//! and later, [`debug_offsets`]), else from ours ([`offsets`]). [`instance`] then checks in the
//! process's memory that they lead where they should.

pub mod code;
mod debug_offsets;
mod dict;
mod instance;
pub mod lines;
mod offsets;
pub mod text;
pub mod types;

use std::fs::File;

use super::Recognised;
use crate::elf::Symbols;
use crate::process::memory::ReadMemory;

/// What a file says of `CPython`. Addresses are the file's own; see [`elf`](crate::elf).
#[derive(Debug)]
pub(super) enum Data {
    /// It has a runtime.
    Runtime(Exports),
    /// It has an interpreter that cannot be walked: name, and why.
    Refused(&'static str, &'static str),
}

/// Addresses that a file exports, as it has them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exports {
    /// `_PyRuntime`.
    pub(super) runtime: u64,
    /// `PyType_Type`, if exported.
    pub(super) type_type: Option<u64>,
    /// `PyCode_Type`, if exported.
    pub(super) code_type: Option<u64>,
    /// `Py_Version`, which 3.11 and later have.
    pub(super) version: Option<u64>,
    /// What the functions of its API tell of the version, as 0x030a for 3.10; `None` when it
    /// exports none of those looked for.
    pub(super) api: Option<u32>,
}

/// Functions that came with a version, newest first. Looked up in the libraries of 2.7 to 3.13:
/// each is there from its version on, and in none before.
const API: [(&str, u32); 4] = [
    ("Py_NewRef", 0x030a),
    ("PyObject_CallNoArgs", 0x0309),
    ("Py_PreInitialize", 0x0308),
    ("PyInterpreterState_GetID", 0x0307),
];

/// Recognises a file: `None` when there is no Python in it.
pub(super) fn load(symbols: &Symbols, file: &File) -> Option<Data> {
    let symbol = |name| symbols.symbol(file, name);
    let runtime = symbol("_PyRuntime").or_else(|| symbols.section(file, ".PyRuntime"));
    if let Some(runtime) = runtime {
        let known = API.iter().find(|(name, _)| symbol(name).is_some());
        return Some(Data::Runtime(Exports {
            runtime,
            type_type: symbol("PyType_Type"),
            code_type: symbol("PyCode_Type"),
            version: symbol("Py_Version"),
            api: known.map(|&(_, version)| version),
        }));
    }
    if symbol("pypy_main_startup").is_some() || symbol("rpython_startup_code").is_some() {
        return Some(Data::Refused("PyPy", "only CPython's frames can be read"));
    }
    // What `_PyRuntime` took over in 3.7.
    symbol("_PyThreadState_Current")?;
    Some(if symbol("PyString_Type").is_some() {
        Data::Refused("CPython 2", TOO_OLD)
    } else {
        Data::Refused("CPython 3.6 or older", TOO_OLD)
    })
}

const TOO_OLD: &str = "Python frames can be read of 3.8 to 3.14, and this is older";
const TOO_NEW: &str = "Python frames can be read of 3.8 to 3.14, and this is newer";

impl Data {
    /// What the process makes of it that has the file loaded with this bias.
    pub(super) fn instance(&self, bias: u64, memory: &dyn ReadMemory) -> Recognised {
        match self {
            Self::Runtime(exports) => instance::recognise(&exports.loaded(bias), memory),
            Self::Refused(name, why) => Recognised::Refused {
                name: (*name).to_owned(),
                why: (*why).to_owned(),
            },
        }
    }
}

impl Exports {
    /// As they are in the process.
    fn loaded(&self, bias: u64) -> Self {
        let add = |address: Option<u64>| address.map(|address| address.wrapping_add(bias));
        Self {
            runtime: self.runtime.wrapping_add(bias),
            type_type: add(self.type_type),
            code_type: add(self.code_type),
            version: add(self.version),
            api: self.api,
        }
    }
}

#[cfg(test)]
mod recognise_tests;
#[cfg(test)]
mod tests;
