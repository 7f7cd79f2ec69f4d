//! What an instruction does to memory, by its form alone.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;

use foldhash::HashMap;
use serde::{Deserialize, Serialize};

use crate::process::inspector::{Answerer, Inspector, Question};
use crate::process::maps::AddressSpace;
use crate::process::modules::Module;

/// Bytes of the longest instruction.
const LONGEST: usize = 15;

/// Instructions that are remembered; beyond that, all are forgotten and decoded again.
const MAX_REMEMBERED: usize = 65_536;

/// What an instruction does to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Write {
    /// Adds or subtracts one in place, atomically; or anything by `xadd`.
    CountAtomic,
    /// Adds or subtracts one in place.
    Count,
    /// Exchanges, or compares and exchanges.
    Exchange,
    /// Changes what is there in another way.
    Modify,
    /// Stores a value.
    Store,
    /// Stores many bytes: a string instruction.
    Block,
    /// Stores a return address or a register on the stack.
    Push,
    /// Something else, or an instruction that is not known to write.
    Other,
    /// The instruction could not be read: its code is not in a file, or the file cannot be read.
    Unreadable,
}

/// Places that are asked about at once.
const MAX_PLACES: usize = 4096;

/// What is asked about a file: what the instructions at some places do. Each has an offset, and bytes
/// that it may have at most.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Writes(pub(super) Vec<(u64, usize)>);

impl Question for Writes {
    const NAME: &'static str = "writes";
    type Answer = Vec<Write>;
}

/// What answers the questions of [`Instructions`].
pub fn answerer() -> Answerer {
    Answerer::new(|Writes(places), files| {
        let places = places.iter();
        let writes = places.map(|&(offset, size)| read(files[0], offset, size));
        writes.collect()
    })
}

/// What the instruction at `offset` does.
fn read(file: &File, offset: u64, size: usize) -> Write {
    let mut code = [0; LONGEST];
    // At the end of a file there are fewer bytes.
    match file.read_at(&mut code[..size.min(LONGEST)], offset) {
        Ok(read) => decode(&code[..read]),
        Err(_) => Write::Unreadable,
    }
}

/// Knows instructions, each address of a file once.
#[derive(Debug, Default)]
pub struct Instructions {
    /// By module and file offset.
    known: HashMap<(u32, u64), Write>,
}

/// Where an instruction is.
struct Place<'space> {
    module: &'space Module,
    offset: u64,
    /// Bytes from there to the end of the mapping.
    size: u64,
}

impl<'space> Place<'space> {
    fn of(space: &'space AddressSpace, ip: u64) -> Option<Self> {
        let mapping = space.find(ip).filter(|mapping| mapping.executable)?;
        Some(Self {
            module: mapping.module()?,
            offset: mapping.offset.wrapping_add(ip - mapping.start),
            size: mapping.end - ip,
        })
    }

    fn key(&self) -> (u32, u64) {
        (self.module.id(), self.offset)
    }
}

impl Instructions {
    /// What the instruction at `ip` does, as `inspector` says.
    pub fn at(&mut self, space: &AddressSpace, ip: u64, inspector: &mut Inspector) -> Write {
        let Some(place) = Place::of(space, ip) else {
            return Write::Unreadable;
        };
        let key = place.key();
        if !self.known.contains_key(&key) {
            self.prepare([(space, ip)], inspector);
        }
        self.known.get(&key).copied().unwrap_or(Write::Unreadable)
    }

    /// Asks about many instructions at once, so that [`at`](Self::at) has them all at hand.
    pub fn prepare<'space>(
        &mut self,
        places: impl IntoIterator<Item = (&'space AddressSpace, u64)>,
        inspector: &mut Inspector,
    ) {
        if self.known.len() >= MAX_REMEMBERED {
            self.known.clear();
        }
        let mut wanted: BTreeMap<u32, (&Module, BTreeMap<u64, u64>)> = BTreeMap::new();
        for (space, ip) in places {
            if let Some(place) = Place::of(space, ip)
                && !self.known.contains_key(&place.key())
            {
                let of_module = wanted.entry(place.module.id());
                let (_, of_module) = of_module.or_insert((place.module, BTreeMap::new()));
                of_module.insert(place.offset, place.size);
            }
        }
        for (module, places) in wanted.into_values() {
            let Some(asked) = module.asked() else {
                continue;
            };
            let size = |size| usize::try_from(size).map_or(LONGEST, |size| size.min(LONGEST));
            let places = places
                .into_iter()
                .map(|(offset, left)| (offset, size(left)));
            let places: Vec<_> = places.collect();
            for places in places.chunks(MAX_PLACES) {
                let writes = inspector.ask(&Writes(places.to_vec()), &[asked]);
                let places = places.iter().map(|&(offset, _)| (module.id(), offset));
                self.known.extend(places.zip(writes.unwrap_or_default()));
            }
        }
    }
}

