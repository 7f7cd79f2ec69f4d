//! `CPython` 3.8 to 3.14, free-threaded builds included.
//!
//! A file that exports `_PyRuntime`, or has a section of that name, is a `CPython`, whatever the
//! file is called; so are programs that embed it. The version is the runtime's own, and with it
//! come the offsets: from the runtime where it has a table of them (3.13 and later,
//! [`debug_offsets`]), else from ours ([`offsets`]). [`instance`] then checks in the process's
//! memory that they lead where they should. [`code`] decodes functions, [`types`] finds names of
//! types, and [`library`] tells functions of libraries from those of the application.

mod code;
mod debug_offsets;
mod dict;
mod instance;
mod library;
mod lines;
mod offsets;
mod text;
mod types;

use std::any::Any;

use memtrace_common::interpreter::Kind;
use memtrace_common::interpreter::python::Layout;

use self::code::Code;
pub use self::library::{environment, is_library, script_of};
use super::{Data, Function, Instance, NoTypeName, Recognised, Role, unsplit};
use crate::collect::TakenFunction;
use crate::elf::{Facts, Wanted};
use crate::probe::Tables;
use crate::process::memory::ReadMemory;
use crate::profile::Language;

/// The function that runs Python functions, in all versions.
const LOOP: &str = "_PyEval_EvalFrameDefault";

/// What it does when it runs no Python function, by the functions that say so, the one that says
/// most first. Public ones, where they are not inlined: a stripped program has the names of no
/// others. After all of them come the public functions that begin with [`LESS_TELLING`].
const ACTIVITIES: [&str; 21] = [
    // Ending.
    "Py_FinalizeEx",
    "Py_Finalize",
    "_Py_Finalize",
    "Py_EndInterpreter",
    "Py_Exit",
    // Ending because of `SystemExit`: the frames that it came through are freed.
    "_Py_HandleSystemExit",
    "_Py_HandleSystemExitAndKeyboardInterrupt",
    "PyErr_PrintEx",
    "_PyErr_PrintEx",
    // Starting.
    "Py_InitializeFromConfig",
    "Py_InitializeEx",
    "Py_Initialize",
    "Py_NewInterpreterFromConfig",
    "Py_NewInterpreter",
    // Ending a thread.
    "PyThreadState_Clear",
    // Collecting.
    "PyGC_Collect",
    "_PyGC_Collect",
    "_PyGC_CollectNoFail",
    "_Py_RunGC",
    "gc_collect_main",
    "gc_collect_generations",
];

/// Importing; compiling and running a program; and all of that, and ending.
const LESS_TELLING: [&str; 3] = ["PyImport_", "PyRun_", "Py_RunMain"];

/// Recognises `CPython` in ELF files.
pub struct Loader;

/// What a file says of `CPython`. Addresses are the file's own; see [`elf`](crate::elf).
enum FileData {
    /// It has a runtime.
    Runtime(Exports),
    /// It has an interpreter that cannot be walked: name, and why.
    Refused(&'static str, &'static str),
}

/// A `CPython` in a process.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Python {
    /// Where it is and how it is laid out. Equal in processes forked from one another.
    layout: Layout,
    /// "`CPython` 3.11.7"; "`CPython` 3.8" where the runtime does not say more; "`CPython` 3.13.5,
    /// free-threaded".
    name: String,
}

/// Addresses that a file exports, as it has them.
#[derive(Clone, Copy, Debug)]
struct Exports {
    /// `_PyRuntime`.
    runtime: u64,
    /// `PyType_Type`, if exported.
    type_type: Option<u64>,
    /// `PyCode_Type`, if exported.
    code_type: Option<u64>,
    /// `Py_Version`, which 3.11 and later have.
    version: Option<u64>,
    /// What the functions of its API tell of the version, as 0x030a for 3.10; `None` when it
    /// exports none of those looked for.
    api: Option<u32>,
}

/// Functions that came with a version, newest first. Looked up in the libraries of 2.7 to 3.13:
/// each is there from its version on, and in none before.
const API: [(&str, u32); 4] = [
    ("Py_NewRef", 0x030a),
    ("PyObject_CallNoArgs", 0x0309),
    ("Py_PreInitialize", 0x0308),
    ("PyInterpreterState_GetID", 0x0307),
];

