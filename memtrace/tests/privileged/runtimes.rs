//! Runtimes that are recognised and not read: that they are named, and that their collectors are.

use std::path::Path;

use memtrace::profile::{CauseEvidence, CauseName, Process};

use crate::support::{Report, Trace, Why, is_installed, privileged, requires, tool};

/// Children wait a little before they end, so that what identifies them is read while they live.
/// Before the fork, the unwind tables of so large a library are waited for: a memtrace that was not
/// optimised needs a second or two for them where its cache does not have them yet.
const RUBY: &str = "
objects = (1 .. 200_000).map { |n| [n, \"number #{n}\"] }
GC.start
sleep 3
pid = fork do
  2.times { GC.start }
  sleep 0.2
  exit!
end
Process.wait pid
";

/// The collector looks at what may be garbage: objects whose count went down.
const PHP: &str = r"
class Node { public $next; public $list; }
$all = []; $last = null;
for ($n = 0; $n < 60000; $n++) {
    $node = new Node; $node->next = $last; $node->list = [$n, [$n]]; $all[] = $last = $node;
}
$pid = pcntl_fork();
if ($pid == 0) {
    gc_collect_cycles();
    usleep(200000);
    posix_kill(getmypid(), 9);
}
pcntl_waitpid($pid, $status);
";

const PERL: &str = r"
my @objects = map { { number => $_ } } 1 .. 20000;
my $pid = fork // die;
if ($pid == 0) {
    sub touch { my $object = $_[0]; return }
    touch($_) for @objects;
    select undef, undef, undef, 0.2;
    require POSIX;
    POSIX::_exit(0);
}
waitpid $pid, 0;
";

const LUAJIT: &str = r#"
local ffi = require "ffi"
ffi.cdef "int fork(void); int waitpid(int, int *, int); int usleep(unsigned); void _exit(int);"
local objects = {}
for n = 1, 200000 do objects[n] = { number = n, name = "number " .. n } end
collectgarbage()
local pid = ffi.C.fork()
if pid == 0 then
    collectgarbage()
    ffi.C.usleep(200000)
    ffi.C._exit(0)
end
ffi.C.waitpid(pid, nil, 0)
"#;

const PYPY: &str = r#"
import gc, os, time
objects = [{"number": n, "name": "number %d" % n} for n in range(100000)]
gc.collect()
# A memtrace that was not optimised needs a second or two for the unwind tables of so large a library.
time.sleep(3)
pid = os.fork()
if pid == 0:
    gc.collect()
    time.sleep(0.2)
    os._exit(0)
os.waitpid(pid, 0)
"#;

/// A server that has `LuaJIT` as a module of its own: the master makes objects, and its worker collects.
const NGINX: &str = r#"
load_module /usr/lib/nginx/modules/ndk_http_module.so;
load_module /usr/lib/nginx/modules/ngx_http_lua_module.so;
daemon off;
worker_processes 1;
error_log stderr;
pid nginx.pid;
events {}
http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    init_by_lua_block {
        objects = {}
        for n = 1, 200000 do objects[n] = { number = n } end
        collectgarbage()
        -- A memtrace that was not optimised needs a second for the unwind tables.
        os.execute("sleep 3")
    }
    init_worker_by_lua_block { collectgarbage() }
}
"#;

const R: &str = r"
objects <- lapply(1:100000, function(n) list(number = n))
invisible(gc())
job <- parallel::mcparallel({ gc(); Sys.sleep(0.2) })
invisible(parallel::mccollect(job))
";

/// A program that is too large to be installed for a test.
fn large(name: &str, package: &str) -> Result<(), Why> {
    if is_installed(name) {
        Ok(())
    } else {
        let why = format!("{name} is not installed (apt-get install {package})");
        Err(Why::Unavailable(why))
    }
}

/// nginx, with the modules that its configuration loads.
fn nginx_with_lua() -> Result<(), Why> {
    large("nginx", "nginx-light")?;
    if Path::new("/usr/lib/nginx/modules/ngx_http_lua_module.so").exists() {
        Ok(())
    } else {
        let why = "nginx has no Lua (apt-get install libnginx-mod-http-lua)";
        Err(Why::Unavailable(why.to_owned()))
    }
}

/// Traces a program from its start.
fn traced(program: &str, arguments: &[&str]) -> Report {
    let command = ["--", program];
    Trace::with(command.iter().chain(arguments)).report()
}

/// The process that was forked and copied, which has the same runtime as its parent: this one.
fn forked<'report>(report: &'report Report, runtime: &str) -> &'report Process {
    let processes = report.0.processes.iter();
    let child = processes.max_by_key(|process| process.copied_pages);
    let child = child.expect("the child was traced");
    assert!(child.forked_at_s.is_some(), "{child:?}");
    assert!(child.copied_pages > 500, "{} pages", child.copied_pages);
    for process in [child, report.process(child.ppid)] {
        let names: Vec<_> = process.runtimes.iter().map(|seen| &seen.name).collect();
        assert_eq!(names, [runtime], "{process:?}");
        assert_eq!(process.interpreter, None);
    }
    child
}

