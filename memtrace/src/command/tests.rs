use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::*;

fn words(command: &[&str]) -> Vec<OsString> {
    command.iter().map(Into::into).collect()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Runs a command to its end.
fn run(command: &[&str]) -> CommandExit {
    runtime().block_on(async {
        Held::spawn(&words(command))
            .unwrap()
            .release()
            .unwrap()
            .wait()
            .await
            .unwrap()
    })
}

fn refusal(command: &[&str]) -> String {
    let runtime = runtime();
    let _guard = runtime.enter();
    let refused = Held::spawn(&words(command)).unwrap().release();
    format!("{:#}", refused.unwrap_err())
}

/// Whether the process has ended; it may not have been waited for yet.
fn ended(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .is_none_or(|rest| rest.is_empty() || rest.starts_with(" Z"))
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "{what} did not happen"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn how_it_ended_is_reported() {
    assert_eq!(
        run(&["true"]),
        CommandExit {
            status: Some(0),
            signal: None
        }
    );
    assert_eq!(
        run(&["sh", "-c", "exit 7"]),
        CommandExit {
            status: Some(7),
            signal: None
        }
    );
    assert_eq!(
        run(&["sh", "-c", "kill -TERM $$"]),
        CommandExit {
            status: None,
            signal: Some(libc::SIGTERM)
        }
    );
}

#[test]
fn nothing_runs_before_release_and_then_it_is_the_same_process() {
    let dir = tempfile::tempdir().unwrap();
    let witness = dir.path().join("pid");
    let script = format!("echo $$ > {}", witness.display());
    runtime().block_on(async {
        let held = Held::spawn(&words(&["sh", "-c", &script])).unwrap();
        let pid = held.pid();
        assert!(Path::new(&format!("/proc/{pid}")).exists());
        std::thread::sleep(Duration::from_millis(100));
        assert!(!witness.exists());
        held.release().unwrap().wait().await.unwrap();
        assert_eq!(
            std::fs::read_to_string(&witness).unwrap().trim(),
            pid.to_string()
        );
    });
}

#[test]
fn a_held_command_that_is_dropped_ends_without_running() {
    let dir = tempfile::tempdir().unwrap();
    let witness = dir.path().join("ran");
    runtime().block_on(async {
        let held = Held::spawn(&words(&["touch", witness.to_str().unwrap()])).unwrap();
        let pid = held.pid();
        assert!(!ended(pid));
        drop(held);
        wait_until("the end of the held command", || ended(pid));
    });
    assert!(!witness.exists());
}

#[test]
fn a_held_command_that_is_killed_says_so() {
    let exit = runtime().block_on(async {
        let held = Held::spawn(&words(&["true"])).unwrap();
        // SAFETY: no pointers are passed; the process is the child made above.
        assert_eq!(unsafe { libc::kill(held.pid() as i32, libc::SIGKILL) }, 0);
        let pid = held.pid();
        wait_until("the end of the held command", || ended(pid));
        held.release().unwrap().wait().await.unwrap()
    });
    assert_eq!(
        exit,
        CommandExit {
            status: None,
            signal: Some(libc::SIGKILL)
        }
    );
}

#[test]
fn what_cannot_be_run_is_explained() {
    let none = refusal(&["no-such-program-\x1b[31m"]);
    assert!(none.starts_with(
        r"cannot run 'no-such-program-\u{1b}[31m': there is no such program in PATH, which is /"
    ));
    assert_eq!(
        refusal(&["/no/such/program"]),
        "cannot run '/no/such/program': there is no such file, or the interpreter that it names \
         does not exist"
    );
    assert!(refusal(&["/etc"]).starts_with("cannot run '/etc': it is not permitted"));
}

/// Not a test of its own: the process that the next test runs and that dies.
#[test]
#[ignore = "run by a_held_command_dies_with_memtrace"]
fn holder_that_is_killed() {
    let Ok(witness) = std::env::var("MEMTRACE_TEST_WITNESS") else {
        return;
    };
    runtime().block_on(async {
        let held = Held::spawn(&words(&["touch", &witness])).unwrap();
        println!("\nheld {}", held.pid());
        // SAFETY: no pointers are passed; the process is this one.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        held.release().unwrap();
    });
}

#[test]
fn a_held_command_dies_with_memtrace() {
    let dir = tempfile::tempdir().unwrap();
    let witness = dir.path().join("ran");
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "--nocapture",
            "command::tests::holder_that_is_killed",
        ])
        .env("MEMTRACE_TEST_WITNESS", &witness)
        .stderr(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.signal(), Some(libc::SIGKILL));
    let printed = String::from_utf8(output.stdout).unwrap();
    let pid = printed
        .lines()
        .find_map(|line| line.strip_prefix("held "))
        .unwrap();
    let pid: u32 = pid.parse().unwrap();
    wait_until("the end of the held command", || ended(pid));
    assert!(!witness.exists());
}
