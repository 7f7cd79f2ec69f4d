//! What the kernel tells, and how it is asked.
//!
//! A backend is a set of programs that see a fault from its entry to its end. Its file has the
//! entry points, and says what events they need, what they see and what they cannot see. An entry
//! point does four things: it drops what cannot concern a copy, passes the gate
//! ([`thread::current`](crate::thread::current)), translates its context into plain values, and
//! calls a function of [`window`](crate::window). Everything else is shared by all backends, and so
//! are the entry points of [`lineage`], which say who is traced.
//!
//! The gate comes before anything is read of the context: everybody's faults come here, and those
//! of processes that are not traced should cost as little as can be.

mod lineage;
mod tracepoint;
