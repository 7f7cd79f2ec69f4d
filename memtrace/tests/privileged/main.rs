//! Tests that trace real processes: memtrace's counts against the fixture's truth.
//!
//! They need root and a kernel that permits BPF, and without those are skipped visibly (a line
//! `SKIPPED test: why` on standard error); with `CI=true` in the environment a machine that has
//! both must run them. The fixture is a program of its own, `memtrace-fixture`; the tests build it
//! with frame pointers, which stacks need. `MEMTRACE_BIN` and `MEMTRACE_FIXTURE` name other builds
//! to use.

#[path = "../skipped/mod.rs"]
mod skipped;
mod support;

mod advice;
mod choice;
mod claims;
mod copies;
mod counters;
mod crowds;
mod diff;
mod lifecycle;
mod limits;
mod live;
mod memory;
mod past;
mod python;
mod refusals;
mod reports;
mod runtimes;
mod served;
mod servers;
mod signals;
mod symbols;
mod unchanged;
mod unprivileged;
mod unwind;
