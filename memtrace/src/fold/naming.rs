//! Names stacks: from addresses to functions, and to the call site that is blamed.
//!
//! [`Naming`] keeps what arrived from the BPF side until a stack is named. Naming itself looks into
//! files by way of a helper and may take long, so it is done on a thread of its own, [`Namer`],
//! which has [`Symbolizer`] and [`Instructions`]. Putting the answers together is [`put_together`],
//! a function of plain data.

use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use anyhow::{Context as _, Result};
use foldhash::HashMap;
use memtrace_common::unwind::StackEnd;
use tokio::sync::Notify;

use super::{Handle, Named, StackKey, Unnamed};
use crate::cause::{self, Allocators, Collectors, Instructions, Write, Writer};
use crate::collect::TakenStack;
use crate::interpreter::names::Names;
use crate::interpreter::{Interpreter, ScriptCall};
use crate::options::Unwind;
use crate::process::inspector::Inspector;
use crate::process::maps::AddressSpace;
use crate::profile::{Frame, Truncated, Unknown};
use crate::symbolize::coroutine;
use crate::symbolize::engine::{Engine, Memory};
use crate::symbolize::helper::{self, Helper};
use crate::symbolize::merge::{Native, merge};
use crate::symbolize::role::Role;
use crate::symbolize::{Symbolizer, blame};
use crate::unwind::is_exact;

/// Stacks of one program that are kept as they arrived, of some hundred bytes each: as many as the
/// BPF side remembers to have sent. Beyond that all are sent anew, when they are met again.
const MOST_ARRIVED: usize = 65_536;

/// What names stacks.
pub struct Naming {
    /// Names of functions and types of interpreters.
    pub names: Names,
    namer: Namer,
    /// Stacks by their id.
    arrived: HashMap<u64, Arrived>,
    /// The ids of each program's stacks; ids of different programs are different.
    of_program: HashMap<u64, Vec<u64>>,
    /// Programs of which too many have arrived.
    crowded: Vec<u64>,
}

/// A stack as it arrived, and the interpreter that ran its script frames.
struct Arrived {
    stack: TakenStack,
    interpreter: Option<Interpreter>,
}

impl Naming {
    /// Nothing has arrived yet. `unwind` is how native stacks are taken, which decides how far they
    /// are believed.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn new(unwind: Unwind) -> Result<Self> {
        Ok(Self {
            names: Names::default(),
            namer: Namer::start(unwind)?,
            arrived: HashMap::default(),
            of_program: HashMap::default(),
            crowded: Vec::new(),
        })
    }

    /// Keeps a stack of a program, whose script frames `interpreter` ran.
    pub fn stack_arrived(
        &mut self,
        id: u64,
        program: u64,
        stack: TakenStack,
        interpreter: Option<Interpreter>,
    ) {
        // One that the BPF side has forgotten that it was sent comes again.
        let arrived = Arrived { stack, interpreter };
        if self.arrived.insert(id, arrived).is_none() {
            let ids = self.of_program.entry(program).or_default();
            ids.push(id);
            if ids.len() == MOST_ARRIVED {
                self.crowded.push(program);
            }
        }
    }

    /// Programs of which too many stacks have arrived to keep them all, since the last call.
    pub fn take_crowded(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.crowded)
    }

    /// Forgets the stacks of a program that nobody runs any more, and of which all stacks have been
    /// asked for.
    pub fn forget_program(&mut self, program: u64) {
        for id in self.of_program.remove(&program).unwrap_or_default() {
            self.arrived.remove(&id);
        }
    }

    /// The addresses of a stack, the leaf first, as far as they have arrived.
    #[must_use]
    pub fn addresses(&self, id: u64) -> Option<&[u64]> {
        let arrived = self.arrived.get(&id)?;
        Some(&arrived.stack.native)
    }

    /// Asks for the names of stacks; several together are faster than one by one. They come back
    /// through [`Naming::next`].
    pub fn ask(&mut self, stacks: Vec<Unnamed>) {
        let questions = stacks.into_iter().map(|stack| self.question(stack));
        let questions = questions.collect();
        self.namer.ask(questions);
    }

    /// How many stacks have been asked for that have not come back.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.namer.outstanding
    }

    /// Names that have come back; `None` when there are none.
    pub fn next(&mut self) -> Option<Answers> {
        self.namer.next()
    }

    /// Waits until names have come back, on this thread; `None` when none was asked for.
    pub fn wait(&mut self) -> Option<Answers> {
        self.namer.wait()
    }

    /// Waits until names may have come back. Nothing is lost when this is dropped while it waits.
    pub async fn ready(&self) {
        self.namer.ready.notified().await;
    }

    fn question(&self, unnamed: Unnamed) -> Question {
        let Unnamed { handle, space } = unnamed;
        let (ip, taken) = match handle.key {
            StackKey::Taken { id, ip } => {
                let arrived = self.arrived.get(&id);
                (
                    ip,
                    arrived.map(|it| self.taken(it)).ok_or(Unknown::StackLost),
                )
            }
            StackKey::Instruction { ip, why } => (ip, Err(why)),
        };
        Question {
            handle,
            space,
            ip,
            taken,
        }
    }

    fn taken(&self, arrived: &Arrived) -> Taken {
        let Arrived { stack, interpreter } = arrived;
        let script = interpreter.iter().flat_map(|interpreter| {
            let frames = stack.script.iter();
            frames.map(|frame| self.names.name(interpreter, frame))
        });
        Taken {
            native: Arc::clone(&stack.native),
            end: stack.end,
            script: script.collect(),
            interpreter: interpreter.clone(),
            script_truncated: stack.script_truncated,
        }
    }
}

