//! The mappings of a process, as /proc/PID/maps lists them.
//!
//! The names in that file are chosen by whoever runs the process, so it is read as bytes, line by
//! line, and within bounds: at most [`MAX_BYTES`] of it and [`MAX_MAPPINGS`] mappings of any kind,
//! after which only executable ones are kept, again at most that many. An address in what is left
//! out has "no mapping". A process may have 65,530 mappings unless its administrator raised
//! `vm.max_map_count`, so in practice nothing is.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::sync::Arc;

use super::modules::{MappedFile, Module, Modules};
use crate::foreign;

/// Mappings of any kind that are kept of one process, and beyond them as many executable ones.
pub const MAX_MAPPINGS: usize = 65_536;

/// Bytes that are read of one maps file.
pub const MAX_BYTES: u64 = 64 << 20;

/// What the kernel appends to the name of a file that has been unlinked.
const DELETED: &[u8] = b" (deleted)";

/// The mappings of one process at one moment. Cheap to clone: a forked child shares its parent's.
#[derive(Clone, Debug)]
pub struct AddressSpace {
    /// By address, not overlapping; `Err` when they could not be read.
    mappings: Result<Arc<[Mapping]>, NotRead>,
}

/// Why the mappings of a process could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NotRead {
    /// It has gone.
    Gone,
    /// They may not be read, of the process with this pid.
    NotPermitted(u32),
}

/// Where a process has something mapped, and of which file, of which nothing else is looked at.
#[derive(Clone, Debug, Default)]
pub struct Extents(Vec<Extent>);

/// A range of addresses.
#[derive(Clone, Copy, Debug)]
struct Extent {
    start: u64,
    end: u64,
    /// Device and inode, and where in the file `start` lies; inode 0 without a file.
    file: ((u32, u32), u64, u64),
}

impl Extents {
    /// Reads the present mappings of `pid`.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    pub fn read(pid: u32) -> io::Result<Self> {
        let maps = File::open(format!("/proc/{pid}/maps"))?;
        let mut extents: Vec<Extent> = Vec::new();
        let ordered =
            |line: &Line<'_>, last: Option<&Extent>| last.is_none_or(|last| last.end <= line.start);
        each_line(BufReader::with_capacity(32 << 10, maps), |line| {
            if ordered(&line, extents.last()) {
                extents.push(Extent {
                    start: line.start,
                    end: line.end,
                    file: (line.device, line.inode, line.offset),
                });
            }
            extents.len() < 2 * MAX_MAPPINGS
        })?;
        Ok(Self(extents))
    }

    /// What is mapped at `address`; `None` when nothing is. Two are equal when they are the same
    /// place of one file, or both without a file.
    #[must_use]
    pub fn at(&self, address: u64) -> Option<Mapped> {
        let after = self.0.partition_point(|extent| extent.start <= address);
        let extent = self.0[..after].last()?;
        let (device, inode, offset) = extent.file;
        (address < extent.end).then(|| match inode {
            0 => Mapped::Anonymous,
            _ => Mapped::File {
                device,
                inode,
                offset: offset.wrapping_add(address - extent.start),
            },
        })
    }
}

/// What is mapped at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapped {
    /// Memory without a file.
    Anonymous,
    /// A place in a file.
    File {
        /// Major and minor number.
        device: (u32, u32),
        /// The file.
        inode: u64,
        /// Bytes from its start.
        offset: u64,
    },
}

/// A range of addresses of a process, and what is mapped there.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// One past the last address.
    pub end: u64,
    /// Where in the file `start` lies, in bytes; 0 without a file.
    pub offset: u64,
    /// Whether code in it may run.
    pub executable: bool,
    /// What is mapped.
    pub kind: MappingKind,
}

/// What a mapping shows.
#[derive(Clone, Debug)]
pub enum MappingKind {
    /// A file, perhaps deleted since.
    File(Arc<Module>),
    /// The kernel's shared object.
    Vdso(Arc<Module>),
    /// Memory that `brk` manages.
    Heap,
    /// The main thread's stack.
    Stack,
    /// Memory without a file, named or not, shared or private.
    Anonymous,
    /// Anything else that the kernel maps; its bracketed name, escaped.
    Special(Arc<str>),
}

