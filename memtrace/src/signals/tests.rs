use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::*;

/// What the process under test does once it listens.
const WAY: &str = "MEMTRACE_TEST_WAY";

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Not a test itself: the process that the tests send signals to.
#[test]
#[ignore = "run by the other tests, as a process of its own"]
fn listener() {
    let Ok(way) = std::env::var(WAY) else {
        return;
    };
    install(|| {
        // SAFETY: the bytes are as long as stated.
        unsafe { libc::write(1, b"hook\n".as_ptr().cast(), 5) };
    })
    .unwrap();
    say("\nready");
    match way.as_str() {
        "waits" => {
            while check().is_ok() {
                std::thread::sleep(Duration::from_millis(1));
            }
            say(&format!("heard {}", check().unwrap_err().signal));
            std::thread::sleep(PATIENCE);
        }
        "finishes" => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let arrival = Arrival::new().unwrap();
                arrival.received().await;
                arrival.received().await;
            });
            // A second signal that does not count would have arrived by then.
            std::thread::sleep(Duration::from_millis(200));
            say("finished");
        }
        "blocks" => {
            // As threads do that are started after `install`, and its own.
            mask(libc::SIG_BLOCK);
            while check().is_ok() {
                std::hint::spin_loop();
            }
            say("heard");
            std::thread::sleep(PATIENCE);
        }
        "restores" => {
            restore();
            say("restored");
            std::thread::sleep(PATIENCE);
        }
        other => panic!("{other}"),
    }
}

fn say(line: &str) {
    println!("{line}");
    io::stdout().flush().unwrap();
}

/// Gives a process the signals as a shell in a terminal does, whoever runs these tests: under `nohup`
/// SIGHUP is ignored.
pub fn as_on_a_terminal(command: &mut Command) {
    // SAFETY: only system calls that may be made between fork and exec.
    unsafe {
        command.pre_exec(|| {
            for signal in SIGNALS {
                libc::signal(signal, libc::SIG_DFL);
            }
            mask(libc::SIG_UNBLOCK);
            Ok(())
        })
    };
}

/// A process that listens.
struct Listener {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Listener {
    fn start(way: &str, change: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        as_on_a_terminal(&mut command);
        change(&mut command);
        Self::run(command, way)
    }

    fn run(mut command: Command, way: &str) -> Self {
        let mut child = command
            .args(["--ignored", "--exact", "--nocapture"])
            .arg("signals::tests::listener")
            .env(WAY, way)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut listener = Self { child, output };
        listener.until("ready");
        listener
    }

    /// Reads up to the line.
    fn until(&mut self, line: &str) {
        let read = (&mut self.output).lines().map(Result::unwrap);
        assert!(
            read.take_while(|read| read != "test result")
                .any(|read| read == line)
        );
    }

    fn signal(&self, signal: c_int) {
        // SAFETY: the process is a child that has not been waited for.
        let sent = unsafe { libc::kill(self.child.id().cast_signed(), signal) };
        assert_eq!(sent, 0);
    }

    fn ended(mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < PATIENCE);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_first_signal_asks_and_the_second_leaves_at_once() {
    for (first, second) in [
        (libc::SIGINT, libc::SIGINT),
        (libc::SIGINT, libc::SIGTERM),
        (libc::SIGTERM, libc::SIGINT),
        (libc::SIGHUP, libc::SIGTERM),
    ] {
        let mut listener = Listener::start("waits", |_| ());
        listener.signal(first);
        listener.until(&format!("heard {first}"));
        let start = Instant::now();
        listener.signal(second);
        listener.until("hook");
        assert_eq!(listener.ended().code(), Some(128 + second));
        assert!(start.elapsed() < Duration::from_secs(2));
    }
}

#[test]
fn a_terminal_that_closes_only_ever_asks() {
    let mut listener = Listener::start("finishes", |_| ());
    for _ in 0..3 {
        listener.signal(libc::SIGHUP);
        std::thread::sleep(Duration::from_millis(20));
    }
    listener.until("finished");
    assert!(listener.ended().success());
}

#[test]
fn what_timeout_says_twice_counts_once() {
    let has_timeout = Command::new("timeout").arg("--version").output().is_ok();
    if !has_timeout {
        return crate::skipped::skipped("timeout is not installed (apt-get install coreutils)");
    }
    for signal in ["INT", "TERM"] {
        let mut command = Command::new("timeout");
        as_on_a_terminal(&mut command);
        command.args(["--preserve-status", "--signal", signal, "1"]);
        command.arg(std::env::current_exe().unwrap());
        let mut listener = Listener::run(command, "finishes");
        listener.until("finished");
        assert!(listener.ended().success());
    }
}

#[test]
fn nohup_is_respected() {
    let mut listener = Listener::start("waits", |command| {
        // SAFETY: one system call, which may be made between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::signal(libc::SIGHUP, libc::SIG_IGN);
                Ok(())
            })
        };
    });
    listener.signal(libc::SIGHUP);
    std::thread::sleep(Duration::from_millis(50));
    listener.signal(libc::SIGINT);
    // SIGHUP would have been the first.
    listener.until(&format!("heard {}", libc::SIGINT));
}

#[test]
fn signals_that_were_blocked_at_the_start_are_heard() {
    let mut listener = Listener::start("waits", |command| {
        // SAFETY: system calls on memory of its own, which may be made between fork and exec.
        unsafe {
            command.pre_exec(|| {
                let set = all();
                libc::sigprocmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut());
                Ok(())
            })
        };
    });
    listener.signal(libc::SIGTERM);
    listener.until(&format!("heard {}", libc::SIGTERM));
}

#[test]
fn a_thread_that_cannot_handle_signals_does_not_hold_them_up() {
    let mut listener = Listener::start("blocks", |_| ());
    listener.signal(libc::SIGINT);
    listener.until("heard");
    listener.signal(libc::SIGINT);
    listener.until("hook");
    assert_eq!(listener.ended().code(), Some(130));
}

#[test]
fn restored_signals_have_their_default_actions() {
    let mut listener = Listener::start("restores", |_| ());
    listener.until("restored");
    listener.signal(libc::SIGTERM);
    assert_eq!(listener.ended().signal(), Some(libc::SIGTERM));
}

#[test]
fn an_interruption_has_the_exit_status_that_shells_give_it() {
    let statuses = SIGNALS.map(|signal| Interrupted { signal }.exit_status());
    assert_eq!(statuses, [130, 143, 129]);
}

#[test]
fn only_the_program_timeout_is_taken_for_it() {
    assert!(!says_it_twice(std::process::id().cast_signed()));
    assert!(!says_it_twice(0));
    assert!(!says_it_twice(i32::MAX));
    let own = std::thread::spawn(|| {
        // SAFETY: the name ends with a NUL, and only this thread gets it.
        unsafe { libc::prctl(libc::PR_SET_NAME, c"timeout".as_ptr()) };
        // SAFETY: takes no pointers.
        says_it_twice(unsafe { libc::gettid() })
    });
    assert!(own.join().unwrap());
}
