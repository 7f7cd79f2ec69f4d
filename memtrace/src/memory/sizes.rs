//! How much memory a process has now, as /proc says it.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read as _};

use procfs::FromBufRead as _;
use procfs::process::{MMPermissions, MMapPath, MemoryMap, MemoryMaps};

use crate::profile::{MappingKind, MappingSizes, MemorySizes};

/// Bytes of a file of /proc that are read: a process may have as many mappings as it likes.
const MOST_BYTES: u64 = 64 << 20;

/// Sizes at one moment, and what is not in a report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// What a report has.
    pub shown: MemorySizes,
    /// Of the anonymous memory, what is in huge pages.
    pub huge: u64,
}

/// How much memory process `pid` has. What may not be read is `None`, with the reason.
///
/// # Errors
/// When there is no such process, or it has no memory any more.
pub fn read(pid: u32) -> io::Result<Sizes> {
    let statm = read_file(pid, "statm")?;
    let mut numbers = statm.split_whitespace().map(str::parse::<u64>);
    let mut next = || numbers.next().and_then(Result::ok);
    let (vsz, rss) = (next(), next());
    if vsz == Some(0) {
        return Err(io::ErrorKind::NotFound.into());
    }
    let pages = |pages: Option<u64>| pages.and_then(|pages| pages.checked_mul(procfs::page_size()));
    let mut sizes = Sizes {
        shown: MemorySizes {
            vsz: pages(vsz),
            rss: pages(rss),
            ..MemorySizes::default()
        },
        huge: 0,
    };
    match read_file(pid, "smaps_rollup").and_then(|text| rollup(&text)) {
        Ok(rollup) => sizes.take(&rollup),
        Err(error) => {
            sizes.shown.why = Some(format!("cannot read smaps_rollup: {}", plain(&error)));
        }
    }
    Ok(sizes)
}

impl Sizes {
    fn take(&mut self, fields: &Fields) {
        let vsz = self.shown.vsz;
        self.huge = fields.get("AnonHugePages").copied().unwrap_or(0);
        self.shown = MemorySizes {
            vsz,
            ..fields_sizes(fields)
        };
    }
}

/// Fields of smaps by name, in bytes.
type Fields = HashMap<String, u64>;

/// The sizes that fields of smaps say; the address space is in none of them.
fn fields_sizes(fields: &Fields) -> MemorySizes {
    let field = |name: &str| fields.get(name).copied();
    let sum = |one: &str, two: &str| field(one)?.checked_add(field(two)?);
    MemorySizes {
        vsz: None,
        rss: field("Rss"),
        pss: field("Pss"),
        shared: sum("Shared_Clean", "Shared_Dirty"),
        private: sum("Private_Clean", "Private_Dirty"),
        swap: field("Swap"),
        anonymous: field("Anonymous"),
        why: None,
    }
}

/// The fields of `smaps_rollup`.
fn rollup(text: &str) -> io::Result<Fields> {
    let mut maps = maps(text)?.into_iter();
    match maps.next() {
        Some(only) => Ok(only.extension.map),
        None => Err(io::Error::new(io::ErrorKind::NotFound, "it is empty")),
    }
}

fn maps(text: &str) -> io::Result<MemoryMaps> {
    MemoryMaps::from_buf_read(text.as_bytes()).map_err(|error| io::Error::other(error.to_string()))
}

/// How much memory process `pid` has, by kind of mapping; kinds that it has none of are left out.
///
/// # Errors
/// When its mappings may not be read, or it has ended.
pub fn by_kind(pid: u32) -> io::Result<Vec<MappingSizes>> {
    let program = fs::read_link(format!("/proc/{pid}/exe")).ok();
    let program = program.as_deref().and_then(std::path::Path::to_str);
    kinds(&read_file(pid, "smaps")?, program)
}

