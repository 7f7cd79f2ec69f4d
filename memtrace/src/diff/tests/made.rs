//! Made-up runs of a server with workers.

use std::sync::LazyLock;

use super::{CallSite, CauseName, sample, sample_of};
use crate::profile::{Process, Profile, Role, RoleKind};

pub const MIB: f64 = 1_048_576.0;
const PAGE: u64 = 4_096;
/// The process that forks workers; they follow.
pub const MASTER: u32 = 4242;

// Made once, since thousands of runs are made of them.
static SERVER: LazyLock<Process> = LazyLock::new(|| sample().processes.swap_remove(1));
static EMPTY: LazyLock<Profile> = LazyLock::new(|| {
    let mut profile = sample();
    profile.processes.clear();
    profile.call_sites.clear();
    profile.modules.clear();
    profile.types.clear();
    profile
});
static SITE: LazyLock<CallSite> = LazyLock::new(|| {
    let mut profile = sample_of(&[(1, CauseName::Data, "", None)]);
    let mut site = profile.call_sites.swap_remove(0);
    site.stacks.clear();
    site
});

/// Numbers that look like chance and are the same in every run: xorshift.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..8 {
            random.unit();
        }
        random
    }

    /// From 0 to 1.
    pub fn unit(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Of a bell curve around 1.
    pub fn around(&mut self, deviation: f64) -> f64 {
        let sum: f64 = (0..12).map(|_| self.unit()).sum();
        (1.0 + deviation * (sum - 6.0)).max(0.0)
    }

    pub fn near(&mut self, count: usize, size: f64, deviation: f64) -> Vec<f64> {
        (0..count).map(|_| size * self.around(deviation)).collect()
    }
}

/// A run.
#[derive(Clone)]
pub struct Run {
    workers: usize,
    seconds: f64,
    sites: Vec<CallSite>,
}

impl Run {
    pub fn new(workers: usize) -> Self {
        Self {
            workers,
            seconds: 10.0,
            sites: Vec::new(),
        }
    }

    pub fn lasting(mut self, seconds: f64) -> Self {
        self.seconds = seconds;
        self
    }

    /// A function and what each worker copied there.
    pub fn site(self, function: &str, cause: CauseName, bytes: &[f64]) -> Self {
        self.site_at(function, ("/srv/app/app.py", 28), cause, bytes)
    }

    pub fn site_at(
        mut self,
        function: &str,
        (file, line): (&str, u32),
        cause: CauseName,
        bytes: &[f64],
    ) -> Self {
        let pages = bytes
            .iter()
            .map(|bytes| (bytes / PAGE as f64).round() as u64);
        let copied = (MASTER + 1..).zip(pages).filter(|(_, pages)| *pages > 0);
        self.add(function, (file, line), cause, copied.collect());
        self
    }

    /// What the master copied.
    pub fn by_master(mut self, function: &str, cause: CauseName, bytes: f64) -> Self {
        let pages = (bytes / PAGE as f64).round() as u64;
        let copied = vec![(MASTER, pages)];
        self.add(function, ("/srv/app/master.py", 3), cause, copied);
        self
    }

    fn add(
        &mut self,
        function: &str,
        (file, line): (&str, u32),
        cause: CauseName,
        copied: Vec<(u32, u64)>,
    ) {
        let mut site = SITE.clone();
        site.cause = cause;
        site.site.function = function.into();
        site.site.file = Some(file.into());
        site.site.line = Some(line);
        site.pages = copied.iter().map(|(_, pages)| pages).sum();
        site.bytes = site.pages * PAGE;
        site.processes = copied.into_iter().collect();
        self.sites.push(site);
    }

    /// The last call site, changed.
    pub fn with(mut self, change: impl FnOnce(&mut CallSite)) -> Self {
        change(self.sites.last_mut().unwrap());
        self
    }

    pub fn profile(&self) -> Profile {
        let mut profile = EMPTY.clone();
        let process = SERVER.clone();
        let pids = (MASTER..).take(self.workers + 1);
        profile.processes = pids
            .map(|pid| Process {
                pid,
                ppid: if pid == MASTER { 1 } else { MASTER },
                comm: "server".to_owned(),
                copied_bytes: bytes_of(pid, &self.sites),
                ..process.clone()
            })
            .collect();
        profile.duration_s = self.seconds;
        profile.call_sites.clone_from(&self.sites);
        profile.totals.copied_bytes = self.sites.iter().map(|site| site.bytes).sum();
        profile
    }
}

fn bytes_of(pid: u32, sites: &[CallSite]) -> u64 {
    let pages = sites.iter().filter_map(|site| site.processes.get(&pid));
    pages.sum::<u64>() * PAGE
}

/// A profile with roles.
pub fn with_roles(mut profile: Profile) -> Profile {
    let role = |id: &str, kind| Role {
        id: id.to_owned(),
        kind,
        name: "server".to_owned(),
        processes: 1,
        generations: 1,
        forked: 0,
        ended: 0,
        copied_pages: 0,
        copied_bytes: 0,
        median_bytes: 0,
        max_bytes: 0,
        growth: None,
        pace: None,
    };
    profile.roles = vec![role("m", RoleKind::Master), role("w", RoleKind::Worker)];
    for process in &mut profile.processes {
        let id = if process.pid == MASTER { "m" } else { "w" };
        process.role = Some(id.to_owned());
    }
    profile
}
