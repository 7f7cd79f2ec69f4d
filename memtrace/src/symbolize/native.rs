//! Names for the addresses of compiled code.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use foldhash::{HashMap, HashSet};

use super::engine::{Found, NamedFunction, Query};
use super::helper::{Helper, MAX_ADDRESSES};
use crate::process::inspector::{Asked, Inspector};
use crate::process::maps::{AddressSpace, MappingKind};
use crate::process::modules::Module;
use crate::profile::{Frame, Language, Unknown};

/// Functions that are remembered with their addresses (about 100 bytes each). When there are more,
/// all are forgotten, and looked up again when they are needed.
const MAX_REMEMBERED: usize = 65_536;

/// Bytes of distinct names that are remembered; beyond that, too, everything is forgotten.
const MAX_NAMES: usize = 8 << 20;

/// Names addresses, each address of a file once.
pub struct Symbolizer {
    helper: Helper,
    /// By module and file offset.
    places: HashMap<(u32, u64), Arc<[Function]>>,
    remembered: usize,
    names: HashSet<Arc<str>>,
    names_size: usize,
    /// How many of a module's [`sources`] have failed, by module.
    failed: HashMap<u32, usize>,
}

/// One function at an address.
#[derive(Clone, Debug)]
struct Function {
    /// Unset when it is unknown: its name then depends on where it is called from.
    name: Option<Arc<str>>,
    file: Option<Arc<str>>,
    line: Option<u32>,
    inlined: bool,
    unknown: Option<Unknown>,
}

impl Function {
    fn unknown(why: Unknown) -> Self {
        Self {
            name: None,
            file: None,
            line: None,
            inlined: false,
            unknown: Some(why),
        }
    }
}

/// Where an address of a stack lies.
struct Spot {
    module: Option<Arc<Module>>,
    /// What [`Frame::module`] shows.
    shown: Option<Arc<str>>,
    /// Offset of the address in the mapped file; without a file, in the mapping.
    offset: u64,
    /// Whether to look at the byte before: it is a return address.
    caller: bool,
    unknown: Option<Unknown>,
}

impl Spot {
    fn of_stack(space: &AddressSpace, addresses: &[u64]) -> impl Iterator<Item = Self> {
        addresses
            .iter()
            .enumerate()
            .map(|(depth, &address)| Self::of(space, address, depth > 0))
    }

    fn of(space: &AddressSpace, address: u64, caller: bool) -> Self {
        let probe = address.wrapping_sub(u64::from(caller));
        let nowhere = |why| Self {
            module: None,
            shown: None,
            offset: address,
            caller,
            unknown: Some(why),
        };
        if space.is_not_permitted().is_some() {
            return nowhere(Unknown::NotPermitted);
        }
        if space.is_gone() {
            return nowhere(Unknown::ProcessGone);
        }
        let Some(mapping) = space.find(probe) else {
            return nowhere(Unknown::NoMapping);
        };
        let module = mapping.module().cloned();
        let unknown = match (&mapping.kind, &module) {
            (_, Some(module)) if module.file().is_none() => Some(Unknown::NoFile),
            (_, Some(module)) if module.layout().is_none() => Some(Unknown::BadElf),
            (_, Some(_)) => None,
            (MappingKind::Special(name), _) if name.as_ref() == "[vdso]" => Some(Unknown::NoFile),
            _ => Some(Unknown::Anonymous),
        };
        Self {
            shown: mapping.name(),
            offset: mapping.offset.wrapping_add(address - mapping.start),
            module,
            caller,
            unknown,
        }
    }

    /// The file offset to look at.
    fn probe(&self) -> u64 {
        self.offset.wrapping_sub(u64::from(self.caller))
    }

    fn key(&self) -> Option<(u32, u64)> {
        let module = self.module.as_ref().filter(|_| self.unknown.is_none())?;
        Some((module.id(), self.probe()))
    }

    /// What to call a function without a name: module and offset, where the offset is the address
    /// that the file itself gives, as disassemblers show it, or else the offset in the file.
    fn stand_in(&self) -> Arc<str> {
        let Some(shown) = &self.shown else {
            return "[unknown]".into();
        };
        let Some(module) = &self.module else {
            return format!("{shown}+{:#x}", self.offset).into();
        };
        let address = module
            .layout()
            .and_then(|layout| layout.address_of(self.probe()));
        let offset = address.map_or(self.offset, |address| {
            address.wrapping_add(u64::from(self.caller))
        });
        format!("{}+{offset:#x}", module.name()).into()
    }
}