/// The sizes by kind that a text of smaps says of a process which runs `program`.
fn kinds(text: &str, program: Option<&str>) -> io::Result<Vec<MappingSizes>> {
    let maps = maps(text)?;
    // A library has several mappings, of which one is code.
    let code: std::collections::HashSet<(i32, i32, u64)> = (maps.iter())
        .filter(|map| map.perms.contains(MMPermissions::EXECUTE))
        .map(|map| (map.dev.0, map.dev.1, map.inode))
        .collect();
    let mut sums: HashMap<MappingKind, MemorySizes> = HashMap::new();
    for map in &maps {
        let has_code = code.contains(&(map.dev.0, map.dev.1, map.inode));
        let sizes = MemorySizes {
            vsz: Some(map.address.1.saturating_sub(map.address.0)),
            ..fields_sizes(&map.extension.map)
        };
        let sum = sums.entry(kind(map, program, has_code));
        sum.and_modify(|sum| add(sum, &sizes)).or_insert(sizes);
    }
    let kinds = MappingKind::ALL.into_iter();
    Ok(kinds
        .filter_map(|kind| {
            Some(MappingSizes {
                kind,
                sizes: sums.remove(&kind)?,
            })
        })
        .collect())
}

fn kind(map: &MemoryMap, program: Option<&str>, has_code: bool) -> MappingKind {
    if map.perms.contains(MMPermissions::SHARED) {
        return MappingKind::Shared;
    }
    match &map.pathname {
        MMapPath::Heap => MappingKind::Heap,
        MMapPath::Stack => MappingKind::Stack,
        MMapPath::Path(path) if path.to_str() == program => MappingKind::Program,
        MMapPath::Path(_) if has_code => MappingKind::Libraries,
        MMapPath::Path(_) => MappingKind::PrivateFile,
        _ => MappingKind::Anonymous,
    }
}

/// Adds sizes; what is not known of one is not known of the sum.
fn add(sum: &mut MemorySizes, more: &MemorySizes) {
    let add = |sum: &mut Option<u64>, more: Option<u64>| {
        *sum = sum.zip(more).and_then(|(a, b)| a.checked_add(b));
    };
    add(&mut sum.vsz, more.vsz);
    add(&mut sum.rss, more.rss);
    add(&mut sum.pss, more.pss);
    add(&mut sum.shared, more.shared);
    add(&mut sum.private, more.private);
    add(&mut sum.swap, more.swap);
    add(&mut sum.anonymous, more.anonymous);
}

/// Processor time that process `pid` has had, in nanoseconds, of all its threads.
pub fn cpu_ns(pid: u32) -> Option<u64> {
    let stat = read_file(pid, "stat").ok()?;
    // Its name, in parentheses, may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let ticks = ticks()?.checked_add(ticks()?)?;
    ticks.checked_mul(1_000_000_000 / procfs::ticks_per_second().max(1))
}

