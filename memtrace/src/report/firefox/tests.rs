use serde_json::Value;

use super::*;
use crate::profile::sample::{sample, sample_with_memory};
use crate::report::samples::tests::{ALL_FRAMES, profiles};

fn written(profile: &Profile, frames: Frames) -> Value {
    let mut bytes = Vec::new();
    Firefox { frames }.write(profile, &mut bytes).unwrap();
    assert!(!bytes.contains(&0x1b) && bytes.ends_with(b"\n"));
    serde_json::from_slice(&bytes).unwrap()
}

fn column<'a>(table: &'a Value, name: &str) -> Vec<&'a Value> {
    let cells: Vec<_> = table[name].as_array().unwrap().iter().collect();
    assert_eq!(cells.len() as u64, table["length"].as_u64().unwrap());
    cells
}

fn sum(table: &Value, name: &str) -> u64 {
    let cells = column(table, name).into_iter();
    cells.map(|it| it.as_u64().unwrap()).sum()
}

/// The stacks of a file, root first, with what its tables say of each frame.
fn shown(file: &Value) -> String {
    let thread = &file["threads"][0];
    let at = |table: &str, column: &str, row: &Value| {
        thread[table][column][row.as_u64().unwrap() as usize].clone()
    };
    let text = |number: &Value| {
        let strings = &file["shared"]["stringArray"];
        let number = number.as_u64().map(|number| number as usize);
        number.map_or("-", |number| strings[number].as_str().unwrap())
    };
    let mut lines = Vec::new();
    let bytes = column(&thread["nativeAllocations"], "weight");
    let pages = column(&thread["samples"], "weight");
    for (row, stack) in column(&thread["samples"], "stack").into_iter().enumerate() {
        lines.push(format!("{} pages, {} bytes", pages[row], bytes[row]));
        let mut way = Vec::new();
        let mut stack = stack.clone();
        while !stack.is_null() {
            let frame = at("stackTable", "frame", &stack);
            let func = at("frameTable", "func", &frame);
            let category = at("frameTable", "category", &frame);
            let of = category.as_u64().map(|of| of as usize);
            let category = of.map(|of| &file["meta"]["categories"][of]["name"]);
            way.push(format!(
                "  {}  {}:{}  {}",
                text(&at("funcTable", "name", &func)),
                text(&at("funcTable", "fileName", &func)),
                at("frameTable", "line", &frame),
                category.map_or("-", |name| name.as_str().unwrap()),
            ));
            stack = at("stackTable", "prefix", &stack);
        }
        lines.extend(way.into_iter().rev());
    }
    lines.join("\n")
}

#[test]
fn a_stack_ends_with_its_cause_whose_category_it_has() {
    let mut profile = sample();
    profile.call_sites.truncate(1);
    insta::assert_snapshot!(shown(&written(&profile, Frames::Python)), @"
    2500 pages, 10240000 bytes
      SyncWorker.run  /srv/shop/lib/gunicorn/workers/sync.py:130  -
      SyncWorker.handle_request  /srv/shop/lib/gunicorn/workers/sync.py:177  -
      Flask.dispatch_request  /srv/shop/lib/flask/app.py:1484  -
      checkout  /srv/shop/app/views.py:91  -
      Catalog.render  /srv/shop/app/catalog.py:212  -
      unicode_hash  -:null  -
      [refcount]  -:null  refcount
    ");
}

#[test]
fn weights_add_up_to_all_copies() {
    for (name, profile) in profiles() {
        for frames in ALL_FRAMES {
            let thread = &written(&profile, frames)["threads"][0];
            let totals = &profile.totals;
            let pages = sum(&thread["samples"], "weight");
            let bytes = sum(&thread["nativeAllocations"], "weight");
            assert_eq!(pages, totals.copied_pages, "{name}, {frames:?}");
            assert_eq!(bytes, totals.copied_bytes, "{name}, {frames:?}");
        }
    }
}

#[test]
fn tables_are_whole_and_refer_to_what_there_is() {
    for (_, profile) in profiles() {
        let file = written(&profile, Frames::Mixed);
        let thread = &file["threads"][0];
        let length = |table: &str| thread[table]["length"].as_u64().unwrap();
        let below = |table: &str, name: &str, limit: u64| {
            let cells = column(&thread[table], name).into_iter();
            let mut numbers = cells.filter_map(Value::as_u64);
            assert!(numbers.all(|number| number < limit), "{table}.{name}");
        };
        let strings = file["shared"]["stringArray"].as_array().unwrap().len() as u64;
        below("samples", "stack", length("stackTable"));
        below("nativeAllocations", "stack", length("stackTable"));
        below("stackTable", "frame", length("frameTable"));
        below("frameTable", "func", length("funcTable"));
        below("funcTable", "resource", length("resourceTable"));
        for table in ["funcTable", "resourceTable", "markers"] {
            below(table, "name", strings);
        }
        let categories = file["meta"]["categories"].as_array().unwrap().len() as u64;
        below("frameTable", "category", categories);
        below("markers", "category", categories);
        // A way comes before those that go on from it.
        let prefixes = column(&thread["stackTable"], "prefix");
        for (row, prefix) in prefixes.into_iter().enumerate() {
            assert!(prefix.as_u64().is_none_or(|prefix| prefix < row as u64));
        }
    }
}

#[test]
fn markers_say_what_each_cause_copied_when_and_how_long_processes_lived() {
    let profile = sample_with_memory();
    let file = written(&profile, Frames::Python);
    let markers = &file["threads"][0]["markers"];
    let of = |kind: &str| -> Vec<usize> {
        let data = column(markers, "data").into_iter().enumerate();
        let of_kind = data.filter(|(_, data)| data["type"] == kind);
        of_kind.map(|(row, _)| row).collect()
    };
    let timeline = profile.timeline.as_ref().unwrap();
    for (cause, bins) in &timeline.by_cause {
        let named = of("copies").into_iter().filter(|&row| {
            let at = markers["category"][row].as_u64().unwrap() as usize;
            file["meta"]["categories"][at]["name"] == cause.name()
        });
        let bytes = named.map(|row| markers["data"][row]["bytes"].as_u64().unwrap());
        assert_eq!(bytes.sum::<u64>(), bins.iter().sum::<u64>(), "{cause}");
    }
    let end = profile.duration_s * 1e3;
    for row in of("copies") {
        let time = |column: &str| markers[column][row].as_f64().unwrap();
        assert!(time("startTime") <= time("endTime") && time("endTime") <= end);
    }
    let lives = of("process").into_iter().map(|row| {
        let times = (&markers["startTime"][row], &markers["endTime"][row]);
        format!("{} {}..{}", markers["data"][row]["pid"], times.0, times.1)
    });
    insta::assert_snapshot!(lives.collect::<Vec<_>>().join("\n"), @r#"
    "4242" 0.0..10250.0
    "4243" 0.0..10250.0
    "4244" 0.0..10250.0
    "4245" 512.0..6250.0
    "4246" 7001.0..7019.0
    "4247" 9998.0..10250.0
    "#);
    let kinds = (file["meta"]["markerSchema"].as_array().unwrap().iter())
        .map(|schema| schema["name"].as_str().unwrap());
    assert_eq!(kinds.collect::<Vec<_>>(), ["copies", "process"]);
}

#[test]
fn each_cause_has_a_category_and_the_first_is_grey_as_the_tool_wants_it() {
    let categories = categories();
    assert_eq!(
        (categories[0].name.as_str(), categories[0].color),
        ("Other", "grey")
    );
    for cause in CauseName::ALL {
        assert_eq!(categories[category(cause)].name, cause.name());
    }
}
