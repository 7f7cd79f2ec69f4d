//! The fields of the format that are written. A table is a list for each column.

use serde::Serialize;
use serde_json::Value;

/// A file.
#[derive(Serialize)]
pub(super) struct File {
    pub meta: Meta,
    pub libs: [(); 0],
    pub shared: Shared,
    pub threads: [Thread; 1],
}

/// What there is to know of the whole. Times are in milliseconds.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Meta {
    /// The version of another format, of which this one was made once.
    pub version: u32,
    pub preprocessed_profile_version: u32,
    pub interval: f64,
    /// Since 1970.
    pub start_time: f64,
    pub end_time: f64,
    /// Since [`start_time`](Self::start_time), as all others.
    pub profiling_start_time: f64,
    pub profiling_end_time: f64,
    pub process_type: u32,
    pub stackwalk: u32,
    /// All names are there, so nobody needs to look for them.
    pub symbolicated: bool,
    pub uses_only_one_stack_type: bool,
    pub source_code_is_not_on_searchfox: bool,
    pub product: String,
    pub imported_from: String,
    pub categories: Vec<Category>,
    pub marker_schema: Vec<Value>,
}

#[derive(Serialize)]
pub(super) struct Category {
    pub name: String,
    pub color: &'static str,
    pub subcategories: [&'static str; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Shared {
    pub string_array: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Thread {
    pub name: &'static str,
    #[serde(rename = "isMainThread")]
    pub is_main: bool,
    pub process_type: &'static str,
    pub process_name: String,
    pub process_startup_time: f64,
    pub process_shutdown_time: f64,
    pub register_time: f64,
    pub unregister_time: f64,
    pub paused_ranges: [(); 0],
    pub pid: String,
    pub tid: u32,
    pub samples: Samples,
    pub native_allocations: Allocations,
    pub markers: Markers,
    pub stack_table: Stacks,
    pub frame_table: Frames,
    pub func_table: Functions,
    pub resource_table: Resources,
    pub native_symbols: NativeSymbols,
}

/// Stacks with weights.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Samples {
    pub stack: Vec<usize>,
    pub time: Vec<f64>,
    pub weight: Vec<u64>,
    pub weight_type: &'static str,
    pub length: usize,
}

/// The same, of bytes.
pub(super) type Allocations = Samples;

/// What happened when.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Markers {
    pub name: Vec<usize>,
    pub start_time: Vec<f64>,
    pub end_time: Vec<f64>,
    pub phase: Vec<u32>,
    pub category: Vec<usize>,
    pub data: Vec<Value>,
    pub length: usize,
}

impl Markers {
    /// Adds one that lasts.
    pub fn push(&mut self, name: usize, during: (f64, f64), category: usize, data: Value) {
        /// The number of "an interval".
        const INTERVAL: u32 = 1;
        self.name.push(name);
        self.start_time.push(during.0);
        self.end_time.push(during.1);
        self.phase.push(INTERVAL);
        self.category.push(category);
        self.data.push(data);
        self.length += 1;
    }
}

/// Ways from the root: a frame, and the way to it.
#[derive(Default, Serialize)]
pub(super) struct Stacks {
    pub prefix: Vec<Option<usize>>,
    pub frame: Vec<usize>,
    pub length: usize,
}

impl Stacks {
    /// Adds a row; its number.
    pub fn push(&mut self, prefix: Option<usize>, frame: usize) -> usize {
        self.prefix.push(prefix);
        self.frame.push(frame);
        next(&mut self.length)
    }
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Frames {
    /// -1: a frame without an address, since it has its name.
    pub address: Vec<i32>,
    pub inline_depth: Vec<u32>,
    pub category: Vec<Option<usize>>,
    pub subcategory: Vec<Option<usize>>,
    pub func: Vec<usize>,
    pub native_symbol: Vec<Option<usize>>,
    #[serde(rename = "innerWindowID")]
    pub inner_window_id: Vec<Option<u32>>,
    pub line: Vec<Option<u32>>,
    pub column: Vec<Option<u32>>,
    pub length: usize,
}

impl Frames {
    /// Adds a row; its number.
    pub fn push(&mut self, func: usize, line: Option<u32>, category: Option<usize>) -> usize {
        self.address.push(-1);
        self.inline_depth.push(0);
        self.category.push(category);
        self.subcategory.push(category.map(|_| 0));
        self.func.push(func);
        self.native_symbol.push(None);
        self.inner_window_id.push(None);
        self.line.push(line);
        self.column.push(None);
        next(&mut self.length)
    }
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Functions {
    pub name: Vec<usize>,
    #[serde(rename = "isJS")]
    pub is_js: Vec<bool>,
    #[serde(rename = "relevantForJS")]
    pub relevant_for_js: Vec<bool>,
    /// -1: none.
    pub resource: Vec<i64>,
    pub file_name: Vec<Option<usize>>,
    pub line_number: Vec<Option<u32>>,
    pub column_number: Vec<Option<u32>>,
    pub length: usize,
}

impl Functions {
    /// Adds a row; its number.
    pub fn push(&mut self, name: usize, file: Option<usize>, resource: Option<usize>) -> usize {
        self.name.push(name);
        self.is_js.push(false);
        self.relevant_for_js.push(false);
        self.resource.push(resource.map_or(-1, |at| at as i64));
        self.file_name.push(file);
        self.line_number.push(None);
        self.column_number.push(None);
        next(&mut self.length)
    }
}

/// Where functions are from.
#[derive(Default, Serialize)]
pub(super) struct Resources {
    pub lib: Vec<Option<usize>>,
    pub name: Vec<usize>,
    pub host: Vec<Option<usize>>,
    pub r#type: Vec<u32>,
    pub length: usize,
}

impl Resources {
    /// Adds a row; its number.
    pub fn push(&mut self, name: usize, r#type: u32) -> usize {
        self.lib.push(None);
        self.name.push(name);
        self.host.push(None);
        self.r#type.push(r#type);
        next(&mut self.length)
    }
}

/// Always empty: functions have their names already.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NativeSymbols {
    pub lib_index: [(); 0],
    pub address: [(); 0],
    pub name: [(); 0],
    pub function_size: [(); 0],
    pub length: usize,
}

fn next(length: &mut usize) -> usize {
    *length += 1;
    *length - 1
}