impl AddressSpace {
    /// Reads the present mappings of `pid`; files not seen before are added to `modules`, and
    /// those with executable mappings opened. Where they may not be read, nothing of them is known.
    ///
    /// # Errors
    ///
    /// When the maps cannot be read, and [`io::ErrorKind::NotFound`] when the process does not have
    /// memory any more: it has exited, and its parent has not waited for it yet.
    pub fn read(pid: u32, modules: &mut Modules) -> io::Result<Self> {
        let maps = match File::open(format!("/proc/{pid}/maps")) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Ok(Self::not_permitted(pid));
            }
            maps => maps?,
        };
        let mappings = collect(BufReader::with_capacity(32 << 10, maps), pid, modules)?;
        if mappings.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "the process has no memory",
            ));
        }
        Ok(Self {
            mappings: Ok(mappings.into()),
        })
    }

    /// The address space of a process whose mappings could not be read in time. Every address in
    /// it is unknown, because the process has gone.
    #[must_use]
    pub fn gone() -> Self {
        Self {
            mappings: Err(NotRead::Gone),
        }
    }

    /// The address space of a process whose mappings may not be read.
    #[must_use]
    pub fn not_permitted(pid: u32) -> Self {
        Self {
            mappings: Err(NotRead::NotPermitted(pid)),
        }
    }

    /// The process whose mappings may not be read, if that is why they are not known.
    #[must_use]
    pub fn is_not_permitted(&self) -> Option<u32> {
        match self.mappings {
            Err(NotRead::NotPermitted(pid)) => Some(pid),
            _ => None,
        }
    }

    /// Whether the mappings could not be read.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.mappings.is_err()
    }

    /// All mappings, by address.
    #[must_use]
    pub fn mappings(&self) -> &[Mapping] {
        self.mappings.as_deref().unwrap_or_default()
    }

    /// Whether both have the same mappings at the same addresses.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let (own, others) = (self.mappings(), other.mappings());
        self.is_gone() == other.is_gone()
            && own.len() == others.len()
            && own
                .iter()
                .zip(others)
                .all(|(own, other)| own.is_same(other))
    }

    /// Whether there is all code that the `known` mappings have, and more.
    #[must_use]
    pub fn has_more_code(&self, known: &Self) -> bool {
        let is_here = |known: &Mapping| {
            let here = self.find(known.start);
            here.is_some_and(|here| here.is_same(known))
        };
        self.code().count() > known.code().count() && known.code().all(is_here)
    }

    /// The mappings that code may run in.
    pub fn code(&self) -> impl Iterator<Item = &Mapping> {
        self.mappings().iter().filter(|mapping| mapping.executable)
    }

    /// Whether `later` can be of the same program, from fork or exec on. The kernel chooses where a
    /// program's stack and the kernel's shared object are, and they stay there.
    #[must_use]
    pub fn is_of_program(&self, later: &Self) -> bool {
        let same = |own: Option<u64>, others: Option<u64>| {
            own.zip(others).is_none_or(|(own, others)| own == others)
        };
        same(self.stack_end(), later.stack_end())
            && same(self.vdso_start(), later.vdso_start())
            && same_file(self.mappings().first(), later.mappings().first())
    }

    fn stack_end(&self) -> Option<u64> {
        let mut mappings = self.mappings().iter().rev();
        let stack = mappings.find(|mapping| matches!(mapping.kind, MappingKind::Stack))?;
        Some(stack.end)
    }

    fn vdso_start(&self) -> Option<u64> {
        let mut mappings = self.mappings().iter().rev();
        let vdso = mappings.find(|mapping| matches!(mapping.kind, MappingKind::Vdso(_)))?;
        Some(vdso.start)
    }

    /// The mapping that covers `address`.
    #[must_use]
    pub fn find(&self, address: u64) -> Option<&Mapping> {
        let mappings = self.mappings();
        let after = mappings.partition_point(|mapping| mapping.start <= address);
        mappings[..after]
            .last()
            .filter(|mapping| address < mapping.end)
    }

    /// The mapping of the file whose data is at `address`: that of the file itself, or the one before
    /// where the rest of a file's data is, which is anonymous and lies directly behind it.
    #[must_use]
    pub fn file_at(&self, address: u64) -> Option<&Mapping> {
        let mapping = self.find(address)?;
        let of_file = match mapping.kind {
            MappingKind::Anonymous if !mapping.executable => {
                self.find(mapping.start.checked_sub(1)?)?
            }
            _ => mapping,
        };
        matches!(of_file.kind, MappingKind::File(_)).then_some(of_file)
    }

    /// Whether two addresses are in the data of one file.
    #[must_use]
    pub fn are_of_one_file(&self, one: u64, other: u64) -> bool {
        let module = |address| Some(self.file_at(address)?.module()?.id());
        module(one).is_some_and(|one| module(other) == Some(one))
    }
}

