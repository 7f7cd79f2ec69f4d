//! Instructions of x86-64, as far as they matter for where a function's frame is.

use std::cell::RefCell;

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction as Decoded, InstructionInfoFactory,
    InstructionInfoOptions, Mnemonic, OpAccess, OpKind, Register,
};

use crate::unwind::arch::instruction::{Effect, Flow, From, Instruction};

/// What the kernel's interface has for the return of a signal's handler: the number of the system
/// call in `rax`, and the call.
const SIGNAL_RETURN: [&[u8]; 2] = [
    &[0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05],
    &[0xb8, 0x0f, 0, 0, 0, 0x0f, 0x05],
];

/// How many bytes the trampoline has that `code` begins with; `None` when it is none.
pub fn signal_return(code: &[u8]) -> Option<usize> {
    let mut known = SIGNAL_RETURN.into_iter();
    known.find(|known| code.starts_with(known)).map(<[u8]>::len)
}

/// The instruction that `code`, which is at `address`, begins with; `None` where that is none.
pub fn decode(code: &[u8], address: u64) -> Option<Instruction> {
    let decoded: Decoded = Decoder::with_ip(64, code, address, DecoderOptions::NONE).decode();
    if decoded.code() == Code::INVALID {
        return None;
    }
    let changes = changes(&decoded);
    let is_padding = matches!(decoded.mnemonic(), Mnemonic::Nop | Mnemonic::Int3)
        || code.starts_with(&[0, 0])
        || exchanges_nothing(&decoded);
    Some(Instruction {
        length: decoded.len() as u32,
        effect: effect(&decoded, changes),
        flow: flow(&decoded),
        changes,
        address: address_of(&decoded),
        is_system_call: decoded.mnemonic() == Mnemonic::Syscall,
        is_padding,
    })
}

/// `xchg` of a register with itself, which is a way to write nothing.
fn exchanges_nothing(decoded: &Decoded) -> bool {
    decoded.mnemonic() == Mnemonic::Xchg
        && decoded.op0_kind() == OpKind::Register
        && decoded.op0_register() == decoded.op1_register()
}

/// The number of a general register, of whatever width.
fn number(register: Register) -> Option<u8> {
    let full = register.full_register();
    full.is_gpr64().then(|| full.number() as u8)
}

fn bit(register: Register) -> u32 {
    number(register).map_or(0, |number| 1 << number)
}

fn changes(decoded: &Decoded) -> u32 {
    thread_local! {
        // It has room that is asked for once.
        static FACTORY: RefCell<InstructionInfoFactory> =
            RefCell::new(InstructionInfoFactory::new());
    }
    FACTORY.with_borrow_mut(|factory| {
        let info = factory.info_options(decoded, InstructionInfoOptions::NO_MEMORY_USAGE);
        let writes = info.used_registers().iter().filter(|used| {
            !matches!(
                used.access(),
                OpAccess::None | OpAccess::NoMemAccess | OpAccess::Read | OpAccess::CondRead
            )
        });
        writes.fold(0, |bits, used| bits | bit(used.register()))
    })
}

fn flow(decoded: &Decoded) -> Flow {
    let target = || {
        let kind = decoded.op0_kind();
        let near = matches!(
            kind,
            OpKind::NearBranch64 | OpKind::NearBranch32 | OpKind::NearBranch16
        );
        near.then(|| decoded.near_branch_target())
    };
    let by_register = || {
        (decoded.op0_kind() == OpKind::Register)
            .then(|| number(decoded.op0_register()))
            .flatten()
    };
    if decoded.mnemonic() == Mnemonic::Hlt {
        // A program may not wait so; it is written behind what never returns.
        return Flow::Stop;
    }
    match decoded.flow_control() {
        FlowControl::Next => Flow::Next,
        FlowControl::UnconditionalBranch => target().map_or(Flow::Stop, Flow::Jump),
        FlowControl::ConditionalBranch | FlowControl::XbeginXabortXend => {
            target().map_or(Flow::Next, Flow::Branch)
        }
        FlowControl::IndirectBranch => by_register().map_or(Flow::JumpAway, Flow::JumpTo),
        FlowControl::Call if decoded.mnemonic() == Mnemonic::Syscall => Flow::Next,
        FlowControl::Call => target().map_or(Flow::Stop, Flow::Call),
        FlowControl::IndirectCall if decoded.is_ip_rel_memory_operand() => {
            Flow::CallAt(decoded.ip_rel_memory_address())
        }
        FlowControl::IndirectCall => by_register().map_or(Flow::CallAway, Flow::CallTo),
        FlowControl::Return if decoded.mnemonic() == Mnemonic::Ret && decoded.op_count() == 0 => {
            Flow::Return
        }
        FlowControl::Return | FlowControl::Interrupt | FlowControl::Exception => Flow::Stop,
    }
}

