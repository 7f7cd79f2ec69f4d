//! Names of functions that interpreters run, and of types, each found once.

use std::sync::Arc;

use foldhash::HashMap;
use log::debug;

use super::entries::InstanceId;
use super::{Function, Interpreter, ScriptCall};
use crate::collect::{TakenFrame, TakenFunction};
use crate::process::memory::ReadMemory;
use crate::profile::{Frame, STATIC_TYPE, Unknown};

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

/// What is known of the functions and types of all interpreters.
#[derive(Default)]
pub struct Names {
    known: HashMap<InstanceId, Known>,
    /// Names of types, by number.
    by_number: Vec<Arc<str>>,
    by_name: HashMap<Arc<str>, TypeId>,
}

/// What is known of one interpreter.
#[derive(Default)]
struct Known {
    /// By address, and what tells functions at one address apart.
    functions: HashMap<(u64, u64), Box<dyn Function>>,
    /// By address; `None` for a type whose name could not be had.
    types: HashMap<u64, Option<TypeId>>,
}

impl Names {
    /// Forgets an interpreter that no process has any more.
    pub fn forget(&mut self, interpreter: InstanceId) {
        self.known.remove(&interpreter);
    }

    /// Adds a function as it was when it was first seen. What is missing of it is read from
    /// `memory`.
    pub fn add_function(
        &mut self,
        interpreter: &Interpreter,
        taken: &TakenFunction,
        memory: &dyn ReadMemory,
    ) {
        let functions = &mut self.known.entry(interpreter.id).or_default().functions;
        let key = (taken.function, taken.fingerprint);
        if functions.contains_key(&key) {
            return;
        }
        match interpreter.instance.function(taken, memory) {
            Some(function) => {
                functions.insert(key, function);
            }
            None => debug!("the function at {:#x} has no readable name", taken.function),
        }
    }

    /// A frame that an interpreter ran, with its name.
    #[must_use]
    pub fn name(&self, interpreter: &Interpreter, taken: &TakenFrame) -> ScriptCall {
        let known = self.known.get(&interpreter.id);
        let key = (taken.function, taken.fingerprint);
        let function = known.and_then(|known| known.functions.get(&key));
        let frame = Frame {
            function: function.map_or_else(|| "[unknown]".into(), |known| Arc::clone(known.name())),
            file: function.and_then(|known| known.file().cloned()),
            line: function.and_then(|known| known.line(taken.position)),
            module: None,
            address: taken.function,
            language: interpreter.instance.language(),
            inlined: false,
            unknown: function.is_none().then_some(Unknown::CodeGone),
        };
        ScriptCall {
            frame,
            is_entry: taken.is_entry,
        }
    }

    /// The type at an address, which is read from `memory` the first time.
    pub fn type_at(
        &mut self,
        interpreter: &Interpreter,
        address: u64,
        memory: impl FnOnce() -> Box<dyn ReadMemory>,
    ) -> Option<TypeId> {
        let known = self.known.entry(interpreter.id).or_default();
        if let Some(known) = known.types.get(&address) {
            return *known;
        }
        let found = match interpreter.instance.type_name(address, &*memory()) {
            Ok(name) => Some(self.number(&name)),
            Err(why) => {
                debug!("the type at {address:#x} has no name: {why}");
                None
            }
        };
        let known = self.known.entry(interpreter.id).or_default();
        known.types.insert(address, found);
        found
    }

    /// The type of an object, where types that are compiled into the interpreter are told from those
    /// that a program makes, see [`STATIC_TYPE`].
    pub fn with_static_types(
        &mut self,
        object_type: TypeId,
        is_compiled_in: impl FnOnce() -> bool,
    ) -> TypeId {
        if &*self.by_number[object_type.index()] == "type" && is_compiled_in() {
            self.number(STATIC_TYPE)
        } else {
            object_type
        }
    }

    /// The names of types, by [`TypeId::index`].
    #[must_use]
    pub fn type_names(&self) -> &[Arc<str>] {
        &self.by_number
    }

    fn number(&mut self, name: &str) -> TypeId {
        if let Some(&known) = self.by_name.get(name) {
            return known;
        }
        let id = TypeId(self.by_number.len() as u32);
        let name: Arc<str> = name.into();
        self.by_number.push(Arc::clone(&name));
        self.by_name.insert(name, id);
        id
    }
}

#[cfg(test)]
mod tests {
    use memtrace_common::interpreter::Handle;

