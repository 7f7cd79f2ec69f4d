//! A running memtrace.

use std::ffi::OsStr;
use std::fs::Permissions;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use tempfile::TempDir;

use super::{Report, copy_program, eventually, signal};

/// What memtrace prints first when it is attached.
const ATTACHED: &str = "memtrace: tracing";

/// memtrace's program.
pub fn path() -> PathBuf {
    std::env::var_os("MEMTRACE_BIN")
        .map_or_else(|| env!("CARGO_BIN_EXE_memtrace").into(), PathBuf::from)
}

/// Runs memtrace, which must refuse at once; returns what it says.
pub fn refused(arguments: &[&str]) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(path())
        .args(["--duration", "1s"])
        .args(arguments)
        .output()
        .expect("memtrace runs");
    let message = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), Some(2), "{message}");
    assert!(
        stdout.is_empty(),
        "nothing but reports goes to standard output"
    );
    message
}

/// A running memtrace that is attached.
pub struct Trace {
    child: Child,
    folder: TempDir,
    errors: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
}

/// Gives memtrace the signals as a shell in a terminal does, whoever runs these tests: under `nohup`
/// SIGHUP is ignored.
pub fn as_on_a_terminal(command: &mut Command) {
    // SAFETY: only system calls that may be made between fork and exec.
    unsafe {
        command.pre_exec(|| {
            for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
                libc::signal(signal, libc::SIG_DFL);
            }
            Ok(())
        })
    };
}

impl Trace {
    /// Attaches to a process.
    pub fn attach(pid: u32) -> Self {
        Self::with(["--pid", &pid.to_string()])
    }

    /// Starts memtrace with these arguments and a JSON report, and waits until it is attached.
    pub fn with<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Self {
        Self::with_variables(&[], arguments)
    }

    /// [`Self::with`], with these variables in memtrace's environment. Not in the test's own, which
    /// whatever other tests start meanwhile would have, too.
    pub fn with_variables<S: AsRef<OsStr>>(
        variables: &[(&str, &str)],
        arguments: impl IntoIterator<Item = S>,
    ) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let mut command = Command::new(path());
        command.envs(variables.iter().copied());
        Self::by(command, folder, arguments)
    }

    /// The same as nobody, with these capabilities: `bpf`, `perfmon`.
    pub fn as_nobody<S: AsRef<OsStr>>(
        mut setpriv: Command,
        capabilities: &[&str],
        arguments: impl IntoIterator<Item = S>,
    ) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let all = Permissions::from_mode(0o777);
        std::fs::set_permissions(folder.path(), all).expect("the folder is the test's");
        // The folders that lead to the program may be this user's own.
        let program = folder.path().join("memtrace");
        copy_program(&path(), &program);
        let given = [&["-all"], capabilities].concat().join(",+");
        setpriv
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(format!("--inh-caps={given}"))
            .arg(format!("--ambient-caps={given}"))
            .arg(program);
        Self::by(setpriv, folder, arguments)
    }

    /// Starts memtrace by a command, and waits until it is attached.
    fn by<S: AsRef<OsStr>>(
        command: Command,
        folder: TempDir,
        arguments: impl IntoIterator<Item = S>,
    ) -> Self {
        let trace = Self::start(command, folder, arguments);
        eventually("memtrace attaches", || {
            let messages = trace.messages();
            if messages.lines().any(|line| line.starts_with(ATTACHED)) {
                return Some(());
            }
            assert!(
                running(trace.child.id()),
                "memtrace ended before it attached:\n{messages}"
            );
            None
        });
        trace
    }

    fn start<S: AsRef<OsStr>>(
        mut command: Command,
        folder: TempDir,
        arguments: impl IntoIterator<Item = S>,
    ) -> Self {
        as_on_a_terminal(&mut command);
        let mut child = command
            .arg("--output")
            .arg(report_in(folder.path()))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("memtrace runs");
        let errors = Arc::new(Mutex::new(Vec::new()));
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let messages = BufReader::new(child.stderr.take().expect("it is piped"));
        let seen = Arc::clone(&errors);
        let readers = vec![
            // The output is read so that memtrace never waits for the pipe.
            std::thread::spawn(move || output.lines().for_each(drop)),
            std::thread::spawn(move || {
                for line in messages.lines().map_while(Result::ok) {
                    seen.lock().expect("no reader panicked").push(line);
                }
            }),
        ];
        Self {
            child,
            folder,
            errors,
            readers,
        }
    }

    /// memtrace's pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its report goes.
    pub fn report_path(&self) -> PathBuf {
        report_in(self.folder.path())
    }

    /// Presses Ctrl-C, and reads the report.
    pub fn finish(self) -> Report {
        signal(self.pid(), libc::SIGINT);
        self.report()
    }

    /// Waits until memtrace ends by itself, and reads the report.
    pub fn report(mut self) -> Report {
        let status = self.ended();
        assert!(status.success(), "memtrace: {status}\n{}", self.messages());
        let text = std::fs::read_to_string(self.report_path()).expect("a report");
        Report::read(&text)
    }

    /// Waits until memtrace ends.
    pub fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        let status = eventually("memtrace ends", || {
            child.try_wait().expect("memtrace is a child")
        });
        for reader in self.readers.drain(..) {
            reader.join().expect("no reader panicked");
        }
        status
    }

    /// What it wrote to standard error.
    pub fn messages(&self) -> String {
        self.errors.lock().expect("no reader panicked").join("\n")
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn report_in(folder: &Path) -> PathBuf {
    folder.join("report.json")
}

/// Whether a child of the test runs, and is not a zombie.
fn running(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}
