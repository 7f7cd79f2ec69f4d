//! The program that is traced: `memtrace-fixture`, driven by lines.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// A fixture that is ready and waits.
pub struct Fixture {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    /// The process to trace.
    pub pid: u32,
}

/// What a fixture says while it works.
pub enum News {
    /// How far it is.
    SoFar(Value),
    /// What it did: it is done.
    Done(Value),
}

impl Fixture {
    /// Starts the fixture and waits until it is ready.
    pub fn start<I: IntoIterator<Item: AsRef<OsStr>>>(program: &Path, args: I) -> Result<Self> {
        let mut child = Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let stdin = child.stdin.take();
        let stdout = child
            .stdout
            .take()
            .context("the fixture's output was asked for")?;
        let mut fixture = Self {
            child,
            stdin,
            stdout: BufReader::new(stdout),
            pid: 0,
        };
        let ready = fixture.hear("ready")?;
        let pid = ready["pid"]
            .as_u64()
            .context("the fixture does not say its pid")?;
        fixture.pid = pid as u32;
        Ok(fixture)
    }

    /// Lets it work; returns what it says about that.
    pub fn go(&mut self) -> Result<Value> {
        self.say("go")?;
        self.hear("done")
    }

    /// Lets it begin; [`Fixture::news`] says how far it is.
    pub fn begin(&mut self) -> Result<()> {
        self.say("go")
    }

    /// Waits for what it says next.
    pub fn news(&mut self) -> Result<News> {
        let mut said = self.line("so_far")?;
        if let Some(so_far) = said.get_mut("so_far") {
            return Ok(News::SoFar(so_far.take()));
        }
        Ok(News::Done(said_of(said, "done")?))
    }

    /// Lets it exit.
    pub fn exit(mut self) -> Result<()> {
        self.say("exit")?;
        self.stdin = None;
        let status = self.child.wait()?;
        if !status.success() {
            bail!("the fixture failed: {status}");
        }
        Ok(())
    }

    fn say(&mut self, word: &str) -> Result<()> {
        let stdin = self
            .stdin
            .as_mut()
            .context("the fixture was told to exit")?;
        writeln!(stdin, "{word}").context("the fixture does not listen any more")
    }

    fn hear(&mut self, what: &str) -> Result<Value> {
        said_of(self.line(what)?, what)
    }

    fn line(&mut self, what: &str) -> Result<Value> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        let said: Value = serde_json::from_str(&line)
            .with_context(|| format!("expected `{what}` from the fixture, it said {line:?}"))?;
        if let Some(why) = said["unavailable"].as_str() {
            bail!("the fixture cannot do this here: {why}");
        }
        Ok(said)
    }
}

/// What a line of the fixture says about `what`.
fn said_of(mut said: Value, what: &str) -> Result<Value> {
    match said.get_mut(what) {
        Some(value) => Ok(value.take()),
        None => bail!("expected `{what}` from the fixture, it said {said}"),
    }
}

impl Drop for Fixture {
    /// Its processes end when the input of the first ends.
    fn drop(&mut self) {
        self.stdin = None;
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
