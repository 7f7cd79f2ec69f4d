//! The processes that are traced, as /proc shows them: who they are ([`processes`], [`ended`],
//! [`pidfd`]), what is mapped where ([`maps`]), from which files ([`modules`], [`opener`]), and their
//! memory ([`memory`]). What may hang runs in a process of its own ([`child`]).

pub mod child;
pub mod ended;
pub mod maps;
pub mod memory;
pub mod modules;
pub mod opener;
pub mod pidfd;
pub mod processes;