/// What the instruction that `code` begins with does.
#[cfg(target_arch = "x86_64")]
fn decode(code: &[u8]) -> Write {
    use iced_x86::{
        Code, Decoder, DecoderOptions, Instruction, InstructionInfoFactory, Mnemonic, OpAccess,
        OpKind,
    };

    let mut decoder = Decoder::new(64, code, DecoderOptions::NONE);
    let instruction: Instruction = decoder.decode();
    if instruction.code() == Code::INVALID {
        return Write::Unreadable;
    }
    if instruction.is_string_instruction() {
        return Write::Block;
    }
    let counts = counts(&instruction);
    if instruction.op0_kind() == OpKind::Memory {
        match instruction.mnemonic() {
            Mnemonic::Xadd => return Write::CountAtomic,
            Mnemonic::Xchg | Mnemonic::Cmpxchg | Mnemonic::Cmpxchg8b | Mnemonic::Cmpxchg16b => {
                return Write::Exchange;
            }
            _ if counts && instruction.has_lock_prefix() => return Write::CountAtomic,
            _ if counts => return Write::Count,
            _ => {}
        }
    }
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(&instruction);
    let accesses = info.used_memory().iter().map(iced_x86::UsedMemory::access);
    let mut found = Write::Other;
    for access in accesses {
        match access {
            OpAccess::ReadWrite | OpAccess::ReadCondWrite => return Write::Modify,
            OpAccess::Write | OpAccess::CondWrite => found = Write::Store,
            _ => {}
        }
    }
    let pushes =
        instruction.stack_pointer_increment() < 0 && instruction.op0_kind() != OpKind::Memory;
    if found == Write::Store && (pushes || instruction.is_call_near_indirect()) {
        return Write::Push;
    }
    found
}

/// Whether an instruction adds or subtracts one.
#[cfg(target_arch = "x86_64")]
fn counts(instruction: &iced_x86::Instruction) -> bool {
    use iced_x86::{Mnemonic, OpKind};

    match instruction.mnemonic() {
        Mnemonic::Inc | Mnemonic::Dec => return true,
        Mnemonic::Add | Mnemonic::Sub => {}
        _ => return false,
    }
    let by = match instruction.op1_kind() {
        OpKind::Immediate8
        | OpKind::Immediate16
        | OpKind::Immediate32
        | OpKind::Immediate8to16
        | OpKind::Immediate8to32
        | OpKind::Immediate8to64
        | OpKind::Immediate32to64 => instruction.immediate(1).cast_signed(),
        _ => return false,
    };
    // An 8-bit or 32-bit minus one that is not extended.
    matches!(by, 1 | -1) || matches!(by, 0xff | 0xffff | 0xffff_ffff)
}

/// Instructions of this processor are not known.
#[cfg(not(target_arch = "x86_64"))]
fn decode(_: &[u8]) -> Write {
    Write::Unreadable
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn counters_are_told_by_their_form() {
        for (code, expected) in [
            // add qword [rdi], 1; add dword [rax], 1; add word [rdi], 1
            (&[0x48, 0x83, 0x07, 0x01][..], Write::Count),
            (&[0x83, 0x00, 0x01], Write::Count),
            (&[0x66, 0x83, 0x07, 0x01], Write::Count),
            // sub dword [rax], 1; add dword [rax+8], -1; sub qword [rdi], imm32 1
            (&[0x83, 0x28, 0x01], Write::Count),
            (&[0x83, 0x40, 0x08, 0xff], Write::Count),
            (&[0x48, 0x81, 0x2f, 1, 0, 0, 0], Write::Count),
            // inc dword [rax]; dec byte [rdi]; add byte [rdi], 0xff
            (&[0xff, 0x00], Write::Count),
            (&[0xfe, 0x0f], Write::Count),
            (&[0x80, 0x07, 0xff], Write::Count),
            // lock add dword [rdi+8], 1; lock inc; lock dec; lock xadd; xadd
            (&[0xf0, 0x83, 0x47, 0x08, 0x01], Write::CountAtomic),
            (&[0xf0, 0xff, 0x07], Write::CountAtomic),
            (&[0xf0, 0x48, 0xff, 0x0f], Write::CountAtomic),
            (&[0xf0, 0x0f, 0xc1, 0x07], Write::CountAtomic),
            (&[0x48, 0x0f, 0xc1, 0x07], Write::CountAtomic),
            // add dword [rax], 2; add [rax], ecx; or dword [rax], 1; neg qword [rax]
            (&[0x83, 0x00, 0x02], Write::Modify),
            (&[0x01, 0x08], Write::Modify),
            (&[0x83, 0x08, 0x01], Write::Modify),
            (&[0x48, 0xf7, 0x18], Write::Modify),
        ] {
            assert_eq!(decode(code), expected, "{code:x?}");
        }
    }

    #[test]
    fn other_writes_are_told_too() {
        for (code, expected) in [
            // mov [rax], ecx; mov dword [rdi], 1; movups [rdi], xmm0; vmovdqu [rdi], ymm0
            (&[0x89, 0x08][..], Write::Store),
            (&[0xc7, 0x07, 1, 0, 0, 0], Write::Store),
            (&[0x0f, 0x11, 0x07], Write::Store),
            (&[0xc5, 0xfe, 0x7f, 0x07], Write::Store),
            // xchg [rdi], eax; lock cmpxchg [rdi], ecx
            (&[0x87, 0x07], Write::Exchange),
            (&[0xf0, 0x0f, 0xb1, 0x0f], Write::Exchange),
            // rep movsb; rep stosq
            (&[0xf3, 0xa4], Write::Block),
            (&[0xf3, 0x48, 0xab], Write::Block),
            // push rbp; call rel32; call [rax]
            (&[0x55], Write::Push),
            (&[0xe8, 0, 0, 0, 0], Write::Push),
            (&[0xff, 0x10], Write::Push),
            // mov eax, [rdi]; nop; syscall
            (&[0x8b, 0x07], Write::Other),
            (&[0x90], Write::Other),
            (&[0x0f, 0x05], Write::Other),
            // Not an instruction, part of one, nothing.
            (&[0x06], Write::Unreadable),
            (&[0x48], Write::Unreadable),
            (&[], Write::Unreadable),
        ] {
            assert_eq!(decode(code), expected, "{code:x?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_decode(code in proptest::collection::vec(proptest::num::u8::ANY, 0..20)) {
            let _ = decode(&code);
        }
    }
}
