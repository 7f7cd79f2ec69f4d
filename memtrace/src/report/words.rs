//! Figures and names as people say them.

use std::borrow::Cow;
use std::time::Duration;

use bytesize::ByteSize;

use crate::profile::{CauseName, OriginName, Truncated, Unknown};

/// `20.9 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

/// `12,345`.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `1 page`, `2 pages`.
pub(crate) fn counted(n: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(n), if n == 1 { one } else { many })
}

/// `61.2%`; what is not nothing is not shown as `0.0%`.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    let percent = ratio(part, whole) * 100.0;
    if part > 0 && percent < 0.05 {
        "<0.1%".to_owned()
    } else {
        format!("{percent:.1}%")
    }
}

/// A percentage without decimals, `71%`; what is not nothing is not shown as `0%`, and what is not
/// all not as `100%`.
pub(crate) fn whole_percent(part: u64, whole: u64) -> String {
    let percent = (ratio(part, whole) * 100.0).round() as u64;
    match percent {
        0 if part > 0 => "<1%".to_owned(),
        100 if part < whole => "99%".to_owned(),
        _ => format!("{percent}%"),
    }
}

/// `whole` divided in proportion to `parts`, in whole numbers that add up to it: what rounding down
/// leaves over goes to the parts that lost most by it, to the earlier of two that lost the same.
pub(super) fn apportion(whole: u64, parts: &[u64]) -> Vec<u64> {
    let sum: u128 = parts.iter().copied().map(u128::from).sum();
    let quota = |part: u64| u128::from(part) * u128::from(whole);
    let sum = sum.max(1);
    let mut shares: Vec<u64> = parts.iter().map(|&p| (quota(p) / sum) as u64).collect();
    let mut by_remainder: Vec<usize> = (0..parts.len()).filter(|&at| parts[at] > 0).collect();
    by_remainder.sort_by_key(|&at| std::cmp::Reverse(quota(parts[at]) % sum));
    let left = whole - shares.iter().sum::<u64>();
    for at in by_remainder.into_iter().take(left as usize) {
        shares[at] += 1;
    }
    shares
}

/// `part` of `whole`, 0 to 1; 0 when there is no whole.
pub(crate) fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        (part as f64 / whole as f64).min(1.0)
    }
}

/// Three digits: `812 ns`, `2.13 µs`, `48.1 ms`, `1.20 s`; from a minute up `3m 12s`.
pub(crate) fn duration(duration: Duration) -> String {
    let ns = duration.as_nanos() as f64;
    // Half a unit of the third digit below the next unit, so that nothing reads `1000 ns`.
    let (value, unit) = match ns {
        ..999.5 => return format!("{ns} ns"),
        ..999.5e3 => (ns / 1e3, "µs"),
        ..999.5e6 => (ns / 1e6, "ms"),
        ..59.95e9 => (ns / 1e9, "s"),
        _ => {
            let seconds = (ns / 1e9).round() as u64;
            let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
            return if hours > 0 {
                format!("{hours}h {minutes:02}m")
            } else {
                format!("{minutes}m {seconds:02}s")
            };
        }
    };
    match value {
        ..9.995 => format!("{value:.2} {unit}"),
        ..99.95 => format!("{value:.1} {unit}"),
        _ => format!("{value:.0} {unit}"),
    }
}

/// [`duration`] of seconds that come from a profile, which may hold anything.
pub(crate) fn seconds(seconds: f64) -> String {
    Duration::try_from_secs_f64(seconds).map_or_else(|_| "?".to_owned(), duration)
}

/// What a cause means; as a part of a sentence, `93% was ...`; and whether what was written is
/// always an object, or never.
struct CauseWords {
    meaning: &'static str,
    in_sentence: &'static str,
    is_object: bool,
}

fn cause(cause: CauseName) -> CauseWords {
    let (meaning, in_sentence, is_object) = match cause {
        CauseName::Refcount => ("an object's reference count", "reference counts", true),
        CauseName::Gc => ("the garbage collector's mark", "garbage collection", true),
        CauseName::Allocator => (
            "a memory allocator's bookkeeping",
            "bookkeeping of a memory allocator",
            false,
        ),
        CauseName::Object => ("a field of an object", "fields of objects", true),
        CauseName::Data => ("other writable data", "data", false),
        CauseName::Kernel => (
            "by the kernel, for a system call",
            "written by the kernel",
            false,
        ),
        CauseName::Remote => ("by another process", "written by another process", false),
        CauseName::Unknown => ("not known what was written", "not known", false),
        CauseName::Other(other) => ("named by a later version of memtrace", other.name(), true),
    };
    CauseWords {
        meaning,
        in_sentence,
        is_object,
    }
}

/// What a cause means.
pub(super) fn cause_meaning(name: CauseName) -> &'static str {
    cause(name).meaning
}

/// What was written, as a part of a sentence: `93% was ...`.
pub(super) fn cause_in_words(name: CauseName) -> &'static str {
    cause(name).in_sentence
}

/// What is shown as the object type of copies that have none.
pub(super) fn no_type(name: CauseName) -> Cow<'static, str> {
    match name {
        CauseName::Unknown => "(cause not known)".into(),
        name if cause(name).is_object => format!("(type not known: {name})").into(),
        name => format!("(no object: {name})").into(),
    }
}

