//! What a write was, where the kernel side has not decided it.
//!
//! The kernel side looks at the memory of CPython's objects at the moment of the fault
//! ([`Evidence`]), and knows when the kernel itself wrote. Everything else is decided by these, in
//! this order:
//!
//! 1. **who wrote**: the functions of allocators write their own bookkeeping ([`allocators`] has those
//!    without a name), those of a runtime's
//!    collector mark and sweep, and a few do nothing but count references ([`collector`]);
//! 2. **how**: an instruction that adds or subtracts one in place is taken to maintain a reference
//!    count. Counters of other things are false positives; those of locks and on stacks are told
//!    apart;
//! 3. **where**: what is left is data of whatever is mapped there.
//!
//! So a cause is unknown only when the fault's record is incomplete, or neither its instruction nor
//! its mapping could be read.

mod allocators;
mod calls;
mod collector;
pub mod instruction;

use std::fmt;
use std::time::Duration;

use memtrace_common::record::{Cause, Evidence};

pub use self::allocators::Allocators;
pub use self::collector::Collectors;
pub use self::instruction::{Instructions, Write};
#[cfg(test)]
use crate::interpreter::runtimes::Runtime;
use crate::process::inspector::{Answerer, Kind};
#[cfg(test)]
use crate::process::inspector::{Asked, Inspector};
use crate::process::maps::{AddressSpace, MappingKind};
use crate::profile::{CauseEvidence, Frame, Language, Unknown};
use crate::symbolize::leaving::Leaving;
use crate::symbolize::role::{Role, counts_references, role};

/// The process that looks for the functions of collectors and allocators, which takes more memory than
/// naming functions does. Few traces need it.
pub const INSPECTOR: Kind = Kind {
    argument: "__code",
    what: "looks into the code of files",
    without: "what collectors and allocators without names write is not told",
    data: 320 << 20,
    descriptors: 0,
    patience: Duration::from_secs(6),
    most: 1 << 20,
};

/// What answers the questions that are asked here.
#[must_use]
pub fn answerers() -> [Answerer; 4] {
    [
        instruction::answerer(),
        calls::answerer(),
        collector::answerer(),
        allocators::answerer(),
    ]
}

/// Asks every question that is asked here, about a program.
#[cfg(test)]
pub(crate) fn ask_everything(inspector: &mut Inspector, asked: Asked<'_>) {
    let pypy = std::iter::once(Runtime::PyPy).collect();
    let _ = inspector
        .ask(&instruction::Writes(vec![(0x1000, 15)]), &[asked])
        .unwrap();
    let _ = inspector.ask(&calls::Callee(0x1000), &[asked]).unwrap();
    let _ = inspector
        .ask(&collector::Functions(pypy), &[asked])
        .unwrap();
    let _ = inspector
        .ask(&allocators::AllocatorsCode, &[asked])
        .unwrap();
}

/// What is mapped at the address written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Area {
    /// Memory that `brk` manages.
    Heap,
    /// The main thread's stack.
    Stack,
    /// Memory without a file.
    Anonymous,
    /// A file, or data of the file that follows it in memory (`.bss`).
    FileData,
    /// Anything else that the kernel maps.
    Special,
    /// Nothing was when the mappings were last read: it has been mapped since.
    Unmapped,
    /// The mappings could not be read.
    Gone,
    /// They may not be read.
    NotPermitted,
}

impl Area {
    /// What is at `address`.
    #[must_use]
    pub fn of(space: &AddressSpace, address: u64) -> Self {
        if space.is_not_permitted().is_some() {
            return Self::NotPermitted;
        }
        if space.is_gone() {
            return Self::Gone;
        }
        let Some(mapping) = space.find(address) else {
            return Self::Unmapped;
        };
        match mapping.kind {
            MappingKind::Heap => Self::Heap,
            MappingKind::Stack => Self::Stack,
            MappingKind::File(_) | MappingKind::Vdso(_) => Self::FileData,
            MappingKind::Special(_) => Self::Special,
            MappingKind::Anonymous if space.file_at(address).is_some() => Self::FileData,
            MappingKind::Anonymous => Self::Anonymous,
        }
    }
}

/// What the kernel side says about a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KernelView {
    /// The cause, as far as the kernel side decided it.
    pub cause: Cause,
    /// What it saw in memory.
    pub evidence: Evidence,
}

/// What a write was, and how that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Verdict {
    /// The cause.
    pub cause: Cause,
    /// What that was concluded from; `None` when it is unknown.
    pub evidence: Option<CauseEvidence>,
    /// Why it is unknown; `None` when it is not.
    pub why: Option<WhyUnknown>,
}

