//! The processes that are traced, as /proc shows them.

pub mod maps;
pub mod memory;
pub mod pidfd;
pub mod processes;
