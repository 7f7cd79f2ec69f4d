//! What an instruction does to the stack and where control goes from it, in words that every
//! processor shares: what rows are built from where a file says nothing of its code.

/// An instruction, as far as it matters for where a function's frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Bytes that it has; at least one.
    pub length: u32,
    /// What it does to stack pointer and frame pointer.
    pub effect: Effect,
    /// What runs after it.
    pub flow: Flow,
    /// The general registers that it changes, one bit for each.
    pub changes: u32,
    /// The register that it sets to the address of something in the file, and that address.
    pub address: Option<(u8, u64)>,
    /// Whether it is a system call.
    pub is_system_call: bool,
    /// Whether it only fills space between functions.
    pub is_padding: bool,
}

/// The register that an address is counted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The stack pointer.
    Stack,
    /// The frame pointer.
    Frame,
}

/// What an instruction does to stack pointer and frame pointer. Offsets are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// It pushes a word; the frame pointer, or something else.
    Push { frame: bool },
    /// It pops a word; into the frame pointer, or elsewhere.
    Pop { frame: bool },
    /// The stack pointer becomes this register plus an offset.
    SetStack(From, i64),
    /// The frame pointer becomes the stack pointer plus an offset.
    SetFrame(i64),
    /// The stack pointer becomes the frame pointer, and then the frame pointer is popped.
    Leave,
    /// The frame pointer is stored at this place.
    SaveFrame(From, i64),
    /// The frame pointer is loaded from this place.
    LoadFrame(From, i64),
    /// The frame pointer becomes zero, which is how the outermost function is marked.
    ClearFrame,
    /// The frame pointer becomes something else.
    ChangeFrame,
    /// The stack pointer becomes something that cannot be told.
    LoseStack,
}

/// What runs after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// The next one.
    Next,
    /// The one at this address.
    Jump(u64),
    /// The one at this address, or the next one.
    Branch(u64),
    /// The function at this address, and then the next instruction, if the function returns.
    Call(u64),
    /// The function whose address is at this one.
    CallAt(u64),
    /// The one, or the function, that this register has the address of.
    JumpTo(u8),
    /// The function that this register has the address of.
    CallTo(u8),
    /// A function that cannot be told.
    CallAway,
    /// One that cannot be told.
    JumpAway,
    /// The caller.
    Return,
    /// Nothing that belongs to this function.
    Stop,
}
