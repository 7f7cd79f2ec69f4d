//! The processes of this machine, read once: who they are, and who descends from whom.
//!
//! They come and go while they are read, and nothing keeps them from being called anything. One that
//! is gone before everything of it is read is passed over, and so are zombies and threads of the
//! kernel, which have no memory. A parent that began after its child is none: it has got the pid of
//! one that is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::process::name::read_cmdline_below;

/// Flag of a kernel thread in /proc/PID/stat.
const PF_KTHREAD: u64 = 0x0020_0000;

/// Generations that are looked back; pids that are given away meanwhile could make a circle.
const MAX_GENERATIONS: usize = 1000;

/// A process that has memory.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its pid, as the reader sees it.
    pub pid: u32,
    /// Its parent's; 0 for none.
    pub parent: u32,
    /// When it was started, in ticks since the machine was.
    pub started: u64,
    /// Its name, as the kernel has it: 15 bytes of its program's, or what it calls itself.
    pub comm: Vec<u8>,
    /// Its arguments.
    pub arguments: Arc<[Vec<u8>]>,
}

/// All processes at about the same time.
#[derive(Debug)]
pub struct Snapshot {
    /// Where /proc is.
    pub proc: PathBuf,
    processes: BTreeMap<u32, Process>,
    /// memtrace itself, those that it descends from, and those that descend from it.
    own: BTreeSet<u32>,
}

impl Snapshot {
    /// Reads what is in `proc`, which is /proc but in tests.
    #[must_use]
    pub fn of(proc: &Path) -> Self {
        let entries = fs::read_dir(proc).into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let processes = pids.filter_map(|pid| Some((pid, read(proc, pid)?)));
        let mut snapshot = Self {
            proc: proc.to_owned(),
            processes: processes.collect(),
            own: BTreeSet::new(),
        };
        let itself = fs::read_link(proc.join("self")).ok();
        if let Some(itself) = itself.and_then(|pid| pid.to_str()?.parse().ok()) {
            let own = [itself].into();
            snapshot.own = snapshot.ancestors(itself).collect();
            let descend = |pid: &u32| snapshot.descends_from(*pid, &own);
            let below: Vec<u32> = snapshot.processes.keys().copied().filter(descend).collect();
            snapshot.own.extend(below);
            snapshot.own.insert(itself);
        }
        snapshot
    }

    /// The process that has this pid.
    #[must_use]
    pub fn get(&self, pid: u32) -> Option<&Process> {
        self.processes.get(&pid)
    }

    /// All that can be chosen: not memtrace itself, nor those that it descends from or that descend
    /// from it.
    pub fn choosable(&self) -> impl Iterator<Item = &Process> {
        let all = self.processes.values();
        all.filter(|process| !self.own.contains(&process.pid))
    }

    /// Those that memtrace descends from.
    pub fn above_memtrace(&self) -> impl Iterator<Item = &Process> {
        self.processes
            .values()
            .filter(|process| self.own.contains(&process.pid))
    }

    /// Those of `pids` that descend from no other of them.
    #[must_use]
    pub fn roots(&self, pids: &BTreeSet<u32>) -> Vec<u32> {
        let is_root = |pid: &u32| !self.descends_from(*pid, pids);
        pids.iter().copied().filter(is_root).collect()
    }

    /// How many processes descend from this one.
    #[must_use]
    pub fn descendants(&self, pid: u32) -> usize {
        let root = [pid].into();
        let all = self.processes.keys();
        all.filter(|&&pid| self.descends_from(pid, &root)).count()
    }

    fn descends_from(&self, pid: u32, ancestors: &BTreeSet<u32>) -> bool {
        self.ancestors(pid)
            .any(|above| above != pid && ancestors.contains(&above))
    }

    /// The processes that this one descends from, its parent first.
    fn ancestors(&self, pid: u32) -> impl Iterator<Item = u32> {
        let parent = |process: &&Process| {
            let parent = self.processes.get(&process.parent)?;
            (parent.started <= process.started).then_some(parent)
        };
        let line = std::iter::successors(self.processes.get(&pid), parent);
        line.skip(1).take(MAX_GENERATIONS).map(|above| above.pid)
    }
}

/// A process, if it is still there and has memory.
fn read(proc: &Path, pid: u32) -> Option<Process> {
    let stat = fs::read(proc.join(pid.to_string()).join("stat")).ok()?;
    let mut process = parse(pid, &stat)?;
    process.arguments = read_cmdline_below(proc, pid);
    Some(process)
}

/// What /proc/PID/stat says: `PID (COMM) STATE PPID ...`, of which COMM may have anything in it.
fn parse(pid: u32, stat: &[u8]) -> Option<Process> {
    let begin = stat.iter().position(|&byte| byte == b'(')? + 1;
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let comm = stat.get(begin..end)?;
    let rest = std::str::from_utf8(&stat[end + 1..]).ok()?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // The first of these is the third of proc(5).
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let has_ended = matches!(*fields.first()?, "Z" | "X") && number(20)? <= 1;
    let is_kernels = number(9)? & PF_KTHREAD != 0;
    (!has_ended && !is_kernels).then_some(Process {
        pid,
        parent: number(4)? as u32,
        started: number(22)?,
        comm: comm.to_vec(),
        arguments: Arc::default(),
    })
}

