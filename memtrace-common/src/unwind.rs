//! Unwind tables: for each instruction of a mapped file, where its caller's registers are.
//!
//! A file's [`Row`]s lie behind one another in one table for all files, sorted by address; a row
//! holds from its own address up to the next row's. An address space is a set of [`Mapping`]s,
//! sorted by address, in one table for all address spaces; a process's slot names its set by a
//! [`SetHandle`]. The loader writes all of it; the BPF side only reads.
//!
//! Registers go by what they are for and not by an architecture's numbers: *stack pointer*, *frame
//! pointer*, *return address*, and one *other* register by which the C library's dynamic linker
//! finds its frame where it aligns the stack (`rbx` on x86-64). The *canonical frame address* (CFA)
//! is what the stack pointer will be in the caller. On x86-64 the return address always lies right
//! below it.

use crate::assert_layout;

/// The most rows of one file; the search for one takes as many steps as its binary logarithm.
pub const MAX_ROWS: u32 = 1 << 23;

/// The most mappings of one set.
pub const MAX_MAPPINGS: u32 = 4096;

/// Mappings of all sets together.
pub const MAPPINGS_LEN: u32 = 1 << 16;

/// The most rules that do not fit in a row, of all files together.
pub const MAX_RULES: u32 = 8192;

/// How the caller's registers are found at the instructions from [`Row::pc`] on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C, align(8))]
pub struct Row {
    /// Address in the file's own numbering, less [`Mapping::bias`]'s base: see there.
    pub pc: u32,
    /// A `CFA_*` kind in the lower three bits; the others are its argument, most often an offset
    /// in bytes, which is a multiple of 8.
    pub cfa: u16,
    /// Where the caller's frame pointer is: [`FP_SAME`], [`FP_LOST`], or in memory at this offset
    /// from the CFA, a multiple of 8. And [`OTHER_SAME`].
    pub fp: i16,
}
assert_layout!(Row, size = 8);

impl Row {
    /// The row as one word, which is how it lies in memory.
    #[must_use]
    pub const fn packed(self) -> PackedRow {
        PackedRow(self.pc as u64 | (self.cfa as u64) << 32 | (self.fp as u16 as u64) << 48)
    }
}

/// A [`Row`] as the BPF side reads it: in one piece, and decoded in a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct PackedRow(pub u64);

impl PackedRow {
    /// [`Row::pc`].
    #[must_use]
    #[inline(always)]
    pub const fn pc(self) -> u64 {
        self.0 & 0xffff_ffff
    }

    /// The kind in [`Row::cfa`].
    #[must_use]
    #[inline(always)]
    pub const fn kind(self) -> u16 {
        (self.0 >> 32) as u16 & CFA_KIND
    }

    /// The argument in [`Row::cfa`].
    #[must_use]
    #[inline(always)]
    pub const fn argument(self) -> u64 {
        ((self.0 >> 32) as u16 & !CFA_KIND) as u64
    }

    /// [`Row::fp`] without [`OTHER_SAME`].
    #[must_use]
    #[inline(always)]
    pub const fn fp(self) -> i16 {
        (self.0 >> 48) as i16 & !OTHER_SAME
    }

    /// Whether [`Row::fp`] has [`OTHER_SAME`].
    #[must_use]
    #[inline(always)]
    pub const fn other_same(self) -> bool {
        (self.0 >> 48) as i16 & OTHER_SAME != 0
    }
}

/// [`Row::cfa`]: which bits say the kind.
pub const CFA_KIND: u16 = 7;
/// [`Row::cfa`]: the code from here on is not covered by the tables.
pub const CFA_GAP: u16 = 0;
/// [`Row::cfa`]: the stack pointer plus the argument.
pub const CFA_SP: u16 = 1;
/// [`Row::cfa`]: the frame pointer plus the argument.
pub const CFA_FP: u16 = 2;
/// [`Row::cfa`]: by the [`Rule`] whose index is the argument divided by 8.
pub const CFA_RULE: u16 = 3;
/// [`Row::cfa`]: this is the outermost function of its thread.
pub const CFA_END: u16 = 4;
/// [`Row::cfa`]: an entry of the procedure linkage table: the stack pointer plus 8, and plus 8 more
/// where the lower four bits of the address are at least the argument divided by 8.
pub const CFA_PLT: u16 = 5;
/// [`Row::cfa`]: where a signal handler returns to: the stack pointer points to the interrupted
/// code's registers, at offsets that the kernel's interface to user programs fixes.
pub const CFA_SIGNAL: u16 = 6;
/// [`Row::cfa`]: by a rule that is not supported.
pub const CFA_UNSUPPORTED: u16 = 7;

