//! x86-64, by the numbers of its psABI.

mod decode;

use crate::elf::EM_X86_64;
use gimli::Register;

use super::{Architecture, Step};

/// What unwinding knows of it.
pub const ARCHITECTURE: Architecture = Architecture {
    name: "x86_64",
    machine: EM_X86_64,
    stack_pointer: RSP,
    frame_pointer: RBP,
    other: RBX,
    return_address: RETURN_ADDRESS,
    // A call pushes it.
    return_address_offset: -8,
    // uc_mcontext.gregs[REG_RSP] in the kernel's ucontext.
    signal_stack_pointer: 160,
    linkage_table,
    decode: decode::decode,
    signal_return: decode::signal_return,
    // rdi, rsi.
    arguments: 1 << 7 | 1 << 6,
};

const RBX: Register = Register(3);
const RBP: Register = Register(6);
const RSP: Register = Register(7);
const RETURN_ADDRESS: Register = Register(16);

/// What the linker writes for the procedure linkage table: an entry has pushed one more word from a
/// certain instruction on.
fn linkage_table(steps: &[Step]) -> Option<u16> {
    match *steps {
        [
            Step::Register(RSP, 8),
            Step::Register(RETURN_ADDRESS, 0),
            Step::Number(15),
            Step::And,
            Step::Number(threshold @ 0..=15),
            Step::AtLeast,
            Step::Number(3),
            Step::ShiftLeft,
            Step::Plus,
        ] => Some(threshold as u16),
        _ => None,
    }
}
