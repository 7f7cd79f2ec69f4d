//! Whether a runtime's collector wrote, or a function that only counts references.
//!
//! What counts are the frames from the leaf on that are of one file, so that a collector which calls
//! somebody else's function, for a finaliser, is not charged with what that writes. Functions that
//! write for their caller, such as `memset`, are passed over before.
//!
//! Of a stripped runtime the frames in between often have no names. The nearest one with a name
//! tells, and one without is told by what called it: an exported function that does nothing but
//! call the collector has the collector's address in its code, and some collectors' functions name
//! a text that nobody else does.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use foldhash::{HashMap, HashSet};
use serde::{Deserialize, Serialize};

use super::calls::{Callee, calls, is_stub};
use crate::elf::{Budget, Symbols, functions_that_name};
use crate::interpreter::collectors::{entries, role as role_of, texts};
use crate::interpreter::runtimes::Runtimes;
use crate::process::inspector::{Answerer, Inspector, Question};
use crate::process::maps::AddressSpace;
use crate::process::modules::Module;
use crate::profile::{Frame, Language};
use crate::symbolize::role::{Role, role};

/// How long all code of a file may be read, and how many bytes of it.
const ALL_CODE: (Duration, u64) = (Duration::from_secs(1), 128 << 20);

/// Bytes of a function that are looked at.
const MAX_CODE: u64 = 4096;

/// Files of which the collectors' functions are remembered.
const MAX_FILES: usize = 256;

/// Calls of which it is remembered what they call; beyond that, all are forgotten.
const MAX_CALLS: usize = 16_384;

/// What is asked about a file: where the functions without names of its runtimes' collectors begin,
/// as offsets.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Functions(pub(super) Runtimes);

impl Question for Functions {
    const NAME: &'static str = "collectors";
    type Answer = Vec<u64>;
}

/// What answers the questions of [`Collectors`], beside [`Callee`].
pub fn answerer() -> Answerer {
    Answerer::new(|&Functions(there), files| {
        let found = functions(files[0], there).unwrap_or_default();
        found.into_iter().collect()
    })
}

/// Recognises what collectors write.
#[derive(Debug, Default)]
pub struct Collectors {
    /// Where the collector's functions without names begin, as offsets in the file, by
    /// [`Module::id`].
    files: HashMap<u32, HashSet<u64>>,
    /// What is called before a return address, by module and offset.
    calls: HashMap<(u32, u64), Option<u64>>,
}

impl Collectors {
    /// What the runtime's function that wrote is for, on a stack with these frames, leaf first;
    /// `None` where none says that. `inspector` looks into files.
    pub fn role(
        &mut self,
        space: &AddressSpace,
        frames: &[Frame],
        inspector: &mut Inspector,
    ) -> Option<Role> {
        let there = |frame: &Frame| {
            let mapping = space.find(frame.address)?;
            mapping.module().map(|module| Runtimes::of(module))
        };
        let is_collector = |caller: &Frame| {
            let found = self.calls_collector(space, caller.address, inspector);
            found.unwrap_or_default()
        };
        told(
            frames,
            |frame| there(frame).unwrap_or_default(),
            is_collector,
        )
    }

    /// Whether the function that returns to `address` is a collector's.
    fn calls_collector(
        &mut self,
        space: &AddressSpace,
        address: u64,
        inspector: &mut Inspector,
    ) -> Option<bool> {
        let mapping = space.find(address)?;
        let module = mapping.module()?;
        let there = Runtimes::of(module);
        if entries(there).next().is_none() && texts(there).is_empty() {
            return None;
        }
        let offset = mapping.offset.wrapping_add(address - mapping.start);
        let called = self.called(module, offset, inspector)?;
        Some(self.functions(module, there, inspector).contains(&called))
    }

    /// What the call before a place calls, as an offset in its file.
    fn called(&mut self, module: &Module, at: u64, inspector: &mut Inspector) -> Option<u64> {
        if self.calls.len() >= MAX_CALLS {
            self.calls.clear();
        }
        *self.calls.entry((module.id(), at)).or_insert_with(|| {
            let asked = module.asked()?;
            inspector.ask(&Callee(at), &[asked]).ok()?
        })
    }

