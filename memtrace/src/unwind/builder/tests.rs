use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::time::Instant;

use super::worker::Task;
use super::*;
use crate::elf::made::{self, MadeContent, MadeSection};
use crate::process::modules::{MappedFile, Modules};
use crate::unwind::sections;

fn seen(modules: &mut Modules, file: &File) -> Job {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let module = modules.see(&MappedFile {
        pid: u32::MAX,
        range: (0, 0x1000),
        executable: true,
        device: (0, 1),
        inode: file.metadata().unwrap().ino(),
        path: path.as_bytes(),
    });
    Job {
        module,
        again: false,
        asked: Instant::now(),
    }
}

/// Which of the files that are asked for together, in this order, are done first.
fn order(files: &[File]) -> Vec<usize> {
    let mut modules = Modules::looking_for(sections::wanted());
    let (jobs, todo) = mpsc::channel();
    let (results, mut done) = results::unbounded_channel();
    let mut ids = Vec::new();
    let asked = Instant::now();
    for file in files {
        let job = Job {
            asked,
            ..seen(&mut modules, file)
        };
        ids.push(job.module.id());
        assert!(jobs.send(job).is_ok());
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

#[test]
fn a_file_that_must_be_built_is_put_back_while_others_wait() {
    let mut modules = Modules::looking_for(sections::wanted());
    let files = [of_size(1 << 20), of_size(1 << 20)];
    let [first, second] = files.each_ref().map(|file| seen(&mut modules, file));
    let mut worker = Worker::without_cache();
    let Outcome::Read(read) = worker.work(Task::Look(first), true) else {
        panic!("it is not put back");
    };
    let Outcome::Built(built) = worker.work(Task::Build(read), true) else {
        panic!("it is put back twice");
    };
    let (identity, table) = built.table.unwrap();
    assert!(table.is_some());
    // Its table is known, although that is only found by reading.
    let Outcome::Built(built) = worker.work(Task::Look(second), true) else {
        panic!("it is put back");
    };
    assert_eq!(built.table, Ok((identity, None)));
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

/// A small file of which four megabytes become a section.
fn that_swells() -> File {
    let contents = vec![0; 4 << 20];
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(&contents).unwrap();
    let header = [1_u64, contents.len() as u64, 8]
        .map(u64::to_ne_bytes)
        .concat();
    let section = MadeSection {
        name: ".eh_frame",
        flags: 2 | 1 << 11,
        content: MadeContent::Bytes([header, encoder.finish().unwrap()].concat()),
    };
    made::file(0, &[section])
}

#[test]
fn a_small_file_that_swells_is_not_a_small_one() {
    let mut files: Vec<_> = std::iter::repeat_with(that_swells).take(5).collect();
    files.push(of_size(500_000));
    let size = |file: &File| file.metadata().unwrap().len();
    assert!(size(&files[0]) < size(&files[5]));
    assert_eq!(order(&files)[0], 5);
}
