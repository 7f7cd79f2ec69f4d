//! Follows code from where functions start, and notes what is known of the frame at each
//! instruction.
//!
//! What is noted must hold. A function's start is certain: a symbol, a call or the address of a
//! function says so, and its frame there is known. From there on each instruction says what
//! follows. Two things are not certain:
//!
//! - whether a call returns: behind one that does not, there may be anything;
//! - code that nothing is known to lead to: the cases of a switch, and functions that are only
//!   called through tables.
//!
//! What follows these is a *region* of its own, which is dropped unless something proves it: a
//! return with the stack and the frame pointer as the caller left them, which is what a return
//! needs, or a way into code that is proven and has the same frame. Where the assumed frame were
//! wrong by a word, neither would fit. A region that contradicts what is proven, or itself, is
//! dropped.
//!
//! Functions are followed twice. The first time shows which of them can return, and behind calls of
//! which others something else begins: these do not.

mod begin;
mod step;

use std::collections::BTreeMap;

use foldhash::{HashMap, HashSet};

use super::region::{Callee, Callees, Ended, Next, Reached, Region};
use super::state::Frame;
use super::{Clock, Code, INSIDE, UNSEEN};
use crate::unwind::arch::Architecture;
use crate::unwind::arch::instruction::{Flow, Instruction};

/// Instructions after which the clock is looked at.
const CLOCK_EVERY: u32 = 1024;

/// How far from a switch its cases are, at most, in bytes. The largest functions that are known have
/// less.
const NEAR: u32 = 64 << 10;

/// Switches before and behind it whose case some code may be.
const FEW: usize = 6;

/// What is known at an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Its function's frame.
    In(Frame),
    /// It runs in the outermost function of a thread.
    Outermost,
    /// A signal's handler returns to it.
    SignalReturn,
}

/// A state's number; small ones have a meaning of their own.
pub type StateId = u16;

/// Bit of what is noted of an instruction: its region is not proven.
const UNPROVEN: u16 = 1 << 15;

/// Follows code, and has what it found.
pub struct Walker<'code> {
    code: &'code Code,
    arch: &'static Architecture,
    clock: &'code Clock<'code>,
    /// For each byte of the code, the number of the state at the instruction that begins there, and
    /// [`UNPROVEN`].
    at: Vec<u16>,
    states: Vec<State>,
    numbers: HashMap<State, StateId>,
    /// Where functions start.
    starts: HashSet<u32>,
    /// Of these, those that were not followed yet.
    todo: Vec<u32>,
    /// What is known of functions that are called.
    callees: Callees,
    /// Jumps that lead nobody knows where, and the states there.
    away: BTreeMap<u32, StateId>,
    /// Instructions at which two ways that are both certain met with different states.
    disputed: Vec<u32>,
    steps: u32,
}

/// Time is up.
pub struct TimeIsUp;

impl<'code> Walker<'code> {
    /// Nothing was followed yet.
    pub fn new(
        code: &'code Code,
        arch: &'static Architecture,
        clock: &'code Clock<'code>,
        starts: impl IntoIterator<Item = u32>,
    ) -> Self {
        let starts: HashSet<u32> = starts.into_iter().collect();
        let mut todo: Vec<u32> = starts.iter().copied().collect();
        // Popped from the end, the first one first.
        todo.sort_unstable_by(|a, b| b.cmp(a));
        let mut walker = Self {
            code,
            arch,
            clock,
            at: vec![UNSEEN; code.bytes.len()],
            // The numbers that have a meaning of their own.
            states: vec![State::Outermost; usize::from(INSIDE) + 1],
            numbers: HashMap::default(),
            starts,
            todo,
            callees: Callees::default(),
            away: BTreeMap::new(),
            disputed: Vec::new(),
            steps: 0,
        };
        walker.mark_trampolines();
        walker.mark_entry();
        walker
    }

    /// The same, when this is known of functions that are called.
    pub fn knowing(mut self, callees: Callees) -> Self {
        self.callees = callees;
        self
    }

    /// Where functions were found to start, and what is known of those that are called.
    pub fn into_found(self) -> (HashSet<u32>, Callees) {
        (self.starts, self.callees)
    }

    /// What is known at each byte of the code at which something else may be known than at the byte
    /// before.
    pub fn known(&self) -> impl Iterator<Item = (u32, Option<State>)> {
        let all = self.at.iter().zip(0..);
        let begins = all.filter(|&(&state, _)| state != INSIDE);
        begins.map(|(&state, index)| {
            let known = (state != UNSEEN).then(|| self.states[usize::from(state & !UNPROVEN)]);
            (index, known)
        })
    }

