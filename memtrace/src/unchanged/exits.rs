//! Pages of children that end, compared in time with what their parents have.
//!
//! The BPF side hashes some pages of a child just before its memory goes (`sample.rs` of
//! memtrace-ebpf), and the hashes are compared here with the parent's pages when the record is read,
//! which is shortly after. What a parent writes meanwhile, or had written since the fork, counts as
//! changed, as it does for children that live.

use std::time::{Duration, Instant};

use foldhash::HashMap;
use memtrace_common::hash::of_page;

use super::found::{Findings, Found, With};
use super::image::{Frame, Identity, Image};
use super::{hash, host};
use crate::collect::{LastPage, LastPages};
use crate::process::maps::{Extents, Mapped};
use crate::process::processes::{ProcessId, Processes};
use crate::profile::Reason;

/// Pages whose comparison is kept for the samples of call sites, at most.
const MOST_KEPT: usize = 1 << 15;

/// One part in so many of the time may be spent here, since records wait meanwhile.
const TIME_PART: u32 = 20;

/// Time that may be spent here before that.
const TIME_FREE: Duration = Duration::from_millis(100);

/// How long a parent's mappings are believed.
const MAPPINGS_FRESH: Duration = Duration::from_millis(100);

/// Words of a page; others than that of x86-64 are not hashed.
const PAGE_WORDS: usize = 512;

/// What became of pages of children that have ended.
pub struct Exits {
    /// The parent that was looked at last.
    parent: Option<Parent>,
    begun: Instant,
    spent: Duration,
    /// Whether a page was unchanged; a sample, by the hashes of the pages.
    pages: HashMap<(ProcessId, u64), bool>,
    /// The largest hash that is kept.
    largest: u64,
}

/// A parent, open for reading.
struct Parent {
    id: ProcessId,
    /// The program that it ran then.
    program: u64,
    image: Image,
    pid: u32,
    extents: Option<(Instant, Extents)>,
}

impl Exits {
    /// No child has ended yet.
    pub fn new() -> Self {
        Self {
            parent: None,
            begun: Instant::now(),
            spent: Duration::ZERO,
            pages: HashMap::default(),
            largest: u64::MAX,
        }
    }

    /// Compares what a child held, which is about to end; returns what was found, or nothing at all
    /// where there is no time.
    pub fn look(&mut self, child: ProcessId, last: &LastPages, processes: &Processes) -> Findings {
        let start = Instant::now();
        let free = self.begun.elapsed() / TIME_PART + TIME_FREE;
        if self.spent > free || host::page_size() != 8 * PAGE_WORDS as u64 {
            return Findings::default();
        }
        let mut pages: Vec<&LastPage> = last.pages.iter().collect();
        pages.sort_unstable_by_key(|page| page.address);
        pages.dedup_by_key(|page| page.address);
        let found = match self.open_parent(child, processes) {
            Err(why) => pages.iter().map(|_| Found::Not(why)).collect(),
            Ok(mut parent) => {
                let found: Vec<Found> = pages.iter().map(|page| parent.look(page)).collect();
                // What was read is the parent's if it has not replaced its program meanwhile.
                if processes.is_current(parent.id) {
                    self.keep(child, &pages, &found);
                    self.parent = Some(parent);
                    found.into_iter().collect()
                } else {
                    pages.iter().map(|_| NO_PARENT).collect()
                }
            }
        };
        self.spent += start.elapsed();
        found
    }

    /// The process that forked this one, if it still runs the program that it ran then.
    fn open_parent(&mut self, child: ProcessId, processes: &Processes) -> Result<Parent, Reason> {
        let facts = processes.get(child);
        let parent = processes.forked_from(child).ok_or(Reason::NoRelative)?;
        let of_parent = processes.get(parent);
        // It may also be the parent's parent, when that has ended, and of another program.
        if of_parent.pid != facts.ppid {
            return Err(Reason::NoRelative);
        }
        let program = processes.program(parent);
        if let Some(known) = self
            .parent
            .take_if(|known| known.id == parent && known.program == program)
        {
            return Ok(known);
        }
        let why = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::PermissionDenied => Reason::Unreadable,
            _ => Reason::NoRelative,
        };
        let identity = Identity::of(of_parent.pid).map_err(why)?;
        if !identity.started_at(of_parent.times.start_boottime_ns) {
            return Err(Reason::NoRelative);
        }
        Ok(Parent {
            id: parent,
            program,
            image: Image::open(&identity, host::page_size()).map_err(why)?,
            pid: of_parent.pid,
            extents: None,
        })
    }

    fn keep(&mut self, child: ProcessId, pages: &[&LastPage], found: &[Found]) {
        for (page, found) in pages.iter().zip(found) {
            let number = page.address / host::page_size();
            if let Found::Compared { same, .. } = *found
                && hash(child, number) <= self.largest
            {
                self.pages.insert((child, number), same);
            }
        }
        while self.pages.len() > MOST_KEPT {
            self.largest /= 2;
            let largest = self.largest;
            self.pages
                .retain(|&(process, page), _| hash(process, page) <= largest);
        }
    }

    /// What was found of a page of a process that has ended, if it was compared.
    pub fn of(&self, process: ProcessId, page: u64) -> Option<Found> {
        let same = *self.pages.get(&(process, page))?;
        Some(Found::Compared {
            same,
            changed: false,
            with: With::ParentInTime,
        })
    }
}

/// There is no parent any more to compare with.
const NO_PARENT: Found = Found::Not(Reason::NoRelative);

impl Parent {
    /// Compares a page of a child that ends.
    fn look(&mut self, page: &LastPage) -> Found {
        let Some(hash) = page.hash else {
            return Found::Not(Reason::Absent);
        };
        if page.is_file {
            // Where the child had a file, the parent may have nothing, or something else.
            match self.mapped(page.address) {
                Some(Mapped::File { .. }) => {}
                _ => return Found::Not(Reason::MappedAfterFork),
            }
        }
        let number = page.address / host::page_size();
        let mut frames: Vec<Frame> = Vec::with_capacity(1);
        self.image.frames(number..number + 1, &mut frames);
        let mut bytes = [0; 8 * PAGE_WORDS];
        let is_present = frames.first().is_some_and(|frame| frame.is_present());
        if !is_present || self.image.read(number, &mut bytes) == 0 {
            return Found::Not(match self.mapped(page.address) {
                Some(_) => Reason::Absent,
                None => Reason::Unmapped,
            });
        }
        let mut words = [0; PAGE_WORDS];
        let of_bytes = bytes.as_chunks().0.iter().copied();
        for (word, bytes) in words.iter_mut().zip(of_bytes) {
            *word = u64::from_ne_bytes(bytes);
        }
        Found::Compared {
            same: of_page(&words) == hash,
            changed: false,
            with: With::ParentInTime,
        }
    }

    /// What the parent has mapped at an address, as of a moment ago.
    fn mapped(&mut self, address: u64) -> Option<Mapped> {
        if self
            .extents
            .as_ref()
            .is_none_or(|(at, _)| at.elapsed() > MAPPINGS_FRESH)
        {
            let now = Extents::read(self.pid).unwrap_or_default();
            self.extents = Some((Instant::now(), now));
        }
        self.extents.as_ref()?.1.at(address)
    }
}
