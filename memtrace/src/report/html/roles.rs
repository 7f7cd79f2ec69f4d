//! Which role copied, for a flame graph by role.
//!
//! A call site knows how many pages each process copied, and its stacks do not. So what all processes
//! of a call site have as their role is told apart, and the rest is of several roles.

use foldhash::HashMap;

use crate::profile::{CallSite, Profile};
use crate::report::text::memory::called;

/// What stands for call sites whose processes have several roles.
const SEVERAL: &str = "several roles";

/// The roles that copied.
pub(super) struct Roles {
    /// What they are called, by number; the last is [`SEVERAL`]. Empty where all copies are of one.
    pub names: Vec<String>,
    /// By pid; `None` where two processes of one pid had different ones.
    of: HashMap<u32, Option<usize>>,
}

impl Roles {
    pub fn of(profile: &Profile) -> Self {
        let copied = profile.roles.iter().filter(|role| role.copied_pages > 0);
        let copied: Vec<_> = copied.collect();
        if copied.len() < 2 {
            return Self {
                names: Vec::new(),
                of: HashMap::default(),
            };
        }
        let mut of = HashMap::default();
        for process in &profile.processes {
            let mut roles = copied.iter();
            let role = roles.position(|role| process.role.as_deref() == Some(&*role.id));
            let known = of.entry(process.pid).or_insert(role);
            if *known != role {
                *known = None;
            }
        }
        let names = copied.into_iter().map(called);
        Self {
            names: names.chain([SEVERAL.to_owned()]).collect(),
            of,
        }
    }

    /// The number of the role of all processes of a call site; 0 where roles are not told apart.
    pub fn of_site(&self, site: &CallSite) -> usize {
        let mut pids = site.processes.keys();
        let role = |pid: &u32| self.of.get(pid).copied().flatten();
        let several = self.names.len().saturating_sub(1);
        let Some(first) = pids.next().and_then(role) else {
            return several;
        };
        if pids.all(|pid| role(pid) == Some(first)) {
            first
        } else {
            several
        }
    }
}
