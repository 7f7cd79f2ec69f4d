//! What differs between two profiles, and what of that is more than chance.
//!
//! [`compare`] adds up the copies of both by cause, call site, frame of the application, object type
//! and role ([`tally`]), finds what belongs together although lines and files moved ([`matching`]),
//! and judges every pair ([`judge`], [`doubt`]). Worker processes are the sample: whatever they do not agree on
//! themselves is no difference between two runs ([`sample`]).
//!
//! Data in, data out: nothing here reads files or shows anything. Serialised, a [`Difference`] is the
//! report of schema `memtrace-diff/1`.

use std::sync::Arc;

use serde::Serialize;

use crate::profile::{CauseName, Profile, Site};

mod doubt;
mod judge;
mod matching;
mod notes;
mod sample;
mod tally;
pub mod workers;

#[cfg(test)]
mod tests;

pub use doubt::{LEVEL, RUNS_DIFFER};
use judge::Judge;
pub use judge::LARGE_FACTOR;
use tally::Tally;
use workers::Workers;

/// The value of [`Difference::schema`].
pub const SCHEMA: &str = "memtrace-diff/1";

/// Two profiles, compared. Sizes are bytes.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// Version of the memtrace that compared them.
    pub memtrace: &'static str,
    /// The profile that is compared with.
    pub base: Side,
    /// The profile that is compared.
    pub new: Side,
    /// What the main figures are of, except where a row says otherwise.
    pub unit: Unit,
    /// How often runs that do not differ are said to differ, at most: over all rows but the first
    /// two, and over these two.
    pub level: f64,
    /// Everything that was copied.
    pub total: Row,
    /// What of it was only read.
    pub copy_on_read: Row,
    /// By cause. In this and the lists that follow, what differs most comes first.
    pub causes: Vec<Row>,
    /// By call site and cause.
    pub call_sites: Vec<Row>,
    /// By the frame that a person can act on: the application's, where a library copied.
    pub app_frames: Vec<Row>,
    /// By the type of the object written to; what is of none is left out.
    pub types: Vec<Row>,
    /// By what processes are there for.
    pub roles: Vec<Row>,
    /// What to know before trusting the comparison.
    pub notes: Vec<String>,
}

/// One of the two profiles.
#[derive(Clone, Debug, Serialize)]
pub struct Side {
    /// What it is called: the file that it was read from.
    pub name: String,
    /// When it was recorded.
    pub started_at: String,
    /// For how long.
    pub duration_s: f64,
    /// How many processes were traced.
    pub processes: u64,
    /// Of these, the workers: forked by another one, and going on with its program.
    pub workers: u64,
    /// How long a worker was traced, on average.
    pub worker_s: f64,
    /// Processes that were forked during the trace.
    pub forks: u64,
    /// Bytes that were copied.
    pub copied_bytes: u64,
}

/// What a figure is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// One worker process, on average.
    Worker,
    /// One process of a role, on average.
    Process,
    /// One second of the trace.
    Second,
    /// The whole trace.
    Trace,
}

/// The same in both profiles.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What it is.
    pub what: What,
    /// How it differs.
    pub kind: Kind,
    /// How much it was.
    pub base: Amount,
    /// How much it is.
    pub new: Amount,
    /// Why it is said to differ, or not.
    pub judged: Judged,
}

/// What a row is about. Names are as in the profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Everything.
    Total,
    /// What was only read.
    CopyOnRead,
    /// A cause.
    Cause(CauseName),
    /// A call site and its cause.
    CallSite {
        /// Where it is; in `base` where it is not in `new`.
        site: Site,
        /// Where it was, if that is elsewhere.
        #[serde(skip_serializing_if = "Option::is_none")]
        moved_from: Option<Site>,
        /// What the write was.
        cause: CauseName,
    },
    /// A frame that a person can act on.
    AppFrame {
        /// Where it is; in `base` where it is not in `new`.
        site: Site,
        /// Where it was, if that is elsewhere.
        #[serde(skip_serializing_if = "Option::is_none")]
        moved_from: Option<Site>,
        /// Whether a library copied for it: else it is a call site itself.
        by_library: bool,
    },
    /// An object type.
    Type(Arc<str>),
    /// What processes are there for.
    Role {
        /// `worker`, `master` and the like; or where the profiles have no roles, `worker` or
        /// `process`.
        kind: String,
        /// What its processes are called.
        name: String,
    },
}

/// How a row differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Nothing of it was there.
    Appeared,
    /// Nothing of it is left.
    Vanished,
    /// It is significantly more.
    Grew,
    /// It is significantly less.
    Shrank,
    /// It does not differ significantly.
    Same,
}

