//! A memtrace that traces until it is told to end.

use std::io::{BufRead as _, BufReader, Lines};
use std::process::{Child, ChildStderr, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// What memtrace says when it is attached.
pub const ATTACHED: &str = "memtrace: tracing ";

/// A running memtrace; ended, without a report that counts, when dropped.
pub struct Tracing {
    child: Child,
    messages: Lines<BufReader<ChildStderr>>,
    is_over: bool,
}

impl Tracing {
    /// Starts it, and waits until it is attached.
    pub fn start(memtrace: &mut Command) -> Result<Self> {
        let mut child = memtrace
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run memtrace")?;
        let messages = child.stderr.take().context("standard error is a pipe")?;
        let mut tracing = Self {
            child,
            messages: BufReader::new(messages).lines(),
            is_over: false,
        };
        let mut said = Vec::new();
        for line in tracing.messages.by_ref() {
            let line = line?;
            if line.starts_with(ATTACHED) {
                return Ok(tracing);
            }
            said.push(line);
        }
        tracing.is_over = true;
        let status = tracing.child.wait()?;
        anyhow::bail!("memtrace did not attach ({status}):\n{}", said.join("\n"))
    }

    /// Ends the trace as Ctrl-C does, and waits until the reports are written.
    pub fn finish(mut self) -> Result<()> {
        let status = self.end()?;
        ensure!(status.success(), "memtrace: {status}");
        Ok(())
    }

    fn end(&mut self) -> Result<std::process::ExitStatus> {
        self.is_over = true;
        // SAFETY: only sends a signal to a child that has not been waited for.
        unsafe { libc::kill(self.child.id().cast_signed(), libc::SIGINT) };
        self.messages.by_ref().for_each(drop);
        Ok(self.child.wait()?)
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        if !self.is_over {
            let _ = self.end();
        }
    }
}
