//! Reads a saved report, which anybody may have written.

use std::io::{self, Read};

use anyhow::{Context as _, Result, bail, ensure};
use flate2::read::MultiGzDecoder;
use serde::Deserialize;

use super::{Profile, SCHEMA, sums};
use crate::distribution;

/// Bytes of the largest report that is read, as they are and unpacked. One of 10,000 stacks has a
/// ninth of that.
pub const LARGEST_REPORT: u64 = 512 << 20;

/// Buckets that all histograms of a report may have together. One of 10,000 call sites has a tenth
/// of that; without a bound a small report could unpack to any size.
const MOST_BUCKETS: u64 = 16 << 20;

/// How a file begins that gzip made. No JSON begins so.
const GZIP: [u8; 2] = [0x1f, 0x8b];

const UNREADABLE: &str = "the report cannot be read";

/// Reads a report that was written as JSON, compressed by gzip or not, by this version or another
/// of the same schema. What a later version added is left out, except for names of causes,
/// languages and the like, which are kept ([`Other`](super::Other)).
///
/// # Errors
///
/// When it is not such a report, is larger than [`LARGEST_REPORT`], unpacked or not, cannot be
/// read, or does not add up. Memory and time are bounded by that whatever it is.
pub fn read(from: impl Read) -> Result<Profile> {
    read_at_most(LARGEST_REPORT, from)
}

/// [`read`], with another bound.
pub(super) fn read_at_most(largest: u64, from: impl Read) -> Result<Profile> {
    // Of what was compressed, neither what is read nor what it unpacks to is more than that.
    let mut from = from.take(largest + 1);
    let mut text = Vec::new();
    from.by_ref()
        .take(GZIP.len() as u64)
        .read_to_end(&mut text)
        .context(UNREADABLE)?;
    if text == GZIP {
        let packed = MultiGzDecoder::new(GZIP.as_slice().chain(from));
        text.clear();
        packed
            .take(largest + 1)
            .read_to_end(&mut text)
            .context("the report cannot be unpacked; it was cut or damaged: use the original")?;
    } else {
        from.read_to_end(&mut text).context(UNREADABLE)?;
    }
    ensure!(
        text.len() as u64 <= largest,
        "the report is larger than {} MiB, the most that memtrace reads; make one of a shorter \
         trace, or of fewer processes",
        largest >> 20
    );
    let profile = parse(&text)?;
    sums::check(&profile).context(
        "the report does not add up, so its figures cannot be trusted; it was damaged or changed: \
         use the original, or trace again",
    )?;
    Ok(profile)
}

fn parse(text: &[u8]) -> Result<Profile> {
    let parsed = distribution::with_at_most(MOST_BUCKETS, || serde_json::from_slice(text));
    // A report of another schema is better refused for that than for the first field that differs.
    let schema = match &parsed {
        Ok(Profile { schema, .. }) => Some(schema.clone()),
        Err(_) => schema_of(text),
    };
    match schema {
        Some(schema) if !is_read(&schema) => bail!(
            "the report has the schema {schema:?}, and memtrace {} reads {SCHEMA}; use the memtrace \
             that wrote it, or a later one",
            env!("CARGO_PKG_VERSION")
        ),
        _ => {}
    }
    parsed.map_err(said_why).context(
        "this is not a whole report of memtrace, so there is nothing to show; give a file that \
         memtrace has written as JSON",
    )
}

/// The schema of a report of which everything else may be unknown.
fn schema_of(text: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Head {
        schema: String,
    }
    let head: Head = serde_json::from_slice(text).ok()?;
    Some(head.schema)
}

/// Whether this version reads the schema: later ones of the same number only add to it.
fn is_read(schema: &str) -> bool {
    let minor = schema.strip_prefix(SCHEMA);
    minor.is_some_and(|minor| minor.is_empty() || minor.starts_with('.'))
}

/// An error of `serde_json` without what it says of an input that ended: that it was cut is
/// plainer.
fn said_why(error: serde_json::Error) -> anyhow::Error {
    if error.is_eof() {
        let (line, column) = (error.line(), error.column());
        let kind = io::ErrorKind::UnexpectedEof;
        return io::Error::new(
            kind,
            format!("it ends at line {line} column {column}, too early"),
        )
        .into();
    }
    error.into()
}
