//! memtrace: which code paths turn the shared memory of a prefork server private.
//!
//! See ARCHITECTURE.md for the way from a fault to a report.

pub mod cli;
pub mod command;
pub mod distribution;
pub mod options;
pub mod preflight;
pub mod process;
pub mod profile;
pub mod progress;
pub mod report;
pub mod symbolize;
