//! Real servers on loopback under a bounded load: stacks from the framework to the handler, causes,
//! and counts, whether memtrace attaches before the load or in the middle of it.

mod client;
mod start;

use memtrace::profile::{CauseName, RoleKind, StackPages};

use self::client::Load;
use self::start::Server;
use crate::python::{Copies, python_frames};
use crate::support::interpreters::{tools, workloads};
use crate::support::{Python, Report, Trace, Why, privileged, requires};

/// The function that reads, and the comment at its line.
const HANDLER: &str = "answer";

/// When memtrace attaches.
#[derive(Clone, Copy)]
enum Attach {
    BeforeTheLoad,
    UnderLoad,
}

/// Frames that stacks of a server have, leaf first, by the last part of their names; others may be
/// between.
type Frames = &'static [&'static str];

const UWSGI: Frames = &["answer", "respond", "application"];
const GUNICORN: Frames = &[
    "answer",
    "respond",
    "application",
    "handle_request",
    "handle",
    "run",
    "init_process",
    "spawn_worker",
    "run",
    "<module>",
];
const POOL: Frames = &[
    "answer",
    "respond",
    "mapstar",
    "worker",
    "run",
    "_bootstrap",
    "_launch",
    "start",
    "Pool",
    "pool",
    "main",
    "<module>",
];
const ASYNCIO: Frames = &[
    "answer",
    "respond",
    "handle",
    "_run",
    "_run_once",
    "run_forever",
    "run_until_complete",
    "run",
    "run_asyncio",
    "forked",
    "main",
    "<module>",
];
const THREADS: Frames = &[
    "answer",
    "respond",
    "handle",
    "run",
    "_worker",
    "run",
    "_bootstrap_inner",
    "_bootstrap",
];

/// Two tests of a server.
macro_rules! server_tests {
    ($($name:ident: $start:expr, $frames:expr;)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn attached_before_the_load() {
                on($start, $frames, Attach::BeforeTheLoad);
            }

            #[test]
            fn attached_under_load() {
                on($start, $frames, Attach::UnderLoad);
            }
        }
    )*};
}

server_tests! {
    uwsgi: uwsgi, UWSGI;
    gunicorn: gunicorn, GUNICORN;
    pool_3_8: || of_the_library("3.8", "pool"), POOL;
    pool_debian: || of_the_library("debian", "pool"), POOL;
    pool_3_13: || of_the_library("3.13", "pool"), POOL;
    asyncio_3_8: || of_the_library("3.8", "asyncio"), ASYNCIO;
    asyncio_debian: || of_the_library("debian", "asyncio"), ASYNCIO;
    asyncio_3_13: || of_the_library("3.13", "asyncio"), ASYNCIO;
    asyncio_sid: || of_the_library("sid", "asyncio"), ASYNCIO;
    threads_3_8: || of_the_library("3.8", "threads"), THREADS;
    threads_debian: || of_the_library("debian", "threads"), THREADS;
    threads_3_13: || of_the_library("3.13", "threads"), THREADS;
}

/// uWSGI with so many workers.
fn uwsgi_with(workers: &str, arguments: &[&str]) -> Result<Server, Why> {
    let program = tools()?.join("uwsgi");
    Ok(Server::on_free_port(|port| {
        let mut command = std::process::Command::new(program);
        command
            .args(["--http-socket", &format!("127.0.0.1:{port}")])
            .args(["--master", "--processes", workers, "--need-app"])
            .args(["--die-on-term", "--disable-logging", "--pythonpath"])
            .arg(workloads())
            .args(arguments);
        // The environment whose packages and library it uses.
        if let Some(folder) = tools().ok().as_deref().and_then(std::path::Path::parent) {
            command.arg("--virtualenv").arg(folder);
        }
        command
    }))
}

fn uwsgi() -> Result<Server, Why> {
    uwsgi_with("4", &["--no-orphans", "--wsgi-file", "app.py"])
}

/// uWSGI with one worker, which it replaces when that has more than 64 MB.
fn uwsgi_that_replaces() -> Result<Server, Why> {
    let limit = ["--reload-on-rss", "64", "--min-worker-lifetime", "0"];
    let application = ["--worker-reload-mercy", "1", "--wsgi-file", "grows.py"];
    uwsgi_with("1", &[limit, application].concat())
}

