use std::io::Read as _;
use std::sync::Arc;

use flate2::read::GzDecoder;

use super::*;
use crate::profile::sample::{sample, sample_with_losses};
use crate::profile::{Frame, StackPages, Unknown};
use crate::report::samples::tests::{ALL_FRAMES, profiles};

fn written(profile: &Profile, frames: Frames) -> proto::Profile {
    let (mut packed, mut plain) = (Vec::new(), Vec::new());
    Pprof { frames }.write(profile, &mut packed).unwrap();
    GzDecoder::new(&packed[..]).read_to_end(&mut plain).unwrap();
    proto::Profile::decode(&plain[..]).unwrap()
}

fn total(decoded: &proto::Profile, value: usize) -> u64 {
    let values = decoded.sample.iter().map(|sample| sample.value[value]);
    values.sum::<i64>() as u64
}

/// A file as text: what its numbers refer to.
fn shown(decoded: &proto::Profile) -> String {
    let text = |at: i64| decoded.string_table[at as usize].as_str();
    let mut lines = vec![format!("first: {}", text(decoded.mapping[0].filename))];
    for sample in &decoded.sample {
        let stack = sample.location_id.iter().map(|&id| {
            let location = &decoded.location[id as usize - 1];
            let line = &location.line[0];
            let function = &decoded.function[line.function_id as usize - 1];
            let mapping = &decoded.mapping[location.mapping_id as usize - 1];
            format!(
                "\n  {}  {}:{}  {}",
                text(function.name),
                text(function.filename),
                line.line,
                text(mapping.filename)
            )
        });
        let labels = sample.label.iter().map(|label| match label.str {
            0 => format!(" {}={}", text(label.key), label.num),
            value => format!(" {}={}", text(label.key), text(value)),
        });
        let labels: String = labels.collect();
        lines.push(format!(
            "{:?}{labels}{}",
            sample.value,
            stack.collect::<String>()
        ));
    }
    lines.join("\n")
}

