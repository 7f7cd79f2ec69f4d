//! Which functions code calls, by decoding it. Places are offsets in a file: code and what it calls
//! directly are in one segment, where offsets and addresses differ by a constant.

use serde::{Deserialize, Serialize};

use crate::process::inspector::{Answerer, Question};

/// What is asked about a file: what the call before a return address calls, if it names that itself.
#[derive(Debug, Serialize, Deserialize)]
pub struct Callee(pub u64);

impl Question for Callee {
    const NAME: &'static str = "callee";
    type Answer = Option<u64>;
}

/// What answers a [`Callee`].
pub fn answerer() -> Answerer {
    Answerer::new(|&Callee(return_address), files| callee(files[0], return_address))
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::fs::File;
    use std::os::unix::fs::FileExt as _;

    use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind};

    /// Bytes of a direct call.
    const CALL: u64 = 5;
    /// Bytes of a stub that jumps where the dynamic linker says, as far as they are looked at.
    const STUB: usize = 16;

    /// What the call before `return_address` calls, if it names that itself.
    #[must_use]
    pub fn callee(file: &File, return_address: u64) -> Option<u64> {
        let mut code = [0; CALL as usize];
        let at = return_address.checked_sub(CALL)?;
        file.read_exact_at(&mut code, at).ok()?;
        let call = Decoder::with_ip(64, &code, at, DecoderOptions::NONE).decode();
        call.is_call_near().then(|| call.near_branch_target())
    }

    /// What the function that `code` begins with calls directly. Where `code` is all of it, also
    /// what it ends with jumping to; else only the code up to the function's end counts.
    #[must_use]
    pub fn calls(code: &[u8], offset: u64, is_whole: bool) -> Vec<u64> {
        let end = offset + code.len() as u64;
        let mut decoder = Decoder::with_ip(64, code, offset, DecoderOptions::NONE);
        let mut found = Vec::new();
        // The furthest place that a branch so far leads to: the function is longer.
        let mut furthest = offset;
        while decoder.can_decode() {
            let instruction = decoder.decode();
            let target = instruction.near_branch_target();
            let ends = match instruction.flow_control() {
                FlowControl::Call if instruction.is_call_near() => {
                    found.push(target);
                    false
                }
                FlowControl::ConditionalBranch => {
                    furthest = furthest.max(if target < end { target } else { offset });
                    false
                }
                FlowControl::UnconditionalBranch if (offset..end).contains(&target) => {
                    furthest = furthest.max(target);
                    true
                }
                FlowControl::UnconditionalBranch => {
                    if is_whole {
                        found.push(target);
                    }
                    true
                }
                FlowControl::Return | FlowControl::IndirectBranch | FlowControl::Exception => true,
                _ => false,
            };
            if !is_whole && ends && furthest < instruction.next_ip() {
                break;
            }
        }
        found
    }

    /// Whether what is at `offset` only jumps where a pointer in memory leads: to a function of
    /// any file.
    #[must_use]
    pub fn is_stub(file: &File, offset: u64) -> bool {
        let mut code = [0; STUB];
        let Ok(read) = file.read_at(&mut code, offset) else {
            return false;
        };
        let decoder = Decoder::with_ip(64, &code[..read], offset, DecoderOptions::NONE);
        let first = decoder
            .into_iter()
            .find(|instruction| instruction.mnemonic() != Mnemonic::Endbr64);
        first.is_some_and(|first: Instruction| {
            first.flow_control() == FlowControl::IndirectBranch
                && first.op0_kind() == OpKind::Memory
        })
    }

    #[cfg(test)]
    mod tests {
        use std::io::Write as _;

        use super::*;

        /// `call 0x20; jmp 0x0` at offset 0x100, then what is not part of it.
        const CODE: &[u8] = &[
            0xe8, 0x1b, 0xff, 0xff, 0xff, // 0x100: call 0x20
            0x74, 0x02, // 0x105: je 0x109
            0xeb, 0xf7, // 0x107: jmp 0x100
            0xe9, 0xf2, 0xfe, 0xff, 0xff, // 0x109: jmp 0x0
            0xe8, 0x00, 0x00, 0x00, 0x00, // 0x10e: call 0x113
        ];

        #[test]
        fn a_function_calls_what_its_code_names() {
            assert_eq!(calls(&CODE[..14], 0x100, true), [0x20, 0]);
            assert_eq!(calls(CODE, 0x100, false), [0x20], "up to its end");
            assert!(calls(&[], 0x100, true).is_empty());
        }

        #[test]
        fn a_call_is_found_before_where_it_returns_to() {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&[&[0; 0x100], CODE].concat()).unwrap();
            assert_eq!(callee(&file, 0x105), Some(0x20));
            assert_eq!(callee(&file, 0x10e), None, "a jump");
            assert_eq!(callee(&file, 3), None);
            assert_eq!(callee(&file, 0x1000), None);
        }

        #[test]
        fn stubs_are_told_from_functions() {
            let mut file = tempfile::tempfile().unwrap();
            let jump = [0xff, 0x25, 1, 0, 0, 0];
            let marked = [&[0xf3, 0x0f, 0x1e, 0xfa][..], &jump].concat();
            let function = [0x55, 0xff, 0x25, 1, 0, 0, 0];
            for code in [&jump[..], &marked, &function] {
                file.write_all(code).unwrap();
                file.write_all(&vec![0x90; 0x20 - code.len()]).unwrap();
            }
            let are = [0, 0x20, 0x40, 0x1000].map(|at| is_stub(&file, at));
            assert_eq!(are, [true, true, false, false]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86_64::{callee, calls, is_stub};

/// Instructions of this processor are not known.
#[cfg(not(target_arch = "x86_64"))]
mod unknown {
    use std::fs::File;

    /// Not known.
    #[must_use]
    pub fn callee(_: &File, _: u64) -> Option<u64> {
        None
    }

    /// Not known.
    #[must_use]
    pub fn calls(_: &[u8], _: u64, _: bool) -> Vec<u64> {
        Vec::new()
    }

    /// Not known.
    #[must_use]
    pub fn is_stub(_: &File, _: u64) -> bool {
        false
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub use unknown::{callee, calls, is_stub};
