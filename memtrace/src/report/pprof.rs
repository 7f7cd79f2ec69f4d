//! pprof, compressed: what `go tool pprof`, Pyroscope, Parca, Grafana and speedscope read. A sample
//! is a stack with pages and bytes; what else there is to know of it are its labels.
//!
//! Servers that take such files refuse ones of very many samples. So the largest [`MOST_SAMPLES`]
//! are written, and what is left in one `[other]` for each cause: totals hold.

use std::collections::BTreeMap;
use std::io::Write;
use std::rc::Rc;

use flate2::Compression;
use flate2::write::GzEncoder;
use foldhash::HashMap;
use prost::Message as _;

use super::samples::{Frames, Step, name_of, path_of, program, samples, since_1970};
use super::{Format, Report};
use crate::profile::{CauseName, OriginName, Profile};

mod proto;

pub(super) const FORMAT: Format = Format {
    name: "pprof",
    extension: "pb.gz",
    audience: "For go tool pprof, Pyroscope and Parca",
    remark: "pprof, compressed by gzip",
    is_binary: true,
    make: |output, _| {
        Box::new(Pprof {
            frames: output.frames,
        })
    },
};

/// Samples that are written one by one.
const MOST_SAMPLES: usize = 4_000;

/// Writes a profile for pprof.
#[derive(Clone, Copy, Debug)]
pub struct Pprof {
    /// Which frames.
    pub frames: Frames,
}

impl Report for Pprof {
    fn write(&self, profile: &Profile, out: &mut dyn Write) -> anyhow::Result<()> {
        let encoded = converted(profile, self.frames).encode_to_vec();
        let mut out = GzEncoder::new(out, Compression::default());
        out.write_all(&encoded)?;
        out.finish()?;
        Ok(())
    }
}

/// What tells samples of one stack apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Labels<'a> {
    cause: CauseName,
    origin: Option<OriginName>,
    object_type: Option<&'a str>,
    pid: Option<u32>,
}

/// Pages and bytes.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Weight {
    bytes: u64,
    pages: u64,
}

impl Weight {
    fn add(&mut self, more: Self) {
        self.bytes = self.bytes.saturating_add(more.bytes);
        self.pages = self.pages.saturating_add(more.pages);
    }
}

type Row<'a> = (Rc<[Step<'a>]>, Labels<'a>, Weight);

