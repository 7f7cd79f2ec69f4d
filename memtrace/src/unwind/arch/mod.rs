//! What unwinding in user space has to know of a processor: its registers, and what compilers and
//! linkers write for it that is more than a register and an offset.
//!
//! Each processor has a file of its own, and a line in [`KNOWN`].

pub mod instruction;
pub mod x86_64;

use std::env::consts::ARCH;

use self::instruction::Instruction;
use gimli::{Encoding, EndianSlice, Expression, Format, LittleEndian, Operation, Register};

/// Bytes of foreign files, in the only order that is read here.
pub type Bytes<'data> = EndianSlice<'data, LittleEndian>;

/// Every processor that is known. All of them are compiled everywhere, so that none rots.
const KNOWN: [&Architecture; 1] = [&x86_64::ARCHITECTURE];

/// The processor that memtrace was built for, whose code the BPF side walks; `None` when it is not
/// known here.
#[must_use]
pub fn native() -> Option<&'static Architecture> {
    KNOWN.into_iter().find(|known| known.name == ARCH)
}

/// One processor architecture.
#[derive(Clone, Copy, Debug)]
pub struct Architecture {
    /// As Rust calls it.
    pub name: &'static str,
    /// The ELF header's `e_machine`.
    pub machine: u16,
    /// The register by which the frames of leaf functions are found.
    pub stack_pointer: Register,
    /// The register that code with frame pointers keeps them in.
    pub frame_pointer: Register,
    /// One more, by which hand-written code of the C library's dynamic linker finds its frame where
    /// it aligns the stack.
    pub other: Register,
    /// The column of the return address.
    pub return_address: Register,
    /// Where the return address is, from the CFA.
    pub return_address_offset: i64,
    /// At a signal's trampoline: where the interrupted stack pointer is, from the stack pointer.
    pub signal_stack_pointer: i64,
    /// Recognises the CFA of an entry of the procedure linkage table, and returns its threshold:
    /// see [`CfaExpression::LinkageTable`].
    pub linkage_table: fn(&[Step]) -> Option<u16>,
    /// The instruction that bytes begin with, which are at this address; `None` where they are none.
    pub decode: fn(&[u8], u64) -> Option<Instruction>,
    /// How many bytes a trampoline has that a signal's handler returns to, where bytes begin with
    /// one.
    pub signal_return: fn(&[u8]) -> Option<usize>,
    /// The registers that have a function's first arguments, one bit for each, by the numbers that
    /// [`Instruction::changes`] has.
    pub arguments: u32,
}

impl Architecture {
    /// Reads the expression of a CFA; `None` when it is none of those that are known.
    #[must_use]
    pub fn cfa(&self, expression: Expression<Bytes<'_>>) -> Option<CfaExpression> {
        let (steps, count) = steps(expression)?;
        match steps[..count] {
            // A function that aligns its stack keeps the CFA in memory.
            [Step::Register(register, offset), Step::Deref]
                if register == self.stack_pointer || register == self.frame_pointer =>
            {
                Some(CfaExpression::InMemory { register, offset })
            }
            ref other => {
                let threshold = (self.linkage_table)(other)?;
                Some(CfaExpression::LinkageTable { threshold })
            }
        }
    }
}

/// Reads the expression of a place: register and offset.
#[must_use]
pub fn place(expression: Expression<Bytes<'_>>) -> Option<(Register, i64)> {
    let (steps, count) = steps(expression)?;
    match steps[..count] {
        [Step::Register(register, offset)] => Some((register, offset)),
        _ => None,
    }
}

/// An expression for a CFA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CfaExpression {
    /// It is in memory, at a register plus an offset.
    InMemory {
        /// Stack pointer or frame pointer.
        register: Register,
        /// In bytes.
        offset: i64,
    },
    /// The stack pointer plus 8, and 8 more where the lower four bits of the address are at least
    /// the threshold.
    LinkageTable {
        /// 0 to 15.
        threshold: u16,
    },
}

/// The most steps of an expression that is known.
const MOST_STEPS: usize = 9;

/// An operation, if it is one that can be part of an expression that is known.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// Pushes a register plus an offset.
    Register(Register, i64),
    /// Pushes a number.
    Number(u64),
    /// Replaces an address by the 8 bytes there.
    Deref,
    /// Ands two numbers.
    And,
    /// Compares two numbers.
    AtLeast,
    /// Shifts a number by another one.
    ShiftLeft,
    /// Adds two numbers.
    Plus,
}

impl Step {
    fn of(operation: &Operation<Bytes<'_>>) -> Option<Self> {
        Some(match *operation {
            Operation::RegisterOffset {
                register, offset, ..
            } => Self::Register(register, offset),
            Operation::UnsignedConstant { value } => Self::Number(value),
            Operation::Deref {
                size: 8,
                space: false,
                ..
            } => Self::Deref,
            Operation::And => Self::And,
            Operation::Ge => Self::AtLeast,
            Operation::Shl => Self::ShiftLeft,
            Operation::Plus => Self::Plus,
            _ => return None,
        })
    }
}

/// The steps of an expression, if it could be one of those that are known, and how many there are.
fn steps(expression: Expression<Bytes<'_>>) -> Option<([Step; MOST_STEPS], usize)> {
    let encoding = Encoding {
        address_size: 8,
        format: Format::Dwarf32,
        version: 4,
    };
    let mut steps = [Step::Plus; MOST_STEPS];
    let mut count = 0;
    let mut left = expression.operations(encoding);
    while let Some(operation) = left.next().ok()? {
        *steps.get_mut(count)? = Step::of(&operation)?;
        count += 1;
    }
    Some((steps, count))
}
