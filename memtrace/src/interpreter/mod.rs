//! Interpreters in traced processes: what their frames and objects are called.

pub mod python;
