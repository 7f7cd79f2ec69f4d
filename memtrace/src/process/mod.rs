//! The processes that are traced, as records tell and /proc shows them: who they are ([`processes`],
//! [`ended`], [`facts`], [`name`], [`pidfd`]) and what they share ([`uses`]), what is mapped where
//! ([`maps`]), from which files ([`modules`], [`opener`]), and their memory ([`memory`]). What may
//! hang runs in a process of its own ([`child`]).

pub mod child;
pub mod ended;
pub mod facts;
pub mod maps;
pub mod memory;
pub mod modules;
pub mod name;
pub mod opener;
pub mod pidfd;
pub mod processes;
pub mod uses;
