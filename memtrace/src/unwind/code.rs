//! Rows for code that a file's unwind tables say nothing of: musl, hand-written assembler, what
//! compilers add to each program.
//!
//! They are made of the code itself, by following it from where functions start ([`walk`]) and
//! noting what each instruction does to the stack ([`state`]). What cannot be decided so has no row,
//! and a stack ends there.
//!
//! The code is foreign. What is read of it has a bound, and what is done with it ends when the
//! file's budget does, or [`MAX_TIME`] is over; then there are no such rows, and tables are what
//! they are without.

mod read;
mod region;
mod state;
mod walk;

use std::time::Duration;

use self::state::{Frame, Pointer};
use self::walk::{State, TimeIsUp, Walker};
use super::arch::Architecture;
use super::rows::caller::{Base, Caller, FramePointer, Registers};
use crate::elf::Budget;
use memtrace_common::unwind::{CFA_END, CFA_GAP, CFA_SIGNAL};

/// For how long code is followed, once it is compiled as it is meant to run: without optimisation it
/// takes ten times as long.
const MAX_TIME: Duration = Duration::from_secs(if cfg!(debug_assertions) { 10 } else { 1 });

/// A byte of code of which nothing is known.
const UNSEEN: u16 = 0;
/// A byte of code that is not the first of its instruction.
const INSIDE: u16 = 1;

/// Code that no unwind table covers.
#[derive(Default)]
pub struct Code {
    /// All of it, one piece behind the other.
    bytes: Vec<u8>,
    /// Where pieces begin, in [`Code::bytes`] and in the file's own numbering, ascending.
    pieces: Vec<Piece>,
    /// Functions: where they start and end, ascending. One of which the end is not known has none.
    functions: Vec<(u64, u64)>,
    /// Where the program is entered.
    entry: Option<u64>,
}

/// Code that lies together.
#[derive(Clone, Copy, Debug)]
struct Piece {
    index: u32,
    address: u64,
    size: u32,
}

/// What is known of code, from one address up to the next.
pub struct Known {
    /// In the file's own numbering.
    pub address: u64,
    /// What the file would say of it.
    pub caller: Caller,
}

