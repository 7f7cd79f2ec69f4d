//! Asks every loader what runs in a process, and keeps what loaders found in files.

use foldhash::HashMap;

use super::{Data, Loader, Recognised};
use crate::elf::Facts;
use crate::process::maps::AddressSpace;
use crate::process::memory::ReadMemory;
use crate::process::modules::Module;

/// Files whose data is kept; when there are more, all of them are read again.
const MAX_FILES: usize = 16_384;

/// Places in an address space where an interpreter's file is looked at: a file may be loaded more
/// than once.
const MAX_PLACES: usize = 8;

/// Recognises interpreters in processes.
pub struct Recogniser {
    loaders: Vec<&'static dyn Loader>,
    /// By [`Module::id`](crate::process::modules::Module::id); `None` for a file without an
    /// interpreter.
    files: HashMap<u32, Option<Recognisable>>,
}

/// What loaders say of a file with an interpreter, or with several.
type Recognisable = Vec<Box<dyn Data>>;

/// Asks each loader.
fn load(loaders: &[&'static dyn Loader], facts: &Facts) -> Option<Recognisable> {
    let data = loaders.iter().filter_map(|loader| loader.load(facts));
    let data: Vec<_> = data.collect();
    (!data.is_empty()).then_some(data)
}

impl Recogniser {
    /// Asks these loaders.
    pub fn new(loaders: Vec<&'static dyn Loader>) -> Self {
        Self {
            loaders,
            files: HashMap::default(),
        }
    }

    /// Whether it knows no interpreter.
    pub fn knows_none(&self) -> bool {
        self.loaders.is_empty()
    }

    /// What runs in the process that has the mappings `space` and the memory `memory`. Where there
    /// is more than one interpreter, one that runs is preferred, then one that may still come to.
    pub fn recognise(&mut self, space: &AddressSpace, memory: &dyn ReadMemory) -> Recognised {
        let mut best = Recognised::None;
        if self.knows_none() {
            return best;
        }
        let mut tried: Vec<(u32, u64)> = Vec::new();
        // All of a file is loaded with one bias, which its executable mapping tells.
        for mapping in space.code() {
            let Some(module) = mapping.module() else {
                continue;
            };
            let Some(data) = self.file(module) else {
                continue;
            };
            let range = mapping.start..mapping.end;
            let layout = module.layout();
            let Some(bias) = layout.and_then(|layout| layout.bias_of(range, mapping.offset)) else {
                continue;
            };
            let place = (module.id(), bias);
            if tried.contains(&place) || tried.len() >= MAX_PLACES {
                continue;
            }
            tried.push(place);
            for data in data {
                let found = data.instance(bias, memory);
                if rank(&found) > rank(&best) {
                    best = found;
                }
                if matches!(best, Recognised::Runs(_)) {
                    return best;
                }
            }
        }
        best
    }

    /// What loaders say of a file; they are asked once.
    fn file(&mut self, module: &Module) -> Option<&[Box<dyn Data>]> {
        let facts = module.facts()?;
        if self.files.len() >= MAX_FILES && !self.files.contains_key(&module.id()) {
            self.files.clear();
        }
        let load = || load(&self.loaders, facts);
        let data = self.files.entry(module.id()).or_insert_with(load);
        data.as_deref()
    }
}

/// Of two interpreters in a process, the one of the higher rank is shown.
fn rank(found: &Recognised) -> u8 {
    match found {
        Recognised::None => 0,
        Recognised::Refused { .. } => 1,
        Recognised::NotYet { .. } => 2,
        Recognised::Runs(_) => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::super::toy::{ABSENT, Control, NOT_YET, REFUSED};
    use super::super::wanted;
    use super::*;
    use crate::process::memory::ProcessMemory;
    use crate::process::modules::Modules;

    /// What is recognised in this process by loaders of interpreters in these states.
    fn recognised(states: &[u64]) -> String {
        let loaders = states
            .iter()
            .flat_map(|&state| Control::new(state).loaders());
        let pid = std::process::id();
        let loaders: Vec<_> = loaders.collect();
        let modules = &mut Modules::looking_for(wanted(&loaders));
        let space = AddressSpace::read(pid, modules).unwrap();
        let memory = ProcessMemory::new(pid);
        match Recogniser::new(loaders).recognise(&space, &memory) {
            Recognised::None => "none".to_owned(),
            Recognised::NotYet { name } => format!("{name}, not yet"),
            Recognised::Refused { name, why } => format!("{name}: {why}"),
            Recognised::Runs(instance) => instance.name().to_owned(),
        }
    }

    #[test]
    fn an_interpreter_that_runs_is_preferred_then_one_that_may() {
        let runs = 0x7000;
        assert_eq!(recognised(&[]), "none");
        assert_eq!(recognised(&[ABSENT]), "none");
        assert_eq!(recognised(&[ABSENT, REFUSED]), "Toy: it is broken");
        assert_eq!(recognised(&[NOT_YET, REFUSED]), "Toy, not yet");
        assert_eq!(recognised(&[REFUSED, NOT_YET, ABSENT]), "Toy, not yet");
        assert_eq!(recognised(&[REFUSED, NOT_YET, runs]), "Toy 1");
        assert_eq!(recognised(&[runs, NOT_YET, REFUSED]), "Toy 1");
    }

    #[test]
    fn a_file_is_loaded_once_for_all_processes() {
        let control = Control::new(ABSENT);
        let mut recogniser = Recogniser::new(control.loaders());
        let pid = std::process::id();
        let memory = ProcessMemory::new(pid);
        let mut modules = Modules::looking_for(wanted(&control.loaders()));
        let space = AddressSpace::read(pid, &mut modules).unwrap();
        let _ = recogniser.recognise(&space, &memory);
        let files = recogniser.files.len();
        let with = |recogniser: &Recogniser| recogniser.files.values().flatten().count();
        assert!(files > 1 && with(&recogniser) == 1);
        control.set(0x7000);
        let space = AddressSpace::read(pid, &mut modules).unwrap();
        let found = recogniser.recognise(&space, &memory);
        assert!(matches!(found, Recognised::Runs(_)), "{found:?}");
        assert_eq!((recogniser.files.len(), with(&recogniser)), (files, 1));
    }
}
