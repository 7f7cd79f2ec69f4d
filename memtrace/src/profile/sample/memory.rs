//! The sample with what memory, roles and time add to it.

use super::{PAGE, sample};
use crate::profile::{
    CauseName, MappingKind, MappingSizes, Memory, MemorySample, MemorySizes, Pace, PrivateGrowth,
    Process, Profile, Role, RoleKind, RoleTimeline, Sampling, Timeline,
};

const MIB: u64 = 1 << 20;

/// The sample of which memory was looked at: the workers were there before and one was forked, the
/// shell is a helper.
pub(crate) fn sample_with_memory() -> Profile {
    let mut profile = sample();
    let kinds = [
        (RoleKind::Master, "gunicorn"),
        (RoleKind::Worker, "gunicorn: worker"),
        (RoleKind::Helper, "sh"),
        (RoleKind::Helper, "report.py"),
    ];
    for (process, of) in profile.processes.iter_mut().zip([0, 1, 1, 1, 2, 3]) {
        process.role = Some(id(of));
        process.copying_s = Some(process.copied_pages as f64 * 3e-6);
        process.cpu_s = Some(0.25);
        if of < 2 {
            process.memory = Some(memory(process));
        }
    }
    profile.roles = (0..)
        .zip(kinds)
        .map(|(at, (kind, name))| role(&profile, at, kind, name))
        .collect();
    profile.timeline = Some(timeline(&profile));
    profile.sampling = Some(Sampling {
        asked_s: 1.0,
        used_s: Some(2.5),
        reading_s: 0.1,
    });
    profile
}

fn id(role: usize) -> String {
    ["master", "worker", "helper", "helper-2"][role].to_owned()
}

fn sizes(shared: u64, private: u64) -> MemorySizes {
    MemorySizes {
        vsz: Some((shared + private) * 2),
        rss: Some(shared + private),
        pss: Some(shared / 4 + private),
        shared: Some(shared),
        private: Some(private),
        swap: Some(0),
        anonymous: Some(u64::midpoint(shared, private)),
        why: None,
    }
}

fn memory(process: &Process) -> Memory {
    let copied = process.copied_bytes;
    let (shared, private) = (60 * MIB, 8 * MIB);
    let start_s = process.forked_at_s.unwrap_or(0.0);
    let end_s = process.exited_at_s.unwrap_or(10.25);
    let sample = |t_s, sizes| MemorySample { t_s, sizes };
    let end = sizes(shared - copied, private + copied + 2 * MIB);
    Memory {
        start: sizes(shared, private),
        start_s,
        start_copied: 0,
        samples: vec![
            sample(start_s, sizes(shared, private)),
            sample(
                start_s + 1.0,
                sizes(shared - copied / 2, private + copied / 2),
            ),
            sample(end_s, end.clone()),
        ],
        end,
        end_s,
        mappings_at_start: Vec::new(),
        mappings: vec![
            MappingSizes {
                kind: MappingKind::Program,
                sizes: sizes(2 * MIB, MIB),
            },
            MappingSizes {
                kind: MappingKind::Anonymous,
                sizes: sizes(30 * MIB, 9 * MIB),
            },
        ],
        at_exit: None,
        growth: Some(PrivateGrowth {
            private: (copied + 2 * MIB) as i64,
            copied: copied as i64,
            new: 3 * MIB as i64,
            by_others: 0,
            files: 0,
            given_back: -(MIB as i64),
            unexplained: 0,
        }),
    }
}

fn role(profile: &Profile, at: usize, kind: RoleKind, name: &str) -> Role {
    let id = id(at);
    let members: Vec<&Process> = (profile.processes.iter())
        .filter(|process| process.role.as_ref() == Some(&id))
        .collect();
    let mut copied: Vec<u64> = members.iter().map(|process| process.copied_bytes).collect();
    copied.sort_unstable();
    let growth = members
        .iter()
        .filter_map(|process| process.memory.as_ref()?.growth);
    Role {
        kind,
        name: name.to_owned(),
        processes: members.len() as u64,
        generations: 1,
        forked: members
            .iter()
            .filter(|process| process.forked_at_s.is_some())
            .count() as u64,
        ended: members
            .iter()
            .filter(|process| process.exited_at_s.is_some())
            .count() as u64,
        copied_pages: members.iter().map(|process| process.copied_pages).sum(),
        copied_bytes: copied.iter().sum(),
        median_bytes: copied[copied.len() / 2],
        max_bytes: copied[copied.len() - 1],
        growth: growth.reduce(|mut sum, one| {
            sum.absorb(&one);
            sum
        }),
        pace: (kind == RoleKind::Worker).then_some(Pace {
            half_ms: 400,
            most_ms: 12_000,
        }),
        id,
    }
}

fn timeline(profile: &Profile) -> Timeline {
    const BINS: usize = 5;
    let spread = |pages: u64| {
        let mut bytes = vec![0; BINS];
        (bytes[1], bytes[2]) = (pages / 4 * PAGE, (pages - pages / 4) * PAGE);
        bytes
    };
    let by_cause = profile.totals.by_cause.iter();
    let by_cause = by_cause.filter(|(_, pages)| *pages > 0);
    let by_cause: std::collections::BTreeMap<CauseName, Vec<u64>> = by_cause
        .map(|(cause, pages)| (cause, spread(pages)))
        .collect();
    let by_role = profile.roles.iter().map(|role| {
        let known = role.growth.is_some();
        RoleTimeline {
            role: role.id.clone(),
            copied: spread(role.copied_pages),
            processes: vec![role.processes; BINS],
            shared: (0..BINS as u64)
                .map(|bin| known.then_some((60 - 5 * bin) * MIB * role.processes))
                .collect(),
            private: (0..BINS as u64)
                .map(|bin| known.then_some((8 + 5 * bin) * MIB * role.processes))
                .collect(),
        }
    });
    Timeline {
        interval_s: 2.05,
        by_role: by_role.collect(),
        by_process: [(4243, spread(profile.processes[1].copied_pages))].into(),
        by_cause,
        forks: vec![1, 0, 0, 1, 1],
        exits: vec![0, 0, 0, 2, 0],
        execs: vec![0; BINS],
    }
}