    /// Follows all functions whose start is known, and those that they call.
    ///
    /// # Errors
    /// When time is up.
    pub fn follow_functions(&mut self) -> Result<(), TimeIsUp> {
        while let Some(start) = self.todo.pop() {
            if self.at[start as usize] == UNSEEN {
                let frame = self.at_start();
                self.follow(start, frame, Reached::Start)?;
            }
        }
        Ok(())
    }

    /// Follows what nothing is known to lead to, where it can be proven.
    ///
    /// # Errors
    /// When time is up.
    pub fn follow_the_rest(&mut self) -> Result<(), TimeIsUp> {
        let mut index = 0;
        let mut is_begin = true;
        while (index as usize) < self.at.len() {
            if self.at[index as usize] != UNSEEN {
                index += 1;
                is_begin = true;
                continue;
            }
            let Some(instruction) = self.decode(index)? else {
                index += 1;
                continue;
            };
            if instruction.is_padding {
                index += instruction.length;
                continue;
            }
            if is_begin && self.follow_guess(index)? {
                self.follow_functions()?;
                continue;
            }
            // The next one that can be begun with is behind one that does not lead there.
            is_begin = matches!(
                instruction.flow,
                Flow::Jump(_) | Flow::JumpAway | Flow::JumpTo(_) | Flow::Return | Flow::Stop
            );
            index += instruction.length;
        }
        Ok(())
    }

    /// Forgets what is known where certain ways met with different states, and from there on up to
    /// the next jump or call: one of the ways is never taken, and which one is not known.
    ///
    /// # Errors
    /// When time is up.
    pub fn forget_disputed(&mut self) -> Result<(), TimeIsUp> {
        for mut index in std::mem::take(&mut self.disputed) {
            while self.at[index as usize] > INSIDE
                && let Some(instruction) = self.decode(index)?
            {
                let next = index + instruction.length;
                self.at[index as usize..next as usize].fill(UNSEEN);
                if instruction.flow != Flow::Next || !self.code.is_one_piece(index, next) {
                    break;
                }
                index = next;
            }
        }
        Ok(())
    }

