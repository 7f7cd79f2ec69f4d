//! Call sites of a profile, and the rows by object type that follow from them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::other::Other;
use super::{
    CauseName, Frame, Language, OriginName, Phase, SampleUnchanged, StackPages, Truncated, Unknown,
};
use crate::distribution::Distribution;

/// What stands for the type of types that are compiled into the interpreter, CPython's own: "static
/// types" as its manual calls them. Those that a program or a module makes are of the type `type`.
pub const STATIC_TYPE: &str = "type (static)";

/// Copies of one place in the code, of one cause, phase, origin and object type.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CallSite {
    /// The blamed frame.
    pub site: Site,
    /// Where `site` is in the standard library of its language, or in a package that was installed:
    /// the first frame outwards that is in neither, the application's own. Absent where `site` is
    /// the application's, or no frame is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<Site>,
    /// Where `site` has no name: the nearest caller that has one. Absent where `site` has, or no
    /// caller has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<Site>,
    /// What the write was.
    pub cause: CauseName,
    /// Why the cause is `unknown`; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause_reason: Option<String>,
    /// What the cause was concluded from; `None` when it is `unknown`.
    #[serde(default)]
    pub evidence: Option<CauseEvidence>,
    /// When in the lives of its processes. Reports of earlier versions do not have it.
    #[serde(default)]
    pub phase: Phase,
    /// What the pages were before.
    pub origin: OriginName,
    /// Qualified name of the type of the object written to. For a type that is compiled into the
    /// interpreter it is `type (static)`, for one that a program or a module makes `type`.
    pub object_type: Option<Arc<str>>,
    /// With the cause `object`: bytes from the start of the object to the field.
    #[serde(default)]
    pub field_offset: Option<i32>,
    /// Copied pages.
    pub pages: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Part of all copied pages, 0 to 1.
    pub share: f64,
    /// Pages by pid. Two processes of one pid are added up.
    pub processes: BTreeMap<u32, u64>,
    /// From the fault's entry to its end, in nanoseconds, over the pages whose end was seen.
    pub latency_ns: Distribution,
    /// From the process's fork to the copy, in milliseconds, over the processes forked during the
    /// trace or whose start is known.
    pub age_ms: Distribution,
    /// What became of a sample of its pages; `None` when none could be compared.
    #[serde(default)]
    pub unchanged: Option<SampleUnchanged>,
    /// By pages, the most first.
    pub stacks: Vec<StackPages>,
}

/// The frame that is blamed for copies. Two sites are the same when all fields are equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Site {
    /// Name, or for a frame that has none `module+0x123` or `[unknown]`.
    pub function: Arc<str>,
    /// Source file.
    pub file: Option<Arc<str>>,
    /// Line in it.
    pub line: Option<u32>,
    /// The mapped file's path, or a mapping's bracketed name.
    pub module: Option<Arc<str>>,
    /// What the code was written in.
    pub language: Language,
}

/// What a cause was concluded from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", expecting = "not a name")]
pub enum CauseEvidence {
    /// The object in memory at the address, as it was before the write.
    Structure,
    /// The instruction that wrote.
    Instruction,
    /// The function that wrote, by its name and module.
    Function,
    /// What is mapped at the address.
    Mapping,
    /// The kernel said who wrote.
    Kernel,
    /// Evidence of a later version.
    #[serde(untagged)]
    Other(Other),
}

/// Why nothing but their number is known of some copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unrecorded {
    /// The kernel side had to drop their records.
    Lost,
    /// Their records had not been read yet when the profile was made.
    Pending,
}

impl Unrecorded {
    /// What stands for the function, the reason, and why the cause is not known.
    fn words(self) -> (&'static str, Unknown, &'static str) {
        match self {
            Self::Lost => (
                "[lost]",
                Unknown::FaultLost,
                "the record of the copy was lost",
            ),
            Self::Pending => (
                "[pending]",
                Unknown::Pending,
                "its record, or its stack's name, was still on its way",
            ),
        }
    }
}

