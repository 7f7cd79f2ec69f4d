//! The functions of stacks, each kept once.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use foldhash::{HashMap, HashSet};

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

/// A function and a place in its file, known by everything but its address: the same code is
/// elsewhere in another process.
struct ByName(Arc<Frame>, u64);

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
        (
            function, file, line, module, language, inlined, unknown, self.1,
        )
    }
}

impl PartialEq for ByName {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
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
    /// The index of a list in `lists`, where it is added if it is new; `places` are the functions'
    /// places in their files. A function has the address at which it was first seen.
    pub fn intern(
        &mut self,
        lists: &mut Vec<Arc<[Arc<Frame>]>>,
        frames: Vec<Frame>,
        places: &[u64],
    ) -> FramesIndex {
        let frames: Arc<[Arc<Frame>]> = {
            let places = places.iter().copied().chain(std::iter::repeat(0));
            let frames = frames.into_iter().zip(places);
            frames
                .map(|(frame, place)| self.one(frame, place))
                .collect()
        };
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

    fn one(&mut self, frame: Frame, place: u64) -> Arc<Frame> {
        let frame = ByName(Arc::new(frame), place);
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
