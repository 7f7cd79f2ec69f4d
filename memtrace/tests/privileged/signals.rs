//! Signals are heard from memtrace's first instruction to its last.

use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime};

use crate::support::{BpfObjects, Fixture, Report, Trace, eventually, privileged, requires};
use crate::support::{signal, trace};

/// How long leaving at once may take, from the first of two signals to the end of the process.
const AT_ONCE: Duration = Duration::from_millis(100);

/// Moments of a trace at which it is left.
const MOMENTS: u32 = 20;

/// A seed to repeat a run with; the clock's without it.
const SEED: &str = "MEMTRACE_TEST_SEED";

/// Numbers that look random, from 0 to 1.
struct Random(u64);

impl Random {
    fn seeded() -> Self {
        let given = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| {
            let now = SystemTime::UNIX_EPOCH.elapsed().expect("it is later");
            now.as_nanos() as u64
        });
        println!("{SEED}={seed}");
        Self(seed | 1)
    }

    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// A running memtrace that need not be attached.
struct Running(Child);

impl Running {
    fn start(arguments: &[&str], output: &Path) -> Self {
        let mut command = Command::new(trace::path());
        trace::as_on_a_terminal(&mut command);
        command
            .arg("--output")
            .arg(output)
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        // SAFETY: one system call, which may be made between fork and exec.
        unsafe {
            command.pre_exec(|| {
                set_priority(0);
                Ok(())
            })
        };
        Self(command.spawn().expect("memtrace runs"))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    /// A set of signals in /proc/PID/status.
    fn signals(&self, field: &str) -> u64 {
        let set = self.status(field);
        set.map_or(0, |set| u64::from_str_radix(&set, 16).expect("hexadecimal"))
    }

    /// A field of /proc/PID/status, if there is one.
    fn status(&self, field: &str) -> Option<String> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.expect("memtrace has not been waited for");
        let value = status.lines().find_map(|line| line.strip_prefix(field));
        value.map(|value| value.trim().to_owned())
    }

    /// Whether it has ended and not been waited for. What was sent to it since stays pending.
    fn has_ended(&self) -> bool {
        self.status("State:")
            .is_some_and(|state| state.starts_with('Z'))
    }

    /// Sends SIGINT when memtrace has heard all that were sent before: two that are pending at once
    /// are one.
    fn press_ctrl_c(&self) {
        let is_pending = || self.signals("ShdPnd:") >> (libc::SIGINT - 1) & 1 == 1;
        while is_pending() && !self.has_ended() {
            std::thread::sleep(Duration::from_micros(500));
        }
        signal(self.pid(), libc::SIGINT);
    }