/// What an origin means.
pub(super) fn origin_meaning(origin: OriginName) -> &'static str {
    match origin {
        OriginName::Fork => "shared since a fork",
        OriginName::Ksm => "merged by the kernel (KSM)",
        OriginName::File => "of a private file mapping",
        OriginName::Hugetlb => "of a hugetlb pool",
        OriginName::Other(_) => "named by a later version of memtrace",
    }
}

/// Why a frame has no name, as a mark behind what stands in place of one.
pub(super) fn unknown_mark(reason: Unknown) -> Cow<'static, str> {
    let mark = match reason {
        Unknown::ProcessGone => " (process had exited)",
        Unknown::NotPermitted => " (mappings may not be read)",
        Unknown::NoMapping => " (address in no mapping)",
        Unknown::Anonymous => " (code made at run time)",
        Unknown::NoFile => " (file could not be opened)",
        Unknown::NoSymbol => " (no symbol)",
        Unknown::BadElf => " (not a readable ELF file)",
        Unknown::FaultLost => " (record lost)",
        Unknown::Pending => " (record still on its way)",
        Unknown::StackLost => " (stack lost)",
        Unknown::NoEnd => " (end of the fault not seen)",
        Unknown::CodeGone => " (code object not read)",
        Unknown::UnwindOff => " (stacks are off)",
        Unknown::Other(other) => return format!(" ({other})").into(),
    };
    mark.into()
}

/// Why a stack ends before the outermost function, as a clause.
pub(super) fn truncated(why: Option<Truncated>) -> Cow<'static, str> {
    let why = match why {
        None | Some(Truncated::Depth) => "the stack was deeper than could be taken",
        Some(Truncated::Python) => "not all of Python's frames could be taken",
        Some(Truncated::NotTaken) => "its callers were not taken, or got lost",
        Some(Truncated::Others) => "rare stacks, added up",
        Some(Truncated::NoMapping) => "its caller is in code that was not known to be mapped",
        Some(Truncated::JustMapped) => "its caller is in code that had just been mapped",
        Some(Truncated::TablesNotBuilt) => "the unwind tables were not built yet",
        Some(Truncated::NoTables) => "the code has no unwind tables",
        Some(Truncated::NoRoom) => "there was no room for the unwind tables",
        Some(Truncated::Gap) => "neither unwind tables nor the code show who called it",
        Some(Truncated::Coroutine) => "the stack of a coroutine begins here",
        Some(Truncated::Unsupported) => "the unwind tables have a rule that is not supported",
        Some(Truncated::Unreadable) => "the stack could not be read further",
        Some(Truncated::Damaged) => "what comes next is no stack",
        Some(Truncated::Other(other)) => return format!("it ends there: {other}").into(),
    };
    why.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_as_people_say_them() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(4096), "4.0 KiB");
        assert_eq!(size(20 << 20), "20.0 MiB");
        assert_eq!(size(3 << 40), "3.0 TiB");
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(counted(1, "page", "pages"), "1 page");
        assert_eq!(percent(0, 0), "0.0%");
        assert_eq!(percent(1, 100_000), "<0.1%");
        assert_eq!(percent(612, 1_000), "61.2%");
        assert_eq!(percent(7, 7), "100.0%");
    }

    #[test]
    fn whole_percentages_hide_neither_a_little_nor_what_is_missing() {
        assert_eq!(whole_percent(0, 10), "0%");
        assert_eq!(whole_percent(1, 1_000), "<1%");
        assert_eq!(whole_percent(4_994, 5_117), "98%");
        assert_eq!(whole_percent(999, 1_000), "99%");
        assert_eq!(whole_percent(1_000, 1_000), "100%");
        assert_eq!(whole_percent(0, 0), "0%");
    }

    #[test]
    fn what_is_apportioned_adds_up() {
        assert_eq!(apportion(100, &[1, 1, 1]), [34, 33, 33]);
        assert_eq!(apportion(71, &[577, 134]), [58, 13]);
        assert_eq!(apportion(100, &[5, 0, 995]), [1, 0, 99]);
        assert_eq!(apportion(100, &[4, 0, 996]), [0, 0, 100]);
        assert_eq!(apportion(0, &[3, 4]), [0, 0]);
        assert_eq!(apportion(100, &[]), [0; 0]);
        assert_eq!(apportion(100, &[0, 0]), [0, 0]);
        assert_eq!(apportion(100, &[u64::MAX, u64::MAX]), [50, 50]);
        for parts in [[3, 7, 11], [1, 999, 1], [333, 333, 334]] {
            for whole in [1, 50, 99, 100] {
                assert_eq!(apportion(whole, &parts).iter().sum::<u64>(), whole);
            }
        }
    }

    #[test]
    fn durations_have_three_digits_and_a_unit() {
        let of = |ns| duration(Duration::from_nanos(ns));
        assert_eq!(of(0), "0 ns");
        assert_eq!(of(999), "999 ns");
        assert_eq!(of(1_000), "1.00 µs");
        assert_eq!(of(48_120), "48.1 µs");
        assert_eq!(of(999_499), "999 µs");
        assert_eq!(of(999_999), "1.00 ms");
        assert_eq!(of(9_999_999), "10.0 ms");
        assert_eq!(of(1_200_000_000), "1.20 s");
        assert_eq!(of(59_990_000_000), "1m 00s");
        assert_eq!(of(192_000_000_000), "3m 12s");
        assert_eq!(of(7_260_000_000_000), "2h 01m");
        assert_eq!(seconds(f64::NAN), "?");
        assert_eq!(seconds(-1.0), "?");
    }
}
