//! ELF files, read without trusting them.
//!
//! This is the only reader of headers: [`Layout`] says where a file's contents are loaded,
//! [`Symbols`] looks exported symbols up, and those of static programs, [`Functions`] names addresses
//! by all symbols, [`Headers`] and [`Sections`] are what these and the builder of unwind tables are
//! made of.
//!
//! The files belong to whoever runs the traced processes. Nothing is mapped: everything is read by
//! `pread` into memory of a bounded size, so a file that is truncated meanwhile is a short read and
//! not a signal. Bounds, each where it is kept: `MAX_PROGRAMS` and `MAX_NOTES` in headers.rs,
//! `MAX_SECTIONS`, `MAX_NAMES` and `MAX_NAME` in sections.rs, `MAX_DYNAMIC` and `MAX_CHAIN` in
//! symbols.rs, `MAX_FUNCTIONS` and what is beside it in functions.rs. What is beyond a bound counts as not there. Together they bound headers: at most
//! 4 MiB in ten reads, and a step for each section for each name that is looked for. The contents
//! of a section have the bound that their reader gives. Whoever reads more than headers does it
//! within a [`Budget`], which also bounds the time.
//!
//! Files of this machine's byte order are read, of 32 and of 64 bits. Whoever needs 64 bits asks
//! [`Headers::is_64_bit`].
//!
//! # Offsets and addresses
//!
//! A byte of a file has three numbers: its *offset* in the file; its *address*, which the file
//! gives to it in its program headers, and which symbols and debug information use; and where it is
//! in a process. The first two differ by the *shift* of its segment, the last two by the *bias* of
//! the whole file:
//!
//! ```text
//! address = offset + shift        in the process = address + bias
//! ```
//!
//! All of it wraps around. [`Layout`] computes it, for one mapping at a time.

mod budget;
mod extents;
mod facts;
mod functions;
mod headers;
mod layout;
#[cfg(test)]
pub mod made;
mod references;
mod sections;
mod symbols;
mod table;

pub use budget::{Budget, Source};
pub use facts::{Facts, Wanted};
pub use functions::{Function, Functions, MAX_FUNCTIONS};
pub use headers::{EM_X86_64, Headers, PT_GNU_EH_FRAME, PT_LOAD};
pub use layout::Layout;
pub use references::functions_that_name;
pub use sections::{Section, Sections, Unreadable};
pub use symbols::{Symbol, Symbols};

#[cfg(test)]
mod tests;
