//! The process in which symbols and debug information are read.
//!
//! Its parser ([`engine`](super::engine)) is not made to withstand files that were crafted, so it may
//! end, which costs memtrace no more than names; see [`inspector`](crate::process::inspector) for what
//! it may use and how often. Pages of mapped files can be reclaimed, so they cost nobody anything,
//! and address space is not bounded. One question is about at most [`MAX_ADDRESSES`] addresses.

use std::fs::File;
use std::time::Duration;

use foldhash::HashMap;

#[cfg(test)]
use super::engine::Memory;
use super::engine::{Engine, Failure, MAX_PARSED, Query, Reply};
use crate::process::inspector::{Answerer, Asked, Inspector, Kind, Lost, Question};
use crate::process::opener::{self, MAX_COPIES, MAX_COPY};

/// The process.
pub const INSPECTOR: Kind = Kind {
    argument: "__symbolize",
    what: "reads symbols",
    without: "no functions are named",
    data: 40 << 20,
    // Files that were opened again and are parsed.
    descriptors: MAX_PARSED,
    patience: Duration::from_secs(5),
    most: 16 << 20,
};

/// Addresses in one query.
pub const MAX_ADDRESSES: usize = 256;

/// Where queries are answered.
pub struct Helper {
    inspector: Inspector,
    copies: Copies,
}

/// Copies in memory of files that the helper's user may not read.
#[derive(Default)]
struct Copies {
    /// By the file's key; `None` where there is no room for it.
    by_key: HashMap<u64, Option<File>>,
    /// Bytes of them.
    size: u64,
}

impl Question for Query {
    const NAME: &'static str = "symbols";
    type Answer = Reply;
}

/// What answers a [`Query`].
#[must_use]
pub fn answerer(mut engine: Engine) -> Answerer {
    Answerer::new(move |query: &Query, files| engine.answer(query, files[0]))
}

impl Helper {
    /// A process of this same program; see [`Inspector::process`].
    #[must_use]
    pub fn process() -> Self {
        Self::with(Inspector::process(&INSPECTOR))
    }

    /// Has this one answer.
    pub fn with(inspector: Inspector) -> Self {
        Self {
            inspector,
            copies: Copies::default(),
        }
    }

    /// This process itself, which therefore shares the fate of the parser.
    #[cfg(test)]
    #[must_use]
    pub fn here() -> Self {
        let engine = Engine::new(Memory::of_this_process(), "/proc/self/fd".into());
        Self::with(Inspector::here(&INSPECTOR, vec![answerer(engine)]))
    }

    /// What else can be asked about files.
    pub fn inspector(&mut self) -> &mut Inspector {
        &mut self.inspector
    }

    /// Asks, and waits for the reply. A file that the helper may not read is copied for it.
    ///
    /// # Errors
    ///
    /// When a reply does not come in time; see the module.
    pub fn ask(&mut self, query: &Query, asked: Asked<'_>) -> Result<Reply, Lost> {
        if !self.copies.by_key.contains_key(&asked.key) {
            let reply = self.inspector.ask(query, &[asked])?;
            if reply != Err(Failure::NotPermitted) {
                return Ok(reply);
            }
            self.copies.add(asked);
        }
        let copy = self.copies.by_key.get(&asked.key);
        let copy = copy.and_then(|copy| copy.as_ref()?.try_clone().ok());
        let Some(file) = &copy else {
            // What can be read without opening the file again still can.
            return self.inspector.ask(query, &[asked]);
        };
        let key = asked.key | IS_COPY;
        self.inspector.ask(query, &[Asked { key, file }])
    }
}

/// Set in the key of a copy.
const IS_COPY: u64 = 1 << 63;

impl Copies {
    fn add(&mut self, asked: Asked<'_>) {
        let room = MAX_COPY.min(MAX_COPIES.saturating_sub(self.size));
        let copy = opener::copy_of(asked.file, room).ok();
        let size = copy.as_ref().and_then(|copy| copy.metadata().ok());
        self.size += size.map_or(0, |of| of.len());
        self.by_key.insert(asked.key, copy);
    }
}
