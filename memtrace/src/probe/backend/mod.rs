//! Ways to see copies. Each is one file here and one on the BPF side, and one line in [`ALL`].

pub mod tracepoint;

use anyhow::Result;
use aya::{Btf, Ebpf};

use super::btf::KernelTypes;
use crate::preflight::{Facts, Problem};
use crate::profile::BackendName;

/// A way to see copies: which kernel events it uses, what it needs, and what it cannot see.
pub trait Backend: Sync {
    /// Its name.
    fn name(&self) -> BackendName;

    /// What it needs and this machine lacks; empty when it can be used.
    fn missing(&self, facts: &Facts) -> Vec<Problem>;

    /// What it can tell apart that others cannot.
    fn sees(&self) -> Sees;

    /// Copies that it cannot see or cannot tell apart; a clause each, for the report.
    fn blind_spots(&self) -> &'static [&'static str];

    /// Checks that its programs are right for this kernel.
    ///
    /// # Errors
    /// When they would count wrongly.
    fn check_kernel(&self, kernel: &KernelTypes) -> Result<()>;

    /// Loads and attaches the programs that see faults. Nothing is traced yet.
    ///
    /// # Errors
    /// When the kernel refuses one.
    fn attach(&self, ebpf: &mut Ebpf, btf: &Btf) -> Result<()>;
}

/// What a backend can tell apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sees {
    /// Huge mappings that a write splits.
    pub split: bool,
}

/// All backends, the best first.
pub const ALL: &[&'static dyn Backend] = &[&tracepoint::Tracepoint];
