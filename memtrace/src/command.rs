//! COMMAND: started, but held back until tracing is attached.
//!
//! The child waits at a gate, a pipe, between fork and exec. One byte opens it; when memtrace dies
//! first, the child sees the pipe's end and exits without having run anything.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::fs::{Access, AtFlags, CWD};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::process::pidfd::PidFd;
use crate::profile::CommandExit;
use crate::signals;
use crate::user::User;

/// Interpreters of interpreters that the kernel follows, and some more.
const MAX_INTERPRETERS: usize = 8;

/// Bytes of a script that the kernel looks for an interpreter in.
const INTERPRETER_LINE: u64 = 256;

/// A command that waits at the gate.
pub struct Held {
    pid: u32,
    name: String,
    gate: File,
    /// The standard library returns from starting a program only once it runs or has failed to run.
    /// That is after the gate, so a thread waits for it.
    starting: JoinHandle<io::Result<Child>>,
}

/// A command that runs.
pub struct Running {
    child: Child,
    ended: AsyncFd<PidFd>,
}

impl Held {
    /// Starts `command`, program first, up to the gate, as `user` if that is somebody else. That the
    /// program can be run has been [checked](check). With `instead`, it has that for the terminal, which
    /// somebody else needs: it writes there what it would write on it, and reads nothing from it.
    ///
    /// # Errors
    /// When no process can be made.
    pub fn spawn(
        command: &[OsString],
        user: Option<&User>,
        instead: Option<&File>,
    ) -> Result<Self> {
        let (program, args) = command.split_first().context("COMMAND is empty")?;
        let name = program.to_string_lossy().into_owned();
        let (at_gate, gate) = pipe()?;
        let (mut hello, said) = pipe()?;
        let mut starter = Command::new(program);
        starter.args(args);
        if let Some(user) = user.filter(|user| !user.is_own()) {
            user.runs(&mut starter);
        }
        if let Some(file) = instead {
            off_the_terminal(&mut starter, file)?;
        }
        let ends = [at_gate.as_raw_fd(), gate.as_raw_fd(), said.as_raw_fd()];
        // SAFETY: only system calls that may be made between fork and exec.
        unsafe { starter.pre_exec(move || wait_at_gate(ends)) };
        let starting = std::thread::spawn(move || {
            let child = starter.spawn();
            // The child has its own copies of these by now.
            drop((at_gate, said));
            child
        });
        let mut pid = [0; 4];
        if hello.read_exact(&mut pid).is_err() {
            let why = match starting.join() {
                Ok(Err(error)) => anyhow!(error),
                _ => anyhow!("it ended at once"),
            };
            return Err(why.context(format!("cannot start `{name}`")));
        }
        Ok(Self {
            pid: u32::from_ne_bytes(pid),
            name,
            gate,
            starting,
        })
    }

    /// The process, before and after the gate.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Opens the gate.
    ///
    /// # Errors
    /// When the program cannot be run after all.
    pub fn release(mut self) -> Result<Running> {
        // It was there when it was checked.
        let failed = || {
            format!(
                "cannot run `{}`, so there is nothing to trace; see whether it runs without \
                 memtrace",
                self.name
            )
        };
        self.gate.write_all(b"!").with_context(failed)?;
        let child = match self.starting.join() {
            Ok(started) => started.with_context(failed)?,
            Err(_) => bail!(
                "cannot run `{}`: the thread that starts it failed",
                self.name
            ),
        };
        let ended = PidFd::open(child.id())?;
        // SAFETY: the descriptor stays open, and the same one, until it is dropped.
        let ended = unsafe { AsyncFd::register_with_interest(ended, Interest::READABLE) }?;
        Ok(Running { child, ended })
    }
}

impl Running {
    /// Waits until the command ends.
    ///
    /// # Errors
    /// When the kernel does not tell how it ended.
    pub async fn wait(mut self) -> io::Result<CommandExit> {
        self.ended.readable().await?.retain_ready();
        let status = self.child.wait()?;
        Ok(CommandExit {
            status: status.code(),
            signal: status.signal(),
        })
    }
}

/// Has a program read nothing from the terminal, and write into `file` what it would write on it.
fn off_the_terminal(starter: &mut Command, file: &File) -> Result<()> {
    if io::stdin().is_terminal() {
        starter.stdin(Stdio::null());
    }
    if io::stdout().is_terminal() {
        starter.stdout(file.try_clone()?);
    }
    if io::stderr().is_terminal() {
        starter.stderr(file.try_clone()?);
    }
    Ok(())
}

/// The exit status of a child that was never let go.
const NOT_RELEASED: i32 = 125;