    /// Waits until it has ended; returns how, and how long its main thread has waited for a CPU in
    /// all its life.
    fn ended(mut self) -> (ExitStatus, Duration) {
        // SAFETY: the place for what is found out is valid, and the child is left to be waited for.
        let found = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let flags = libc::WEXITED | libc::WNOWAIT;
            libc::waitid(libc::P_PID, self.pid(), &raw mut info, flags)
        };
        assert_eq!(found, 0);
        let waited = waited_for_cpu(self.pid());
        (self.0.wait().expect("it is a child"), waited)
    }

    fn message(&mut self) -> String {
        let errors = self.0.stderr.as_mut().expect("it is piped");
        std::io::read_to_string(errors).expect("UTF-8")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Gives the calling thread a priority, which is not permitted to everybody.
fn set_priority(niceness: i32) {
    // SAFETY: takes no pointers.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, niceness) };
}

/// How long the first thread of a process could have run and did not, as others did.
fn waited_for_cpu(pid: u32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    let nanoseconds = text.split(' ').nth(1).and_then(|word| word.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

/// A program whose children copy pages and end, again and again, until it is dropped.
struct Forking(Child);

impl Forking {
    fn start() -> Self {
        let script = "while :; do (:); (:); done";
        let child = Command::new("sh").args(["-c", script]).spawn();
        Self(child.expect("a shell runs"))
    }
}

impl Drop for Forking {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn ctrl_c_twice_leaves_at_once_at_any_moment() {
    requires!(privileged());
    let mut random = Random::seeded();
    let target = Forking::start();
    let pid = target.0.id().to_string();
    let arguments = ["--pid", &pid, "--duration", "500ms"];
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("report.json");

    let start = Instant::now();
    let (status, _) = Running::start(&arguments, &output).ended();
    assert!(status.success(), "{status}");
    let whole = start.elapsed();

    // To detach from what others use as well, the kernel waits for all CPUs.
    let beside = Running::start(&["--pid", &pid], &folder.path().join("beside.json"));
    // Beside other work the test should not measure how late it is itself.
    set_priority(-20);
    let (mut left, mut late) = (0, 0);
    while left < MOMENTS {
        let moment = whole.mul_f64(random.next());
        let _ = std::fs::remove_file(&output);
        let memtrace = Running::start(&arguments, &output);
        std::thread::sleep(moment);
        let held = BpfObjects::held_by(memtrace.pid());
        let before = waited_for_cpu(memtrace.pid());
        let start = Instant::now();
        memtrace.press_ctrl_c();
        std::thread::sleep(Duration::from_millis(1));
        memtrace.press_ctrl_c();
        let (status, after) = memtrace.ended();
        let took = start.elapsed();
        held.are_freed();
        if let Ok(text) = std::fs::read_to_string(&output) {
            Report::read(&text);
        }
        let names = std::fs::read_dir(folder.path()).expect("it is there");
        let names: Vec<_> = names
            .map(|entry| entry.expect("a name").file_name())
            .collect();
        assert!(names.iter().all(|name| name == "report.json"), "{names:?}");
        assert!(!beside.has_ended(), "another memtrace goes on");
        if status.success() {
            // It was faster than the first time, and had ended by then.
            continue;
        }
        // In its first milliseconds it is still the loader of programs that runs.
        let by_default = status.signal() == Some(libc::SIGINT);
        assert!(
            status.code() == Some(130) || by_default,
            "{moment:?}: {status}"
        );
        let waited = after.saturating_sub(before);
        println!("left after {moment:?} in {took:?}, {waited:?} of it without a CPU");
        // What others run on a busy machine is not memtrace's time, and not all of it is counted as
        // waiting: one in ten may be later than that.
        late += usize::from(took > AT_ONCE + waited);
        assert!(took <= 5 * AT_ONCE, "{moment:?}: {took:?}, {waited:?}");
        left += 1;
    }
    assert!(
        late <= MOMENTS as usize / 10,
        "{late} of {MOMENTS} were late"
    );
}

#[test]
fn ctrl_c_while_attaching_abandons_the_trace() {
    requires!(privileged());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (output, mark) = (
        folder.path().join("report.json"),
        folder.path().join("mark"),
    );
    let mark_path = mark.display().to_string();
    for (sent, expected) in [(libc::SIGINT, 130), (libc::SIGTERM, 143)] {
        let mut memtrace = Running::start(&["--", "touch", &mark_path], &output);
        eventually("memtrace listens", || {
            (memtrace.signals("SigCgt:") >> (sent - 1) & 1 == 1).then_some(())
        });
        signal(memtrace.pid(), sent);
        let message = memtrace.message();
        let (status, _) = memtrace.ended();
        assert_eq!(status.code(), Some(expected), "{message}");
        assert_eq!(message, "memtrace: interrupted before tracing began\n");
        assert!(!output.exists() && !mark.exists());
    }
}

#[test]
fn a_terminal_that_closes_ends_the_trace_with_a_report() {
    let mut fixture = requires!(Fixture::start(&["fork-child", "--pages", "1000"]));
    let trace = Trace::attach(fixture.pid);
    fixture.go();
    let truth = fixture.truth();
    // The shell says it, and the kernel.
    signal(trace.pid(), libc::SIGHUP);
    std::thread::sleep(Duration::from_millis(5));
    signal(trace.pid(), libc::SIGHUP);
    trace.report().is(&truth);
}

#[test]
fn under_nohup_the_terminal_may_close() {
    let mut fixture = requires!(Fixture::start(&["fork-child", "--pages", "1000"]));
    let pid = fixture.pid.to_string();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("report.json");
    let mut nohup = Command::new("nohup")
        .arg(trace::path())
        .args(["--pid", &pid, "--output"])
        .arg(&output)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("nohup runs");
    let errors = nohup.stderr.take().expect("it is piped");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(errors));
    let attached = |line: Result<String, _>| line.is_ok_and(|line| line.contains(": tracing"));
    assert!(lines.any(attached));
    signal(nohup.id(), libc::SIGHUP);
    std::thread::sleep(Duration::from_millis(300));
    fixture.go();
    let truth = fixture.truth();
    signal(nohup.id(), libc::SIGINT);
    assert!(nohup.wait().expect("it is a child").success());
    Report::read(&std::fs::read_to_string(&output).expect("a report")).is(&truth);
}

#[test]
fn what_timeout_ends_has_a_report() {
    requires!(privileged());
    let target = Forking::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("report.json");
    let status = Command::new("timeout")
        .args(["--preserve-status", "--signal=INT", "8"])
        .arg(trace::path())
        .args(["--unwind", "off", "--python", "off", "--pid"])
        .arg(target.0.id().to_string())
        .arg("--output")
        .arg(&output)
        .stdout(Stdio::null())
        .status()
        .expect("timeout runs");
    assert!(status.success(), "{status}");
    let report = Report::read(&std::fs::read_to_string(&output).expect("a report"));
    assert!(report.0.totals.copied_pages > 0);
}
