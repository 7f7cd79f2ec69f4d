//! Names of compiled functions, with source lines and inlined functions where there is debug
//! information.

use std::collections::HashMap;
use std::sync::Arc;

use blazesym::symbolize::source::{Elf, Source};
use blazesym::symbolize::{Input, Reason, Sym, Symbolized, Symbolizer as Blazesym};
use log::debug;

use super::modules::Module;
use crate::process::maps::{AddressSpace, Code};
use crate::profile::{Frame, Language, Unknown};
use crate::report::escape::escape;

/// Bytes of a file beyond which it is not opened.
pub const MAX_FILE_SIZE: u64 = 4 << 30;

/// Bytes of a file beyond which only its symbol table is used, and not its debug information,
/// whose index takes memory in proportion.
const MAX_DEBUG_FILE_SIZE: u64 = 256 << 20;

/// Characters of a function name that are kept: templates can make them endless.
const MAX_NAME: usize = 1024;

/// The functions at one place of a module, innermost first.
type Functions = Arc<[Function]>;

#[derive(Debug)]
struct Function {
    name: Arc<str>,
    file: Option<Arc<str>>,
    line: Option<u32>,
    inlined: bool,
    unknown: Option<Unknown>,
}

/// Names addresses; remembers what it has named.
#[derive(Debug)]
pub struct Symbolizer {
    blazesym: Blazesym,
    /// By module and offset in its file.
    known: HashMap<(usize, u64), Functions>,
    texts: Texts,
}

/// Names and paths as they are shown, each kept once.
#[derive(Debug, Default)]
struct Texts(HashMap<Box<str>, Arc<str>>);

impl Default for Symbolizer {
    fn default() -> Self {
        Self {
            // The files are held open by us and do not change.
            blazesym: Blazesym::builder().enable_auto_reload(false).build(),
            known: HashMap::new(),
            texts: Texts::default(),
        }
    }
}

impl Symbolizer {
    /// Names a stack: `addresses` leaf first, the first one an instruction and the others return
    /// addresses. A place in inlined functions gives several frames, the innermost first.
    ///
    /// What follows an address that is no code is left out: it was found by following something
    /// that is no stack.
    pub fn symbolize(&mut self, space: &AddressSpace, addresses: &[u64]) -> Vec<Frame> {
        self.look_up(space, addresses);
        let mut frames = Vec::with_capacity(addresses.len() + 4);
        for (depth, &address) in addresses.iter().enumerate() {
            let Some(mapping) = space.find(instruction(depth, address)) else {
                frames.push(nameless(address, None, Unknown::NoMapping));
                break;
            };
            let module = match &mapping.code {
                Code::Module(module) => module,
                Code::Anonymous(name) => {
                    let name = (!name.is_empty()).then(|| Arc::clone(name));
                    frames.push(nameless(address, name, Unknown::Anonymous));
                    continue;
                }
            };
            let offset = instruction(depth, address) - mapping.start + mapping.offset;
            if let Some(functions) = self.known.get(&(module.id, offset)) {
                frames.extend(functions.iter().map(|function| Frame {
                    function: Arc::clone(&function.name),
                    file: function.file.clone(),
                    line: function.line,
                    module: Some(Arc::clone(&module.path)),
                    address,
                    language: Language::Native,
                    inlined: function.inlined,
                    unknown: function.unknown,
                }));
            }
        }
        frames
    }

    /// Makes sure that every place in a module is known, with one question a module.
    fn look_up(&mut self, space: &AddressSpace, addresses: &[u64]) {
        let mut wanted: HashMap<usize, (&Arc<Module>, Vec<u64>)> = HashMap::new();
        for (depth, &address) in addresses.iter().enumerate() {
            let address = instruction(depth, address);
            if let Some(mapping) = space.find(address)
                && let Code::Module(module) = &mapping.code
            {
                let offset = address - mapping.start + mapping.offset;
                if !self.known.contains_key(&(module.id, offset)) {
                    wanted
                        .entry(module.id)
                        .or_insert((module, Vec::new()))
                        .1
                        .push(offset);
                }
            }
        }
        for (module, offsets) in wanted.into_values() {
            let named = self.name(module, &offsets);
            for (offset, functions) in offsets.into_iter().zip(named) {
                self.known.insert((module.id, offset), functions);
            }
        }
    }