#[cfg(test)]
impl AddressSpace {
    /// What a maps file with these lines would show for a pid that cannot exist.
    pub fn of_lines(maps: &str, modules: &mut Modules) -> Self {
        let mappings = collect(maps.as_bytes(), u32::MAX, modules);
        Self {
            mappings: mappings.map(Into::into).map_err(|_| NotRead::Gone),
        }
    }
}

impl Mapping {
    fn is_same(&self, other: &Self) -> bool {
        let kind = |mapping: &Self| {
            let module = mapping.module().map(|module| module.id());
            (std::mem::discriminant(&mapping.kind), module)
        };
        let range = |mapping: &Self| (mapping.start, mapping.end, mapping.offset);
        range(self) == range(other)
            && self.executable == other.executable
            && kind(self) == kind(other)
    }

    /// The mapped file, the kernel's shared object included.
    #[must_use]
    pub fn module(&self) -> Option<&Arc<Module>> {
        match &self.kind {
            MappingKind::File(module) | MappingKind::Vdso(module) => Some(module),
            _ => None,
        }
    }

    /// The path of the mapped file, or the bracketed name of what is mapped; `None` for anonymous
    /// memory.
    #[must_use]
    pub fn name(&self) -> Option<Arc<str>> {
        match &self.kind {
            MappingKind::File(module) | MappingKind::Vdso(module) => {
                Some(Arc::clone(module.path()))
            }
            MappingKind::Heap => Some("[heap]".into()),
            MappingKind::Stack => Some("[stack]".into()),
            MappingKind::Anonymous => None,
            MappingKind::Special(name) => Some(Arc::clone(name)),
        }
    }
}

/// Whether these are not mappings of different files at one address.
fn same_file(own: Option<&Mapping>, others: Option<&Mapping>) -> bool {
    let of = |mapping: Option<&Mapping>| {
        let mapping = mapping?;
        Some((mapping.start, mapping.module()?.id()))
    };
    match (of(own), of(others)) {
        (Some((start, own)), Some((other_start, other))) => start != other_start || own == other,
        _ => true,
    }
}

/// Reads mappings until the end or a bound.
fn collect(maps: impl BufRead, pid: u32, modules: &mut Modules) -> io::Result<Vec<Mapping>> {
    let mut mappings: Vec<Mapping> = Vec::new();
    each_line(maps, |parsed| {
        let ordered = mappings.last().is_none_or(|last| last.end <= parsed.start);
        if ordered && (parsed.executable || mappings.len() < MAX_MAPPINGS) {
            mappings.push(parsed.into_mapping(pid, modules));
        }
        mappings.len() < 2 * MAX_MAPPINGS
    })?;
    Ok(mappings)
}

/// Hands over each line that can be parsed, until the end or a bound, and as long as more are wanted.
fn each_line(maps: impl BufRead, mut wants_more: impl FnMut(Line<'_>) -> bool) -> io::Result<()> {
    let mut maps = maps.take(MAX_BYTES);
    let mut line = Vec::new();
    loop {
        line.clear();
        if maps.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let parsed = Line::parse(line.strip_suffix(b"\n").unwrap_or(&line));
        if parsed.is_some_and(|parsed| !wants_more(parsed)) {
            return Ok(());
        }
    }
}

/// One parsed line.
#[derive(Debug, PartialEq, Eq)]
struct Line<'line> {
    start: u64,
    end: u64,
    executable: bool,
    offset: u64,
    /// Major and minor number, as printed.
    device: (u32, u32),
    inode: u64,
    name: &'line [u8],
}

