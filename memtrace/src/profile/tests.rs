use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use clap::ValueEnum as _;
use proptest::prelude::*;
use serde_json::{Map, Value};

use super::sample::{sample, sample_cut, sample_pending, sample_with_losses, sample_with_memory};
use super::*;
use crate::report::{By, Color, Format, Frames, Output, TextOptions};

/// What `format` writes of a profile.
fn written(profile: &Profile, format: Format, by: By) -> String {
    let output = Output {
        files: Vec::new(),
        stdout: format,
        color: Color::Auto,
        text: TextOptions { by, top: 20 },
        frames: Frames::default(),
    };
    let mut text = Vec::new();
    let report = format.report(&output);
    report.write(profile, &mut text).unwrap();
    String::from_utf8(text).unwrap()
}

fn json(profile: &Profile) -> String {
    written(profile, Format::JSON, By::Site)
}

fn refused(text: &str) -> String {
    format!("{:#}", read(text.as_bytes()).unwrap_err())
}

/// The sample as JSON, with a change.
fn changed(change: impl FnOnce(&mut Value)) -> String {
    let mut value = serde_json::from_str(&json(&sample())).unwrap();
    change(&mut value);
    value.to_string()
}

#[test]
fn what_is_read_is_written_again_the_same() {
    for profile in [
        sample(),
        sample_with_losses(),
        sample_pending(),
        sample_cut(),
        sample_with_memory(),
    ] {
        let text = json(&profile);
        assert_eq!(json(&read(text.as_bytes()).unwrap()), text);
    }
}

#[test]
fn names_of_a_later_version_are_kept() {
    let later = changed(|report| {
        report["schema"] = "memtrace/1.7".into();
        report["added"] = "later".into();
        report["host"]["backend"] = "uprobe".into();
        report["host"]["unwind"] = "sframe".into();
        report["host"]["python"] = "sampled".into();
        report["modules"][0]["unwind"] = "sframe".into();
        let site = &mut report["call_sites"][0];
        let pages = site["pages"].as_u64().unwrap();
        assert_eq!(site["cause"], "refcount");
        site["cause"] = "mark".into();
        site["origin"] = "swap".into();
        site["evidence"] = "oracle".into();
        site["site"]["language"] = "ruby".into();
        site["stacks"][0]["truncated"] = true.into();
        site["stacks"][0]["truncated_why"] = "tired".into();
        site["stacks"][0]["frames"][0]["unknown"] = "shy".into();
        site["stacks"][0]["frames"][2]["language"] = "ruby".into();
        let object_type = site["object_type"].clone();
        let row = report["types"].as_array_mut().unwrap().iter_mut();
        let mut row = row.filter(|row| row["object_type"] == object_type);
        row.next().unwrap()["cause"] = "mark".into();
        let moved = |sums: &mut Value, by: &str, from: &str, to: &str, pages: u64| {
            let left = sums[by][from].as_u64().unwrap() - pages;
            sums[by][from] = left.into();
            sums[by][to] = pages.into();
        };
        let by_pid = report["call_sites"][0]["processes"].clone();
        for process in report["processes"].as_array_mut().unwrap() {
            if let Some(pages) = by_pid[process["pid"].to_string()].as_u64() {
                moved(process, "by_cause", "refcount", "mark", pages);
                moved(process, "by_origin", "fork", "swap", pages);
            }
        }
        moved(&mut report["totals"], "by_cause", "refcount", "mark", pages);
        moved(&mut report["totals"], "by_origin", "fork", "swap", pages);
    });
    let profile = read(later.as_bytes()).unwrap();
    let text = json(&profile);
    for name in [
        r#""schema": "memtrace/1.7""#,
        r#""backend": "uprobe""#,
        r#""unwind": "sframe""#,
        r#""python": "sampled""#,
        r#""cause": "mark""#,
        r#""mark": 2500"#,
        r#""swap": 2500"#,
        r#""evidence": "oracle""#,
        r#""language": "ruby""#,
        r#""truncated_why": "tired""#,
        r#""unknown": "shy""#,
    ] {
        assert!(text.contains(name), "{name} is lost");
    }
    assert_eq!(json(&read(text.as_bytes()).unwrap()), text);
    let text = written(&profile, Format::TEXT, By::Site);
    for shown in [
        "uprobe backend, stacks by sframe",
        "2,500  mark       named by a later version of memtrace",
        "ru Catalog.render",
        "unicode_hash (shy)",
        "% other causes",
    ] {
        assert!(text.contains(shown), "{shown:?} is not in {text}");
    }
}

