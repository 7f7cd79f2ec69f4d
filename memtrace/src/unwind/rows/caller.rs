//! Where a function's caller's registers are at one of its instructions: what the file says of it,
//! in the terms that rows have.

use gimli::{CfaRule, RegisterRule, UnwindSection, UnwindTableRow};
use memtrace_common::unwind::{
    CFA_END, CFA_FP, CFA_PLT, CFA_SIGNAL, CFA_SP, CFA_UNSUPPORTED, FP_LOST, FP_SAME, OTHER_SAME,
    RULE_BASE_FP, RULE_BASE_OTHER, RULE_DEREF, RULE_FP_FROM_FP, RULE_FP_LOST, RULE_FP_SAVED,
    RULE_OTHER_SAME, RULE_OTHER_SAVED, Rule,
};

use crate::unwind::arch::{self, Architecture, Bytes, CfaExpression};

/// What a file says of a function's caller at one of its instructions.
#[derive(Clone, Copy)]
pub enum Caller {
    /// This `cfa` of a row says it all.
    Without(u16),
    /// Where its registers are.
    At(Registers),
}

/// Where a caller's registers are.
#[derive(Clone, Copy)]
pub struct Registers {
    pub base: Base,
    /// From the base to the CFA, or to where it is in memory.
    offset: i64,
    /// Whether the CFA is in memory.
    in_memory: bool,
    frame_pointer: FramePointer,
    /// `None` when it cannot be told.
    pub other: Option<Other>,
}

/// The register that a CFA is counted from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Base {
    StackPointer,
    FramePointer,
    Other,
}

/// Where the caller's frame pointer is.
#[derive(Clone, Copy)]
pub enum FramePointer {
    Same,
    Lost,
    /// In memory at this offset from the CFA.
    At(i64),
    /// In memory at this offset from the frame pointer.
    Relative(i64),
}

/// Where the caller's other register is.
#[derive(Clone, Copy)]
pub enum Other {
    Same,
    /// In memory at this offset from the CFA.
    At(i64),
}

impl Caller {
    /// What `row` says, which is a row of a signal's trampoline if `is_signal`.
    pub fn of<'data, S>(
        frames: &S,
        row: &UnwindTableRow<usize>,
        is_signal: bool,
        arch: &Architecture,
    ) -> Self
    where
        S: UnwindSection<Bytes<'data>>,
    {
        let expression = match row.cfa() {
            CfaRule::Expression(expression) => {
                expression.get(frames).ok().and_then(|it| arch.cfa(it))
            }
            CfaRule::RegisterAndOffset { .. } => None,
        };
        if is_signal {
            let interrupted = CfaExpression::InMemory {
                register: arch.stack_pointer,
                offset: arch.signal_stack_pointer,
            };
            return Self::Without(if expression == Some(interrupted) {
                CFA_SIGNAL
            } else {
                CFA_UNSUPPORTED
            });
        }
        match row.register(arch.return_address) {
            Some(RegisterRule::Undefined) => return Self::Without(CFA_END),
            Some(RegisterRule::Offset(offset)) if offset == arch.return_address_offset => {}
            _ => return Self::Without(CFA_UNSUPPORTED),
        }
        let (register, offset, in_memory) = match (row.cfa(), expression) {
            (&CfaRule::RegisterAndOffset { register, offset }, _) => (register, offset, false),
            (_, Some(CfaExpression::InMemory { register, offset })) => (register, offset, true),
            (_, Some(CfaExpression::LinkageTable { threshold })) => {
                return Self::Without(threshold << 3 | CFA_PLT);
            }
            _ => return Self::Without(CFA_UNSUPPORTED),
        };
        let Some(base) = Base::of(register, arch) else {
            return Self::Without(CFA_UNSUPPORTED);
        };
        Self::At(Registers {
            base,
            offset,
            in_memory,
            frame_pointer: FramePointer::of(frames, row, arch),
            other: Other::of(row, arch),
        })
    }
}

