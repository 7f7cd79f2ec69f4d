//! Who may still have what a process copied, and looking at it there.

use std::io;
use std::rc::Rc;

use foldhash::HashMap;

use super::CopiedPages;
use super::compare::{Comparer, Seen, Skip};
use super::found::{Findings, Found, With};
use super::image::{Identity, Image};
use crate::process::maps::{Extents, Mapped};
use crate::process::processes::{ProcessId, Processes};
use crate::profile::Reason;

/// Children that are looked at, the eldest.
const MAX_CHILDREN: usize = 8;

/// A process that lives, and its living relatives with the same image.
pub struct Family {
    own: Rc<Identity>,
    /// The nearest, or why there is none.
    ancestor: Result<Rc<Identity>, Reason>,
    children: Vec<(ProcessId, Rc<Identity>)>,
}

impl Family {
    /// Why its pages cannot be compared; `None` when they may be.
    #[must_use]
    pub fn why_alone(&self) -> Option<Reason> {
        let why = self.ancestor.as_ref().err().copied();
        why.filter(|_| self.children.is_empty())
    }
}

/// Finds relatives, and compares pages with theirs.
pub struct Relatives<'a> {
    processes: &'a Processes,
    copied: &'a CopiedPages,
    page_bits: u32,
    /// By pid.
    known: HashMap<u32, Result<Rc<Identity>, Reason>>,
    /// Kept from one process to the next, since most have the same ancestor.
    ancestor: Option<(u32, Rc<Side>)>,
    /// Of the process that was looked at last, and of its children.
    sides: HashMap<u32, Result<Rc<Side>, Reason>>,
    /// Which one that was.
    last: u32,
    comparer: Comparer,
}

/// A process that is compared.
struct Side {
    image: Image,
    extents: Extents,
}

impl Side {
    fn open(identity: &Identity, page_bits: u32) -> Result<Self, Reason> {
        let open = || {
            let extents = Extents::read(identity.pid())?;
            // It is made sure there that the process has not ended meanwhile.
            let image = Image::open(identity, 1 << page_bits)?;
            Ok(Self { image, extents })
        };
        open().map_err(|error| reason(&error))
    }
}

impl<'a> Relatives<'a> {
    /// Nobody has been looked for yet. `copied` says what else was copied.
    #[must_use]
    pub fn new(processes: &'a Processes, copied: &'a CopiedPages) -> Self {
        Self {
            processes,
            copied,
            page_bits: copied.page_bits,
            known: HashMap::default(),
            ancestor: None,
            sides: HashMap::default(),
            last: 0,
            comparer: Comparer::new(1 << copied.page_bits),
        }
    }

    /// A process with its relatives.
    ///
    /// # Errors
    ///
    /// Why its memory cannot be looked at.
    pub fn family(&mut self, id: ProcessId) -> Result<Family, Reason> {
        let own = self.traced(id)?;
        let ancestor = self.ancestor(id, &own);
        let children = self.children(id, &own);
        Ok(Family {
            own,
            ancestor,
            children,
        })
    }

    fn ancestor(&mut self, id: ProcessId, own: &Identity) -> Result<Rc<Identity>, Reason> {
        let is_ancestor = |ancestor: &Rc<Identity>| is_relative(ancestor, own);
        let mut why = Reason::NoRelative;
        let mut next = id;
        // Nobody descends from itself, so this ends.
        while let Some(parent) = self.processes.parent(next) {
            match self.traced(parent) {
                Ok(ancestor) if is_ancestor(&ancestor) => return Ok(ancestor),
                Err(Reason::Unreadable) => why = Reason::Unreadable,
                _ => {}
            }
            next = parent;
        }
        let ppid = self.processes.parent_outside(next).ok_or(why)?;
        // The process that has that pid now is a relative if it has the same image.
        let ancestor = self.with_pid(ppid).ok().filter(is_ancestor);
        ancestor.ok_or(why)
    }

    /// The eldest living children that were forked while everything that they copied was recorded.
    /// What a child has that was forked by another, which has ended, may be what that one wrote.
    fn children(&mut self, id: ProcessId, own: &Identity) -> Vec<(ProcessId, Rc<Identity>)> {
        let processes = self.processes;
        let pid = processes.get(id).pid;
        let is_own = |child: &ProcessId| {
            let facts = processes.get(*child);
            facts.times.forked_ns.is_some() && facts.ppid == pid && facts.missing() == [0; 4]
        };
        let all = processes.children(id).iter().copied().filter(is_own);
        let mut children = Vec::new();
        for child in all.take(MAX_CHILDREN) {
            let identity = self.traced(child).ok();
            if let Some(identity) = identity.filter(|identity| is_relative(identity, own)) {
                children.push((child, identity));
            }
        }
        children
    }

    fn traced(&mut self, id: ProcessId) -> Result<Rc<Identity>, Reason> {
        let process = self.processes.get(id);
        let identity = self.with_pid(process.pid)?;
        if identity.started_at(process.times.start_boottime_ns) {
            Ok(identity)
        } else {
            Err(Reason::Ended)
        }
    }

    fn with_pid(&mut self, pid: u32) -> Result<Rc<Identity>, Reason> {
        let look = || {
            let identity = Identity::of(pid).map_err(|error| reason(&error))?;
            Ok(Rc::new(identity))
        };
        self.known.entry(pid).or_insert_with(look).clone()
    }