const RUNTIME: &str = "_PyRuntime";
const TYPE: &str = "PyType_Type";
const CODE: &str = "PyCode_Type";
const VERSION: &str = "Py_Version";
/// What [`RUNTIME`] replaced in 3.7.
const OLD_STATE: &str = "_PyThreadState_Current";
/// What only Python 2 has.
const OLD_STRING: &str = "PyString_Type";
/// All of these, but for [`API`].
const SYMBOLS: [&str; 6] = [RUNTIME, TYPE, CODE, VERSION, OLD_STATE, OLD_STRING];
/// Has the runtime, where it is not exported.
const RUNTIME_SECTION: &str = ".PyRuntime";

const TOO_OLD: &str = "Python frames can be read of 3.8 to 3.14, and this is older";
const TOO_NEW: &str = "Python frames can be read of 3.8 to 3.14, and this is newer";

impl super::Loader for Loader {
    fn kind(&self) -> Kind {
        Kind::Python
    }

    fn wanted(&self) -> Wanted {
        let api = API.iter().map(|(name, _)| *name);
        Wanted::symbols(SYMBOLS.into_iter().chain(api)).and(Wanted::sections([RUNTIME_SECTION]))
    }

    fn load(&self, facts: &Facts) -> Option<Box<dyn Data>> {
        Some(Box::new(load(facts)?))
    }

    /// Allocators: `_PyObject_Malloc`, `pymalloc_free.isra.0`, `PyMem_Free`.
    fn role(&self, function: &str) -> Option<Role> {
        let versionless = function.split('@').next().unwrap_or(function);
        let bare = unsplit(versionless.trim_start_matches('_'));
        let rest = ["PyObject_", "PyMem_Raw", "PyMem_"]
            .iter()
            .find_map(|prefix| bare.strip_prefix(prefix));
        let called = |name: &str| ["Malloc", "Calloc", "Realloc", "Free", "Alloc"].contains(&name);
        let allocates = rest.is_some_and(called) || bare.starts_with("pymalloc_");
        allocates.then_some(Role::Allocator)
    }

    fn activity(&self, function: &str) -> Option<usize> {
        let function = unsplit(function);
        let known = ACTIVITIES.iter().position(|&name| name == function);
        known.or_else(|| {
            let mut less = LESS_TELLING.iter();
            let less = less.position(|prefix| function.starts_with(prefix));
            less.map(|at| ACTIVITIES.len() + at)
        })
    }
}

/// What a file says; `None` when there is no Python in it.
fn load(facts: &Facts) -> Option<FileData> {
    let symbol = |name| facts.symbol(name);
    let runtime = symbol(RUNTIME).or_else(|| facts.section(RUNTIME_SECTION));
    if let Some(runtime) = runtime {
        let known = API.iter().find(|(name, _)| symbol(name).is_some());
        return Some(FileData::Runtime(Exports {
            runtime,
            type_type: symbol(TYPE),
            code_type: symbol(CODE),
            version: symbol(VERSION),
            api: known.map(|&(_, version)| version),
        }));
    }
    symbol(OLD_STATE)?;
    Some(if symbol(OLD_STRING).is_some() {
        FileData::Refused("CPython 2", TOO_OLD)
    } else {
        FileData::Refused("CPython 3.6 or older", TOO_OLD)
    })
}

impl Data for FileData {
    fn instance(&self, bias: u64, memory: &dyn ReadMemory) -> Recognised {
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

impl Instance for Python {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> Kind {
        Kind::Python
    }

    fn language(&self) -> Language {
        Language::Python
    }

    fn write(&self, tables: &Tables, index: u32) {
        tables.pythons.write(index as usize, &self.layout);
    }

    fn same_as(&self, other: &dyn Instance) -> bool {
        (other as &dyn Any).downcast_ref() == Some(self)
    }

    fn function(
        &self,
        taken: &TakenFunction,
        memory: &dyn ReadMemory,
    ) -> Option<Box<dyn Function>> {
        Some(Box::new(Code::decode(taken, &self.layout, memory)?))
    }

    fn type_name(&self, address: u64, memory: &dyn ReadMemory) -> Result<String, NoTypeName> {
        types::type_name(address, &self.layout, memory)
    }

    fn is_loop(&self, function: &str) -> bool {
        unsplit(function) == LOOP
    }
}

#[cfg(test)]
mod recognise_tests;
#[cfg(test)]
mod tests;
