//! From addresses to functions.
//!
//! [`native`] names addresses of the files that [`process`](crate::process) keeps open, through
//! blazesym in a helper process ([`helper`], [`engine`]), since what is parsed was written by
//! whoever runs the traced process. [`merge`] puts an interpreter's frames in their place.
//! [`mod@blame`] chooses the frame of a stack that is its call site.

pub mod blame;
pub mod engine;
pub mod helper;
pub mod merge;
pub mod native;

pub use blame::blame;
pub use native::Symbolizer;

#[cfg(test)]
mod tests;
