//! Profiles for the tests of rules: the sample's master and two of its workers.

use std::sync::Arc;

use super::{Found, RULES};
use crate::profile::sample::{sample, sample_of};
use crate::profile::{
    Advice, ByCause, ByOrigin, CallSite, CauseEvidence, CauseName, Frame, Phase, Profile,
    SampleUnchanged, Site, StackPages, type_rows,
};

const PAGE: u64 = 4096;

/// The master, which forked the workers.
pub(super) const MASTER: u32 = 4242;
/// The workers.
pub(super) const WORKERS: [u32; 2] = [4243, 4244];

/// A call site that both workers copied at.
pub(super) struct Made {
    pages: u64,
    cause: CauseName,
    function: &'static str,
    object_type: Option<&'static str>,
}

impl Made {
    /// So many pages in each worker, in a Python function.
    pub(super) fn new(pages: u64, cause: CauseName, function: &'static str) -> Self {
        Self {
            pages,
            cause,
            function,
            object_type: None,
        }
    }

    /// Of objects of this type.
    pub(super) fn of(self, object_type: &'static str) -> Self {
        Self {
            object_type: Some(object_type),
            ..self
        }
    }
}

/// A master that was there before the trace, and workers that it forked in the first second of 60.
pub(super) fn profile(sites: &[Made]) -> Profile {
    let copies: Vec<_> = sites
        .iter()
        .map(|site| (site.pages * 2, site.cause, site.function, site.object_type))
        .collect();
    let mut profile = sample_of(&copies);
    profile.processes = sample().processes;
    profile.processes.truncate(3);
    profile.duration_s = 60.0;
    for worker in &mut profile.processes[1..] {
        worker.forked_at_s = Some(1.0);
        worker.unchanged = None;
    }
    for site in &mut profile.call_sites {
        let each = site.pages / 2;
        site.processes = WORKERS.map(|pid| (pid, each)).into();
        if site.cause == CauseName::Gc {
            put_leaf(
                site,
                Frame::native("gc_collect_main", "/usr/bin/python3.11"),
            );
        }
    }
    settle(&mut profile);
    profile
}

/// Fills in every figure that follows from the pages of processes.
pub(super) fn settle(profile: &mut Profile) {
    (profile.totals.by_cause, profile.totals.by_origin) = Default::default();
    for process in &mut profile.processes {
        (process.copied_pages, process.copied_bytes) = (0, 0);
        process.copy_on_read_pages = 0;
        (process.by_cause, process.by_origin) = (ByCause::default(), ByOrigin::default());
    }
    for site in &mut profile.call_sites {
        site.pages = site.processes.values().sum();
        site.bytes = site.pages * PAGE;
        if let [stack] = &mut site.stacks[..] {
            stack.pages = site.pages;
        }
        profile.totals.by_cause.add(site.cause, site.pages);
        profile.totals.by_origin.add(site.origin, site.pages);
        for (pid, &pages) in &site.processes {
            let process = profile.processes.iter_mut().find(|it| it.pid == *pid);
            let process = process.unwrap();
            process.copied_pages += pages;
            process.copied_bytes = process.copied_pages * PAGE;
            process.by_cause.add(site.cause, pages);
            process.by_origin.add(site.origin, pages);
            if site.is_copy_on_read() {
                process.copy_on_read_pages += pages;
            }
        }
    }
    let all = profile.call_sites.iter().map(|site| site.pages).sum();
    profile.totals.copied_pages = all;
    profile.totals.copied_bytes = all * PAGE;
    let read = profile.processes.iter().map(|it| it.copy_on_read_pages);
    profile.totals.copy_on_read_pages = read.sum();
    for site in &mut profile.call_sites {
        site.share = site.pages as f64 / all.max(1) as f64;
    }
    profile.types = type_rows(&profile.call_sites);
    crate::profile::sums::check(profile).unwrap();
}

/// Puts a frame before all others of a call site's stacks.
pub(super) fn put_leaf(site: &mut CallSite, frame: Frame) {
    let frame = Arc::new(frame);
    for stack in &mut site.stacks {
        let frames = std::iter::once(&frame).chain(stack.frames.iter());
        stack.frames = frames.map(Arc::clone).collect();
    }
}

/// Makes a call site one of native code alone.
pub(super) fn native(site: &mut CallSite, functions: &[&str], module: &str) {
    let frames = functions.iter();
    let frames: Vec<_> = frames
        .map(|function| Arc::new(Frame::native(function, module)))
        .collect();
    let blamed = frames.last().unwrap();
    site.site = Site {
        function: Arc::clone(&blamed.function),
        file: None,
        line: None,
        module: blamed.module.clone(),
        language: blamed.language,
    };
    site.stacks = vec![StackPages {
        pages: site.pages,
        truncated: false,
        truncated_why: None,
        frames: frames.into(),
    }];
}

/// What was found of pages that were compared.
pub(super) fn compared(unchanged_pages: u64, compared_pages: u64) -> SampleUnchanged {
    SampleUnchanged {
        unchanged_pages,
        compared_pages,
        ..SampleUnchanged::default()
    }
}

/// One piece of advice of each rule, in the order of the rules.
pub(super) fn one_of_each() -> Vec<Advice> {
    let refcount = |function| Made::new(400, CauseName::Refcount, function);
    let data = |function| Made::new(400, CauseName::Data, function);
    let mut profile = profile(&[
        Made::new(400, CauseName::Gc, "context"),
        refcount("_patch_existing_locks"),
        refcount("walk").of("str"),
        refcount("leave"),
        Made::new(2_400, CauseName::Allocator, "take"),
        data("fill"),
        refcount("match").of("str"),
        data("touch"),
        refcount("look").of("NoneType"),
    ]);
    for site in &mut profile.call_sites {
        match &*site.site.function {
            "_patch_existing_locks" => put_leaf(site, Frame::native("gc_get_objects", "python3")),
            "leave" => site.phase = Phase::Exit,
            "take" => site.evidence = Some(CauseEvidence::Function),
            "match" => put_leaf(site, Frame::native("next", "/srv/lib/_automaton.so")),
            "touch" => site.unchanged = Some(compared(60, 64)),
            _ => {}
        }
    }
    settle(&mut profile);
    let found = Found::of(&profile);
    RULES.iter().filter_map(|rule| rule(&found)).collect()
}
