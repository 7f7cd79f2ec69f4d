//! Functions of one ELF file: by its symbol tables, which [`Functions`] reads, and by its DWARF,
//! which blazesym reads.
//!
//! This code reads files that whoever runs the traced process has written, with parsers that are
//! not made to withstand that: measured against blazesym 0.2.7, crafted DWARF can make it panic (a
//! line row of a file that does not exist), overflow the stack (deeply nested inlined calls),
//! allocate memory without bound (many functions sharing one long list of ranges), or raise SIGBUS
//! (a file that is truncated while it is mapped). None of these can be caught in a process, so the
//! engine runs in a process of its own: see [`helper`](super::helper).
//!
//! blazesym opens files by their paths only, which is why a descriptor is opened again, as the user
//! that this process then is. What that user may not read must be handed over as a copy.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;

use blazesym::symbolize::source::{Elf, Source};
use blazesym::symbolize::{self, CodeInfo, Input, Reason, Sym, Symbolized};
use foldhash::{HashMap, HashSet};
use serde::{Deserialize, Serialize};

use super::alias::{is_plain, plainest};
use crate::elf::{Function, Functions, MAX_FUNCTIONS};
use crate::foreign;

/// Inlined functions that are shown at one address, innermost first.
const MAX_INLINED: usize = 64;

/// Bytes of names in one reply; addresses after that are answered as damaged.
const MAX_REPLY: usize = 4 << 20;

/// How far, in bytes, the process's anonymous memory may exceed that of the empty engine between
/// two queries; above that, everything parsed is dropped, to be parsed again when needed.
const MAX_KEPT: u64 = 28 << 20;

/// Files whose debug information is kept. Each has a descriptor and is mapped. When there are more,
/// everything parsed is dropped.
pub const MAX_PARSED: usize = 256;

/// What is asked: the functions at some addresses of one file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Query {
    /// Whether to read DWARF, rather than the symbol tables alone.
    pub debug_info: bool,
    /// Addresses, as the file itself numbers them.
    pub addresses: Vec<u64>,
}

/// One [`Found`] for each address, or why there is none for any.
pub type Reply = Result<Vec<Found>, Failure>;

/// Why nothing was found in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// The file can be read, but not opened again.
    NotPermitted,
    /// It cannot be parsed, in words.
    Unreadable(String),
}

/// What is at an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Found {
    /// Functions, innermost first; all but the last are inlined into the next.
    Functions(Vec<NamedFunction>),
    /// No symbol covers the address.
    NoSymbol,
    /// What describes the address could not be read.
    Damaged,
}

/// A function at an address, and where in its source the address is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedFunction {
    /// Demangled and escaped.
    pub function: String,
    /// Source file, escaped.
    pub file: Option<String>,
    /// Line in it.
    pub line: Option<u32>,
}

/// Answers queries, keeping what it has parsed.
pub struct Engine {
    symbolizer: Option<symbolize::Symbolizer>,
    /// Files that the symbolizer has parsed.
    parsed: HashSet<FileIdentity>,
    tables: Tables,
    memory: Memory,
    /// Anonymous memory when the symbolizer was made, in bytes.
    empty: u64,
    /// The directory that has this process's descriptors in it.
    descriptors: PathBuf,
}

/// How much memory this process uses. What says so is opened before the process cannot open it.
pub struct Memory(Option<File>);

/// Functions of files by their symbol tables; `None` of a file whose symbols cannot be read.
#[derive(Default)]
struct Tables(HashMap<FileIdentity, Option<Functions>>);

/// Which file it is, and whether it is still as it was: device, number, size, and when it changed.
type FileIdentity = (u64, u64, u64, (i64, i64));

impl Engine {
    /// In a process whose descriptors can be opened again in the directory `descriptors`.
    #[must_use]
    pub fn new(memory: Memory, descriptors: PathBuf) -> Self {
        Self {
            symbolizer: None,
            parsed: HashSet::default(),
            tables: Tables::default(),
            memory,
            empty: 0,
            descriptors,
        }
    }

