//! The table of all symbols of a program that is linked statically, which exports none.

use foldhash::HashSet;

use super::budget::Source;
use super::sections::Sections;
use super::{Symbol, Symbols};

/// Bytes of the table, and of its names, that are read.
const MAX_TABLE: u64 = 48 << 20;

/// Bytes of a name that is looked for.
const MAX_NAME: usize = 128;

impl Symbols {
    /// Those of `names` that the file's own table of symbols, which a stripped file does not have,
    /// defines. It is read as a whole, so `file` should have a budget.
    #[must_use]
    pub fn in_table<'names>(
        &self,
        file: &impl Source,
        names: &HashSet<&'names str>,
    ) -> HashSet<&'names str> {
        self.find_in_table(file, names).unwrap_or_default()
    }

    fn find_in_table<'names>(
        &self,
        file: &impl Source,
        names: &HashSet<&'names str>,
    ) -> Option<HashSet<&'names str>> {
        let sections = Sections::read(file, &self.headers)?;
        let contents = |name| sections.find(name)?.contents(file, MAX_TABLE).ok();
        let table = contents(".symtab")?;
        let texts = contents(".strtab")?;
        let found = Symbol::all(&table)
            .filter_map(|symbol| names.get(text(&texts, symbol.name as usize)?).copied());
        Some(found.collect())
    }
}

/// The text at `at`, if it is short enough for a name that is looked for.
fn text(texts: &[u8], at: usize) -> Option<&str> {
    let rest = texts.get(at..)?;
    let rest = &rest[..rest.len().min(MAX_NAME)];
    let end = rest.iter().position(|&byte| byte == 0)?;
    std::str::from_utf8(&rest[..end]).ok()
}
