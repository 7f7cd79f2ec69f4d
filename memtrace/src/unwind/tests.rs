//! A small world for tests: files with code, processes that run them, and tables that no BPF
//! program reads.

mod hand_over;

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::mpsc;

use memtrace_common::process::{Counters, NO_SLOT, ProcessSlot, SLOT_LIVE};
use memtrace_common::unwind::{
    CFA_GAP, CFA_SP, MAPPINGS_LEN, MAX_MAPPINGS, Mapping as CodeMapping, NO_ROWS_NONE,
    NO_ROWS_ROOM, NO_ROWS_YET, Row, SetHandle,
};
use tempfile::TempDir;

use super::builder::{Builder, Job};
use super::files::TableState;
use super::ranges::QUARANTINE;
use super::table::{Refused, RowSource, UnwindTable};
use super::*;
use crate::options::Unwind;
use crate::process::modules::Modules;
use crate::profile::UnwoundBy;

/// Bytes of each mapping.
const SIZE: u64 = 0x2000;

struct World {
    tables: Tables,
    unwinder: Unwinder,
    modules: Modules,
    /// What the thread would build.
    jobs: mpsc::Receiver<Job>,
    folder: TempDir,
}

/// Code of a process: numbers of files, and the addresses that they are mapped at, ascending.
type Code<'code> = &'code [(usize, u64)];

impl World {
    /// With `files` files, and room for `rows` rows.
    fn new(files: usize, rows: u32) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        for number in 0..files {
            fs::write(folder.path().join(format!("file{number}")), program())
                .expect("a temporary file");
        }
        let (builder, jobs, _) = Builder::with_ends();
        let library = Library::with_builder(Unwind::Auto, Some(builder));
        let tables = Tables::in_memory(rows);
        Self {
            unwinder: Unwinder::new(library, tables.clone()),
            tables,
            modules: Modules::new(),
            jobs,
            folder,
        }
    }

    fn space(&mut self, code: Code<'_>) -> AddressSpace {
        let mut maps = String::new();
        for &(file, start) in code {
            let path = self.folder.path().join(format!("file{file}"));
            let inode = fs::metadata(&path).expect("the file is there").ino();
            let end = start + SIZE;
            let path = path.display();
            // Writing to a string does not fail.
            let _ = writeln!(maps, "{start:x}-{end:x} r-xp 00000000 fe:00 {inode} {path}");
            let _ = writeln!(maps, "{end:x}-{:x} rw-p 00000000 00:00 0 ", end + SIZE);
        }
        AddressSpace::of_lines(&maps, &mut self.modules)
    }

    /// A process, in the slot of the same number, has this code from now on.
    fn run(&mut self, process: ProcessId, code: Code<'_>) {
        let space = self.space(code);
        let at = self.seat(process);
        self.unwinder.assign(at, process, &space);
    }

    /// The seat of a process, in the slot of the same number, whose records have all been read.
    fn seat(&self, process: ProcessId) -> Seat {
        let slot = process as u32;
        let generation = self.tables.processes.generation(slot);
        Seat {
            slot,
            generation: generation.unwrap_or_default(),
        }
    }

    /// The next file that a table was asked for.
    fn asked(&self) -> Option<(Job, usize)> {
        let job = self.jobs.try_recv().ok()?;
        let path = job.module.path();
        let number = path.rsplit_once("file").expect("a file of ours").1;
        let number = number.parse().expect("a file of ours");
        Some((job, number))
    }

    fn build(&mut self, rows: impl Fn(usize) -> u32) {
        while let Some((job, number)) = self.asked() {
            self.unwinder.table_built(built(&job, number, rows(number)));
        }
    }

    fn handle(&self, process: ProcessId) -> SetHandle {
        let slot = self.tables.processes.read(process);
        SetHandle(slot.expect("the table has the slot").mappings)
    }

    fn mappings(&self, process: ProcessId) -> Vec<CodeMapping> {
        let handle = self.handle(process);
        let first = handle.first() as usize;
        (first..first + handle.len() as usize)
            .map(|index| {
                self.tables
                    .mappings
                    .read(index)
                    .expect("it is in the table")
            })
            .collect()
    }

    /// First row or reason, and number of rows, of each mapping of a process.
    fn rows(&self, process: ProcessId) -> Vec<(u32, u32)> {
        let mappings = self.mappings(process);
        mappings.iter().map(|of| (of.first, of.rows)).collect()
    }

    fn written(&self, first: u32, len: u32) -> Vec<Row> {
        let row = |index| self.tables.rows.read(index as usize);
        (first..first + len)
            .map(|index| row(index).expect("it is in the array"))
            .collect()
    }

    /// Time passes, and all records are read. What was given back before is free then.
    fn wait(&mut self) {
        self.unwinder
            .sets
            .all_records_read(Instant::now() + QUARANTINE);
    }
}

