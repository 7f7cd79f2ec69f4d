//! Drops debugging data from a BPF object.
//!
//! The compiler derives BTF from DWARF, so the object comes with both. The kernel wants `.BTF`
//! and `.BTF.ext`; the DWARF is thirteen times as large as the programs and nobody reads it.

use anyhow::{Context as _, Result};
use object::build::elf::{Builder, SectionData};

/// `object` without its `.debug_*` sections, their relocations and their section symbols.
pub fn strip_dwarf(object: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(object).context("the linker wrote no ELF object")?;
    let mut dropped = Vec::new();
    for section in &mut builder.sections {
        // `.debug_info` and its relocations, `.rel.debug_info`.
        let name = section.name.as_slice();
        if name.starts_with(b".debug_") || name.starts_with(b".rel.debug_") {
            section.delete = true;
            dropped.push(section.id());
        }
    }
    for symbol in &mut builder.symbols {
        if symbol
            .section
            .is_some_and(|section| dropped.contains(&section))
        {
            symbol.delete = true;
        }
    }
    // LLVM keeps the names of sections and of symbols in one table; the writer wants two.
    if !builder
        .sections
        .iter()
        .any(|section| matches!(section.data, SectionData::SectionString))
    {
        let names = builder.sections.add();
        names.name = b".shstrtab"[..].into();
        names.sh_type = object::elf::SHT_STRTAB;
        names.sh_addralign = 1;
        names.data = SectionData::SectionString;
    }
    let mut out = Vec::new();
    builder
        .write(&mut out)
        .context("cannot write the stripped object")?;
    Ok(out)
}
