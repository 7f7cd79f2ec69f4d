//! What the running kernel says about its own structures: offsets of members and values of
//! enumerators, from its BTF.
//!
//! Only what the BPF programs' globals need is read; the kernel checks every access that they make
//! again when it loads them.

use std::cell::RefCell;
use std::fs;

use anyhow::{Context as _, Result, bail, ensure};
use foldhash::HashMap;

/// Where the kernel shows its BTF.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
const HEADER: usize = 24;
const KIND_INT: u32 = 1;
const KIND_POINTER: u32 = 2;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_ENUM64: u32 = 19;

/// How deep anonymous structures may be nested.
const MAX_DEPTH: usize = 8;

/// The kernel's type information.
pub struct KernelTypes {
    data: Vec<u8>,
    strings: usize,
    /// Where each type begins, by its id; id 0 is `void`.
    types: Vec<usize>,
    /// Structures that were searched for, which takes a millisecond or two.
    found: RefCell<HashMap<String, Option<usize>>>,
}

impl KernelTypes {
    /// Reads the type information of the running kernel.
    ///
    /// # Errors
    /// When the file is missing or is not BTF that this version understands.
    pub fn of_running_kernel() -> Result<Self> {
        let data = fs::read(VMLINUX).with_context(|| {
            format!(
                "cannot read {VMLINUX}, so the layout of the kernel's structures is not known; \
                 use a kernel built with CONFIG_DEBUG_INFO_BTF"
            )
        })?;
        Self::parse(data)
    }

    fn parse(data: Vec<u8>) -> Result<Self> {
        ensure!(
            data.len() >= HEADER && data[..2] == MAGIC.to_le_bytes(),
            "not little-endian BTF"
        );
        let header = |at| read_u32(&data, at);
        let start = header(4)? as usize;
        let (type_off, type_len) = (header(8)? as usize, header(12)? as usize);
        let (string_off, string_len) = (header(16)? as usize, header(20)? as usize);
        let types_end = start + type_off + type_len;
        let strings = start + string_off;
        ensure!(
            types_end <= data.len() && strings + string_len <= data.len(),
            "BTF cut short"
        );
        let mut types = vec![0];
        let mut at = start + type_off;
        while at < types_end {
            types.push(at);
            let info = read_u32(&data, at + 4)?;
            let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            at += 12
                + match kind {
                    KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
                    KIND_ARRAY => 12,
                    KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => 12 * count,
                    KIND_ENUM | KIND_FUNC_PROTO => 8 * count,
                    0..=19 => 0,
                    _ => bail!("BTF has a kind {kind} that this version does not know"),
                };
        }
        Ok(Self {
            data,
            strings,
            types,
            found: RefCell::default(),
        })
    }

    /// Offset in bytes of the first of `members` that `structure` has.
    ///
    /// # Errors
    /// When the structure is not there or has none of them.
    pub fn offset(&self, structure: &str, members: &[&str]) -> Result<u32> {
        let known = self.found.borrow().get(structure).copied();
        let id = known.unwrap_or_else(|| {
            let id = self.find(structure, KIND_STRUCT);
            self.found.borrow_mut().insert(structure.to_owned(), id);
            id
        });
        let id =
            id.with_context(|| format!("this kernel has no `struct {structure}` in its BTF"))?;
        members
            .iter()
            .find_map(|member| self.member(id, member, 0))
            .with_context(|| format!("this kernel's `struct {structure}` has no `{}`", members[0]))
    }

    /// Bytes of a structure; `None` when it is not there.
    #[must_use]
    pub fn size(&self, structure: &str) -> Option<u32> {
        let id = self.find(structure, KIND_STRUCT)?;
        read_u32(&self.data, self.types.get(id)? + 8).ok()
    }

    /// Value of an enumerator, wherever it is declared; `None` when no enumeration has it.
    #[must_use]
    pub fn enumerator(&self, name: &str) -> Option<u32> {
        (1..self.types.len()).find_map(|id| {
            let (kind, count) = self.info(id)?;
            if kind != KIND_ENUM {
                return None;
            }
            (0..count).find_map(|i| {
                let at = self.types[id] + 12 + 8 * i;
                let found = self.name(read_u32(&self.data, at).ok()?) == name.as_bytes();
                found.then(|| read_u32(&self.data, at + 4).ok()).flatten()
            })
        })
    }