    fn functions(
        &mut self,
        module: &Module,
        there: Runtimes,
        inspector: &mut Inspector,
    ) -> &HashSet<u64> {
        if self.files.len() >= MAX_FILES && !self.files.contains_key(&module.id()) {
            self.files.clear();
        }
        self.files.entry(module.id()).or_insert_with(|| {
            let asked = module.asked();
            let found = asked.map(|asked| inspector.ask(&Functions(there), &[asked]));
            found.and_then(Result::ok).into_iter().flatten().collect()
        })
    }
}

/// Where the collector's functions begin: those that exported functions call for collecting, and
/// those that name a text of the collector's.
fn functions(file: &File, there: Runtimes) -> Option<HashSet<u64>> {
    let symbols = Symbols::read(file)?;
    let mut all = HashSet::default();
    for (name, depth) in entries(there) {
        let Some((offset, size)) = symbols.code(file, name) else {
            continue;
        };
        let mut found = local_calls(file, offset, Some(size));
        for _ in 1..depth {
            let next = found.iter().flat_map(|&at| local_calls(file, at, None));
            let next: Vec<u64> = next.collect();
            all.extend(found);
            found = next;
        }
        all.extend(found);
    }
    if !texts(there).is_empty() {
        let (time, bytes) = ALL_CODE;
        let budget = Budget::new(time, bytes);
        all.extend(functions_that_name(&budget.of(file), texts(there)).unwrap_or_default());
    }
    Some(all)
}

/// The functions of the same file that are called by the one at `offset`, of `size` bytes if that
/// is known. What is called by way of a stub may be in any file.
fn local_calls(file: &File, offset: u64, size: Option<u64>) -> Vec<u64> {
    let most = size.unwrap_or(MAX_CODE).min(MAX_CODE);
    let mut code = vec![0; most as usize];
    let Ok(read) = file.read_at(&mut code, offset) else {
        return Vec::new();
    };
    let mut found = calls(&code[..read], offset, size.is_some());
    found.retain(|&target| !is_stub(file, target));
    found
}

