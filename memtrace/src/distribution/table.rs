//! Counts by bucket, in a hash table of one machine word per bucket in use.

/// The most that one bucket counts; beyond it the count stays there.
pub(super) const MAX_COUNT: u64 = (1 << COUNT_BITS) - 1;

const COUNT_BITS: u32 = 48;
const SMALLEST: usize = 16;

/// An open-addressed table: a slot is the bucket above 48 bits of count, 0 when it is free.
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// A power of two of them, at most three quarters in use.
    slots: Box<[u64]>,
    used: usize,
}

impl Table {
    pub(super) fn with_room_for(buckets: usize) -> Self {
        let capacity = (buckets * 4 / 3 + 1).next_power_of_two().max(SMALLEST);
        Self {
            slots: vec![0; capacity].into_boxed_slice(),
            used: 0,
        }
    }

    #[inline]
    pub(super) fn add(&mut self, bucket: u16, n: u64) {
        let mask = self.slots.len() - 1;
        let mut at = home(bucket) & mask;
        loop {
            let slot = &mut self.slots[at];
            if *slot == 0 {
                break;
            }
            if (*slot >> COUNT_BITS) as u16 == bucket {
                let count = (*slot & MAX_COUNT).saturating_add(n).min(MAX_COUNT);
                *slot = pack(bucket, count);
                return;
            }
            at = (at + 1) & mask;
        }
        self.slots[at] = pack(bucket, n.min(MAX_COUNT));
        self.used += usize::from(n > 0);
        if self.used * 4 > self.slots.len() * 3 {
            self.grow();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Every bucket in use with its count, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u16, u64)> {
        let used = self.slots.iter().filter(|slot| **slot != 0);
        used.map(|slot| ((slot >> COUNT_BITS) as u16, slot & MAX_COUNT))
    }

    #[cold]
    fn grow(&mut self) {
        // Room for a half more passes to the next power of two, and no further.
        let mut larger = Self::with_room_for(self.used + self.used / 2);
        self.iter().for_each(|(bucket, n)| larger.add(bucket, n));
        *self = larger;
    }
}

fn pack(bucket: u16, count: u64) -> u64 {
    if count == 0 {
        0
    } else {
        u64::from(bucket) << COUNT_BITS | count
    }
}

/// Where a bucket is looked for first. Neighbouring buckets are used together, so the product's
/// upper half spreads them.
#[inline]
fn home(bucket: u16) -> usize {
    (u32::from(bucket).wrapping_mul(0x9e37_79b9) >> 12) as usize
}
