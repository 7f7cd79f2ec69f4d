//! What cannot be traced is refused at once, with a message, and leaves no file behind.

use std::process::Command;

use crate::support::{Fixture, privileged, requires, trace};

/// Runs memtrace, which must refuse with a message that holds each of `words`.
fn refused(arguments: &[&str], words: &[&str]) -> String {
    let message = trace::refused(arguments);
    for word in words {
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
    message
}

#[test]
fn a_pid_that_does_not_exist() {
    requires!(privileged());
    let mut child = Command::new("true").spawn().expect("true runs");
    child.wait().expect("it is a child");
    let pid = child.id().to_string();
    refused(&["--pid", &pid], &[&pid]);
}

#[test]
fn a_pid_beyond_all_pids() {
    requires!(privileged());
    refused(&["--pid", "4194305"], &["4194305"]);
}

#[test]
fn a_kernel_thread() {
    requires!(privileged());
    let name = std::fs::read_to_string("/proc/2/comm").unwrap_or_default();
    if name.trim() != "kthreadd" {
        let why = "process 2 is not a kernel thread here: this is a container";
        return crate::support::skip(&crate::support::Why::Unavailable(why.into()));
    }
    refused(&["--pid", "2"], &["2", "kernel thread"]);
}

#[test]
fn a_thread() {
    requires!(privileged());
    let (tell, told) = std::sync::mpsc::channel();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        // SAFETY: only asks for a number.
        tell.send(unsafe { libc::gettid() })
            .expect("the test listens");
        let _ = ended.recv();
    });
    let tid = told.recv().expect("the thread tells").to_string();
    // The remedy names the process that the thread belongs to.
    refused(
        &["--pid", &tid],
        &[&tid, "thread", &std::process::id().to_string()],
    );
    drop(end);
    thread.join().expect("the thread ends");
}

#[test]
fn an_output_in_a_folder_that_does_not_exist() {
    let fixture = requires!(Fixture::start(&["fork-child", "--pages", "10"]));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let missing = folder.path().join("missing");
    let output = missing.join("report.json").display().to_string();
    refused(
        &["--pid", &fixture.pid.to_string(), "--output", &output],
        &[&output],
    );
    assert!(!missing.exists());
    assert_eq!(
        std::fs::read_dir(folder.path())
            .expect("it is there")
            .count(),
        0
    );
}

#[test]
fn an_output_of_an_unknown_format() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("report.docx").display().to_string();
    refused(&["--pid", "1", "--output", &output], &["docx"]);
}

#[test]
fn a_command_that_does_not_exist() {
    requires!(privileged());
    let message = refused(
        &["--", "/no/such/program"],
        &["/no/such/program", "remedy:"],
    );
    // The kernel has nothing to do with it.
    assert!(!message.contains("kernel"), "{message}");
}

#[test]
fn a_script_whose_interpreter_does_not_exist() {
    requires!(privileged());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let script = folder.path().join("script");
    std::fs::write(&script, "#!/no/such/python3\n").expect("a file");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, mode).expect("it is the test's own");
    let script = script.display().to_string();
    let words = [
        script.as_str(),
        "its first line names /no/such/python3",
        "remedy:",
    ];
    refused(&["--", &script], &words);
}
