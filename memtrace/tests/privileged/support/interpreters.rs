//! Finds Python interpreters, and starts workloads with them.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Fixture, Why, is_installed};

/// Extra interpreters to test with: paths, separated by colons.
const EXTRA: &str = "MEMTRACE_PYTHONS";

/// Where `cargo xtask pythons` has put interpreters; `target/pythons` if unset.
const INSTALLED: &str = "MEMTRACE_PYTHON_ROOTS";

/// Where `cargo xtask pythons` has put programs; `target/python-tools` if unset.
const TOOLS: &str = "MEMTRACE_PYTHON_TOOLS";

/// Where a workload is inside a chroot.
const INSIDE: &str = "/workloads";

/// Makes a root's own mounts, which end with the process, and becomes the interpreter in it.
const ENTER: &str = "mount -t tmpfs none \"$1\"/workloads && cp \"$2\"/*.py \"$1\"/workloads/ && \
                     mount -t proc proc \"$1\"/proc && root=$1 && shift 2 && \
                     exec chroot \"$root\" \"$@\"";

/// Waits for the order as a shell, and then becomes Python.
const BECOME: &str =
    "echo '{\"ready\": {\"pid\": '$$'}}' && read order && MEMTRACE_STARTED=1 exec \"$0\" \"$@\"";

/// An interpreter.
#[derive(Clone, Debug)]
pub struct Python {
    /// Where it is, in its root.
    program: PathBuf,
    /// The folder that it sees as `/`; `None` for the machine's own.
    root: Option<PathBuf>,
}

impl Python {
    /// The interpreter of this name: `3.8` to `3.13` (pyenv's), `debian` (the system's), `trixie`,
    /// `sid`, `free-threaded`, `tools` (the one with packages; made by `cargo xtask pythons`).
    pub fn find(name: &str) -> Result<Self, Why> {
        let found = match name {
            "debian" => Some(Self::at("/usr/bin/python3")).filter(|it| it.program.exists()),
            "free-threaded" => Some(Self::at(roots().join(name).join("bin/python3.13t")))
                .filter(|it| it.program.exists())
                .or_else(|| Self::of_pyenv("3.13", "t")),
            "tools" => return Ok(Self::at(tools()?.join("python3"))),
            "trixie" | "sid" => Self::installed(name),
            version => Self::of_pyenv(version, ""),
        };
        found.ok_or_else(|| Self::missing(name))
    }

    /// Why an interpreter is not here, and how to get it.
    fn missing(name: &str) -> Why {
        let there_is_none = format!("there is no Python {name} here");
        match name {
            "debian" => Why::Unavailable(format!("{there_is_none} (apt-get install python3)")),
            "trixie" | "sid" | "free-threaded" => {
                let why = format!("{there_is_none} (cargo xtask pythons)");
                // Those are got from Debian's packages.
                if is_installed("apt-get") && is_installed("dpkg-deb") {
                    Why::NoTool(why)
                } else {
                    Why::Unavailable(why)
                }
            }
            version => Why::Unavailable(format!("{there_is_none} (pyenv install {version})")),
        }
    }

    /// The interpreters that were named for this run.
    pub fn extra() -> Vec<Self> {
        let paths = std::env::var_os(EXTRA).unwrap_or_default();
        std::env::split_paths(&paths)
            .filter(|path| !path.as_os_str().is_empty())
            .map(Self::at)
            .collect()
    }

    fn at(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            root: None,
        }
    }

    /// pyenv's newest patch release of a version; `suffix` tells variants apart.
    fn of_pyenv(version: &str, suffix: &str) -> Option<Self> {
        let root = std::env::var_os("PYENV_ROOT").map_or_else(
            || Some(PathBuf::from(std::env::var_os("HOME")?).join(".pyenv")),
            |root| Some(root.into()),
        )?;
        let patch_of = |name: &str| -> Option<u32> {
            let patch = name.strip_prefix(version)?.strip_prefix('.')?;
            patch.strip_suffix(suffix)?.parse().ok()
        };
        let entries = std::fs::read_dir(root.join("versions")).ok()?;
        let newest = entries
            .flatten()
            .filter_map(|entry| Some((patch_of(entry.file_name().to_str()?)?, entry.path())))
            .max()?;
        let program = newest.1.join("bin/python3");
        program.exists().then(|| Self::at(program))
    }

    /// One that was unpacked into a root of its own.
    fn installed(name: &str) -> Option<Self> {
        let root = roots().join(name);
        let bin = root.join("usr/bin");
        let program = std::fs::read_dir(bin)
            .ok()?
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .find(|file| {
                file.strip_prefix("python3.")
                    .is_some_and(|minor| minor.trim_end_matches('t').parse::<u32>().is_ok())
            })?;
        Some(Self {
            program: Path::new("/usr/bin").join(program),
            root: Some(root),
        })
    }

    /// Starts a workload, and waits until it is ready. `Err` when this interpreter cannot do it.
    pub fn start(&self, script: &str, arguments: &[&str]) -> Result<Fixture, Why> {
        Fixture::run(&mut self.command(script, arguments))
    }

    /// Starts a shell that becomes the workload when it is told to go.
    pub fn start_later(&self, script: &str, arguments: &[&str]) -> Result<Fixture, Why> {
        let command = self.command(script, arguments);
        let mut shell = Command::new("sh");
        shell
            .args(["-c", BECOME])
            .arg(command.get_program())
            .args(command.get_args());
        Fixture::run(&mut shell)
    }

    /// The command that runs a workload.
    pub fn command(&self, script: &str, arguments: &[&str]) -> Command {
        // -I would hide the workload's own folder; what must go is the user's environment.
        let options: [&OsStr; 3] = ["-B".as_ref(), "-E".as_ref(), "-s".as_ref()];
        let mut command = match &self.root {
            None => {
                let mut command = Command::new(&self.program);
                command.args(options).arg(workloads().join(script));
                command
            }
            Some(root) => {
                let mut command = Command::new("unshare");
                command
                    .args(["--mount", "sh", "-c", ENTER, "sh"])
                    .args([root, &workloads()])
                    .arg(&self.program)
                    .args(options)
                    .arg(Path::new(INSIDE).join(script));
                command
            }
        };
        command.args(arguments);
        command
    }
}

/// Where interpreters in roots of their own are.
fn roots() -> PathBuf {
    let given: Option<OsString> = std::env::var_os(INSTALLED);
    given.map_or_else(|| in_target("pythons"), PathBuf::from)
}

/// The folder of the programs that were installed from Python packages.
pub fn tools() -> Result<PathBuf, Why> {
    let given: Option<OsString> = std::env::var_os(TOOLS);
    let folder = given.map_or_else(|| in_target("python-tools"), PathBuf::from);
    // This file is written when everything is there.
    if folder.join("complete").exists() {
        Ok(folder.join("bin"))
    } else {
        Err(Why::NoTool(
            "Python programs are not installed (cargo xtask pythons)".into(),
        ))
    }
}

/// A folder of the target directory.
pub fn in_target(name: &str) -> PathBuf {
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    tmp.parent().unwrap_or(tmp).join(name)
}

/// The folder of the workloads.
pub fn workloads() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python")
}
