//! Which traced process has mapped which runtimes that are not read.

use std::sync::Arc;

use foldhash::HashMap;

use super::runtimes;
use crate::process::maps::AddressSpace;
use crate::process::modules::Module;
use crate::process::processes::ProcessId;
use crate::profile::RuntimeSeen;

/// Files whose runtimes are kept with their versions; when there are more, all are read again.
const MAX_FILES: usize = 1024;

/// The runtimes of one process.
pub type Seen = Arc<[RuntimeSeen]>;

/// The runtimes of all traced processes.
#[derive(Default)]
pub struct Unread {
    /// Of files that have any, by [`Module::id`].
    files: HashMap<u32, Seen>,
    /// Of processes that have any.
    processes: HashMap<ProcessId, Seen>,
}

impl Unread {
    /// A process that was forked has what its parent has.
    pub fn inherit(&mut self, parent: ProcessId, child: ProcessId) {
        if let Some(seen) = self.processes.get(&parent) {
            self.processes.insert(child, Arc::clone(seen));
        }
    }

    /// A process has these mappings.
    pub fn look(&mut self, process: ProcessId, space: &AddressSpace) {
        let mut found: Vec<RuntimeSeen> = Vec::new();
        for file in runtimes::files(space) {
            for runtime in self.file(file).iter() {
                if !found.contains(runtime) {
                    found.push(runtime.clone());
                }
            }
        }
        if found.is_empty() {
            self.processes.remove(&process);
        } else if self.of(process).is_none_or(|known| known[..] != found[..]) {
            self.processes.insert(process, found.into());
        }
    }

    /// Forgets a process that has ended, or replaced its program.
    pub fn forget(&mut self, process: ProcessId) {
        self.processes.remove(&process);
    }

    /// The runtimes of a process; `None` without any.
    #[must_use]
    pub fn of(&self, process: ProcessId) -> Option<&Seen> {
        self.processes.get(&process)
    }

    fn file(&mut self, module: &Module) -> Seen {
        if self.files.len() >= MAX_FILES && !self.files.contains_key(&module.id()) {
            self.files.clear();
        }
        let read = || runtimes::shown(module).into();
        Arc::clone(self.files.entry(module.id()).or_insert_with(read))
    }
}