#[cfg(test)]
pub mod made {
    //! A /proc that is made up.

    use super::*;

    /// Folders and files as in /proc.
    pub struct Made(pub tempfile::TempDir);

    impl Made {
        /// One with memtrace, pid 500, below a shell, 400, below the first process.
        pub fn new() -> Self {
            let made = Self(tempfile::tempdir().unwrap());
            made.process(1, 0, "systemd", &["/sbin/init"]);
            made.process(400, 1, "bash", &["bash"]);
            made.process(500, 400, "memtrace", &["memtrace", "--name", "gunicorn"]);
            std::os::unix::fs::symlink("500", made.0.path().join("self")).unwrap();
            fs::write(made.0.path().join("uptime"), "10000.50 1.0\n").unwrap();
            made
        }

        /// Adds a process that was started `pid` ticks after the machine.
        pub fn process(&self, pid: u32, parent: u32, comm: &str, arguments: &[&str]) {
            self.stat(pid, &format!("({comm}) S {parent}"), u64::from(pid), 0);
            let cmdline = arguments.iter().flat_map(|it| [it, "\0"]);
            let cmdline: String = cmdline.collect();
            self.file(pid, "cmdline", cmdline.as_bytes());
        }

        /// Writes a file `stat`.
        pub fn stat(&self, pid: u32, begin: &str, started: u64, flags: u64) {
            let zeroes = |count| " 0".repeat(count);
            let stat = format!(
                "{pid} {begin}{} {flags}{} 1 0 {started}{}\n",
                zeroes(4),
                zeroes(10),
                zeroes(30)
            );
            self.file(pid, "stat", stat.as_bytes());
        }

        /// Writes a file of a process.
        pub fn file(&self, pid: u32, name: &str, content: &[u8]) {
            let folder = self.0.path().join(pid.to_string());
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(name), content).unwrap();
        }

        /// All of it.
        pub fn snapshot(&self) -> Snapshot {
            Snapshot::of(self.0.path())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::made::Made;
    use super::*;

    fn choosable(made: &Made) -> Vec<u32> {
        let snapshot = made.snapshot();
        snapshot.choosable().map(|process| process.pid).collect()
    }

    #[test]
    fn memtrace_its_ancestors_and_its_children_cannot_be_chosen() {
        let made = Made::new();
        made.process(501, 500, "memtrace", &["memtrace"]);
        made.process(700, 1, "memtrace", &["memtrace"]);
        assert_eq!(choosable(&made), [700]);
    }

    #[test]
    fn what_has_no_memory_or_is_gone_is_passed_over() {
        let made = Made::new();
        made.stat(2, "(kthreadd) S 0", 0, PF_KTHREAD);
        made.stat(600, "(gunicorn) Z 1", 1, 0);
        made.file(601, "cmdline", b"gone\0");
        made.file(602, "stat", b"602 (cut");
        made.file(603, "stat", b"603 ) cut ( S 1");
        made.process(604, 1, "a) Z 1 (b\n\u{ff}", &[]);
        fs::create_dir(made.0.path().join("605")).unwrap();
        fs::write(made.0.path().join("99999999999999999999"), "").unwrap();
        assert_eq!(choosable(&made), [604]);
        let snapshot = made.snapshot();
        assert_eq!(
            snapshot.get(604).unwrap().comm,
            "a) Z 1 (b\n\u{ff}".as_bytes()
        );
    }

    #[test]
    fn roots_are_those_that_descend_from_no_other() {
        let made = Made::new();
        for (pid, parent) in [(600, 1), (601, 600), (602, 601), (610, 1), (611, 610)] {
            made.process(pid, parent, "server", &[]);
        }
        let snapshot = made.snapshot();
        assert_eq!(snapshot.roots(&[600, 602, 611].into()), [600, 611]);
        assert_eq!(snapshot.descendants(600), 2);
        assert_eq!(snapshot.descendants(602), 0);
    }

    #[test]
    fn a_pid_that_was_given_away_makes_no_parent_and_no_circle() {
        let made = Made::new();
        made.stat(600, "(child) S 601", 600, 0);
        made.stat(601, "(young) S 600", 601, 0);
        made.stat(602, "(itself) S 602", 602, 0);
        let snapshot = made.snapshot();
        assert_eq!(snapshot.roots(&[600, 601, 602].into()), [600, 602]);
    }

    #[test]
    fn this_machine_can_be_read() {
        let snapshot = Snapshot::of(Path::new("/proc"));
        let own = snapshot.get(std::process::id()).unwrap();
        assert_eq!(own.parent, std::os::unix::process::parent_id());
        assert!(snapshot.choosable().all(|process| process.pid != own.pid));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(stat in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(1, &stat);
        }
    }
}