    /// Looks up every address of a query in `file`.
    pub fn answer(&mut self, query: &Query, file: &File) -> Reply {
        // After a panic the symbolizer is dropped, so a half-changed state is never seen.
        if self.symbolizer.is_none() {
            self.empty = self.memory.anonymous().unwrap_or_default();
        }
        let answer = panic::catch_unwind(AssertUnwindSafe(|| self.look_up(query, file)));
        if answer.is_err() || self.is_full() {
            self.symbolizer = None;
            self.parsed.clear();
            self.tables.0.clear();
            // SAFETY: takes no pointers, and may be called at any time and from any thread.
            #[cfg(target_env = "gnu")]
            unsafe {
                libc::malloc_trim(0);
            }
        }
        answer.unwrap_or_else(|_| Err(Failure::Unreadable("the parser panicked".to_owned())))
    }

    fn is_full(&self) -> bool {
        let used = self.memory.anonymous();
        self.parsed.len() > MAX_PARSED || used.is_none_or(|used| used > self.empty + MAX_KEPT)
    }

    fn look_up(&mut self, query: &Query, file: &File) -> Reply {
        if query.debug_info {
            self.by_debug_info(query, file)
        } else {
            let functions = self.tables.of(file);
            let unreadable = || Failure::Unreadable("its symbols cannot be read".to_owned());
            let functions = functions.ok_or_else(unreadable)?;
            Ok(by_symbols(&query.addresses, functions, file))
        }
    }

    /// Where `file` can be opened again.
    fn path_of(&mut self, file: &File) -> Result<PathBuf, Failure> {
        let path = self.descriptors.join(file.as_raw_fd().to_string());
        let identity = identity_of(file).map_err(|error| unreadable(&error))?;
        if !self.parsed.contains(&identity) {
            File::open(&path).map_err(|error| match error.kind() {
                io::ErrorKind::PermissionDenied => Failure::NotPermitted,
                _ => unreadable(&error),
            })?;
            self.parsed.insert(identity);
        }
        Ok(path)
    }

    fn by_debug_info(&mut self, query: &Query, file: &File) -> Reply {
        let path = self.path_of(file)?;
        let symbolizer = self.symbolizer.get_or_insert_with(|| {
            symbolize::Symbolizer::builder()
                .enable_code_info(true)
                .enable_inlined_fns(true)
                // Demangling here would have no bound; see `foreign::function_name`.
                .enable_demangling(false)
                // Other files are not looked for: the caller knows which are safe.
                .set_debug_dirs(Some(<[PathBuf; 0]>::default()))
                .build()
        });
        let elf = Elf::new(path);
        let input = Input::VirtOffset(query.addresses.as_slice());
        let symbols = symbolizer
            .symbolize(&Source::Elf(elf), input)
            .map_err(|error| unreadable(&error))?;
        let mut room = MAX_REPLY;
        let symbols = symbols.iter().zip(&query.addresses);
        let answers = symbols.map(|(symbol, &address)| match symbol {
            Symbolized::Sym(symbol) => {
                let names = self.tables.names_of(symbol, address, file);
                found(symbol, &names, &mut room)
            }
            Symbolized::Unknown(Reason::IgnoredError) => Found::Damaged,
            Symbolized::Unknown(_) => Found::NoSymbol,
        });
        Ok(answers.collect())
    }
}

impl Tables {
    /// The functions of a file.
    fn of(&mut self, file: &File) -> Option<&Functions> {
        let identity = identity_of(file).ok()?;
        if !self.0.contains_key(&identity) {
            let functions = Functions::read(file);
            let held = self.0.values().chain([&functions]).flatten();
            if held.map(Functions::len).sum::<usize>() > MAX_FUNCTIONS {
                self.0.clear();
            }
            self.0.insert(identity, functions);
        }
        self.0.get(&identity)?.as_ref()
    }

