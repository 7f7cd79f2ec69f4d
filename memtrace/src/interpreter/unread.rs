//! Which traced process has mapped which runtimes that are not read, and which files with code that
//! could not be opened.

use std::sync::Arc;

use foldhash::HashMap;

use super::runtimes;
use crate::process::maps::AddressSpace;
use crate::process::modules::Module;
use crate::process::opener::errno_in_words;
use crate::process::processes::ProcessId;
use crate::profile::{RuntimeSeen, UnopenedFile};

/// Files whose runtimes are kept with their versions; when there are more, all are read again.
const MAX_FILES: usize = 1024;

/// Files of a process that are kept of those that could not be opened.
const MAX_UNOPENED: usize = 16;

/// The runtimes of one process.
pub type Seen = Arc<[RuntimeSeen]>;

/// The files of one process that could not be opened.
pub type Unopened = Arc<[UnopenedFile]>;

/// The runtimes of all traced processes.
#[derive(Default)]
pub struct Unread {
    /// Of files that have any, by [`Module::id`].
    files: HashMap<u32, Seen>,
    /// Of processes that have any.
    processes: HashMap<ProcessId, Seen>,
    /// Of processes that have any.
    unopened: HashMap<ProcessId, Unopened>,
}

impl Unread {
    /// A process that was forked has what its parent has.
    pub fn inherit(&mut self, parent: ProcessId, child: ProcessId) {
        if let Some(seen) = self.processes.get(&parent) {
            self.processes.insert(child, Arc::clone(seen));
        }
        if let Some(files) = self.unopened.get(&parent) {
            self.unopened.insert(child, Arc::clone(files));
        }
    }

    /// A process has these mappings. A runtime that it had once has written to its memory, also where
    /// it is mapped no more: a server may unload its modules when it ends.
    pub fn look(&mut self, process: ProcessId, space: &AddressSpace) {
        let known = self.of(process).map_or(&[][..], |known| known);
        let mut found: Vec<RuntimeSeen> = known.to_vec();
        let before = found.len();
        for file in runtimes::files(space) {
            for runtime in self.file(file).iter() {
                if !found.contains(runtime) {
                    found.push(runtime.clone());
                }
            }
        }
        if found.len() > before {
            self.processes.insert(process, found.into());
        }
        let unopened = unopened(space);
        if unopened.is_empty() {
            self.unopened.remove(&process);
        } else if self
            .unopened(process)
            .is_none_or(|known| known[..] != unopened[..])
        {
            self.unopened.insert(process, unopened.into());
        }
    }

    /// Forgets a process that has ended, or replaced its program.
    pub fn forget(&mut self, process: ProcessId) {
        self.processes.remove(&process);
        self.unopened.remove(&process);
    }

    /// The files with code that a process has mapped and that could not be opened; `None` without
    /// any.
    #[must_use]
    pub fn unopened(&self, process: ProcessId) -> Option<&Unopened> {
        self.unopened.get(&process)
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

/// The files with code in these mappings that could not be opened.
fn unopened(space: &AddressSpace) -> Vec<UnopenedFile> {
    if let Some(pid) = space.is_not_permitted() {
        return vec![UnopenedFile {
            path: format!("/proc/{pid}/maps"),
            why: errno_in_words(libc::EACCES),
        }];
    }
    let mut files = Vec::new();
    for module in space.code().filter_map(|mapping| mapping.module()) {
        let Some(why) = module.why_not_known() else {
            continue;
        };
        let file = UnopenedFile {
            path: module.path().to_string(),
            why,
        };
        if files.len() < MAX_UNOPENED && !files.contains(&file) {
            files.push(file);
        }
    }
    files
}
