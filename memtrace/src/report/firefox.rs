//! The processed format of the Firefox Profiler: stacks by pages and bytes, and what was copied when
//! as markers.
//!
//! A profile of memtrace does not say when each stack copied, only how much each cause copied in each
//! bin of the trace. So all samples are at its beginning, and the times are those of markers: one for
//! each cause and bin, and one for the life of each process. Bytes are allocations of native code in
//! the words of that tool, which has no others for them; pages are samples.
//!
//! Causes are the categories, which give graphs and trees their colours. The cause is the last frame
//! of a stack and has the category; other frames have none of their own.

use std::io::{self, Write};

use anyhow::Context as _;
use foldhash::HashMap;

use self::file::{
    Allocations, Category, File, Frames as FrameTable, Functions, Meta, Resources, Samples, Shared,
    Stacks, Thread,
};
use super::merged::{Key, Merged, merged};
use super::samples::{Frames, name_of, program, since_1970};
use super::{Format, Report};
use crate::profile::{CauseName, Profile};

mod file;
mod markers;

pub(super) const FORMAT: Format = Format {
    name: "firefox",
    extension: "firefox.json",
    audience: "For the Firefox Profiler",
    remark: "stacks, and causes over time",
    is_binary: false,
    make: |output, _| {
        Box::new(Firefox {
            frames: output.frames,
        })
    },
};

/// The version of the format. The tool reads earlier ones, this one too.
const VERSION: u32 = 57;

/// A resource that is a library, or another file.
const LIBRARY: u32 = 1;

/// Writes a file for the Firefox Profiler.
#[derive(Clone, Copy, Debug)]
pub struct Firefox {
    /// Which frames.
    pub frames: Frames,
}

impl Report for Firefox {
    fn write(&self, profile: &Profile, out: &mut dyn Write) -> anyhow::Result<()> {
        let mut out = out;
        // As an I/O error it keeps its kind, so that a closed pipe is recognised.
        serde_json::to_writer(&mut out, &converted(profile, self.frames))
            .map_err(io::Error::from)
            .context("cannot write the report for the Firefox Profiler")?;
        out.write_all(b"\n")?;
        Ok(())
    }
}

/// Texts, each once, by number.
#[derive(Default)]
struct Strings {
    all: Vec<String>,
    numbers: HashMap<String, usize>,
}

impl Strings {
    fn number(&mut self, text: &str) -> usize {
        if let Some(&known) = self.numbers.get(text) {
            return known;
        }
        let number = self.all.len();
        self.all.push(text.to_owned());
        self.numbers.insert(text.to_owned(), number);
        number
    }
}

/// The place of a cause in the list of categories. The first is for what has no cause of its own.
fn category(cause: CauseName) -> usize {
    let known = CauseName::ALL.into_iter().position(|it| it == cause);
    known.map_or(0, |at| at + 1)
}

/// The categories. The tool names the colours that there are; they are as near to those of other
/// pictures as they can be.
fn categories() -> Vec<Category> {
    let of = |name: &str, color| Category {
        name: name.to_owned(),
        color,
        subcategories: ["Other"],
    };
    let causes = CauseName::ALL.into_iter();
    let causes = causes.map(|cause| of(cause.name(), colour(cause)));
    [of("Other", "grey")].into_iter().chain(causes).collect()
}

fn colour(cause: CauseName) -> &'static str {
    match cause {
        CauseName::Refcount => "orange",
        CauseName::Gc => "lightblue",
        CauseName::Allocator => "green",
        CauseName::Object => "brown",
        CauseName::Data => "blue",
        CauseName::Kernel => "yellow",
        CauseName::Remote => "magenta",
        CauseName::Unknown | CauseName::Other(_) => "darkgrey",
    }
}