/// Samples of equal stacks and labels added up, the largest first, and the smallest as `[other]`.
fn rows(profile: &Profile, frames: Frames) -> Vec<Row<'_>> {
    // Stacks by number, since very many processes may have one stack.
    let mut stacks: HashMap<Rc<[Step<'_>]>, usize> = HashMap::default();
    let mut merged: HashMap<(usize, Labels<'_>), Weight> = HashMap::default();
    for sample in samples(profile, frames) {
        let next = stacks.len();
        let stack = *stacks.entry(sample.steps.as_slice().into()).or_insert(next);
        for part in sample.by_process() {
            let labels = Labels {
                cause: sample.cause(),
                origin: Some(sample.origin()),
                object_type: sample.object_type(),
                pid: part.pid,
            };
            merged.entry((stack, labels)).or_default().add(Weight {
                bytes: part.bytes,
                pages: part.pages,
            });
        }
    }
    let mut by_number: Vec<(usize, Rc<[Step<'_>]>)> = stacks
        .into_iter()
        .map(|(steps, number)| (number, steps))
        .collect();
    by_number.sort_unstable_by_key(|(number, _)| *number);
    let mut rows: Vec<Row<'_>> = (merged.into_iter())
        .map(|((stack, labels), weight)| (Rc::clone(&by_number[stack].1), labels, weight))
        .filter(|(.., weight)| *weight != Weight::default())
        .collect();
    // Of equal ones by name, so that one profile makes one file.
    rows.sort_unstable_by(|a, b| (b.2.cmp(&a.2)).then_with(|| (&a.0, a.1).cmp(&(&b.0, b.1))));
    let mut others: BTreeMap<CauseName, Weight> = BTreeMap::new();
    for (_, labels, weight) in rows.drain(MOST_SAMPLES.min(rows.len())..) {
        others.entry(labels.cause).or_default().add(weight);
    }
    rows.extend(others.into_iter().map(|(cause, weight)| {
        let labels = Labels {
            cause,
            origin: None,
            object_type: None,
            pid: None,
        };
        ([Step::ours("[other]")].into(), labels, weight)
    }));
    rows
}

fn converted(profile: &Profile, frames: Frames) -> proto::Profile {
    let rows = rows(profile, frames);
    let mut tables = Tables {
        build_ids: (profile.modules.iter())
            .filter_map(|module| Some((&*module.path, module.build_id.as_deref()?)))
            .collect(),
        ..Tables::default()
    };
    // The empty string is the first, as the format wants it.
    tables.string("");
    let pages = tables.value_type("pages", "count");
    let bytes = tables.value_type("bytes", "bytes");
    // The first mapping is what tools show as the name of the program.
    tables.mapping(&program(profile));
    let sample = rows
        .iter()
        .map(|(steps, labels, weight)| proto::Sample {
            location_id: (steps.iter().rev())
                .map(|step| tables.location(step))
                .collect(),
            value: vec![number(weight.pages), number(weight.bytes)],
            label: tables.labels(labels),
        })
        .collect();
    let comment = comments(profile)
        .iter()
        .map(|text| tables.string(text))
        .collect();
    proto::Profile {
        sample_type: vec![pages, bytes],
        sample,
        mapping: tables.mappings,
        location: tables.locations,
        function: tables.functions,
        time_nanos: since_1970(profile)
            .map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(0)),
        duration_nanos: (profile.duration_s * 1e9) as i64,
        period_type: Some(pages),
        period: 1,
        comment,
        default_sample_type: bytes.r#type,
        string_table: tables.strings,
    }
}

/// What a reader must know that samples do not say.
fn comments(profile: &Profile) -> Vec<String> {
    let lost = &profile.totals.lost;
    let mut comments = vec![format!(
        "memtrace {}: pages copied on write",
        name_of(&profile.memtrace)
    )];
    let counted = [
        (lost.faults, "copies have no record: [lost]"),
        (lost.stacks, "copies have no stack"),
        (lost.processes, "processes could not be traced"),
        (lost.threads, "threads could not be traced"),
        (
            profile.totals.pending,
            "records were still on their way: [pending]",
        ),
    ];
    let said = counted.iter().filter(|(count, _)| *count > 0);
    comments.extend(said.map(|(count, what)| format!("{count} {what}")));
    comments
}

/// The format has signed numbers.
fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// What samples refer to: everything has a number, from 1 on, strings from 0.
#[derive(Default)]
struct Tables<'a> {
    /// By path.
    build_ids: HashMap<&'a str, &'a str>,
    strings: Vec<String>,
    by_string: HashMap<String, i64>,
    mappings: Vec<proto::Mapping>,
    by_path: HashMap<String, u64>,
    functions: Vec<proto::Function>,
    by_function: HashMap<(&'a str, Option<&'a str>), u64>,
    locations: Vec<proto::Location>,
    by_step: HashMap<Step<'a>, u64>,
}

impl<'a> Tables<'a> {
    fn string(&mut self, text: &str) -> i64 {
        if let Some(&known) = self.by_string.get(text) {
            return known;
        }
        let number = self.strings.len() as i64;
        self.strings.push(text.to_owned());
        self.by_string.insert(text.to_owned(), number);
        number
    }

    fn value_type(&mut self, name: &str, unit: &str) -> proto::ValueType {
        proto::ValueType {
            r#type: self.string(name),
            unit: self.string(unit),
        }
    }

    fn mapping(&mut self, path: &str) -> u64 {
        if let Some(&known) = self.by_path.get(path) {
            return known;
        }
        let build_id = self.build_ids.get(path).copied();
        let id = self.mappings.len() as u64 + 1;
        let mapping = proto::Mapping {
            id,
            filename: self.string(&path_of(path)),
            build_id: build_id.map_or(0, |build_id| self.string(&name_of(build_id))),
            // All names are there, so nobody needs to look for them in files.
            has_functions: true,
            has_filenames: true,
            has_line_numbers: true,
            has_inline_frames: true,
        };
        self.mappings.push(mapping);
        self.by_path.insert(path.to_owned(), id);
        id
    }

    fn function(&mut self, step: &Step<'a>) -> u64 {
        let key = (step.function, step.file);
        if let Some(&known) = self.by_function.get(&key) {
            return known;
        }
        let id = self.functions.len() as u64 + 1;
        let name = self.string(&name_of(step.function));
        let function = proto::Function {
            id,
            name,
            system_name: name,
            filename: step.file.map_or(0, |file| self.string(&path_of(file))),
        };
        self.functions.push(function);
        self.by_function.insert(key, id);
        id
    }

    fn location(&mut self, step: &Step<'a>) -> u64 {
        if let Some(&known) = self.by_step.get(step) {
            return known;
        }
        // What no file has, as a Python function, belongs to the program.
        let mapping_id = step.module.map_or(1, |path| self.mapping(path));
        let line = proto::Line {
            function_id: self.function(step),
            line: step.line.map_or(0, i64::from),
        };
        let id = self.locations.len() as u64 + 1;
        self.locations.push(proto::Location {
            id,
            mapping_id,
            line: vec![line],
        });
        self.by_step.insert(*step, id);
        id
    }

    fn labels(&mut self, labels: &Labels<'_>) -> Vec<proto::Label> {
        let object_type = labels.object_type.map(name_of);
        let texts = [
            ("cause", Some(labels.cause.name())),
            ("origin", labels.origin.map(OriginName::name)),
            ("object_type", object_type.as_deref()),
        ];
        let texts = texts
            .iter()
            .filter_map(|(key, text)| Some((*key, (*text)?)));
        let mut all: Vec<proto::Label> = texts
            .map(|(key, text)| proto::Label {
                key: self.string(key),
                str: self.string(text),
                num: 0,
            })
            .collect();
        // As a number: servers make a series of each text.
        all.extend(labels.pid.map(|pid| proto::Label {
            key: self.string("pid"),
            str: 0,
            num: i64::from(pid),
        }));
        all
    }
}

#[cfg(test)]
mod tests;
