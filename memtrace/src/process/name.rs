//! What a process is called.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use crate::foreign::without_padding;

/// Bytes of /proc/PID/cmdline that are kept.
const MAX_CMDLINE: u64 = 4096;

/// What a process is called.
#[derive(Clone, Debug, Default)]
pub struct Name {
    /// Its name, as the kernel has it.
    pub comm: Vec<u8>,
    /// Its arguments, shared with the parent until an exec.
    pub cmdline: Arc<[Vec<u8>]>,
    /// What it was called as the programs that it ran before, the first one first.
    pub before: Vec<Vec<u8>>,
}

impl Name {
    /// What process `pid` is called now, as far as it can be read.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        let comm = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
        Self {
            comm: comm.strip_suffix(b"\n").unwrap_or(&comm).to_vec(),
            cmdline: read_cmdline(pid),
            before: Vec::new(),
        }
    }

    /// Takes over what `now` has: what could not be read stays.
    pub fn update(&mut self, now: Self) {
        // Equal ones stay those that are shared with the parent.
        if !now.cmdline.is_empty() && now.cmdline != self.cmdline {
            self.cmdline = now.cmdline;
        }
        if !now.comm.is_empty() {
            self.comm = now.comm;
        }
    }
}

/// The arguments of process `pid`; empty when they cannot be read.
#[must_use]
pub fn read_cmdline(pid: u32) -> Arc<[Vec<u8>]> {
    read_cmdline_below(Path::new("/proc"), pid)
}

/// The same, where `proc` stands for /proc.
#[must_use]
pub fn read_cmdline_below(proc: &Path, pid: u32) -> Arc<[Vec<u8>]> {
    let mut bytes = Vec::new();
    if let Ok(file) = fs::File::open(proc.join(pid.to_string()).join("cmdline")) {
        // What was read before an error is as good as it gets.
        let _ = file.take(MAX_CMDLINE).read_to_end(&mut bytes);
    }
    let bytes = without_padding(&bytes);
    if bytes.is_empty() {
        return Arc::default();
    }
    bytes.split(|&byte| byte == 0).map(<[u8]>::to_vec).collect()
}

/// The file of the program that process `pid` runs; `None` when it may not be known.
#[must_use]
pub fn program_of(pid: u32) -> Option<Arc<Path>> {
    let path = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    Some(path.into())
}

/// A name as the kernel keeps it, without the zeroes at its end.
#[must_use]
pub fn until_nul(bytes: &[u8]) -> Vec<u8> {
    bytes
        .split(|&byte| byte == 0)
        .next()
        .unwrap_or_default()
        .to_vec()
}