#[test]
fn what_is_not_a_report_is_refused_with_what_to_do() {
    insta::assert_snapshot!(refused(""), @"this is not a whole report of memtrace, so there is nothing to show; give a file that memtrace has written as JSON: it ends at line 1 column 0, too early");
    insta::assert_snapshot!(refused("memtrace"), @"this is not a whole report of memtrace, so there is nothing to show; give a file that memtrace has written as JSON: expected value at line 1 column 1");
    insta::assert_snapshot!(refused(r#"{"pid": 1}"#), @"this is not a whole report of memtrace, so there is nothing to show; give a file that memtrace has written as JSON: missing field `schema` at line 1 column 10");
    insta::assert_snapshot!(refused(&json(&sample())[..500]), @"this is not a whole report of memtrace, so there is nothing to show; give a file that memtrace has written as JSON: it ends at line 15 column 4, too early");
    insta::assert_snapshot!(refused(&changed(|report| report["schema"] = "memtrace/2".into())), @r#"the report has the schema "memtrace/2", and memtrace 0.1.0 reads memtrace/1; use the memtrace that wrote it, or a later one"#);
    insta::assert_snapshot!(refused(r#"{"schema": "memtrace/10", "sites": []}"#), @r#"the report has the schema "memtrace/10", and memtrace 0.1.0 reads memtrace/1; use the memtrace that wrote it, or a later one"#);
    insta::assert_snapshot!(refused(&changed(|report| report["totals"]["copied_pages"] = 7.into())), @"the report does not add up, so its figures cannot be trusted; it was damaged or changed: use the original, or trace again: sums of the profile disagree: copied pages and the sum over processes (7 and 6962); copied pages and the sum over call sites (7 and 6962); copied pages and the sum by cause (7 and 6962); copied pages and the sum by origin (7 and 6962); comparable and gone pages of all processes (6698 of 7)");
    insta::assert_snapshot!(refused(&changed(|report| report["host"]["unwind"] = "\u{1b}[2J".into())), @"this is not a whole report of memtrace, so there is nothing to show; give a file that memtrace has written as JSON: not a name at line 1 column 45922");
    insta::assert_snapshot!(refused(&changed(|report| report["call_sites"][0]["cause"] = "".into())), @"this is not a whole report of memtrace, so there is nothing to show; give a file that memtrace has written as JSON: not a name at line 1 column 260");
}

#[test]
fn a_report_that_is_too_large_is_not_read_to_its_end() {
    let endless = std::io::repeat(b' ');
    let error = read::read_at_most(1 << 20, endless).unwrap_err();
    assert!(error.to_string().contains("larger than 1 MiB"), "{error}");
}

/// Compressed as gzip does it.
fn packed(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_compressed_report_is_read_whatever_it_is_called() {
    let text = json(&sample());
    let whole = packed(text.as_bytes());
    assert_eq!(json(&read(&whole[..]).unwrap()), text);
    // As `cat a.gz b.gz` makes it.
    let (first, second) = text.as_bytes().split_at(1000);
    let joined = [packed(first), packed(second)].concat();
    assert_eq!(json(&read(&joined[..]).unwrap()), text);
    let refused = |bytes: &[u8]| format!("{:#}", read(bytes).unwrap_err());
    for damaged in [
        &whole[..2],
        &whole[..whole.len() / 2],
        &whole[..whole.len() - 1],
    ] {
        let error = refused(damaged);
        assert!(
            error.contains("cannot be unpacked; it was cut or damaged"),
            "{error}"
        );
    }
    let error = refused(&[whole.as_slice(), b"more"].concat());
    assert!(error.contains("cannot be unpacked"), "{error}");
    let error = refused(&packed(b"no JSON"));
    assert!(error.contains("not a whole report"), "{error}");
    // Packed twice is not a report.
    let error = refused(&packed(&whole));
    assert!(error.contains("not a whole report"), "{error}");
}

#[test]
fn a_small_report_may_not_unpack_to_any_size() {
    let bomb = packed(&vec![b' '; 64 << 20]);
    assert!(bomb.len() < 1 << 20);
    let error = read::read_at_most(1 << 20, &bomb[..]).unwrap_err();
    assert!(error.to_string().contains("larger than 1 MiB"), "{error}");
    // Members without contents never get larger, and still come to an end.
    let nothing = packed(b"").repeat(10_000);
    let error = read::read_at_most(1 << 20, &nothing[..]).unwrap_err();
    assert!(
        format!("{error:#}").contains("not a whole report"),
        "{error:#}"
    );
}

#[test]
fn numbers_at_their_limits_do_not_overflow() {
    let most = Value::from(u64::MAX);
    for pointer in [
        "/totals/copied_pages",
        "/totals/copied_bytes",
        "/totals/by_cause/gc",
        "/totals/by_origin/fork",
        "/totals/not_copied/reuse",
        "/totals/unchanged/comparable_pages",
        "/totals/lost/faults",
        "/processes/1/copied_pages",
        "/processes/1/not_copied/zero",
        "/processes/1/unchanged/gone_pages",
        "/processes/1/lost_faults",
        "/call_sites/0/pages",
        "/call_sites/0/bytes",
        "/call_sites/0/processes/4243",
        "/call_sites/0/stacks/0/pages",
        "/types/0/pages",
    ] {
        let text = changed(|report| *report.pointer_mut(pointer).unwrap() = most.clone());
        let error = refused(&text);
        assert!(error.contains("does not add up"), "{pointer}: {error}");
    }
}

#[test]
fn histograms_may_not_unpack_to_any_size() {
    use crate::distribution::{Distribution, with_at_most};
    let mut wide = Distribution::new();
    (0..1_000).for_each(|value| wide.record(value));
    let text = serde_json::to_string(&[&wide, &wide, &wide]).unwrap();
    let parsed = |buckets| {
        with_at_most(buckets, || {
            serde_json::from_str::<Vec<Distribution>>(&text).is_ok()
        })
    };
    assert!(parsed(3_000));
    assert!(!parsed(2_999));
    serde_json::from_str::<Vec<Distribution>>(&text).unwrap();
}

/// Every node of a value, by its path.
fn paths(value: &Value, at: &str, all: &mut Vec<String>) {
    all.push(at.to_owned());
    let mut below = |key: &str, value| {
        let key = key.replace('~', "~0").replace('/', "~1");
        paths(value, &format!("{at}/{key}"), all);
    };
    match value {
        Value::Array(items) => {
            // Of many alike the first few are enough.
            for (at, item) in items.iter().enumerate().take(3) {
                below(&at.to_string(), item);
            }
        }
        Value::Object(fields) => fields.iter().for_each(|(key, value)| below(key, value)),
        _ => {}
    }
}

fn replacement() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        prop_oneof![Just(0_u64), Just(1), Just(u64::MAX), Just(1 << 63)].prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z]{1,8}".prop_map(|name| format!("x{}", &name[..1]).into()),
        any::<String>().prop_map(Value::from),
        Just(Value::Array(Vec::new())),
        Just(Value::Object(Map::new())),
    ]
}

/// A small report of all kinds of things.
fn small() -> &'static str {
    static SMALL: LazyLock<String> = LazyLock::new(|| {
        let mut profile = sample_cut();
        profile.modules = sample().modules;
        json(&profile)
    });
    &SMALL
}

/// Reads it; if it is accepted, it can be shown in every way, and is written again the same.
fn harmless(bytes: &[u8]) {
    let Ok(profile) = read(bytes) else { return };
    for &by in By::value_variants() {
        written(&profile, Format::TEXT, by);
    }
    let text = json(&profile);
    assert_eq!(json(&read(text.as_bytes()).unwrap()), text);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn whatever_is_changed_in_a_report_does_no_harm(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), replacement()), 1..4),
    ) {
        let mut report: Value = serde_json::from_str(small()).unwrap();
        for (at, value) in changes {
            let mut all = Vec::new();
            paths(&report, "", &mut all);
            let at = &all[at.index(all.len())];
            *report.pointer_mut(at).unwrap() = value;
        }
        harmless(report.to_string().as_bytes());
    }

    #[test]
    fn a_field_that_is_missing_does_no_harm(at in any::<prop::sample::Index>()) {
        let mut report: Value = serde_json::from_str(small()).unwrap();
        let mut all = Vec::new();
        paths(&report, "", &mut all);
        let (parent, key) = all[at.index(all.len())].rsplit_once('/').unwrap_or_default();
        match report.pointer_mut(parent) {
            Some(Value::Object(fields)) => drop(fields.remove(key)),
            Some(Value::Array(items)) => drop(items.pop()),
            _ => {}
        }
        harmless(report.to_string().as_bytes());
    }

    #[test]
    fn bytes_that_are_damaged_do_no_harm(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        end in prop_oneof![Just(None), any::<prop::sample::Index>().prop_map(Some)],
    ) {
        let mut text = small().as_bytes().to_vec();
        for (at, byte) in changes {
            let at = at.index(text.len());
            text[at] = byte;
        }
        if let Some(end) = end {
            let end = end.index(text.len());
            text.truncate(end);
        }
        harmless(&text);
    }
}

