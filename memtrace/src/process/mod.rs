//! The processes that are traced, as /proc shows them: who they are ([`processes`], [`ended`],
//! [`pidfd`]), what is mapped where ([`maps`]), from which files ([`modules`]), and their memory ([`memory`]).

pub mod ended;
pub mod maps;
pub mod memory;
pub mod modules;
pub mod pidfd;
pub mod processes;
