//! Interpreters in traced processes, each walked and judged by the code for its kind.
//!
//! What a kind does is in global functions, which the verifier follows once and by themselves (see
//! [`main`](crate)): they take numbers, and find everything else in this CPU's room.
//!
//! Everybody else deals with an [`Interpreter`] and with what its walk leaves in
//! [`ScriptWalk`](crate::scratch::ScriptWalk). For a kind of interpreter there is a file with its
//! walk and one with its judgement, and an arm in each `match` below. Kinds that are not asked for
//! are switched off by a global that the verifier knows, so that it drops their code.

mod python;
mod python_cause;

use memtrace_common::interpreter::{Handle, Kind};
use memtrace_common::record::Evidence;

use crate::cause::Judged;
use crate::globals;
use crate::scratch::scratch;

/// An interpreter whose frames are recorded.
#[derive(Clone, Copy)]
pub struct Interpreter {
    handle: u64,
    kind: Kind,
}

impl Interpreter {
    /// The interpreter that a process's slot names, by the word that is there; `None` when it names
    /// none, or one whose frames are not recorded.
    #[inline(always)]
    pub fn of(word: u64) -> Option<Self> {
        if globals::INTERPRETERS.load() == 0 {
            return None;
        }
        let handle = Handle::from_slot(word);
        let kind = handle.kind()?;
        match kind {
            Kind::Python => recorded(Kind::Python)?,
        }
        Some(Self {
            handle: u64::from(handle.raw()),
            kind,
        })
    }

    /// The number that stands for it in a record.
    #[inline(always)]
    pub fn handle(self) -> u64 {
        self.handle
    }

    /// Appends the script frames of the running thread to the stack, which has `len` words so far.
    /// Returns the hash over all frames, of which `hash` is that over the first ones.
    #[inline(always)]
    pub fn walk(self, len: u64, hash: u64) -> Option<u64> {
        scratch()?.script.begin(self.handle, len, hash);
        match self.kind {
            Kind::Python => python::python_walk(),
        };
        Some(scratch()?.script.hash)
    }

    /// Completes the script frames of a stack that is about to be sent for the first time, and
    /// sends the functions that have not been.
    #[inline(always)]
    pub fn identify(self) {
        match self.kind {
            Kind::Python => python::python_identify(),
        };
    }

    /// Looks at the memory around `address`, which the running thread is about to write.
    #[inline(always)]
    pub fn judge(self, address: u64) -> Judged {
        match self.kind {
            Kind::Python => python_cause::python_judge(self.handle, address),
        };
        let judged = scratch().map(|scratch| scratch.judged);
        judged.unwrap_or(Judged::unknown(Evidence::Unreadable))
    }
}

/// `None` when frames of interpreters of this kind are not recorded, which the verifier knows of a
/// kind that is a constant.
#[inline(always)]
fn recorded(kind: Kind) -> Option<()> {
    (globals::INTERPRETERS.load() & kind.bit() != 0).then_some(())
}
