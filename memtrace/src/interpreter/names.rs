//! Names of Python functions and types, each found once.

use std::collections::HashMap;
use std::sync::Arc;

use log::debug;

use super::Instance;
use super::python::code::Code;
use super::python::types::type_name;
use super::tracker::InstanceId;
use crate::collect::{TakenFrame, TakenFunction};
use crate::process::memory::ReadMemory;
use crate::profile::{Frame, Language, Unknown};
use crate::symbolize::merge::PythonFrame;

/// Number of a type's name: types of one name have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeId(u32);

impl TypeId {
    /// Its place in [`Names::type_names`].
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// An interpreter and its number.
pub type Numbered<'a> = (InstanceId, &'a Instance);

/// What is known of the code objects and types of all interpreters.
#[derive(Default)]
pub struct Names {
    /// By interpreter, address, and what tells code objects at one address apart.
    codes: HashMap<(InstanceId, u64, u64), Code>,
    /// By interpreter and address; `None` where there is no name to be had.
    types: HashMap<(InstanceId, u64), Option<TypeId>>,
    /// Names of types, by number.
    called: Vec<Arc<str>>,
    by_name: HashMap<Arc<str>, TypeId>,
}

impl Names {
    /// Takes a code object as it was when it was first seen. What is missing of it is read from
    /// `memory`.
    pub fn take_code(&mut self, python: Numbered, taken: &TakenFunction, memory: &dyn ReadMemory) {
        let (id, instance) = python;
        let key = (id, taken.function, taken.fingerprint);
        if self.codes.contains_key(&key) {
            return;
        }
        match Code::decode(taken, &instance.layout, memory) {
            Some(code) => {
                self.codes.insert(key, code);
            }
            None => debug!(
                "the code object at {:#x} has no readable name",
                taken.function
            ),
        }
    }

    /// A Python frame with its name.
    #[must_use]
    pub fn frame(&self, python: Numbered, taken: &TakenFrame) -> PythonFrame {
        let (id, instance) = python;
        let code = self.codes.get(&(id, taken.function, taken.fingerprint));
        let line =
            code.and_then(|code| code.line(taken.function, taken.position, &instance.layout));
        PythonFrame {
            frame: Frame {
                function: code.map_or_else(|| "[unknown]".into(), |code| Arc::clone(&code.name)),
                file: code.map(|code| Arc::clone(&code.file)),
                line,
                module: None,
                address: taken.function,
                language: Language::Python,
                inlined: false,
                unknown: code.is_none().then_some(Unknown::CodeGone),
            },
            is_entry: taken.is_entry,
        }
    }

    /// The type at an address, which is read from `memory` the first time.
    pub fn type_at(
        &mut self,
        python: Numbered,
        address: u64,
        memory: impl FnOnce() -> Box<dyn ReadMemory>,
    ) -> Option<TypeId> {
        let (id, instance) = python;
        if let Some(known) = self.types.get(&(id, address)) {
            return *known;
        }
        let found = match type_name(address, &instance.layout, &*memory()) {
            Ok(name) => Some(self.type_of(&name)),
            Err(why) => {
                debug!("the type at {address:#x} has no name: {why:?}");
                None
            }
        };
        self.types.insert((id, address), found);
        found
    }

    /// The names of types, by [`TypeId::index`].
    #[must_use]
    pub fn type_names(&self) -> &[Arc<str>] {
        &self.called
    }

    fn type_of(&mut self, name: &str) -> TypeId {
        if let Some(&known) = self.by_name.get(name) {
            return known;
        }
        let id = TypeId(self.called.len() as u32);
        let name: Arc<str> = name.into();
        self.called.push(Arc::clone(&name));
        self.by_name.insert(name, id);
        id
    }
}
