//! What is looked up in every file that a traced process runs, all at once.

use std::fs::File;
use std::time::Duration;

use foldhash::HashSet;
use serde::{Deserialize, Serialize};

use super::budget::Budget;
use super::headers::Headers;
use super::layout::Layout;
use super::sections::Sections;
use super::symbols::Symbols;

/// How long the headers of a file may be read, and how many bytes of them.
const HEADERS: (Duration, u64) = (Duration::from_secs(1), 8 << 20);

/// How long the symbols of a static program may be read, and how many bytes of them.
const TABLE: (Duration, u64) = (Duration::from_millis(200), 128 << 20);

/// Bytes of a text.
const MAX_TEXT: usize = 256;

/// What is looked for, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Symbols that the file defines and exports; of a program that is linked statically, which
    /// exports none, also in its own table.
    pub symbols: Vec<String>,
    /// Sections.
    pub sections: Vec<String>,
    /// Exported symbols that name a text.
    pub texts: Vec<String>,
}

impl Wanted {
    /// Both.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.symbols.extend(other.symbols);
        self.sections.extend(other.sections);
        self.texts.extend(other.texts);
        self
    }

    /// Symbols only.
    #[must_use]
    pub fn symbols<'name>(names: impl IntoIterator<Item = &'name str>) -> Self {
        Self {
            symbols: names.into_iter().map(str::to_owned).collect(),
            ..Self::default()
        }
    }

    /// Sections only.
    #[must_use]
    pub fn sections<'name>(names: impl IntoIterator<Item = &'name str>) -> Self {
        Self {
            sections: names.into_iter().map(str::to_owned).collect(),
            ..Self::default()
        }
    }
}

/// What a file says of itself.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Facts {
    /// How it is laid out; `None` when it is no ELF file that can be read.
    pub layout: Option<Layout>,
    /// Bytes that were read to find that out.
    pub cost: u64,
    /// Addresses of exported symbols, as the file has them.
    symbols: Vec<(String, u64)>,
    /// Symbols in the table of a static program.
    in_table: Vec<String>,
    /// Sections: address, 0 for one that is not loaded, and bytes of its contents.
    sections: Vec<(String, u64, u64)>,
    /// Texts, without the zero that ends them.
    texts: Vec<(String, Vec<u8>)>,
}

impl Facts {
    /// Looks into a file.
    #[must_use]
    pub fn read(file: &File, wanted: &Wanted) -> Self {
        let (time, bytes) = HEADERS;
        let budget = Budget::new(time, bytes);
        let mut facts = Self::default();
        facts.add(file, &budget, wanted);
        facts.cost = budget.spent();
        facts
    }

    fn add(&mut self, file: &File, budget: &Budget, wanted: &Wanted) {
        let limited = &budget.of(file);
        let Some(headers) = Headers::read(limited) else {
            return;
        };
        let sections = Sections::read(limited, &headers);
        self.layout = Some(Layout::new(limited, &headers, sections.as_ref()));
        let found = sections.iter().flat_map(|sections| {
            wanted.sections.iter().filter_map(|name| {
                let section = sections.find(name)?;
                Some((
                    name.clone(),
                    section.address,
                    section.contents_size(limited),
                ))
            })
        });
        self.sections = found.collect();
        if let Some(symbols) = Symbols::of(limited, headers) {
            self.add_symbols(file, budget, &symbols, wanted);
        }
    }

    fn add_symbols(&mut self, file: &File, budget: &Budget, symbols: &Symbols, wanted: &Wanted) {
        let limited = &budget.of(file);
        let exported = wanted.symbols.iter().filter_map(|name| {
            let address = symbols.symbol(limited, name)?;
            Some((name.clone(), address))
        });
        self.symbols = exported.collect();
        let texts = wanted.texts.iter().filter_map(|name| {
            let text = symbols.text(limited, name, MAX_TEXT)?;
            Some((name.clone(), text))
        });
        self.texts = texts.collect();
        if symbols.is_static_program() && !wanted.symbols.is_empty() {
            let (time, bytes) = TABLE;
            let budget = Budget::new(time, bytes);
            let names: HashSet<&str> = wanted.symbols.iter().map(String::as_str).collect();
            let found = symbols.in_table(&budget.of(file), &names);
            self.in_table = found.into_iter().map(str::to_owned).collect();
        }
    }

    /// The address, as the file has it, of a symbol that it exports.
    #[must_use]
    pub fn symbol(&self, name: &str) -> Option<u64> {
        let found = self.symbols.iter().find(|(known, _)| known == name);
        found.map(|&(_, address)| address)
    }

    /// Whether the file defines a symbol, exported or, in a static program, not.
    #[must_use]
    pub fn defines(&self, name: &str) -> bool {
        self.symbol(name).is_some() || self.in_table.iter().any(|known| known == name)
    }

    /// The address of a section that is loaded.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<u64> {
        let found = self.sections.iter().find(|(known, ..)| known == name);
        found
            .map(|&(_, address, _)| address)
            .filter(|&address| address != 0)
    }

    /// Bytes of the contents of a section; 0 where there is none.
    #[must_use]
    pub fn section_size(&self, name: &str) -> u64 {
        let found = self.sections.iter().find(|(known, ..)| known == name);
        found.map_or(0, |&(_, _, size)| size)
    }

    /// The text that an exported symbol names.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        let found = self.texts.iter().find(|(known, _)| known == name);
        found.and_then(|(_, text)| std::str::from_utf8(text).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        Wanted::symbols(["getpid", "no_such_function"])
            .and(Wanted::sections([".eh_frame", ".no_such_section"]))
            .and(Wanted {
                texts: vec!["getpid".to_owned()],
                ..Wanted::default()
            })
    }

    #[test]
    fn a_library_says_where_its_symbols_and_sections_are() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let files = maps
            .lines()
            .filter_map(|line| line.find('/').map(|at| &line[at..]));
        let libc = files
            .into_iter()
            .find(|path| path.contains("libc.so"))
            .unwrap();
        let facts = Facts::read(&File::open(libc).unwrap(), &wanted());
        assert!(facts.symbol("getpid").is_some_and(|address| address > 0));
        assert!(facts.defines("getpid") && !facts.defines("no_such_function"));
        assert!(facts.section(".eh_frame").is_some() && facts.section_size(".eh_frame") > 1000);
        assert_eq!(facts.section(".no_such_section"), None);
        assert!(facts.layout.is_some() && facts.cost > 64);
    }

    #[test]
    fn what_is_no_elf_file_says_nothing() {
        let facts = Facts::read(&tempfile::tempfile().unwrap(), &wanted());
        assert!(facts.layout.is_none() && facts.symbol("getpid").is_none());
        assert_eq!(facts.section_size(".eh_frame"), 0);
        assert_eq!(facts.text("getpid"), None);
    }
}
