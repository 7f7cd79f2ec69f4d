use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;

use super::*;

/// This test program, running one of the tests below.
fn served_by(test: &'static str) -> Opener {
    Opener::command(move || {
        let mut command = Command::new("/proc/self/exe");
        let test = format!("process::opener::tests::{test}");
        command.args(["--ignored", "--exact", &test]);
        command
    })
}

fn is_asked() -> bool {
    let stdin = std::fs::read_link("/proc/self/fd/0").unwrap();
    stdin.to_string_lossy().starts_with("socket:")
}

#[test]
#[ignore = "not a test: the process that others start to open files"]
fn serves_the_others() {
    if is_asked() {
        let _ = serve();
    }
}

#[test]
#[ignore = "not a test: a process that others start, and that waits for ever"]
fn never_answers() {
    if is_asked() {
        child::begin().unwrap();
        exchange::ready(io::stdin().as_fd()).unwrap();
        loop {
            std::thread::park();
        }
    }
}

#[test]
#[ignore = "not a test: a process that others start, and that ends"]
fn ends_when_it_is_asked() {
    if is_asked() {
        exchange::ready(io::stdin().as_fd()).unwrap();
        let _ = exchange::next_question(io::stdin().as_fd());
        std::process::exit(0);
    }
}

fn refused<T: std::fmt::Debug>(answer: Result<T, NotOpened>) -> String {
    match answer.expect_err("it is not opened") {
        NotOpened::NotThere(errno) => panic!("it was not refused: {errno}"),
        why => why.in_words(),
    }
}

#[test]
fn files_are_opened_by_another_process() {
    let mut opener = served_by("serves_the_others");
    let exe = std::env::current_exe().unwrap();
    let inode = exe.metadata().unwrap().ino();
    let mapped = |inode| Which::Mapped {
        pid: u32::MAX,
        range: (0, 1),
        inode,
    };
    for _ in 0..3 {
        let file = opener
            .open(mapped(inode), exe.clone(), Some((8, 1)))
            .unwrap();
        assert_eq!(file.metadata().unwrap().ino(), inode);
        let flags = rustix::io::fcntl_getfd(&file).unwrap();
        assert_eq!(flags, rustix::io::FdFlags::CLOEXEC);
    }
    let another = opener.open(mapped(inode + 1), exe.clone(), Some((8, 1)));
    assert_eq!(another.unwrap_err(), NotOpened::NotThere(libc::ENOENT));
    let missing = opener.open(Which::Own, "/nowhere".into(), None);
    let missing = missing.unwrap_err();
    assert_eq!(missing, NotOpened::NotThere(libc::ENOENT));
    assert_eq!(missing.in_words(), "no such file or directory (2)");
    let device = opener.open(Which::Own, "/dev/zero".into(), None);
    assert_eq!(refused(device), "it is not a regular file");
    assert_eq!(opener.lost, 0);
}

#[test]
fn a_process_that_is_late_is_given_up_without_waiting_for_it() {
    let mut opener = served_by("never_answers");
    let mut open = |device| refused(opener.open(Which::Own, "/x".into(), Some(device)));
    let began = Instant::now();
    for _ in 0..MAX_LATE {
        assert_eq!(open((0, 7)), "its file system did not answer within 0.2 s");
    }
    assert_eq!(
        open((0, 7)),
        "its file system did not answer in time for other files"
    );
    let mut others = 0;
    while open((0, 8 + others)).ends_with("within 0.2 s") {
        others += 1;
    }
    assert!(others < MAX_LOST, "{others}");
    assert_eq!(
        open((0, 100)),
        "too many other files were not opened in time"
    );
    // Most of it is what this test program needs to start.
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn a_process_that_ends_is_replaced_and_not_held_against_a_file_system() {
    let mut opener = served_by("ends_when_it_is_asked");
    for _ in 0..3 {
        let answer = opener.open(Which::Own, "/x".into(), Some((0, 7)));
        assert_eq!(answer.unwrap_err(), NotOpened::NotThere(0));
    }
    assert_eq!((opener.lost, opener.devices[&(0, 7)].late), (3, 0));
    let mut opener = Opener::command(|| Command::new("/nonexistent"));
    let answer = opener.open(Which::Own, "/x".into(), None);
    assert_eq!(answer.unwrap_err(), NotOpened::NotThere(0));
}

#[test]
fn a_device_that_gave_files_is_still_served_when_others_were_late() {
    let exe = std::env::current_exe().unwrap();
    let mut opener = Opener::here();
    let own = |opener: &mut Opener, device| opener.open(Which::Own, exe.clone(), Some(device));
    own(&mut opener, (8, 1)).unwrap();
    opener.waited = MAX_WAIT;
    own(&mut opener, (8, 1)).unwrap();
    assert!(refused(own(&mut opener, (8, 2))).starts_with("too many"));
    opener.lost = 2 * MAX_LOST;
    assert!(refused(own(&mut opener, (8, 1))).starts_with("too many"));
}

#[test]
fn a_copy_is_whole_and_cannot_be_changed() {
    let mut file = tempfile::tempfile().unwrap();
    let content = b"contents".repeat(100_000);
    file.write_all(&content).unwrap();
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let reopen = || File::open(&path).unwrap();
    let size = content.len() as u64;
    let (mut copy, is_copy) = serve::copy(&reopen(), size).unwrap();
    assert!(is_copy);
    let mut copied = Vec::new();
    copy.read_to_end(&mut copied).unwrap();
    assert!(copied == content);
    assert!(copy.write_all(b"x").is_err());
    assert!(copy.set_len(0).is_err());
    let why = refused(serve::copy(&reopen(), size - 1));
    assert!(why.contains("too large"), "{why}");
}

#[test]
fn a_servant_ends_when_it_is_dropped() {
    let Place::Process(process) = served_by("never_answers").place else {
        panic!("it is a process");
    };
    let pid = process.running.as_ref().unwrap().servant.pid();
    let ended = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.is_err() || stat.is_ok_and(|stat| stat.contains(") Z "))
    };
    assert!(!ended());
    drop(process);
    let began = Instant::now();
    while !ended() {
        assert!(began.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn overlays_are_found_among_mounts() {
    let mounts = "24 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
31 24 0:45 / /var/lib/x/merged rw shared:5 master:1 - overlay overlay rw,lowerdir=/a
32 24 0:46 / /mnt/overlay rw - fuse overlay rw
33 24 0:47 / /a\\040-\\040overlay rw - tmpfs overlay rw
garbage
";
    assert_eq!(serve::overlays_of(mounts), [(0, 45)]);
}