/// How much a row is in one profile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Amount {
    /// Bytes that all processes copied.
    pub bytes: u64,
    /// Of these, by process that was traced.
    pub per_process: f64,
    /// By second; `None` for a trace of no time.
    pub per_second: Option<f64>,
    /// By process that was forked during the trace; `None` where there was none.
    pub per_fork: Option<f64>,
    /// The main figure: bytes by the row's unit.
    pub figure: f64,
    /// Over which processes the figure is an average, and how they differ; absent where it is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread: Option<Spread>,
}

/// How processes differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Spread {
    /// How many there are.
    pub processes: u64,
    /// Bytes of the one that copied least.
    pub min: u64,
    /// Bytes of the one that copied most.
    pub max: u64,
}

/// Why a row is said to differ, or not.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Judged {
    /// What its figures are of.
    pub unit: Unit,
    /// How likely such a difference is between equal runs, if nothing else is compared; absent where
    /// there is no spread to tell by, and where the length of the traces explains it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p: Option<f64>,
    /// What it comes to.
    pub by: Reason,
}

/// What a judgement came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It is more than the spread over processes explains.
    BeyondSpread,
    /// There is no spread, and the one is a multiple of the other.
    LargeFactor,
    /// It is not more than the spread over processes, or equal runs, explain.
    WithinSpread,
    /// There is no spread, and the one is no large multiple of the other.
    NoSpread,
    /// Two workers tell little, and the one is not twice the other.
    FewWorkers,
    /// It is too little to matter.
    Small,
    /// The traces, or their workers' lives, are of different length, which may be why.
    Length,
}

impl Reason {
    /// Whether it makes a difference significant.
    #[must_use]
    pub fn is_significant(self) -> bool {
        matches!(self, Self::BeyondSpread | Self::LargeFactor)
    }
}

impl Row {
    /// Whether it differs significantly.
    #[must_use]
    pub fn is_significant(&self) -> bool {
        self.kind != Kind::Same
    }

    /// How much more it is, in its unit; negative where it is less.
    #[must_use]
    pub fn change(&self) -> f64 {
        self.new.figure - self.base.figure
    }

    /// How much more it is, of what it was: 0.1 for 10 % more; `None` where it was nothing.
    #[must_use]
    pub fn relative(&self) -> Option<f64> {
        (self.base.figure > 0.0).then(|| self.change() / self.base.figure)
    }
}

impl Difference {
    /// All rows below the first two.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        let lists = [
            &self.causes,
            &self.call_sites,
            &self.app_frames,
            &self.types,
            &self.roles,
        ];
        lists.into_iter().flatten()
    }

    /// Whether anything differs.
    #[must_use]
    pub fn is_significant(&self) -> bool {
        let first = [&self.total, &self.copy_on_read];
        first
            .into_iter()
            .chain(self.rows())
            .any(Row::is_significant)
    }
}

/// Compares two profiles, each with the name that it is to be called by.
#[must_use]
pub fn compare(
    (base, base_name): (&Profile, &str),
    (new, new_name): (&Profile, &str),
) -> Difference {
    let workers = [Workers::of(base), Workers::of(new)];
    let tally = Tally::of(base, new);
    let judge = Judge::of([base, new], &workers);
    let mut first = judge
        .family(vec![vec![tally.total, tally.copy_on_read]])
        .concat();
    let by_lists = vec![
        tally.causes,
        matching::call_sites(base, new),
        matching::app_frames(base, new),
        tally.types,
        tally.roles,
    ];
    let mut lists = judge.family(by_lists).into_iter().map(sorted);
    let mut list = || lists.next().unwrap_or_default();
    let side = |profile: &Profile, workers: &Workers, name: &str| Side {
        name: name.to_owned(),
        started_at: profile.started_at.clone(),
        duration_s: profile.duration_s,
        processes: profile.process_count(),
        workers: workers.count(),
        worker_s: workers.seconds,
        forks: workers::forks(profile),
        copied_bytes: profile.totals.copied_bytes,
    };
    let copy_on_read = first
        .pop()
        .unwrap_or_else(|| judge.nothing(What::CopyOnRead));
    let total = first.pop().unwrap_or_else(|| judge.nothing(What::Total));
    Difference {
        schema: SCHEMA,
        memtrace: env!("CARGO_PKG_VERSION"),
        base: side(base, &workers[0], base_name),
        new: side(new, &workers[1], new_name),
        unit: judge.unit,
        level: LEVEL,
        total,
        copy_on_read,
        causes: list(),
        call_sites: list(),
        app_frames: list(),
        types: list(),
        roles: list(),
        notes: notes::of([base, new], [base_name, new_name], &workers),
    }
}

/// What differs significantly first, then what differs most.
fn sorted(mut rows: Vec<Row>) -> Vec<Row> {
    rows.sort_by(|a, b| {
        let key = |row: &Row| (row.is_significant(), row.change().abs());
        let (a, b) = (key(a), key(b));
        b.0.cmp(&a.0).then(b.1.total_cmp(&a.1))
    });
    rows
}