    /// Follows code with each frame that it may have: that of a switch nearby, or a function's.
    fn follow_guess(&mut self, index: u32) -> Result<bool, TimeIsUp> {
        let at_start = self.at_start();
        let mut guesses: Vec<StateId> = self.number(at_start).into_iter().collect();
        let before = self.away.range(index.saturating_sub(NEAR)..index).rev();
        let behind = self.away.range(index..index.saturating_add(NEAR));
        for (_, &state) in before.take(FEW).chain(behind.take(FEW)) {
            if !guesses.contains(&state) {
                guesses.push(state);
            }
        }
        for guess in guesses {
            let state = self.states[usize::from(guess)];
            if self.follow(index, state, Reached::Guess)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Follows code from `start` on. Returns whether anything was kept.
    fn follow(&mut self, start: u32, state: State, reached: Reached) -> Result<bool, TimeIsUp> {
        let Some(state) = self.number(state) else {
            return Ok(false);
        };
        let mut open: Vec<Region> = Vec::new();
        let mut next = Some(Next {
            start,
            state,
            reached,
            callee: None,
        });
        let (mut is_kept, mut returns) = (false, false);
        loop {
            if let Some(next) = next.take() {
                self.open(start, next, &mut open)?;
            }
            let Some(region) = open.last_mut() else { break };
            if let Some((behind, state, callee)) = region.behind_calls.pop() {
                next = self.behind_call(behind, state, callee, &mut open);
                continue;
            }
            let region = open.pop().unwrap_or_default();
            if region.is_proven {
                is_kept = true;
                returns |= region.returns && region.is_solid;
            } else {
                self.drop_region(&region);
            }
        }
        if reached == Reached::Start && returns {
            let (_, address) = self.code.from(start);
            self.callees.returning.insert((true, address));
        }
        Ok(is_kept)
    }

    /// Follows what is next, and opens a region for it unless it contradicts itself.
    fn open(&mut self, function: u32, next: Next, open: &mut Vec<Region>) -> Result<(), TimeIsUp> {
        let is_below_proven = open.last().is_some_and(|region| region.is_proven);
        let is_below_solid = open.last().is_some_and(|region| region.is_solid);
        let is_within = self.is_within(function, &next)?;
        let mut region = Region {
            is_proven: match next.reached {
                Reached::Start => true,
                Reached::BehindReturn => is_below_proven,
                Reached::Guess | Reached::BehindCall => false,
            },
            reached: next.reached,
            is_solid: match next.reached {
                Reached::Start => true,
                Reached::BehindReturn => is_below_solid,
                Reached::BehindCall => is_below_solid && is_within,
                Reached::Guess => false,
            },
            is_within,
            ..Region::default()
        };
        match self.follow_region(next.start, next.state, &mut region) {
            Err(Ended::TimeIsUp) => return Err(TimeIsUp),
            Err(Ended::Contradiction) => {
                self.drop_region(&region);
                if is_below_proven {
                    self.count(next.callee, -1);
                }
            }
            Ok(()) => {
                let is_proven = region.is_proven;
                open.push(region);
                if is_proven {
                    self.count(next.callee, 1);
                    self.prove(open);
                }
            }
        }
        Ok(())
    }

    /// Whether what follows a call is of the function that was begun with. Where a symbol does not
    /// say how long that is, a frame that is more than a return address, and nothing that fills
    /// space up to where another function may start, speak for it.
    fn is_within(&mut self, function: u32, next: &Next) -> Result<bool, TimeIsUp> {
        if next.reached != Reached::BehindCall {
            return Ok(false);
        }
        if self.code.has_end(function) {
            return Ok(self.code.is_of(function, next.start));
        }
        let at_start = self.at_start();
        let is_bare = Some(next.state) == self.number(at_start);
        let instruction = self.decode(next.start)?;
        Ok(!is_bare && instruction.is_some_and(|it| !it.is_padding))
    }

    /// What is next behind a call, if it is not known yet.
    fn behind_call(
        &mut self,
        behind: u32,
        state: StateId,
        callee: Option<Callee>,
        open: &mut [Region],
    ) -> Option<Next> {
        let returns = callee.and_then(|callee| self.callees.return_from(callee));
        if returns == Some(false) {
            return None;
        }
        let is_certain = open.last().is_some_and(|region| region.is_proven);
        let is_guess = open
            .first()
            .is_some_and(|first| first.reached == Reached::Guess);
        if is_guess && !is_certain && returns.is_none() {
            return None;
        }
        let known = self.at[behind as usize];
        if known == UNSEEN && !self.starts.contains(&behind) {
            return Some(Next {
                start: behind,
                state,
                reached: if returns.is_some() {
                    Reached::BehindReturn
                } else {
                    Reached::BehindCall
                },
                callee,
            });
        }
        if known & !UNPROVEN == state {
            if returns.is_some() && known == state {
                self.prove(open);
            }
        } else if is_certain {
            self.count(callee, -1);
        }
        None
    }

    /// Counts what speaks for or against that a function returns.
    fn count(&mut self, callee: Option<Callee>, by: i32) {
        if let Some(callee) = callee {
            *self.callees.others.entry(callee).or_default() += by;
        }
    }

    /// The last of these regions is proven, and with it those that it was reached from, as far as
    /// that is certain.
    fn prove(&mut self, open: &mut [Region]) {
        for at in (0..open.len()).rev() {
            let region = &mut open[at];
            if region.is_settled {
                break;
            }
            region.is_proven = true;
            region.is_settled = true;
            for (index, _) in &region.seen {
                self.at[*index as usize] &= !UNPROVEN;
            }
            self.away.extend(region.away.drain(..));
            for start in std::mem::take(&mut region.calls) {
                if self.at[start as usize] == UNSEEN && self.starts.insert(start) {
                    self.todo.push(start);
                }
            }
            // What follows a function that does not return may be anything, and proves nothing of
            // what was before.
            if region.reached == Reached::BehindCall && !region.is_within {
                break;
            }
        }
    }

    fn drop_region(&mut self, region: &Region) {
        for &(index, length) in &region.seen {
            self.at[index as usize..][..length as usize].fill(UNSEEN);
        }
    }

    fn word(&self) -> i32 {
        i32::try_from(-self.arch.return_address_offset).unwrap_or_default()
    }

    fn at_start(&self) -> State {
        State::In(Frame::at_start(self.word()))
    }

    fn number(&mut self, state: State) -> Option<StateId> {
        if let Some(&known) = self.numbers.get(&state) {
            return Some(known);
        }
        let number = StateId::try_from(self.states.len()).ok();
        let number = number.filter(|&number| number < UNPROVEN)?;
        self.states.push(state);
        self.numbers.insert(state, number);
        Some(number)
    }

    fn decode(&mut self, index: u32) -> Result<Option<Instruction>, TimeIsUp> {
        self.steps = self.steps.wrapping_add(1);
        if self.steps.is_multiple_of(CLOCK_EVERY) && !self.clock.has_time() {
            return Err(TimeIsUp);
        }
        let (bytes, address) = self.code.from(index);
        Ok((self.arch.decode)(bytes, address))
    }
}
