//! From addresses to functions.
//!
//! [`modules`] keeps the mapped files open, so that addresses can still be named when the process
//! is gone or the file deleted. [`native`] names them, through blazesym in a helper process
//! ([`helper`], [`engine`]), since what is parsed was written by whoever runs the traced process.
//! [`blame`] picks the frame of a stack that stands for the call site.

pub mod blame;
mod elf;
pub mod engine;
pub mod helper;
pub mod merge;
pub mod modules;
pub mod native;

pub use blame::blame;
pub use modules::{Module, Modules};
pub use native::Symbolizer;

#[cfg(test)]
mod tests;
