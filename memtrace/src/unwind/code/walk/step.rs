//! What each instruction does: to the frame, and to where the code goes on.

use super::super::region::{Came, Contradiction, Ended, Line, Reached, Region, callee};
use super::super::state::Frame;
use super::super::{INSIDE, UNSEEN};
use super::{State, StateId, TimeIsUp, UNPROVEN, Walker};
use crate::unwind::arch::instruction::{Effect, Flow, Instruction};

impl Walker<'_> {
    /// Follows code up to calls.
    pub(super) fn follow_region(
        &mut self,
        start: u32,
        state: StateId,
        region: &mut Region,
    ) -> Result<(), Ended> {
        let mut todo = vec![(start, state)];
        let mut came = Came::First;
        while let Some((index, state)) = todo.pop() {
            let mut line = Line {
                index,
                state,
                addresses: Vec::new(),
                cleared: Vec::new(),
                came,
            };
            came = Came::ByJump;
            while self.step(&mut line, region, &mut todo)? {}
        }
        Ok(())
    }

    /// Follows one instruction. Returns whether the next one is certain to follow.
    fn step(
        &mut self,
        line: &mut Line,
        region: &mut Region,
        todo: &mut Vec<(u32, StateId)>,
    ) -> Result<bool, Ended> {
        let index = line.index;
        match self.at[index as usize] {
            UNSEEN => {}
            known if known & !UNPROVEN == line.state => {
                region.is_proven |= known & UNPROVEN == 0;
                return Ok(false);
            }
            known => {
                if known != INSIDE && region.is_proven {
                    self.disputed.push(index);
                }
                return Err(Ended::Contradiction);
            }
        }
        let is_outermost = self.states[usize::from(line.state)] == State::Outermost;
        let came = std::mem::replace(&mut line.came, Came::Straight);
        if came != Came::First && self.starts.contains(&index) {
            // One function goes on as another.
            let at_start = self.at_start();
            if Some(line.state) != self.number(at_start) {
                return Err(Ended::Contradiction);
            }
            // What only runs into a function may be behind a call that does not return.
            region.is_proven |= came == Came::ByJump;
            return Ok(false);
        }
        let instruction = self.decode(index)?.ok_or(Contradiction)?;
        self.note(index, instruction.length, line.state, region)?;
        let next = index + instruction.length;
        let has_next = self.code.is_one_piece(index, next);
        if is_outermost {
            line.index = next;
            let goes_on = match instruction.flow {
                Flow::Next => !instruction.is_system_call,
                // A thread's function has returned, and the thread ends.
                Flow::CallTo(_) => self.ends_soon(next)?,
                _ => false,
            };
            return Ok(has_next && goes_on && self.at[next as usize] == UNSEEN);
        }
        let before = line.state;
        let state = self.after(line, &instruction)?;
        line.note(&instruction);
        match instruction.flow {
            Flow::Next => {}
            // What goes on as a function that has tables, or is elsewhere, is not followed.
            Flow::Branch(target) => {
                todo.extend(self.code.index_of(target).map(|index| (index, state)));
            }
            Flow::Jump(target) => {
                todo.extend(self.code.index_of(target).map(|index| (index, state)));
                return Ok(false);
            }
            Flow::Call(_) | Flow::CallAt(_) | Flow::CallTo(_) | Flow::CallAway => {
                self.call(line, &instruction, region);
                if has_next {
                    let callee = callee(line, &instruction);
                    region.behind_calls.push((next, state, callee));
                }
                return Ok(false);
            }
            Flow::JumpTo(_) | Flow::JumpAway => {
                self.jump_away(line, &instruction, region, (index, before));
                return Ok(false);
            }
            Flow::Return => {
                self.leave(before, region)?;
                return Ok(false);
            }
            Flow::Stop => return Ok(false),
        }
        line.index = next;
        line.state = state;
        Ok(has_next)
    }

    /// Whether a system call follows, and nothing but a few plain instructions before it.
    fn ends_soon(&mut self, mut index: u32) -> Result<bool, TimeIsUp> {
        for _ in 0..8 {
            let Some(instruction) = self.decode(index)? else {
                return Ok(false);
            };
            let next = index + instruction.length;
            if instruction.is_system_call {
                return Ok(true);
            }
            if instruction.flow != Flow::Next || !self.code.is_one_piece(index, next) {
                return Ok(false);
            }
            index = next;
        }
        Ok(false)
    }

    /// Notes an instruction and the state there.
    fn note(
        &mut self,
        index: u32,
        length: u32,
        state: StateId,
        region: &mut Region,
    ) -> Result<(), Contradiction> {
        let bytes = &mut self.at[index as usize..][..length as usize];
        if bytes.iter().any(|&byte| byte != UNSEEN) {
            return Err(Contradiction);
        }
        bytes.fill(INSIDE);
        bytes[0] = if region.is_settled || region.reached == Reached::Start {
            state
        } else {
            state | UNPROVEN
        };
        region.seen.push((index, length));
        Ok(())
    }

    /// The state after an instruction.
    fn after(&mut self, line: &mut Line, instruction: &Instruction) -> Result<StateId, Ended> {
        let State::In(frame) = self.states[usize::from(line.state)] else {
            return Ok(line.state);
        };
        if instruction.effect == Effect::ClearFrame || !line.cleared.is_empty() {
            line.cleared.push(line.index);
        }
        let after = frame.after(instruction.effect, self.word());
        // A new thread begins: after clearing the frame pointer, as the psABI asks of the outermost
        // function, it takes what there is on its new stack, or aligns that.
        let begins = after.is_err() || instruction.effect == Effect::LoseStack;
        let begins = begins && !line.cleared.is_empty() && instruction.flow == Flow::Next;
        let state = if begins {
            State::Outermost
        } else {
            State::In(after?)
        };
        if state == State::In(frame) {
            return Ok(line.state);
        }
        let number = self.number(state).ok_or(Contradiction)?;
        if begins {
            for &cleared in &line.cleared {
                self.at[cleared as usize] = number;
            }
        }
        Ok(number)
    }

    /// A call: what is called, and what it is given, are functions.
    fn call(&self, line: &Line, instruction: &Instruction, region: &mut Region) {
        region.calls.extend(self.target(line, instruction));
        let arguments = line
            .addresses
            .iter()
            .filter(|(register, _)| self.arch.arguments & 1 << register != 0);
        let arguments = arguments.filter_map(|&(_, address)| self.code.index_of(address));
        region.calls.extend(arguments);
    }

    /// A jump by a register or by memory: a function that is not told which, or a switch.
    fn jump_away(
        &mut self,
        line: &Line,
        instruction: &Instruction,
        region: &mut Region,
        from: (u32, StateId),
    ) {
        let at_start = self.at_start();
        if Some(from.1) == self.number(at_start)
            && let Some(target) = self.target(line, instruction)
        {
            // It goes on as a function whose address it has taken, with all that is its caller's in
            // place, as before a return.
            // Code of which that is only guessed may jump within its function.
            region.is_proven |= region.is_solid;
            region.calls.push(target);
        } else {
            region.away.push(from);
        }
    }

    /// What an instruction calls or jumps to, if that is part of this code.
    fn target(&self, line: &Line, instruction: &Instruction) -> Option<u32> {
        match callee(line, instruction)? {
            (true, address) => self.code.index_of(address),
            (false, _) => None,
        }
    }

    /// A return, before which there was this state.
    fn leave(&self, before: StateId, region: &mut Region) -> Result<(), Contradiction> {
        let State::In(frame) = self.states[usize::from(before)] else {
            return Ok(());
        };
        if let Some(stack) = frame.stack {
            let start = Frame::at_start(self.word());
            if Some(stack) != start.stack || frame.pointer != start.pointer {
                return Err(Contradiction);
            }
            region.is_proven = true;
            region.returns = true;
        }
        Ok(())
    }
}