/// Runs in the child: reports that it is there, and waits. An error ends the child without exec.
fn wait_at_gate([at_gate, gate, said]: [RawFd; 3]) -> io::Result<()> {
    let mut byte = 0u8;
    // memtrace's signals are not COMMAND's.
    signals::restore();
    // SAFETY: system calls on descriptors that this process has, and on memory of its own.
    unsafe {
        // Otherwise the child would hold the gate's other end open, and never see memtrace die.
        libc::close(gate);
        let pid = libc::getpid().to_ne_bytes();
        if libc::write(said, pid.as_ptr().cast(), pid.len()) != pid.len() as isize {
            libc::_exit(NOT_RELEASED);
        }
        libc::close(said);
        loop {
            match libc::read(at_gate, (&raw mut byte).cast(), 1) {
                1 => return Ok(()),
                // memtrace has gone, or does not want it any more. Nobody is there to be told, and
                // who returns an error here says on standard error that he could not tell it.
                0 => libc::_exit(NOT_RELEASED),
                _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                _ => return Err(io::Error::last_os_error()),
            }
        }
    }
}

/// Both ends of a pipe, which exec closes: the one to read from, and the one to write to.
fn pipe() -> Result<(File, File)> {
    let mut ends = [0; 2];
    // SAFETY: there is room for two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error()).context("cannot make a pipe");
    }
    // SAFETY: both were just made, and nothing else owns them.
    let [read, write] = ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) });
    Ok((read.into(), write.into()))
}

/// Why a program cannot be run.
#[derive(Debug)]
pub enum CannotRun {
    /// It was named without a slash, and is in no folder of PATH.
    NotInPath,
    /// There is nothing of this name.
    Missing,
    /// It is a folder, or something else that is not a file.
    NotAFile,
    /// This user may not execute it.
    NotExecutable,
    /// It is a script, and this interpreter that its first line names cannot be run.
    NoInterpreter(PathBuf),
    /// Another reason, from the system.
    Other(io::Error),
}

/// Finds out, before anything is attached, whether exec will find `program`.
///
/// # Errors
/// Why it will not.
pub fn check(program: &OsStr) -> Result<(), CannotRun> {
    if program.as_bytes().contains(&b'/') {
        return executable(Path::new(program), MAX_INTERPRETERS);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut all = std::env::split_paths(&path).map(|dir| dir.join(program));
    // Like exec, which goes on looking where a file cannot be executed.
    let found = all.find(|path| is_executable(path).is_ok());
    match found {
        Some(found) => executable(&found, MAX_INTERPRETERS),
        None => Err(CannotRun::NotInPath),
    }
}

/// Whether exec takes the file at `path`, and the interpreter that it names, and so on.
fn executable(path: &Path, interpreters: usize) -> Result<(), CannotRun> {
    is_executable(path)?;
    match interpreter(path) {
        Some(next) if interpreters > 0 => {
            executable(&next, interpreters - 1).map_err(|_| CannotRun::NoInterpreter(next.clone()))
        }
        _ => Ok(()),
    }
}

fn is_executable(path: &Path) -> Result<(), CannotRun> {
    let metadata = path.metadata().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => CannotRun::Missing,
        io::ErrorKind::PermissionDenied => CannotRun::NotExecutable,
        _ => CannotRun::Other(error),
    })?;
    if !metadata.is_file() {
        return Err(CannotRun::NotAFile);
    }
    rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)
        .map_err(|_| CannotRun::NotExecutable)
}

