//! The live view, under real keys on a real terminal, and the terminal afterwards.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::support::{Why, eventually, privileged, requires, signal, tool, trace};

/// Debian's own, which the tests' other programs find first.
const PYTHON: &str = "/usr/bin/python3";

/// Workers that read more and more of what they share.
const SERVER: &str = "
import gc, os, time
items = [{'n': n} for n in range(200000)]
gc.collect()
master = os.getpid()
def walk(at):
    for item in items[at:at + 1000]:
        item['n']
for worker in range(3):
    if os.fork() == 0:
        at = 0
        while os.getppid() == master:
            walk(at % 199000)
            at += 1000
            time.sleep(0.1)
        os._exit(0)
while True:
    time.sleep(1)
";

/// What the shell does when memtrace has left, or was stopped.
const AFTERWARDS: &str = "; echo left $? > left; stty -g > after; echo gone";

/// The server, as long as this lives.
struct Server(Child);

impl Server {
    fn start() -> Self {
        let mut python = Command::new(PYTHON);
        python.args(["-c", SERVER]).stdin(Stdio::null());
        Self(python.spawn().expect("Python runs"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A shell on a terminal of its own.
struct Terminal {
    tmux: &'static str,
    folder: TempDir,
}

impl Terminal {
    fn open(width: u16, height: u16, variables: &str) -> Result<Self, Why> {
        tool("tmux")?;
        let folder = TempDir::new().expect("a temporary folder");
        let terminal = Self {
            tmux: "tmux",
            folder,
        };
        let shell = format!(
            "cd {} && exec env {variables} PS1='$ ' bash --norc --noprofile",
            terminal.folder.path().display()
        );
        let (width, height) = (width.to_string(), height.to_string());
        let size = ["-x", &width, "-y", &height];
        terminal.tmux(&[&["new-session", "-d"], &size[..], &[&shell]].concat());
        terminal.until("the shell is there", |text| text.contains('$'));
        Ok(terminal)
    }

    /// Runs memtrace with these arguments; its report goes into a file.
    fn watch(&self, arguments: &str) {
        self.run("stty -g > before");
        let memtrace = trace::path();
        let memtrace = memtrace.display();
        self.run(&format!(
            "{memtrace} --live {arguments} > report.txt{AFTERWARDS}"
        ));
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let output = Command::new(self.tmux)
            .arg("-S")
            .arg(self.folder.path().join("socket"))
            .args(["-f", "/dev/null"])
            .args(arguments)
            .env_remove("TMUX")
            .output()
            .expect("tmux runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "tmux {arguments:?}: {errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Presses keys.
    fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// Types a line for the shell.
    fn run(&self, line: &str) {
        self.tmux(&["send-keys", "-l", line]);
        self.press(&["Enter"]);
    }

    /// What is on the screen.
    fn text(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Waits until what is on the screen is as it should be; returns it.
    fn until(&self, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        let mut last = String::new();
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually(what, || {
                last = self.text();
                is_so(&last).then(|| last.clone())
            })
        }));
        found.unwrap_or_else(|_| panic!("{what}: {last}"))
    }

    /// What a file in the shell's folder holds, once it is there.
    fn file(&self, name: &str) -> String {
        let path = self.folder.path().join(name);
        eventually(name, || {
            let text = std::fs::read_to_string(&path).ok();
            text.filter(|text| text.ends_with('\n'))
        })
    }

    /// memtrace, which the shell runs.
    fn memtrace(&self) -> u32 {
        let shell = self.tmux(&["display-message", "-p", "#{pane_pid}"]);
        let shell = shell.trim();
        let children = format!("/proc/{shell}/task/{shell}/children");
        let children = std::fs::read_to_string(children).expect("the shell is there");
        let child = children
            .split_whitespace()
            .next()
            .expect("it runs memtrace");
        child.parse().expect("a pid")
    }

    /// Checks how memtrace left, and that the terminal is as it was before.
    fn left(&self, status: u8) {
        assert_eq!(self.file("left").trim(), format!("left {status}"));
        assert_eq!(self.file("before"), self.file("after"));
        // What was there before the view is there again.
        let text = self.until("the shell is back", |text| text.contains("gone"));
        assert!(text.contains("--live"), "{text}");
        let flags = "#{alternate_on} #{cursor_flag}";
        assert_eq!(self.tmux(&["display-message", "-p", flags]).trim(), "0 1");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = Command::new(self.tmux)
            .arg("-S")
            .arg(self.folder.path().join("socket"))
            .arg("kill-server")
            .env_remove("TMUX")
            .output();
    }
}

/// Whether the view is there, and has the call site.
fn shows_sites(text: &str) -> bool {
    text.contains("── shared") && text.contains("refcount") && text.contains("walk")
}

/// Whether escape sequences set a colour, and not the terminal's own one.
fn is_coloured(escapes: &str) -> bool {
    let colours = (30..38).chain(40..48).chain(90..98).chain(100..108);
    let mut codes = colours.flat_map(|code| [format!("[{code}m"), format!(";{code}m")]);
    codes.any(|code| escapes.contains(&code)) || escapes.contains("38;") || escapes.contains("48;")
}

/// What the master has for itself, in MiB, as the screen says.
fn private(text: &str, pid: u32) -> f64 {
    let lead = format!("{pid} ");
    let mut lines = text.lines();
    let line = lines.find(|line| line.trim_start().starts_with(&lead));
    let line = line.unwrap_or_else(|| panic!("no line of {pid}: {text}"));
    let figure = line.split_whitespace().last().expect("a figure");
    figure.parse().expect("a number")
}

/// Seconds on the view's clock.
fn clock(text: &str) -> u32 {
    let time = text.split_whitespace().nth(1).expect("a time");
    let (minutes, seconds) = time.split_once(':').expect("a clock");
    let number = |text: &str| text.parse::<u32>().expect("a number");
    number(minutes) * 60 + number(seconds)
}

fn names(folder: &Path, end: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("the folder is there");
    let names = entries.map(|entry| entry.expect("an entry").file_name().into_string());
    let names = names.map(|name| name.expect("UTF-8"));
    names
        .filter(|name| name.starts_with("memtrace-") && name.ends_with(end))
        .collect()
}

#[test]
fn a_trace_is_watched_frozen_looked_into_written_and_finished() {
    requires!(privileged());
    let terminal = requires!(Terminal::open(80, 24, "NO_COLOR=1"));
    let server = Server::start();
    let pid = server.0.id();
    terminal.watch(&format!("-p {pid}"));
    let first = terminal.until("call sites are there", shows_sites);
    assert!(first.contains(&format!("pid {pid} python3")), "{first}");
    let before = private(&first, pid);
    terminal.until("what is shared falls", |text| {
        shows_sites(text) && private(text, pid) > before + 2.0
    });
    // Lines are bold, and nothing has a colour.
    let escapes = terminal.tmux(&["capture-pane", "-e", "-p"]);
    assert!(
        escapes.contains("[1m") && !is_coloured(&escapes),
        "{escapes:?}"
    );

    terminal.press(&["Space"]);
    let frozen = terminal.until("it is frozen", |text| text.contains("paused 0:0"));
    terminal.until("time goes on", |text| text.contains("paused 0:02"));
    let later = terminal.text();
    assert!(frozen.lines().skip(1).eq(later.lines().skip(1)), "{later}");
    assert!(!later.contains(" 0 B since"), "{later}");
    terminal.press(&["Space"]);
    terminal.until("it goes on", |text| text.contains("[space] pause"));

    terminal.press(&["Enter"]);
    let stack = terminal.until("the stack is there", |text| text.contains("latency"));
    assert!(stack.contains("py <module>"), "{stack}");
    terminal.press(&["Escape"]);
    terminal.until("the table is back", shows_sites);
    for view in ["FUNCTION", "OBJECT TYPE", "PROCESS", "FILE", "CAUSE"] {
        terminal.press(&["g"]);
        terminal.until(view, |text| text.contains(&format!("CAUSE      {view}")));
    }
    terminal.press(&["g", "/", "w", "a", "l", "k", "Enter"]);
    let filtered = terminal.until("it is filtered", |text| text.contains("/walk:"));
    assert!(filtered.contains("▸"), "{filtered}");
    terminal.press(&["Escape", "?"]);
    terminal.until("help is there", |text| text.contains("any key: back"));
    terminal.press(&["x"]);
    terminal.until("the table is back", shows_sites);

    terminal.press(&["w"]);
    let written = terminal.until("it is written", |text| text.contains("wrote memtrace-"));
    for end in [".html", ".json.gz"] {
        let names = names(terminal.folder.path(), end);
        assert_eq!(names.len(), 1, "{names:?}");
    }
    terminal.until("tracing goes on", |text| clock(text) > clock(&written) + 1);
    terminal.press(&["q"]);
    terminal.left(0);
    let report = terminal.file("report.txt");
    assert!(
        report.contains(" copied in ") && report.contains("walk"),
        "{report}"
    );
}

#[test]
fn ctrl_z_gives_the_terminal_back_and_fg_takes_it_again() {
    requires!(privileged());
    let terminal = requires!(Terminal::open(100, 40, "COLORTERM=truecolor"));
    let server = Server::start();
    terminal.watch(&format!("-p {} -q", server.0.id()));
    terminal.until("call sites are there", shows_sites);
    let escapes = terminal.tmux(&["capture-pane", "-e", "-p"]);
    assert!(
        escapes.contains("[31m") && !escapes.contains("38;"),
        "{escapes:?}"
    );
    for _ in 0..2 {
        terminal.press(&["C-z"]);
        terminal.until("it is stopped", |text| text.contains("Stopped"));
        // As the signal says that a terminal sends.
        assert_eq!(terminal.file("left").trim(), "left 148");
        assert_eq!(terminal.file("before"), terminal.file("after"));
        terminal.run(&format!("rm left after; clear; fg{AFTERWARDS}"));
        terminal.until("it is there again", shows_sites);
    }
    // A smaller screen has less on it, and nothing of what was there before.
    terminal.tmux(&["resize-window", "-x", "50", "-y", "10"]);
    terminal.until("the first lines are there", |text| {
        text.contains("memtrace") && !text.contains("shared")
    });
    signal(terminal.memtrace(), libc::SIGTERM);
    assert_eq!(terminal.file("left").trim(), "left 0");
    assert_eq!(terminal.file("before"), terminal.file("after"));
}

#[test]
fn the_terminal_is_as_before_however_it_ends() {
    requires!(privileged());
    for way in ["Q", "HUP", "C-c"] {
        let terminal = requires!(Terminal::open(80, 24, "TERM=xterm"));
        let server = Server::start();
        terminal.watch(&format!("-p {}", server.0.id()));
        terminal.until("call sites are there", shows_sites);
        match way {
            "HUP" => {
                signal(terminal.memtrace(), libc::SIGHUP);
                terminal.left(0);
            }
            "Q" => {
                terminal.press(&["Q"]);
                terminal.left(130);
            }
            _ => {
                terminal.press(&["C-c"]);
                terminal.left(0);
            }
        }
    }
}

#[test]
fn what_command_writes_is_there_when_the_view_has_left() {
    requires!(privileged());
    let terminal = requires!(Terminal::open(80, 24, "TERM=xterm"));
    terminal.watch("-- sh -c 'echo said by command >&2; read line; sleep 2'");
    terminal.until("the view is there", |text| text.contains("[space] pause"));
    assert!(!terminal.text().contains("said by command"));
    terminal.left(0);
    let text = terminal.text();
    assert!(text.contains("said by command\n"), "{text}");
}

#[test]
fn without_a_terminal_that_can_be_drawn_on_it_is_refused() {
    let refused = |term: &str| {
        let mut command = Command::new(trace::path());
        command.args(["--live", "-p", "1"]).env("TERM", term);
        // SAFETY: one system call, which may be made between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                Ok(())
            })
        };
        let output = command.output().expect("memtrace runs");
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).expect("UTF-8")
    };
    let none = refused("xterm");
    assert!(none.contains("this process has no terminal"), "{none}");
    assert!(none.contains("leave out --live"), "{none}");
    let dumb = refused("dumb");
    assert!(dumb.contains("TERM is 'dumb'"), "{dumb}");
}