/// An ELF file with one segment of code.
fn program() -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    // Type, machine, version, entry, program headers, section headers, flags.
    bytes.extend([3, 0, 62, 0, 1, 0, 0, 0]);
    bytes.extend([0_u64, 64, 0].map(u64::to_le_bytes).as_flattened());
    bytes.extend([0; 4]);
    bytes.extend(
        [64_u16, 56, 1, 64, 0, 0]
            .map(u16::to_le_bytes)
            .as_flattened(),
    );
    // PT_LOAD, readable and executable.
    bytes.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    bytes.extend(
        [0, 0, 0, SIZE, SIZE, 0x1000]
            .map(u64::to_le_bytes)
            .as_flattened(),
    );
    bytes
}

/// The table of a file; each file's rows are its own.
fn table(number: usize, rows: u32) -> UnwindTable {
    let row = |index| Row {
        pc: 16 * index,
        cfa: if index == rows - 1 {
            CFA_GAP
        } else {
            (number as u16 + 1) << 3 | CFA_SP
        },
        fp: -16,
    };
    UnwindTable {
        rows: (0..rows).map(row).collect(),
        source: RowSource::EhFrame,
        ..UnwindTable::default()
    }
}

fn built(job: &Job, number: usize, rows: u32) -> Built {
    Built {
        module: job.module.id(),
        build_id: None,
        table: Ok(([number as u8; 32], Some(table(number, rows)))),
    }
}

fn refused(job: &Job) -> Built {
    Built {
        module: job.module.id(),
        build_id: None,
        table: Err(Refused("it is damaged".to_owned())),
    }
}

/// The slot of a process that was forked, or with [`NO_SLOT`] found.
fn entry(pid: u32, parent_slot: u32) -> ProcessSlot {
    ProcessSlot {
        state: SLOT_LIVE,
        threads: 1,
        pid,
        parent_pid: 1,
        parent_slot,
        execs: 0,
        forked_ns: u64::from(parent_slot != NO_SLOT),
        exited_ns: 0,
        start_boottime_ns: 1,
        interpreter: 0,
        mappings: 0,
        program: 0,
        comm: [0; 16],
        counters: Counters::ZERO,
        cpu_ns: 0,
        resident: [0; 4],
    }
}

#[test]
fn processes_with_the_same_code_share_a_set() {
    let mut world = World::new(3, 64);
    world.run(0, &[(0, 0x1_0000), (1, 0x2_0000)]);
    world.run(1, &[(0, 0x1_0000), (1, 0x2_0000)]);
    world.run(2, &[(0, 0x1_0000), (1, 0x3_0000)]);
    assert_eq!(world.handle(0), world.handle(1));
    assert_ne!(world.handle(0), world.handle(2));
    let ranges: Vec<_> = world
        .mappings(2)
        .iter()
        .map(|of| (of.start, of.end))
        .collect();
    assert_eq!(ranges, [(0x1_0000, 0x1_2000), (0x3_0000, 0x3_2000)]);
    // Each file is asked for once.
    let asked: Vec<_> = std::iter::from_fn(|| world.asked())
        .map(|(_, file)| file)
        .collect();
    assert_eq!(asked, [0, 1]);
}

#[test]
fn sets_that_wait_for_different_files_are_not_shared() {
    let mut world = World::new(2, 64);
    world.run(0, &[(0, 0x1_0000)]);
    world.run(1, &[(1, 0x1_0000)]);
    assert_eq!(world.mappings(0), world.mappings(1));
    assert_ne!(world.handle(0), world.handle(1));
    world.build(|file| 8 + file as u32);
    for process in [0, 1] {
        let (first, rows) = world.rows(process)[0];
        let expected = table(process, 8 + process as u32).rows;
        assert_eq!(world.written(first, rows), expected);
    }
}

