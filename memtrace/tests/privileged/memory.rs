//! Memory beside its causes: what processes share and have for themselves, where that came from, what
//! they are there for, and when it happened.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use memtrace::profile::{Process, Role, RoleKind, Timeline};

use crate::support::{Redis, Report, Trace, eventually, privileged, requires, signal, tool};

/// Debian's own, which the tests' other programs find first.
const PYTHON: &str = "/usr/bin/python3";

/// Three children read objects of their parent, a part after the other.
const WALKS: &str = "
import gc, os, time
objects = [{'n': n, 's': 'text %d' % n} for n in range(200000)]
pids = []
for child in range(3):
    pid = os.fork()
    if pid == 0:
        time.sleep(0.3)
        for part in range(4):
            for one in objects[part * 50000:(part + 1) * 50000]:
                one['s']
            time.sleep(0.7)
        os._exit(0)
    pids.append(pid)
for pid in pids:
    os.waitpid(pid, 0)
";

/// Four generations of three workers; each copies 500 pages.
const CHURN: &str = "
import ctypes, mmap, os, time
PAGE = 4096
area = mmap.mmap(-1, 600 * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for page in range(600):
    area[page * PAGE] = 1
for generation in range(4):
    pids = []
    for worker in range(3):
        pid = os.fork()
        if pid == 0:
            for page in range(500):
                area[page * PAGE] = 2
            time.sleep(0.2)
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
";

/// A worker that has copied most of what it shared before anybody looks.
const WORN: &str = "
import mmap, os, sys, time
PAGE = 4096
area = mmap.mmap(-1, 8000 * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for page in range(8000):
    area[page * PAGE] = 1
pid = os.fork()
if pid == 0:
    for page in range(6000):
        area[page * PAGE] = 2
    print('worn', flush=True)
    time.sleep(60)
    os._exit(0)
os.waitpid(pid, 0)
";

fn traced(program: &str) -> Report {
    Trace::with(["--sample", "200ms", "--", PYTHON, "-c", program]).report()
}

fn role(report: &Report, kind: RoleKind) -> &Role {
    let roles = &report.0.roles;
    let role = roles.iter().find(|role| role.kind == kind);
    role.unwrap_or_else(|| panic!("no {kind:?} in {roles:?}"))
}

fn timeline(report: &Report) -> &Timeline {
    report.0.timeline.as_ref().expect("there is a timeline")
}

/// Whether this kernel announces the end of a process while its memory is there.
fn tells_of_ends(report: &Report) -> bool {
    let mut version = report.0.host.kernel.split(['.', '-']);
    let mut number = || {
        version
            .next()
            .and_then(|it| it.parse::<u32>().ok())
            .unwrap_or(0)
    };
    (number(), number()) >= (6, 16)
}

#[test]
fn private_memory_of_workers_that_read_is_explained() {
    requires!(privileged());
    let report = traced(WALKS);
    let workers = role(&report, RoleKind::Worker);
    assert_eq!(
        (workers.processes, workers.generations, workers.ended),
        (3, 1, 3)
    );
    assert_eq!(workers.forked, 3);
    let growth = workers.growth.expect("memory was looked at");
    assert!(growth.private > 30 << 20, "{growth:?}");
    assert!(growth.unexplained * 100 <= growth.private * 3, "{growth:?}");
    assert!(growth.copied * 10 > growth.private * 9, "{growth:?}");
    let pace = workers.pace.expect("they copied enough");
    assert!(
        pace.half_ms >= 300 && pace.half_ms <= pace.most_ms,
        "{pace:?}"
    );
    assert!(pace.most_ms < 30_000, "{pace:?}");
    for process in report
        .0
        .processes
        .iter()
        .filter(|it| it.role.as_ref() == Some(&workers.id))
    {
        is_accounted(process, tells_of_ends(&report));
    }
    let master = role(&report, RoleKind::Master);
    assert_eq!(master.processes, 1);
    let timeline = timeline(&report);
    let copied: u64 = timeline.copied().iter().sum();
    assert_eq!(copied, report.0.totals.copied_bytes);
    assert_eq!(timeline.forks.iter().sum::<u64>(), 3);
    let line = timeline.by_role.iter().find(|line| line.role == workers.id);
    let shared: Vec<u64> = line
        .into_iter()
        .flat_map(|it| &it.shared)
        .flatten()
        .copied()
        .collect();
    let (most, last) = (shared.iter().max().unwrap(), shared.last().unwrap());
    assert!(last * 3 < most * 2, "{shared:?}");
}

/// The figures of a worker that lived for seconds and read all the time.
fn is_accounted(process: &Process, tells_of_ends: bool) {
    let memory = process.memory.as_ref().expect("it lived long enough");
    let (start, end) = (&memory.start, &memory.end);
    let known = "smaps_rollup was read";
    let both = start.shared.expect(known) + start.private.expect(known);
    assert_eq!(both, start.rss.expect(known));
    assert!(end.shared < start.shared, "{memory:?}");
    assert!(memory.samples.len() >= 2, "{memory:?}");
    assert!(start.vsz >= start.rss && memory.start_s < memory.end_s);
    assert_eq!(memory.at_exit.is_some(), tells_of_ends, "{memory:?}");
    if let Some(at_exit) = memory.at_exit {
        let anonymous = end.anonymous.expect(known);
        // The kernel's counts lag by some pages for each processor.
        let slack = 4 << 20;
        assert!(at_exit.anonymous + slack > anonymous, "{memory:?}");
        assert!(at_exit.anonymous < anonymous + slack, "{memory:?}");
    }
    assert!(process.copying_s > Some(0.0));
    assert_eq!(
        process.cpu_s.is_some_and(|cpu| cpu > 0.0),
        tells_of_ends,
        "{process:?}"
    );
}

#[test]
fn workers_that_come_and_go_are_generations() {
    requires!(privileged());
    let report = traced(CHURN);
    let workers = role(&report, RoleKind::Worker);
    assert_eq!(
        (workers.processes, workers.generations),
        (12, 4),
        "{workers:?}"
    );
    assert_eq!((workers.forked, workers.ended), (12, 12));
    assert!(workers.copied_pages >= 12 * 500, "{workers:?}");
    // Besides the 500, each copies some of the interpreter's own.
    let page = report.0.host.page_size;
    let median = workers.median_bytes / page;
    assert!((500..700).contains(&median), "{workers:?}");
    assert_eq!(timeline(&report).exits.iter().sum::<u64>(), 13);
}

/// Ends with the test.
struct Worn(Child);

impl Drop for Worn {
    fn drop(&mut self) {
        let children = format!("/proc/{0}/task/{0}/children", self.0.id());
        let children = std::fs::read_to_string(children).unwrap_or_default();
        for child in children
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok())
        {
            signal(child, libc::SIGKILL);
        }
        let _ = self.0.wait();
    }
}

#[test]
fn what_had_been_lost_before_the_trace_is_said() {
    requires!(privileged());
    let mut command = Command::new(PYTHON);
    command.args(["-c", WORN]).stdout(Stdio::piped());
    let mut worn = Worn(command.spawn().expect("it runs"));
    let mut said = [0; 5];
    let output = worn.0.stdout.as_mut().expect("it is piped");
    std::io::Read::read_exact(output, &mut said).expect("it says when it is worn");
    let report = Trace::with(["--duration", "700ms", "--pid", &worn.0.id().to_string()]).report();
    let workers = role(&report, RoleKind::Worker);
    assert_eq!((workers.processes, workers.forked), (1, 0));
    let worker = report
        .0
        .processes
        .iter()
        .find(|it| it.role.as_ref() == Some(&workers.id));
    let memory = worker.and_then(|worker| worker.memory.as_ref());
    let private = memory.and_then(|memory| memory.start.private);
    assert!(
        private >= Some(6000 * report.0.host.page_size),
        "{memory:?}"
    );
    assert!(
        memory.is_some_and(|memory| !memory.mappings.is_empty()),
        "{memory:?}"
    );
}

/// Minor and major faults of a process, from its stat.
fn minor_faults(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    let field = fields.split_whitespace().nth(7).expect("minflt");
    field.parse().expect("a number")
}

#[test]
fn redis_pays_for_what_its_child_saves() {
    requires!(privileged());
    let mut redis = Redis::start(requires!(tool("redis-server")));
    redis.ask("DEBUG POPULATE 200000 key 1000", "+OK");
    let trace = Trace::with(["--sample", "200ms", "--pid", &redis.pid().to_string()]);
    redis.ask("CONFIG SET rdb-key-save-delay 20", "+OK");
    redis.ask("BGSAVE", "+Background");
    let before = minor_faults(redis.pid());
    for key in (0..200_000).step_by(8) {
        redis.ask(&format!("SETRANGE key:{key} 0 x"), ":1000");
    }
    let faults = minor_faults(redis.pid()) - before;
    redis.ask("CONFIG SET rdb-key-save-delay 0", "+OK");
    let log = eventually("redis has saved", || {
        Some(redis.log()).filter(|log| log.contains("Background saving terminated with success"))
    });
    std::thread::sleep(Duration::from_millis(300));
    let report = trace.finish();
    let server = report.process(redis.pid());
    let page = report.0.host.page_size;
    assert!(
        server.copied_bytes > 50 << 20,
        "{} bytes",
        server.copied_bytes
    );
    let near = |a: u64, b: u64| a.abs_diff(b) * 20 <= a.max(b);
    assert!(
        near(server.copied_pages, faults),
        "{} copied, {faults} faults",
        server.copied_pages
    );
    // `Fork CoW for RDB: current 123 MB, peak 123 MB, average 99 MB`, of the child's private memory.
    let said = log
        .lines()
        .rev()
        .find_map(|line| line.split_once("Fork CoW for RDB: current "));
    let said = said.and_then(|(_, rest)| rest.split(' ').next()?.parse::<u64>().ok());
    let megabytes = said.expect("the log has it");
    let child = report
        .0
        .processes
        .iter()
        .find(|it| it.ppid == redis.pid())
        .expect("a child");
    let private = server.copied_bytes + child.copied_bytes;
    assert!(
        near(private >> 20, megabytes),
        "{private} bytes, {megabytes} MB, page {page}"
    );
    let (master, worker) = (
        role(&report, RoleKind::Master),
        role(&report, RoleKind::Worker),
    );
    assert!(
        master.copied_bytes > worker.copied_bytes,
        "{master:?} {worker:?}"
    );
}
