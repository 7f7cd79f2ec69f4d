//! How the latencies and ages of a call site are distributed.
//!
//! A [`Distribution`] counts values in exactly the buckets of an HdrHistogram with three
//! significant digits and a lowest discernible value of 1, so turning one into a real
//! [`Histogram`] and back loses nothing. A real one costs an array of up to 56,320 counters; there
//! can be tens of thousands of distributions in one trace, most with a few dozen values, so only
//! the buckets that are in use are kept here, and the array exists while a report is written.
//!
//! In a report a distribution is `{"min","p50","p90","p99","max","hdr"}`, where `hdr` is base64 of
//! the HdrHistogram V2 compressed encoding; all are null when nothing was recorded. Values read
//! back come from `hdr` alone, see [`encoding`].

use std::cell::Cell;

use hdrhistogram::Histogram;
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub mod encoding;
mod table;

use table::Table;

/// Significant decimal digits that are told apart.
pub const SIGNIFICANT_DIGITS: u8 = 3;
/// Bucket numbers are below this: 54 powers of two above the first 2,048 values, 1,024 buckets
/// each, and twice as many for the first.
const BUCKETS: u16 = 55 * 1024;
/// Up to so many values are kept one by one, in two bytes each.
const FEW: usize = 256;

/// Counts of values, by bucket.
#[derive(Clone, Debug)]
pub struct Distribution {
    store: Store,
}

#[derive(Clone, Debug)]
enum Store {
    /// The bucket of each value, in order of arrival.
    Few(Vec<u16>),
    /// Count by bucket.
    Many(Table),
}

/// The figures that reports print. Each is a value that is equivalent to the recorded one within
/// three significant digits, chosen as HdrHistogram does: the bucket's lowest value for `min`, its
/// highest for the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The smallest value.
    pub min: u64,
    /// Half of the values are at most this.
    pub p50: u64,
    /// 90% of the values are at most this.
    pub p90: u64,
    /// 99% of the values are at most this.
    pub p99: u64,
    /// The largest value.
    pub max: u64,
}

impl Default for Distribution {
    fn default() -> Self {
        Self {
            store: Store::Few(Vec::new()),
        }
    }
}

impl Distribution {
    /// A distribution of no values; it holds no memory yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts one value.
    #[inline]
    pub fn record(&mut self, value: u64) {
        let bucket = bucket_of(value);
        match &mut self.store {
            Store::Few(values) if values.len() < FEW => values.push(bucket),
            Store::Few(_) => self.table().add(bucket, 1),
            Store::Many(table) => table.add(bucket, 1),
        }
    }

    /// Counts `n` values that are the same.
    pub fn record_n(&mut self, value: u64, n: u64) {
        self.add(bucket_of(value), n);
    }

    /// Counts everything that `other` has counted.
    pub fn merge(&mut self, other: &Self) {
        match &other.store {
            Store::Few(values) => values.iter().for_each(|&bucket| self.add(bucket, 1)),
            Store::Many(table) => table.iter().for_each(|(bucket, n)| self.add(bucket, n)),
        }
    }

    /// How many values were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        match &self.store {
            Store::Few(values) => values.len() as u64,
            Store::Many(table) => (table.iter()).fold(0, |sum, (_, n)| u64::saturating_add(sum, n)),
        }
    }

    /// How many of the values are at most this one, within three significant digits.
    #[must_use]
    pub fn count_up_to(&self, value: u64) -> u64 {
        let last = bucket_of(value);
        let buckets = self.buckets().into_iter();
        let up_to = buckets.take_while(|(bucket, _)| *bucket <= last);
        up_to.fold(0, |sum, (_, n)| sum.saturating_add(n))
    }

    /// The sum of all values, within three significant digits.
    #[must_use]
    pub fn sum(&self) -> f64 {
        let middle = |bucket| lowest_of(bucket) as f64 / 2.0 + highest_of(bucket) as f64 / 2.0;
        let buckets = self.buckets().into_iter();
        buckets.map(|(bucket, n)| middle(bucket) * n as f64).sum()
    }

    /// Whether nothing was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match &self.store {
            Store::Few(values) => values.is_empty(),
            Store::Many(table) => table.is_empty(),
        }
    }

    /// The figures for a report, or `None` when nothing was counted.
    #[must_use]
    pub fn summary(&self) -> Option<Summary> {
        summarise(&self.buckets())
    }

    /// All counts: base64 of the HdrHistogram V2 compressed encoding; `None` when nothing was counted.
    ///
    /// # Errors
    ///
    /// When the crates that encode refuse, which they have no cause to.
    pub fn encoded(&self) -> anyhow::Result<Option<String>> {
        let buckets = self.buckets();
        (!buckets.is_empty())
            .then(|| encoding::encode(&buckets))
            .transpose()
    }

    /// The same counts as a real HdrHistogram, which grows when a larger value is recorded.
    #[must_use]
    pub fn histogram(&self) -> Histogram<u64> {
        histogram_of(&self.buckets())
    }

    /// Every bucket in use with its count, in order.
    fn buckets(&self) -> Vec<(u16, u64)> {
        match &self.store {
            Store::Few(values) => {
                let mut sorted = values.clone();
                sorted.sort_unstable();
                sorted
                    .chunk_by(|a, b| a == b)
                    .map(|run| (run[0], run.len() as u64))
                    .collect()
            }
            Store::Many(table) => {
                let mut sorted: Vec<_> = table.iter().collect();
                sorted.sort_unstable();
                sorted
            }
        }
    }

    fn add(&mut self, bucket: u16, n: u64) {
        match &mut self.store {
            _ if n == 0 => {}
            Store::Few(values) if n == 1 && values.len() < FEW => values.push(bucket),
            Store::Few(_) => self.table().add(bucket, n),
            Store::Many(table) => table.add(bucket, n),
        }
    }

    /// The table, made from the single values if there is none yet.
    #[cold]
    fn table(&mut self) -> &mut Table {
        if let Store::Few(_) = &self.store {
            let buckets = self.buckets();
            let mut table = Table::with_room_for(buckets.len());
            for (bucket, n) in buckets {
                table.add(bucket, n);
            }
            self.store = Store::Many(table);
        }
        match &mut self.store {
            Store::Many(table) => table,
            Store::Few(_) => unreachable!("replaced above"),
        }
    }
}