    /// Looks at `pages`, numbers in ascending order, that a process copied.
    pub fn look(&mut self, family: &Family, pages: &[u64]) -> Findings {
        if let Some(why) = family.why_alone().filter(|_| !pages.is_empty()) {
            return pages.iter().map(|_| Found::Not(why)).collect();
        }
        if self.last != family.own.pid() {
            self.last = family.own.pid();
            self.sides.clear();
        }
        let own = match self.side(&family.own) {
            Ok(own) => own,
            Err(why) => return pages.iter().map(|_| Found::Not(why)).collect(),
        };
        let at = |page: u64| own.extents.at(page << self.page_bits);
        let mut looked = Looked {
            pages: pages.iter().map(|&page| (page, at(page))).collect(),
            found: vec![Found::Not(Reason::Unmapped); pages.len()],
            own,
        };
        match self.opened_ancestor(family) {
            Ok(ancestor) => self.with_ancestor(&mut looked, &ancestor),
            Err(why) => looked.all_mapped(why),
        }
        for (child, identity) in &family.children {
            if let Ok(side) = self.side(identity) {
                self.with_child(&mut looked, *child, &side);
            }
        }
        looked.found.into_iter().collect()
    }

    fn side(&mut self, identity: &Identity) -> Result<Rc<Side>, Reason> {
        let page_bits = self.page_bits;
        let open = || Side::open(identity, page_bits).map(Rc::new);
        self.sides
            .entry(identity.pid())
            .or_insert_with(open)
            .clone()
    }

    fn opened_ancestor(&mut self, family: &Family) -> Result<Rc<Side>, Reason> {
        let identity = family.ancestor.as_ref().map_err(|why| *why)?;
        let pid = identity.pid();
        let side = match self.ancestor.take() {
            Some((known, side)) if known == pid => side,
            _ => Rc::new(
                Side::open(identity, self.page_bits).map_err(|why| match why {
                    Reason::Unreadable => why,
                    // The ancestor's end is not that of the process.
                    _ => Reason::NoRelative,
                })?,
            ),
        };
        self.ancestor = Some((pid, Rc::clone(&side)));
        Ok(side)
    }

    fn with_ancestor(&mut self, looked: &mut Looked, ancestor: &Side) {
        let mut wanted = Vec::new();
        for (n, &(page, own)) in looked.pages.iter().enumerate() {
            let there = ancestor.extents.at(page << self.page_bits);
            match own {
                Some(_) if own == there => wanted.push(n),
                Some(Mapped::File { .. }) => {
                    looked.found[n] = Found::Not(Reason::MappedAfterFork);
                }
                // The process, or the ancestor, has unmapped it.
                None | Some(Mapped::Anonymous) => {}
            }
        }
        self.compare(looked, &wanted, ancestor, With::Ancestor);
    }

    /// Compares with a child what was not compared yet, and what the child still has as it was when
    /// the process copied it. That is: the child has another page of memory than the process, and
    /// never copied that page itself. Where the process copied first and forked then, both have one
    /// page; and where the child wrote first, it is the child that copied.
    fn with_child(&mut self, looked: &mut Looked, child: ProcessId, side: &Side) {
        let is_wanted = |n: &usize| {
            let (page, own) = looked.pages[*n];
            matches!(looked.found[*n], Found::Not(_))
                && own.is_some()
                && own == side.extents.at(page << self.page_bits)
                && !self.copied.may_have_copied(child, page)
        };
        let wanted: Vec<usize> = (0..looked.pages.len()).filter(is_wanted).collect();
        self.compare(looked, &wanted, side, With::Child);
    }

    fn compare(&mut self, looked: &mut Looked, wanted: &[usize], side: &Side, with: With) {
        let pages: Vec<u64> = wanted.iter().map(|&n| looked.pages[n].0).collect();
        let skip = match with {
            With::Ancestor | With::ParentInTime => Skip::OneFrame,
            With::Child => Skip::Hidden,
        };
        let images = [&looked.own.image, &side.image];
        let seen = self.comparer.compare(&pages, images, skip);
        for (&n, seen) in wanted.iter().zip(seen) {
            let is_child = with == With::Child;
            let same = match seen {
                // A child that has none has no original; nor has one that has the same.
                Seen::OneFrame | Seen::SecondAbsent | Seen::Hidden if is_child => continue,
                Seen::FirstAbsent | Seen::SecondAbsent => {
                    looked.found[n] = Found::Not(Reason::Absent);
                    continue;
                }
                Seen::Hidden => continue,
                Seen::OneFrame | Seen::Same => true,
                Seen::Counted | Seen::Different => false,
            };
            looked.found[n] = Found::Compared {
                same,
                changed: seen == Seen::Different,
                with,
            };
        }
    }
}

/// Pages that are looked at.
struct Looked {
    /// Numbers, and what the process has mapped there.
    pages: Vec<(u64, Option<Mapped>)>,
    /// What is known of each.
    found: Vec<Found>,
    own: Rc<Side>,
}

impl Looked {
    /// No page that is still mapped was compared, for one reason.
    fn all_mapped(&mut self, why: Reason) {
        for ((_, own), found) in self.pages.iter().zip(&mut self.found) {
            if own.is_some() {
                *found = Found::Not(why);
            }
        }
    }
}

/// Whether the memory of both once was one process's, and no longer is.
fn is_relative(other: &Identity, own: &Identity) -> bool {
    other.has_image_of(own) && !other.is_same_memory(own)
}

/// Why a process cannot be looked at.
fn reason(error: &io::Error) -> Reason {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Reason::Unreadable,
        _ => Reason::Ended,
    }
}
