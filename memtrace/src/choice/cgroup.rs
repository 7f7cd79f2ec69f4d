//! The processes of a control group, and of those below it.
//!
//! Which group a process is in, it says itself, in /proc/PID/cgroup: a line for each hierarchy, of
//! which version 1 has several and version 2 one. So no file of the groups is read, which need not
//! be mounted, and which a group of threads does not have. A group without processes is not known.
//!
//! A person names one by its folder, by its path in such a line, by the end of that path, or by a
//! container's id or the beginning of one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use super::snapshot::Snapshot;
use crate::process::container::{Container, read_groups};

/// Digits that a container's id is cut to at most.
const SHORTEST_ID: usize = 8;

/// Bytes of /proc/PID/status that are read.
const MAX_STATUS: usize = 16 * 1024;

/// A control group: its path, and the hierarchy where that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    path: Vec<u8>,
    /// Of version 1 its controllers, perhaps among other options of a mount; empty for version 2.
    /// `None` for any hierarchy.
    controllers: Option<Vec<Vec<u8>>>,
}

/// What was found by a name.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// The processes of a group, which has this path; none where there is no such group.
    One(Vec<u8>, BTreeSet<u32>),
    /// Paths of several groups with different processes.
    Several(Vec<Vec<u8>>),
}

/// The processes of the control group that is called so.
#[must_use]
pub fn members(snapshot: &Snapshot, name: &[u8]) -> Found {
    let all = Groups::of(snapshot);
    if name.starts_with(b"/") {
        let group = by_folder(&snapshot.proc, name);
        let group = group.unwrap_or_else(|| Group {
            path: trimmed(name).to_vec(),
            controllers: None,
        });
        let pids = all.below(&group);
        return Found::One(group.path, pids);
    }
    let mut groups = all.called(trimmed(name));
    // The same processes may be in groups of different names, one in each hierarchy.
    let Some((path, pids)) = groups.pop_first() else {
        return Found::One(name.to_vec(), BTreeSet::new());
    };
    if groups.values().all(|others| *others == pids) {
        return Found::One(path, pids);
    }
    let others = groups.into_keys();
    Found::Several(std::iter::once(path).chain(others).collect())
}

/// Which of these processes have the pid in the innermost PID namespace that they are in.
#[must_use]
pub fn by_inner_pid(proc: &Path, pids: &BTreeSet<u32>, inner: u32) -> Vec<u32> {
    let is_it = |pid: &u32| inner_pid(proc, *pid) == Some(inner);
    pids.iter().copied().filter(is_it).collect()
}

/// The pid of a process as it sees it itself; `None` where that is the reader's.
fn inner_pid(proc: &Path, pid: u32) -> Option<u32> {
    let file = File::open(proc.join(pid.to_string()).join("status")).ok()?;
    let file = BufReader::new(std::io::Read::take(file, MAX_STATUS as u64));
    let mut lines = file.split(b'\n').map_while(Result::ok);
    let line = lines.find_map(|line| line.strip_prefix(b"NSpid:").map(<[u8]>::to_vec))?;
    let pids = String::from_utf8(line).ok()?;
    let mut pids = pids.split_whitespace();
    pids.next()?;
    pids.next_back()?.parse().ok()
}

/// The groups of all processes.
struct Groups(Vec<(u32, Vec<Group>)>);

impl Groups {
    fn of(snapshot: &Snapshot) -> Self {
        let all = snapshot.choosable();
        let all = all.filter_map(|process| {
            let text = read_groups(&snapshot.proc, process.pid)?;
            let lines = text.split(|&byte| byte == b'\n');
            Some((process.pid, lines.filter_map(Group::parse).collect()))
        });
        Self(all.collect())
    }

    /// The processes of a group and of those below it.
    fn below(&self, group: &Group) -> BTreeSet<u32> {
        let all = self.0.iter();
        all.filter(|(_, groups)| groups.iter().any(|it| it.is_below(group)))
            .map(|&(pid, _)| pid)
            .collect()
    }

    /// The groups that `name` may stand for, with their processes; not those below another of them.
    fn called(&self, name: &[u8]) -> BTreeMap<Vec<u8>, BTreeSet<u32>> {
        let mut found: BTreeMap<Vec<u8>, BTreeSet<u32>> = BTreeMap::new();
        for (pid, groups) in &self.0 {
            for group in groups {
                if let Some(path) = group.first_called(name) {
                    found.entry(path.to_vec()).or_default().insert(*pid);
                }
            }
        }
        found
    }
}

