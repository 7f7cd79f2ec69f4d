//! Compares pages of one process with the same pages of another.

use std::ops::Range;

use super::image::{Frame, Image};

/// Pages that are read at once, of each of the two.
const PAGES_AT_ONCE: usize = 64;

/// Entries of a page table that are read at once.
const SPAN: u64 = 2048;

/// Up to this many pages between two that are asked for, one look at the page table serves both.
const GAP: u64 = 64;

/// What comparing some pages found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Pages present in both.
    pub compared: u64,
    /// Compared pages with the same bytes.
    pub unchanged: u64,
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

    /// Compares `pages`, numbers in ascending order. Pages that are not in memory in both are left
    /// out, so they are not brought in; pages that are the same memory are not read.
    pub fn compare(&mut self, pages: &[u64], images: [&Image; 2]) -> Compared {
        let mut sum = Compared::default();
        let mut wanted = Vec::with_capacity(PAGES_AT_ONCE);
        let is_near = |a: &u64, b: &u64| b - a <= GAP;
        let spans = pages.chunk_by(is_near);
        for span in spans.flat_map(|near| near.chunk_by(same_block)) {
            let (Some(&first), Some(&last)) = (span.first(), span.last()) else {
                continue;
            };
            for (image, frames) in images.iter().zip(&mut self.frames) {
                image.frames(first..last + 1, frames);
            }
            for &page in span {
                let at = (page - first) as usize;
                let (own, other) = (self.frames[0][at], self.frames[1][at]);
                if own.is_same(other) {
                    sum.compared += 1;
                    sum.unchanged += 1;
                } else if own.is_present() && other.is_present() {
                    wanted.push(page);
                }
            }
            self.read_all(&wanted, images, &mut sum);
            wanted.clear();
        }
        sum
    }

    /// Compares pages byte for byte.
    pub(super) fn read_all(&mut self, pages: &[u64], images: [&Image; 2], sum: &mut Compared) {
        for run in pages.chunk_by(|a, b| a + 1 == *b) {
            for part in run.chunks(PAGES_AT_ONCE) {
                self.read(part[0]..part[0] + part.len() as u64, images, sum);
            }
        }
    }

    /// Compares adjacent pages, at most [`PAGES_AT_ONCE`], byte for byte.
    fn read(&mut self, mut pages: Range<u64>, images: [&Image; 2], sum: &mut Compared) {
        while !pages.is_empty() {
            let size = (pages.end - pages.start) as usize * self.page_size;
            let mut read = u64::MAX;
            for (image, bytes) in images.iter().zip(&mut self.bytes) {
                read = read.min(image.read(pages.start, &mut bytes[..size]) as u64);
            }
            let [own, other] = &self.bytes;
            let both = own
                .chunks_exact(self.page_size)
                .zip(other.chunks_exact(self.page_size))
                .take(read as usize);
            sum.compared += read;
            sum.unchanged += both.filter(|(own, other)| own == other).count() as u64;
            // The page at which reading ended is gone by now; what follows may be there.
            pages.start += read + 1;
        }
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
