//! Code that is followed from one place, and what is known of the functions that it calls.

use foldhash::{HashMap, HashSet};

use super::state::Impossible;
use super::walk::{StateId, TimeIsUp};
use crate::unwind::arch::instruction::{Flow, Instruction};

/// Code that is followed from one place, as far as that is certain.
#[derive(Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a finding by itself, and they come in any combination"
)]
pub struct Region {
    /// Instructions, with their lengths.
    pub seen: Vec<(u32, u32)>,
    /// What follows calls, with the function that is called where that is known.
    pub behind_calls: Vec<(u32, StateId, Option<Callee>)>,
    /// How it was reached.
    pub reached: Reached,
    /// Whether it is known to be of the function that was begun with.
    pub is_within: bool,
    /// Where functions that it calls start.
    pub calls: Vec<u32>,
    pub away: Vec<(u32, StateId)>,
    pub is_proven: bool,
    /// Whether what follows from that has been noted.
    pub is_settled: bool,
    /// Whether it is certain that the function which was begun with comes here.
    pub is_solid: bool,
    pub returns: bool,
}

/// A function that is called: its address, or where its address is.
pub type Callee = (bool, u64);

/// What is known of functions that are called.
#[derive(Default)]
pub struct Callees {
    /// Those that can return.
    pub returning: HashSet<Callee>,
    /// Of others, how often what follows their call goes well with it, less how often not.
    pub others: HashMap<Callee, i32>,
}

impl Callees {
    /// Whether a function returns; `None` when that is not known.
    pub fn return_from(&self, callee: Callee) -> Option<bool> {
        if self.returning.contains(&callee) {
            return Some(true);
        }
        let others = self.others.get(&callee);
        others.is_some_and(|&balance| balance < 0).then_some(false)
    }
}

/// How a region was reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reached {
    /// A function starts there.
    #[default]
    Start,
    /// By a guess that it is a function, or the case of a switch.
    Guess,
    /// It follows the call of a function that returns.
    BehindReturn,
    /// It follows the call of a function that may return.
    BehindCall,
}

/// What is followed next.
#[derive(Clone, Copy)]
pub struct Next {
    pub start: u32,
    pub state: StateId,
    pub reached: Reached,
    /// The function that was called before.
    pub callee: Option<Callee>,
}

/// A run of instructions, each of which is certain to follow the one before.
pub struct Line {
    /// The next one.
    pub index: u32,
    /// What is known there.
    pub state: StateId,
    /// Registers that have the address of something in the file.
    pub addresses: Vec<(u8, u64)>,
    /// Instructions from that on which cleared the frame pointer; none when it was not cleared.
    pub cleared: Vec<u32>,
    /// How it has come to the next one.
    pub came: Came,
}

/// How an instruction comes to run after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// It is the first of all.
    First,
    ByJump,
    Straight,
}

impl Line {
    /// An instruction changes registers.
    pub fn note(&mut self, instruction: &Instruction) {
        self.addresses
            .retain(|(register, _)| instruction.changes & 1 << register == 0);
        self.addresses.extend(instruction.address);
    }
}

/// What follows contradicts what was assumed.
pub struct Contradiction;

/// Why following a region ended early.
pub enum Ended {
    Contradiction,
    TimeIsUp,
}

impl From<TimeIsUp> for Ended {
    fn from(_: TimeIsUp) -> Self {
        Self::TimeIsUp
    }
}

impl From<Contradiction> for Ended {
    fn from(_: Contradiction) -> Self {
        Self::Contradiction
    }
}

impl From<Impossible> for Ended {
    fn from(_: Impossible) -> Self {
        Self::Contradiction
    }
}

/// What an instruction calls or jumps to by a register, as far as it can be told.
pub fn callee(line: &Line, instruction: &Instruction) -> Option<Callee> {
    match instruction.flow {
        Flow::Call(address) => Some((true, address)),
        Flow::CallAt(place) => Some((false, place)),
        Flow::CallTo(register) | Flow::JumpTo(register) => {
            let known = line.addresses.iter().find(|known| known.0 == register)?;
            Some((true, known.1))
        }
        _ => None,
    }
}
