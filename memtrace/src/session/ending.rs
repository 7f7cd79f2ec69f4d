//! What ends a trace.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::signals::StopSignals;
use crate::command::Running;
use crate::profile::CommandExit;

/// How long COMMAND is waited for after Ctrl-C, which reaches it too.
const COMMAND_GRACE: Duration = Duration::from_secs(1);

/// Why a trace ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The user asked for it.
    Interrupted,
    /// The duration that the user gave is over.
    Duration,
    /// COMMAND, which puts load on the traced processes, has ended.
    Command,
    /// No traced process is left.
    NoProcess,
}

impl Why {
    /// The reason in words.
    pub fn text(self) -> &'static str {
        match self {
            Self::Interrupted => "interrupted",
            Self::Duration => "the duration is over",
            Self::Command => "COMMAND ended",
            Self::NoProcess => "every traced process ended",
        }
    }
}

/// Waits for what ends a trace.
pub struct Ending {
    stop: StopSignals,
    command: Option<Pin<Box<dyn Future<Output = io::Result<CommandExit>>>>>,
    /// Whether COMMAND is the load, so that the trace ends with it.
    ends_with_command: bool,
    command_exit: Option<CommandExit>,
}

impl Ending {
    /// Listens for signals from now on, so that Ctrl-C never leaves a half-made report. Must be
    /// called in the event loop.
    pub fn new() -> Result<Self> {
        Ok(Self {
            stop: StopSignals::new()?,
            command: None,
            ends_with_command: false,
            command_exit: None,
        })
    }

    /// Waits for COMMAND; if `ends`, the trace ends with it.
    pub fn with_command(&mut self, command: Running, ends: bool) {
        self.command = Some(Box::pin(command.wait()));
        self.ends_with_command = ends;
    }

    /// How COMMAND ended; `None` while it runs, and without one.
    pub fn command_exit(&self) -> Option<&CommandExit> {
        self.command_exit.as_ref()
    }

    /// Waits for the end. Nothing is lost when this is dropped while it waits.
    pub async fn reached(&mut self) -> Result<Why> {
        loop {
            tokio::select! {
                biased;
                () = self.stop.received() => return Ok(Why::Interrupted),
                exit = of(&mut self.command) => {
                    self.command = None;
                    self.command_exit = Some(exit.context("cannot wait for COMMAND")?);
                    if self.ends_with_command {
                        return Ok(Why::Command);
                    }
                }
            }
        }
    }

    /// After Ctrl-C, which reaches COMMAND too: waits a little for it.
    pub async fn wait_for_command(&mut self) -> Result<()> {
        if let Some(command) = self.command.take()
            && let Ok(exit) = tokio::time::timeout(COMMAND_GRACE, command).await
        {
            self.command_exit = Some(exit?);
        }
        Ok(())
    }

    /// Lets a second signal end memtrace at once; returns how COMMAND ended, where it has.
    pub fn over(self) -> Option<CommandExit> {
        self.stop.restore();
        self.command_exit
    }
}

/// Waits for a future; without one, for ever.
async fn of<F: Future + ?Sized>(future: &mut Option<Pin<Box<F>>>) -> F::Output {
    match future {
        Some(future) => future.as_mut().await,
        None => std::future::pending().await,
    }
}
