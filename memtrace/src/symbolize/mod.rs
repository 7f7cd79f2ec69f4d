//! From addresses to functions.
//!
//! [`native`] names addresses of the files that [`process`](crate::process) keeps open, in a helper
//! process ([`helper`], [`engine`]), since what is parsed was written by whoever runs the traced
//! process. [`alias`] says which of several names of a function is shown. [`merge`] puts the frames of an interpreter among the native
//! ones, [`role`] says what a native function is for, and [`blame`] picks the frame of a stack that
//! is the call site.

mod alias;
pub mod blame;
pub mod coroutine;
pub mod engine;
pub mod helper;
pub mod leaving;
pub mod merge;
pub mod native;
pub mod role;

pub use blame::{Blamed, blame};
pub use native::Symbolizer;

#[cfg(test)]
mod tests;
