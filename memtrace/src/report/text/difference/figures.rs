//! Figures of a comparison as people say them.

use crate::diff::{Amount, Reason, Row, Unit};
use crate::report::words::{self, counted};

/// `4.2 MiB per worker (3.9 to 4.4, 8 workers) -> 1.1 MiB (1.0 to 1.3, 8 workers)`.
pub(super) fn change(row: &Row) -> String {
    let unit_of = row.judged.unit;
    let spread = |amount: &Amount| {
        let Some(spread) = amount.spread else {
            return String::new();
        };
        let processes = match unit_of {
            Unit::Worker => counted(spread.processes, "worker", "workers"),
            _ => counted(spread.processes, "process", "processes"),
        };
        match spread.processes {
            ..2 => format!(" ({processes})"),
            _ => match range(spread.min, spread.max) {
                Some(range) => format!(" ({range}, {processes})"),
                None => format!(" (each of {processes})"),
            },
        }
    };
    let (base, new) = (&row.base, &row.new);
    format!(
        "{}{}{} -> {}{}",
        figure(base.figure),
        unit(unit_of),
        spread(base),
        figure(new.figure),
        spread(new)
    )
}

/// `3.9 to 4.4 MiB`; each with its unit where they differ, and nothing where they look the same.
pub(super) fn range(least: u64, most: u64) -> Option<String> {
    let (least, most) = (words::size(least), words::size(most));
    match (least.split_once(' '), most.split_once(' ')) {
        _ if least == most => None,
        (Some((number, unit)), Some((_, other))) if unit == other => {
            Some(format!("{number} to {most}"))
        }
        _ => Some(format!("{least} to {most}")),
    }
}

/// Why a row does not differ, as a part of a sentence.
pub(super) fn why_same(by: Reason) -> &'static str {
    match by {
        Reason::Small => "too little to matter",
        Reason::Length => "which the length of the traces may explain",
        Reason::NoSpread => "which may be chance: no spread is known",
        Reason::FewWorkers => "which may be chance with so few workers",
        _ => "within the spread",
    }
}

/// ` per worker`.
pub(super) fn unit(unit: Unit) -> &'static str {
    match unit {
        Unit::Worker => " per worker",
        Unit::Process => " per process",
        Unit::Second => " per second",
        Unit::Trace => "",
    }
}

/// A size that may be part of a byte.
pub(super) fn figure(bytes: f64) -> String {
    words::size(bytes.round() as u64)
}

/// `+35%`; tenths where it is less than ten.
pub(super) fn signed_percent(part: f64) -> String {
    let sign = if part < 0.0 { '-' } else { '+' };
    format!("{sign}{}", percent(part.abs()))
}

pub(super) fn percent(part: f64) -> String {
    let percent = part * 100.0;
    if percent > 99.0 && percent < 100.0 {
        // What is not all is not called so.
        format!("{:.1}%", percent.min(99.9))
    } else if percent < 9.95 {
        format!("{percent:.1}%")
    } else if percent < 99_999.5 {
        format!("{percent:.0}%")
    } else {
        ">99999%".to_owned()
    }
}