impl<'line> Line<'line> {
    /// `start-end perms offset major:minor inode      name`; `None` when it is anything else.
    fn parse(line: &'line [u8]) -> Option<Self> {
        let (range, rest) = word(line)?;
        let (perms, rest) = word(rest)?;
        let (offset, rest) = word(rest)?;
        let (device, rest) = word(rest)?;
        let (inode, name) = word(rest)?;
        let (start, end) = pair(range, b'-')?;
        let (major, minor) = pair(device, b':')?;
        let parsed = Self {
            start: number(start, 16)?,
            end: number(end, 16)?,
            executable: perms.get(2) == Some(&b'x'),
            offset: number(offset, 16)?,
            device: (
                number(major, 16)?.try_into().ok()?,
                number(minor, 16)?.try_into().ok()?,
            ),
            inode: number(inode, 10)?,
            // Names are padded with spaces on the left; a path begins with a slash, so none of
            // its own are lost.
            name: name.trim_ascii_start(),
        };
        (parsed.start < parsed.end).then_some(parsed)
    }

    fn into_mapping(self, pid: u32, modules: &mut Modules) -> Mapping {
        Mapping {
            start: self.start,
            end: self.end,
            offset: self.offset,
            executable: self.executable,
            kind: self.kind(pid, modules),
        }
    }

    fn kind(&self, pid: u32, modules: &mut Modules) -> MappingKind {
        match self.name {
            b"" => MappingKind::Anonymous,
            b"[heap]" => MappingKind::Heap,
            b"[stack]" => MappingKind::Stack,
            b"[vdso]" => match modules.vdso(self.start, self.end) {
                Some(vdso) => MappingKind::Vdso(vdso),
                None => MappingKind::Special("[vdso]".into()),
            },
            name if is_anonymous(name) => MappingKind::Anonymous,
            name if name.starts_with(b"/") => {
                let file = MappedFile {
                    pid,
                    range: (self.start, self.end),
                    executable: self.executable,
                    device: self.device,
                    inode: self.inode,
                    path: name.strip_suffix(DELETED).unwrap_or(name),
                };
                MappingKind::File(modules.see(&file))
            }
            name => MappingKind::Special(foreign::shown(name, foreign::MAX_PATH).into()),
        }
    }
}

/// Whether the kernel gives this name, which is not empty, to memory without a file: memory that
/// is named by `prctl`, or shared.
fn is_anonymous(name: &[u8]) -> bool {
    let unlinked = name.strip_suffix(DELETED);
    name.starts_with(b"[anon:")
        || name.starts_with(b"[anon_shmem:")
        || unlinked.is_some_and(|name| {
            name == b"/dev/zero" || name == b"/anon_hugepage" || name.starts_with(b"/SYSV")
        })
}

/// Splits at the first space.
fn word(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes
        .iter()
        .position(|&byte| byte == b' ')
        .unwrap_or(bytes.len());
    let (word, rest) = bytes.split_at(end);
    (!word.is_empty()).then(|| (word, rest.get(1..).unwrap_or_default()))
}

/// Splits at the first `separator`.
fn pair(bytes: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|&byte| byte == separator)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

