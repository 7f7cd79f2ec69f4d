//! What was copied when, by cause, and when processes lived.

use serde_json::{Value, json};

use super::file::Markers;
use super::{Strings, category};
use crate::profile::{CauseName, Process, Profile};
use crate::report::samples::name_of;

/// The kinds of markers, as [`schemas`] describes them.
const COPIES: &str = "copies";
const PROCESS: &str = "process";

/// What the tool shows of each kind, and how.
pub(super) fn schemas() -> Vec<Value> {
    let field = |key: &str, label: &str, format: &str| json!({"key": key, "label": label, "format": format});
    vec![
        json!({
            "name": COPIES,
            "display": ["marker-chart", "marker-table"],
            "tooltipLabel": "copied: {marker.name}",
            "tableLabel": "{marker.data.bytes}",
            "chartLabel": "{marker.data.bytes}",
            "description": "What was copied for this cause in this part of the trace.",
            "fields": [field("bytes", "Copied", "bytes")],
            "graphs": [{"key": "bytes", "type": "bar"}],
        }),
        json!({
            "name": PROCESS,
            "display": ["marker-chart", "marker-table"],
            "tooltipLabel": "{marker.name} {marker.data.pid}",
            "tableLabel": "{marker.data.pid}: {marker.data.bytes}",
            "chartLabel": "{marker.data.pid}",
            "description": "A process, while it was traced.",
            "fields": [
                field("pid", "Process", "pid"),
                field("bytes", "Copied", "bytes"),
                field("pages", "Pages", "integer"),
                field("only_read", "Pages only read", "integer"),
            ],
        }),
    ]
}

/// The markers of a profile.
pub(super) fn of(profile: &Profile, strings: &mut Strings) -> Markers {
    let mut markers = Markers::default();
    let end = profile.duration_s * 1e3;
    copies(profile, end, strings, &mut markers);
    // A row that stands for many processes has no times.
    let single = (profile.processes.iter()).filter(|process| process.stands_for.is_none());
    for process in single {
        let name = strings.number(&name_of(&process.comm));
        markers.push(name, life(process, end), 0, data(process));
    }
    markers
}

/// One marker for each cause and each bin of the timeline in which it copied.
fn copies(profile: &Profile, end: f64, strings: &mut Strings, markers: &mut Markers) {
    let Some(timeline) = &profile.timeline else {
        return;
    };
    let width = timeline.interval_s * 1e3;
    let causes: Vec<(CauseName, usize, &Vec<u64>)> = (timeline.by_cause.iter())
        .map(|(cause, bins)| (*cause, strings.number(cause.name()), bins))
        .collect();
    for at in 0..timeline.bins() {
        for (cause, name, bins) in &causes {
            let bytes = bins.get(at).copied().unwrap_or_default();
            if bytes > 0 {
                let from = at as f64 * width;
                // The last bin may be longer than what was left of the trace.
                let until = (from + width).min(end.max(from));
                let data = json!({"type": COPIES, "bytes": bytes});
                markers.push(*name, (from, until), category(*cause), data);
            }
        }
    }
}

fn life(process: &Process, end: f64) -> (f64, f64) {
    let from = process.forked_at_s.map_or(0.0, |at| at * 1e3);
    let until = process.exited_at_s.map_or(end, |at| at * 1e3);
    (from, until.max(from))
}

fn data(process: &Process) -> Value {
    json!({
        "type": PROCESS,
        "pid": process.pid.to_string(),
        "bytes": process.copied_bytes,
        "pages": process.copied_pages,
        "only_read": process.copy_on_read_pages,
    })
}