/// Why a cause is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WhyUnknown {
    /// The end of the fault was not seen.
    NoEnd,
    /// The process was gone before its mappings could be read.
    Gone,
    /// The mappings of the process may not be read.
    NotPermitted,
    /// Neither the instruction nor what it wrote to is in a mapping that is known.
    Nowhere,
}

impl fmt::Display for WhyUnknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoEnd => "the end of the fault was not seen",
            Self::Gone => "the process had gone before its mappings were read",
            Self::NotPermitted => "the mappings of the process may not be read",
            Self::Nowhere => "the code that wrote, and what it wrote to, are in no known mapping",
        })
    }
}

impl Verdict {
    fn known(cause: Cause, evidence: CauseEvidence) -> Self {
        Self {
            cause,
            evidence: Some(evidence),
            why: None,
        }
    }

    fn unknown(why: WhyUnknown) -> Self {
        Self {
            cause: Cause::Unknown,
            evidence: None,
            why: Some(why),
        }
    }
}

/// Who wrote, and how, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Writer {
    /// What the instruction does.
    pub write: Write,
    /// What the function that wrote is there for.
    pub role: Role,
    /// Whether the end of the fault was not seen.
    pub no_end: bool,
    /// Whether the process was on its way out.
    pub leaves: Leaving,
}

impl Writer {
    /// What is written by an instruction that does `write`, on a stack with these frames, leaf
    /// first. `is_silent`: an interpreter was looked at, and had no frame.
    #[must_use]
    pub fn of(write: Write, frames: &[Frame], is_silent: bool) -> Self {
        Self {
            write,
            role: leaf_role(frames),
            no_end: frames
                .iter()
                .any(|frame| frame.unknown == Some(Unknown::NoEnd)),
            leaves: Leaving::of(frames, is_silent),
        }
    }

    /// As [`Collectors`] say by the same stack. An allocator that is called by a collector stays
    /// one.
    #[must_use]
    pub fn within(self, runtime: Option<Role>) -> Self {
        match (self.role, runtime) {
            (Role::Other | Role::String, Some(role)) => Self { role, ..self },
            _ => self,
        }
    }
}

/// Decides what a write was.
#[must_use]
pub fn judge(view: KernelView, area: Area, writer: Writer) -> Verdict {
    let Writer {
        write,
        role,
        no_end,
        leaves: _,
    } = writer;
    match view.cause {
        Cause::Unknown => {}
        Cause::Kernel | Cause::Remote => {
            return Verdict::known(view.cause, CauseEvidence::Kernel);
        }
        decided => return Verdict::known(decided, CauseEvidence::Structure),
    }
    if no_end {
        return Verdict::unknown(WhyUnknown::NoEnd);
    }
    let on_stack = area == Area::Stack || write == Write::Push;
    if role == Role::Allocator && !on_stack {
        return Verdict::known(Cause::Allocator, CauseEvidence::Function);
    }
    if role == Role::Collector && !on_stack {
        return Verdict::known(Cause::Gc, CauseEvidence::Function);
    }
    if role == Role::Count && !on_stack {
        return Verdict::known(Cause::Refcount, CauseEvidence::Function);
    }
    let counts = matches!(write, Write::Count | Write::CountAtomic);
    if counts && !on_stack && role == Role::Other {
        return Verdict::known(Cause::Refcount, CauseEvidence::Instruction);
    }
    if view.evidence == Evidence::Block {
        return Verdict::known(Cause::Data, CauseEvidence::Structure);
    }
    match (area, write) {
        (Area::Gone, Write::Unreadable) => Verdict::unknown(WhyUnknown::Gone),
        (Area::NotPermitted, Write::Unreadable) => Verdict::unknown(WhyUnknown::NotPermitted),
        (Area::Unmapped, Write::Unreadable) => Verdict::unknown(WhyUnknown::Nowhere),
        (Area::Gone | Area::NotPermitted | Area::Unmapped, _) => {
            Verdict::known(Cause::Data, CauseEvidence::Instruction)
        }
        _ => Verdict::known(Cause::Data, CauseEvidence::Mapping),
    }
}

