//! Every map that is not a matter of one module alone, its size and why.
//!
//! The others are the table of threads, see [`thread`](crate::thread), and the room of each CPU,
//! see [`scratch`](crate::scratch).

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, RingBuf};
use aya_ebpf::macros::btf_map;
use memtrace_common::interpreter::MAX_INTERPRETERS;
use memtrace_common::interpreter::python::Layout;
use memtrace_common::process::{Health, MAX_PROCESSES, ProcessSlot, Search};
use memtrace_common::unwind::{MAPPINGS_LEN, MAX_RULES, Mapping, PackedRow, Rule};

/// The traced processes. Memory-mapped by the loader, so that reading it costs no system call.
#[btf_map]
pub static PROCESSES: Array<ProcessSlot, { MAX_PROCESSES as usize }, { BPF_F_MMAPABLE as usize }> =
    Array::new();

/// What went wrong; see [`Health`]. Memory-mapped.
#[btf_map]
pub static HEALTH: Array<Health, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Records for the loader, which sets the size: see its `probe` module.
#[btf_map]
pub static EVENTS: RingBuf<u8, { 1 << 20 }> = RingBuf::new();

/// Pids that the user named: as many as can be traced. Written by the loader before it looks for
/// processes.
#[btf_map]
pub static ROOTS: HashMap<u32, u32, { MAX_PROCESSES as usize }, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// Where the search for free process slots goes on.
#[btf_map]
pub static NEXT_SLOT: Array<u64, 1> = Array::new();

/// What [`lineage::visit`](crate::lineage::visit) has come to so far. Memory-mapped.
#[btf_map]
pub static SEARCH: Array<Search, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Stacks that the loader has been sent. An old one may be forgotten; it is then sent again.
#[btf_map]
pub static STACKS_SENT: LruHashMap<u64, u8, 65_536> = LruHashMap::new();

/// How each CPython in traced processes is laid out. Memory-mapped; written by the loader.
#[btf_map]
pub static PYTHONS: Array<Layout, { MAX_INTERPRETERS as usize }, { BPF_F_MMAPABLE as usize }> =
    Array::new();

/// Functions that the loader has been sent, by interpreter and address, each with its fingerprint.
/// An old one may be forgotten; it is then sent again.
#[btf_map]
pub static FUNCTIONS_SENT: LruHashMap<u64, u64, 65_536> = LruHashMap::new();

/// Types that have been seen, by interpreter and address. The loader is woken for a new one, to
/// read its name while the process lives.
#[btf_map]
pub static TYPES_SEEN: LruHashMap<u64, u8, 16_384> = LruHashMap::new();

/// Rows of all unwind tables. Memory-mapped; written by the loader, which also sets the size.
#[btf_map]
pub static ROWS: Array<PackedRow, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Rules that do not fit in a row, of all unwind tables. Memory-mapped; written by the loader.
#[btf_map]
pub static RULES: Array<Rule, { MAX_RULES as usize }, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Sets of mappings. Memory-mapped; written by the loader.
#[btf_map]
pub static MAPPINGS: Array<Mapping, { MAPPINGS_LEN as usize }, { BPF_F_MMAPABLE as usize }> =
    Array::new();
