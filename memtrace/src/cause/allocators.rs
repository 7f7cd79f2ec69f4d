//! Code of allocators that has lost its name.
//!
//! Of a stripped library only what it exports has names. Where an exported function goes on by a
//! jump, it is on no stack: musl's `free` is a jump to the function that frees, and that has no
//! name. So what the exported functions of an allocator lead to without a call is known by its
//! code.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use foldhash::HashMap;
use serde::{Deserialize, Serialize};

use crate::elf::{Functions, Layout, Symbols};
use crate::process::inspector::{Answerer, Inspector, Question};
use crate::process::maps::AddressSpace;
use crate::process::modules::Module;
use crate::profile::{Frame, Language};
use crate::symbolize::role::{Role, is_allocator, role};
use crate::unwind::arch::instruction::Flow;
use crate::unwind::arch::{Architecture, native};

/// What whoever replaces the C library's allocator exports.
const ENTRIES: [&str; 7] = [
    "free",
    "malloc",
    "aligned_alloc",
    "calloc",
    "memalign",
    "posix_memalign",
    "realloc",
];

/// Of these, those that a file with an allocator has at least.
const LEAST: usize = 2;

/// Instructions of one file that are followed: musl's and glibc's have a tenth of that.
const MAX_INSTRUCTIONS: usize = 1 << 15;

/// Bytes of code that are read at once.
const PIECE: usize = 4096;

/// Files of which the code is remembered.
const MAX_FILES: usize = 256;

/// What is asked about a file: where its allocator's code is, as offsets, ascending.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct AllocatorsCode;

impl Question for AllocatorsCode {
    const NAME: &'static str = "allocators";
    type Answer = Vec<Range<u64>>;
}

/// What answers the questions of [`Allocators`].
pub fn answerer() -> Answerer {
    Answerer::new(|AllocatorsCode, files| code_of(files[0]).unwrap_or_default())
}

/// Recognises code of allocators.
#[derive(Debug, Default)]
pub struct Allocators {
    /// Offsets in the file, ascending, by [`Module::id`].
    files: HashMap<u32, Vec<Range<u64>>>,
}

impl Allocators {
    /// How many frames, leaf first, are an allocator's, which has no names for the first of them; 0
    /// when that is not known. `inspector` looks into files.
    pub fn frames(
        &mut self,
        space: &AddressSpace,
        frames: &[Frame],
        inspector: &mut Inspector,
    ) -> usize {
        let native = |frame: &&Frame| frame.language == Language::Native;
        let writes_for_caller = |frame: &&Frame| role(frame) == Role::String;
        let native: Vec<&Frame> = frames.iter().take_while(native).collect();
        let helpers = native.iter().take_while(|frame| writes_for_caller(frame));
        let first = helpers.count();
        let of_one_file = native[first..].iter().take_while(|frame| {
            frame.unknown.is_some()
                && frame.module.is_some()
                && frame.module == native[first].module
        });
        let mut is_code = |(at, frame): &(usize, &&Frame)| {
            // A return address may be behind the last instruction.
            let address = frame.address - u64::from(first + at > 0);
            self.is_code(space, address, inspector)
        };
        let found = of_one_file.enumerate().filter(|each| is_code(each)).last();
        found.map_or(0, |(at, _)| first + at + 1)
    }

    fn is_code(&mut self, space: &AddressSpace, address: u64, inspector: &mut Inspector) -> bool {
        let mapping = space.find(address);
        let Some((mapping, module)) = mapping.and_then(|found| Some((found, found.module()?)))
        else {
            return false;
        };
        let offset = mapping.offset.wrapping_add(address - mapping.start);
        let code = self.of(module, inspector);
        let next = code.partition_point(|range| range.end <= offset);
        code.get(next).is_some_and(|range| range.contains(&offset))
    }

    fn of(&mut self, module: &Module, inspector: &mut Inspector) -> &[Range<u64>] {
        if self.files.len() >= MAX_FILES && !self.files.contains_key(&module.id()) {
            self.files.clear();
        }
        self.files.entry(module.id()).or_insert_with(|| {
            let asked = module.asked();
            let code = asked.map(|asked| inspector.ask(&AllocatorsCode, &[asked]));
            code.and_then(Result::ok).unwrap_or_default()
        })
    }
}

/// The code of a file's allocator.
fn code_of(file: &File) -> Option<Vec<Range<u64>>> {
    let symbols = Symbols::read(file)?;
    let entries = ENTRIES.map(|name| symbols.code(file, name));
    if entries[..LEAST].iter().any(Option::is_none) {
        return Some(Vec::new());
    }
    let mut code = Code {
        file,
        arch: native()?,
        functions: Functions::read(file)?,
        layout: Layout::read(file)?,
        seen: BTreeMap::new(),
        piece: (0, Vec::new()),
    };
    for (offset, _) in entries.into_iter().flatten() {
        code.follow(offset);
    }
    Some(code.ranges())
}

/// Follows code of a file. Places are offsets: all code is in one segment, where they differ from
/// addresses by a constant.
struct Code<'file> {
    file: &'file File,
    arch: &'static Architecture,
    functions: Functions,
    layout: Layout,
    /// Instructions that were found, with their length.
    seen: BTreeMap<u64, u32>,
    /// What was read last, and where it begins.
    piece: (u64, Vec<u8>),
}