fn converted(profile: &Profile, frames: Frames) -> File {
    let mut strings = Strings::default();
    let merged = merged(profile, frames);
    let mut tables = Tables::of(&merged.keys, &mut strings);
    let ends: Vec<usize> = (merged.stacks.iter())
        .map(|stack| tables.stack(stack))
        .collect();
    let Merged { pages, bytes, .. } = merged;
    let program = name_of(&program(profile));
    let began = since_1970(profile).map_or(0.0, |since| since.as_secs_f64() * 1e3);
    let length = profile.duration_s * 1e3;
    let thread = Thread {
        name: "copied on write",
        is_main: true,
        process_type: "default",
        process_name: program.clone(),
        process_startup_time: 0.0,
        process_shutdown_time: length,
        register_time: 0.0,
        unregister_time: length,
        paused_ranges: [],
        pid: (profile.processes.first()).map_or_else(|| "0".to_owned(), |it| it.pid.to_string()),
        tid: 0,
        samples: Samples {
            stack: ends.clone(),
            time: vec![0.0; ends.len()],
            length: ends.len(),
            weight: pages,
            weight_type: "samples",
        },
        native_allocations: Allocations {
            time: vec![0.0; ends.len()],
            length: ends.len(),
            stack: ends,
            weight: bytes,
            weight_type: "bytes",
        },
        markers: markers::of(profile, &mut strings),
        stack_table: tables.stacks,
        frame_table: tables.frames,
        func_table: tables.functions,
        resource_table: tables.resources,
        native_symbols: file::NativeSymbols::default(),
    };
    File {
        meta: Meta {
            version: 31,
            preprocessed_profile_version: VERSION,
            interval: 1.0,
            start_time: began,
            end_time: began + length,
            profiling_start_time: 0.0,
            profiling_end_time: length,
            process_type: 0,
            stackwalk: 1,
            symbolicated: true,
            uses_only_one_stack_type: true,
            source_code_is_not_on_searchfox: true,
            product: program,
            imported_from: format!("memtrace {}", name_of(&profile.memtrace)),
            categories: categories(),
            marker_schema: markers::schemas(),
        },
        libs: [],
        shared: Shared {
            string_array: strings.all,
        },
        threads: [thread],
    }
}

/// What samples refer to, by number.
#[derive(Default)]
struct Tables {
    stacks: Stacks,
    by_way: HashMap<(Option<usize>, usize), usize>,
    frames: FrameTable,
    functions: Functions,
    resources: Resources,
}

impl Tables {
    /// Those of these frames: the number of each is its place.
    fn of(keys: &[Key<'_>], strings: &mut Strings) -> Self {
        let mut tables = Self::default();
        let (mut functions, mut resources) = (HashMap::default(), HashMap::default());
        for key in keys {
            let of_function = match key {
                Key::Step(step) => (step.function, step.file, step.module, None),
                Key::Cause(cause) => ("", None, None, Some(*cause)),
            };
            let function = *functions.entry(of_function).or_insert_with(|| {
                let file = of_function.1.map(super::samples::path_of);
                let module = of_function.2.map(super::samples::path_of);
                let resource = module.map(|module| {
                    *resources.entry(module).or_insert_with_key(|module| {
                        tables.resources.push(strings.number(module), LIBRARY)
                    })
                });
                let name = match key {
                    Key::Step(step) => name_of(step.function),
                    Key::Cause(_) => key.name(),
                };
                let name = strings.number(&name);
                let file = file.map(|file| strings.number(&file));
                tables.functions.push(name, file, resource)
            });
            let of_cause = match key {
                Key::Cause(cause) => Some(category(*cause)),
                Key::Step(_) => None,
            };
            tables.frames.push(function, key.line(), of_cause);
        }
        tables
    }

    /// The number of a stack, which is that of its last node in the table of all ways.
    fn stack(&mut self, frames: &[usize]) -> usize {
        let mut at = None;
        for &frame in frames {
            let stacks = &mut self.stacks;
            let next = *(self.by_way.entry((at, frame))).or_insert_with(|| stacks.push(at, frame));
            at = Some(next);
        }
        // A stack has at least its cause.
        at.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