/// What the stack tells: `there` are the runtimes of a frame's file, `is_collector` tells whether
/// the function that returns to a frame is a collector's.
fn told(
    frames: &[Frame],
    there: impl Fn(&Frame) -> Runtimes,
    mut is_collector: impl FnMut(&Frame) -> bool,
) -> Option<Role> {
    let native = |frame: &&Frame| frame.language == Language::Native;
    let writes_for_caller = |frame: &&Frame| role(frame) == Role::String;
    let frames: Vec<&Frame> = frames
        .iter()
        .take_while(native)
        .skip_while(writes_for_caller)
        .collect();
    let first = frames.first()?;
    first.module.as_ref()?;
    let runtimes = there(first);
    let of_one_file = frames
        .iter()
        .take_while(|frame| frame.module == first.module);
    for (at, frame) in of_one_file.enumerate() {
        if frame.unknown.is_none() {
            match role_of(&frame.function, runtimes) {
                Some(Role::Collector) => return Some(Role::Collector),
                Some(Role::Count) if at == 0 => return Some(Role::Count),
                Some(Role::Program) => return None,
                _ => {}
            }
        } else if !runtimes.is_empty()
            && frames
                .get(at + 1)
                .is_some_and(|caller| is_collector(caller))
        {
            return Some(Role::Collector);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::calls::callee;
    use super::*;
    use crate::interpreter::runtimes::Runtime;
    use crate::profile::Unknown;

    const RUBY: &str = "/usr/lib/libruby-3.1.so.3.1";
    const LIBC: &str = "/usr/lib/x86_64-linux-gnu/libc.so.6";

    fn unnamed(address: u64) -> Frame {
        Frame {
            unknown: Some(Unknown::NoSymbol),
            address,
            ..Frame::native("libruby+0x1", RUBY)
        }
    }

    fn ruby(function: &str) -> Frame {
        Frame::native(function, RUBY)
    }

    /// What a stack tells where only one file is a Ruby, and the collector returns to address 7.
    fn told_by(frames: &[Frame]) -> Option<Role> {
        let there = |frame: &Frame| {
            let is_ruby = frame.module.as_deref() == Some(RUBY);
            is_ruby.then_some(Runtime::Ruby).into_iter().collect()
        };
        told(frames, there, |caller| caller.address == 7)
    }

    #[test]
    fn a_collectors_function_tells_through_frames_of_its_file() {
        let collected = Some(Role::Collector);
        assert_eq!(told_by(&[ruby("gc_mark_children")]), collected);
        assert_eq!(told_by(&[ruby("obj_free"), ruby("gc_sweep")]), collected);
        assert_eq!(
            told_by(&[unnamed(1), unnamed(2), ruby("rb_gc_mark")]),
            collected
        );
        let helped = [
            Frame::native("memset", LIBC),
            unnamed(1),
            ruby("rb_gc_mark"),
        ];
        assert_eq!(told_by(&helped), collected);
        assert_eq!(told_by(&[unnamed(1), ruby("rb_ary_new")]), None);
        assert_eq!(told_by(&[]), None);
    }

    #[test]
    fn a_function_without_a_name_is_told_by_who_called_it() {
        assert_eq!(told_by(&[unnamed(1), unnamed(7)]), Some(Role::Collector));
        assert_eq!(
            told_by(&[unnamed(1), unnamed(2), unnamed(7), ruby("rb_ary_new")]),
            Some(Role::Collector)
        );
        // One that has a name is what its name says.
        let named = Frame {
            address: 7,
            ..ruby("rb_ary_new")
        };
        assert_eq!(told_by(&[ruby("rb_str_new"), named]), None);
    }

    #[test]
    fn what_a_collector_calls_elsewhere_is_not_the_collector() {
        let extension = Frame::native("free_node", "/srv/extension.so");
        assert_eq!(told_by(&[extension, ruby("gc_sweep")]), None);
        let finaliser = [unnamed(1), ruby("rb_vm_exec"), ruby("gc_sweep")];
        assert_eq!(told_by(&finaliser), None);
        let script = Frame {
            language: Language::Python,
            ..ruby("f")
        };
        assert_eq!(told_by(&[script, ruby("gc_sweep")]), None);
        // The same names in another file.
        assert_eq!(told_by(&[Frame::native("gc_mark", "/srv/program")]), None);
    }

    /// Compiles a library that has what R exports; `None`, and said, without a compiler. `collect`
    /// has no symbol in a stripped one, but for the second name that it has here for the test.
    fn library() -> Option<File> {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("r.c");
        let library = directory.path().join("libR.so");
        let code = "
            int R_GlobalEnv, state;
            extern void pending(void);
            __attribute__((noinline)) static void collect(int n) { state += n; }
            extern void known(int) __attribute__((alias(\"collect\")));
            __attribute__((noinline)) static void other(int n) { state -= n; }
            extern void another(int) __attribute__((alias(\"other\")));
            void Rf_eval(int n) { other(n); if (n) collect(n); state++; }
            void R_gc(void) { collect(0); state++; pending(); }
        ";
        std::fs::write(&source, code).unwrap();
        let built = std::process::Command::new("cc")
            .args(["-O1", "-shared", "-fPIC", "-s", "-o"])
            .args([&library, &source])
            .status();
        if built.is_ok_and(|status| status.success()) {
            return Some(File::open(library).unwrap());
        }
        crate::skipped::skipped("there is no C compiler `cc` (apt-get install gcc)");
        None
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn what_an_exported_function_calls_for_collecting_is_the_collector() {
        let Some(file) = library() else {
            return;
        };
        let symbols = Symbols::read(&file).unwrap();
        let place = |name| symbols.code(&file, name).unwrap().0;
        let found = functions(&file, [Runtime::R].into_iter().collect()).unwrap();
        // Not what it calls in other files.
        assert_eq!(found, HashSet::from_iter([place("known")]));
        // It is told wherever it is called from.
        let (eval, size) = symbols.code(&file, "Rf_eval").unwrap();
        let called: HashSet<u64> = (eval..=eval + size)
            .filter_map(|at| callee(&file, at))
            .filter(|at| [place("known"), place("another")].contains(at))
            .collect();
        assert!(called.contains(&place("known")), "{called:?}");
        let none = functions(&file, [Runtime::Php].into_iter().collect()).unwrap();
        assert!(none.is_empty());
    }

    #[test]
    fn only_the_leaf_counts_a_reference() {
        let count = || Frame::native("Py_IncRef", "/srv/embeds");
        assert_eq!(told_by(&[count()]), Some(Role::Count));
        let caller = Frame::native("free_object", "/srv/embeds");
        assert_eq!(told_by(&[caller, count()]), None);
    }
}