/// A stack that is to get its native names.
struct Question {
    handle: Handle,
    /// The mappings that it was taken with.
    space: AddressSpace,
    /// The instruction that wrote.
    ip: u64,
    /// What was taken, or why nothing was.
    taken: Result<Taken, Unknown>,
}

/// A stack that was taken; its script frames are named.
struct Taken {
    /// Addresses, the leaf first.
    native: Arc<[u64]>,
    /// Why the native frames end.
    end: StackEnd,
    /// Its script frames, innermost first.
    script: Vec<ScriptCall>,
    /// The interpreter that ran the script frames.
    interpreter: Option<Interpreter>,
    /// Whether there were more script frames, or they could not be read.
    script_truncated: bool,
}

impl Question {
    /// The addresses that have names, the leaf first.
    fn addresses(&self) -> &[u64] {
        match &self.taken {
            Ok(taken) => &taken.native,
            Err(_) => std::slice::from_ref(&self.ip),
        }
    }
}

/// Stacks and their names.
pub type Answers = Vec<(Handle, Named)>;

/// The thread that names stacks.
struct Namer {
    questions: Sender<Vec<Question>>,
    answers: Receiver<Answers>,
    /// Tells that there are answers.
    ready: Arc<Notify>,
    outstanding: usize,
}

impl Namer {
    fn start(unwind: Unwind) -> Result<Self> {
        let (questions, todo) = mpsc::channel::<Vec<Question>>();
        let (done, answers) = mpsc::channel();
        let ready = Arc::new(Notify::new());
        let tell = Arc::clone(&ready);
        std::thread::Builder::new()
            .name("names".to_owned())
            .spawn(move || {
                let mut files = Files::new(unwind);
                while let Ok(questions) = todo.recv() {
                    if done.send(files.answer(questions)).is_err() {
                        return;
                    }
                    tell.notify_one();
                }
            })
            .context("cannot start the thread that names functions")?;
        Ok(Self {
            questions,
            answers,
            ready,
            outstanding: 0,
        })
    }

    fn ask(&mut self, questions: Vec<Question>) {
        let several = questions.len();
        // The thread ends with this. If it has failed, its stacks stay without names.
        if self.questions.send(questions).is_ok() {
            self.outstanding += several;
        }
    }

    fn next(&mut self) -> Option<Answers> {
        let answers = self.answers.try_recv().ok();
        self.received(answers)
    }

