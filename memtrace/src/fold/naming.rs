//! Names stacks: from addresses to functions, and to the call site that is blamed.
//!
//! [`Naming`] keeps what arrived from the BPF side until a stack is named, and asks [`Symbolizer`],
//! [`Names`] and [`Instructions`]. Putting the answers together is [`put_together`], a function of
//! plain data.

use std::collections::HashMap;

use memtrace_common::unwind::StackEnd;

use super::{Named, StackKey, Unnamed};
use crate::cause::{Instructions, Write};
use crate::collect::TakenStack;
use crate::interpreter::names::Names;
use crate::interpreter::{Interpreter, ScriptCall};
use crate::options::Unwind;
use crate::process::maps::AddressSpace;
use crate::profile::{Frame, Truncated, Unknown};
use crate::symbolize::merge::{Native, merge};
use crate::symbolize::{Symbolizer, blame};
use crate::unwind::is_exact;

/// What names stacks.
pub struct Naming {
    /// How native stacks are taken, which decides how far they are believed.
    unwind: Unwind,
    /// Names of functions and types of interpreters.
    pub names: Names,
    symbolizer: Symbolizer,
    instructions: Instructions,
    /// Stacks by their id.
    arrived: HashMap<u64, Arrived>,
}

/// A stack as it arrived, and the interpreter that ran its script frames.
struct Arrived {
    stack: TakenStack,
    interpreter: Option<Interpreter>,
}

impl Naming {
    /// Nothing has arrived yet.
    #[must_use]
    pub fn new(unwind: Unwind) -> Self {
        Self {
            unwind,
            names: Names::default(),
            symbolizer: Symbolizer::default(),
            instructions: Instructions::default(),
            arrived: HashMap::new(),
        }
    }

    /// Keeps a stack, whose script frames `interpreter` ran.
    pub fn stack_arrived(&mut self, id: u64, stack: TakenStack, interpreter: Option<Interpreter>) {
        self.arrived.insert(id, Arrived { stack, interpreter });
    }

    /// The addresses of a stack, the leaf first, as far as they have arrived.
    #[must_use]
    pub fn addresses(&self, id: u64) -> Option<&[u64]> {
        let arrived = self.arrived.get(&id)?;
        Some(&arrived.stack.native)
    }

    /// Names stacks; several together are faster than one by one.
    pub fn name(&mut self, stacks: &[Unnamed]) -> Vec<Named> {
        let known = stacks.iter().filter_map(|stack| {
            let StackKey::Taken { id, .. } = stack.key else {
                return None;
            };
            Some((&stack.space, &self.arrived.get(&id)?.stack.native[..]))
        });
        self.symbolizer.prepare(known);
        stacks.iter().map(|stack| self.name_one(stack)).collect()
    }

    fn name_one(&mut self, unnamed: &Unnamed) -> Named {
        let Unnamed { key, space, .. } = unnamed;
        let (arrived, ip, why) = match *key {
            StackKey::Taken { id, ip } => (self.arrived.get(&id), ip, Unknown::StackLost),
            StackKey::Instruction { ip, why } => (None, ip, why),
        };
        let lone = [ip];
        let addresses = arrived.map_or(&lone[..], |arrived| &arrived.stack.native);
        let code = until_not_code(space, addresses);
        let native = self.symbolizer.symbolize(space, code);
        let write = self.instructions.at(space, ip);
        let taken = arrived.map(|arrived| Taken {
            end: arrived.stack.end,
            script: script_calls(&self.names, arrived),
            interpreter: arrived.interpreter.as_ref(),
            script_truncated: arrived.stack.script_truncated,
            left_code: code.len() < addresses.len(),
            trust: trust(self.unwind, arrived.stack.end),
        });
        put_together(native, taken.ok_or(why), write)
    }
}

/// What is known about a stack that was taken, apart from its native frames.
struct Taken<'a> {
    /// Why the native frames end.
    end: StackEnd,
    /// Its script frames, named, innermost first.
    script: Vec<ScriptCall>,
    /// The interpreter that ran the script frames.
    interpreter: Option<&'a Interpreter>,
    /// Whether there were more script frames, or they could not be read.
    script_truncated: bool,
    /// Whether an address was not in code, so that what follows was left out.
    left_code: bool,
    trust: Native,
}

/// How far the native frames of a stack with this end can be believed.
fn trust(unwind: Unwind, end: StackEnd) -> Native {
    if is_exact(unwind, end) {
        Native::Exact
    } else {
        Native::Guessed
    }
}

/// Makes one stack out of native frames and what else was taken, or the reason why no stack was.
fn put_together(native: Vec<Frame>, taken: Result<Taken<'_>, Unknown>, write: Write) -> Named {
    match taken {
        Ok(taken) => {
            let truncated = why_truncated(&taken);
            let is_loop = |function: &str| {
                let interpreter = taken.interpreter;
                interpreter.is_some_and(|known| known.instance.is_loop(function))
            };
            let frames = merge(native, taken.script, is_loop, taken.trust);
            Named {
                site: blame(&frames),
                frames,
                truncated,
                write,
                lost: false,
            }
        }
        Err(why) => {
            let mut frames = native;
            let site = blame(&frames);
            frames.push(Frame::placeholder("[unknown]", why));
            Named {
                frames,
                site,
                truncated: Some(Truncated::NotTaken),
                write,
                lost: why == Unknown::StackLost,
            }
        }
    }
}

/// Why frames are missing at a stack's root; `None` where none are, as far as can be known.
fn why_truncated(taken: &Taken<'_>) -> Option<Truncated> {
    if taken.script_truncated {
        return Some(Truncated::Python);
    }
    // Where there are script frames and native ones are guessed, the script frames say where the
    // stack begins.
    if !taken.script.is_empty() && taken.trust == Native::Guessed {
        return None;
    }
    if taken.left_code {
        return Some(Truncated::NoMapping);
    }
    match taken.end {
        StackEnd::Outermost | StackEnd::FramePointers => None,
        StackEnd::Depth => Some(Truncated::Depth),
        StackEnd::Off => Some(Truncated::NotTaken),
        StackEnd::NoMapping => Some(Truncated::NoMapping),
        StackEnd::NoRowsYet => Some(Truncated::TablesNotBuilt),
        StackEnd::NoTable => Some(Truncated::NoTables),
        StackEnd::NoRoom => Some(Truncated::NoRoom),
        StackEnd::Gap => Some(Truncated::Gap),
        StackEnd::Unsupported => Some(Truncated::Unsupported),
        StackEnd::Unreadable => Some(Truncated::Unreadable),
        StackEnd::Damaged => Some(Truncated::Damaged),
    }
}

fn script_calls(names: &Names, arrived: &Arrived) -> Vec<ScriptCall> {
    let Some(interpreter) = &arrived.interpreter else {
        return Vec::new();
    };
    let frames = arrived.stack.script.iter();
    frames.map(|frame| names.name(interpreter, frame)).collect()
}

/// The addresses up to the first that is not in code: what follows it was found by following
/// something that is not a stack.
fn until_not_code<'a>(space: &AddressSpace, addresses: &'a [u64]) -> &'a [u64] {
    let not_code = |&address: &u64| {
        !space
            .find(address)
            .is_some_and(|mapping| mapping.executable)
    };
    match addresses.iter().position(not_code) {
        Some(at) if !space.is_gone() => &addresses[..=at],
        _ => addresses,
    }
}