#[test]
fn a_child_inherits_its_parents_set() {
    let mut world = World::new(2, 64);
    let mut processes = Processes::new();
    let parent = processes.add(0, &entry(u32::MAX, NO_SLOT));
    world.run(parent, &[(0, 0x1_0000)]);
    let child = processes.add(1, &entry(u32::MAX - 1, 0));
    world.unwinder.add(1, child, &processes);
    assert_eq!(world.handle(child), world.handle(parent));
    // It keeps that when the parent maps something more.
    world.run(parent, &[(0, 0x1_0000), (1, 0x2_0000)]);
    assert_eq!(world.mappings(child).len(), 1);
    assert_eq!(world.mappings(parent).len(), 2);
}

#[test]
fn the_range_of_a_set_is_free_a_while_after_its_last_member_left() {
    let mut world = World::new(5, 64);
    let code = |file| [(file, 0x1_0000)];
    world.run(0, &code(0));
    world.run(1, &code(0));
    let shared = world.handle(0);
    // A child of 1, the record of which is not read yet.
    world.tables.processes.set_mappings(2, 0, shared);
    let content = world.mappings(2);
    world.unwinder.ended(0);
    world.wait();
    world.run(3, &code(1));
    assert_ne!(world.handle(3).first(), shared.first(), "1 still has it");
    world.unwinder.ended(1);
    world.run(4, &code(2));
    assert_ne!(world.handle(4).first(), shared.first(), "2 may have it");
    assert_eq!(world.mappings(2), content);
    world.wait();
    world.run(5, &code(3));
    assert_eq!(world.handle(5).first(), shared.first());
    assert_ne!(world.handle(5), shared, "it is another set all the same");
}

#[test]
fn a_table_that_arrives_late_reaches_the_processes_that_wait_for_it() {
    let mut world = World::new(3, 64);
    let code = [(0, 0x1_0000), (1, 0x2_0000)];
    world.run(0, &code);
    world.run(1, &code);
    world.run(2, &[(2, 0x1_0000)]);
    assert_eq!(world.rows(0), [(NO_ROWS_YET, 0); 2]);
    let (before, other) = (world.handle(0), world.handle(2));
    let (job, number) = world.asked().expect("a table was asked for");
    world.unwinder.table_built(built(&job, number, 10));
    let [(first, len), waits] = world.rows(0)[..] else {
        panic!("there are two mappings")
    };
    assert_eq!((len, waits), (10, (NO_ROWS_YET, 0)));
    assert_eq!(world.written(first, len), table(0, 10).rows);
    assert_ne!(world.handle(0), before);
    assert_eq!(world.handle(1), world.handle(0));
    assert_eq!(world.handle(2), other, "it does not run that file");
    // The address of an instruction, less this, is what rows have.
    assert_eq!(world.mappings(0)[0].bias, 0x1_0000);
    // A child inherits the new set.
    let at = world.seat(3);
    assert!(world.unwinder.sets.inherit(at, 3, 0));
    assert_eq!(world.handle(3), world.handle(0));
}

#[test]
fn a_file_without_a_table_has_a_reason() {
    let mut world = World::new(3, 64);
    world.run(0, &[(0, 0x1_0000), (1, 0x2_0000), (2, 0x3_0000)]);
    let (job, _) = world.asked().unwrap();
    world.unwinder.table_built(refused(&job));
    let (job, _) = world.asked().unwrap();
    world.unwinder.table_built(Built {
        table: Ok(([1; 32], Some(UnwindTable::default()))),
        ..refused(&job)
    });
    assert_eq!(
        world.rows(0),
        [(NO_ROWS_NONE, 0), (NO_ROWS_NONE, 0), (NO_ROWS_YET, 0)]
    );
    let modules = world.unwinder.modules();
    let reasons: Vec<_> = modules
        .iter()
        .map(|module| (module.unwind, module.why.as_deref().unwrap_or_default()))
        .collect();
    assert_eq!(
        reasons,
        [
            (UnwoundBy::FramePointers, "it is damaged"),
            (UnwoundBy::FramePointers, "it has no unwind tables"),
            (
                UnwoundBy::Nothing,
                "its tables were not built when tracing ended"
            ),
        ]
    );
}