#[test]
fn workers_that_a_limit_replaces_are_generations() {
    requires!(privileged());
    let server = requires!(uwsgi_that_replaces());
    let trace = Trace::attach(server.pid);
    let mut pids = Vec::new();
    // About 15 requests a worker.
    for _ in 0..2000 {
        if let Some(pid) = client::who_answers(server.port)
            && pids.last() != Some(&pid)
        {
            pids.push(pid);
        }
        if pids.len() > 20 {
            break;
        }
    }
    let report = trace.finish();
    drop(server);
    assert_eq!(pids.len(), 21, "{pids:?}");
    report.is_lossless();
    let roles = &report.0.roles;
    let workers = roles.iter().find(|role| role.kind == RoleKind::Worker);
    let workers = workers.expect("there are workers");
    assert_eq!(
        (workers.processes, workers.generations),
        (21, 21),
        "{workers:?}"
    );
    assert_eq!((workers.forked, workers.ended), (20, 20), "{workers:?}");
    let growth = workers.growth.expect("memory was looked at");
    assert!(growth.new > growth.copied, "{growth:?}");
}

fn gunicorn() -> Result<Server, Why> {
    let program = tools()?.join("gunicorn");
    Ok(Server::on_free_port(|port| {
        let mut command = std::process::Command::new(program);
        command
            .args(["--preload", "--workers", "4", "--log-level", "warning"])
            .args(["--bind", &format!("127.0.0.1:{port}"), "app:application"]);
        command
    }))
}

fn of_the_library(python: &str, kind: &str) -> Result<Server, Why> {
    Server::that_says_its_port(&mut Python::find(python)?.command("server.py", &[kind]))
}

/// Starts a server, sends it a bounded load, and compares the report with what it answered.
fn on(start: impl FnOnce() -> Result<Server, Why>, frames: Frames, attach: Attach) {
    requires!(privileged());
    let server = requires!(start());
    let (report, load) = match attach {
        Attach::BeforeTheLoad => {
            let trace = Trace::attach(server.pid);
            let mut load = Load::start(server.port);
            load.attached();
            load.wait();
            (trace.finish(), load)
        }
        Attach::UnderLoad => {
            let mut load = Load::start(server.port);
            load.wait_for_some();
            load.attaching();
            let trace = Trace::attach(server.pid);
            load.attached();
            load.wait();
            (trace.finish(), load)
        }
    };
    drop(server);
    check(&report, &load, frames);
}

fn check(report: &Report, load: &Load, frames: Frames) {
    report.is_lossless();
    let workers = load.workers();
    assert!(!workers.is_empty());
    let copies = Copies::of(report, workers);
    copies.have_causes();
    let inside = copies.in_function(HANDLER);
    let (least, most) = load.pages();
    let pages = inside.all();
    assert!(
        pages as f64 >= 0.97 * least as f64 && pages as f64 <= 1.03 * most as f64 + 20.0,
        "{pages} pages in {HANDLER}, in truth {least} to {most}\n{}",
        copies.shown()
    );
    assert!(
        least > 0,
        "nothing was left to copy once memtrace was attached"
    );
    let line = handlers_line();
    inside.mostly(0.98, "the handler's line", |site| {
        site.site.line == Some(line)
            && site
                .site
                .file
                .as_deref()
                .is_some_and(|file| file.ends_with("app.py"))
    });
    inside.mostly(0.97, "reference counts", |site| {
        site.cause == CauseName::Refcount
    });
    inside.mostly(0.97, "of strings", |site| {
        site.object_type.as_deref() == Some("str")
    });

    let stacks = || inside.sites.iter().flat_map(|(site, _)| &site.stacks);
    let all: u64 = stacks().map(|stack| stack.pages).sum();
    let whole: u64 = stacks()
        .filter(|stack| has(stack, frames))
        .map(|stack| stack.pages)
        .sum();
    assert!(
        whole as f64 >= 0.99 * all as f64,
        "{whole} of {all} pages have {frames:?}; one that has not:\n{}",
        stacks()
            .find(|stack| !has(stack, frames))
            .map_or(String::new(), shown)
    );
}

/// Whether the stack has these frames in this order, from its first to its last in Python.
fn has(stack: &StackPages, expected: Frames) -> bool {
    let mut left = expected.iter();
    let mut next = left.next();
    let mut last = "";
    for frame in python_frames(&stack.frames) {
        last = frame.function.rsplit('.').next().unwrap_or("");
        if next == Some(&last) {
            next = left.next();
        }
    }
    next.is_none() && Some(&last) == expected.last() && !stack.truncated
}

fn shown(stack: &StackPages) -> String {
    let lines = stack.frames.iter().map(|frame| {
        format!(
            "  {:?} {} {:?}:{:?}",
            frame.language, frame.function, frame.file, frame.line
        )
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Where the application reads.
fn handlers_line() -> u32 {
    let source = std::fs::read_to_string(workloads().join("app.py")).expect("the application");
    let marker = format!("# {HANDLER}");
    let line = source.lines().position(|line| line.ends_with(&marker));
    line.expect("a line is marked") as u32 + 1
}
