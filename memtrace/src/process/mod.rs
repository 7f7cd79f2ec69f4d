//! The processes that are traced, as records tell and /proc shows them: who they are ([`processes`],
//! [`ended`], [`facts`], [`name`], [`container`], [`pidfd`]) and what they share ([`uses`]), what is mapped where
//! ([`maps`]), from which files ([`modules`], [`opener`]), and their memory ([`memory`]). What may
//! hang, or be made to do what it should not, runs in a process of its own ([`child`]), which can
//! give up what it may do ([`sandbox`]) and is sent what it needs ([`messages`], [`descriptors`]).

pub mod child;
pub mod container;
pub mod descriptors;
pub mod ended;
pub mod facts;
pub mod inspector;
pub mod maps;
pub mod memory;
pub mod messages;
pub mod modules;
pub mod name;
pub mod opener;
pub mod pidfd;
pub mod processes;
pub mod sandbox;
pub mod uses;