impl Symbolizer {
    /// Parses files in a process of its own: see [`Helper::process`].
    #[must_use]
    pub fn new() -> Self {
        Self::with(Helper::process())
    }

    /// Parses files in this process. A crafted file can then end it; use it only for files that are
    /// trusted, such as one's own.
    #[cfg(test)]
    #[must_use]
    pub fn in_process() -> Self {
        Self::with(Helper::here())
    }

    /// By this helper.
    pub fn with(helper: Helper) -> Self {
        Self {
            helper,
            places: HashMap::default(),
            remembered: 0,
            names: HashSet::default(),
            names_size: 0,
            failed: HashMap::default(),
        }
    }

    /// What else can be asked about files that are named.
    pub fn inspector(&mut self) -> &mut Inspector {
        self.helper.inspector()
    }

    /// The frames of a stack, leaf first; inlined functions come before the one that they are
    /// inlined into. The first of `addresses` is the instruction itself, the others are return
    /// addresses, so the call is the byte before; [`Frame::address`] is always what was given.
    ///
    /// Every address gives at least one frame. What has no name says why.
    pub fn symbolize(&mut self, space: &AddressSpace, addresses: &[u64]) -> Vec<Frame> {
        self.keep_bounds();
        let spots: Vec<_> = Spot::of_stack(space, addresses).collect();
        self.look_up(&spots, false);
        let mut frames = Vec::with_capacity(addresses.len());
        for (spot, &address) in spots.iter().zip(addresses) {
            self.push_frames(spot, address, &mut frames);
        }
        frames
    }

