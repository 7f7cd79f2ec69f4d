//! Which mappings a process has: as they were last read, and now.

use std::time::{Duration, Instant};

use super::{ProcessId, Processes};
use crate::process::maps::AddressSpace;
use crate::process::uses::Used;

/// A process's mappings are read again for an address that they do not have, but not sooner than
/// this after the last time, and after twice as long each time that it did not help, since the
/// address may not be code at all.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause before mappings are read again.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// Number of a mapping snapshot: processes with the same number have the same code at the same
/// addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SpaceId {
    /// A snapshot, by order of reading.
    Snapshot(usize),
    /// The mappings of this process could not be read.
    Unread(ProcessId),
}

impl Processes {
    /// A process's mappings as they were last read.
    #[must_use]
    pub fn known_space(&self, id: ProcessId) -> Option<AddressSpace> {
        self.space_ref(id).cloned()
    }

    /// [`Processes::known_space`], without a copy.
    #[must_use]
    pub fn space_ref(&self, id: ProcessId) -> Option<&AddressSpace> {
        let process = self.live.get(&id)?;
        process.space.as_ref().map(|(_, space)| space)
    }

    /// The present mappings of a process that need not be traced.
    pub fn space_of(&mut self, pid: u32) -> Option<AddressSpace> {
        AddressSpace::read(pid, &mut self.modules).ok()
    }

    /// Which snapshot of mappings a process has.
    #[must_use]
    pub fn space_id(&self, id: ProcessId) -> SpaceId {
        let space = self.live.get(&id).and_then(|known| known.space.as_ref());
        space.map_or(SpaceId::Unread(id), |(space_id, _)| *space_id)
    }

    /// Mappings of a process in which all `addresses` are known, as far as possible: they are read
    /// again when one is not, from the process, or after its end from the nearest living ancestor
    /// of the same program. `None` when they could never be read.
    pub fn space(&mut self, id: ProcessId, addresses: &[u64]) -> Option<AddressSpace> {
        let missing = |space: &AddressSpace| {
            addresses
                .iter()
                .any(|&address| space.find(address).is_none())
        };
        if self.space_ref(id).is_none_or(missing) {
            self.refresh(id);
            if !self.space_ref(id).is_none_or(missing)
                && let Some(process) = self.live.get_mut(&id)
            {
                process.refresh.1 = FIRST_PAUSE;
            }
        }
        self.known_space(id)
    }

    pub(super) fn refresh(&mut self, id: ProcessId) {
        let Some(process) = self.live.get_mut(&id) else {
            return;
        };
        let now = Instant::now();
        let (due, pause) = process.refresh;
        if now < due {
            return;
        }
        process.refresh = (now + pause, (2 * pause).min(LONGEST_PAUSE));
        let mut next = Some(id);
        let mut not_permitted = None;
        while let Some(source) = next {
            match self.present_space(source) {
                // An ancestor's may be, which the process has from it.
                Some(space) if space.is_not_permitted().is_some() => {
                    not_permitted.get_or_insert(space);
                }
                Some(space) => return self.take_space(id, space),
                None => {}
            }
            next = self.parent(source);
        }
        if let Some(space) = not_permitted {
            self.take_space(id, space);
        }
    }

    /// Keeps mappings that were read of a process, if they are new and of its program.
    fn take_space(&mut self, id: ProcessId, space: AddressSpace) {
        let known = self.space_ref(id);
        // What belongs to another program is worse than nothing. A new number would make all stacks
        // new.
        if known.is_none_or(|known| known.is_of_program(&space) && !known.is_same(&space)) {
            self.replace_space(id, space);
        }
    }

    /// Keeps mappings of a process that were just read, if they have all code that is known of it,
    /// and more: when its stacks are named, it may have ended, and nobody can tell any more.
    pub fn code_came(&mut self, id: ProcessId, space: &AddressSpace) {
        let known = self.space_ref(id);
        if !space.is_gone() && known.is_none_or(|known| space.has_more_code(known)) {
            self.replace_space(id, space.clone());
        }
    }

    fn replace_space(&mut self, id: ProcessId, space: AddressSpace) {
        let number = SpaceId::Snapshot(self.snapshots);
        self.snapshots += 1;
        self.set_space(id, Some((number, space)));
        self.remapped.push(id);
    }

    /// A process's mappings at this moment; `None` when it does not have any, or does not run the
    /// program any more that its records so far are about. They are not kept for its stacks; see
    /// [`Processes::code_came`].
    pub fn present_space(&mut self, id: ProcessId) -> Option<AddressSpace> {
        let pid = self.live.get(&id)?.facts.pid;
        if !self.is_current(id) {
            return None;
        }
        let space = AddressSpace::read(pid, &mut self.modules).ok()?;
        if space.is_not_permitted().is_some() && self.space_ref(id).is_some() {
            return None;
        }
        // The kernel gives a process its new memory shortly before it says so.
        let is_known = |known: &AddressSpace| known.is_of_program(&space);
        (self.is_current(id) && self.space_ref(id).is_none_or(is_known)).then_some(space)
    }

    /// Whether a process has not replaced its program since the last record of it that was handled.
    #[must_use]
    pub fn is_current(&self, id: ProcessId) -> bool {
        let Some(process) = self.live.get(&id) else {
            return false;
        };
        let now = self
            .table
            .as_ref()
            .map(|table| table.generation(process.slot));
        now.is_none_or(|now| now == Some(process.execs))
    }

    pub(super) fn set_space(&mut self, id: ProcessId, space: Option<(SpaceId, AddressSpace)>) {
        let Some(process) = self.live.get_mut(&id) else {
            return;
        };
        let new = space.as_ref().map(|(number, _)| *number);
        let old = std::mem::replace(&mut process.space, space).map(|(number, _)| number);
        if let Some(new) = new {
            self.uses.add(Used::Space(new));
        }
        if let Some(old) = old {
            self.uses.remove(Used::Space(old));
        }
    }
}
