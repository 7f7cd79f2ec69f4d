//! Whatever happens in whatever order: what the BPF side finds by a process's handle is whole.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

const FILES: usize = 6;

/// Rows that there is room for, which is for about half of the files.
const ROOM: u32 = 64;

fn rows_of(file: usize) -> u32 {
    8 + 4 * file as u32
}

/// Which files a process maps, as bits, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Program {
    files: u8,
    place: u64,
}

impl Program {
    /// Files half of all apart are mapped at the same address, so only one of two is.
    fn code(self) -> Vec<(usize, u64)> {
        (0..FILES / 2)
            .filter_map(|at| {
                let maps = |file: &usize| self.files >> file & 1 == 1;
                let file = [at, at + FILES / 2].into_iter().find(maps)?;
                Some((file, 0x100_0000 * (self.place + 1) + 0x1_0000 * at as u64))
            })
            .collect()
    }
}

/// The files that [`Program::code`] may map at an address.
fn files_at(address: u64) -> [usize; 2] {
    let at = (address % 0x100_0000 / 0x1_0000) as usize;
    [at, at + FILES / 2]
}

/// What happens next.
#[derive(Clone, Copy, Debug)]
enum Step {
    Start(Program),
    Fork(Index),
    Exec(Index, Program),
    Exit(Index),
    /// Code is mapped, and memtrace finds that.
    Map(Index, Program),
    /// The loader reads a record.
    Read,
    /// A table arrives, of any that were asked for, or is refused.
    Table(Index, bool),
    /// All records are read, and a while passes.
    Rest,
}

fn program() -> impl Strategy<Value = Program> {
    (1_u8..1 << FILES, 0_u64..2).prop_map(|(files, place)| Program { files, place })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => program().prop_map(Step::Start),
        4 => any::<Index>().prop_map(Step::Fork),
        2 => (any::<Index>(), program()).prop_map(|(which, what)| Step::Exec(which, what)),
        3 => any::<Index>().prop_map(Step::Exit),
        3 => (any::<Index>(), program()).prop_map(|(which, what)| Step::Map(which, what)),
        6 => Just(Step::Read),
        6 => (any::<Index>(), prop::bool::weighted(0.9))
            .prop_map(|(which, good)| Step::Table(which, good)),
        2 => Just(Step::Rest),
    ]
}

/// A process as the kernel has it.
struct Live {
    id: ProcessId,
    program: Program,
    /// Whether the loader knows of it.
    is_known: bool,
    /// Whether the loader has given it a set for the program that it has.
    is_current: bool,
}

enum Record {
    Fork(ProcessId, ProcessId, Program),
    Exec(ProcessId, Program),
    Exit(ProcessId),
}

struct Scene {
    world: World,
    live: Vec<Live>,
    started: usize,
    records: VecDeque<Record>,
    asked: Vec<(Job, usize)>,
    /// What each handle led to when it was seen first.
    seen: HashMap<SetHandle, Vec<CodeMapping>>,
}

impl Scene {
    fn new() -> Self {
        Self {
            world: World::new(FILES, ROOM),
            live: Vec::new(),
            started: 0,
            records: VecDeque::new(),
            asked: Vec::new(),
            seen: HashMap::default(),
        }
    }

    fn start(&mut self, program: Program) -> ProcessId {
        let id = self.started;
        self.started += 1;
        self.live.push(Live {
            id,
            program,
            is_known: false,
            is_current: false,
        });
        id
    }

    /// The loader finds that a process has a program.
    fn run(&mut self, id: ProcessId, program: Program) {
        self.world.run(id, &program.code());
        if let Some(live) = self.live.iter_mut().find(|live| live.id == id) {
            live.is_known = true;
            live.is_current = live.program == program;
        }
    }

    fn take(&mut self, step: Step) {
        let live = self.live.len();
        match step {
            Step::Start(program) => {
                let id = self.start(program);
                self.run(id, program);
            }
            Step::Fork(which) if live > 0 => {
                let Live { id, program, .. } = self.live[which.index(live)];
                let child = self.start(program);
                let handle = self.world.handle(id);
                self.set_handle(child, handle.inherited());
                self.records.push_back(Record::Fork(child, id, program));
            }
            Step::Exec(which, program) if live > 0 => {
                let live = &mut self.live[which.index(live)];
                live.program = program;
                live.is_current = false;
                self.records.push_back(Record::Exec(live.id, program));
                let id = live.id;
                self.world.tables.processes.exec(id as u32, 0);
            }
            Step::Exit(which) if live > 0 => {
                let ended = self.live.swap_remove(which.index(live));
                self.records.push_back(Record::Exit(ended.id));
            }
            Step::Map(which, program) if live > 0 => {
                let live = &mut self.live[which.index(live)];
                live.program = program;
                live.is_current = false;
                if live.is_known {
                    let id = live.id;
                    self.run(id, program);
                }
            }
            Step::Fork(_) | Step::Exec(..) | Step::Exit(_) | Step::Map(..) => {}
            Step::Read => self.read(),
            Step::Table(which, good) => self.table(which, good),
            Step::Rest => {
                while !self.records.is_empty() {
                    self.read();
                }
                self.world.wait();
            }
        }
    }

    /// Does what the BPF side does at fork.
    fn set_handle(&self, process: ProcessId, handle: SetHandle) {
        let processes = &self.world.tables.processes;
        processes.set_mappings(process as u32, 0, handle);
    }