    /// Names places of a module: as many results as `offsets`.
    fn name(&mut self, module: &Module, offsets: &[u64]) -> Vec<Functions> {
        let Self {
            blazesym, texts, ..
        } = self;
        let Some(path) = module.readable_path() else {
            return texts.no_functions(module, offsets, Unknown::NoFile);
        };
        let size = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
        let mut elf = Elf::new(path);
        elf.debug_syms = size <= MAX_DEBUG_FILE_SIZE;
        let mut answers = ask(blazesym, module, &elf, offsets);
        if elf.debug_syms
            && answers
                .iter()
                .any(|answer| matches!(answer, Err(Unknown::BadElf)))
        {
            // Debug information may be damaged, or packed in a way that is not known here.
            elf.debug_syms = false;
            answers = ask(blazesym, module, &elf, offsets);
        }
        let functions = offsets
            .iter()
            .zip(answers)
            .map(|(&offset, answer)| match answer {
                Ok(sym) => texts.functions(&sym),
                Err(why) => texts.no_function(module, offset, why),
            });
        functions.collect()
    }
}

/// What `elf`, the file of `module`, says of places in it: as many answers as `offsets`.
fn ask<'a>(
    blazesym: &'a Blazesym,
    module: &Module,
    elf: &Elf,
    offsets: &[u64],
) -> Vec<Result<Sym<'a>, Unknown>> {
    match blazesym.symbolize(&Source::Elf(elf.clone()), Input::FileOffset(offsets)) {
        Ok(answers) => answers
            .into_iter()
            .map(|answer| match answer {
                Symbolized::Sym(sym) => Ok(sym),
                Symbolized::Unknown(Reason::IgnoredError) => Err(Unknown::BadElf),
                Symbolized::Unknown(_) => Err(Unknown::NoSymbol),
            })
            .collect(),
        Err(error) => {
            debug!("{}: {error:#}", module.path);
            offsets.iter().map(|_| Err(Unknown::BadElf)).collect()
        }
    }
}

impl Texts {
    fn functions(&mut self, sym: &Sym<'_>) -> Functions {
        let outer = (&sym.name, sym.code_info.as_deref());
        let inlined = sym
            .inlined
            .iter()
            .map(|inlined| (&inlined.name, inlined.code_info.as_ref()));
        let nested: Vec<_> = std::iter::once(outer).chain(inlined).collect();
        let functions = nested
            .into_iter()
            .enumerate()
            .rev()
            .map(|(depth, (name, place))| Function {
                name: self.text(name),
                file: place.map(|place| self.text(&place.to_path().to_string_lossy())),
                line: place.and_then(|place| place.line).filter(|&line| line != 0),
                inlined: depth != 0,
                unknown: None,
            });
        functions.collect()
    }

    fn no_functions(&mut self, module: &Module, offsets: &[u64], why: Unknown) -> Vec<Functions> {
        offsets
            .iter()
            .map(|&offset| self.no_function(module, offset, why))
            .collect()
    }

    fn no_function(&mut self, module: &Module, offset: u64, why: Unknown) -> Functions {
        let name = self.text(&format!("{}+{offset:#x}", module.name()));
        Arc::from([Function {
            name,
            file: None,
            line: None,
            inlined: false,
            unknown: Some(why),
        }])
    }

    fn text(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.get(text) {
            return Arc::clone(known);
        }
        let end = text
            .char_indices()
            .nth(MAX_NAME)
            .map_or(text.len(), |(end, _)| end);
        let shown: Arc<str> = escape(&text[..end]).into();
        self.0.insert(text.into(), Arc::clone(&shown));
        shown
    }
}

/// The instruction that a frame is in: a return address is behind its call, and may already
/// belong to the next function.
fn instruction(depth: usize, address: u64) -> u64 {
    if depth == 0 {
        address
    } else {
        address.saturating_sub(1)
    }
}

fn nameless(address: u64, module: Option<Arc<str>>, why: Unknown) -> Frame {
    Frame {
        function: "[unknown]".into(),
        file: None,
        line: None,
        module,
        address,
        language: Language::Native,
        inlined: false,
        unknown: Some(why),
    }
}
