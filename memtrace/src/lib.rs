//! memtrace: which code paths turn the shared memory of a prefork server private.
//!
//! See ARCHITECTURE.md for the way from a fault to a report.

pub mod distribution;
pub mod options;
pub mod probe;
pub mod process;
pub mod profile;
pub mod report;
pub mod symbolize;
