//! What stands for the live view in a build without it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::profile::Profile;
use crate::report::Output;
use crate::views::View;

/// A terminal that is never there.
#[derive(Clone, Copy, Debug)]
pub struct Terminal(Infallible);

/// A view that is never there.
pub struct Live(Infallible);

impl Terminal {
    /// Refuses.
    ///
    /// # Errors
    /// That this build has no live view, and what to do.
    pub fn open() -> Result<Self> {
        bail!(
            "this memtrace was built without the live view, so --live has nothing to show; leave it \
             out, or build memtrace with the feature `live`, which is on by default"
        )
    }
}

impl Live {
    /// Is never called.
    ///
    /// # Errors
    /// None.
    pub fn start(terminal: Terminal, _: &Output) -> Result<Self> {
        match terminal.0 {}
    }
}

impl View for Live {
    fn interval(&self) -> Duration {
        match self.0 {}
    }

    fn show(&mut self, _: &Arc<Profile>) {
        match self.0 {}
    }

    fn clear(&mut self) {
        match self.0 {}
    }
}

/// Does nothing: no screen was taken.
pub fn restore() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_without_it_says_so() {
        let error = Terminal::open().unwrap_err().to_string();
        assert!(error.contains("built without the live view"), "{error}");
    }
}
