//! Interpreters in traced processes.

pub mod tracker;

use crate::process::maps::AddressSpace;
use crate::process::memory::ReadMemory;

/// What was found.
pub enum Recognised {
    /// x
    None,
    /// x
    NotYet {
        /// x
        name: String,
    },
    /// x
    Python(Instance),
    /// x
    Refused {
        /// x
        name: String,
        /// x
        why: String,
    },
}
/// x
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// x
    pub layout: memtrace_common::interpreter::Interpreter,
    /// x
    pub name: String,
}
/// x
#[derive(Default)]
pub struct Interpreters {}
impl Interpreters {
    /// x
    pub fn recognise(&mut self, _: &AddressSpace, _: &dyn ReadMemory) -> Recognised {
        Recognised::None
    }
}