    fn wait(&mut self) -> Option<Answers> {
        if self.outstanding == 0 {
            return None;
        }
        let answers = self.answers.recv().ok();
        self.received(answers)
    }

    fn received(&mut self, answers: Option<Answers>) -> Option<Answers> {
        self.outstanding -= answers.as_ref().map_or(0, Vec::len);
        answers
    }
}

/// What looks into files.
struct Files {
    unwind: Unwind,
    symbolizer: Symbolizer,
    instructions: Instructions,
    collectors: Collectors,
    allocators: Allocators,
    /// Looks for the code of collectors and allocators.
    code: Inspector,
}

impl Files {
    fn new(unwind: Unwind) -> Self {
        Self {
            unwind,
            symbolizer: Symbolizer::with(Helper::with(symbols())),
            instructions: Instructions::default(),
            collectors: Collectors::default(),
            allocators: Allocators::default(),
            code: Inspector::of(&cause::INSPECTOR, || cause::answerers().into()),
        }
    }

    fn answer(&mut self, questions: Vec<Question>) -> Answers {
        let stacks = questions
            .iter()
            .filter(|question| question.taken.is_ok())
            .map(|question| (&question.space, question.addresses()));
        self.symbolizer.prepare(stacks);
        let leaves = questions
            .iter()
            .map(|question| (&question.space, question.ip));
        self.instructions
            .prepare(leaves, self.symbolizer.inspector());
        let answers = questions.into_iter();
        answers
            .map(|question| (question.handle, self.name(question)))
            .collect()
    }

    fn name(&mut self, question: Question) -> Named {
        let space = question.space.clone();
        let addresses = question.addresses();
        let code = until_not_code(&space, addresses);
        let native = self.symbolizer.symbolize(&space, code);
        let inspector = self.symbolizer.inspector();
        let write = self.instructions.at(&space, question.ip, inspector);
        let left_code = code.len() < addresses.len();
        let last = code.last().copied().unwrap_or_default();
        let last = Last {
            is_mapped: space.find(last).is_some(),
            is_code: space.find(last).is_some_and(|mapping| mapping.executable),
            starts_context: starts_context(&space, last),
        };
        let taken = question.taken.map(|taken| Believed {
            left_code,
            last,
            trust: trust(self.unwind, taken.end),
            only_frame_pointers: self.unwind == Unwind::FramePointers,
            taken,
        });
        let code = &mut self.code;
        let runtime = self.collectors.role(&space, &native, code);
        let allocators = self.allocators.frames(&space, &native, code);
        let role = runtime.or((allocators > 0).then_some(Role::Allocator));
        let mut named = put_together(native, taken, write, allocators);
        named.writer = named.writer.within(role);
        let places = named.frames.iter().map(|frame| place(&space, frame));
        named.places = places.collect();
        named
    }
}

/// What reads symbols, and decodes instructions.
fn symbols() -> Inspector {
    Inspector::of(&helper::INSPECTOR, || {
        let engine = Engine::new(Memory::of_this_process(), "/proc/self/fd".into());
        let mut answerers = vec![helper::answerer(engine)];
        answerers.extend(cause::answerers());
        answerers
    })
}

/// Where a frame's code is in its file, which is the same in every process; 0 for what is in none.
fn place(space: &AddressSpace, frame: &Frame) -> u64 {
    if frame.language.is_interpreted() {
        return 0;
    }
    let mapping = space.find(frame.address);
    let mapping = mapping.filter(|mapping| mapping.module().is_some());
    mapping.map_or(0, |mapping| {
        mapping.offset.wrapping_add(frame.address - mapping.start)
    })
}

/// A stack that was taken, and how far it is believed.
struct Believed {
    taken: Taken,
    /// Whether an address was not in code, so that what follows was left out.
    left_code: bool,
    last: Last,
    trust: Native,
    /// Whether frame pointers were all that was to be followed.
    only_frame_pointers: bool,
}

/// The last address of a stack, in the mappings that it was taken with, as far as they are known by
/// now.
#[derive(Clone, Copy, Default)]
struct Last {
    is_mapped: bool,
    is_code: bool,
    /// Whether it is what a context's function returns to.
    starts_context: bool,
}

