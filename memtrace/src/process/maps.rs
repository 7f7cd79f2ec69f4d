//! Where a process's code is: its executable mappings, from /proc/PID/maps.
//!
//! What /proc shows of another process is foreign: paths may hold any byte but NUL and newline
//! (which the kernel escapes), files may be replaced or be no ELF files at all.

use std::io;
use std::sync::Arc;

use crate::report::escape::escape;
use crate::symbolize::{Module, Modules};

/// Executable mappings that are kept; a process with more has the rest unnamed.
const MAX_MAPPINGS: usize = 65_536;

/// Bytes of a path that are kept.
const MAX_PATH: usize = 4096;

/// A process's executable mappings at one moment. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AddressSpace {
    /// By address.
    mappings: Arc<[Mapping]>,
}

/// One executable mapping.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// Offset in the file of its first byte.
    pub offset: u64,
    /// What is mapped.
    pub code: Code,
}

/// What a mapping's code comes from.
#[derive(Clone, Debug)]
pub enum Code {
    /// A file, or the kernel's own shared object.
    Module(Arc<Module>),
    /// Made at run time. The name that the kernel shows, escaped; often empty.
    Anonymous(Arc<str>),
}

impl AddressSpace {
    /// Reads the mappings of process `pid`, and opens files that `modules` does not have yet.
    ///
    /// # Errors
    /// When they cannot be read: mostly since the process has ended.
    pub fn read(pid: u32, modules: &mut Modules) -> io::Result<Self> {
        let maps = std::fs::read(format!("/proc/{pid}/maps"))?;
        let mappings: Arc<[Mapping]> = maps
            .split(|&byte| byte == b'\n')
            .filter_map(Line::parse)
            .filter(|line| line.executable)
            .take(MAX_MAPPINGS)
            .map(|line| line.into_mapping(pid, modules))
            .collect();
        if mappings.is_empty() {
            // A process that is ending shows none.
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Self { mappings })
    }

    /// The executable mapping that has `address`.
    #[must_use]
    pub fn find(&self, address: u64) -> Option<&Mapping> {
        let after = self
            .mappings
            .partition_point(|mapping| mapping.start <= address);
        let mapping = &self.mappings[after.checked_sub(1)?];
        (address < mapping.end).then_some(mapping)
    }
}

/// A line of /proc/PID/maps.
#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    start: u64,
    end: u64,
    executable: bool,
    offset: u64,
    device: (u32, u32),
    inode: u64,
    path: &'a [u8],
}

impl<'a> Line<'a> {
    /// `None` for what is not such a line.
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.splitn(6, |&byte| byte == b' ');
        let range = std::str::from_utf8(fields.next()?).ok()?;
        let permissions = fields.next()?;
        let offset = hex(fields.next()?)?;
        let device = std::str::from_utf8(fields.next()?).ok()?;
        let inode = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        let path = fields.next().unwrap_or_default().trim_ascii_start();
        let (start, end) = range.split_once('-')?;
        let (major, minor) = device.split_once(':')?;
        let (start, end) = (hex(start.as_bytes())?, hex(end.as_bytes())?);
        (start < end).then_some(Self {
            start,
            end,
            executable: permissions.get(2) == Some(&b'x'),
            offset,
            device: (
                u32::from_str_radix(major, 16).ok()?,
                u32::from_str_radix(minor, 16).ok()?,
            ),
            inode,
            path: &path[..path.len().min(MAX_PATH)],
        })
    }

    fn into_mapping(self, pid: u32, modules: &mut Modules) -> Mapping {
        let Self {
            start,
            end,
            offset,
            device,
            inode,
            path,
            ..
        } = self;
        let code = if inode != 0 {
            Code::Module(modules.file(pid, start..end, device, inode, path))
        } else if path == b"[vdso]" {
            Code::Module(modules.vdso())
        } else {
            Code::Anonymous(escape(&String::from_utf8_lossy(path)).into())
        };
        Mapping {
            start,
            end,
            offset,
            code,
        }
    }
}

fn hex(digits: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_is_taken_apart() {
        let line = b"7f00-7f80 r-xp 00001000 fd:1a 42                         /a b\\012c";
        let parsed = Line::parse(line).unwrap();
        assert_eq!(
            (parsed.start, parsed.end, parsed.offset),
            (0x7f00, 0x7f80, 0x1000)
        );
        assert_eq!((parsed.device, parsed.inode), ((0xfd, 0x1a), 42));
        assert!(parsed.executable);
        assert_eq!(parsed.path, b"/a b\\012c");
    }

    #[test]
    fn a_line_without_a_path_is_anonymous() {
        let parsed = Line::parse(b"1000-2000 rw-p 00000000 00:00 0 ").unwrap();
        assert!(!parsed.executable && parsed.path.is_empty());
        assert_eq!(
            Line::parse(b"2000-1000 rw-p 00000000 00:00 0 "),
            None,
            "backwards"
        );
    }

    #[test]
    fn our_own_code_is_found_and_nothing_else() {
        let space = AddressSpace::read(std::process::id(), &mut Modules::default()).unwrap();
        let code = space
            .find(hex as *const () as u64)
            .expect("this function is mapped");
        assert!(matches!(&code.code, Code::Module(_)));
        assert!(space.find(0).is_none());
        let local = 0u8;
        assert!(
            space.find(&raw const local as u64).is_none(),
            "a stack is not executable"
        );
    }

    #[test]
    fn a_process_that_is_not_there_gives_an_error() {
        assert!(AddressSpace::read(u32::MAX, &mut Modules::default()).is_err());
    }

    proptest! {
        #[test]
        fn any_line_is_parsed_or_refused(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Line::parse(&line);
        }

        #[test]
        fn almost_lines_are_parsed_or_refused(line in "[0-9a-f]{0,18}-[0-9a-f]{0,18} [rwxps-]{0,5} [0-9a-f]{0,9} [0-9a-f:]{0,9} [0-9]{0,22} *.{0,20}") {
            let _ = Line::parse(line.as_bytes());
        }
    }
}