impl Code {
    /// Adds code that lies together. What does not lie behind what was added before, or is too
    /// much, is left out.
    fn add(&mut self, address: u64, bytes: &[u8]) {
        let (Ok(index), Ok(size)) = (u32::try_from(self.bytes.len()), u32::try_from(bytes.len()))
        else {
            return;
        };
        let is_behind = self.pieces.last().is_none_or(|last| last.end() <= address);
        if is_behind && address.checked_add(u64::from(size)).is_some() && size > 0 {
            self.pieces.push(Piece {
                index,
                address,
                size,
            });
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// Bytes of it.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// All that rows are built from: numbers, and bytes.
    pub fn contents(&self) -> (impl Iterator<Item = u64>, &[u8]) {
        let pieces = self.pieces.iter();
        let numbers = pieces.flat_map(|piece| [piece.address, u64::from(piece.size)]);
        let entry = [u64::from(self.entry.is_some()), self.entry.unwrap_or(0)];
        let functions = self.functions.iter();
        let functions = functions.flat_map(|&(start, end)| [start, end]);
        let numbers = numbers.chain(entry).chain(functions);
        (numbers, &self.bytes)
    }

    /// Where the code at an address is in it.
    fn index_of(&self, address: u64) -> Option<u32> {
        let after = self
            .pieces
            .partition_point(|piece| piece.address <= address);
        let piece = self.pieces.get(after.checked_sub(1)?)?;
        (address < piece.end()).then(|| piece.index + (address - piece.address) as u32)
    }

    /// Whether a function that starts at an index is known to go on to another one.
    fn is_of(&self, start: u32, index: u32) -> bool {
        let (_, start) = self.from(start);
        let (_, address) = self.from(index);
        let first = self
            .functions
            .partition_point(|function| function.0 < start);
        let of_start = self.functions[first..].iter();
        let mut of_start = of_start.take_while(|function| function.0 == start);
        of_start.any(|&(_, end)| (start..end).contains(&address))
    }

    /// Whether it is known where a function ends that starts at an index.
    fn has_end(&self, start: u32) -> bool {
        self.is_of(start, start)
    }

    fn piece(&self, index: u32) -> Piece {
        let after = self.pieces.partition_point(|piece| piece.index <= index);
        self.pieces[after.saturating_sub(1)]
    }

    /// The code from an index to the end of its piece, and its address.
    fn from(&self, index: u32) -> (&[u8], u64) {
        let piece = self.piece(index);
        let end = (piece.index + piece.size) as usize;
        let address = piece.address + u64::from(index - piece.index);
        (&self.bytes[index as usize..end], address)
    }

    /// Whether two indexes are of one piece.
    fn is_one_piece(&self, first: u32, second: u32) -> bool {
        let piece = self.piece(first);
        (piece.index..piece.index + piece.size).contains(&second)
    }

    /// What is known of it, by address; `None` when it takes too long.
    #[must_use]
    pub fn known(&self, arch: &'static Architecture, budget: &Budget) -> Option<Vec<Known>> {
        let own = Budget::new(MAX_TIME, 0);
        let clock = Clock { own, budget };
        let walker = self.walk(arch, &clock).ok()?;
        let mut known: Vec<Known> = Vec::new();
        let mut say = |address, caller| known.push(Known { address, caller });
        let mut pieces = self.pieces.iter().peekable();
        let mut end = None;
        let mut last = None;
        for (index, state) in walker.known() {
            if pieces.peek().is_none_or(|piece| piece.index != index) && last == Some(state) {
                continue;
            }
            last = Some(state);
            if let Some(piece) = pieces.next_if(|piece| piece.index == index)
                && let Some(end) = end.replace(piece.end())
            {
                say(end, Caller::Without(CFA_GAP));
            }
            let (_, address) = self.from(index);
            say(address, caller(state));
        }
        if let Some(end) = end {
            say(end, Caller::Without(CFA_GAP));
        }
        Some(known)
    }

    /// Follows all of it: twice, since what is behind a call depends on whether the function that
    /// is called can return.
    fn walk<'code>(
        &'code self,
        arch: &'static Architecture,
        clock: &'code Clock<'code>,
    ) -> Result<Walker<'code>, TimeIsUp> {
        let functions = self.functions.iter();
        let starts = functions.filter_map(|&(start, _)| self.index_of(start));
        let mut first = Walker::new(self, arch, clock, starts);
        first.follow_functions()?;
        let (starts, callees) = first.into_found();
        let mut second = Walker::new(self, arch, clock, starts).knowing(callees);
        second.follow_functions()?;
        second.follow_the_rest()?;
        second.forget_disputed()?;
        Ok(second)
    }
}

impl Piece {
    fn end(&self) -> u64 {
        self.address + u64::from(self.size)
    }
}

/// Whether there is time: of the file's budget, and of what following its code may take.
struct Clock<'budget> {
    own: Budget,
    budget: &'budget Budget,
}

impl Clock<'_> {
    fn has_time(&self) -> bool {
        self.own.has_time() && self.budget.has_time()
    }
}

/// What a file would say of code with this state.
fn caller(state: Option<State>) -> Caller {
    match state {
        Some(State::In(frame)) => registers(frame).map_or(Caller::Without(CFA_GAP), Caller::At),
        Some(State::Outermost) => Caller::Without(CFA_END),
        Some(State::SignalReturn) => Caller::Without(CFA_SIGNAL),
        None => Caller::Without(CFA_GAP),
    }
}

/// Where the caller's registers are; `None` where it cannot be told.
fn registers(frame: Frame) -> Option<Registers> {
    let (base, offset) = match (frame.stack, frame.pointer) {
        (Some(stack), _) => (Base::StackPointer, stack),
        (None, Pointer::Points(at)) => (Base::FramePointer, at),
        (None, _) => return None,
    };
    if offset % 8 != 0 {
        return None;
    }
    let frame_pointer = match (frame.pointer, frame.saved) {
        (Pointer::Callers, _) => FramePointer::Same,
        (_, Some(at)) => FramePointer::At(-i64::from(at)),
        (_, None) => FramePointer::Lost,
    };
    Some(Registers::new(base, i64::from(offset), frame_pointer))
}

#[cfg(test)]
mod tests;