impl Registers {
    /// With a CFA at this offset from a base. What became of the other register is not told.
    pub fn new(base: Base, offset: i64, frame_pointer: FramePointer) -> Self {
        Self {
            base,
            offset,
            in_memory: false,
            frame_pointer,
            other: None,
        }
    }

    /// The `cfa` and `fp` of a row, if it all fits in one.
    pub fn short(&self) -> Option<(u16, i16)> {
        let kind = match self.base {
            Base::StackPointer if !self.in_memory => CFA_SP,
            Base::FramePointer if !self.in_memory => CFA_FP,
            _ => return None,
        };
        let offset = u16::try_from(self.offset)
            .ok()
            .filter(|offset| offset.is_multiple_of(8))?;
        let other = match self.other {
            Some(Other::Same) => OTHER_SAME,
            None => 0,
            Some(Other::At(_)) => return None,
        };
        Some((offset | kind, self.frame_pointer.short()? | other))
    }

    /// The rule that says it all; `None` when an offset is too large.
    pub fn rule(&self) -> Option<Rule> {
        let base = match self.base {
            Base::StackPointer => 0,
            Base::FramePointer => RULE_BASE_FP,
            Base::Other => RULE_BASE_OTHER,
        };
        let in_memory = if self.in_memory { RULE_DEREF } else { 0 };
        let (fp_offset, fp_flags) = match self.frame_pointer {
            FramePointer::Same => (0, 0),
            FramePointer::Lost => (0, RULE_FP_LOST),
            FramePointer::At(offset) => (offset, RULE_FP_SAVED),
            FramePointer::Relative(offset) => (offset, RULE_FP_SAVED | RULE_FP_FROM_FP),
        };
        let (other_offset, other_flags) = match self.other {
            Some(Other::Same) => (0, RULE_OTHER_SAME),
            None => (0, 0),
            Some(Other::At(offset)) => (offset, RULE_OTHER_SAVED),
        };
        Some(Rule {
            cfa_offset: self.offset.try_into().ok()?,
            fp_offset: fp_offset.try_into().ok()?,
            flags: base | in_memory | fp_flags | other_flags,
            other_offset: other_offset.try_into().ok()?,
        })
    }
}

impl Base {
    fn of(register: gimli::Register, arch: &Architecture) -> Option<Self> {
        if register == arch.frame_pointer {
            Some(Self::FramePointer)
        } else if register == arch.other {
            Some(Self::Other)
        } else {
            (register == arch.stack_pointer).then_some(Self::StackPointer)
        }
    }
}

impl FramePointer {
    fn of<'data, S>(frames: &S, row: &UnwindTableRow<usize>, arch: &Architecture) -> Self
    where
        S: UnwindSection<Bytes<'data>>,
    {
        match row.register(arch.frame_pointer) {
            None | Some(RegisterRule::SameValue) => Self::Same,
            Some(RegisterRule::Offset(offset)) => Self::At(offset),
            Some(RegisterRule::Expression(expression)) => {
                match expression.get(frames).ok().and_then(arch::place) {
                    Some((register, offset)) if register == arch.frame_pointer => {
                        Self::Relative(offset)
                    }
                    _ => Self::Lost,
                }
            }
            _ => Self::Lost,
        }
    }

    /// The `fp` of a row, if it fits.
    fn short(self) -> Option<i16> {
        match self {
            Self::Same => Some(FP_SAME),
            Self::Lost => Some(FP_LOST),
            Self::At(offset) => i16::try_from(offset)
                .ok()
                .filter(|offset| offset % 8 == 0 && *offset != FP_SAME),
            Self::Relative(_) => None,
        }
    }
}

impl Other {
    /// `None` when it cannot be told.
    fn of(row: &UnwindTableRow<usize>, arch: &Architecture) -> Option<Self> {
        match row.register(arch.other) {
            None | Some(RegisterRule::SameValue) => Some(Self::Same),
            Some(RegisterRule::Offset(offset)) => Some(Self::At(offset)),
            _ => None,
        }
    }
}
