//! Sampling, on numbers; comparing, on Python processes that say what they copied.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use foldhash::HashSet;
use memtrace_common::process::{Counters, NO_SLOT, ProcessSlot, SLOT_LIVE};
use proptest::prelude::*;

use super::compare::{Comparer, Seen};
use super::found::Findings;
use super::image::{Identity, Image};
use super::*;
use crate::process::processes::Said;
use crate::profile::NotCompared;

/// Fills PAGES pages and forks. The child (of a child that ends, with `grandchild`) writes the same
/// bytes to the first SAME pages and others to the next OTHER, and drops the next GONE. Prints the
/// pids and the address; ends with its standard input.
const SCRIPT: &str = r"
import ctypes, mmap, os, sys
how, size = sys.argv[1], mmap.PAGESIZE
pages, same, other, gone = map(int, sys.argv[2:6])
memory = mmap.mmap(-1, pages * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
for page in range(pages):
    memory[page * size : (page + 1) * size] = bytes([page % 251 + 1]) * size
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
libc = ctypes.CDLL(None)

def work(ancestors):
    for page in range(same + other):
        at = slice(page * size, (page + 1) * size)
        memory[at] = bytes([page % 251 + (1 if page < same else 2)]) * size
    at = address + (same + other) * size
    libc.munmap(ctypes.c_void_p(at), ctypes.c_size_t(gone * size)) if gone else 0
    print(*ancestors, os.getpid(), address, flush=True)
    if how == 'exit':
        os._exit(0)
    os.read(0, 1)
    os._exit(0)

top = os.getpid()
child = os.fork()
if child == 0:
    middle = os.getpid()
    if how != 'grandchild':
        work([top, middle])
    if os.fork() == 0:
        while os.getppid() == middle:
            pass
        work([top, middle])
    os._exit(0)
os.waitpid(child, 0) if how in ('exit', 'grandchild') else 0
os.read(0, 1)
";

/// Fills 100 pages and forks. The child writes pages 0 to 10, drops 10 to 20, and unmaps 20 to 30. It
/// maps a file in two places and writes 5 pages in each; in the second the parent maps another file.
/// The parent unmaps pages 30 to 40. Prints pids, the address, and where the child's file is.
const MAPS: &str = r"
import ctypes, mmap, os, sys
size = mmap.PAGESIZE
def filled(pages):
    memory = mmap.mmap(-1, pages * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    memory[:] = bytes([7]) * (pages * size)
    return memory, ctypes.addressof(ctypes.c_char.from_buffer(memory))
memory, address = filled(100)
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
# A place that is free in both.
free = ctypes.addressof(ctypes.c_char.from_buffer(mmap.mmap(-1, 64 * size)))
libc.munmap(ctypes.c_void_p(free), 64 * size)
def map_file(path, at):
    file = os.open(path, os.O_RDONLY)
    here = libc.mmap(ctypes.c_void_p(at), 5 * size, 3, mmap.MAP_PRIVATE | 0x10, file, 0)
    for page in range(5):
        ctypes.memset(here + page * size, 1, size)
    return here
child = os.fork()
if child == 0:
    memory[: 10 * size] = bytes([8]) * (10 * size)
    memory.madvise(mmap.MADV_DONTNEED, 10 * size, 10 * size)
    libc.munmap(ctypes.c_void_p(address + 20 * size), 10 * size)
    map_file(sys.executable, free)
    map_file(sys.executable, free + 16 * size)
    os.read(0, 1)
    os._exit(0)
# The parent has another file where the child has its executable.
map_file(ctypes.__file__, free + 16 * size)
libc.munmap(ctypes.c_void_p(address + 30 * size), 10 * size)
print(os.getpid(), child, child, address, free, flush=True)
os.read(0, 1)
";

/// Fills 200 pages and forks two children. The first writes pages 150 to 170. Then the parent writes
/// the same bytes to pages 0 to 100 and others to pages 100 to 170, and forks a third child, which
/// forks a fourth. Prints all pids and the address.
const CHILDREN: &str = r"
import ctypes, mmap, os
size = mmap.PAGESIZE
memory = mmap.mmap(-1, 200 * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
memory[:] = bytes([7]) * (200 * size)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
told, tell = os.pipe()
def wait_in_child(does=lambda: None):
    pid = os.fork()
    if pid == 0:
        does()
        os.write(tell, b'!')
        os.read(0, 1)
        os._exit(0)
    os.read(told, 1)
    return pid
def write(first, last, value):
    memory[first * size : last * size] = bytes([value]) * ((last - first) * size)
first = wait_in_child(lambda: write(150, 170, 9))
second = wait_in_child()
write(0, 100, 7)
write(100, 170, 8)
third = wait_in_child()
print(os.getpid(), first, second, address, third, flush=True)
os.read(0, 1)
";

/// Processes that wait, each forked by the one before.
struct Started {
    top: Child,
    /// Pids of the first process, of its child, and of the one that copied.
    pids: [u32; 3],
    /// Where its pages are.
    address: u64,
    /// What else it said.
    more: u64,
}

impl Started {
    /// `None`, with a message, where there is no Python or its memory may not be read.
    fn start(how: &str, pages: [u64; 4]) -> Option<Self> {
        let pages = pages.map(|count| count.to_string());
        let pages = pages.iter().map(String::as_str);
        Self::script(SCRIPT, [how].into_iter().chain(pages))
    }

    fn script<'a>(script: &str, arguments: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let started = Command::new("python3")
            .args(["-c", script])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut top) = started else {
            crate::skipped::skipped("python3 is not installed (apt-get install python3)");
            return None;
        };
        let mut line = String::new();
        let output = top.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        let said: Vec<u64> = line
            .split_whitespace()
            .map(|word| word.parse().unwrap())
            .collect();
        let family = Self {
            top,
            pids: [said[0] as u32, said[1] as u32, said[2] as u32],
            address: said[3],
            more: said.get(4).copied().unwrap_or(0),
        };
        let identity = Identity::of(family.pids[0]);
        if identity.is_ok_and(|identity| Image::open(&identity, 4096).is_err()) {
            crate::skipped::skipped("the memory of other processes may not be read");
            return None;
        }
        Some(family)
    }

    /// The address of a page.
    fn page(&self, page: u64) -> u64 {
        self.address + page * host::page_size()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        drop(self.top.stdin.take());
        let _ = self.top.wait();
    }
}

fn entry(pid: u32, parent_pid: u32, parent_slot: u32) -> ProcessSlot {
    // Starts are only compared to the precision of a tick.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let ticks = stat.rsplit(')').next().unwrap().split_whitespace().nth(19);
    let ticks: u64 = ticks.map_or(0, |ticks| ticks.parse().unwrap());
    // SAFETY: no pointers are passed.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as u64;
    ProcessSlot {
        state: SLOT_LIVE,
        threads: 1,
        pid,
        parent_pid,
        parent_slot,
        execs: 0,
        forked_ns: u64::from(parent_slot != NO_SLOT),
        exited_ns: 0,
        start_boottime_ns: ticks * (1_000_000_000 / per_second),
        interpreter: 0,
        mappings: 0,
        program: 0,
        comm: [0; 16],
        counters: Counters::ZERO,
        cpu_ns: 0,
        resident: [0; 4],
    }
}

/// Pages with these numbers, copied by `process`.
fn copied(family: &Started, process: ProcessId, pages: std::ops::Range<u64>) -> CopiedPages {
    let mut copied = CopiedPages::new();
    for page in pages {
        copied.add(process, family.page(page));
        copied.add(process, family.page(page) + 8);
    }
    copied
}

/// First process and child.
fn two(family: &Started) -> Processes {
    let mut processes = Processes::new();
    processes.add(0, &entry(family.pids[0], std::process::id(), NO_SLOT));
    processes.add(1, &entry(family.pids[1], family.pids[0], 0));
    processes
}

fn sums_hold(unchanged: &Unchanged, pages: u64) {
    assert_eq!(unchanged.comparable_pages + unchanged.gone_pages, pages);
    assert!(unchanged.unchanged_pages <= unchanged.compared_pages);
    assert!(unchanged.compared_pages <= unchanged.comparable_pages);
    let not = unchanged.not_compared.unwrap();
    assert_eq!(not.gone(), unchanged.gone_pages);
    let comparable = unchanged.compared_pages + not.beyond_budget;
    assert_eq!(comparable, unchanged.comparable_pages);
}

#[test]
fn pages_written_with_what_they_held_are_unchanged() {
    let Some(family) = Started::start("child", [1000, 300, 200, 50]) else {
        return;
    };
    let result = copied(&family, 1, 0..550).compare(&two(&family));
    let expected = Unchanged {
        unchanged_pages: 300,
        compared_pages: 500,
        comparable_pages: 500,
        ..all_not(Reason::Unmapped, 50)
    };
    assert_eq!(result, HashMap::from_iter([(1, expected)]));
    // What is still shared is one page of memory.
    let result = copied(&family, 1, 550..600).compare(&two(&family));
    assert_eq!(result[&1].unchanged_pages, 50);
}

#[test]
fn the_parent_of_a_process_that_was_named_is_its_ancestor() {
    let Some(family) = Started::start("child", [100, 30, 20, 0]) else {
        return;
    };
    let mut processes = Processes::new();
    let id = processes.add(9, &entry(family.pids[1], family.pids[0], NO_SLOT));
    let result = copied(&family, id, 0..50).compare(&processes);
    assert_eq!(
        (result[&id].unchanged_pages, result[&id].compared_pages),
        (30, 50)
    );
    // The parent of the first process is this test, which runs another program.
    let mut processes = Processes::new();
    let id = processes.add(9, &entry(family.pids[0], std::process::id(), NO_SLOT));
    let result = copied(&family, id, 0..50).compare(&processes);
    assert_eq!(result[&id], all_not(Reason::NoRelative, 50));
}

#[test]
fn a_pid_that_another_process_has_by_now_is_not_compared() {
    let Some(family) = Started::start("child", [100, 30, 20, 0]) else {
        return;
    };
    let mut processes = Processes::new();
    let mut other = entry(family.pids[1], family.pids[0], NO_SLOT);
    other.start_boottime_ns -= 1_000_000_000;
    let id = processes.add(0, &other);
    let result = copied(&family, id, 0..50).compare(&processes);
    assert_eq!(result[&id], all_not(Reason::Ended, 50));
}

#[test]
fn pages_of_a_process_that_ended_are_gone() {
    let Some(family) = Started::start("exit", [100, 30, 20, 0]) else {
        return;
    };
    // It has said where its pages are, and ends.
    while Identity::of(family.pids[1]).is_ok() {
        std::thread::yield_now();
    }
    let result = copied(&family, 1, 0..50).compare(&two(&family));
    assert_eq!(result[&1], all_not(Reason::Ended, 50));
}

#[test]
fn a_grandparent_stands_in_for_a_parent_that_ended() {
    let Some(family) = Started::start("grandchild", [100, 30, 20, 0]) else {
        return;
    };
    let mut processes = two(&family);
    let id = processes.add(2, &entry(family.pids[2], family.pids[1], 1));
    let result = copied(&family, id, 0..50).compare(&processes);
    assert_eq!(
        (result[&id].unchanged_pages, result[&id].compared_pages),
        (30, 50)
    );
}

#[test]
fn why_a_page_was_not_compared_is_what_happened_to_it() {
    let Some(family) = Started::script(MAPS, []) else {
        return;
    };
    let mut pages = copied(&family, 1, 0..40);
    let page_size = host::page_size();
    for page in 0..5 {
        pages.add(1, family.more + page * page_size);
        pages.add(1, family.more + (16 + page) * page_size);
    }
    // The child may not have come that far yet.
    let mut found = Unchanged::default();
    for _ in 0..1000 {
        found = pages.compare(&two(&family))[&1];
        if found.gone_pages == 40 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    sums_hold(&found, 50);
    let expected = NotCompared {
        // What the child unmapped, and what the parent did.
        unmapped: 20,
        absent: 10,
        mapped_after_fork: 10,
        ..NotCompared::default()
    };
    assert_eq!(found.not_compared, Some(expected));
    assert_eq!((found.compared_pages, found.unchanged_pages), (10, 0));
}

/// The parent of [`CHILDREN`] and those of its children that are asked for, by their number.
fn parent_and(family: &Started, children: &[usize]) -> Processes {
    let all = [family.pids[1], family.pids[2], family.more as u32];
    let mut processes = Processes::new();
    processes.add(0, &entry(family.pids[0], std::process::id(), NO_SLOT));
    for (slot, &child) in children.iter().enumerate() {
        processes.add(slot as u32 + 1, &entry(all[child], family.pids[0], 0));
    }
    processes
}

#[test]
fn what_a_parent_copied_is_compared_with_a_child_that_has_the_original() {
    let Some(family) = Started::script(CHILDREN, []) else {
        return;
    };
    let image = Image::open(&Identity::of(family.pids[0]).unwrap(), host::page_size()).unwrap();
    let mut frames = Vec::new();
    let first = family.address / host::page_size();
    image.frames(first..first + 1, &mut frames);
    if frames[0].is_hidden() {
        crate::skipped::skipped("which page of memory a process has is hidden");
        return;
    }
    // The children that are known, how many pages were compared, and how many of them are unchanged.
    for (children, compared, unchanged) in [
        // The first child has its own of the last pages.
        (&[0][..], 150, 100),
        (&[1], 170, 100),
        (&[0, 1], 170, 100),
        // The third was forked when all had been copied.
        (&[2], 0, 0),
        (&[2, 0], 150, 100),
        (&[], 0, 0),
    ] {
        let mut pages = copied(&family, 0, 0..170);
        if children.first() == Some(&0) {
            for page in 150..170 {
                pages.add(1, family.page(page));
            }
        } else if children.get(1) == Some(&0) {
            for page in 150..170 {
                pages.add(2, family.page(page));
            }
        }
        let found = pages.compare(&parent_and(&family, children))[&0];
        sums_hold(&found, 170);
        assert_eq!(
            (found.compared_pages, found.unchanged_pages),
            (compared, unchanged),
            "{children:?}: {found:?}"
        );
        assert_eq!(found.compared_with_child_pages, compared);
        assert_eq!(found.not_compared.unwrap().no_relative, 170 - compared);
    }
    // A child that was found when the trace began may have copied before.
    let mut processes = parent_and(&family, &[]);
    let mut found = entry(family.pids[2], family.pids[0], 0);
    found.forked_ns = 0;
    processes.add(1, &found);
    let result = copied(&family, 0, 0..170).compare(&processes);
    assert_eq!(result[&0], all_not(Reason::NoRelative, 170));
    // And one may have copied what has no record.
    let mut processes = parent_and(&family, &[]);
    let mut lossy = entry(family.pids[2], family.pids[0], 0);
    lossy.counters.copied[0] = 1;
    processes.add(1, &lossy);
    let result = copied(&family, 0, 0..170).compare(&processes);
    assert_eq!(result[&0], all_not(Reason::NoRelative, 170));
    // Of a sample it is not known what the child copied.
    let mut pages = CopiedPages::with_limits(Limits {
        kept: 85,
        compared: 1000,
    });
    for page in 0..170 {
        pages.add(0, family.page(page));
    }
    assert!(pages.halvings > 0);
    let found = pages.compare(&parent_and(&family, &[1]))[&0];
    assert!(found.compared_pages > 0 && found.compared_pages < pages.sets[&0].kept.len());
}

#[test]
fn a_sample_is_named_and_right_in_proportion() {
    let Some(family) = Started::start("child", [4000, 3000, 600, 400]) else {
        return;
    };
    for (kept, compared) in [(1 << 20, 500), (1000, 500), (1000, 1 << 16)] {
        let mut pages = CopiedPages::with_limits(Limits { kept, compared });
        for page in 0..4000 {
            pages.add(1, family.page(page));
        }
        let found = pages.compare(&two(&family))[&1];
        assert!(found.compared_pages <= compared.min(kept as usize) as u64);
        assert!(found.compared_pages >= 350, "{found:?}");
        sums_hold(&found, pages.sets[&1].pages(pages.halvings));
        let share = found.unchanged_pages as f64 / found.compared_pages as f64;
        assert!((share - 3000.0 / 3600.0).abs() < 0.08, "{found:?}");
        assert!(found.comparable_pages.abs_diff(3600) < 500, "{found:?}");
        assert!(found.gone_pages.abs_diff(400) < 200, "{found:?}");
        assert_eq!(found, pages.compare(&two(&family))[&1], "the same again");
    }
}

/// Resident and private memory, and which page of memory is behind each page.
fn memory_of(family: &Started, pid: u32) -> (Vec<String>, Vec<image::Frame>) {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let is_kept = |line: &&str| {
        ["Rss:", "Private_Dirty:", "Swap:"]
            .iter()
            .any(|name| line.starts_with(name))
    };
    let lines = rollup.lines().filter(is_kept).map(str::to_owned).collect();
    let image = Image::open(&Identity::of(pid).unwrap(), host::page_size()).unwrap();
    let mut frames = Vec::new();
    let first = family.address / host::page_size();
    image.frames(first..first + 3000, &mut frames);
    (lines, frames)
}

#[test]
fn comparing_leaves_the_memory_of_both_as_it_was() {
    let Some(family) = Started::start("child", [3000, 800, 200, 500]) else {
        return;
    };
    let [top, child, _] = family.pids;
    // Waits until both wait for input and touch nothing more.
    for pid in [top, child] {
        while !std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .unwrap()
            .contains(") S")
        {
            std::thread::yield_now();
        }
    }
    let before = [memory_of(&family, top), memory_of(&family, child)];
    let pages = copied(&family, 1, 0..3000);
    // Shared pages are compared too: were they pinned, they would be copied.
    let result = pages.compare(&two(&family));
    let mut comparer = Comparer::new(host::page_size());
    let images = family.pids.map(|pid| {
        let identity = Identity::of(pid).unwrap();
        Image::open(&identity, host::page_size()).unwrap()
    });
    let first = family.address / host::page_size();
    let shared: Vec<u64> = (first + 1500..first + 3000).collect();
    let mut seen = vec![Seen::Different; shared.len()];
    comparer.read_all(&shared, [&images[0], &images[1]], &mut seen);
    assert!(seen.iter().all(|seen| *seen == Seen::Same), "{seen:?}");
    assert_eq!(result[&1].compared_pages, 2500);
    let after = [memory_of(&family, top), memory_of(&family, child)];
    assert_eq!(before, after);
}

#[test]
fn children_of_a_process_that_execs_have_the_memory_of_its_parent() {
    let none = u32::MAX;
    let mut processes = Processes::new();
    processes.add(0, &entry(none, none, NO_SLOT));
    let middle = processes.add(1, &entry(none, none, 0));
    let last = processes.add(2, &entry(none, none, 1));
    assert_eq!(processes.parent(last), Some(middle));
    processes.execed(middle, Said::now(&entry(none, none, 0)));
    assert_eq!(processes.parent(middle), None);
    assert_eq!(processes.parent(last), Some(0));
}

#[test]
fn a_process_that_lost_its_memory_has_only_a_number_of_pages() {
    let mut pages = CopiedPages::new();
    for page in 0..100 {
        pages.add(3, page * host::page_size());
    }
    pages.gone(3, Reason::Replaced);
    pages.gone(7, Reason::Ended);
    assert_eq!(pages.kept, 0);
    pages.add(3, 0);
    pages.gone(3, Reason::Ended);
    let mut processes = Processes::new();
    for slot in 0..4 {
        processes.add(slot, &entry(u32::MAX, u32::MAX, NO_SLOT));
    }
    let mut expected = all_not(Reason::Replaced, 100);
    expected.absorb(&all_not(Reason::Ended, 1));
    let result = pages.compare(&processes);
    assert_eq!(result, HashMap::from_iter([(3, expected)]));
    pages.add_up(&[3]);
    let result = pages.compare(&processes);
    assert_eq!(result, HashMap::from_iter([(OTHERS, expected)]));
}

#[test]
fn a_sample_does_not_stand_for_more_pages_than_were_copied() {
    let mut pages = CopiedPages::with_limits(Limits {
        kept: 64,
        compared: 10,
    });
    for process in 0..512 {
        pages.add(process, 0);
    }
    assert_eq!(pages.halvings, 3);
    for set in pages.sets.values() {
        assert!(set.pages(pages.halvings) <= 1);
    }
}

#[test]
fn a_sample_is_uniform_over_neighbours_and_processes() {
    // Chi-squared over sixteen kinds of page, each expected 256 times in a sample of 1 in 16.
    for halvings in [4, 8] {
        let mut kinds = [0_u32; 16];
        for process in 0..16 {
            for page in 0..(256 << halvings) / 16 {
                let number = 0x7_f000_0000 + page;
                if is_in_sample(hash(process, number), halvings) {
                    kinds[(number % 4) as usize * 4 + process % 4] += 1;
                }
            }
        }
        let total: u32 = kinds.iter().sum();
        assert!(total.abs_diff(256) < 64, "{total}");
        let expected = f64::from(total) / 16.0;
        let chi: f64 = kinds
            .iter()
            .map(|&count| (f64::from(count) - expected).powi(2) / expected)
            .sum();
        assert!(chi < 37.7, "below one in a thousand: {chi} {kinds:?}");
    }
}

proptest! {
    #[test]
    fn pages_are_kept_once_and_within_the_bound(
        adds in proptest::collection::vec((0_usize..4, 0_u64..2000), 0..3000),
        kept in 1_u64..1500,
    ) {
        let mut pages = CopiedPages::with_limits(Limits { kept, compared: 10 });
        for &(process, page) in &adds {
            pages.add(process, page * host::page_size() + page % 4096);
        }
        let lengths: u64 = pages.sets.values().map(|set| set.kept.len()).sum();
        prop_assert_eq!(pages.kept, lengths);
        prop_assert!(lengths <= kept);
        // The rule alone decides what is kept, not the order in which pages came.
        let expected: HashSet<(usize, u64)> = adds
            .iter()
            .copied()
            .filter(|&(process, page)| is_in_sample(hash(process, page), pages.halvings))
            .collect();
        prop_assert_eq!(lengths, expected.len() as u64);
        for (process, page) in expected {
            prop_assert!(pages.sets[&process].kept.contains(page));
        }
    }

    #[test]
    fn a_bound_lets_through_as_many_as_allowed(
        counts in proptest::collection::vec(0_u64..400, 1..6),
        compared in 1_usize..1000,
    ) {
        let mut pages = CopiedPages::with_limits(Limits { kept: 10_000, compared });
        for (process, &count) in counts.iter().enumerate() {
            for page in 0..count {
                pages.add(process, page * host::page_size());
            }
        }
        let bound = pages.bound(|_| true).unwrap_or(u64::MAX);
        let through = pages.sets.iter().flat_map(|(&process, set)| {
            set.kept.iter().filter(move |&page| hash(process, page) <= bound)
        });
        let all: u64 = counts.iter().sum();
        prop_assert_eq!(through.count() as u64, all.min(compared as u64));
    }

    #[test]
    fn estimates_add_up(
        pages in 0_u64..u64::MAX / 2,
        compared in 0_u64..1000,
        not in proptest::array::uniform7(0_u64..1000),
    ) {
        let mut found = Findings::default();
        found.compared.pages = compared;
        found.compared.unchanged = compared / 2;
        for ((reason, _), pages) in NotCompared::default().reasons().into_iter().zip(not) {
            found.not.add(reason, pages);
        }
        let pages = pages.max(compared + found.not.gone());
        sums_hold(&found.of(pages), pages);
    }
}

/// Prints what adding and comparing cost; see `CopiedPages`.
#[test]
#[ignore = "a measurement"]
fn measure() {
    const PAGES: u64 = 1 << 20;
    let random = |at: u64| hash(0, at) % (PAGES * 4);
    let orders: [(&str, &dyn Fn(u64) -> u64); 2] = [("ascending", &|at| at), ("random", &random)];
    for (order, page) in orders {
        let mut pages = CopiedPages::new();
        let addresses: Vec<u64> = (0..PAGES).map(|at| page(at) * host::page_size()).collect();
        let start = Instant::now();
        for (at, &address) in addresses.iter().enumerate() {
            pages.add(at % 8, address);
        }
        let each = start.elapsed().as_nanos() as f64 / PAGES as f64;
        println!("add, {order}: {each:.1} ns");
        pages.limits.kept = 1 << 19;
        let start = Instant::now();
        pages.halve();
        println!("halving {PAGES} pages, {order}: {:?}", start.elapsed());
    }
    for pages in [1 << 16, 1 << 18] {
        let family = Started::start("child", [pages, pages * 3 / 4, pages / 4, 0]).unwrap();
        let copied = copied(&family, 1, 0..pages);
        let start = Instant::now();
        let result = copied.compare(&two(&family));
        println!("comparing {pages}: {:?}, {:?}", start.elapsed(), result[&1]);
    }
}