#[test]
fn a_sample_has_its_stack_its_values_and_labels() {
    let mut profile = sample();
    profile.call_sites.retain(|site| site.pages > 500);
    profile.call_sites.truncate(2);
    insta::assert_snapshot!(shown(&written(&profile, Frames::Python)), @r"
    first: /usr/bin/python3.11
    [1120, 4587520] cause=refcount origin=fork object_type=str pid=4243
      unicode_hash  ./Objects/unicodeobject.c:11230  /usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0
      Catalog.render  /srv/shop/app/catalog.py:212  /usr/bin/python3.11
      checkout  /srv/shop/app/views.py:91  /usr/bin/python3.11
      Flask.dispatch_request  /srv/shop/lib/flask/app.py:1484  /usr/bin/python3.11
      SyncWorker.handle_request  /srv/shop/lib/gunicorn/workers/sync.py:177  /usr/bin/python3.11
      SyncWorker.run  /srv/shop/lib/gunicorn/workers/sync.py:130  /usr/bin/python3.11
    [1080, 4423680] cause=refcount origin=fork object_type=str pid=4244
      unicode_hash  ./Objects/unicodeobject.c:11230  /usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0
      Catalog.render  /srv/shop/app/catalog.py:212  /usr/bin/python3.11
      checkout  /srv/shop/app/views.py:91  /usr/bin/python3.11
      Flask.dispatch_request  /srv/shop/lib/flask/app.py:1484  /usr/bin/python3.11
      SyncWorker.handle_request  /srv/shop/lib/gunicorn/workers/sync.py:177  /usr/bin/python3.11
      SyncWorker.run  /srv/shop/lib/gunicorn/workers/sync.py:130  /usr/bin/python3.11
    [410, 1679360] cause=refcount origin=fork object_type=dict pid=4243
      unicode_hash  ./Objects/unicodeobject.c:11230  /usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0
      Catalog.render  /srv/shop/app/catalog.py:212  /usr/bin/python3.11
      checkout  /srv/shop/app/views.py:91  /usr/bin/python3.11
      Flask.dispatch_request  /srv/shop/lib/flask/app.py:1484  /usr/bin/python3.11
      SyncWorker.handle_request  /srv/shop/lib/gunicorn/workers/sync.py:177  /usr/bin/python3.11
      SyncWorker.run  /srv/shop/lib/gunicorn/workers/sync.py:130  /usr/bin/python3.11
    [377, 1544192] cause=refcount origin=fork object_type=dict pid=4244
      unicode_hash  ./Objects/unicodeobject.c:11230  /usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0
      Catalog.render  /srv/shop/app/catalog.py:212  /usr/bin/python3.11
      checkout  /srv/shop/app/views.py:91  /usr/bin/python3.11
      Flask.dispatch_request  /srv/shop/lib/flask/app.py:1484  /usr/bin/python3.11
      SyncWorker.handle_request  /srv/shop/lib/gunicorn/workers/sync.py:177  /usr/bin/python3.11
      SyncWorker.run  /srv/shop/lib/gunicorn/workers/sync.py:130  /usr/bin/python3.11
    [300, 1228800] cause=refcount origin=fork object_type=str pid=4245
      unicode_hash  ./Objects/unicodeobject.c:11230  /usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0
      Catalog.render  /srv/shop/app/catalog.py:212  /usr/bin/python3.11
      checkout  /srv/shop/app/views.py:91  /usr/bin/python3.11
      Flask.dispatch_request  /srv/shop/lib/flask/app.py:1484  /usr/bin/python3.11
      SyncWorker.handle_request  /srv/shop/lib/gunicorn/workers/sync.py:177  /usr/bin/python3.11
      SyncWorker.run  /srv/shop/lib/gunicorn/workers/sync.py:130  /usr/bin/python3.11
    ");
}

#[test]
fn the_file_says_what_tools_ask_it_for() {
    let mut profile = sample_with_losses();
    profile.modules[0].path = "/usr/bin/python3.11".into();
    let decoded = written(&profile, Frames::Python);
    let text = |at: i64| decoded.string_table[at as usize].as_str();
    assert_eq!(text(0), "");
    let types = decoded.sample_type.iter();
    let types: Vec<_> = types.map(|it| (text(it.r#type), text(it.unit))).collect();
    assert_eq!(types, [("pages", "count"), ("bytes", "bytes")]);
    assert_eq!(text(decoded.default_sample_type), "bytes");
    assert_eq!(decoded.period_type, Some(decoded.sample_type[0]));
    assert_eq!(decoded.duration_nanos, 10_250_000_000);
    assert_eq!(decoded.time_nanos, 1_773_500_966_000_000_000);
    assert_eq!(text(decoded.mapping[0].build_id), "0a1b2c3d");
    assert!(
        decoded
            .mapping
            .iter()
            .all(|it| it.has_functions && it.has_filenames)
    );
    let comments = decoded.comment.iter().map(|&at| text(at));
    insta::assert_snapshot!(comments.collect::<Vec<_>>().join("\n"), @r"
    memtrace 0.1.0: pages copied on write
    1204 copies have no record: [lost]
    31 copies have no stack
    2 processes could not be traced
    1 threads could not be traced
    ");
}

#[test]
fn values_add_up_to_all_copies() {
    for (name, profile) in profiles() {
        for frames in ALL_FRAMES {
            let decoded = written(&profile, frames);
            assert_eq!(total(&decoded, 0), profile.totals.copied_pages, "{name}");
            assert_eq!(total(&decoded, 1), profile.totals.copied_bytes, "{name}");
            for (at, location) in decoded.location.iter().enumerate() {
                assert_eq!(location.id, at as u64 + 1);
                assert!(location.mapping_id as usize <= decoded.mapping.len());
            }
        }
    }
}

#[test]
fn of_very_many_samples_the_smallest_are_one_for_each_cause() {
    let mut profile = sample();
    let site = &mut profile.call_sites[0];
    let (pages, all) = (site.pages, 10_000);
    site.stacks = (0..all)
        .map(|n| StackPages {
            pages: n + 1,
            frames: [Arc::new(Frame::placeholder(
                &format!("f{n}"),
                Unknown::NoSymbol,
            ))]
            .into(),
            ..site.stacks[0].clone()
        })
        .collect();
    site.pages = all * (all + 1) / 2;
    site.bytes = site.pages * 4096;
    let more = site.pages - pages;
    let decoded = written(&profile, Frames::Mixed);
    let causes = profile.totals.by_cause.iter();
    let causes = causes.filter(|(_, pages)| *pages > 0).count();
    assert!(decoded.sample.len() <= MOST_SAMPLES + causes);
    assert_eq!(total(&decoded, 0), profile.totals.copied_pages + more);
    let text = shown(&decoded);
    assert!(text.contains("  [other]  :0") && text.contains("  f9999  "));
    assert!(!text.contains("  f3  "));
}
