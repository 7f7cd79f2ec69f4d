//! Runtimes that are recognised and not read: their objects look like any other data, and the
//! functions that they run have no frames.
//!
//! A file has a runtime when it defines all the symbols that only this runtime has, whatever the
//! file is called. Exported ones are there in stripped files too, so a server that embeds a runtime
//! is recognised by the library or module that has it; a program that is linked statically exports
//! none, and has its symbols only while it is not stripped. What hides its symbols, as extensions
//! of Python with a Lua of their own do, is not recognised.
//!
//! To add one: a [`Runtime`] and a line in [`KNOWN`], and where it collects garbage its functions
//! in [`collectors`](super::collectors).

use serde::{Deserialize, Serialize};

use crate::elf::{Facts, Wanted};
use crate::process::maps::AddressSpace;
use crate::process::modules::Module;
use crate::profile::RuntimeSeen;

/// A runtime that is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// `PyPy`.
    PyPy,
    /// Ruby's own, `CRuby`.
    Ruby,
    /// PHP.
    Php,
    /// Perl.
    Perl,
    /// `LuaJIT`, which has all symbols of Lua too.
    LuaJit,
    /// Lua.
    Lua,
    /// R.
    R,
    /// V8, in node and others.
    V8,
    /// A Java virtual machine.
    Jvm,
    /// Erlang's and Elixir's virtual machine.
    Beam,
    /// .NET.
    DotNet,
    /// The collector of Boehm, Demers and Weiser, which languages and programs in C link.
    Boehm,
}

/// How a runtime is recognised.
struct Known {
    runtime: Runtime,
    /// As it is shown; `None` for a collector, which has no objects and functions of its own.
    name: Option<&'static str>,
    /// Symbols that together only it defines, in all versions that are around.
    symbols: &'static [&'static str],
    /// A symbol that it does not define, and a relative does.
    without: Option<&'static str>,
    /// An exported text, and what its version follows there.
    version: Option<(&'static str, &'static str)>,
}

impl Known {
    const fn new(runtime: Runtime, name: &'static str, symbols: &'static [&'static str]) -> Self {
        Self {
            runtime,
            name: Some(name),
            symbols,
            without: None,
            version: None,
        }
    }
}

/// All that are known. CPython is not among them: it is read.
const KNOWN: &[Known] = &[
    Known::new(
        Runtime::PyPy,
        "PyPy",
        &["pypy_main_startup", "rpython_startup_code"],
    ),
    Known {
        version: Some(("ruby_version", "")),
        ..Known::new(Runtime::Ruby, "Ruby", &["ruby_version", "rb_cObject"])
    },
    Known::new(
        Runtime::Php,
        "PHP",
        &["php_module_startup", "zend_execute_ex"],
    ),
    Known::new(Runtime::Perl, "Perl", &["perl_construct", "perl_parse"]),
    Known::new(Runtime::LuaJit, "LuaJIT", &["luaJIT_setmode", "lua_gc"]),
    Known {
        without: Some("luaJIT_setmode"),
        version: Some(("lua_ident", "Lua ")),
        ..Known::new(Runtime::Lua, "Lua", &["lua_newstate", "lua_gc"])
    },
    Known::new(Runtime::R, "R", &["R_GlobalEnv", "Rf_eval"]),
    Known::new(
        Runtime::V8,
        "V8",
        &[
            "_ZN2v82V810GetVersionEv",
            "_ZN2v87Isolate3NewERKNS0_12CreateParamsE",
        ],
    ),
    Known::new(Runtime::Jvm, "JVM", &["JNI_CreateJavaVM", "JVM_GC"]),
    Known::new(Runtime::Beam, "BEAM", &["erl_start", "enif_make_atom"]),
    Known::new(
        Runtime::DotNet,
        ".NET",
        &["coreclr_initialize", "coreclr_create_delegate"],
    ),
    Known {
        name: None,
        ..Known::new(Runtime::Boehm, "", &["GC_gcollect", "GC_init", "GC_malloc"])
    },
];

/// What is looked for in files.
#[must_use]
pub fn wanted() -> Wanted {
    let symbols = |known: &Known| known.symbols.iter().copied().chain(known.without);
    let mut wanted = Wanted::symbols(KNOWN.iter().flat_map(symbols));
    wanted.symbols.sort_unstable();
    wanted.symbols.dedup();
    let texts = KNOWN.iter().filter_map(|known| known.version);
    wanted.texts = texts.map(|(symbol, _)| symbol.to_owned()).collect();
    wanted
}

/// The runtimes of a file or a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtimes(u32);

impl Runtimes {
    /// Those that a mapped file has; its symbols are looked up once.
    #[must_use]
    pub fn of(module: &Module) -> Self {
        Self(module.marks(|facts| Self::defined(|name| facts.defines(name)).0))
    }

