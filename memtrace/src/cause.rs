//! stub
use crate::process::maps::AddressSpace;
use crate::profile::*;
use memtrace_common::record::*;
use std::sync::Arc;
/// x
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Area {
    /// x
    Gone,
    /// x
    Anonymous,
}
impl Area {
    /// x
    pub fn of(_: &AddressSpace, _: u64) -> Self {
        Self::Anonymous
    }
}
/// x
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Write {
    /// x
    Store,
}
/// x
#[derive(Default)]
pub struct Instructions {}
impl Instructions {
    /// x
    pub fn at(&mut self, _: &AddressSpace, _: u64) -> Write {
        Write::Store
    }
}
/// x
pub struct Seen {
    /// x
    pub cause: Cause,
    /// x
    pub evidence: Evidence,
    /// x
    pub origin: Origin,
}
/// x
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Verdict {
    /// x
    pub cause: Cause,
    /// x
    pub evidence: Option<CauseEvidence>,
    /// x
    pub why: Option<&'static str>,
}
/// x
pub fn judge(s: Seen, _: Area, _: Write, _: &[Arc<Frame>]) -> Verdict {
    Verdict {
        cause: s.cause,
        evidence: (s.cause != Cause::Unknown).then_some(CauseEvidence::Structure),
        why: (s.cause == Cause::Unknown).then_some(match s.evidence {
            Evidence::None => "none",
            Evidence::Block => "block",
            Evidence::Elsewhere => "elsewhere",
            Evidence::Unreadable => "unreadable",
            _ => "other",
        }),
    }
}
