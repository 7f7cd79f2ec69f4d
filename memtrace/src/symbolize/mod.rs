//! From addresses to functions.
//!
//! A **module** is a mapped file, opened once for the whole trace ([`modules`]): it can be read
//! after its processes have ended and its path is gone. [`native`] names the functions of compiled
//! code; [`blame()`] says which frame of a stack a copy is put down to.

mod blame;
mod modules;
mod native;

pub use blame::blame;
pub use modules::{Module, Modules};
pub use native::Symbolizer;