    /// Those whose symbols are defined.
    fn defined(is_defined: impl Fn(&str) -> bool) -> Self {
        let is_there = |known: &&Known| {
            known.symbols.iter().all(|name| is_defined(name))
                && !known.without.is_some_and(&is_defined)
        };
        let there = KNOWN.iter().filter(is_there);
        there.map(|known| known.runtime).collect()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether this one is there.
    #[must_use]
    pub fn has(self, runtime: Runtime) -> bool {
        self.0 & runtime.bit() != 0
    }
}

impl FromIterator<Runtime> for Runtimes {
    fn from_iter<I: IntoIterator<Item = Runtime>>(runtimes: I) -> Self {
        let bits = runtimes.into_iter().map(Runtime::bit);
        Self(bits.fold(0, |all, bit| all | bit))
    }
}

impl Runtime {
    fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// The runtimes that a mapped file has and that are shown, with their versions.
pub fn shown(module: &Module) -> Vec<RuntimeSeen> {
    let there = Runtimes::of(module);
    let known = KNOWN.iter().filter(|known| there.has(known.runtime));
    let shown = known.filter_map(|known| {
        Some(RuntimeSeen {
            name: known.name?.to_owned(),
            version: module.facts().and_then(|facts| version(known, facts)),
        })
    });
    shown.collect()
}

/// The files with runtimes that a process has mapped executable.
pub fn files(space: &AddressSpace) -> impl Iterator<Item = &Module> {
    let modules = space.code().filter_map(|mapping| mapping.module());
    let modules = modules.map(|module| &**module);
    modules.filter(|module| !Runtimes::of(module).is_empty())
}

/// The version that the file exports.
fn version(known: &Known, facts: &Facts) -> Option<String> {
    let (symbol, before) = known.version?;
    version_in(facts.text(symbol)?, before)
}

/// `5.4.4` in `$LuaVersion: Lua 5.4.4  Copyright`, behind `Lua `.
fn version_in(text: &str, before: &str) -> Option<String> {
    let from = text.find(before)? + before.len();
    let is_part = |c: char| c.is_ascii_digit() || c == '.';
    let rest = &text[from..];
    let version = rest.split(|c| !is_part(c)).next()?;
    version.contains('.').then(|| version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_runtime_is_told_by_its_own_symbols() {
        for known in KNOWN {
            assert!(known.symbols.len() > 1, "{:?}", known.runtime);
            let found = Runtimes::defined(|name| known.symbols.contains(&name));
            assert_eq!(found.0, known.runtime.bit());
            // One symbol less is not enough.
            let found = Runtimes::defined(|name| known.symbols[1..].contains(&name));
            assert!(found.is_empty(), "{:?}", known.runtime);
        }
    }

    #[test]
    fn a_luajit_is_not_a_lua() {
        let symbols = ["luaJIT_setmode", "lua_newstate", "lua_gc"];
        let found = Runtimes::defined(|name| symbols.contains(&name));
        assert!(found.has(Runtime::LuaJit) && !found.has(Runtime::Lua));
    }

    #[test]
    fn a_version_is_all_of_it_or_none() {
        for (text, before, expected) in [
            ("3.4.11", "", Some("3.4.11")),
            ("3.5.0dev", "", Some("3.5.0")),
            ("$LuaVersion: Lua 5.4.4  Copyright", "Lua ", Some("5.4.4")),
            ("$Lua: Lua 5.1.5 Copyright", "Lua ", Some("5.1.5")),
            ("Lua", "Lua ", None),
            ("Lua x", "Lua ", None),
            ("", "", None),
        ] {
            let found = version_in(text, before);
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_program_without_a_runtime_has_none() {
        let own = std::fs::File::open("/proc/self/exe").unwrap();
        let facts = Facts::read(&own, &wanted());
        assert!(facts.layout.is_some());
        assert!(Runtimes::defined(|name| facts.defines(name)).is_empty());
    }
}
