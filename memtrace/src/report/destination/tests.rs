use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::process::Command;

use anyhow::bail;

use super::*;

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

fn pipe_at(path: &Path) {
    rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
}

/// Opens it for reading, without waiting for a writer.
fn reader(path: &Path) -> File {
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_NONBLOCK);
    options.open(path).unwrap()
}

/// Text that fills a pipe.
fn much() -> Vec<u8> {
    vec![b'x'; 1 << 20]
}

#[test]
fn trying_leaves_what_is_there_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report.json");
    let open = |path: &Path| Destination::open(path, true).unwrap();
    assert!(matches!(open(&path), Destination::File(_)));
    assert_eq!(names(dir.path()), Vec::<String>::new());
    fs::write(&path, "old").unwrap();
    let before = fs::metadata(&path).unwrap();
    assert!(matches!(open(&path), Destination::File(_)));
    let after = fs::metadata(&path).unwrap();
    assert_eq!(
        (before.ino(), before.mtime_nsec()),
        (after.ino(), after.mtime_nsec())
    );
    // A link to nowhere, to itself, and to a file.
    for target in ["missing", "link", "report.json"] {
        let link = dir.path().join("link");
        symlink(target, &link).unwrap();
        assert!(matches!(open(&link), Destination::File(_)));
        fs::remove_file(&link).unwrap();
    }
    assert_eq!(names(dir.path()), ["report.json"]);
    assert!(matches!(
        open(Path::new("/dev/null")),
        Destination::Special(_)
    ));
}

#[test]
fn what_cannot_be_written_is_known_beforehand() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let refused = |path: &Path| Destination::open(path, true).map(drop).unwrap_err();
    fs::write(at("file"), "").unwrap();
    pipe_at(&at("pipe.txt"));
    let _socket = UnixListener::bind(at("socket.txt")).unwrap();
    assert!(matches!(
        refused(&at("no/report.txt")),
        Refusal::NoDirectory
    ));
    assert!(matches!(
        refused(&at("file/report.txt")),
        Refusal::NotADirectory
    ));
    assert!(matches!(refused(dir.path()), Refusal::IsDirectory));
    assert!(matches!(refused(&at("pipe.txt")), Refusal::NoReader));
    assert!(matches!(refused(&at("socket.txt")), Refusal::Socket));
    let long = "n".repeat(301) + ".txt";
    assert!(matches!(refused(&at(&long)), Refusal::NameTooLong(305)));
    assert!(Destination::open(&at(&long[50..]), true).is_ok());
    let full = refused(Path::new("/dev/full"));
    assert!(matches!(full, Refusal::AcceptsNothing(_)), "{full:?}");
    symlink("/dev/full", at("link.txt")).unwrap();
    assert!(matches!(
        refused(&at("link.txt")),
        Refusal::AcceptsNothing(_)
    ));
    let mut all = names(dir.path());
    all.sort();
    assert_eq!(all, ["file", "link.txt", "pipe.txt", "socket.txt"]);
}

#[test]
fn attributes_that_forbid_replacing_are_known_beforehand() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report.txt");
    let nested = dir.path().join("nested");
    fs::write(&path, "").unwrap();
    fs::create_dir(&nested).unwrap();
    let attribute = |change: &str, path: &Path| {
        let status = Command::new("chattr").arg(change).arg(path).status();
        status.is_ok_and(|status| status.success())
    };
    if !attribute("+i", &path) {
        let why = "attributes cannot be set: not root, or a file system without them, or no chattr";
        return crate::skipped::skipped(why);
    }
    let immutable = Destination::open(&path, true);
    assert!(attribute("-i", &path) && attribute("+a", &path));
    let append_only = Destination::open(&path, true);
    assert!(attribute("-a", &path) && attribute("+a", &nested));
    let directory = Destination::open(&nested.join("report.txt"), true);
    assert!(attribute("-a", &nested));
    assert!(
        matches!(immutable, Err(Refusal::Immutable)),
        "{immutable:?}"
    );
    assert!(
        matches!(append_only, Err(Refusal::AppendOnly)),
        "{append_only:?}"
    );
    assert!(
        matches!(directory, Err(Refusal::AppendOnlyDirectory)),
        "{directory:?}"
    );
    assert_eq!(names(&nested), Vec::<String>::new());
}

