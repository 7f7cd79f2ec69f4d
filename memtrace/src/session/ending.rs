//! What ends a trace.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::command::Running;
use crate::profile::CommandExit;
use crate::signals::Arrival;

/// How long COMMAND is waited for when it is about to end.
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
    stop: Arrival,
    command: Option<Pin<Box<dyn Future<Output = io::Result<CommandExit>>>>>,
    /// Whether COMMAND is the load, so that the trace ends with it.
    ends_with_command: bool,
    command_exit: Option<CommandExit>,
}

impl Ending {
    /// Nothing but a signal ends the trace yet. Must be called in the event loop.
    pub fn new() -> Result<Self> {
        Ok(Self {
            stop: Arrival::new().context("cannot listen for signals")?,
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

    /// Waits a little for COMMAND where it is about to end: after Ctrl-C, which reaches it too, and
    /// when every traced process has ended and it was one of them. Its exit is traced before the
    /// kernel tells whoever waits for it.
    pub async fn wait_for_command(&mut self, why: Why) -> Result<()> {
        let is_ending = match why {
            Why::Interrupted => true,
            Why::NoProcess => !self.ends_with_command,
            Why::Duration | Why::Command => false,
        };
        if is_ending
            && let Some(command) = self.command.take()
            && let Ok(exit) = tokio::time::timeout(COMMAND_GRACE, command).await
        {
            self.command_exit = Some(exit?);
        }
        Ok(())
    }

    /// How COMMAND ended, where it has.
    pub fn over(self) -> Option<CommandExit> {
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
