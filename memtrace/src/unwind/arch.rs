//! What unwinding has to know of a processor: its registers, and what compilers write for it that is
//! more than a register and an offset. Nothing else in user space names a register.

use gimli::{Encoding, EndianSlice, Expression, Format, LittleEndian, Operation, Register};

use crate::elf::EM_X86_64;

/// Bytes of foreign files, in the only order that this reads.
pub type Bytes<'data> = EndianSlice<'data, LittleEndian>;

/// One processor architecture.
#[derive(Clone, Copy, Debug)]
pub struct Architecture {
    /// The ELF header's `e_machine`.
    pub machine: u16,
    /// By what the frames of leaf functions are found.
    pub stack_pointer: Register,
    /// The register that code with frame pointers keeps them in.
    pub frame_pointer: Register,
    /// One more, by which hand-written code of the C library's dynamic linker finds its frame where it
    /// aligns the stack.
    pub other: Register,
    /// The column of the return address.
    pub return_address: Register,
    /// Where the return address is, from the CFA.
    pub return_address_offset: i64,
    /// At a signal's trampoline: where the interrupted stack pointer is, from the stack pointer.
    pub signal_stack_pointer: i64,
}

/// x86-64, by the numbers of its psABI.
pub const X86_64: Architecture = Architecture {
    machine: EM_X86_64,
    stack_pointer: Register(7),
    frame_pointer: Register(6),
    other: Register(3),
    return_address: Register(16),
    return_address_offset: -8,
    // uc_mcontext.gregs[REG_RSP] in the kernel's ucontext.
    signal_stack_pointer: 160,
};

impl Architecture {
    /// The architecture of an ELF file; `None` for one that is not known.
    #[must_use]
    pub fn of(machine: u16) -> Option<&'static Self> {
        (machine == X86_64.machine).then_some(&X86_64)
    }

    /// Reads the expression of a CFA; `None` when it is none of those that are known.
    #[must_use]
    pub fn cfa(&self, expression: Expression<Bytes<'_>>) -> Option<CfaExpression> {
        let (operations, count) = Self::operations(expression)?;
        match operations[..count] {
            // A function that aligns its stack keeps the CFA in memory.
            [Simple::Register(register, offset), Simple::Deref]
                if register == self.stack_pointer || register == self.frame_pointer =>
            {
                Some(CfaExpression::InMemory { register, offset })
            }
            // What the linker writes for the procedure linkage table: an entry has pushed one more
            // word from a certain instruction on.
            [
                Simple::Register(stack_pointer, 8),
                Simple::Register(return_address, 0),
                Simple::Number(15),
                Simple::And,
                Simple::Number(threshold @ 0..=15),
                Simple::AtLeast,
                Simple::Number(3),
                Simple::ShiftLeft,
                Simple::Plus,
            ] if stack_pointer == self.stack_pointer && return_address == self.return_address => {
                Some(CfaExpression::LinkageTable { threshold })
            }
            _ => None,
        }
    }

    /// Reads the expression of a place: register and offset.
    #[must_use]
    pub fn place(&self, expression: Expression<Bytes<'_>>) -> Option<(Register, i64)> {
        let (operations, count) = Self::operations(expression)?;
        match operations[..count] {
            [Simple::Register(register, offset)] => Some((register, offset)),
            _ => None,
        }
    }

    /// The operations of an expression that could be one of those that are known.
    fn operations(expression: Expression<Bytes<'_>>) -> Option<([Simple; 9], usize)> {
        let encoding = Encoding {
            address_size: 8,
            format: Format::Dwarf32,
            version: 4,
        };
        let mut operations = [Simple::Plus; 9];
        let mut count = 0;
        let mut left = expression.operations(encoding);
        while let Some(operation) = left.next().ok()? {
            *operations.get_mut(count)? = Simple::of(&operation)?;
            count += 1;
        }
        Some((operations, count))
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
        threshold: u64,
    },
}

/// An operation, if it is one that can be part of an expression that is known.
#[derive(Clone, Copy)]
enum Simple {
    Register(Register, i64),
    Number(u64),
    Deref,
    And,
    AtLeast,
    ShiftLeft,
    Plus,
}

impl Simple {
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
