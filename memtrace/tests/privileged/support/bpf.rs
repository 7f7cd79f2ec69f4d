//! The BPF objects of a memtrace, and whether they are gone with it.

use std::collections::BTreeSet;

use super::eventually;

/// `bpf(2)` commands that list what is loaded, with the name of the number in /proc/PID/fdinfo.
const LISTS: [(libc::c_int, &str); 3] = [(11, "prog_id"), (12, "map_id"), (31, "link_id")];

/// The numbers of the BPF objects that a process has descriptors of, by sort.
#[derive(Debug)]
pub struct BpfObjects([BTreeSet<u32>; 3]);

impl BpfObjects {
    /// Those of a running process.
    pub fn held_by(pid: u32) -> Self {
        Self(LISTS.map(|(_, field)| ids_held_by(pid, field)))
    }

    /// Whether programs are among them.
    pub fn has_programs(&self) -> bool {
        !self.0[0].is_empty()
    }

    /// Waits until the kernel has freed all of them.
    pub fn are_freed(&self) {
        for ((command, field), held) in LISTS.into_iter().zip(&self.0) {
            eventually(&format!("the kernel frees {field} {held:?}"), || {
                held.is_disjoint(&ids_in_kernel(command)).then_some(())
            });
        }
    }
}

/// The numbers of BPF objects that a process has descriptors of.
fn ids_held_by(pid: u32, field: &str) -> BTreeSet<u32> {
    // A process that has ended has none.
    std::fs::read_dir(format!("/proc/{pid}/fdinfo"))
        .into_iter()
        .flatten()
        .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok())
        .filter_map(|text| {
            let number = text
                .lines()
                .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
            number?.trim().parse().ok()
        })
        .collect()
}

/// The numbers of all BPF objects of one sort.
fn ids_in_kernel(command: libc::c_int) -> BTreeSet<u32> {
    let mut ids = BTreeSet::new();
    // start_id, next_id, open_flags.
    let mut attribute = [0_u32; 4];
    loop {
        // SAFETY: the attribute is as long as stated, and the call only writes next_id.
        let found = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                command,
                attribute.as_mut_ptr(),
                size_of_val(&attribute),
            )
        };
        if found < 0 {
            return ids;
        }
        ids.insert(attribute[1]);
        attribute[0] = attribute[1];
    }
}
