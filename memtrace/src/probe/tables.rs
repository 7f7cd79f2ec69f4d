//! The tables that the loader shares with the BPF side.

use anyhow::{Result, bail};
use aya::Ebpf;
use aya::maps::Map;
use memtrace_common::interpreter::{MAX_INTERPRETERS, python};
use memtrace_common::process::{MAX_PROCESSES, ProcessSlot};
use memtrace_common::unwind::{MAPPINGS_LEN, MAX_RULES, Mapping, Row, Rule};

use super::shared::{Shared, SharedArray};

/// The kernel side's tables, which the loader reads and fills in. A clone refers to the same
/// tables.
#[derive(Clone)]
pub struct Tables {
    /// The traced processes.
    pub processes: SharedArray<ProcessSlot>,
    /// How each CPython is laid out, by the index in a process's handle.
    pub pythons: SharedArray<python::Layout>,
    /// Rows of the unwind tables of all files.
    pub rows: SharedArray<Row>,
    /// Rules that do not fit in a row.
    pub rules: SharedArray<Rule>,
    /// Sets of mappings.
    pub mappings: SharedArray<Mapping>,
}

impl Tables {
    /// The tables of a loaded object, with room for `rows` rows.
    pub(super) fn of(ebpf: &Ebpf, rows: u32) -> Result<Self> {
        Ok(Self {
            processes: array(ebpf, "PROCESSES", MAX_PROCESSES as usize)?,
            pythons: array(ebpf, "PYTHONS", MAX_INTERPRETERS as usize)?,
            rows: array(ebpf, "ROWS", rows as usize)?,
            rules: array(ebpf, "RULES", MAX_RULES as usize)?,
            mappings: array(ebpf, "MAPPINGS", MAPPINGS_LEN as usize)?,
        })
    }

    /// Tables that no BPF program knows of, for tests: all zero, with room for `rows` rows.
    #[cfg(test)]
    pub fn in_memory(rows: u32) -> Self {
        let room = "there is memory for the tables";
        Self {
            processes: SharedArray::in_memory(MAX_PROCESSES as usize).expect(room),
            pythons: SharedArray::in_memory(MAX_INTERPRETERS as usize).expect(room),
            rows: SharedArray::in_memory(rows as usize).expect(room),
            rules: SharedArray::in_memory(MAX_RULES as usize).expect(room),
            mappings: SharedArray::in_memory(MAPPINGS_LEN as usize).expect(room),
        }
    }
}

/// A memory-mapped array of the object.
pub(super) fn array<T: Shared>(ebpf: &Ebpf, name: &str, len: usize) -> Result<SharedArray<T>> {
    match ebpf.map(name) {
        Some(Map::Array(map)) => SharedArray::new(map, len),
        _ => bail!("the BPF object has no array `{name}`"),
    }
}
