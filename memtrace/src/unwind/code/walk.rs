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

use std::collections::BTreeMap;

use foldhash::{HashMap, HashSet};

use super::state::{Frame, Impossible};
use super::{Clock, Code, INSIDE, UNSEEN};
use crate::unwind::arch::Architecture;
use crate::unwind::arch::instruction::{Effect, Flow, Instruction};

/// Instructions after which the clock is looked at.
const CLOCK_EVERY: u32 = 1024;

/// How far from a switch its cases are, at most, in bytes. The largest functions that are known have
/// less.
const NEAR: u32 = 64 << 10;

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
type StateId = u16;

/// Follows code, and has what it found.
pub struct Walker<'code> {
    code: &'code Code,
    arch: &'static Architecture,
    clock: &'code Clock<'code>,
    /// For each byte of the code, the number of the state at the instruction that begins there.
    at: Vec<StateId>,
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
    /// Instructions of regions that are not proven.
    unproven: HashSet<u32>,
    steps: u32,
}

/// Time is up.
pub struct TimeIsUp;

/// Code that is followed from one place, as far as that is certain.
#[derive(Default)]
struct Region {
    /// Instructions, with their lengths.
    seen: Vec<(u32, u32)>,
    /// What follows calls, with the function that is called where that is known.
    behind_calls: Vec<(u32, StateId, Option<Callee>)>,
    /// How it was reached.
    reached: Reached,
    /// Whether it is known to be of the function that was begun with.
    is_within: bool,
    /// Where functions that it calls start.
    calls: Vec<u32>,
    away: Vec<(u32, StateId)>,
    is_proven: bool,
    returns: bool,
}

/// A function that is called: its address, or where its address is.
type Callee = (bool, u64);

/// What is known of functions that are called.
#[derive(Default)]
pub struct Callees {
    /// Those that can return.
    returning: HashSet<Callee>,
    /// Of others, how often what follows their call goes well with it, less how often not.
    others: HashMap<Callee, i32>,
}

impl Callees {
    /// Whether a function returns; `None` when that is not known.
    fn return_from(&self, callee: Callee) -> Option<bool> {
        if self.returning.contains(&callee) {
            return Some(true);
        }
        let others = self.others.get(&callee);
        others.is_some_and(|&balance| balance < 0).then_some(false)
    }
}

/// How a region was reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Reached {
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
struct Next {
    start: u32,
    state: StateId,
    reached: Reached,
    /// The function that was called before.
    callee: Option<Callee>,
}

/// A run of instructions, each of which is certain to follow the one before.
struct Line {
    /// The next one.
    index: u32,
    /// What is known there.
    state: StateId,
    /// Registers that have the address of something in the file.
    addresses: Vec<(u8, u64)>,
    /// Instructions from that on which cleared the frame pointer; none when it was not cleared.
    cleared: Vec<u32>,
    /// Whether the next one is the first of all.
    is_start: bool,
}

impl Line {
    /// An instruction changes registers.
    fn note(&mut self, instruction: &Instruction) {
        self.addresses
            .retain(|(register, _)| instruction.changes & 1 << register == 0);
        self.addresses.extend(instruction.address);
    }
}

/// What follows contradicts what was assumed.
struct Contradiction;

