//! The fixture: a running program that copies pages and tells how many.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Why;

/// What the fixture says when it is done.
#[derive(Clone, Debug, Deserialize)]
pub struct Truth {
    /// Copied pages, over all processes.
    pub copied: u64,
    /// Copied pages by what they were before.
    pub by_origin: BTreeMap<String, u64>,
    /// Write-protection faults settled without a new page.
    pub reuse: u64,
    /// Zero pages replaced.
    pub zero: u64,
    /// Write faults on absent pages that copied nothing.
    pub first_touch: u64,
    /// By process.
    pub processes: Vec<ProcessTruth>,
    /// What else a way has to say.
    #[serde(flatten)]
    pub extra: BTreeMap<String, serde_json::Value>,
}

/// What one process did in one function.
#[derive(Clone, Debug, Deserialize)]
pub struct ProcessTruth {
    /// The process.
    pub pid: u32,
    /// The function in whose stacks all of these copies are.
    pub function: String,
    /// Copied pages.
    pub copied: u64,
}

impl Truth {
    /// Copied pages by dirtying function.
    pub fn by_function(&self) -> BTreeMap<&str, u64> {
        let mut sums = BTreeMap::new();
        for process in &self.processes {
            *sums.entry(process.function.as_str()).or_default() += process.copied;
        }
        sums
    }

    /// How many threads were started to copy; 0 where the first ones did it.
    pub fn threads(&self) -> u64 {
        let threads = self.extra.get("threads");
        threads.and_then(serde_json::Value::as_u64).unwrap_or(0)
    }
}

/// A running fixture that is ready to copy.
pub struct Fixture {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// The process to trace.
    pub pid: u32,
}

impl Fixture {
    /// Starts the fixture, and waits until it is ready. `Err` when this machine cannot do what it
    /// is asked to.
    pub fn start(arguments: &[&str]) -> Result<Self, Why> {
        super::privileged()?;
        Self::run(Command::new(path()).args(arguments))
    }

    /// Does what [`Fixture::start`] does, for a command that becomes the fixture.
    pub fn run(command: &mut Command) -> Result<Self, Why> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut fixture = Self {
            input: child.stdin.take(),
            output: BufReader::new(child.stdout.take().expect("it is piped")),
            child,
            pid: 0,
        };
        let line = fixture.line();
        if let Some(why) = line.get("unavailable") {
            return Err(Why::Unavailable(
                why.as_str().unwrap_or("not said").to_owned(),
            ));
        }
        fixture.pid = line["ready"]["pid"].as_u64().expect("a pid") as u32;
        Ok(fixture)
    }

    fn line(&mut self) -> serde_json::Value {
        let mut line = String::new();
        self.output
            .read_line(&mut line)
            .expect("the fixture's output is UTF-8");
        serde_json::from_str(&line).unwrap_or_else(|error| {
            panic!(
                "the fixture ended with {:?}: {line:?}: {error}",
                self.child.wait()
            )
        })
    }

    /// Lets it begin.
    pub fn go(&mut self) {
        let input = self.input.as_mut().expect("it is still there");
        writeln!(input, "go").expect("the fixture listens");
    }

    /// Waits until it is done.
    pub fn truth(&mut self) -> Truth {
        self.done()
    }

    /// Does what [`Fixture::truth`] does, for a program with a truth of another shape.
    pub fn done<T: DeserializeOwned>(&mut self) -> T {
        serde_json::from_value(self.line()["done"].take()).expect("the truth")
    }

    /// Lets it and its processes exit, and waits until they have.
    pub fn exit(mut self) {
        self.input = None;
        let status = self.child.wait().expect("it is a child");
        assert!(status.success(), "the fixture: {status}");
    }
}

impl Drop for Fixture {
    /// Its processes are killed with it: each is killed when its parent dies.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The fixture's program: built once, with frame pointers, in a target folder of its own so that
/// the flag does not rebuild everything else.
pub fn path() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        if let Some(path) = std::env::var_os("MEMTRACE_FIXTURE") {
            return path.into();
        }
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fixture");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let status = Command::new(cargo)
            .args([
                "build",
                "--quiet",
                "--release",
                "--package",
                "memtrace-fixture",
            ])
            .arg("--target-dir")
            .arg(&target)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env("RUSTFLAGS", "-Cforce-frame-pointers=yes")
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .status()
            .expect("cargo runs, since it runs this test");
        assert!(status.success(), "the fixture could not be built: {status}");
        target.join("release/memtrace-fixture")
    })
}