/// The bucket that HdrHistogram counts `value` in.
#[inline]
fn bucket_of(value: u64) -> u16 {
    // The power of two by which the value exceeds what fits into 11 bits: 0 to 53.
    let magnitude = 53 - (value | 0x7ff).leading_zeros();
    // From 1,024 to 2,047, except for magnitude 0, where it is the value itself.
    let sub_bucket = (value >> magnitude) as u32;
    ((magnitude << 10) + sub_bucket) as u16
}

/// The least value of a bucket.
fn lowest_of(bucket: u16) -> u64 {
    match bucket >> 10 {
        0 => u64::from(bucket),
        group => u64::from((bucket & 0x3ff) + 1024) << (group - 1),
    }
}

/// The greatest value of a bucket.
fn highest_of(bucket: u16) -> u64 {
    let width = 1 << (bucket >> 10).saturating_sub(1);
    lowest_of(bucket) + (width - 1)
}

/// The figures of sorted, distinct `buckets`.
fn summarise(buckets: &[(u16, u64)]) -> Option<Summary> {
    let (&(first, _), &(last, _)) = (buckets.first()?, buckets.last()?);
    let count: u64 = buckets.iter().map(|(_, n)| n).sum();
    let at = |quantile: f64| {
        let rank = ((quantile * count as f64).ceil() as u64).max(1);
        let mut seen = 0;
        let found = buckets.iter().find(|(_, n)| {
            seen += n;
            seen >= rank
        });
        // Above 2^53 the product is rounded and may pass the count.
        highest_of(found.map_or(last, |&(bucket, _)| bucket))
    };
    Some(Summary {
        min: lowest_of(first),
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        max: highest_of(last),
    })
}

/// A histogram with the counts of sorted, distinct `buckets`.
fn histogram_of(buckets: &[(u16, u64)]) -> Histogram<u64> {
    // The range is tight, so that the array is as small as it can be.
    let high = buckets
        .last()
        .map_or(2, |&(bucket, _)| highest_of(bucket).max(2));
    let mut histogram = Histogram::new_with_bounds(1, high, SIGNIFICANT_DIGITS)
        .expect("1 is a low, 2 and more a high bound, and 3 digits are between 0 and 5");
    histogram.auto(true);
    for &(bucket, n) in buckets {
        histogram
            .record_n(lowest_of(bucket), n)
            .expect("no value is above the high bound");
    }
    histogram
}

/// How values are distributed, within three significant digits; all `None` when there are none.
#[derive(Serialize, Deserialize)]
struct Written {
    /// The smallest.
    min: Option<u64>,
    /// Half of the values are at most this.
    p50: Option<u64>,
    /// 90% of the values are at most this.
    p90: Option<u64>,
    /// 99% of the values are at most this.
    p99: Option<u64>,
    /// The largest.
    max: Option<u64>,
    /// All counts: base64 of the HdrHistogram V2 compressed encoding. The other figures are for
    /// readers that do not decode it.
    hdr: Option<String>,
}

impl Serialize for Distribution {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let buckets = self.buckets();
        let summary = summarise(&buckets);
        let hdr = match summary {
            Some(_) => Some(encoding::encode(&buckets).map_err(S::Error::custom)?),
            None => None,
        };
        Written {
            min: summary.map(|s| s.min),
            p50: summary.map(|s| s.p50),
            p90: summary.map(|s| s.p90),
            p99: summary.map(|s| s.p99),
            max: summary.map(|s| s.max),
            hdr,
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Distribution {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut distribution = Self::new();
        if let Some(hdr) = Written::deserialize(deserializer)?.hdr {
            let buckets = encoding::decode(&hdr).map_err(D::Error::custom)?;
            let left = BUCKETS_LEFT.get().checked_sub(buckets.len() as u64);
            let left = left.ok_or_else(|| {
                D::Error::custom("the histograms have more buckets than a report can have")
            })?;
            BUCKETS_LEFT.set(left);
            for (bucket, n) in buckets {
                distribution.add(bucket, n);
            }
        }
        Ok(distribution)
    }
}

thread_local! {
    /// Buckets of distributions that may still be read on this thread.
    static BUCKETS_LEFT: Cell<u64> = const { Cell::new(u64::MAX) };
}

/// Does `work`, in which distributions of at most so many buckets in all can be deserialised. A
/// histogram of a hundred bytes can have all 56,320; whoever reads many of unknown origin needs a
/// bound for all of them together.
pub fn with_at_most<T>(buckets: u64, work: impl FnOnce() -> T) -> T {
    struct Restore(u64);
    impl Drop for Restore {
        fn drop(&mut self) {
            BUCKETS_LEFT.set(self.0);
        }
    }
    let _restore = Restore(BUCKETS_LEFT.replace(buckets));
    work()
}

#[cfg(test)]
mod tests;