    /// What a function is called that debug information has named: by that, or where it is a name
    /// for use within the library, by its symbols too.
    fn names_of(&mut self, symbol: &Sym<'_>, address: u64, file: &File) -> Vec<String> {
        let nearest = symbol.size.is_none() && symbol.addr != 0;
        if !nearest && is_plain(&symbol.name) {
            return vec![symbol.name.to_string()];
        }
        let functions = self.of(file);
        let function = functions.and_then(|functions| functions.at(file, address));
        let mut names = function.map_or_else(Vec::new, |function| function.names);
        // What has an address and no size is no function of the debug information, but the nearest
        // symbol before it, which need not be right. Functions in several parts have neither.
        if !nearest {
            names.push(symbol.name.to_string());
        }
        names
    }
}

/// What the symbol tables of a file say.
fn by_symbols(addresses: &[u64], functions: &Functions, file: &File) -> Vec<Found> {
    let mut room = MAX_REPLY;
    // Addresses come in order, so several of one function are next to one another.
    let mut last: Option<(Function, NamedFunction)> = None;
    let mut name = |address| {
        let function = functions.at(file, address)?;
        if last.as_ref().is_none_or(|(known, _)| *known != function) {
            let name = named(plainest(&function.names)?, None);
            last = Some((function, name));
        }
        last.as_ref().map(|(_, name)| name.clone())
    };
    let answers = addresses.iter().map(|&address| match name(address) {
        Some(function) => within(&mut room, vec![function]),
        None => Found::NoSymbol,
    });
    answers.collect()
}

/// A function that debug information has described, and its names.
fn found(symbol: &Sym<'_>, names: &[String], room: &mut usize) -> Found {
    // A function of which DWARF gives only the extent may still have a symbol.
    if symbol.name.is_empty() {
        return Found::Damaged;
    }
    match plainest(names) {
        Some(name) => within(room, functions(symbol, name)),
        None => Found::NoSymbol,
    }
}

/// `functions`, if their names fit in the `room` that the reply still has.
fn within(room: &mut usize, functions: Vec<NamedFunction>) -> Found {
    let size = functions
        .iter()
        .map(|each| each.function.len() + each.file.as_ref().map_or(0, String::len));
    match room.checked_sub(size.sum()) {
        Some(left) => *room = left,
        None => return Found::Damaged,
    }
    Found::Functions(functions)
}

/// blazesym lists inlined functions from the outside in, each with the place in it that the
/// address belongs to; here they go from the inside out.
fn functions(symbol: &Sym<'_>, name: &str) -> Vec<NamedFunction> {
    let inlined = symbol.inlined.iter().rev().take(MAX_INLINED);
    let mut functions: Vec<_> = inlined
        .map(|call| named(&call.name, call.code_info.as_ref()))
        .collect();
    functions.push(named(name, symbol.code_info.as_deref()));
    functions
}

fn named(function: &str, place: Option<&CodeInfo<'_>>) -> NamedFunction {
    NamedFunction {
        function: if function.is_empty() {
            "[unnamed]".to_owned()
        } else {
            foreign::function_name(function)
        },
        file: place
            .map(|place| foreign::shown_path(place.to_path().as_os_str().as_encoded_bytes())),
        line: place.and_then(|place| place.line).filter(|&line| line != 0),
    }
}

fn unreadable(error: &impl ToString) -> Failure {
    Failure::Unreadable(error.to_string())
}

fn identity_of(file: &File) -> io::Result<FileIdentity> {
    let of = file.metadata()?;
    Ok((of.dev(), of.ino(), of.len(), (of.mtime(), of.mtime_nsec())))
}

impl Memory {
    /// That of this process.
    #[must_use]
    pub fn of_this_process() -> Self {
        Self(File::open("/proc/self/statm").ok())
    }

    /// Resident memory that does not belong to a file, in bytes.
    fn anonymous(&self) -> Option<u64> {
        let mut statm = [0; 256];
        let size = self.0.as_ref()?.read_at(&mut statm, 0).ok()?;
        let statm = std::str::from_utf8(&statm[..size]).ok()?;
        let mut pages = statm
            .split(' ')
            .skip(1)
            .map_while(|pages| pages.parse::<u64>().ok());
        let (resident, of_files) = (pages.next()?, pages.next()?);
        Some(resident.saturating_sub(of_files) * 4096)
    }
}
