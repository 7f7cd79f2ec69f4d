use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;

use super::*;
use crate::elf::made::{self, MadeContent, MadeSection};
use crate::process::modules::{MappedFile, Modules};

/// Modules of files that are asked for together, in this order; and which were done first, by their
/// places in it.
fn order(files: &[File]) -> Vec<usize> {
    let mut modules = Modules::new();
    let (jobs, todo) = mpsc::channel();
    let (results, mut done) = results::unbounded_channel();
    let mut ids = Vec::new();
    for file in files {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let module = modules.see(&MappedFile {
            pid: u32::MAX,
            range: (0, 0x1000),
            executable: true,
            device: (0, 1),
            inode: file.metadata().unwrap().ino(),
            path: path.as_bytes(),
        });
        ids.push(module.id());
        let again = false;
        jobs.send(Job { module, again }).unwrap();
    }
    drop(jobs);
    run(&todo, &results, &AtomicUsize::new(0));
    let place = |built: &Built| ids.iter().position(|&id| id == built.module);
    std::iter::from_fn(|| done.try_recv().ok())
        .map(|built| {
            assert!(built.table.is_ok(), "{:?}", built.table.err());
            place(&built).unwrap()
        })
        .collect()
}

/// `.eh_frame` of zeros, which has no functions.
fn of_size(size: usize) -> File {
    made::file(
        0,
        &[made::plain(".eh_frame", MadeContent::Bytes(vec![0; size]))],
    )
}

#[test]
fn a_small_file_does_not_wait_for_large_ones_with_many_sections() {
    let large = || made::file_of_endless_names(8191, 1 << 20);
    let mut files: Vec<_> = std::iter::repeat_with(large).take(40).collect();
    files.push(of_size(1000));
    let began = Instant::now();
    let order = order(&files);
    assert_eq!(order[0], 40);
    assert_eq!(order[1..], (0..40).collect::<Vec<_>>());
    // Each took a second and more.
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn what_must_be_built_waits_by_what_it_turned_out_to_be() {
    let contents = vec![0; 4 << 20];
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(&contents).unwrap();
    let header = [1_u64, contents.len() as u64, 8]
        .map(u64::to_ne_bytes)
        .concat();
    let swells = made::file(
        0,
        &[MadeSection {
            name: ".eh_frame",
            flags: 2 | 1 << 11,
            content: MadeContent::Bytes([header, encoder.finish().unwrap()].concat()),
        }],
    );
    let honest = of_size(500_000);
    assert!(swells.metadata().unwrap().len() < honest.metadata().unwrap().len());
    assert_eq!(order(&[swells, honest]), [1, 0]);
}

#[test]
fn after_much_was_spent_files_get_little_and_then_nothing() {
    let mut worker = Worker::default();
    assert!(worker.budget().unwrap().spend(MAX_BYTES));
    worker.bytes = ALL.1 + 1;
    let small = worker.budget().unwrap();
    assert!(small.spend(SMALL.1) && !small.spend(1));
    worker.time = 2 * ALL.0 + Duration::from_secs(1);
    assert!(worker.budget().is_err());
}