impl Code<'_> {
    /// Finds all code that an instruction leads to without a call.
    fn follow(&mut self, start: u64) {
        let mut todo = vec![start];
        while let Some(mut at) = todo.pop() {
            while self.seen.len() < MAX_INSTRUCTIONS && !self.seen.contains_key(&at) {
                let decode = self.arch.decode;
                let Some(instruction) = decode(self.bytes(at), at) else {
                    break;
                };
                self.seen.insert(at, instruction.length);
                match instruction.flow {
                    Flow::Next
                    | Flow::Call(_)
                    | Flow::CallAt(_)
                    | Flow::CallTo(_)
                    | Flow::CallAway => {}
                    Flow::Branch(target) => {
                        if !self.is_anothers(target) {
                            todo.push(target);
                        }
                    }
                    Flow::Jump(target) => {
                        if !self.is_anothers(target) {
                            todo.push(target);
                        }
                        break;
                    }
                    Flow::JumpTo(_) | Flow::JumpAway | Flow::Return | Flow::Stop => break,
                }
                at += u64::from(instruction.length);
            }
        }
    }

    /// Whether a function begins there that has a name, and not an allocator's.
    fn is_anothers(&self, offset: u64) -> bool {
        let address = self.layout.address_of(offset);
        let function = address.and_then(|address| self.functions.at(self.file, address));
        function.is_some_and(|function| {
            Some(function.start) == address && !function.names.iter().any(|name| is_allocator(name))
        })
    }

    /// The code at an offset, as far as it was read.
    fn bytes(&mut self, at: u64) -> &[u8] {
        /// The longest instruction.
        const LONGEST: usize = 16;
        let has = |piece: &(u64, Vec<u8>)| {
            let from = at.checked_sub(piece.0).map(|from| from as usize);
            from.filter(|from| from + LONGEST <= piece.1.len())
        };
        if has(&self.piece).is_none() {
            let mut bytes = vec![0; PIECE];
            let read = self.file.read_at(&mut bytes, at).unwrap_or(0);
            bytes.truncate(read);
            self.piece = (at, bytes);
        }
        let from = at.saturating_sub(self.piece.0) as usize;
        self.piece.1.get(from..).unwrap_or_default()
    }

    fn ranges(&self) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for (&at, &length) in &self.seen {
            let end = at + u64::from(length);
            match ranges.last_mut() {
                Some(last) if at <= last.end => last.end = last.end.max(end),
                _ => ranges.push(at..end),
            }
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compiles a stripped library with an allocator, whose functions go on in others by a jump.
    fn library() -> Option<File> {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("a.c");
        let library = directory.path().join("liba.so");
        // `called_name` tells the test where that function is.
        let code = "
            #define APART __attribute__((noinline, noclone, section(\".text.apart\")))
            long state;
            APART static void frees(long *p) { if (p) { *p = state; state = *p + 7; } }
            APART static long called(long n) { state -= n; return state * n; }
            extern long called_name(long) __attribute__((alias(\"called\")));
            APART void known(long *p) { *p = 1; }
            void free(long *p) { frees(p); }
            void cfree(long *p) { known(p); }
            long malloc(long n) { return called(n) + 1; }
            void realloc(long *p) { known(p); }
        ";
        std::fs::write(&source, code).unwrap();
        let built = std::process::Command::new("cc")
            .args(["-O2", "-shared", "-fPIC", "-fno-builtin", "-s", "-w", "-o"])
            .args([&library, &source])
            .arg("-Wl,-Bsymbolic")
            .status();
        if built.is_ok_and(|status| status.success()) {
            return Some(File::open(library).unwrap());
        }
        crate::skipped::skipped("there is no C compiler `cc` (apt-get install gcc)");
        None
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn what_free_jumps_to_is_the_allocators() {
        let Some(file) = library() else {
            return;
        };
        let code = code_of(&file).unwrap();
        let symbols = Symbols::read(&file).unwrap();
        let has = |name| {
            let (offset, size) = symbols.code(&file, name).unwrap();
            let all = |at| code.iter().any(|range| range.contains(&at));
            (all(offset), all(offset + size - 1))
        };
        assert_eq!(has("free"), (true, true));
        let functions = Functions::read(&file).unwrap();
        let layout = Layout::read(&file).unwrap();
        let is_unnamed = |range: &Range<u64>| {
            let address = layout.address_of(range.start).unwrap();
            functions.at(&file, address).is_none()
        };
        assert!(code.iter().any(is_unnamed), "{code:x?}");
        assert_eq!(has("malloc"), (true, true));
        // It has a name here, which is not an allocator's; so it is not followed.
        assert_eq!(has("known"), (false, false));
        // What is called has the caller on the stack.
        assert_eq!(has("called_name"), (false, false));
    }

    #[test]
    fn what_has_no_allocator_has_no_code_of_one() {
        let mut file = tempfile::tempfile().unwrap();
        assert!(code_of(&file).is_none());
        std::io::Write::write_all(&mut file, &[0x7f; 4096]).unwrap();
        assert!(code_of(&file).is_none());
    }
}