    /// Looks up the addresses of many stacks at once, so that [`symbolize`](Self::symbolize) has
    /// them all at hand. Ten thousand addresses that are asked for together, and therefore in the
    /// order of the file, need a third to a tenth of the time that they need stack by stack. What
    /// would be too much to remember is left for later.
    pub fn prepare<'stack>(
        &mut self,
        stacks: impl IntoIterator<Item = (&'stack AddressSpace, &'stack [u64])>,
    ) {
        self.keep_bounds();
        let spots: Vec<_> = stacks
            .into_iter()
            .flat_map(|(space, addresses)| Spot::of_stack(space, addresses))
            .collect();
        self.look_up(&spots, true);
    }

    fn push_frames(&self, spot: &Spot, address: u64, frames: &mut Vec<Frame>) {
        let known = spot.key().and_then(|key| self.places.get(&key));
        let unknown = [Function::unknown(spot.unknown.unwrap_or(Unknown::NoSymbol))];
        let functions = known.map_or(unknown.as_slice(), |functions| functions);
        frames.extend(functions.iter().map(|function| Frame {
            function: function.name.clone().unwrap_or_else(|| spot.stand_in()),
            file: function.file.clone(),
            line: function.line,
            module: spot.shown.clone(),
            address,
            language: Language::Native,
            inlined: function.inlined,
            unknown: function.unknown,
        }));
    }

    /// Looks up all new spots, module by module; with `until_full`, only until there is too much to
    /// remember.
    fn look_up(&mut self, spots: &[Spot], until_full: bool) {
        let mut wanted: BTreeMap<u32, (&Arc<Module>, BTreeSet<u64>)> = BTreeMap::new();
        for spot in spots {
            if let (Some(key), Some(module)) = (spot.key(), &spot.module)
                && !self.places.contains_key(&key)
            {
                wanted
                    .entry(key.0)
                    .or_insert_with(|| (module, BTreeSet::new()))
                    .1
                    .insert(key.1);
            }
        }
        for (module, offsets) in wanted.into_values() {
            let offsets: Vec<_> = offsets.into_iter().collect();
            for offsets in offsets.chunks(MAX_ADDRESSES) {
                if until_full && self.is_full() {
                    return;
                }
                self.look_up_in(module, offsets);
            }
        }
    }

    /// Looks up file offsets of one module in its sources, best first. A source that fails as a
    /// whole is not asked again.
    fn look_up_in(&mut self, module: &Arc<Module>, offsets: &[u64]) {
        let Some(layout) = module.layout() else {
            return;
        };
        let mut left = Vec::new();
        for &offset in offsets {
            match layout.address_of(offset) {
                Some(address) => left.push((offset, address)),
                None => self.remember(module, offset, Err(Unknown::NoSymbol)),
            }
        }
        let mut damaged = false;
        for (rank, source) in sources(module).enumerate() {
            if left.is_empty() {
                return;
            }
            let failed = self.failed.entry(module.id()).or_default();
            if rank < *failed {
                damaged = true;
                continue;
            }
            let query = Query {
                debug_info: source.debug_info,
                addresses: left.iter().map(|&(_, address)| address).collect(),
            };
            let Ok(Ok(answers)) = self.helper.ask(&query, source.asked) else {
                *failed = rank + 1;
                let what = if source.debug_info {
                    "debug information"
                } else {
                    "symbols"
                };
                log::warn!(
                    "cannot read the {what} of {}; going on without",
                    module.path()
                );
                damaged = true;
                continue;
            };
            let asked = std::mem::take(&mut left);
            for (spot, answer) in asked.iter().zip(answers) {
                match answer {
                    Found::Functions(named) if !named.is_empty() => {
                        self.remember(module, spot.0, Ok(named));
                    }
                    Found::Functions(_) | Found::Damaged => {
                        damaged = true;
                        left.push(*spot);
                    }
                    Found::NoSymbol => self.remember(module, spot.0, Err(Unknown::NoSymbol)),
                }
            }
        }
        let why = if damaged {
            Unknown::BadElf
        } else {
            Unknown::NoSymbol
        };
        for (offset, _) in left {
            self.remember(module, offset, Err(why));
        }
    }

    fn remember(
        &mut self,
        module: &Module,
        offset: u64,
        found: Result<Vec<NamedFunction>, Unknown>,
    ) {
        let functions: Arc<[Function]> = match found {
            Err(why) => [Function::unknown(why)].into(),
            Ok(named) => {
                let last = named.len() - 1;
                named
                    .into_iter()
                    .enumerate()
                    .map(|(depth, named)| Function {
                        name: Some(self.name(named.function)),
                        file: named.file.map(|file| self.name(file)),
                        line: named.line,
                        inlined: depth < last,
                        unknown: None,
                    })
                    .collect()
            }
        };
        self.remembered += functions.len();
        self.places.insert((module.id(), offset), functions);
    }

    /// One copy of every name.
    fn name(&mut self, name: String) -> Arc<str> {
        if let Some(known) = self.names.get(name.as_str()) {
            return Arc::clone(known);
        }
        self.names_size += name.len();
        let name: Arc<str> = name.into();
        self.names.insert(Arc::clone(&name));
        name
    }

    fn is_full(&self) -> bool {
        self.remembered > MAX_REMEMBERED || self.names_size > MAX_NAMES
    }

    /// Forgets everything when too much is remembered.
    fn keep_bounds(&mut self) {
        if self.is_full() {
            self.places.clear();
            self.names.clear();
            (self.remembered, self.names_size) = (0, 0);
        }
    }
}

impl Default for Symbolizer {
    fn default() -> Self {
        Self::new()
    }
}

/// A file to look in, and whether to look for DWARF.
struct SymbolSource<'module> {
    asked: Asked<'module>,
    debug_info: bool,
}

/// Where a module's symbols are looked for, in this order: its own DWARF; a separate debug file's
/// DWARF, and its symbol table; its own symbol tables.
///
/// A file that names another one to complete its DWARF is only followed there when it is a
/// separate debug file, which the administrator installed.
fn sources(module: &Module) -> impl Iterator<Item = SymbolSource<'_>> {
    let own = module
        .layout()
        .is_some_and(|layout| layout.has_debug_info && !layout.has_debug_link);
    let separate = if own { None } else { module.debug_asked() };
    let of = |debug_info| move |asked| SymbolSource { asked, debug_info };
    [
        module.asked().filter(|_| own).map(of(true)),
        separate.map(of(true)),
        separate.map(of(false)),
        module.asked().map(of(false)),
    ]
    .into_iter()
    .flatten()
}
