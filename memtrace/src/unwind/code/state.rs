//! Where a function's frame is at one of its instructions.

use crate::unwind::arch::instruction::{Effect, From};

/// What is known of the frame that an instruction runs in. Distances are in bytes below the
/// canonical frame address, so all of them are positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Frame {
    /// How far down the stack pointer is; `None` when it cannot be told.
    pub stack: Option<i32>,
    /// What the frame pointer is.
    pub pointer: Pointer,
    /// How far down the caller's frame pointer is in memory, if it is known to be.
    pub saved: Option<i32>,
}

/// What the frame pointer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pointer {
    /// What it was in the caller.
    Callers,
    /// It points this far below the canonical frame address.
    Points(i32),
    /// Something else.
    Other,
}

/// The stack pointer would be above what the caller pushed, or further away than any frame is: no
/// function does that, so what led here was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Impossible;

/// What is larger than this is no frame.
const LARGEST: i32 = 64 << 20;

impl Frame {
    /// At a function's first instruction, when a call pushes `pushed` bytes.
    pub fn at_start(pushed: i32) -> Self {
        Self {
            stack: Some(pushed),
            pointer: Pointer::Callers,
            saved: None,
        }
    }

    /// After an instruction with this effect, where a word has `word` bytes and a call pushes one.
    ///
    /// # Errors
    /// When no function does that.
    pub fn after(mut self, effect: Effect, word: i32) -> Result<Self, Impossible> {
        match effect {
            Effect::None => {}
            Effect::Push { frame } => {
                self.stack = self.stack.map(|stack| stack + word);
                if frame {
                    self.save(self.stack);
                }
            }
            Effect::Pop { frame } => {
                let at = self.stack;
                if frame {
                    self.load(at);
                }
                self.move_stack(at.map(|at| at - word));
            }
            Effect::SetStack(from, by) => self.move_stack(self.place(from, by)),
            Effect::SetFrame(by) => {
                let to = self.place(From::Stack, by);
                self.pointer = to.map_or(Pointer::Other, Pointer::Points);
            }
            Effect::Leave => {
                self.stack = self.place(From::Frame, 0);
                let at = self.stack;
                self.load(at);
                self.move_stack(at.map(|at| at - word));
            }
            Effect::SaveFrame(from, at) => {
                let at = self.place(from, at);
                if at.is_some() {
                    self.save(at);
                }
            }
            Effect::LoadFrame(from, at) => self.load(self.place(from, at)),
            Effect::ClearFrame | Effect::ChangeFrame => self.pointer = Pointer::Other,
            Effect::LoseStack => self.stack = None,
        }
        let possible = |stack| (word..LARGEST).contains(&stack);
        if self.stack.is_none_or(possible) {
            Ok(self)
        } else {
            Err(Impossible)
        }
    }

    /// How far down the place is that is `by` bytes above what a register points to.
    fn place(&self, from: From, by: i64) -> Option<i32> {
        let base = match (from, self.pointer) {
            (From::Stack, _) => self.stack?,
            (From::Frame, Pointer::Points(at)) => at,
            (From::Frame, _) => return None,
        };
        // What does not fit is no frame.
        let by = i32::try_from(by).ok()?;
        base.checked_sub(by)
    }

    /// The frame pointer is stored at `at`.
    fn save(&mut self, at: Option<i32>) {
        match self.pointer {
            Pointer::Callers => self.saved = at,
            _ if at == self.saved => self.saved = None,
            _ => {}
        }
    }

    /// The frame pointer is loaded from `at`.
    fn load(&mut self, at: Option<i32>) {
        if at.is_some() && at == self.saved {
            self.pointer = Pointer::Callers;
            self.saved = None;
        } else {
            self.pointer = Pointer::Other;
        }
    }

    /// The stack pointer becomes `to`. What it leaves below it is not kept.
    fn move_stack(&mut self, to: Option<i32>) {
        let rises = matches!((self.stack, to), (Some(from), Some(to)) if to < from);
        self.stack = to;
        if rises && self.saved > to {
            self.saved = None;
        }
    }
}