impl Group {
    /// A line `HIERARCHY:CONTROLLERS:PATH`.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut parts = line.splitn(3, |&byte| byte == b':').skip(1);
        let controllers = listed(parts.next()?);
        Some(Self {
            path: trimmed(parts.next()?).to_vec(),
            controllers: Some(controllers),
        })
    }

    fn is_below(&self, other: &Self) -> bool {
        let rest = self.path.strip_prefix(&other.path[..]);
        let is_same = |own: &[Vec<u8>], others: &[Vec<u8>]| {
            let all = own.iter().all(|controller| others.contains(controller));
            all && own.is_empty() == others.is_empty()
        };
        let controllers = self
            .controllers
            .as_deref()
            .zip(other.controllers.as_deref());
        controllers.is_none_or(|(own, others)| is_same(own, others))
            && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    }

    /// The first part of the path that ends with `name`, or with the id of the container that it
    /// begins.
    fn first_called(&self, name: &[u8]) -> Option<&[u8]> {
        let slashes = self.path.iter().enumerate().skip(1);
        let slashes = slashes.filter(|(_, byte)| **byte == b'/');
        let ends = slashes.map(|(at, _)| at).chain([self.path.len()]);
        let mut parts = ends.map(|end| &self.path[..end]);
        parts.find(|part| {
            let rest = part.strip_suffix(name);
            rest.is_some_and(|rest| rest.ends_with(b"/")) || is_container(part, name)
        })
    }
}

/// Whether `path` is the control group of a container whose id begins with `id`.
fn is_container(path: &[u8], id: &[u8]) -> bool {
    // Kubernetes shows `containerd://ID`.
    let id = id.rsplit(|&byte| byte == b'/').next().unwrap_or(id);
    id.len() >= SHORTEST_ID
        && Container::in_path(path).is_some_and(|container| container.id.as_bytes().starts_with(id))
}

/// The group whose folder this is, by what is mounted where.
fn by_folder(proc: &Path, folder: &[u8]) -> Option<Group> {
    let text = fs::read(proc.join("self/mountinfo")).ok()?;
    let lines = text.split(|&byte| byte == b'\n');
    let mounts = lines.filter_map(|line| mounted(line, folder));
    let innermost = mounts.max_by_key(|(length, _)| *length);
    innermost.map(|(_, group)| group)
}

/// The group that `folder` is by a line of mountinfo, `ID PARENT DEVICE ROOT POINT OPTIONS ... - TYPE
/// SOURCE OPTIONS`, and how long the path of that mount is.
fn mounted(line: &[u8], folder: &[u8]) -> Option<(usize, Group)> {
    let fields: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    let (root, point) = (unescaped(fields.get(3)?), unescaped(fields.get(4)?));
    let end = fields.iter().position(|&field| field == b"-")?;
    let controllers = match *fields.get(end + 1)? {
        b"cgroup2" => Vec::new(),
        b"cgroup" => listed(fields.get(end + 3)?),
        _ => return None,
    };
    let rest = trimmed(folder).strip_prefix(trimmed(&point))?;
    if !(rest.is_empty() || rest.starts_with(b"/")) {
        return None;
    }
    let group = Group {
        path: trimmed(&[trimmed(&root), rest].concat()).to_vec(),
        controllers: Some(controllers),
    };
    Some((point.len(), group))
}

/// What is between commas.
fn listed(text: &[u8]) -> Vec<Vec<u8>> {
    let parts = text.split(|&byte| byte == b',').filter(|it| !it.is_empty());
    parts.map(<[u8]>::to_vec).collect()
}

/// A path without slashes at its end.
fn trimmed(path: &[u8]) -> &[u8] {
    let slashes = path.iter().rev().take_while(|&&byte| byte == b'/').count();
    &path[..path.len() - slashes]
}

