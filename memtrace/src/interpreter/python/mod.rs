//! CPython, 3.8 to 3.14.

pub mod code;
mod dict;
pub mod lines;
pub mod text;
pub mod types;

#[cfg(test)]
mod tests;
