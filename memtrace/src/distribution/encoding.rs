//! The HdrHistogram V2 compressed encoding of a distribution, as base64 text.
//!
//! Writing uses the `hdrhistogram` crate. Reading does not: its decoder takes lengths from the
//! input on trust, and a report that is read again may come from anywhere. The format is small:
//! a cookie and a length, then a zlib stream of a 40-byte header and of variable-length numbers, of
//! which a positive one is a bucket's count and a negative one a run of empty buckets.

use std::cell::RefCell;
use std::io::Read as _;

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::{Compress, Compression, FlushCompress, Status};
use hdrhistogram::serialization::{Serializer as _, V2Serializer};

use super::table::MAX_COUNT;
use super::{BUCKETS, SIGNIFICANT_DIGITS, histogram_of};

const COOKIE: u32 = 0x1c84_9313;
const COMPRESSED_COOKIE: u32 = 0x1c84_9314;
const HEADER: usize = 40;
/// No valid encoding is longer: nine bytes a bucket, and the header.
const MAX_PLAIN: usize = HEADER + 9 * BUCKETS as usize;
/// Likewise compressed and as base64; deflate adds a few bytes at most to what it cannot shrink.
const MAX_TEXT: usize = MAX_PLAIN / 3 * 4 + 1024;

/// What encoding needs, kept between calls: a report encodes tens of thousands.
struct Encoder {
    serializer: V2Serializer,
    plain: Vec<u8>,
    packed: Vec<u8>,
}

thread_local! {
    static ENCODER: RefCell<Encoder> = RefCell::new(Encoder {
        serializer: V2Serializer::new(),
        plain: Vec::new(),
        packed: Vec::new(),
    });
}

/// Encodes sorted, distinct buckets with their counts.
///
/// # Errors
///
/// When the crates that encode refuse, which they have no cause to.
pub(super) fn encode(buckets: &[(u16, u64)]) -> anyhow::Result<String> {
    ENCODER.with_borrow_mut(|encoder| {
        let Encoder {
            serializer,
            plain,
            packed,
        } = encoder;
        plain.clear();
        serializer.serialize(&histogram_of(buckets), plain)?;

        packed.clear();
        // What zlib documents as enough for one call: a thousandth and a few bytes more.
        packed.reserve(plain.len() + plain.len() / 500 + 64);
        packed.extend_from_slice(&COMPRESSED_COOKIE.to_be_bytes());
        packed.extend_from_slice(&[0; 4]);
        // A new one each time: after a reset, the same input can give another output.
        let mut compress = Compress::new(Compression::default(), true);
        let status = compress.compress_vec(plain, packed, FlushCompress::Finish)?;
        ensure!(
            status == Status::StreamEnd,
            "a histogram could not be compressed in one piece"
        );
        let length = (packed.len() - 8) as u32;
        packed[4..8].copy_from_slice(&length.to_be_bytes());
        Ok(STANDARD.encode(packed))
    })
}

/// Decodes what [`encode`] made: distinct buckets in order, each with a count above 0.
///
/// # Errors
///
/// When `text` is anything else. Memory stays below 2 MiB whatever it is.
pub(super) fn decode(text: &str) -> anyhow::Result<Vec<(u16, u64)>> {
    ensure!(
        text.len() <= MAX_TEXT,
        "the histogram is longer than any can be"
    );
    let packed = STANDARD
        .decode(text)
        .context("the histogram is not base64")?;
    let (head, body) = packed
        .split_at_checked(8)
        .context("the histogram is cut short")?;
    ensure!(
        be_u32(head, 0) == COMPRESSED_COOKIE,
        "not a compressed HdrHistogram V2 encoding"
    );
    ensure!(
        be_u32(head, 4) as usize == body.len(),
        "the histogram's length is wrong"
    );

    let mut plain = Vec::new();
    let limit = MAX_PLAIN as u64 + 1;
    flate2::read::ZlibDecoder::new(body)
        .take(limit)
        .read_to_end(&mut plain)
        .context("the histogram cannot be decompressed")?;
    ensure!(
        plain.len() <= MAX_PLAIN,
        "the histogram is longer than any can be"
    );
    decode_plain(&plain)
}

fn decode_plain(plain: &[u8]) -> anyhow::Result<Vec<(u16, u64)>> {
    let (head, mut rest) = plain
        .split_at_checked(HEADER)
        .context("the histogram is cut short")?;
    ensure!(be_u32(head, 0) == COOKIE, "not an HdrHistogram V2 encoding");
    ensure!(
        be_u32(head, 4) as usize == rest.len(),
        "the histogram's length is wrong"
    );
    ensure!(
        be_u32(head, 8) == 0,
        "the histogram is shifted, which memtrace never does"
    );
    let (digits, lowest) = (
        be_u32(head, 12),
        u64::from(be_u32(head, 16)) << 32 | u64::from(be_u32(head, 20)),
    );
    ensure!(
        digits == u32::from(SIGNIFICANT_DIGITS) && lowest == 1,
        "the histogram keeps {digits} digits from {lowest} up; memtrace keeps 3 from 1 up"
    );

    let mut buckets = Vec::new();
    let mut bucket = 0_u64;
    while !rest.is_empty() {
        let number = varint(&mut rest).context("the histogram is cut short")?;
        let step = match number {
            ..0 => number.unsigned_abs(),
            0 => 1,
            _ => {
                let count = number.unsigned_abs();
                if bucket >= u64::from(BUCKETS) {
                    bail!("the histogram counts beyond the last bucket");
                }
                ensure!(
                    count <= MAX_COUNT,
                    "a count of the histogram is beyond belief"
                );
                buckets.push((bucket as u16, count));
                1
            }
        };
        bucket = bucket.saturating_add(step);
    }
    Ok(buckets)
}

/// The number at the front, seven bits a byte, the ninth byte whole; sign in the lowest bit.
fn varint(rest: &mut &[u8]) -> Option<i64> {
    let mut coded = 0_u64;
    for place in 0..9 {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        if place == 8 {
            coded |= u64::from(byte) << 56;
            break;
        }
        coded |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            break;
        }
    }
    Some((coded >> 1) as i64 ^ -((coded & 1) as i64))
}

/// The big-endian number at `at`, which the caller has checked to be inside.
fn be_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
