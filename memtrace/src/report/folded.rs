//! Folded stacks: a line for each way to a copy, its functions from the outermost to the innermost
//! with semicolons in between, the cause as the last of them, and the pages. Most flame graph
//! programs read it.

use std::collections::BTreeMap;
use std::io::Write;

use super::samples::{Frames, cause_frame, samples};
use super::{Format, Report};
use crate::profile::Profile;

pub(super) const FORMAT: Format = Format {
    name: "folded",
    extension: "folded",
    audience: "For flame graph programs",
    remark: "a stack a line, and its pages",
    is_binary: false,
    make: |output, _| {
        Box::new(Folded {
            frames: output.frames,
        })
    },
};

/// Writes folded stacks.
#[derive(Clone, Copy, Debug)]
pub struct Folded {
    /// Which frames.
    pub frames: Frames,
}

impl Report for Folded {
    fn write(&self, profile: &Profile, out: &mut dyn Write) -> anyhow::Result<()> {
        let mut lines: BTreeMap<String, u64> = BTreeMap::new();
        for sample in samples(profile, self.frames) {
            let mut line = String::new();
            for step in &sample.steps {
                // What is between two semicolons is a function.
                line.push_str(&step.name().replace(';', "\\u{3b}"));
                line.push(';');
            }
            line.push_str(&cause_frame(sample.cause()));
            let pages = lines.entry(line).or_default();
            *pages = pages.saturating_add(sample.pages);
        }
        for (line, pages) in lines.iter().filter(|(_, pages)| **pages > 0) {
            writeln!(out, "{line} {pages}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::sample::{sample, sample_with_losses};
    use crate::report::samples::tests::{ALL_FRAMES, profiles};

    fn written(profile: &Profile, frames: Frames) -> String {
        let mut bytes = Vec::new();
        Folded { frames }.write(profile, &mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_line_is_a_stack_its_cause_and_its_pages() {
        insta::assert_snapshot!(written(&sample(), Frames::Python), @r"
        SyncWorker.run (sync.py:130);SyncWorker.handle_request (sync.py:177);Flask.dispatch_request (app.py:1484);checkout (views.py:91);Catalog.render (catalog.py:212);unicode_hash;[refcount] 3702
        SyncWorker.run (sync.py:130);SyncWorker.handle_request (sync.py:177);Flask.dispatch_request (app.py:1484);checkout (views.py:91);Catalog.render (catalog.py:219);unicode_hash;[refcount] 425
        SyncWorker.run (sync.py:130);SyncWorker.handle_request (sync.py:177);Flask.dispatch_request (app.py:1484);checkout (views.py:91);Session.touch (sessions.py:47);_PyEval_EvalFrameDefault;[object] 210
        SyncWorker.run (sync.py:130);SyncWorker.handle_request (sync.py:177);Flask.dispatch_request (app.py:1484);checkout (views.py:91);context (context.py:31);update_refs;[gc] 970
        SyncWorker.run (sync.py:130);SyncWorker.handle_request (sync.py:177);Flask.dispatch_request (app.py:1484);checkout (views.py:91);idle (gunicorn.conf.py:12);update_refs;[gc] 140
        SyncWorker.run (sync.py:130);SyncWorker.handle_request (sync.py:177);Flask.dispatch_request (app.py:1484);checkout (views.py:91);recv (socket.py:706);sock_recv_impl;[kernel] 612
        [unknown];evil\u{1b}[2J\u{202e}eman\nfunction (\u{7}.py:1);[refcount] 9
        [unknown];libssl.so.3+0x4a1f0;[unknown] 180
        _PyObject_Free;[allocator] 120
        _dl_relocate_object;[data] 64
        shop::pricing::apply;std::_Hashtable<std::string, std::pair<std::string const, shop::pricing::Rule>, std::allocator<std::pair<std::string const, shop::pricing::Rule>>>::_M_insert_unique_node;[data] 400
        shop::pricing::lookup;std::_Sp_counted_base<(__gnu_cxx::_Lock_policy)2>::_M_add_ref_copy;[refcount] 130
        ");
        insta::assert_snapshot!(written(&sample_with_losses(), Frames::Site), @r"
        Catalog.render (catalog.py:212);[refcount] 3702
        Catalog.render (catalog.py:219);[refcount] 425
        Session.touch (sessions.py:47);[object] 210
        [lost];[unknown] 1204
        [unknown];[unknown] 31
        _PyObject_Free;[allocator] 120
        _dl_relocate_object;[data] 64
        context (context.py:31);[gc] 970
        evil\u{1b}[2J\u{202e}eman\nfunction (\u{7}.py:1);[refcount] 9
        idle (gunicorn.conf.py:12);[gc] 140
        libssl.so.3+0x4a1f0;[unknown] 180
        recv (socket.py:706);[kernel] 612
        std::_Hashtable<std::string, std::pair<std::string const, shop::pricing::Rule>, std::allocator<std::pair<std::string const, shop::pricing::Rule>>>::_M_insert_unique_node;[data] 400
        std::_Sp_counted_base<(__gnu_cxx::_Lock_policy)2>::_M_add_ref_copy;[refcount] 130
        ");
    }

    #[test]
    fn the_lines_add_up_to_all_copies_of_each_cause() {
        for (name, profile) in profiles() {
            for frames in ALL_FRAMES {
                let text = written(&profile, frames);
                let lines = text.lines().map(|line| line.rsplit_once(' ').unwrap());
                let mut by_cause: BTreeMap<&str, u64> = BTreeMap::new();
                for (stack, pages) in lines {
                    let cause = stack.rsplit_once(';').unwrap().1;
                    *by_cause.entry(cause).or_default() += pages.parse::<u64>().unwrap();
                }
                for (cause, pages) in profile.totals.by_cause.iter() {
                    let found = by_cause.remove(&*cause_frame(cause));
                    assert_eq!(found.unwrap_or(0), pages, "{name}, {frames:?}, {cause}");
                }
                assert!(by_cause.is_empty(), "{by_cause:?}");
            }
        }
    }

    #[test]
    fn a_hostile_name_adds_no_function_and_no_line() {
        let mut profile = sample();
        profile.call_sites.truncate(1);
        profile.call_sites[0].site.function = "a;b\n[lost] 999;\u{1b}".into();
        insta::assert_snapshot!(written(&profile, Frames::Site), @r"a\u{3b}b\n[lost] 999\u{3b}\u{1b} (catalog.py:212);[refcount] 2500");
    }
}