impl CallSite {
    /// The call site of copies of one origin that were counted and have no record: sums hold, and
    /// the report says what it does not know. [`CallSite::bytes`] and [`CallSite::share`] stay 0.
    #[must_use]
    pub fn unrecorded(why: Unrecorded, origin: OriginName, processes: BTreeMap<u32, u64>) -> Self {
        let (function, unknown, cause_reason) = why.words();
        let pages = processes.values().sum();
        let frame = Frame::placeholder(function, unknown);
        let site = Site {
            function: Arc::clone(&frame.function),
            file: None,
            line: None,
            module: None,
            language: frame.language,
        };
        Self {
            site,
            app: None,
            caller: None,
            cause: CauseName::Unknown,
            cause_reason: Some(cause_reason.to_owned()),
            evidence: None,
            phase: Phase::Run,
            origin,
            object_type: None,
            field_offset: None,
            pages,
            bytes: 0,
            share: 0.0,
            processes,
            latency_ns: Distribution::default(),
            age_ms: Distribution::default(),
            unchanged: None,
            stacks: vec![StackPages {
                pages,
                truncated: true,
                truncated_why: Some(Truncated::NotTaken),
                frames: [Arc::new(frame)].into(),
            }],
        }
    }

    /// Whether its copies are copy-on-read: the program only read, and went on running.
    #[must_use]
    pub fn is_copy_on_read(&self) -> bool {
        self.cause.is_copy_on_read() && self.phase == Phase::Run
    }

    /// The frame that a person can act on: the application's where there is one beside the blamed
    /// frame, else that.
    #[must_use]
    pub fn act_on(&self) -> &Site {
        self.app.as_ref().unwrap_or(&self.site)
    }

    /// Whether it was made by [`CallSite::unrecorded`] for this reason.
    #[must_use]
    pub fn is_unrecorded(&self, why: Unrecorded) -> bool {
        let (function, unknown, _) = why.words();
        let mut frames = self.stacks.iter().flat_map(|stack| stack.frames.iter());
        &*self.site.function == function && frames.any(|frame| frame.unknown == Some(unknown))
    }
}

/// Copies of objects of one type.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TypeRow {
    /// Qualified name.
    pub object_type: Arc<str>,
    /// What the writes were.
    pub cause: CauseName,
    /// Copied pages.
    pub pages: u64,
    /// Bytes of those.
    pub bytes: u64,
}

/// The rows of [`Profile::types`]: what the call sites with an object type copied, by type and
/// cause; by pages, the most first, then by name and cause. Call sites without a type are in no
/// row.
#[must_use]
pub fn type_rows(call_sites: &[CallSite]) -> Vec<TypeRow> {
    let mut sums: BTreeMap<(&Arc<str>, CauseName), (u64, u64)> = BTreeMap::new();
    for site in call_sites {
        if let Some(object_type) = &site.object_type {
            let (pages, bytes) = sums.entry((object_type, site.cause)).or_default();
            *pages += site.pages;
            *bytes += site.bytes;
        }
    }
    let mut rows: Vec<TypeRow> = sums
        .into_iter()
        .map(|((object_type, cause), (pages, bytes))| TypeRow {
            object_type: Arc::clone(object_type),
            cause,
            pages,
            bytes,
        })
        .collect();
    // Stable, so rows of equal pages stay by name and cause.
    rows.sort_by_key(|row| std::cmp::Reverse(row.pages));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::sample::sample_of;

    #[test]
    fn types_are_summed_over_call_sites_and_ordered() {
        let copies = [
            (3, CauseName::Refcount, "walk", Some("str")),
            (4, CauseName::Refcount, "render", Some("str")),
            (7, CauseName::Gc, "walk", Some("dict")),
            (7, CauseName::Refcount, "walk", Some("dict")),
            (9, CauseName::Refcount, "walk", Some("tuple")),
            (50, CauseName::Data, "walk", None),
        ];
        let rows = type_rows(&sample_of(&copies).call_sites);
        let rows: Vec<_> = rows
            .iter()
            .map(|row| (&*row.object_type, row.cause, row.pages, row.bytes))
            .collect();
        assert_eq!(
            rows,
            [
                ("tuple", CauseName::Refcount, 9, 9 * 4096),
                ("dict", CauseName::Refcount, 7, 7 * 4096),
                ("dict", CauseName::Gc, 7, 7 * 4096),
                ("str", CauseName::Refcount, 7, 7 * 4096),
            ]
        );
        assert!(type_rows(&[]).is_empty());
    }
}
