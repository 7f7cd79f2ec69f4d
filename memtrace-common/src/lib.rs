//! The whole contract between memtrace's BPF programs and its loader.
//!
//! Everything that crosses the boundary is declared here once: the records of the ring buffer
//! ([`record`]), the table of traced processes ([`process`]), what is known of their interpreters
//! and of their code ([`interpreter`], [`unwind`]), and the configuration that the loader writes
//! into the object before loading it ([`config`]). All types are `repr(C)`, of fixed-width
//! integers, without implicit padding; their layout is asserted at compile time, and numbers that
//! name a choice are decoded with a checked conversion.
//!
//! What the BPF side decides by itself is here too where it is a function of plain values
//! ([`origin`], [`hash`]): here it can be tested without a kernel.
#![no_std]
#![expect(
    clippy::inline_always,
    reason = "the BPF side is built from these: a call costs, and the verifier follows each"
)]

pub mod config;
pub mod hash;
pub mod interpreter;
pub mod origin;
pub mod process;
pub mod record;
pub mod unwind;

/// Gives a `u8`-coded choice its checked decoding: `from_code` returns `None` for a number that
/// this version does not know.
macro_rules! coded {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $code:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $name { $($(#[$vmeta])* $variant = $code,)+ }

        impl $name {
            /// Every variant, in the order of their codes.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The variant for `code`, or `None` when the number is not known.
            #[must_use]
            pub const fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)+ _ => None }
            }

            /// The number that stands for this variant in a record.
            #[must_use]
            pub const fn code(self) -> u8 { self as u8 }
        }
    };
}
pub(crate) use coded;

/// Asserts size and alignment of a type that crosses the boundary, at compile time.
macro_rules! assert_layout {
    ($ty:ty, size = $size:expr) => {
        const _: () = assert!(
            core::mem::size_of::<$ty>() == $size && core::mem::align_of::<$ty>() == 8,
            concat!("layout of ", stringify!($ty))
        );
    };
}
pub(crate) use assert_layout;
