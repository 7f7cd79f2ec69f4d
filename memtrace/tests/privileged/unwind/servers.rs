//! Distributions' own programs, which have no frame pointers and no symbols: their stacks lead to
//! the start of the program or of a thread.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::stacks_of;
use crate::support::{Report, Trace, eventually, privileged, requires, tool};

/// The least part of copies whose stacks must be whole.
const MOST: f64 = 0.99;

/// A script in Python that reads its objects in a child.
const PYTHON: &str = "
import os, sys, time
things = [{'name': str(n), 'value': [n]} for n in range(50000)]
print('ready', flush=True)
sys.stdin.readline()
def read(rows):
    total = 0
    for row in rows:
        total += len(row['name']) + row['value'][0]
    return total
child = os.fork()
if child == 0:
    read(things)
    sorted(things, key=lambda row: row['name'])
    time.sleep(0.3)
    os._exit(0)
os.waitpid(child, 0)
";

/// A script in Ruby that writes to its objects in a child, collects garbage, and uses a thread.
const RUBY: &str = "
things = (0...50000).map { |n| { name: n.to_s, value: [n] } }
puts 'ready'
$stdout.flush
$stdin.gets
child = fork do
  things.each { |row| row[:value][0] += 1 }
  GC.start
  Thread.new { things.each { |row| row[:name] << 'x' } }.join
  sleep 0.3
  exit! 0
end
Process.wait child
";

/// A child that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn script(program: &str, arguments: &[&str]) -> Report {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut input = child.stdin.take().expect("it is piped");
    let output = child.stdout.take().expect("it is piped");
    let mut running = Running(child);
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line).expect("a line");
    assert_eq!(line.trim(), "ready");
    let trace = Trace::attach(running.0.id());
    input.write_all(b"go\n").expect("it listens");
    assert!(running.0.wait().expect("it is a child").success());
    trace.report()
}

/// Nearly all copies have a stack that leads to where the program or the thread began.
fn leads_to_the_start(report: &Report, least: u64) {
    let (mut all, mut whole) = (0, 0);
    let mut others = Vec::new();
    for (stack, pages) in stacks_of(report) {
        all += pages;
        let outermost = stack.frames.last().expect("a stack has frames");
        let module = outermost.module.as_deref().unwrap_or_default();
        // A thread's first function is unnamed where there are no symbols.
        let starts = ["_start", "clone", "__clone3", "clone3", "start_thread"];
        let is_start = starts.contains(&&*outermost.function)
            || outermost.unknown.is_some() && (module.contains("libc") || module.contains("/bin/"));
        if !stack.truncated && is_start {
            whole += pages;
        } else {
            others.push((stack.truncated_why, pages, outermost.function.clone()));
        }
    }
    assert!(all >= least, "{all} pages");
    assert!(
        whole as f64 >= MOST * all as f64,
        "{whole} of {all}; {others:?}"
    );
}

#[test]
fn debians_python() {
    requires!(privileged());
    requires!(tool("python3"));
    let report = script("/usr/bin/python3", &["-c", PYTHON]);
    leads_to_the_start(&report, 1000);
}

#[test]
fn debians_ruby() {
    requires!(privileged());
    requires!(tool("ruby"));
    let report = script("ruby", &["-e", RUBY]);
    leads_to_the_start(&report, 1000);
}

#[test]
fn debians_redis() {
    requires!(privileged());
    let mut redis = requires!(tool("redis-server"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let port = {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        free.local_addr().expect("an address").port()
    };
    let server = redis
        .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
        .args([
            "--save",
            "",
            "--daemonize",
            "no",
            "--enable-debug-command",
            "local",
            "--dir",
        ])
        .arg(folder.path())
        .stdout(Stdio::null())
        .spawn()
        .expect("it runs");
    let server = Running(server);
    let mut client = eventually("redis listens", || {
        TcpStream::connect(("127.0.0.1", port)).ok()
    });
    client
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a timeout");
    let mut ask = |command: &str, expected: &str| {
        // Sent in one piece, or the second piece waits.
        let line = format!("{command}\r\n");
        client.write_all(line.as_bytes()).expect("it listens");
        let mut answer = [0; 256];
        let size = client.read(&mut answer).expect("an answer");
        let answer = String::from_utf8_lossy(&answer[..size]);
        assert!(answer.starts_with(expected), "{command}: {answer}");
    };
    ask("DEBUG POPULATE 100000 key 100", "+OK");
    let trace = Trace::attach(server.0.id());
    ask("CONFIG SET rdb-key-save-delay 20", "+OK");
    ask("BGSAVE", "+Background");
    // While the child saves, the parent copies what it changes.
    for key in (0..100_000).step_by(20) {
        ask(&format!("APPEND key:{key} xxxxxxxxxxxxxxxx"), ":");
    }
    ask("CONFIG SET rdb-key-save-delay 0", "+OK");
    let report = trace.finish();
    leads_to_the_start(&report, 300);
}
