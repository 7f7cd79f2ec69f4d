//! What a process takes from itself before it reads what others wrote.
//!
//! Whatever reads foreign files may be made to do anything that its process may do. So that is as
//! little as possible: it computes, and answers on the socket that it has. [`enter`] gives up, in
//! this order,
//!
//! - every path: the root directory becomes one that has the process's own descriptors in it, and
//!   debug files, where there are any ([`jail`]);
//! - the user: it becomes nobody, of no groups, if it was root ([`identity`]);
//! - every capability, and ever having one again;
//! - being looked at or traced by others of its user;
//! - memory, descriptors, files that grow, and processes, by resource limits;
//! - writing, running and listing files, connecting by TCP, and signals to others, by Landlock
//!   ([`landlock`]);
//! - every system call that is not on a short list, by seccomp ([`filter`]): one that is not ends
//!   the process.
//!
//! Each layer holds by itself, as far as it goes: what one of them lets through another one keeps.
//! What this machine does not have, or does not permit, is left out, and said.

mod filter;
mod identity;
mod jail;
mod landlock;

use std::path::Path;

use rustix::process::{
    DumpableBehavior, Resource, Signal, set_dumpable_behavior, set_parent_process_death_signal,
};
use rustix::thread::set_no_new_privs;

use super::child;

/// What a process in the sandbox may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of memory that do not belong to a file.
    pub data: u64,
    /// Open files.
    pub files: u64,
}

/// A sandbox that was entered.
#[derive(Debug)]
pub struct Sandbox {
    /// The directory that has the process's own descriptors in it.
    pub descriptors: &'static Path,
    /// What could not be given up, in words.
    pub missing: Vec<String>,
}

/// Enters the sandbox, for good. The process must not have other threads.
#[must_use]
pub fn enter(limits: Limits) -> Sandbox {
    let mut sandbox = enter_but_for_calls(limits);
    sandbox.note("seccomp", filter::apply());
    sandbox
}

/// All but the filter of system calls, which keeps a test from seeing the rest.
fn enter_but_for_calls(limits: Limits) -> Sandbox {
    let mut sandbox = Sandbox {
        descriptors: Path::new("/proc/self/fd"),
        missing: Vec::new(),
    };
    match jail::enter() {
        Ok(descriptors) => sandbox.descriptors = descriptors,
        Err(error) => sandbox.note("a root directory of its own", Err(error)),
    }
    sandbox.note("another user", identity::become_nobody());
    sandbox.note("no capabilities", identity::drop_capabilities());
    sandbox.note("no new privileges", set_no_new_privs(true));
    let dumpable = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    sandbox.note("not being looked at", dumpable);
    // Another user's process does not end with its parent unless it says so again.
    let ends = set_parent_process_death_signal(Some(Signal::KILL));
    sandbox.note("ending with memtrace", ends);
    for (resource, most) in [
        (Resource::Data, limits.data),
        (Resource::Nofile, limits.files),
        (Resource::Fsize, 0),
        (Resource::Nproc, 0),
        (Resource::Msgqueue, 0),
        (Resource::Memlock, 0),
    ] {
        sandbox.note("resource limits", child::limit(resource, most));
    }
    sandbox.note("Landlock", landlock::restrict());
    sandbox
}

impl Sandbox {
    fn note(&mut self, what: &str, done: Result<(), impl std::fmt::Display>) {
        if let Err(error) = done {
            self.missing.push(format!("{what}: {error}"));
        }
    }
}

#[cfg(test)]
mod tests;
