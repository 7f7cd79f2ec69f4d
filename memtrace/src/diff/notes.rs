//! What a reader must know before trusting a comparison.

use super::workers::Workers;
use crate::profile::Profile;

/// Sentences, each of one reason to doubt.
pub(super) fn of(both: [&Profile; 2], names: [&str; 2], workers: &[Workers; 2]) -> Vec<String> {
    let mut notes = Vec::new();
    for ((profile, name), workers) in both.into_iter().zip(names).zip(workers) {
        let lost = &profile.totals.lost;
        if lost.faults > 0 || lost.stacks > 0 {
            notes.push(format!(
                "{name} has lost records of copies, which have no call site: what seems to have \
                 vanished or appeared may be among them."
            ));
        }
        if lost.processes > 0 || lost.threads > 0 {
            notes.push(format!(
                "{name} has processes or threads that could not be traced, and their copies are \
                 missing."
            ));
        }
        if profile.totals.pending > 0 {
            notes.push(format!(
                "{name} was made while tracing went on, and some copies are only counted."
            ));
        }
        if let Some(process) = profile.processes.iter().find(|p| p.stands_for.is_some()) {
            notes.push(format!(
                "{name} has {} processes added up that had ended; they are not among the workers.",
                process.count()
            ));
        }
        match workers.count() {
            1 => notes.push(format!(
                "{name} has one worker, so how workers differ is not known."
            )),
            2 => notes.push(format!(
                "{name} has two workers, which may agree by chance: trace more to see more."
            )),
            _ => {}
        }
    }
    let [base, new] = both;
    let mut differs = |what: &str, base: &str, new: &str| {
        if base != new {
            notes.push(format!(
                "The two were recorded with different {what}: {base} and {new}."
            ));
        }
    };
    differs("kernels", &base.host.kernel, &new.host.kernel);
    differs("processors", &base.host.arch, &new.host.arch);
    if base.host.page_size != new.host.page_size {
        let sizes = [base, new].map(|profile| profile.host.page_size.to_string());
        differs("sizes of a page", &sizes[0], &sizes[1]);
    }
    if base.host.unwind != new.host.unwind || base.host.python != new.host.python {
        notes.push(
            "The two were recorded with different --unwind or --python, so the same copies may be \
             blamed on different call sites."
                .to_owned(),
        );
    }
    notes
}