/// Every module of this crate that a file names with `crate::`, its tests aside, which may show
/// profiles.
fn modules_named_in(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let code = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let code = code.collect::<Vec<_>>().join("\n");
    let named = code.split("crate::").skip(1);
    let module = |rest: &str| {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
        rest[..end.unwrap_or(rest.len())].to_owned()
    };
    named.map(module).collect()
}

/// The files of code below a directory, those of tests aside.
fn files_of_code(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let is_test = |name: &str| ["tests.rs", "sample.rs", "sample"].contains(&name);
        match path.file_name().and_then(|name| name.to_str()) {
            Some(name) if is_test(name) => {}
            _ if path.is_dir() => files_of_code(&path, found),
            _ => found.push(path),
        }
    }
}

#[test]
fn the_profile_knows_nobody_and_reports_know_only_profiles_and_how_they_differ() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let ground = ["distribution", "foreign"];
    for (room, known) in [
        ("distribution", &[][..]),
        ("profile", &ground[..]),
        ("diff", &["profile"][..]),
        (
            "report",
            &["profile", "diff", "distribution", "foreign"][..],
        ),
    ] {
        let mut files = Vec::new();
        files_of_code(&source.join(room), &mut files);
        files.extend(Some(source.join(format!("{room}.rs"))).filter(|file| file.exists()));
        assert!(files.len() > 2, "{room}: {files:?}");
        for file in files {
            for module in modules_named_in(&file) {
                assert!(
                    module == room || known.contains(&module.as_str()),
                    "{} names crate::{module}",
                    file.display()
                );
            }
        }
    }
}
