//! The functions of stacks, each kept once.

use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::FramesIndex;
use crate::profile::Frame;

/// Lists of functions. A list is known by its place in
/// [`Tally::frame_lists`](super::Tally::frame_lists).
#[derive(Default)]
pub struct Frames {
    functions: HashSet<ByName>,
    lists: HashMap<ByAddress, FramesIndex>,
    free: Vec<FramesIndex>,
}

/// A function, known by everything but its address: the same code is elsewhere in another process.
struct ByName(Arc<Frame>);

impl ByName {
    fn name(&self) -> impl Eq + Hash {
        let Frame {
            function,
            file,
            line,
            module,
            address: _,
            language,
            inlined,
            unknown,
        } = &*self.0;
        (function, file, line, module, language, inlined, unknown)
    }
}

impl PartialEq for ByName {
    fn eq(&self, other: &Self) -> bool {
        let (own, others) = (&self.0, &other.0);
        let parts = |frame: &Frame| (frame.line, frame.language, frame.inlined, frame.unknown);
        parts(own) == parts(others)
            && own.function == others.function
            && own.file == others.file
            && own.module == others.module
    }
}

impl Eq for ByName {}

impl Hash for ByName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name().hash(state);
    }
}

/// A stack's functions. Equal functions are one object, so addresses tell lists apart.
struct ByAddress(Arc<[Arc<Frame>]>);

impl ByAddress {
    fn addresses(&self) -> impl Iterator<Item = *const Frame> {
        self.0.iter().map(Arc::as_ptr)
    }
}

impl PartialEq for ByAddress {
    fn eq(&self, other: &Self) -> bool {
        self.addresses().eq(other.addresses())
    }
}

impl Eq for ByAddress {}

impl Hash for ByAddress {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.addresses().for_each(|address| address.hash(state));
    }
}

impl Frames {
    /// The place of a list in `lists`, where it is added if it is new. A function has the address
    /// at which it was first seen.
    pub fn intern(
        &mut self,
        lists: &mut Vec<Arc<[Arc<Frame>]>>,
        frames: Vec<Frame>,
    ) -> FramesIndex {
        let frames: Arc<[Arc<Frame>]> = frames.into_iter().map(|frame| self.one(frame)).collect();
        let Self {
            lists: known, free, ..
        } = self;
        let key = ByAddress(Arc::clone(&frames));
        *known.entry(key).or_insert_with(|| {
            if let Some(place) = free.pop() {
                lists[place] = frames;
                place
            } else {
                lists.push(frames);
                lists.len() - 1
            }
        })
    }

    fn one(&mut self, frame: Frame) -> Arc<Frame> {
        let frame = ByName(Arc::new(frame));
        if let Some(known) = self.functions.get(&frame) {
            return Arc::clone(&known.0);
        }
        let one = Arc::clone(&frame.0);
        self.functions.insert(frame);
        one
    }

    /// Drops the lists that are not among `used`, and functions that are in no list any more.
    pub fn keep(&mut self, lists: &mut [Arc<[Arc<Frame>]>], used: &HashSet<FramesIndex>) {
        let free = &mut self.free;
        self.lists.retain(|_, place| {
            let is_used = used.contains(place);
            if !is_used {
                lists[*place] = Arc::default();
                free.push(*place);
            }
            is_used
        });
        self.functions
            .retain(|frame| Arc::strong_count(&frame.0) > 1);
    }
}