#[test]
fn a_file_of_another_user_in_a_shared_directory_is_known_beforehand() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report.txt");
    fs::write(&path, "").unwrap();
    let looked_at = |path: &Path, (uid, mode): (u32, u16)| {
        let statx = rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::BASIC_STATS);
        let mut statx = statx.unwrap();
        (statx.stx_uid, statx.stx_mode) = (uid, mode);
        statx
    };
    let own = rustix::process::geteuid().as_raw();
    let check = |file, around, owns_all| {
        let (file, around) = (looked_at(&path, file), looked_at(dir.path(), around));
        check_replaceable(&file, &around, owns_all)
    };
    let (other, sticky) = (own + 1, libc::S_ISVTX as u16 | 0o777);
    let refused = check((other, 0o644), (other, sticky), false);
    assert!(matches!(refused, Err(Refusal::NotOwned)));
    check((other, 0o644), (other, sticky), true).unwrap();
    check((other, 0o644), (own, sticky), false).unwrap();
    check((own, 0o644), (other, sticky), false).unwrap();
    check((other, 0o644), (other, 0o777), false).unwrap();
}

#[test]
fn a_pipe_with_a_reader_is_written_to() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipe.txt");
    pipe_at(&path);
    let mut reader = reader(&path);
    let destination = Destination::open(&path, true).unwrap();
    // What is put in its place later is left alone.
    fs::rename(&path, dir.path().join("moved.txt")).unwrap();
    fs::write(&path, "mine").unwrap();
    destination
        .write(&mut |out| Ok(out.write_all(b"report")?))
        .unwrap();
    drop(destination);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "report");
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    assert!(!fs::metadata(&path).unwrap().file_type().is_fifo());
}

#[test]
fn a_reader_that_does_not_read_is_not_waited_for_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipe.txt");
    pipe_at(&path);
    let _reader = reader(&path);
    let Ok(Destination::Special(pipe)) = Destination::open(&path, true) else {
        panic!("it is a pipe");
    };
    let start = Instant::now();
    let patience = Duration::from_millis(50);
    let error = write_special(&pipe, patience, &mut |out| Ok(out.write_all(&much())?));
    let text = format!("{:#}", error.unwrap_err());
    assert!(text.contains("nobody has read from it"), "{text}");
    let waited = start.elapsed();
    assert!(
        (patience..Duration::from_secs(10)).contains(&waited),
        "{waited:?}"
    );
}

#[test]
fn a_reader_that_has_seen_enough_is_not_an_error_and_one_that_has_seen_nothing_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipe.txt");
    pipe_at(&path);
    let mut enough = reader(&path);
    let destination = Destination::open(&path, true).unwrap();
    let thread = std::thread::spawn(move || {
        let start = Instant::now();
        let mut some = [0; 100];
        while !matches!(enough.read(&mut some), Ok(1..)) {
            assert!(start.elapsed() < Duration::from_secs(10));
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let write_much =
        |destination: &Destination| destination.write(&mut |out| Ok(out.write_all(&much())?));
    write_much(&destination).unwrap();
    thread.join().unwrap();

    let none = reader(&path);
    let destination = Destination::open(&path, true).unwrap();
    drop(none);
    let error = write_much(&destination).unwrap_err();
    assert!(format!("{error:#}").contains("Broken pipe"), "{error:#}");
}

#[test]
fn an_error_of_a_report_is_not_taken_for_a_closed_pipe() {
    let destination = Destination::open(Path::new("/dev/null"), true).unwrap();
    let error = destination.write(&mut |out| {
        out.write_all(b"half")?;
        bail!("no more")
    });
    assert_eq!(error.unwrap_err().to_string(), "no more");
}