/// Why following a region ended early.
enum Ended {
    Contradiction,
    TimeIsUp,
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
            unproven: HashSet::default(),
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
            let known = (state != UNSEEN).then(|| self.states[usize::from(state)]);
            (index, known)
        })
    }

    /// A signal's handler returns to the kernel's trampoline, by an address that is its first
    /// instruction's: what is looked up is the byte before.
    fn mark_trampolines(&mut self) {
        let Some(state) = self.number(State::SignalReturn) else {
            return;
        };
        for &start in &self.todo {
            let (bytes, _) = self.code.from(start);
            if let Some(length) = (self.arch.signal_return)(bytes) {
                let before = start - u32::from(self.code.is_one_piece(start.saturating_sub(1), start));
                let end = start as usize + length;
                self.at[before as usize] = state;
                self.at[before as usize + 1..end].fill(INSIDE);
            }
        }
    }

    /// Whether the code from an index up to a call clears the frame pointer, as the psABI asks of a
    /// thread's outermost function.
    fn clears_frame(&mut self, mut index: u32) -> bool {
        while let Ok(Some(instruction)) = self.decode(index) {
            let next = index + instruction.length;
            if instruction.effect == Effect::ClearFrame {
                return true;
            }
            if instruction.flow != Flow::Next || !self.code.is_one_piece(index, next) {
                return false;
            }
            index = next;
        }
        false
    }

    /// Where the program is entered, nobody has called: it is jumped to by the kernel or by the
    /// dynamic linker. That holds up to the first call.
    fn mark_entry(&mut self) {
        let Some(entry) = self.code.entry.and_then(|entry| self.code.index_of(entry)) else {
            return;
        };
        let Some(state) = self.number(State::Outermost) else {
            return;
        };
        self.starts.remove(&entry);
        self.todo.retain(|&start| start != entry);
        let mut index = entry;
        if !self.clears_frame(entry) {
            return;
        }
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

    /// Follows code with each frame that it may have: that of a switch nearby, or a function's.
    fn follow_guess(&mut self, index: u32) -> Result<bool, TimeIsUp> {
        let at_start = self.at_start();
        let mut guesses: Vec<StateId> = self.number(at_start).into_iter().collect();
        let near = index.saturating_sub(NEAR)..=index.saturating_add(NEAR);
        for (_, &state) in self.away.range(near) {
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
                returns |= region.returns;
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
    fn open(
        &mut self,
        function: u32,
        next: Next,
        open: &mut Vec<Region>,
    ) -> Result<(), TimeIsUp> {
        let is_below_proven = open.last().is_some_and(|region| region.is_proven);
        let mut region = Region {
            is_proven: match next.reached {
                Reached::Start => true,
                Reached::BehindReturn => is_below_proven,
                Reached::Guess | Reached::BehindCall => false,
            },
            reached: next.reached,
            is_within: self.code.is_of(function, next.start),
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
        let is_guess = open.first().is_some_and(|first| first.reached == Reached::Guess);
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
        if known == state {
            if returns.is_some() && !self.unproven.contains(&behind) {
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
            region.is_proven = true;
            for (index, _) in &region.seen {
                self.unproven.remove(index);
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
            self.unproven.remove(&index);
            self.at[index as usize..][..length as usize].fill(UNSEEN);
        }
    }

    /// Follows code up to calls.
    fn follow_region(
        &mut self,
        start: u32,
        state: StateId,
        region: &mut Region,
    ) -> Result<(), Ended> {
        let mut todo = vec![(start, state)];
        let mut is_first = true;
        while let Some((index, state)) = todo.pop() {
            let mut line = Line {
                index,
                state,
                addresses: Vec::new(),
                cleared: Vec::new(),
                is_start: is_first,
            };
            is_first = false;
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
            known if known == line.state => {
                region.is_proven |= !self.unproven.contains(&index);
                return Ok(false);
            }
            _ => return Err(Ended::Contradiction),
        }
        let is_outermost = self.states[usize::from(line.state)] == State::Outermost;
        if !std::mem::take(&mut line.is_start) && self.starts.contains(&index) {
            // One function goes on as another.
            let at_start = self.at_start();
            if Some(line.state) != self.number(at_start) {
                return Err(Ended::Contradiction);
            }
            region.is_proven = true;
            return Ok(false);
        }
        let instruction = self.decode(index).map_err(|TimeIsUp| Ended::TimeIsUp)?;
        let instruction = instruction.ok_or(Contradiction)?;
        self.note(index, instruction.length, line.state, region)?;
        let next = index + instruction.length;
        let has_next = self.code.is_one_piece(index, next);
        if is_outermost {
            // What the outermost function does after its first call is not followed.
            line.index = next;
            return Ok(has_next && instruction.flow == Flow::Next);
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
        bytes[0] = state;
        region.seen.push((index, length));
        if !region.is_proven {
            self.unproven.insert(index);
        }
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
        let number = StateId::try_from(self.states.len()).ok()?;
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

/// What an instruction calls or jumps to by a register, as far as it can be told.
fn callee(line: &Line, instruction: &Instruction) -> Option<Callee> {
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
