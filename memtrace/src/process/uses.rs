//! What processes share, and how many have each: what nobody has any more can be forgotten.

use foldhash::HashMap;

use super::processes::SpaceId;

/// Something that processes share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Used {
    /// A snapshot of mappings.
    Space(SpaceId),
    /// A program, by its number.
    Program(u64),
}

/// How many processes have each.
#[derive(Debug, Default)]
pub struct Uses {
    counts: HashMap<Used, usize>,
    /// Those that nobody has any more.
    unused: Vec<Used>,
}

impl Uses {
    /// One more process has it.
    pub fn add(&mut self, used: Used) {
        *self.counts.entry(used).or_default() += 1;
    }

    /// A process does not have it any more.
    pub fn remove(&mut self, used: Used) {
        let Some(count) = self.counts.get_mut(&used) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            self.counts.remove(&used);
            self.unused.push(used);
        }
    }

    /// What nobody has any more since the last call.
    pub fn take_unused(&mut self) -> Vec<Used> {
        std::mem::take(&mut self.unused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_its_last_user_leaves_is_told_once() {
        let mut uses = Uses::default();
        let (one, other) = (Used::Program(1), Used::Space(SpaceId::Unread(1)));
        for used in [one, one, other] {
            uses.add(used);
        }
        uses.remove(one);
        assert!(uses.take_unused().is_empty());
        uses.remove(one);
        uses.remove(other);
        assert_eq!(uses.take_unused(), [one, other]);
        uses.remove(one);
        assert!(uses.take_unused().is_empty());
    }
}
