//! Interpreters in traced processes: which one runs, and what its functions and types are called.
//!
//! This is the contract that an interpreter fulfils, in three steps. Its [`Loader`] recognises a
//! mapped ELF file. What it finds there, the [`Data`] of the file, is kept for all processes that
//! map it. Data and a process's memory give the [`Instance`], which says how the interpreter is
//! laid out there, for the BPF side to walk its frames, and decodes what the BPF side sends.
//!
//! Everything else (the [`tracker`] of which process has which, [`names`], and what merges and
//! blames stacks) knows only these traits. An interpreter is a folder beside `python/` and an entry
//! of [`LOADERS`]. Runtimes that are not read are only recognised, see [`runtimes`].
//!
//! Files and memory belong to the traced process, so nothing in them is trusted: every read has a
//! bound, and what does not fit is refused with a reason.

pub mod collectors;
pub mod entries;
pub mod names;
mod python;
mod recognise;
pub mod runtimes;
#[cfg(test)]
pub(crate) mod toy;
pub mod tracker;
mod unread;

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use memtrace_common::interpreter::Kind;

use crate::collect::TakenFunction;
use crate::elf::{Facts, Wanted};
use crate::probe::Tables;
use crate::process::memory::ReadMemory;
use crate::profile::{Frame, Language};

pub use entries::Interpreter;

/// Every interpreter that is known.
pub const LOADERS: &[&dyn Loader] = &[&python::Loader];

/// Recognises an interpreter in ELF files.
pub trait Loader: Sync {
    /// Which interpreter this is, and so which of the BPF side's tables its instances are in.
    fn kind(&self) -> Kind;

    /// What is looked for in each file that is mapped executable. Most have no interpreter, and a
    /// symbol that is not there costs two or three short reads.
    fn wanted(&self) -> Wanted;

    /// What the file says of this interpreter; `None` when it does not have it.
    fn load(&self, facts: &Facts) -> Option<Box<dyn Data>>;

    /// What a native function of this interpreter is there for, by its name; `None` for any other.
    /// It is asked about functions of all programs, whether or not they have the interpreter, so it
    /// may only answer for names that nobody else may use.
    fn role(&self, function: &str) -> Option<Role>;

    /// Whether a native function says what the interpreter does while it runs no script (starting,
    /// ending, collecting), by its name; of several in a stack, the one with the lowest number says
    /// it best. As [`Loader::role`], it is asked about all programs.
    fn activity(&self, function: &str) -> Option<usize> {
        let _ = function;
        None
    }
}

/// What a file says of an interpreter. Addresses in it are the file's own; see [`elf`](crate::elf).
pub trait Data {
    /// What runs in a process that has the file loaded with this bias.
    fn instance(&self, bias: u64, memory: &dyn ReadMemory) -> Recognised;
}

/// What runs in a process.
#[derive(Clone, Debug)]
pub enum Recognised {
    /// No interpreter that is known here.
    None,
    /// An interpreter is there and has not initialised, or not any more: ask again later.
    NotYet {
        /// As [`Instance::name`].
        name: String,
    },
    /// An interpreter is there and runs.
    Runs(Arc<dyn Instance>),
    /// An interpreter is there, and its frames cannot be walked: native frames only.
    Refused {
        /// As [`Instance::name`]; without a version where that is not known.
        name: String,
        /// Why, as a clause: "its memory is damaged: ...".
        why: String,
    },
}

/// An interpreter in a process, and in the processes that were forked from it.
pub trait Instance: Any + fmt::Debug + Send + Sync {
    /// What it is, as a report shows it: "`CPython` 3.11.7".
    fn name(&self) -> &str;

    /// Which interpreter it is: that of its loader.
    fn kind(&self) -> Kind;

    /// The language of the functions that it runs.
    fn language(&self) -> Language;

    /// Writes where it is and how it is laid out into the table of its kind, at `index`.
    fn write(&self, tables: &Tables, index: u32);

    /// Whether `other` is at the same place and laid out in the same way. A process that finds
    /// the same as its parent has is given its parent's entry of the table.
    fn same_as(&self, other: &dyn Instance) -> bool;

    /// Decodes a function, from what the BPF side sent of it when it was first seen. What is
    /// missing of that is read from `memory`, of the process or a relative, after a check that the
    /// same function is still there. `None` when not even its name could be had.
    fn function(&self, taken: &TakenFunction, memory: &dyn ReadMemory)
    -> Option<Box<dyn Function>>;

