//! Reading a traced process's memory.

use std::cell::OnceCell;
use std::fs::File;
use std::os::unix::fs::FileExt as _;

/// Memory that can be read at addresses of a process. Implementations read from the process, from
/// a relative that has the same memory, or from a test's bytes.
pub trait ReadMemory {
    /// Fills `buffer` with what is at `address`; false when not all of it could be read.
    #[must_use]
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool;

    /// The little-endian word at `address`.
    fn word(&self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)
            .then(|| u64::from_le_bytes(bytes))
    }

    /// The little-endian `u32` at `address`.
    fn half(&self, address: u64) -> Option<u32> {
        let mut bytes = [0; 4];
        self.read(address, &mut bytes)
            .then(|| u32::from_le_bytes(bytes))
    }

    /// Up to `most` bytes at `address`, up to the first NUL, without it; `None` when they could
    /// not be read.
    fn c_string(&self, address: u64, most: usize) -> Option<Vec<u8>> {
        const PIECE: usize = 64;
        let mut text = Vec::new();
        while text.len() < most {
            let at = address.checked_add(text.len() as u64)?;
            // Pieces do not cross a multiple of their size: what is behind it may not be there.
            let piece = (PIECE - at as usize % PIECE).min(most - text.len());
            let start = text.len();
            text.resize(start + piece, 0);
            if !self.read(at, &mut text[start..]) {
                return None;
            }
            if let Some(end) = text[start..].iter().position(|&byte| byte == 0) {
                text.truncate(start + end);
                return Some(text);
            }
        }
        Some(text)
    }
}

/// A live process.
///
/// It is read through /proc/PID/mem and not by `process_vm_readv`, which pins pages: since Linux
/// 5.19 a page that is shared since a fork is copied for the process when it is pinned, so looking
/// would cause what is looked for. A page that is not there yet may be brought in, as if the
/// process had read it; nothing is written, and the process is not stopped.
#[derive(Debug)]
pub struct ProcessMemory {
    pid: u32,
    /// `None` when it could not be opened: the process has gone.
    file: OnceCell<Option<File>>,
}

impl ProcessMemory {
    /// The memory of `pid`.
    #[must_use]
    pub fn new(pid: u32) -> Self {
        Self {
            pid,
            file: OnceCell::new(),
        }
    }

    fn file(&self) -> Option<&File> {
        let open = || File::open(format!("/proc/{}/mem", self.pid)).ok();
        self.file.get_or_init(open).as_ref()
    }
}

impl ReadMemory for ProcessMemory {
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
        self.file()
            .is_some_and(|file| file.read_exact_at(buffer, address).is_ok())
    }
}

/// Memory of a process that may have ended: read from the first of its relatives that has it.
///
/// A relative may have written since the fork, so whoever reads must check what it gets.
#[derive(Debug)]
pub struct RelativesMemory {
    relatives: Vec<ProcessMemory>,
}

impl RelativesMemory {
    /// The memory of `pids`, the best first.
    #[must_use]
    pub fn new(pids: impl IntoIterator<Item = u32>) -> Self {
        Self {
            relatives: pids.into_iter().map(ProcessMemory::new).collect(),
        }
    }
}

impl ReadMemory for RelativesMemory {
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
        let mut relatives = self.relatives.iter();
        relatives.any(|relative| relative.read(address, buffer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_reads_its_own_memory() {
        let words = [7u64, 9];
        let memory = ProcessMemory::new(std::process::id());
        let address = words.as_ptr() as u64;
        assert_eq!(memory.word(address + 8), Some(9));
        assert_eq!(memory.half(address), Some(7));
        assert_eq!(memory.word(8), None);
    }

    #[test]
    fn a_c_string_ends_at_nul_or_at_the_bound() {
        let text =
            b"a name that is longer than a piece of sixty-four bytes, so that two are read\0";
        let memory = ProcessMemory::new(std::process::id());
        let address = text.as_ptr() as u64;
        let expected = &text[..text.len() - 1];
        assert_eq!(memory.c_string(address, 200).as_deref(), Some(expected));
        assert_eq!(memory.c_string(address, 6).as_deref(), Some(&b"a name"[..]));
    }
}