#[test]
fn files_with_the_same_table_have_it_once() {
    let mut world = World::new(2, 64);
    world.run(0, &[(0, 0x1_0000), (1, 0x2_0000)]);
    let (job, _) = world.asked().unwrap();
    world.unwinder.table_built(built(&job, 0, 40));
    let (job, _) = world.asked().unwrap();
    world.unwinder.table_built(Built {
        table: Ok(([0; 32], None)),
        ..refused(&job)
    });
    let rows = world.rows(0);
    assert_eq!(rows[0].1, 40);
    assert_eq!(rows[0], rows[1]);
}

#[test]
fn tables_that_had_to_give_way_are_built_again() {
    let mut world = World::new(2, 24);
    let code = |file| [(file, 0x1_0000)];
    world.run(0, &code(0));
    world.build(|_| 16);
    assert_eq!(world.rows(0), [(0, 16)]);
    world.run(1, &code(1));
    world.build(|_| 16);
    assert_eq!(world.rows(1), [(NO_ROWS_ROOM, 0)]);
    let why = world.unwinder.modules()[1].why.clone();
    assert_eq!(why.as_deref(), Some("there was no room for its tables"));
    world.unwinder.ended(0);
    // Now the first one gives way, and a while later the second one has its place.
    world.run(1, &code(1));
    assert_eq!(world.rows(1), [(NO_ROWS_ROOM, 0)]);
    world.wait();
    world.run(1, &code(1));
    assert_eq!(world.rows(1), [(0, 16)]);
    assert_eq!(world.written(0, 16), table(1, 16).rows);

    world.run(2, &code(0));
    assert_eq!(world.rows(2), [(NO_ROWS_YET, 0)]);
    let (job, number) = world.asked().expect("it is asked for");
    assert!(job.again && number == 0);
    world.unwinder.table_built(built(&job, number, 16));
    assert_eq!(
        world.rows(2),
        [(NO_ROWS_ROOM, 0)],
        "the other one is in use"
    );
    world.unwinder.ended(1);
    world.run(2, &code(0));
    world.wait();
    world.run(2, &code(0));
    assert_eq!(world.rows(2), [(0, 16)]);
    assert_eq!(world.written(0, 16), table(0, 16).rows);
}

#[test]
fn a_set_in_the_making_does_not_lose_its_own_tables() {
    let mut world = World::new(3, 24);
    let code = [(0, 0x1_0000), (1, 0x2_0000)];
    let space = world.space(&code);
    world.unwinder.library.prepare(&space);
    while let Some((job, number)) = world.asked() {
        world.unwinder.library.record(built(&job, number, 16));
    }
    // The second table has no room; what the first has is not in use by any set yet.
    world.run(0, &code);
    assert_eq!(world.rows(0), [(0, 16), (NO_ROWS_ROOM, 0)]);
    world.run(1, &[(2, 0x1_0000)]);
    world.wait();
    world.build(|_| 16);
    assert_eq!(world.written(0, 16), table(0, 16).rows);
}

#[test]
fn a_process_that_awaits_its_exec_has_no_set_before() {
    let mut world = World::new(0, 64);
    let pid = std::process::id();
    world.unwinder.library.await_exec(pid);
    let mut processes = Processes::new();
    let command = processes.add(0, &entry(pid, NO_SLOT));
    world.unwinder.add(0, command, &processes);
    assert_eq!(world.unwinder.sets.set_of(command), None);
    assert!(world.jobs.try_recv().is_err(), "no table is built for it");
    world.unwinder.execed(0, command, &processes);
    assert!(!world.handle(command).is_empty());
    assert!(world.jobs.try_recv().is_ok());
}

#[test]
fn what_needs_no_tables_starts_no_thread() {
    let mut world = World::new(1, 64);
    let space = world.space(&[(0, 0x1_0000)]);
    for mode in [Unwind::Off, Unwind::FramePointers] {
        let mut library = Library::new(mode);
        library.prepare(&space);
        library.wait(Duration::from_mins(1));
        assert_eq!(library.rows_wanted(), 1);
        assert_eq!(library.modules(), []);
        assert!(!is_exact(mode, StackEnd::Outermost));
    }
}

