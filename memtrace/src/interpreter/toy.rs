//! An interpreter that is not a real one, for tests of what knows only the contract.
//!
//! Every process that has the C library mapped has it. What it does in a process is told by a word
//! of that process's memory. It borrows the table of another kind, of which it writes one field.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use memtrace_common::interpreter::Kind;
use memtrace_common::interpreter::python::Layout;

use super::{Data, Function, Instance, Loader, NoTypeName, Recognised, Role};
use crate::collect::TakenFunction;
use crate::elf::{Facts, Wanted};
use crate::probe::Tables;
use crate::process::memory::ReadMemory;
use crate::profile::Language;

/// What a file has that has it.
pub const SYMBOL: &str = "getpid";
/// Its loop.
pub const LOOP: &str = "toy_run";
/// Its allocator.
pub const ALLOCATOR: &str = "toy_allocate";

/// It is not there.
pub const ABSENT: u64 = 0;
/// It has not initialised.
pub const NOT_YET: u64 = 1;
/// It cannot be walked.
pub const REFUSED: u64 = 2;

/// Says what the interpreter does in this process; greater numbers than [`REFUSED`] are addresses
/// of one that runs.
#[derive(Clone, Copy)]
pub struct Control(&'static AtomicU64);

impl Control {
    pub fn new(state: u64) -> Self {
        Self(Box::leak(Box::new(AtomicU64::new(state))))
    }

    pub fn set(self, state: u64) {
        self.0.store(state, Ordering::SeqCst);
    }

    /// Loaders that look at this word, of the process that they are asked about.
    pub fn loaders(self) -> Vec<&'static dyn Loader> {
        vec![Box::leak(Box::new(ToyLoader(self.0.as_ptr() as u64)))]
    }
}

/// Has the address of the word.
struct ToyLoader(u64);

struct ToyData {
    /// Of `getpid`, as the file has it.
    symbol: u64,
    control: u64,
}

/// One that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toy {
    pub address: u64,
}

struct ToyFunction {
    name: Arc<str>,
    first_line: u32,
}

impl Loader for ToyLoader {
    fn kind(&self) -> Kind {
        Kind::Python
    }

    fn wanted(&self) -> Wanted {
        Wanted::symbols([SYMBOL])
    }

    fn load(&self, facts: &Facts) -> Option<Box<dyn Data>> {
        let symbol = facts.symbol(SYMBOL)?;
        let control = self.0;
        Some(Box::new(ToyData { symbol, control }))
    }

    fn role(&self, function: &str) -> Option<Role> {
        (function == ALLOCATOR).then_some(Role::Allocator)
    }
}

impl Data for ToyData {
    fn instance(&self, bias: u64, memory: &dyn ReadMemory) -> Recognised {
        let loaded = self.symbol.wrapping_add(bias);
        assert_eq!(loaded, libc::getpid as *const () as u64, "the bias");
        let name = "Toy".to_owned();
        match memory.word(self.control) {
            None | Some(ABSENT) => Recognised::None,
            Some(NOT_YET) => Recognised::NotYet { name },
            Some(REFUSED) => Recognised::Refused {
                name,
                why: "it is broken".to_owned(),
            },
            Some(address) => Recognised::Runs(Arc::new(Toy { address })),
        }
    }
}

impl Instance for Toy {
    fn name(&self) -> &'static str {
        "Toy 1"
    }

    fn kind(&self) -> Kind {
        Kind::Python
    }

    fn language(&self) -> Language {
        Language::Python
    }

    fn write(&self, tables: &Tables, index: u32) {
        let layout = Layout {
            runtime: self.address,
            ..Layout::default()
        };
        tables.pythons.write(index as usize, &layout);
    }

    fn same_as(&self, other: &dyn Instance) -> bool {
        (other as &dyn std::any::Any).downcast_ref() == Some(self)
    }

    fn function(&self, taken: &TakenFunction, _: &dyn ReadMemory) -> Option<Box<dyn Function>> {
        let name = String::from_utf8(taken.name.1.to_vec()).ok()?;
        Some(Box::new(ToyFunction {
            name: name.into(),
            first_line: taken.first_line,
        }))
    }

    fn type_name(&self, address: u64, memory: &dyn ReadMemory) -> Result<String, NoTypeName> {
        let name = memory.c_string(address, 8).ok_or(NoTypeName::Unreadable)?;
        String::from_utf8(name).map_err(|_| NoTypeName::NotAType)
    }

    fn is_loop(&self, function: &str) -> bool {
        function == LOOP
    }
}

impl Function for ToyFunction {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn file(&self) -> Option<&Arc<str>> {
        None
    }

    fn line(&self, position: u64) -> Option<u32> {
        Some(self.first_line + position as u32)
    }
}

/// Memory with nothing in it.
pub struct Nothing;

impl ReadMemory for Nothing {
    fn read(&self, _: u64, _: &mut [u8]) -> bool {
        false
    }
}

/// Memory with a type at an address, and zeroes behind it.
pub struct TypeMemory(u64, &'static str);

/// Memory in which there is a type of this name.
pub fn type_at(address: u64, name: &'static str) -> TypeMemory {
    TypeMemory(address, name)
}

impl ReadMemory for TypeMemory {
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
        buffer.fill(0);
        for (to, from) in buffer.iter_mut().zip(self.1.bytes()) {
            *to = from;
        }
        address == self.0
    }
}