fn read_file(pid: u32, name: &str) -> io::Result<String> {
    let mut bytes = Vec::new();
    let file = fs::File::open(format!("/proc/{pid}/{name}"))?;
    file.take(MOST_BYTES).read_to_end(&mut bytes)?;
    // Paths may be of any bytes.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// An error as reports have it: `permission denied (13)`.
fn plain(error: &io::Error) -> String {
    let number = error.raw_os_error();
    let words = error.to_string();
    let words = words
        .split(" (os error")
        .next()
        .unwrap_or(&words)
        .to_lowercase();
    number.map_or(words.clone(), |number| format!("{words} ({number})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of a textbook: a program of 500 KB with libraries of 2500 KB, and stack and heap of
    /// 200 KB; resident are 400 KB of the program, 1000 KB of the libraries and 100 KB of stack and
    /// heap, and 100 KB are swapped out.
    const TEXTBOOK: &str = "\
00400000-0047d000 r-xp 00000000 08:01 11 /usr/bin/editor
Size:                500 kB
Rss:                 400 kB
Pss:                 200 kB
Shared_Clean:        400 kB
Shared_Dirty:          0 kB
Private_Clean:         0 kB
Private_Dirty:         0 kB
Anonymous:             0 kB
Swap:                  0 kB
01000000-01019000 rw-p 00000000 00:00 0 [heap]
Size:                100 kB
Rss:                  60 kB
Pss:                  60 kB
Shared_Clean:          0 kB
Shared_Dirty:          0 kB
Private_Clean:         0 kB
Private_Dirty:        60 kB
Anonymous:            60 kB
Swap:                 40 kB
7f0000000000-7f0000200000 r-xp 00000000 08:01 12 /usr/lib/libc.so.6
Size:               2048 kB
Rss:                 900 kB
Pss:                  90 kB
Shared_Clean:        900 kB
Shared_Dirty:          0 kB
Private_Clean:         0 kB
Private_Dirty:         0 kB
Anonymous:             0 kB
Swap:                  0 kB
7f0000200000-7f0000271000 rw-p 00200000 08:01 12 /usr/lib/libc.so.6
Size:                452 kB
Rss:                 100 kB
Pss:                 100 kB
Shared_Clean:          0 kB
Shared_Dirty:          0 kB
Private_Clean:         0 kB
Private_Dirty:       100 kB
Anonymous:           100 kB
Swap:                  0 kB
7ffe00000000-7ffe00019000 rw-p 00000000 00:00 0 [stack]
Size:                100 kB
Rss:                  40 kB
Pss:                  40 kB
Shared_Clean:          0 kB
Shared_Dirty:          0 kB
Private_Clean:         0 kB
Private_Dirty:        40 kB
Anonymous:            40 kB
Swap:                 60 kB
";

    #[test]
    fn the_textbooks_example_holds() {
        let kinds = kinds(TEXTBOOK, Some("/usr/bin/editor")).unwrap();
        let total = |of: fn(&MemorySizes) -> Option<u64>| {
            let sizes = kinds.iter().map(|kind| of(&kind.sizes).unwrap() / 1024);
            sizes.sum::<u64>()
        };
        assert_eq!(total(|sizes| sizes.rss), 1500);
        assert_eq!(total(|sizes| sizes.vsz), 3200);
        assert_eq!(total(|sizes| sizes.swap), 100);
        let rss: Vec<_> = kinds
            .iter()
            .map(|it| (it.kind.name(), it.sizes.rss.unwrap() / 1024))
            .collect();
        let expected = [
            ("program", 400),
            ("libraries", 1000),
            ("heap", 60),
            ("stack", 40),
        ];
        assert_eq!(rss, expected);
    }

    #[test]
    fn a_mapping_is_of_one_kind() {
        let map = |line: &str| {
            let text = format!("{line}\nRss: 4 kB\n");
            kinds(&text, Some("/usr/bin/editor")).unwrap()[0].kind
        };
        for (line, expected) in [
            (
                "7f00-8f00 rw-s 00000000 08:01 5 /dev/shm/cache",
                MappingKind::Shared,
            ),
            (
                "7f00-8f00 rw-s 00000000 00:01 5 /dev/zero (deleted)",
                MappingKind::Shared,
            ),
            ("7f00-8f00 rw-p 00000000 00:00 0 ", MappingKind::Anonymous),
            (
                "7f00-8f00 rw-p 00000000 00:00 0 [anon:glibc: malloc]",
                MappingKind::Anonymous,
            ),
            (
                "7f00-8f00 r--p 00000000 08:01 6 /srv/data.bin",
                MappingKind::PrivateFile,
            ),
            (
                "7f00-8f00 r-xp 00000000 08:01 7 /usr/lib/libm.so.6",
                MappingKind::Libraries,
            ),
            (
                "7f00-8f00 r--p 00000000 08:01 8 /usr/bin/editor",
                MappingKind::Program,
            ),
        ] {
            assert_eq!(map(line), expected, "{line}");
        }
    }

    #[test]
    fn what_is_no_smaps_is_refused_and_not_believed() {
        for text in [
            "",
            "garbage",
            "7f00-8f00 rw-p 0 00:00 0 \nRss: many kB\n",
            "\0\0\0",
        ] {
            assert!(rollup(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn this_process_has_memory() {
        let sizes = read(std::process::id()).unwrap().shown;
        let (rss, shared, private) = (
            sizes.rss.unwrap(),
            sizes.shared.unwrap(),
            sizes.private.unwrap(),
        );
        assert!(rss > 0 && sizes.vsz.unwrap() >= rss);
        assert_eq!(shared + private, rss);
        assert_eq!(sizes.why, None);
        assert!(cpu_ns(std::process::id()).is_some());
        let kinds = by_kind(std::process::id()).unwrap();
        for kind in [MappingKind::Program, MappingKind::Stack] {
            assert!(kinds.iter().any(|it| it.kind == kind), "{kinds:?}");
        }
        assert!(read(u32::MAX).is_err());
    }
}