/// [`Row::fp`]: the frame pointer has not been changed.
pub const FP_SAME: i16 = 0;
/// [`Row::fp`]: what the caller's frame pointer was is not known.
pub const FP_LOST: i16 = 1;

/// Bit of [`Row::fp`]: the other register has not been changed. Without this bit, what it was in
/// the caller is not known.
pub const OTHER_SAME: i16 = 2;

/// A rule that does not fit in a row: large offsets, and functions that align their stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C, align(8))]
pub struct Rule {
    /// From the base to the CFA, in bytes; with [`RULE_DEREF`], to where the CFA is in memory.
    pub cfa_offset: i32,
    /// Where the caller's frame pointer is, in bytes from the CFA, or with [`RULE_FP_FROM_FP`]
    /// from the frame pointer.
    pub fp_offset: i32,
    /// `RULE_*` bits.
    pub flags: u32,
    /// Where the caller's other register is, in bytes from the CFA.
    pub other_offset: i32,
}
assert_layout!(Rule, size = 16);

/// [`Rule::flags`]: the base of the CFA is the frame pointer, not the stack pointer.
pub const RULE_BASE_FP: u32 = 1;
/// [`Rule::flags`]: the CFA is in memory at base plus offset.
pub const RULE_DEREF: u32 = 2;
/// [`Rule::flags`]: the caller's frame pointer is in memory at [`Rule::fp_offset`]. Without this
/// flag, it has not been changed.
pub const RULE_FP_SAVED: u32 = 4;
/// [`Rule::flags`]: [`Rule::fp_offset`] counts from the frame pointer.
pub const RULE_FP_FROM_FP: u32 = 8;
/// [`Rule::flags`]: what the caller's frame pointer was is not known.
pub const RULE_FP_LOST: u32 = 16;
/// [`Rule::flags`]: the base of the CFA is the other register.
pub const RULE_BASE_OTHER: u32 = 32;
/// [`Rule::flags`]: the caller's other register is in memory at [`Rule::other_offset`].
pub const RULE_OTHER_SAVED: u32 = 64;
/// [`Rule::flags`]: the other register has not been changed. Without this flag and
/// [`RULE_OTHER_SAVED`], what it was in the caller is not known.
pub const RULE_OTHER_SAME: u32 = 128;

/// Code that is mapped in an address space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C, align(8))]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// One past the last address.
    pub end: u64,
    /// What must be subtracted from an address to get the number that [`Row::pc`] has: where the
    /// file is loaded, plus the base that its rows are counted from.
    pub bias: u64,
    /// Index of the first row; without rows, a `NO_ROWS_*` reason.
    pub first: u32,
    /// How many rows there are.
    pub rows: u32,
}
assert_layout!(Mapping, size = 32);

/// [`Mapping::first`]: the file has no tables, or it is code that was made at run time. Its frames
/// are found by frame pointers, if at all.
pub const NO_ROWS_NONE: u32 = 0;
/// [`Mapping::first`]: the tables have not been built yet.
pub const NO_ROWS_YET: u32 = 1;
/// [`Mapping::first`]: there was no room for the tables.
pub const NO_ROWS_ROOM: u32 = 2;

/// Names a set of mappings: where it lies, and a serial number that no other set of a trace has, so
/// that what is remembered of one set is never mistaken for another's. One without mappings names
/// none, and has the generation ([`ProcessSlot::execs`](crate::process::ProcessSlot::execs)) of
/// which none is known in place of the serial number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct SetHandle(pub u64);