#[test]
fn there_is_room_for_twice_the_rows_that_were_prepared_and_more() {
    let mut world = World::new(2, 64);
    let space = world.space(&[(0, 0x1_0000), (1, 0x2_0000)]);
    let (builder, jobs, results) = Builder::with_ends();
    let mut library = Library::with_builder(Unwind::Dwarf, Some(builder));
    let least = library.rows_wanted();
    library.prepare(&space);
    for (number, job) in jobs.try_iter().enumerate() {
        assert!(results.send(built(&job, number, 1000)).is_ok());
    }
    library.wait(Duration::from_mins(1));
    assert_eq!(library.rows_wanted(), least + 2 * 2000);
    let module = space.mappings()[0].module().expect("it is of a file");
    assert!(matches!(library.table_of(module), TableState::Built(_)));
}

#[test]
fn the_mappings_of_starting_processes_and_of_parents_are_read_again() {
    let mut world = World::new(1, 64);
    let mut processes = Processes::new();
    let parent = processes.add(0, &entry(u32::MAX, NO_SLOT));
    let child = processes.add(1, &entry(u32::MAX - 1, 0));
    for process in [parent, child] {
        world.run(process, &[(0, 0x1_0000)]);
    }
    let now = Instant::now();
    let parents = HashSet::from_iter([(0, parent)]);
    let mut due = |after| world.unwinder.due(&processes, now + after);
    assert_eq!(due(Duration::ZERO), parents);
    assert_eq!(due(PARENTS_PAUSE / 2), HashSet::default());
    assert_eq!(due(PARENTS_PAUSE), parents);
    world.unwinder.watch_start(1, child);
    world.unwinder.watch_start(1, child);
    assert_eq!(world.unwinder.starting.len(), 1);
    let soon = now + PARENTS_PAUSE + Duration::from_millis(1);
    assert_eq!(
        world.unwinder.due(&processes, soon),
        HashSet::from_iter([(1, child)])
    );
    let late = Instant::now() + STARTING;
    assert_eq!(world.unwinder.due(&processes, late), parents);
}

#[test]
fn mappings_are_read_less_often_when_it_does_not_help() {
    let mut world = World::new(0, 64);
    let mut processes = Processes::new();
    let own = processes.add(0, &entry(std::process::id(), NO_SLOT));
    world.unwinder.met_unmapped_code(0, own, &mut processes);
    assert!(!world.handle(own).is_empty(), "it has a set now");
    let pause = |world: &World| world.unwinder.unmapped[&own];
    assert_eq!(pause(&world).next, 2 * FIRST_PAUSE, "it helped");
    let until = Instant::now() + Duration::from_mins(1);
    world.unwinder.unmapped.get_mut(&own).unwrap().until = until;
    world.unwinder.met_unmapped_code(0, own, &mut processes);
    assert_eq!(pause(&world).until, until, "it is too soon");
    for next in [4 * FIRST_PAUSE, 8 * FIRST_PAUSE] {
        world.unwinder.unmapped.get_mut(&own).unwrap().until = Instant::now();
        world.unwinder.met_unmapped_code(0, own, &mut processes);
        assert_eq!(pause(&world).next, next, "it did not help");
    }
    world.unwinder.ended(own);
    assert!(world.unwinder.unmapped.is_empty());
}

/// Made-up code at this many places.
fn made_code(mappings: u64, from: u64) -> String {
    let mut maps = String::new();
    for index in 0..mappings {
        let start = from + 0x2000 * index;
        // Writing to a string does not fail.
        let _ = writeln!(
            maps,
            "{start:x}-{:x} r-xp 00000000 00:00 0 ",
            start + 0x1000
        );
    }
    maps
}

#[test]
fn code_that_has_no_room_is_left_out() {
    let mut world = World::new(0, 64);
    let run = |world: &mut World, process: ProcessId| {
        let lines = made_code(u64::from(MAX_MAPPINGS) + 100, 0x1000 * process as u64);
        let space = AddressSpace::of_lines(&lines, &mut world.modules);
        let at = world.seat(process);
        world.unwinder.assign(at, process, &space);
        world.handle(process).len()
    };
    let sets = (MAPPINGS_LEN / MAX_MAPPINGS) as usize;
    for process in 0..sets {
        assert_eq!(run(&mut world, process), MAX_MAPPINGS);
    }
    assert_eq!(run(&mut world, sets), 0, "all of the table is in use");
    world.unwinder.ended(3);
    assert_eq!(run(&mut world, sets), 0);
    world.wait();
    assert_eq!(run(&mut world, sets), MAX_MAPPINGS);
}