/// What the first line of a script names to run it, as the kernel reads that line. `None` for any
/// other file, and for one that may be executed and not read.
fn interpreter(script: &Path) -> Option<PathBuf> {
    let mut line = Vec::new();
    let file = File::open(script).ok()?;
    file.take(INTERPRETER_LINE).read_to_end(&mut line).ok()?;
    let line = line.strip_prefix(b"#!")?;
    let line = line.split(|&byte| byte == b'\n').next()?;
    let is_space = |byte: &u8| *byte == b' ' || *byte == b'\t';
    let mut words = line.split(is_space).filter(|word| !word.is_empty());
    Some(OsStr::from_bytes(words.next()?).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn command(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    fn exit_of(held: Held) -> CommandExit {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async { held.release().unwrap().wait().await.unwrap() })
    }

    #[test]
    fn a_command_does_not_run_before_its_release() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("mark");
        let held = Held::spawn(&command(&["touch", mark.to_str().unwrap()]), None, None).unwrap();
        assert!(Path::new(&format!("/proc/{}", held.pid())).exists());
        std::thread::sleep(Duration::from_millis(50));
        assert!(!mark.exists());
        assert_eq!(
            exit_of(held),
            CommandExit {
                status: Some(0),
                signal: None
            }
        );
        assert!(mark.exists());
    }

    #[test]
    fn its_exit_status_and_signal_are_told() {
        let exit =
            |script| exit_of(Held::spawn(&command(&["sh", "-c", script]), None, None).unwrap());
        assert_eq!(
            exit("exit 3"),
            CommandExit {
                status: Some(3),
                signal: None
            }
        );
        assert_eq!(
            exit("kill -9 $$"),
            CommandExit {
                status: None,
                signal: Some(9)
            }
        );
    }

    fn refused(program: impl AsRef<OsStr>) -> CannotRun {
        check(program.as_ref()).unwrap_err()
    }

    #[test]
    fn a_command_that_cannot_be_run_is_found_out_before_it_is_started() {
        assert!(matches!(check(OsStr::new("sh")), Ok(())));
        assert!(matches!(
            refused("no-such-program-anywhere"),
            CannotRun::NotInPath
        ));
        assert!(matches!(refused("/no/such/program"), CannotRun::Missing));
        assert!(matches!(refused("/dev/null"), CannotRun::NotAFile));
        assert!(matches!(refused("/etc/passwd"), CannotRun::NotExecutable));
        assert!(matches!(refused("/"), CannotRun::NotAFile));
    }

    #[test]
    fn a_script_needs_its_interpreter_and_that_ones_interpreter() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let script = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        check(script("good", "#! /bin/sh -e\n").as_os_str()).unwrap();
        check(script("plain", "echo\n").as_os_str()).unwrap();
        check(script("bare", "#!").as_os_str()).unwrap();
        let missing = |path: &Path| match refused(path) {
            CannotRun::NoInterpreter(interpreter) => interpreter,
            other => panic!("{other:?}"),
        };
        let bad = script("bad", "#!/no/python3 -u\n");
        assert_eq!(missing(&bad), Path::new("/no/python3"));
        // Its line ends as on another system.
        let foreign = script("foreign", "#!/bin/sh\r\n");
        assert_eq!(missing(&foreign), Path::new("/bin/sh\r"));
        let outer = script("outer", &format!("#!{}\n", bad.display()));
        assert_eq!(missing(&outer), bad);
        let endless = folder.path().join("endless");
        check(script("endless", &format!("#!{}\n", endless.display())).as_os_str()).unwrap();
    }

    #[test]
    fn a_command_that_is_not_released_goes_with_the_gate() {
        let held = Held::spawn(&command(&["sleep", "1000"]), None, None).unwrap();
        let pid = held.pid();
        let Held { gate, starting, .. } = held;
        drop(gate);
        let mut child = starting.join().unwrap().unwrap();
        assert_eq!(
            child.wait().unwrap().code(),
            Some(NOT_RELEASED),
            "it did not run"
        );
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }

    /// Not a test itself: the process that the next test runs, and that dies.
    #[test]
    #[ignore = "run by a_held_command_dies_with_memtrace"]
    fn holder_that_is_killed() {
        let Ok(mark) = std::env::var("MEMTRACE_TEST_MARK") else {
            return;
        };
        let held = Held::spawn(&command(&["touch", &mark]), None, None).unwrap();
        println!("\nheld {}", held.pid());
        // SAFETY: no pointers are passed; the process is this one.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    }

    /// Not a test itself: the process that the next test runs, which listens for signals.
    #[test]
    #[ignore = "run by a_held_command_is_not_memtrace_to_signals"]
    fn holder_that_listens() {
        let Ok(mark) = std::env::var("MEMTRACE_TEST_MARK") else {
            return;
        };
        signals::install(|| ()).unwrap();
        let held = Held::spawn(&command(&["cp", "/proc/self/status", &mark]), None, None).unwrap();
        let status = std::fs::read_to_string(format!("/proc/{}/status", held.pid())).unwrap();
        std::fs::write(format!("{mark}.held"), status).unwrap();
        exit_of(held);
    }

    #[test]
    fn a_held_command_is_not_memtrace_to_signals() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("mark");
        let mut holder = Command::new(std::env::current_exe().unwrap());
        signals::tests::as_on_a_terminal(&mut holder);
        let status = holder
            .args(["--ignored", "--exact"])
            .arg("command::tests::holder_that_listens")
            .env("MEMTRACE_TEST_MARK", &mark)
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
        let ends = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];
        let ends: u64 = ends.iter().map(|signal| 1 << (signal - 1)).sum();
        for path in [mark.with_extension("held"), mark] {
            let status = std::fs::read_to_string(&path).unwrap();
            for field in ["SigBlk:", "SigIgn:", "SigCgt:"] {
                let value = status.lines().find_map(|line| line.strip_prefix(field));
                let set = u64::from_str_radix(value.unwrap().trim(), 16).unwrap();
                assert_eq!(set & ends, 0, "{field} in {}", path.display());
            }
        }
    }

    #[test]
    fn a_held_command_dies_with_memtrace() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("mark");
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture"])
            .arg("command::tests::holder_that_is_killed")
            .env("MEMTRACE_TEST_MARK", &mark)
            .output()
            .unwrap();
        assert_eq!(output.status.signal(), Some(libc::SIGKILL));
        // It has nobody to complain to.
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(!complaints.contains("fatal"), "{complaints}");
        let printed = String::from_utf8(output.stdout).unwrap();
        let held = printed.lines().find_map(|line| line.strip_prefix("held "));
        let held: u32 = held.unwrap().parse().unwrap();
        let ended = || {
            // Whoever adopts it may be slow to wait for it.
            let stat = std::fs::read_to_string(format!("/proc/{held}/stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        };
        let start = std::time::Instant::now();
        while !ended() {
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "it outlives memtrace"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(!mark.exists());
    }
}
