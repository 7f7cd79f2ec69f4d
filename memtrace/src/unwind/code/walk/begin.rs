//! Code that nobody calls: where a program is entered, and where a signal's handler returns to.

use super::super::{INSIDE, UNSEEN};
use super::{State, Walker};
use crate::unwind::arch::instruction::Flow;

impl Walker<'_> {
    /// A signal's handler returns to the kernel's trampoline, by an address that is its first
    /// instruction's: what is looked up is the byte before.
    pub(super) fn mark_trampolines(&mut self) {
        let Some(state) = self.number(State::SignalReturn) else {
            return;
        };
        for &start in &self.todo {
            let (bytes, _) = self.code.from(start);
            if let Some(length) = (self.arch.signal_return)(bytes) {
                let end = start as usize + length;
                self.at[start as usize] = state;
                self.at[start as usize + 1..end].fill(INSIDE);
                let before = start.saturating_sub(1);
                let (bytes, address) = self.code.from(before);
                let filler = (self.arch.decode)(bytes, address);
                let is_filler = filler.is_some_and(|it| it.is_padding && it.length == 1);
                if is_filler && self.code.is_one_piece(before, start) {
                    self.at[before as usize] = state;
                    self.at[start as usize] = INSIDE;
                }
            }
        }
    }

    /// Where the program is entered, nobody has called: it is jumped to by the kernel or by the
    /// dynamic linker. That holds up to the first call.
    pub(super) fn mark_entry(&mut self) {
        let Some(entry) = self.code.entry.and_then(|entry| self.code.index_of(entry)) else {
            return;
        };
        let Some(state) = self.number(State::Outermost) else {
            return;
        };
        self.starts.remove(&entry);
        self.todo.retain(|&start| start != entry);
        let mut index = entry;
        while self.at[index as usize] == UNSEEN
            && let Ok(Some(instruction)) = self.decode(index)
        {
            let next = index + instruction.length;
            self.at[index as usize..next as usize].fill(INSIDE);
            self.at[index as usize] = state;
            if let Flow::Call(target) = instruction.flow
                && let Some(target) = self.code.index_of(target)
                && self.starts.insert(target)
            {
                self.todo.push(target);
            }
            if instruction.flow != Flow::Next || !self.code.is_one_piece(index, next) {
                break;
            }
            index = next;
        }
    }
}
