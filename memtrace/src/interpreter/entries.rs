//! The entries of the BPF side's tables of interpreters: one table for each kind, and in it one
//! entry for each interpreter, which the processes that were forked from one another share.
//!
//! An entry whose last user has ended is only given to another interpreter when the table is full:
//! records that are still to be read may name it.

use std::collections::BTreeMap;
use std::sync::Arc;

use memtrace_common::interpreter::{Handle, Kind, MAX_INTERPRETERS};

use super::Instance;
use crate::probe::Tables;

/// Tells interpreters apart, also those that had the same entry one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InstanceId(u32);

/// An interpreter that has an entry.
#[derive(Clone, Debug)]
pub struct Interpreter {
    /// Its number.
    pub(super) id: InstanceId,
    /// Where and what it is.
    pub instance: Arc<dyn Instance>,
}

/// All entries of all kinds.
pub struct Entries {
    tables: Tables,
    kinds: BTreeMap<Kind, OfKind>,
    next: InstanceId,
}

/// The entries of one kind.
#[derive(Default)]
struct OfKind {
    entries: Vec<Entry>,
    /// Whether there was no room for one.
    was_full: bool,
}

/// An entry of a table.
struct Entry {
    interpreter: Interpreter,
    /// Live processes that have it.
    users: usize,
}

/// There is no room for another interpreter of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    /// Whether this is the first one that there is no room for.
    pub is_first: bool,
}

impl Entries {
    /// None yet.
    pub fn new(tables: Tables) -> Self {
        Self {
            tables,
            kinds: BTreeMap::new(),
            next: InstanceId(0),
        }
    }

    /// The interpreter that a handle names.
    pub fn get(&self, handle: Handle) -> Option<&Interpreter> {
        let kind = self.kinds.get(&handle.kind()?)?;
        let entry = kind.entries.get(handle.index() as usize)?;
        Some(&entry.interpreter)
    }

    /// Finds an entry for an interpreter: `parents` where that is the same one, else a new one,
    /// which is written. (Not that of any other process: at equal addresses they can have
    /// different functions.) That alone makes nobody a user of it.
    pub fn find_or_add(
        &mut self,
        instance: Arc<dyn Instance>,
        parents: Option<Handle>,
    ) -> Result<Handle, Full> {
        let is_same = |&parents: &Handle| {
            self.get(parents)
                .is_some_and(|known| known.instance.same_as(&*instance))
        };
        if let Some(parents) = parents.filter(is_same) {
            return Ok(parents);
        }
        let kind = instance.kind();
        let of_kind = self.kinds.entry(kind).or_default();
        let index = of_kind.unused().ok_or_else(|| Full {
            is_first: !std::mem::replace(&mut of_kind.was_full, true),
        })?;
        instance.write(&self.tables, index as u32);
        let id = self.next;
        self.next.0 += 1;
        let interpreter = Interpreter { id, instance };
        let entry = Entry {
            interpreter,
            users: 0,
        };
        if index == of_kind.entries.len() {
            of_kind.entries.push(entry);
        } else {
            of_kind.entries[index] = entry;
        }
        Ok(Handle::new(kind, index as u32))
    }

    /// One more live process has the entry.
    pub fn add_user(&mut self, handle: Handle) {
        if let Some(entry) = self.entry(handle) {
            entry.users += 1;
        }
    }

    /// A process that had the entry does not have it any more. Returns the interpreter when no
    /// process has it.
    pub fn remove_user(&mut self, handle: Handle) -> Option<InstanceId> {
        let entry = self.entry(handle)?;
        entry.users = entry.users.saturating_sub(1);
        (entry.users == 0).then_some(entry.interpreter.id)
    }

    fn entry(&mut self, handle: Handle) -> Option<&mut Entry> {
        let kind = self.kinds.get_mut(&handle.kind()?)?;
        kind.entries.get_mut(handle.index() as usize)
    }
}

impl OfKind {
    /// An index that may be written: the next one, or when there is none an entry without users.
    fn unused(&self) -> Option<usize> {
        if self.entries.len() < MAX_INTERPRETERS as usize {
            return Some(self.entries.len());
        }
        self.entries.iter().position(|entry| entry.users == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::toy::Toy;
    use super::*;

    fn entries() -> (Entries, Tables) {
        let tables = Tables::in_memory(1);
        (Entries::new(tables.clone()), tables)
    }

    fn toy(address: u64) -> Arc<dyn Instance> {
        Arc::new(Toy { address })
    }

    /// What the BPF side would find under a handle.
    fn written(tables: &Tables, handle: Handle) -> u64 {
        tables
            .pythons
            .read(handle.index() as usize)
            .unwrap()
            .runtime
    }

    #[test]
    fn an_entry_is_written_before_its_handle_is_given_away() {
        let (mut entries, tables) = entries();
        for address in [7, 8] {
            let handle = entries.find_or_add(toy(address), None).unwrap();
            assert_ne!(handle, Handle::NONE);
            assert_eq!(handle.kind(), Some(toy(address).kind()));
            assert_eq!(written(&tables, handle), address);
        }
        assert!(entries.get(Handle::NONE).is_none());
    }

    #[test]
    fn only_the_parents_entry_is_shared() {
        let (mut entries, _) = entries();
        let first = entries.find_or_add(toy(7), None).unwrap();
        assert_eq!(entries.find_or_add(toy(7), Some(first)), Ok(first));
        let stranger = entries.find_or_add(toy(7), None).unwrap();
        assert_ne!(stranger, first);
        let other = entries.find_or_add(toy(8), Some(first)).unwrap();
        assert_ne!(other, first);
        let ids = [first, stranger, other].map(|handle| entries.get(handle).unwrap().id);
        assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2]);
    }

    #[test]
    fn a_full_table_says_so_once_and_entries_are_reused_after_their_last_user() {
        let (mut entries, tables) = entries();
        let handles: Vec<_> = (0..MAX_INTERPRETERS)
            .map(|address| {
                let handle = entries.find_or_add(toy(address.into()), None).unwrap();
                entries.add_user(handle);
                handle
            })
            .collect();
        let full = |is_first| Err(Full { is_first });
        assert_eq!(entries.find_or_add(toy(1 << 20), None), full(true));
        assert_eq!(entries.find_or_add(toy(1 << 20), None), full(false));
        let shared = handles[5];
        assert_eq!(entries.find_or_add(toy(5), Some(shared)), Ok(shared));
        entries.add_user(shared);
        entries.remove_user(shared);
        assert_eq!(entries.find_or_add(toy(1 << 20), None), full(false));
        let before = entries.get(shared).unwrap().id;
        entries.remove_user(shared);
        assert_eq!(entries.find_or_add(toy(1 << 20), None), Ok(shared));
        assert_eq!(written(&tables, shared), 1 << 20);
        assert_ne!(entries.get(shared).unwrap().id, before);
    }

    #[test]
    fn an_entry_without_users_is_kept_while_there_is_room() {
        let (mut entries, tables) = entries();
        let first = entries.find_or_add(toy(7), None).unwrap();
        entries.add_user(first);
        entries.remove_user(first);
        let second = entries.find_or_add(toy(8), None).unwrap();
        assert_ne!(second, first, "a record that names the first may be unread");
        assert_eq!(written(&tables, first), 7);
    }
}