    use super::super::entries::Entries;
    use super::super::toy::{Nothing, Toy, type_at};
    use super::*;
    use crate::probe::Tables;
    use crate::profile::Language;

    /// Two interpreters at the same place, of two programs.
    fn interpreters() -> [Interpreter; 2] {
        let mut entries = Entries::new(Tables::in_memory(1));
        [1, 2].map(|_| {
            let handle = entries.find_or_add(Arc::new(Toy { address: 7 }), None);
            let handle: Handle = handle.unwrap();
            entries.get(handle).unwrap().clone()
        })
    }

    fn taken(name: &str, fingerprint: u64) -> TakenFunction {
        TakenFunction {
            function: 0x1000,
            fingerprint,
            first_line: 10,
            name: (0x2000, name.as_bytes().into()),
            ..TakenFunction::default()
        }
    }

    fn frame(fingerprint: u64) -> TakenFrame {
        TakenFrame {
            function: 0x1000,
            position: 3,
            fingerprint,
            is_entry: true,
        }
    }

    #[test]
    fn types_that_are_compiled_in_are_told_from_others() {
        let [interpreter, _] = interpreters();
        let mut names = Names::default();
        let mut found = |address, name, is_compiled_in| {
            let found = names.type_at(&interpreter, address, || Box::new(type_at(address, name)));
            let told = names.with_static_types(found.unwrap(), || is_compiled_in);
            names.type_names()[told.index()].to_string()
        };
        assert_eq!(found(0x7000, "type", true), STATIC_TYPE);
        assert_eq!(found(0x7000, "type", false), "type");
        assert_eq!(found(0x8000, "str", true), "str");
    }

    #[test]
    fn functions_at_one_address_are_told_apart() {
        let [one, other] = interpreters();
        let mut names = Names::default();
        for (interpreter, name, fingerprint) in [
            (&one, "first", 1),
            (&one, "second", 2),
            (&other, "third", 1),
            (&one, "late", 1),
        ] {
            names.add_function(interpreter, &taken(name, fingerprint), &Nothing);
        }
        let called = |interpreter, fingerprint| {
            let call = names.name(interpreter, &frame(fingerprint));
            (call.frame.function.to_string(), call.frame.unknown)
        };
        assert_eq!(called(&one, 1), ("first".to_owned(), None));
        assert_eq!(called(&one, 2), ("second".to_owned(), None));
        assert_eq!(called(&other, 1), ("third".to_owned(), None));
        let gone = Some(Unknown::CodeGone);
        assert_eq!(called(&other, 2), ("[unknown]".to_owned(), gone));
    }

    #[test]
    fn a_frame_has_the_language_the_line_and_the_entry_of_its_interpreter() {
        let [one, _] = interpreters();
        let mut names = Names::default();
        names.add_function(&one, &taken("f", 1), &Nothing);
        let ScriptCall { frame, is_entry } = names.name(&one, &frame(1));
        assert_eq!(frame.language, Language::Python);
        assert_eq!((frame.line, frame.file), (Some(13), None));
        assert_eq!((frame.address, is_entry), (0x1000, true));
    }

    #[test]
    fn an_interpreter_that_is_forgotten_leaves_nothing() {
        let [one, other] = interpreters();
        let mut names = Names::default();
        names.add_function(&one, &taken("f", 1), &Nothing);
        names.add_function(&other, &taken("g", 1), &Nothing);
        names.forget(one.id);
        let gone = names.name(&one, &frame(1)).frame.unknown;
        assert_eq!(gone, Some(Unknown::CodeGone));
        assert_eq!(&*names.name(&other, &frame(1)).frame.function, "g");
    }

    #[test]
    fn a_type_is_read_once_and_types_of_one_name_are_one() {
        let [one, other] = interpreters();
        let mut names = Names::default();
        let memory = || Box::new(type_at(0x40, "List")) as Box<dyn ReadMemory>;
        let list = names.type_at(&one, 0x40, memory).unwrap();
        assert_eq!(&*names.type_names()[list.index()], "List");
        let again = names.type_at(&one, 0x40, || unreachable!("it is known"));
        assert_eq!(again, Some(list));
        assert_eq!(names.type_at(&other, 0x40, memory), Some(list));
        // That it has no name is also found out once.
        let nothing = || Box::new(Nothing) as Box<dyn ReadMemory>;
        assert_eq!(names.type_at(&one, 0x48, nothing), None);
        let again = names.type_at(&one, 0x48, || unreachable!("it is known"));
        assert_eq!(again, None);
    }
}