/// `lea` of an address that is counted from the instruction's own.
fn address_of(decoded: &Decoded) -> Option<(u8, u64)> {
    let is_address = decoded.mnemonic() == Mnemonic::Lea && decoded.is_ip_rel_memory_operand();
    let register = number(decoded.op0_register()).filter(|_| is_address)?;
    Some((register, decoded.ip_rel_memory_address()))
}

/// Register and offset of a memory operand that is nothing else.
fn place(decoded: &Decoded) -> Option<(From, i64)> {
    let plain =
        decoded.memory_index() == Register::None && decoded.segment_prefix() == Register::None;
    let from = match decoded.memory_base() {
        Register::RSP => From::Stack,
        Register::RBP => From::Frame,
        _ => return None,
    };
    plain.then(|| (from, decoded.memory_displacement64().cast_signed()))
}

/// The number that is an instruction's second operand, with its sign.
fn number_operand(decoded: &Decoded) -> Option<i64> {
    matches!(
        decoded.op1_kind(),
        OpKind::Immediate8to64 | OpKind::Immediate32to64
    )
    .then(|| decoded.immediate(1).cast_signed())
}

fn effect(decoded: &Decoded, changes: u32) -> Effect {
    let registers = |first, second| {
        decoded.op0_kind() == OpKind::Register
            && decoded.op1_kind() == OpKind::Register
            && decoded.op0_register() == first
            && decoded.op1_register() == second
    };
    let is =
        |register| decoded.op0_kind() == OpKind::Register && decoded.op0_register() == register;
    let (stack, frame) = (bit(Register::RSP), bit(Register::RBP));
    let known = match decoded.mnemonic() {
        // A call takes from the stack what it pushes; a return leaves the function.
        Mnemonic::Call | Mnemonic::Ret => Some(Effect::None),
        Mnemonic::Push if decoded.stack_pointer_increment() == -8 => Some(Effect::Push {
            frame: is(Register::RBP),
        }),
        Mnemonic::Pop if decoded.stack_pointer_increment() == 8 && !is(Register::RSP) => {
            Some(Effect::Pop {
                frame: is(Register::RBP),
            })
        }
        Mnemonic::Pushfq => Some(Effect::Push { frame: false }),
        Mnemonic::Popfq => Some(Effect::Pop { frame: false }),
        Mnemonic::Sub if is(Register::RSP) => {
            number_operand(decoded).map(|by| Effect::SetStack(From::Stack, by.wrapping_neg()))
        }
        Mnemonic::Add if is(Register::RSP) => {
            number_operand(decoded).map(|by| Effect::SetStack(From::Stack, by))
        }
        Mnemonic::Lea if is(Register::RSP) => {
            place(decoded).map(|(from, by)| Effect::SetStack(from, by))
        }
        Mnemonic::Lea if is(Register::RBP) => match place(decoded) {
            Some((From::Stack, by)) => Some(Effect::SetFrame(by)),
            _ => None,
        },
        Mnemonic::Mov if registers(Register::RSP, Register::RBP) => {
            Some(Effect::SetStack(From::Frame, 0))
        }
        Mnemonic::Mov if registers(Register::RBP, Register::RSP) => Some(Effect::SetFrame(0)),
        Mnemonic::Mov
            if decoded.op0_kind() == OpKind::Memory && decoded.op1_register() == Register::RBP =>
        {
            place(decoded).map(|(from, at)| Effect::SaveFrame(from, at))
        }
        Mnemonic::Mov if is(Register::RBP) && decoded.op1_kind() == OpKind::Memory => {
            place(decoded).map(|(from, at)| Effect::LoadFrame(from, at))
        }
        Mnemonic::Xor
            if registers(Register::EBP, Register::EBP)
                || registers(Register::RBP, Register::RBP) =>
        {
            Some(Effect::ClearFrame)
        }
        Mnemonic::Leave if decoded.stack_pointer_increment() == 0 || changes & stack != 0 => {
            (decoded.code() == Code::Leaveq).then_some(Effect::Leave)
        }
        _ => None,
    };
    known.unwrap_or(if changes & stack != 0 {
        Effect::LoseStack
    } else if changes & frame != 0 {
        Effect::ChangeFrame
    } else {
        Effect::None
    })
}
