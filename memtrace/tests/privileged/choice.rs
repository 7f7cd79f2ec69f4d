//! Processes are chosen by name and by control group.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::{Trace, Why, privileged, requires, tool, trace};

/// A server that forks workers, says so, and ends with its standard input.
const SERVER: &str = "\
import os, sys
workers = []
for _ in range(int(sys.argv[1])):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    os.close(read)
    workers.append(pid)
print(os.getpid(), flush=True)
sys.stdin.read()
";

/// A running server.
struct Server {
    child: Child,
    pid: u32,
}

impl Server {
    /// Starts a script of this name with so many workers, in the control group of these folders.
    fn start(script: &Path, workers: u32, groups: &[PathBuf]) -> Result<Self, Why> {
        let mut command = tool("python3")?;
        command
            .args(["-B", "-E"])
            .arg(script)
            .arg(workers.to_string());
        Ok(Self::run(&mut command, groups))
    }

    fn run(command: &mut Command, groups: &[PathBuf]) -> Self {
        let files: Vec<_> = groups.iter().map(|it| it.join("cgroup.procs")).collect();
        // SAFETY: it writes files, for which it allocates, as a child of the C library's fork may.
        unsafe {
            command.pre_exec(move || files.iter().try_for_each(|file| std::fs::write(file, "0")))
        };
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server runs");
        let mut line = String::new();
        let output = child.stdout.as_mut().expect("it is piped");
        BufReader::new(output)
            .read_line(&mut line)
            .expect("the server says its pid");
        let pid = line.trim().parse().expect("a pid");
        Self { child, pid }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Without its input it ends, and with it what its workers wait for.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// A folder with the server's script under a name that no other process has.
fn script(name: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join(name);
    std::fs::write(&path, SERVER).expect("a file");
    (folder, path)
}

/// A name that only this test uses.
fn unique(name: &str) -> String {
    format!("mt-{name}-{}.py", std::process::id())
}

/// The pids that a trace with these arguments has in its report.
fn traced(arguments: &[&str]) -> Vec<u32> {
    let report = Trace::with(arguments).finish();
    let mut pids: Vec<u32> = report.0.processes.iter().map(|it| it.pid).collect();
    pids.sort_unstable();
    pids
}

/// A control group that is removed with its processes gone: its folders, one in each hierarchy.
struct MadeGroup {
    name: String,
    folders: Vec<PathBuf>,
}

impl MadeGroup {
    /// Makes one where that is permitted: of version 1 (`pids`) or 2 (`unified`, or the whole).
    fn new(name: &str, version: u32) -> Result<Self, Why> {
        let mounts: &[&str] = match version {
            1 => &["/sys/fs/cgroup/pids", "/sys/fs/cgroup/cpu"],
            _ => &["/sys/fs/cgroup/unified", "/sys/fs/cgroup"],
        };
        let is_group = |mount: &&&str| Path::new(mount).join("cgroup.procs").exists();
        let Some(mount) = mounts.iter().find(is_group) else {
            let why = format!("no control groups of version {version} are mounted");
            return Err(Why::Unavailable(why));
        };
        let name = format!("mt-{name}-{}", std::process::id());
        let folder = Path::new(mount).join(&name);
        std::fs::create_dir(&folder).map_err(|error| {
            Why::Unavailable(format!("no control group can be made in {mount}: {error}"))
        })?;
        let folders = vec![folder];
        Ok(Self { name, folders })
    }

    fn folder(&self) -> String {
        self.folders[0].display().to_string()
    }
}

impl Drop for MadeGroup {
    fn drop(&mut self) {
        for folder in &self.folders {
            // The last process may still be leaving it.
            for _ in 0..200 {
                if std::fs::remove_dir(folder).is_ok() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
    }
}

#[test]
fn a_script_is_found_by_its_name() {
    requires!(privileged());
    let name = unique("one");
    let (_folder, path) = script(&name);
    let server = requires!(Server::start(&path, 2, &[]));
    let pids = traced(&["--name", &name]);
    assert_eq!(pids.len(), 3, "{pids:?}");
    assert!(pids.contains(&server.pid));
}

#[test]
fn several_trees_are_listed_until_all_are_wanted() {
    requires!(privileged());
    let name = unique("two");
    let (_folder, path) = script(&name);
    let one = requires!(Server::start(&path, 1, &[]));
    let two = requires!(Server::start(&path, 2, &[]));
    let message = trace::refused(&["--name", &name]);
    for words in [
        format!("2 trees of processes are called {name}"),
        format!("{}  started ", one.pid),
        ", 1 descendant: ".to_owned(),
        format!("{}  started ", two.pid),
        ", 2 descendants: ".to_owned(),
        "with --all".to_owned(),
    ] {
        assert!(message.contains(&words), "{words:?} is not in: {message}");
    }
    let pids = traced(&["--name", &name, "--all"]);
    assert_eq!(pids.len(), 5, "{pids:?}");
    assert!(pids.contains(&one.pid) && pids.contains(&two.pid));
    let pids = traced(&["--pid", &one.pid.to_string(), "--name", &name, "--all"]);
    assert_eq!(pids.len(), 5, "{pids:?}");
}

#[test]
fn memtrace_does_not_choose_itself_nor_its_command() {
    requires!(privileged());
    let name = unique("own");
    let message = trace::refused(&["--name", &name, "--", "sleep", "1"]);
    assert!(
        message.contains(&format!("no process is called {name}")),
        "{message}"
    );
    let (_folder, path) = script(&name);
    let server = requires!(Server::start(&path, 0, &[]));
    let load = path.display().to_string();
    let pids = traced(&["--name", &name, "--", "python3", &load, "0"]);
    assert_eq!(pids, [server.pid]);
}

#[test]
fn a_control_group_of_either_version_is_traced() {
    requires!(privileged());
    for version in [1, 2] {
        let name = unique("group");
        let (_folder, path) = script(&name);
        let group = match MadeGroup::new("group", version) {
            Ok(group) => group,
            Err(why) => {
                crate::support::skip(&why);
                continue;
            }
        };
        let inside = requires!(Server::start(&path, 2, &group.folders));
        let also = requires!(Server::start(&path, 0, &group.folders));
        let _outside = requires!(Server::start(&path, 1, &[]));
        let path = format!("/{}", group.name);
        for way in [&group.folder(), &path, &group.name] {
            let pids = traced(&["--cgroup", way]);
            assert_eq!(pids.len(), 4, "{way}: {pids:?}");
            assert!(pids.contains(&inside.pid) && pids.contains(&also.pid));
        }
        let message = trace::refused(&["--cgroup", &group.name, "--name", &name]);
        assert!(message.contains("2 trees of processes"), "{message}");
    }
}

#[test]
fn a_pid_may_be_that_inside_of_a_container() {
    requires!(privileged());
    let mut unshare = requires!(tool("unshare"));
    let name = unique("inner");
    let (_folder, path) = script(&name);
    let group = match MadeGroup::new("inner", 2).or_else(|_| MadeGroup::new("inner", 1)) {
        Ok(group) => group,
        Err(why) => return crate::support::skip(&why),
    };
    unshare
        .args(["--pid", "--fork", "python3", "-B"])
        .arg(&path)
        .arg("1");
    let server = Server::run(&mut unshare, &group.folders);
    assert_eq!(server.pid, 1, "in its own namespace");
    let trace = Trace::with(["--cgroup", &group.name, "--pid", "1"]);
    let said = trace.messages();
    assert!(
        said.contains("process 1 of that control group is process "),
        "{said}"
    );
    let report = trace.finish();
    let commands = report.0.processes.iter().map(|it| it.cmdline.join(" "));
    let commands: Vec<_> = commands.collect();
    assert_eq!(commands.len(), 2, "{commands:?}");
    assert!(commands.iter().all(|it| it.contains(&name)), "{commands:?}");
}

#[test]
fn a_process_says_which_container_it_is_in() {
    requires!(privileged());
    let (_folder, path) = script(&unique("box"));
    let group = match MadeGroup::new("box", 2).or_else(|_| MadeGroup::new("box", 1)) {
        Ok(group) => group,
        Err(why) => return crate::support::skip(&why),
    };
    let id = format!("{:064x}", std::process::id());
    let inner = group.folders[0].join(&id);
    if let Err(error) = std::fs::create_dir(&inner) {
        let why = format!("no control group can be made in another: {error}");
        return crate::support::skip(&Why::Unavailable(why));
    }
    let inner = MadeGroup {
        name: id.clone(),
        folders: vec![inner],
    };
    let server = requires!(Server::start(&path, 1, &inner.folders));
    let report = Trace::with(["--cgroup", &id]).finish();
    assert_eq!(report.0.processes.len(), 2);
    for process in &report.0.processes {
        let container = process.container.as_ref().expect("it is in one");
        assert_eq!(
            (container.id.as_str(), &container.pod),
            (id.as_str(), &None)
        );
    }
    drop(server);
    drop(inner);
}