impl SetHandle {
    /// The set of `len` mappings from `first` on. `serial` is at least 1.
    #[must_use]
    pub const fn new(first: u32, len: u32, serial: u32) -> Self {
        Self((serial as u64) << 32 | ((len & 0xffff) as u64) << 16 | (first & 0xffff) as u64)
    }

    /// No set is known of the program that a process has after `generation` execs.
    #[must_use]
    #[inline(always)]
    pub const fn none(generation: u32) -> Self {
        Self((generation as u64) << 32)
    }

    /// What a child has that is forked from a process which has this: it has not replaced its
    /// program yet.
    #[must_use]
    #[inline(always)]
    pub const fn inherited(self) -> Self {
        if self.is_empty() { Self::none(0) } else { self }
    }

    /// Index of its first mapping.
    #[must_use]
    pub const fn first(self) -> u32 {
        self.0 as u32 & 0xffff
    }

    /// How many mappings there are.
    #[must_use]
    pub const fn len(self) -> u32 {
        self.0 as u32 >> 16
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }
}

crate::coded! {
    /// Why a native stack ends where it does.
    StackEnd {
        /// The thread's outermost function was reached.
        Outermost = 0,
        /// Frame pointers were followed to the last of them, which is 0.
        FramePointers = 1,
        /// There are more frames than a stack holds.
        Depth = 2,
        /// Native stacks were not asked for.
        Off = 3,
        /// The last address is not in any code that was known to be mapped.
        NoMapping = 4,
        /// The mapped file's tables had not been built yet.
        NoRowsYet = 5,
        /// The mapped file has no tables, and frame pointers were not to be followed.
        NoTable = 6,
        /// There was no room for the mapped file's tables.
        NoRoom = 7,
        /// The tables do not cover the last address.
        Gap = 8,
        /// The rule at the last address is not supported.
        Unsupported = 9,
        /// The stack could not be read.
        Unreadable = 10,
        /// What was read cannot be a stack: the caller's frame does not lie further up.
        Damaged = 11,
        /// Frame pointers were followed to something that is none.
        LostFramePointer = 12,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_row_has_what_the_row_has() {
        for kind in CFA_GAP..=CFA_UNSUPPORTED {
            for argument in [0, 8, 16, 4096, !CFA_KIND] {
                for fp in [FP_SAME, FP_LOST, -8, -16, 16, i16::MIN, i16::MAX - 7] {
                    for other in [0, OTHER_SAME] {
                        let row = Row {
                            pc: 0xfedc_ba98,
                            cfa: argument | kind,
                            fp: fp | other,
                        };
                        let packed = row.packed();
                        assert_eq!(packed.pc(), u64::from(row.pc), "{row:?}");
                        assert_eq!(packed.kind(), kind, "{row:?}");
                        assert_eq!(packed.argument(), u64::from(argument), "{row:?}");
                        assert_eq!(packed.fp(), fp, "{row:?}");
                        assert_eq!(packed.other_same(), other != 0, "{row:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_packed_row_is_the_rows_own_memory() {
        let row = Row {
            pc: 0x0123_4567,
            cfa: 0x89ab,
            fp: 0x4def,
        };
        // SAFETY: both are eight bytes of integers without padding.
        let read = unsafe { core::mem::transmute::<Row, PackedRow>(row) };
        assert_eq!(read, row.packed());
    }

    #[test]
    fn a_set_handle_keeps_place_and_length() {
        let set = SetHandle::new(0xfffe, 4096, 7);
        assert_eq!((set.first(), set.len()), (0xfffe, 4096));
        assert!(!set.is_empty());
        assert_ne!(set, SetHandle::new(0xfffe, 4096, 8));
        assert_eq!(set.inherited(), set);
    }

    #[test]
    fn no_set_of_one_generation_is_not_that_of_another() {
        for generation in [0, 1, u32::MAX] {
            let none = SetHandle::none(generation);
            assert!(none.is_empty());
            assert_ne!(none, SetHandle::none(generation.wrapping_add(1)));
            assert_eq!(none.inherited(), SetHandle::none(0));
        }
        assert_eq!(SetHandle::none(0), SetHandle::default());
    }
}
