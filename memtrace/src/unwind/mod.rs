//! Unwind tables: built from the files that traced processes map, given to the BPF side, and
//! which process has which.

pub mod table;
