//! The registers that a walk over the stack needs, by what they are for.

/// Where code is, and where its frame is on the stack.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Registers {
    /// Instruction.
    pub ip: u64,
    /// Stack pointer.
    pub sp: u64,
    /// Frame pointer, or whatever the register is used for.
    pub fp: u64,
    /// The other register that unwind tables refer to.
    pub other: u64,
}
