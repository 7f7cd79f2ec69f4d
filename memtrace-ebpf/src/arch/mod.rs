//! What depends on the processor's architecture, and nothing but that.
//!
//! There is one file for each architecture that there is an object for. The same names are in all
//! of them, and nobody else on the kernel side knows a register, an error code or the size of a
//! page. The offsets of registers in the kernel's own `pt_regs` are globals, which the loader sets.

mod x86_64;

pub use self::x86_64::*;
