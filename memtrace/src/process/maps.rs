//! Mappings of a process.