/// Whether a context's function returns to this address.
fn starts_context(space: &AddressSpace, address: u64) -> bool {
    let mapping = space.find(address).filter(|mapping| mapping.executable);
    let file = mapping.and_then(|mapping| Some((mapping, mapping.module()?.file()?)));
    let Some((mapping, file)) = file else {
        return false;
    };
    let offset = mapping.offset.wrapping_add(address - mapping.start);
    let mut code = [0; coroutine::START_CONTEXT_SIZE];
    let read = file.read_at(&mut code, offset).unwrap_or(0);
    coroutine::starts_context(&code[..read])
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
/// The first `allocators` frames are known to be an allocator's.
fn put_together(
    mut native: Vec<Frame>,
    taken: Result<Believed, Unknown>,
    write: Write,
    allocators: usize,
) -> Named {
    match taken {
        Ok(believed) => {
            let own = coroutine::frames_of_coroutine(&native);
            native.truncate(own.unwrap_or(native.len()));
            let truncated = why_truncated(&believed, own.is_some());
            let Believed { taken, trust, .. } = believed;
            let is_loop = |function: &str| {
                let interpreter = taken.interpreter.as_ref();
                interpreter.is_some_and(|known| known.instance.is_loop(function))
            };
            let is_silent = taken.interpreter.is_some()
                && taken.script.is_empty()
                && !taken.script_truncated
                && trust == Native::Exact;
            let frames = merge(native, taken.script, is_loop, trust);
            Named {
                site: blame(&frames, allocators),
                writer: Writer::of(write, &frames, is_silent),
                frames,
                places: Vec::new(),
                truncated,
                lost: false,
            }
        }
        Err(why) => {
            let mut frames = native;
            let site = blame(&frames, allocators);
            frames.push(Frame::placeholder("[unknown]", why));
            Named {
                site,
                writer: Writer::of(write, &frames, false),
                frames,
                places: Vec::new(),
                truncated: Some(Truncated::NotTaken),
                lost: why == Unknown::StackLost,
            }
        }
    }
}

/// Why frames are missing at a stack's root; `None` where none are, as far as can be known.
/// `in_coroutine`: the native frames are those of one, up to its start.
fn why_truncated(believed: &Believed, in_coroutine: bool) -> Option<Truncated> {
    let Believed { taken, last, .. } = believed;
    if taken.script_truncated {
        return Some(Truncated::Python);
    }
    if in_coroutine || taken.end == StackEnd::Gap && last.starts_context {
        return Some(Truncated::Coroutine);
    }
    // Where there are script frames and native ones are guessed, the script frames say where the
    // stack begins.
    if !taken.script.is_empty() && believed.trust == Native::Guessed {
        return None;
    }
    if believed.left_code || taken.end == StackEnd::NoMapping {
        return Some(if last.is_code {
            // It is known now, and was not when the stack was taken.
            Truncated::JustMapped
        } else if last.is_mapped {
            // It is no code, so it is no return address either.
            Truncated::Damaged
        } else {
            Truncated::NoMapping
        });
    }
    match taken.end {
        StackEnd::Outermost | StackEnd::FramePointers => None,
        // Where nothing but frame pointers is followed, that is how nearly every stack ends: the C
        // library has none.
        StackEnd::LostFramePointer if believed.only_frame_pointers => None,
        StackEnd::Depth => Some(Truncated::Depth),
        StackEnd::Off => Some(Truncated::NotTaken),
        StackEnd::NoMapping => Some(Truncated::NoMapping),
        StackEnd::NoRowsYet => Some(Truncated::TablesNotBuilt),
        StackEnd::NoTable | StackEnd::LostFramePointer => Some(Truncated::NoTables),
        StackEnd::NoRoom => Some(Truncated::NoRoom),
        StackEnd::Gap => Some(Truncated::Gap),
        StackEnd::Unsupported => Some(Truncated::Unsupported),
        StackEnd::Unreadable => Some(Truncated::Unreadable),
        StackEnd::Damaged => Some(Truncated::Damaged),
    }
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