    /// The name of the type whose description is at `address`, fit to show.
    ///
    /// # Errors
    ///
    /// When it could not be read, or is not a type.
    fn type_name(&self, address: u64, memory: &dyn ReadMemory) -> Result<String, NoTypeName>;

    /// Whether a native function is the interpreter's loop, which runs its functions; by its name.
    fn is_loop(&self, function: &str) -> bool;
}

/// A function that an interpreter runs, decoded: it can be asked after the process has gone.
pub trait Function: Send + Sync {
    /// Its name, qualified where the interpreter has that; fit to show.
    fn name(&self) -> &Arc<str>;

    /// Its file, fit to show; `None` where it is in no file.
    fn file(&self) -> Option<&Arc<str>>;

    /// The line of a place in it, given as a frame has it
    /// ([`TakenFrame::position`](crate::collect::TakenFrame::position)). `None` when that is not
    /// known.
    fn line(&self, position: u64) -> Option<u32>;
}

/// A frame of a function that an interpreter ran, named.
#[derive(Clone, Debug)]
pub struct ScriptCall {
    /// The function and where in it.
    pub frame: Frame,
    /// Whether the interpreter's loop was entered with it.
    pub is_entry: bool,
}

/// What a native function is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It manages memory for others.
    Allocator,
    /// It writes memory for its caller.
    String,
    /// It belongs to the C library and counts what is not a reference: holders of a lock, a
    /// semaphore.
    Lock,
    /// It collects a runtime's garbage.
    Collector,
    /// It counts a reference, and writes nothing else.
    Count,
    /// It runs functions of the program that a runtime runs.
    Program,
    /// Anything else.
    Other,
}

/// Why a type has no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoTypeName {
    /// Its memory could not be read: the process has gone, or freed it.
    Unreadable,
    /// What is there is not a type: it was freed, and the memory used again.
    NotAType,
    /// It is a type, but its name is not there.
    Nameless,
}

impl fmt::Display for NoTypeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreadable => "its memory could not be read",
            Self::NotAType => "it is not a type any more",
            Self::Nameless => "its name could not be read",
        })
    }
}

/// What is looked for in files, to know these interpreters and the runtimes that are not read.
#[must_use]
pub fn wanted(loaders: &[&dyn Loader]) -> Wanted {
    let own = loaders.iter().map(|loader| loader.wanted());
    own.fold(runtimes::wanted(), Wanted::and)
}

/// The loaders of the kinds that are wanted.
pub fn loaders(is_wanted: impl Fn(Kind) -> bool) -> Vec<&'static dyn Loader> {
    let all = LOADERS.iter().copied();
    all.filter(|loader| is_wanted(loader.kind())).collect()
}

/// What a native function is there for, if it is one of an interpreter's own; by its name.
#[must_use]
pub fn role(function: &str) -> Option<Role> {
    LOADERS.iter().find_map(|loader| loader.role(function))
}

/// Whether a native function says what an interpreter does while it runs no script, and how well;
/// by its name. See [`Loader::activity`].
#[must_use]
pub fn activity(function: &str) -> Option<usize> {
    LOADERS.iter().find_map(|loader| loader.activity(function))
}

/// Whether a function of this language is of its standard library or of a package that was
/// installed, by its file, rather than of the application.
#[must_use]
pub fn is_library(language: Language, file: &str) -> bool {
    match language {
        Language::Python => python::is_library(file),
        Language::Native | Language::Kernel | Language::Other(_) => false,
    }
}

/// Which is the innermost function of the application among functions of this language that called
/// one another, given their files, innermost first: it is neither a library's nor a script that came
/// with one of these libraries.
#[must_use]
pub fn application(language: Language, files: &[Option<&str>]) -> Option<usize> {
    if language != Language::Python {
        return None;
    }
    let libraries = files.iter().flatten();
    let roots: Vec<_> = libraries
        .filter_map(|file| python::environment(file))
        .collect();
    let is_script = |file: &str| python::script_of(file).is_some_and(|root| roots.contains(&root));
    let is_own = |file: &str| !python::is_library(file) && !is_script(file);
    // What was made of a text is somebody's, but nobody can open it.
    let can_be_opened = |file: &str| is_own(file) && !file.starts_with('<');
    let find = |is: &dyn Fn(&str) -> bool| files.iter().position(|file| file.is_some_and(is));
    find(&can_be_opened).or_else(|| find(&is_own))
}

/// The name of a native function without what compilers put behind it where they split or
/// specialise a function: `.cold`, `.isra.0`, `.lto_priv.0`.
#[must_use]
pub fn unsplit(function: &str) -> &str {
    function.split('.').next().unwrap_or_default()
}