    /// Reads a record, as a trace does.
    fn read(&mut self) {
        match self.records.pop_front() {
            Some(Record::Fork(child, parent, program)) => {
                let at = self.world.seat(child);
                if !self.world.unwinder.sets.inherit(at, child, parent) {
                    self.run(child, program);
                    return;
                }
                let parent = self.live.iter().find(|live| live.id == parent);
                // It gets what the parent has now, which the parent may have mapped since.
                let inherited = parent.filter(|parent| parent.is_current);
                let inherited = inherited.map(|parent| parent.program);
                if let Some(child) = self.live.iter_mut().find(|live| live.id == child) {
                    child.is_known = true;
                    child.is_current = inherited == Some(child.program);
                }
            }
            Some(Record::Exec(process, program)) => {
                self.world.unwinder.sets.leave(process);
                self.run(process, program);
            }
            Some(Record::Exit(process)) => self.world.unwinder.ended(process),
            None => {}
        }
    }

    fn table(&mut self, which: Index, good: bool) {
        let asked = std::iter::from_fn(|| self.world.asked());
        self.asked.extend(asked);
        if self.asked.is_empty() {
            return;
        }
        let (job, file) = self.asked.swap_remove(which.index(self.asked.len()));
        let built = if good {
            built(&job, file, rows_of(file))
        } else {
            refused(&job)
        };
        self.world.unwinder.table_built(built);
    }

    /// Looks at all that the BPF side could find now.
    fn check(&mut self) -> Result<(), TestCaseError> {
        for live in &self.live {
            let handle = self.world.handle(live.id);
            let content = self.world.mappings(live.id);
            prop_assert_eq!(handle.is_empty(), content.is_empty());
            prop_assert!(content.iter().all(|of| of.start < of.end), "{:?}", content);
            prop_assert!(content.is_sorted_by(|of, next| of.end <= next.start));
            let first = self.seen.entry(handle).or_insert_with(|| content.clone());
            prop_assert_eq!(&*first, &content, "a set has changed");
            for of in &content {
                self.check_rows(of, &files_at(of.start))?;
            }
            if live.is_current {
                let code = live.program.code();
                prop_assert_eq!(content.len(), code.len());
                for (of, (file, start)) in content.iter().zip(code) {
                    prop_assert_eq!(of.start, start);
                    self.check_rows(of, &[file])?;
                }
            }
        }
        Ok(())
    }

    /// A mapping has the rows of one of these files, or a reason.
    fn check_rows(&self, of: &CodeMapping, files: &[usize]) -> Result<(), TestCaseError> {
        if of.rows == 0 {
            prop_assert!([NO_ROWS_NONE, NO_ROWS_YET, NO_ROWS_ROOM].contains(&of.first));
            return Ok(());
        }
        let rows = self.world.written(of.first, of.rows);
        let is_own = |&file: &usize| rows == table(file, rows_of(file)).rows;
        prop_assert!(files.iter().any(is_own), "{:?} has {:?}", of, rows);
        Ok(())
    }

    /// Reads all records and builds all tables. Then each process has its own code, and no table is
    /// waited for.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..3 {
            self.take(Step::Rest);
            for at in 0..self.live.len() {
                let Live { id, program, .. } = self.live[at];
                self.run(id, program);
            }
            self.world.build(rows_of);
            for (job, file) in std::mem::take(&mut self.asked) {
                let built = built(&job, file, rows_of(file));
                self.world.unwinder.table_built(built);
            }
            self.check()?;
        }
        for live in &self.live {
            prop_assert!(live.is_current);
            let rows = self.world.rows(live.id);
            prop_assert!(!rows.contains(&(NO_ROWS_YET, 0)), "{:?}", rows);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_handle_always_leads_to_a_set_that_is_written(
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let mut scene = Scene::new();
        for step in steps {
            scene.take(step);
            scene.check()?;
        }
        scene.settle()?;
    }
}

/// The BPF side looks at any moment, also in the middle of a change.
#[test]
fn whoever_looks_meanwhile_finds_whole_sets() {
    const KINDS: u64 = 8;
    let mut world = World::new(0, 8);
    // The first address says which kind a set is, and so how many mappings it has.
    let spaces: Vec<_> = (0..KINDS)
        .map(|kind| {
            let lines = made_code(4 + kind, 0x100_0000 * (kind + 1));
            AddressSpace::of_lines(&lines, &mut world.modules)
        })
        .collect();
    let tables = world.tables.clone();
    let has_ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looker = scope.spawn(|| {
            let mut looks = 0_u64;
            let handle = || SetHandle(tables.processes.read(0).unwrap().mappings);
            while !has_ended.load(Ordering::Relaxed) {
                let before = handle();
                let first = before.first() as usize;
                let content: Vec<_> = (first..first + before.len() as usize)
                    .map(|index| tables.mappings.read(index).unwrap())
                    .collect();
                // As long as a process has a set, that is not changed.
                if before.is_empty() || handle() != before {
                    continue;
                }
                let kind = content[0].start / 0x100_0000 - 1;
                assert_eq!(content.len() as u64, 4 + kind);
                for (index, of) in content.iter().enumerate() {
                    assert_eq!(of.start, content[0].start + 0x2000 * index as u64);
                }
                looks += 1;
            }
            looks
        });
        for round in 0..20_000 {
            let space = &spaces[round * 5 % spaces.len()];
            let at = world.seat(0);
            world.unwinder.assign(at, 0, space);
            world.wait();
            if looker.is_finished() {
                break;
            }
        }
        has_ended.store(true, Ordering::Relaxed);
        assert!(looker.join().expect("all sets were whole") > 0);
    });
}