/// What the function that wrote is for. A function without a name has its caller's role, if both
/// are in one module: the static functions of a stripped C library have no symbols.
fn leaf_role(frames: &[Frame]) -> Role {
    let mut inlined = frames.iter().take_while(|frame| frame.inlined);
    if inlined.any(|frame| counts_references(&frame.function)) {
        return Role::Count;
    }
    let mut native = frames
        .iter()
        .take_while(|frame| frame.language == Language::Native)
        // An inlined function is part of the one that it is in.
        .filter(|frame| !frame.inlined);
    let Some(leaf) = native.next() else {
        return Role::Other;
    };
    let own = role(leaf);
    if own != Role::Other || leaf.unknown != Some(Unknown::NoSymbol) {
        return own;
    }
    let caller = native.find(|frame| frame.unknown.is_none());
    let same = caller.filter(|caller| caller.module == leaf.module);
    same.map_or(Role::Other, role)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_inlined_to_count_references_says_so() {
        let inlined = |function| Frame {
            inlined: true,
            ..Frame::native(function, "/srv/shop")
        };
        let keep = || Frame::native("keep(std::vector<int>&)", "/srv/shop");
        for function in [
            "std::_Sp_counted_base<(__gnu_cxx::_Lock_policy)2>::_M_add_ref_copy()",
            "_M_add_ref_copy",
            "__gnu_cxx::__exchange_and_add_dispatch(int*, int)",
            "<alloc::sync::Arc<T,A> as core::clone::Clone>::clone",
            "Py_INCREF",
            "_Py_NewRef",
        ] {
            assert_eq!(
                leaf_role(&[inlined(function), keep()]),
                Role::Count,
                "{function}"
            );
            // A function of its own may do more.
            assert_eq!(
                leaf_role(&[Frame::native(function, "/srv/shop")]),
                Role::Other
            );
        }
        assert_eq!(leaf_role(&[inlined("hit"), keep()]), Role::Other);
    }

    fn unnamed(module: &str) -> Frame {
        Frame {
            unknown: Some(Unknown::NoSymbol),
            ..Frame::native("libc.so.6+0x123", module)
        }
    }

    const LIBC: &str = "/usr/lib/x86_64-linux-gnu/libc.so.6";
    const UNDECIDED: KernelView = KernelView {
        cause: Cause::Unknown,
        evidence: Evidence::Elsewhere,
    };

    fn judged(view: KernelView, area: Area, write: Write, frames: &[Frame]) -> Verdict {
        judge(view, area, Writer::of(write, frames, false))
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "a test gives its frames away"
    )]
    fn plain(area: Area, write: Write, frames: Vec<Frame>) -> (Cause, Option<CauseEvidence>) {
        let verdict = judged(UNDECIDED, area, write, &frames);
        assert_eq!(verdict.why.is_some(), verdict.cause == Cause::Unknown);
        (verdict.cause, verdict.evidence)
    }

    #[test]
    fn what_the_kernel_side_decided_is_final() {
        let free = || vec![Frame::native("free", LIBC)];
        for cause in [Cause::Refcount, Cause::Gc, Cause::Allocator, Cause::Object] {
            let view = KernelView {
                cause,
                evidence: Evidence::Refcount,
            };
            let verdict = judged(view, Area::Gone, Write::Unreadable, &free());
            let expected = Verdict::known(cause, CauseEvidence::Structure);
            assert_eq!(verdict, expected);
        }
        let kernel = KernelView {
            cause: Cause::Kernel,
            evidence: Evidence::None,
        };
        let verdict = judged(kernel, Area::Stack, Write::Other, &free());
        assert_eq!(
            verdict,
            Verdict::known(Cause::Kernel, CauseEvidence::Kernel)
        );
    }

    #[test]
    fn a_counter_in_place_is_a_reference_count() {
        let program = || vec![Frame::native("copy", "/srv/program")];
        let counted = (Cause::Refcount, Some(CauseEvidence::Instruction));
        for write in [Write::Count, Write::CountAtomic] {
            for area in [Area::Heap, Area::Anonymous, Area::FileData, Area::Unmapped] {
                assert_eq!(plain(area, write, program()), counted);
            }
            assert_eq!(plain(Area::Stack, write, program()).0, Cause::Data);
            let lock = vec![Frame::native("pthread_mutex_lock", LIBC)];
            assert_eq!(plain(Area::Heap, write, lock).0, Cause::Data);
        }
    }

    #[test]
    fn allocators_write_their_own() {
        let allocator = (Cause::Allocator, Some(CauseEvidence::Function));
        for function in [
            "malloc",
            "_int_free",
            "__libc_realloc",
            "unlink_chunk.isra.0",
        ] {
            let frames = vec![
                Frame::native(function, LIBC),
                Frame::native("main", "/srv/program"),
            ];
            assert_eq!(
                plain(Area::Heap, Write::Store, frames),
                allocator,
                "{function}"
            );
        }
        for function in [
            "_PyObject_Malloc",
            "pymalloc_free.isra.0",
            "PyMem_Free",
            "_PyObject_Free",
        ] {
            let frames = vec![Frame::native(function, "/usr/bin/python3.11")];
            assert_eq!(
                plain(Area::Anonymous, Write::Store, frames),
                allocator,
                "{function}"
            );
        }
        let stripped = vec![unnamed(LIBC), Frame::native("free", LIBC)];
        assert_eq!(plain(Area::Heap, Write::Store, stripped), allocator);
        let jemalloc = vec![unnamed("/usr/lib/libjemalloc.so.2")];
        assert_eq!(
            plain(Area::Anonymous, Write::Count, jemalloc).0,
            Cause::Allocator
        );
        // `malloc` saves its caller's registers.
        let frames = vec![Frame::native("malloc", LIBC)];
        assert_eq!(plain(Area::Stack, Write::Push, frames).0, Cause::Data);
    }

    #[test]
    fn collectors_write_for_themselves_unless_the_allocator_does() {
        let by = |frames: &[Frame], write, area, role| {
            let writer = Writer::of(write, frames, false).within(Some(role));
            let verdict = judge(UNDECIDED, area, writer);
            (verdict.cause, verdict.evidence)
        };
        let function = Some(CauseEvidence::Function);
        let mark = [Frame::native("gc_mark", "/usr/lib/libruby.so")];
        for write in [Write::Store, Write::Modify, Write::Count, Write::Block] {
            let judged = by(&mark, write, Area::Heap, Role::Collector);
            assert_eq!(judged, (Cause::Gc, function));
            let judged = by(&mark, write, Area::Heap, Role::Count);
            assert_eq!(judged, (Cause::Refcount, function));
        }
        let memset = [Frame::native("memset", LIBC)];
        let judged = by(&memset, Write::Block, Area::Heap, Role::Collector);
        assert_eq!(judged, (Cause::Gc, function));
        let free = [Frame::native("free", LIBC)];
        let judged = by(&free, Write::Store, Area::Heap, Role::Collector);
        assert_eq!(judged, (Cause::Allocator, function));
        for (area, write) in [(Area::Stack, Write::Store), (Area::Heap, Write::Push)] {
            let judged = by(&mark, write, area, Role::Collector);
            assert_eq!(judged.0, Cause::Data, "a stack");
        }
        // What the kernel side saw in memory comes first.
        let object = KernelView {
            cause: Cause::Object,
            evidence: Evidence::Elsewhere,
        };
        let writer = Writer::of(Write::Store, &mark, false).within(Some(Role::Collector));
        let expected = Verdict::known(Cause::Object, CauseEvidence::Structure);
        assert_eq!(judge(object, Area::Heap, writer), expected);
    }

    #[test]
    fn what_is_left_is_data() {
        let copy = vec![Frame::native("__memmove_avx_unaligned_erms", LIBC)];
        let mapped = (Cause::Data, Some(CauseEvidence::Mapping));
        assert_eq!(plain(Area::Heap, Write::Block, copy), mapped);
        assert_eq!(plain(Area::FileData, Write::Unreadable, vec![]), mapped);
        let program = || vec![Frame::native("f", "/srv/program")];
        let by_instruction = (Cause::Data, Some(CauseEvidence::Instruction));
        assert_eq!(
            plain(Area::Unmapped, Write::Store, program()),
            by_instruction
        );
        assert_eq!(plain(Area::Gone, Write::Store, program()), by_instruction);
        let block = KernelView {
            evidence: Evidence::Block,
            ..UNDECIDED
        };
        let verdict = judged(block, Area::Anonymous, Write::Store, &program());
        assert_eq!(
            verdict,
            Verdict::known(Cause::Data, CauseEvidence::Structure)
        );
    }

    #[test]
    fn an_unknown_cause_has_a_reason() {
        let why = |area, frames: &[Frame]| judged(UNDECIDED, area, Write::Unreadable, frames).why;
        assert_eq!(why(Area::Gone, &[]), Some(WhyUnknown::Gone));
        assert_eq!(why(Area::Unmapped, &[]), Some(WhyUnknown::Nowhere));
        let no_end = Frame {
            unknown: Some(Unknown::NoEnd),
            ..Frame::native("[unknown]", "")
        };
        assert_eq!(why(Area::Heap, &[no_end]), Some(WhyUnknown::NoEnd));
    }
}
