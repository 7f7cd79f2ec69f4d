//! memtrace's BPF programs.
//!
//! The entry points are in [`backend`]. Who is traced is decided in [`lineage`], and the traced
//! threads are in the table of [`thread`]; what a fault was is decided in [`window`]; where it came
//! from in [`stack`], [`unwind`] and [`interpreter`]; what was written in [`cause`] and there too.
//! what pages hold at a process's end is looked at in [`sample`].
//! [`maps`] and [`scratch`] are what they work on, and [`arch`] has what depends on the processor.
//! Offsets and switches are globals that the loader sets, see [`globals`].
//!
//! Large parts are global functions (`extern "C"`, under their own names): the verifier follows
//! each of them once, knowing nothing of its arguments, and not again on every path that leads to
//! it. So they take numbers and give a number, and share everything else by this CPU's room.
//! Loading all programs takes a fraction of the time that way.
//!
//! No two modules import each other, directly or by way of others.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(
    internal_features,
    reason = "see `atomic`: there is no other way to the BPF atomics"
)]

mod arch;
mod atomic;
mod backend;
mod cause;
mod globals;
mod interpreter;
mod lineage;
mod maps;
mod memory;
mod registers;
mod ring;
mod sample;
mod scratch;
mod stack;
mod task;
mod thread;
mod unwind;
mod window;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses an object in which this could be reached.
    loop {}
}

/// What the kernel reads to permit helpers that are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
