//! Compares pages of one process with the same pages of another.

use super::image::{Frame, Image};

/// Pages that are read at once, of each of the two.
const PAGES_AT_ONCE: usize = 64;

/// Entries of a page table that are read at once.
const SPAN: u64 = 2048;

/// Up to this many pages between two that are asked for, one look at the page table serves both.
const GAP: u64 = 64;

/// By how much a count differs, at most, for that it is told from other numbers.
pub const COUNTED: u32 = 64;

/// What is seen of a page of two processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Both have one page of memory there.
    OneFrame,
    /// Both have the same bytes.
    Same,
    /// They have different bytes, and that may be counts: no number differs by more than [`COUNTED`].
    Counted,
    /// They have different bytes.
    Different,
    /// The first has no page in memory there.
    FirstAbsent,
    /// The second has none.
    SecondAbsent,
    /// Whether both have one page of memory there is hidden from us, and it was asked for.
    Hidden,
}

/// Which pages need not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// Those that are one page of memory.
    OneFrame,
    /// And those of which that cannot be told.
    Hidden,
}

/// Compares pages, and keeps the room that it needs for that from one process to the next.
pub struct Comparer {
    page_size: usize,
    /// What is behind the pages of a span, in both.
    frames: [Vec<Frame>; 2],
    /// Bytes of pages, of both.
    bytes: [Vec<u8>; 2],
}

impl Comparer {
    /// Compares pages of `page_size` bytes.
    #[must_use]
    pub fn new(page_size: u64) -> Self {
        let bytes = vec![0; page_size as usize * PAGES_AT_ONCE];
        Self {
            page_size: page_size as usize,
            frames: [Vec::new(), Vec::new()],
            bytes: [bytes.clone(), bytes],
        }
    }

    /// Compares `pages`, numbers in ascending order; returns what was seen of each. Pages that are
    /// not in memory in both are not read, so they are not brought in; nor are pages to `skip`.
    pub fn compare(&mut self, pages: &[u64], images: [&Image; 2], skip: Skip) -> Vec<Seen> {
        let mut seen = Vec::with_capacity(pages.len());
        let is_near = |a: &u64, b: &u64| b - a <= GAP;
        let spans = pages.chunk_by(is_near);
        for span in spans.flat_map(|near| near.chunk_by(same_block)) {
            let (Some(&first), Some(&last)) = (span.first(), span.last()) else {
                continue;
            };
            for (image, frames) in images.iter().zip(&mut self.frames) {
                image.frames(first..last + 1, frames);
            }
            let start = seen.len();
            seen.extend(span.iter().map(|page| {
                let at = (page - first) as usize;
                at_first_sight([self.frames[0][at], self.frames[1][at]], skip)
            }));
            self.read_all(span, images, &mut seen[start..]);
        }
        seen
    }

    /// Compares those pages byte for byte of which nothing else is known than [`Seen::Different`].
    pub(super) fn read_all(&mut self, pages: &[u64], images: [&Image; 2], seen: &mut [Seen]) {
        let mut at = 0;
        while at < pages.len() {
            let wanted = |&(n, page): &(usize, &u64)| {
                *page == pages[at] + n as u64 && seen[at + n] == Seen::Different
            };
            let run = pages[at..].iter().enumerate().take(PAGES_AT_ONCE);
            let run = run.take_while(wanted).count();
            if run > 0 {
                self.read(pages[at], images, &mut seen[at..at + run]);
            }
            at += run.max(1);
        }
    }

    /// Compares adjacent pages from page number `first` on, at most [`PAGES_AT_ONCE`].
    fn read(&mut self, mut first: u64, images: [&Image; 2], mut seen: &mut [Seen]) {
        while !seen.is_empty() {
            let size = seen.len() * self.page_size;
            let mut read = [0; 2];
            for ((image, bytes), read) in images.iter().zip(&mut self.bytes).zip(&mut read) {
                *read = image.read(first, &mut bytes[..size]);
            }
            let [own, other] = &self.bytes;
            let both = own
                .chunks_exact(self.page_size)
                .zip(other.chunks_exact(self.page_size));
            let compared = read[0].min(read[1]).min(seen.len());
            for (seen, (own, other)) in seen[..compared].iter_mut().zip(both) {
                if own == other {
                    *seen = Seen::Same;
                } else if is_counted(own, other) {
                    *seen = Seen::Counted;
                }
            }
            // The page at which reading ended is gone by now; what follows may be there.
            if let Some(end) = seen.get_mut(compared) {
                *end = if read[0] <= read[1] {
                    Seen::FirstAbsent
                } else {
                    Seen::SecondAbsent
                };
            }
            let done = (compared + 1).min(seen.len());
            seen = &mut seen[done..];
            first += done as u64;
        }
    }
}

/// Whether no number of 32 bits differs by more than [`COUNTED`]. Of one of 64 bits, the upper half
/// differs by one at most, then.
fn is_counted(own: &[u8], other: &[u8]) -> bool {
    let numbers = |bytes| <[u8]>::as_chunks::<4>(bytes).0.iter();
    numbers(own).zip(numbers(other)).all(|(own, other)| {
        let by = u32::from_ne_bytes(*own).wrapping_sub(u32::from_ne_bytes(*other));
        by.cast_signed().unsigned_abs() <= COUNTED
    })
}

/// What the page tables tell; [`Seen::Different`] where the pages must be read.
fn at_first_sight([own, other]: [Frame; 2], skip: Skip) -> Seen {
    if !own.is_present() {
        Seen::FirstAbsent
    } else if !other.is_present() {
        Seen::SecondAbsent
    } else if own.is_same(other) {
        Seen::OneFrame
    } else if skip == Skip::Hidden && (own.is_hidden() || other.is_hidden()) {
        Seen::Hidden
    } else {
        Seen::Different
    }
}

/// Whether one look at the page table may serve both pages.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that chunk_by wants"
)]
fn same_block(a: &u64, b: &u64) -> bool {
    a / SPAN == b / SPAN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_told_from_other_numbers() {
        let page = |words: [u64; 4]| words.map(u64::to_ne_bytes).concat();
        let old = page([1, 0x7f00_1234_5678, 0, u64::MAX]);
        for (new, counted) in [
            ([3, 0x7f00_1234_5678, 0, u64::MAX], true),
            ([65, 0x7f00_1234_5678, 0, u64::MAX], true),
            ([66, 0x7f00_1234_5678, 0, u64::MAX], false),
            ([1, 0x7f00_1234_5678, 0, 1], true),
            ([1, 0x7f00_1234_9678, 0, u64::MAX], false),
            // The upper half of a word is a number too.
            ([1 | 5 << 32, 0x7f00_1234_5678, 0, u64::MAX], true),
        ] {
            assert_eq!(is_counted(&page(new), &old), counted, "{new:x?}");
        }
    }
}