/// Blanks and the like are written as three octal digits there.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let code = after.get(..3).filter(|_| byte == b'\\');
        let code =
            code.and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 8).ok());
        plain.push(code.unwrap_or(byte));
        rest = &after[if code.is_some() { 3 } else { 0 }..];
    }
    plain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::snapshot::made::Made;
    use super::*;

    const ID: &str = "3f2a1b9c4d5e60718293a4b5c6d7e8f93f2a1b9c4d5e60718293a4b5c6d7e8f9";

    /// A master with two workers in a unit, a container with two processes, and one in neither.
    fn machine() -> Made {
        let made = Made::new();
        let unit = "9:name=systemd:/system.slice/gunicorn.service\n4:cpuacct,cpu:/batch\n0::/u\n";
        let container = format!("4:cpu,cpuacct:/docker/{ID}\n0::/system.slice/docker-{ID}.scope\n");
        let other = "4:cpu,cpuacct:/batch/night\n0::/other.slice/gunicorn.service/inner\n";
        let processes = [
            (600, 1, unit),
            (601, 600, unit),
            (610, 1, &container),
            (611, 610, &container),
            (620, 1, other),
        ];
        for (pid, parent, groups) in processes {
            made.process(pid, parent, "server", &["server"]);
            made.file(pid, "cgroup", groups.as_bytes());
        }
        made.process(630, 1, "gone", &[]);
        made.file(611, "status", b"Name:\tx\nNSpid:\t611\t7\nFoo:\t1\n");
        made.file(610, "status", b"NSpid:\t610\t1\n");
        made.file(600, "status", b"NSpid:\t600\n");
        made.file(
            500,
            "mountinfo",
            b"32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpuacct,cpu\n\
              33 31 0:30 / /sys/fs/cgroup\\040two rw shared:1 - cgroup2 cgroup2 rw,nsdelegate\n\
              34 31 0:30 /other.slice /mnt/part rw - cgroup2 none rw\n\
              35 31 0:31 / /mnt rw - tmpfs none rw\n",
        );
        made
    }

    fn one(name: &str) -> (String, Vec<u32>) {
        match members(&machine().snapshot(), name.as_bytes()) {
            Found::One(path, pids) => {
                (String::from_utf8(path).unwrap(), pids.into_iter().collect())
            }
            Found::Several(paths) => panic!("{paths:?}"),
        }
    }

    #[test]
    fn a_group_is_named_by_its_folder() {
        assert_eq!(
            one("/sys/fs/cgroup/cpu,cpuacct/batch"),
            ("/batch".into(), vec![600, 601, 620])
        );
        assert_eq!(one("/sys/fs/cgroup/cpu,cpuacct/batch/night/").1, [620]);
        assert_eq!(one("/sys/fs/cgroup/cpu,cpuacct/bat").1, [0; 0]);
        assert_eq!(one("/sys/fs/cgroup two/u").1, [600, 601]);
        // The folder of another hierarchy.
        assert_eq!(one("/sys/fs/cgroup two/batch").1, [0; 0]);
        let inner = "/other.slice/gunicorn.service";
        assert_eq!(one("/mnt/part/gunicorn.service"), (inner.into(), vec![620]));
        // All of a hierarchy, but what memtrace descends from.
        assert_eq!(
            one("/sys/fs/cgroup/cpu,cpuacct").1,
            [600, 601, 610, 611, 620]
        );
    }

    #[test]
    fn a_group_is_named_by_its_path_in_any_hierarchy() {
        let path = "/system.slice/gunicorn.service";
        assert_eq!(one(path), (path.into(), vec![600, 601]));
        assert_eq!(one("/batch/night").1, [620]);
        assert_eq!(one("/system.slice").1, [600, 601, 610, 611]);
        assert_eq!(one("/sys").1, [0; 0]);
    }

    #[test]
    fn a_group_is_named_by_the_end_of_its_path_or_a_containers_id() {
        assert_eq!(one("night"), ("/batch/night".into(), vec![620]));
        assert_eq!(one("system.slice/gunicorn.service").1, [600, 601]);
        // Both hierarchies have the same processes for it.
        assert_eq!(one(ID).1, [610, 611]);
        assert_eq!(one(&ID[..12]).1, [610, 611]);
        assert_eq!(one(&format!("containerd://{ID}")).1, [610, 611]);
        assert_eq!(one(&ID[..7]).1, [0; 0]);
        assert_eq!(one("unicorn.service").1, [0; 0]);
        assert_eq!(one("").1, [0; 0]);
    }

    #[test]
    fn several_groups_are_listed() {
        let found = members(&machine().snapshot(), b"gunicorn.service");
        let paths = [
            "/other.slice/gunicorn.service",
            "/system.slice/gunicorn.service",
        ];
        let paths = paths.map(|path| path.as_bytes().to_vec()).to_vec();
        assert_eq!(found, Found::Several(paths));
    }

    #[test]
    fn a_pid_inside_of_a_container_is_found() {
        let made = machine();
        let pids = [600, 610, 611, 630].into();
        assert_eq!(by_inner_pid(made.0.path(), &pids, 7), [611]);
        assert_eq!(by_inner_pid(made.0.path(), &pids, 1), [610]);
        // Those that are in no namespace of their own have no other pid.
        assert_eq!(by_inner_pid(made.0.path(), &pids, 600), [0; 0]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(
            line in proptest::collection::vec(any::<u8>(), 0..100),
            name in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            unescaped(&line);
            mounted(&line, &name);
            if let Some(group) = Group::parse(&line) {
                group.first_called(&name);
                prop_assert!(group.is_below(&group));
            }
        }
    }
}
