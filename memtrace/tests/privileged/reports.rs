//! Reports that cannot be written: known before the trace where they can be, saved where not.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{Fixture, Report, privileged, requires, tool, trace};

/// Makes a file system in the folder `full`, of a page that is taken.
const FULL: &str = "mkdir -p full && mount -t tmpfs -o size=4k none full && echo x > full/x &&";

/// Traces a program that ends at once: what is said on standard error, and the exit status.
/// `setup` is what a shell does before, in a mount namespace of its own.
fn traced(folder: &Path, setup: &str, arguments: &str) -> (String, Option<i32>) {
    let memtrace = trace::path().display().to_string();
    let script =
        format!("{setup} exec {memtrace} --unwind off --python off {arguments} -- sh -c '(:)'");
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", &script])
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .expect("unshare runs");
    let errors = String::from_utf8(output.stderr).expect("UTF-8");
    (errors, output.status.code())
}

/// Where a profile was saved, and the profile.
fn saved(errors: &str) -> (PathBuf, Report) {
    let path = errors
        .lines()
        .find_map(|line| line.split_once("the whole profile, as "));
    let path = PathBuf::from(path.unwrap_or_else(|| panic!("{errors}")).1);
    let bytes = std::fs::read(&path).expect("it is there");
    assert_eq!(bytes[..2], [0x1f, 0x8b], "it is compressed");
    (path, Report::read_bytes(&bytes))
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

#[test]
fn a_report_that_does_not_fit_is_saved_beside() {
    requires!(privileged());
    requires!(tool("unshare"));
    let folder = folder();
    // Neither in the file's own directory, which is full, nor as far as the temporary one.
    let (errors, status) = traced(folder.path(), FULL, "-o full/report.txt");
    assert_eq!(status, Some(2), "{errors}");
    assert!(
        errors.contains("cannot write the report to 'full/report.txt': No space"),
        "{errors}"
    );
    let (path, report) = saved(&errors);
    assert_eq!(path.parent(), Some(folder.path()));
    assert!(report.0.totals.copied_pages > 0);
    let exit = report.0.command_exit.expect("the command ended");
    assert_eq!(exit.status, Some(0));
}

#[test]
fn a_report_that_standard_output_does_not_take_is_saved_beside() {
    requires!(privileged());
    requires!(tool("unshare"));
    let folder = folder();
    let (errors, status) = traced(folder.path(), FULL, "-f json > full/report.json");
    assert_eq!(status, Some(2), "{errors}");
    assert!(
        errors.contains("cannot write the report to standard output"),
        "{errors}"
    );
    let (path, _) = saved(&errors);
    assert_eq!(path.parent(), Some(folder.path()));
    // A reader that has seen enough is another thing.
    let (errors, status) = traced(folder.path(), "mkfifo p && (true < p &) &&", "-f json > p");
    assert_eq!(status, Some(0), "{errors}");
    assert!(!errors.contains("cannot write"), "{errors}");
}

#[test]
fn what_cannot_be_written_is_refused_before_the_trace() {
    requires!(privileged());
    requires!(tool("unshare"));
    let folder = folder();
    let long = format!("-o {}.json", "n".repeat(300));
    for (setup, arguments, found) in [
        ("", long.as_str(), "the name has 305 bytes"),
        (
            "mkfifo p.txt &&",
            "-o p.txt",
            "a pipe that nobody reads from",
        ),
        ("", "> /dev/full", "it accepts nothing: No space left"),
        (
            "ln -s /dev/full f.txt &&",
            "-o f.txt",
            "it accepts nothing: No space left",
        ),
        (
            "touch m.txt n.txt && mount --bind n.txt m.txt &&",
            "-o m.txt",
            "something is mounted there",
        ),
    ] {
        let (errors, status) = traced(folder.path(), setup, arguments);
        assert_eq!(status, Some(2), "{errors}");
        assert!(
            errors.contains(found) && errors.contains("remedy:"),
            "{errors}"
        );
        assert!(!errors.contains("tracing"), "{errors}");
    }
}

#[test]
fn a_compressed_report_and_a_pipe_have_the_whole_profile() {
    requires!(privileged());
    requires!(tool("unshare"));
    let folder = folder();
    let setup = "mkfifo p.json && (cat p.json > copy.json &) &&";
    // The reader must be there first.
    let setup = format!("{setup} sleep 0.2 &&");
    let arguments = "-o a.json.gz -o p.json -f json.gz > b.json.gz";
    let (errors, status) = traced(folder.path(), &setup, arguments);
    assert_eq!(status, Some(0), "{errors}");
    let pages = |name: &str| {
        let path = folder.path().join(name);
        let read = || Report::read_bytes(&std::fs::read(&path).expect(name));
        read().0.totals.copied_pages
    };
    let copied = pages("a.json.gz");
    assert!(copied > 0);
    assert_eq!((pages("b.json.gz"), pages("copy.json")), (copied, copied));
}

#[test]
fn a_report_that_is_replaced_stays_its_owners() {
    let fixture = requires!(Fixture::start(&["fork-child", "--pages", "10"]));
    let folder = folder();
    let path = folder.path().join("report.json");
    std::fs::write(&path, "old").expect("a file");
    std::os::unix::fs::chown(&path, Some(12_345), Some(54_321)).expect("root may do so");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("so");
    let status = Command::new(trace::path())
        .args([
            "--duration",
            "200ms",
            "--pid",
            &fixture.pid.to_string(),
            "--output",
        ])
        .arg(&path)
        .output()
        .expect("memtrace runs")
        .status;
    assert!(status.success(), "{status}");
    let metadata = std::fs::metadata(&path).expect("it is there");
    Report::read(&std::fs::read_to_string(&path).expect("a report"));
    assert_eq!((metadata.uid(), metadata.gid()), (12_345, 54_321));
    assert_eq!(metadata.mode() & 0o7777, 0o600);
}