    /// How many arguments a tracepoint has; `None` when it is not there.
    #[must_use]
    pub fn tracepoint_arguments(&self, name: &str) -> Option<usize> {
        let id = self.find(&format!("btf_trace_{name}"), KIND_TYPEDEF)?;
        let pointer = self.refers_to(id, KIND_TYPEDEF)?;
        let function = self.refers_to(pointer, KIND_POINTER)?;
        let (kind, arguments) = self.info(function)?;
        // The first one is the tracepoint's own.
        (kind == KIND_FUNC_PROTO).then(|| arguments.saturating_sub(1))
    }

    /// The type that a type of this kind refers to.
    fn refers_to(&self, id: usize, kind: u32) -> Option<usize> {
        let (own, _) = self.info(id)?;
        let to = read_u32(&self.data, self.types.get(id)? + 8).ok()?;
        (own == kind).then_some(to as usize)
    }

    fn info(&self, id: usize) -> Option<(u32, usize)> {
        let info = read_u32(&self.data, *self.types.get(id)? + 4).ok()?;
        Some((info >> 24 & 0x1f, (info & 0xffff) as usize))
    }

    fn name(&self, offset: u32) -> &[u8] {
        let from = self
            .data
            .get(self.strings + offset as usize..)
            .unwrap_or_default();
        from.split(|&byte| byte == 0).next().unwrap_or_default()
    }

    fn find(&self, name: &str, kind: u32) -> Option<usize> {
        (1..self.types.len()).find(|&id| {
            self.info(id).is_some_and(|(k, _)| k == kind)
                && read_u32(&self.data, self.types[id])
                    .is_ok_and(|offset| self.name(offset) == name.as_bytes())
        })
    }

    /// Looks through anonymous members too, as C does.
    fn member(&self, id: usize, member: &str, depth: usize) -> Option<u32> {
        let (kind, count) = self.info(id)?;
        if depth > MAX_DEPTH || (kind != KIND_STRUCT && kind != KIND_UNION) {
            return None;
        }
        let bitfields = read_u32(&self.data, self.types[id] + 4).ok()? >> 31 != 0;
        (0..count).find_map(|i| {
            let at = self.types[id] + 12 + 12 * i;
            let word = |n: usize| read_u32(&self.data, at + 4 * n).ok();
            let (name, ty, mut bits) = (self.name(word(0)?), word(1)?, word(2)?);
            if bitfields {
                bits &= 0x00ff_ffff;
            }
            if name == member.as_bytes() {
                Some(bits / 8)
            } else if name.is_empty() {
                Some(bits / 8 + self.member(ty as usize, member, depth + 1)?)
            } else {
                None
            }
        })
    }
}

fn read_u32(data: &[u8], at: usize) -> Result<u32> {
    let bytes = at
        .checked_add(4)
        .and_then(|end| data.get(at..end))
        .context("BTF cut short")?;
    Ok(u32::from_le_bytes(bytes.try_into()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_the_running_kernel_are_found_also_in_anonymous_structures() {
        let Ok(types) = KernelTypes::of_running_kernel() else {
            crate::skipped::skipped(&format!("{VMLINUX} is not there"));
            return;
        };
        let pid = types.offset("task_struct", &["pid"]).unwrap();
        assert_eq!(types.offset("task_struct", &["tgid"]).unwrap(), pid + 4);
        // In `struct page`, `mapping` is inside anonymous unions and structures.
        assert!(types.offset("page", &["mapping"]).unwrap() > 0);
        assert_eq!(types.offset("page", &["no_such", "flags"]).unwrap(), 0);
        assert!(types.offset("task_struct", &["no_such"]).is_err());
        assert_eq!(types.size("list_head"), Some(16));
        assert_eq!(types.size("no_such"), None);
        assert_eq!(types.enumerator("MM_ANONPAGES"), Some(1));
        assert_eq!(types.enumerator("NO_SUCH_ENUMERATOR"), None);
        assert_eq!(types.tracepoint_arguments("sched_process_fork"), Some(2));
        assert_eq!(types.tracepoint_arguments("no_such_tracepoint"), None);
    }

    #[test]
    fn what_is_not_btf_is_refused() {
        assert!(KernelTypes::parse(vec![0; 64]).is_err());
        assert!(KernelTypes::parse(Vec::new()).is_err());
        let mut cut = vec![0; HEADER];
        cut[..2].copy_from_slice(&MAGIC.to_le_bytes());
        cut[12..16].copy_from_slice(&1000u32.to_le_bytes());
        assert!(KernelTypes::parse(cut).is_err());
    }
}
