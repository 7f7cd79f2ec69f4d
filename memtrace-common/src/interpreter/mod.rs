//! What the BPF side knows of the interpreters in traced processes.
//!
//! The loader finds out where an interpreter is and how it is laid out, and writes that into the
//! table of its [`Kind`], which has one layout: [`python::Layout`] for CPython. A process's slot
//! has a [`Handle`] to its entry. Processes that were forked from one another share an entry.

pub mod python;

use crate::coded;

/// Entries of the table of each kind.
pub const MAX_INTERPRETERS: u32 = 1024;

/// The most frames that an interpreter gives to a stack; a deeper one is cut and marked
/// [`SCRIPT_TRUNCATED`](crate::record::SCRIPT_TRUNCATED).
pub const MAX_SCRIPT_FRAMES: usize = 64;

coded! {
    /// Which interpreter it is, and so which table has its entry. 0 stands for not having one.
    Kind {
        /// CPython.
        Python = 1,
    }
}

impl Kind {
    /// The bit that stands for this kind in the global
    /// [`INTERPRETERS`](crate::config::INTERPRETERS).
    #[must_use]
    pub const fn bit(self) -> u8 {
        1 << self.code()
    }
}

/// Bits of a [`Handle`] that are the index.
const INDEX_BITS: u32 = MAX_INTERPRETERS.ilog2();

/// Names an interpreter: its kind and its entry in the table of that kind. 0 names none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Handle(u16);

impl Handle {
    /// No interpreter.
    pub const NONE: Self = Self(0);

    /// The entry at `index` of the table for `kind`; the index is taken modulo
    /// [`MAX_INTERPRETERS`].
    #[must_use]
    pub const fn new(kind: Kind, index: u32) -> Self {
        Self((kind.code() as u16) << INDEX_BITS | (index % MAX_INTERPRETERS) as u16)
    }

    /// What a record has.
    #[must_use]
    pub const fn from_raw(raw: u16) -> Self {
        Self(raw)
    }

    /// The number that stands for it in a record.
    #[must_use]
    pub const fn raw(self) -> u16 {
        self.0
    }

    /// What a process's slot has: this handle, and the generation
    /// ([`ProcessSlot::execs`](crate::process::ProcessSlot::execs)) that it is about.
    #[must_use]
    #[inline(always)]
    pub const fn in_slot(self, generation: u32) -> u64 {
        (generation as u64) << 32 | self.0 as u64
    }

    /// The handle that a process's slot has.
    #[must_use]
    #[inline(always)]
    pub const fn from_slot(word: u64) -> Self {
        Self(word as u16)
    }

    /// The generation that what a process's slot has is about.
    #[must_use]
    #[inline(always)]
    pub const fn generation_in_slot(word: u64) -> u32 {
        (word >> 32) as u32
    }

    /// Which interpreter it is, as [`Kind`] is coded.
    #[must_use]
    pub const fn kind_code(self) -> u8 {
        (self.0 >> INDEX_BITS) as u8
    }

    /// Which interpreter it is; `None` without one, or for one that this version does not know.
    #[must_use]
    pub const fn kind(self) -> Option<Kind> {
        Kind::from_code(self.kind_code())
    }

    /// Its place in the table of its kind.
    #[must_use]
    pub const fn index(self) -> u32 {
        self.0 as u32 % MAX_INTERPRETERS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_keeps_kind_and_index() {
        for index in [0, 1, MAX_INTERPRETERS - 1] {
            let handle = Handle::from_raw(Handle::new(Kind::Python, index).raw());
            assert_eq!(handle.kind(), Some(Kind::Python));
            assert_eq!(handle.index(), index);
            assert_ne!(handle, Handle::NONE);
            let word = handle.in_slot(u32::MAX);
            assert_eq!(Handle::from_slot(word), handle);
            assert_eq!(Handle::generation_in_slot(word), u32::MAX);
        }
        assert_eq!(Handle::NONE.kind(), None);
        assert_eq!(Handle::from_raw(u16::MAX).kind(), None);
    }

    #[test]
    fn every_kind_has_a_bit_of_its_own() {
        let mut bits = 0;
        for kind in Kind::ALL {
            assert_eq!(kind.bit().count_ones(), 1);
            assert_eq!(bits & kind.bit(), 0, "the bit of {kind:?}");
            bits |= kind.bit();
        }
    }
}