/// The share of a process's copies that a function says are a collector's.
fn collected(report: &Report, process: &Process) -> f64 {
    let sites = report.0.call_sites.iter().filter(|site| {
        site.cause == CauseName::Gc && site.evidence == Some(CauseEvidence::Function)
    });
    let pages = sites.filter_map(|site| site.processes.get(&process.pid));
    pages.sum::<u64>() as f64 / process.copied_pages as f64
}

#[test]
fn ruby_is_named_and_its_collector_told() {
    requires!(privileged());
    requires!(tool("ruby"));
    let report = traced("ruby", &["-e", RUBY]);
    let child = forked(&report, "Ruby");
    let version = child.runtimes[0].version.as_deref();
    let own = tool("ruby")
        .expect("it ran")
        .args(["-e", "print RUBY_VERSION"])
        .output();
    let own = own.expect("it ran").stdout;
    assert_eq!(version, std::str::from_utf8(&own).ok());
    let share = collected(&report, child);
    assert!(share > 0.5, "{share}: {:?}", report.0.warnings);
}

#[test]
fn php_is_named_and_its_collector_told() {
    requires!(privileged());
    requires!(tool("php"));
    let report = traced("php", &["-r", PHP]);
    let share = collected(&report, forked(&report, "PHP"));
    assert!(share > 0.8, "{share}");
}

#[test]
fn perl_is_named_and_has_no_collector() {
    requires!(privileged());
    requires!(tool("perl"));
    let report = traced("perl", &["-e", PERL]);
    let child = forked(&report, "Perl");
    assert_eq!(child.by_cause.gc, 0);
    // What counts its references does more than that, so only the instruction tells.
    let by_function = |evidence| evidence == Some(CauseEvidence::Function);
    let sites = report.0.call_sites.iter();
    let mut counts = sites.filter(|site| site.cause == CauseName::Refcount);
    assert!(counts.all(|site| !by_function(site.evidence)));
}

#[test]
fn luajit_is_named_and_its_collector_told() {
    requires!(privileged());
    requires!(tool("luajit"));
    let report = traced("luajit", &["-e", LUAJIT]);
    let share = collected(&report, forked(&report, "LuaJIT"));
    assert!(share > 0.8, "{share}");
}

#[test]
fn luajit_in_nginx_is_named_and_its_collector_told() {
    requires!(privileged());
    requires!(nginx_with_lua());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().display().to_string();
    let configuration = folder.path().join("nginx.conf");
    std::fs::write(&configuration, NGINX).expect("the folder is writable");
    let configuration = configuration.display().to_string();
    // Asked to quit, it ends its worker first.
    let arguments = [
        "-s",
        "QUIT",
        "6",
        "nginx",
        "-p",
        &path,
        "-c",
        &configuration,
    ];
    let report = traced("timeout", &arguments);
    let worker = forked(&report, "LuaJIT");
    let share = collected(&report, worker);
    assert!(share > 0.8, "{share}");
}

#[test]
fn pypy_is_named_and_its_collector_told_without_a_name() {
    requires!(privileged());
    requires!(large("pypy3", "pypy3"));
    let report = traced("pypy3", &["-c", PYPY]);
    let share = collected(&report, forked(&report, "PyPy"));
    assert!(share > 0.8, "{share}");
}

#[test]
fn r_is_named_and_its_collector_told() {
    requires!(privileged());
    requires!(large("Rscript", "r-base-core"));
    let report = traced("Rscript", &["-e", R]);
    let share = collected(&report, forked(&report, "R"));
    assert!(share > 0.8, "{share}");
}

#[test]
fn lua_is_named_also_where_python_is_not_looked_for() {
    requires!(privileged());
    requires!(tool("lua5.4"));
    let code = "local t = {} for n = 1, 1e6 do t[n] = { n } end os.execute('sleep 0.3')";
    for python in ["auto", "off"] {
        let arguments = ["--python", python, "--", "lua5.4", "-e", code];
        let Report(profile) = Trace::with(arguments).report();
        let lua = profile.processes.first().expect("it was traced");
        let [runtime] = &lua.runtimes[..] else {
            panic!("{python}: {lua:?}");
        };
        assert_eq!(runtime.name, "Lua");
        let version = runtime.version.as_deref();
        assert!(
            version.is_some_and(|it| it.starts_with("5.4.")),
            "{version:?}"
        );
        // What it started is another program.
        let others = profile.processes.iter().skip(1);
        let mut others = others.filter(|process| process.comm != lua.comm);
        assert!(others.all(|process| process.runtimes.is_empty()));
    }
}