fn number(digits: &[u8], radix: u32) -> Option<u64> {
    if digits.first() == Some(&b'+') {
        return None;
    }
    u64::from_str_radix(str::from_utf8(digits).ok()?, radix).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn space(maps: &str) -> AddressSpace {
        space_of(maps.as_bytes())
    }

    /// The mappings of a pid that cannot exist, so that files are not opened.
    fn space_of(maps: &[u8]) -> AddressSpace {
        let mappings = collect(maps, u32::MAX, &mut Modules::new()).unwrap();
        AddressSpace {
            mappings: Ok(mappings.into()),
        }
    }

    fn path_at(space: &AddressSpace, address: u64) -> Option<String> {
        space.find(address)?.name().map(|name| name.to_string())
    }

    #[test]
    fn mappings_with_more_code_have_all_that_there_was() {
        let modules = &mut Modules::new();
        let mut space = |maps: &[&str]| {
            let mappings = collect(maps.join("\n").as_bytes(), u32::MAX, modules).unwrap();
            AddressSpace {
                mappings: Ok(mappings.into()),
            }
        };
        let program = "1000-2000 r-xp 00001000 fe:00 42    /usr/bin/app";
        let data = "2000-3000 rw-p 00000000 00:00 0 ";
        let library = "5000-6000 r-xp 00000000 fe:00 43    /usr/lib/a.so";
        let known = space(&[program, data]);
        assert!(space(&[program, data, library]).has_more_code(&known));
        assert!(space(&[program, library]).has_more_code(&known));
        assert!(!space(&[program]).has_more_code(&known), "no code came");
        let other = "5000-7000 r-xp 00000000 fe:00 44    /usr/lib/b.so";
        let more = "8000-9000 r-xp 00000000 fe:00 43    /usr/lib/a.so";
        let with_library = space(&[program, library]);
        let replaced = space(&[program, other, more]);
        assert!(!replaced.has_more_code(&with_library), "some of it went");
    }

    #[test]
    fn every_kind_is_told_apart() {
        let space = space(concat!(
            "1000-2000 r-xp 00003000 fe:00 42    /usr/lib/lib a.so\n",
            "2000-3000 rw-p 00000000 00:00 0 \n",
            "3000-4000 rw-p 00000000 00:00 0    [heap]\n",
            "4000-5000 rw-s 00000000 00:01 7    /dev/zero (deleted)\n",
            "5000-6000 rw-p 00000000 00:00 0    [anon:arena]\n",
            "6000-7000 rw-p 00000000 00:00 0    [stack]\n",
            "7000-8000 r--p 00000000 00:00 0    [vvar]\n",
            "8000-9000 r-xp 00000000 00:05 9    /memfd:jit (deleted)\n",
        ));
        let file = space.find(0x1fff).unwrap();
        assert_eq!(
            (file.start, file.end, file.offset),
            (0x1000, 0x2000, 0x3000)
        );
        assert!(file.executable);
        assert_eq!(
            path_at(&space, 0x1000).as_deref(),
            Some("/usr/lib/lib a.so")
        );
        assert!(matches!(
            space.find(0x2000).unwrap().kind,
            MappingKind::Anonymous
        ));
        assert!(matches!(
            space.find(0x3000).unwrap().kind,
            MappingKind::Heap
        ));
        assert!(matches!(
            space.find(0x4000).unwrap().kind,
            MappingKind::Anonymous
        ));
        assert!(matches!(
            space.find(0x5000).unwrap().kind,
            MappingKind::Anonymous
        ));
        assert!(matches!(
            space.find(0x6000).unwrap().kind,
            MappingKind::Stack
        ));
        assert_eq!(path_at(&space, 0x7000).as_deref(), Some("[vvar]"));
        assert_eq!(path_at(&space, 0x8000).as_deref(), Some("/memfd:jit"));
        assert!(space.find(0xfff).is_none());
        assert!(space.find(0x9000).is_none());
    }

    #[test]
    fn hostile_names_are_escaped_and_cut() {
        let mut maps = b"1000-2000 r--p 0 fe:00 42  /tmp/\x1b[31m\xff\r.so (deleted)\n".to_vec();
        maps.extend(b"2000-3000 r--p 0 fe:00 43  /");
        maps.extend([b'x'; 9000]);
        maps.extend(b"/end.so\n");
        let space = space_of(&maps);
        assert_eq!(
            path_at(&space, 0x1000).as_deref(),
            Some("/tmp/\\u{1b}[31m\u{fffd}\\r.so")
        );
        let long = path_at(&space, 0x2000).unwrap();
        assert!(
            long.len() <= foreign::MAX_PATH + 3 && long.ends_with("/end.so"),
            "{long}"
        );
    }

    #[test]
    fn lines_that_cannot_be_read_are_left_out() {
        let space = space(concat!(
            "\n",
            "nonsense\n",
            "2000-1000 r-xp 0 fe:00 42 /backwards\n",
            "1000-2000 r-xp 0 fe:00 +2 /sign\n",
            "10000000000000000-2 r-xp 0 fe:00 2 /overflow\n",
            "1000-2000 r-xp 0 fe:00 42 /good\n",
            "1800-2800 r-xp 0 fe:00 42 /overlapping\n",
        ));
        assert_eq!(space.mappings().len(), 1);
        assert_eq!(path_at(&space, 0x1800).as_deref(), Some("/good"));
    }

    #[test]
    fn beyond_the_bound_only_code_is_kept() {
        use std::fmt::Write as _;
        let mut maps = String::new();
        for at in 0..MAX_MAPPINGS as u64 + 10 {
            writeln!(
                maps,
                "{:x}-{:x} rw-p 0 00:00 0 ",
                at * 4096,
                (at + 1) * 4096
            )
            .unwrap();
        }
        let code = (MAX_MAPPINGS as u64 + 10) * 4096;
        writeln!(maps, "{code:x}-{:x} r-xp 0 00:00 0 ", code + 4096).unwrap();
        let space = space(&maps);
        assert_eq!(space.mappings().len(), MAX_MAPPINGS + 1);
        assert!(space.find(code).is_some());
        assert!(space.find(code - 4096).is_none());
    }

    #[test]
    fn our_own_code_is_in_our_own_executable() {
        let space = AddressSpace::read(std::process::id(), &mut Modules::new()).unwrap();
        let mapping = space.find(our_own_code_is_in_our_own_executable as *const () as u64);
        let mapping = mapping.unwrap();
        let exe = std::env::current_exe().unwrap();
        assert_eq!(
            mapping.module().unwrap().path().as_ref(),
            exe.to_str().unwrap()
        );
        assert!(mapping.executable);
        assert!(
            space
                .mappings()
                .iter()
                .any(|each| matches!(each.kind, MappingKind::Stack))
        );
    }

    #[test]
    fn a_process_without_memory_is_an_error() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        // Until it is waited for, the exited child stays as a zombie, whose maps are empty.
        while !std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .unwrap()
            .contains(") Z")
        {
            std::thread::yield_now();
        }
        let error = AddressSpace::read(pid, &mut Modules::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        child.wait().unwrap();
        assert!(AddressSpace::read(pid, &mut Modules::new()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_give_ordered_mappings(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let space = space_of(&bytes);
            for two in space.mappings().windows(2) {
                prop_assert!(two[0].end <= two[1].start);
            }
        }

        #[test]
        fn what_was_written_is_read_back(
            start in 0..u64::MAX / 2, length in 1..u64::MAX / 2, offset: u64, inode: u64,
            executable: bool, major: u32, minor: u32, name in "(/[^\n]{0,40}[^\n ])?",
        ) {
            let x = if executable { 'x' } else { '-' };
            let end = start + length;
            let line = format!("{start:x}-{end:x} r-{x}p {offset:08x} {major:02x}:{minor:02x} {inode}   {name}");
            let parsed = Line::parse(line.as_bytes()).unwrap();
            let expected = Line {
                start, end, executable, offset, device: (major, minor), inode, name: name.as_bytes(),
            };
            prop_assert_eq!(parsed, expected);
        }

        #[test]
        fn find_agrees_with_a_linear_search(
            gaps in proptest::collection::vec((0_u64..5, 1_u64..5), 0..20), probe in 0_u64..200,
        ) {
            use std::fmt::Write as _;
            let (mut maps, mut at) = (String::new(), 0);
            for (gap, length) in gaps {
                at += gap;
                writeln!(maps, "{at:x}-{:x} r-xp 0 00:00 0 ", at + length).unwrap();
                at += length;
            }
            let space = space(&maps);
            let linear = space.mappings().iter().find(|each| (each.start..each.end).contains(&probe));
            prop_assert_eq!(space.find(probe).map(|each| each.start), linear.map(|each| each.start));
        }
    }
}
