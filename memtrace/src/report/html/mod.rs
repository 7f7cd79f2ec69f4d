//! The report as one page for a browser.
//!
//! One file that asks for nothing: styles, script and data are in it, and its content security
//! policy lets nothing else run (ADR 0024). What is said first, the curve over time and the first
//! rows of the tables are plain HTML, so that the page is read without a script and on paper; the
//! script draws the flame graph from the embedded [`data`], and lets tables be sorted, searched and
//! unfolded.

use std::io::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use super::{Format, Report};
use crate::profile::{CauseName, Profile};

mod axis;
mod curve;
mod data;
mod details;
mod escape;
mod head;
mod processes;
mod roles;
mod stacks;
mod tables;

pub(super) const FORMAT: Format = Format {
    name: "html",
    extension: "html",
    audience: "For people",
    remark: "one page for a browser, with a flame graph",
    is_binary: false,
    make: |_, _| Box::new(Html),
};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Writes the profile as a page.
#[derive(Clone, Copy, Debug)]
pub struct Html;

impl Report for Html {
    fn write(&self, profile: &Profile, out: &mut dyn Write) -> anyhow::Result<()> {
        let (title, data) = (head::title(profile), data::json(profile)?);
        let policy = policy();
        write!(
            out,
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{}\
             <script type=\"application/json\" id=\"data\">{data}</script>\n\
             <script>{SCRIPT}</script>\n</body>\n</html>\n",
            body(profile)
        )?;
        Ok(())
    }
}

/// What is read of the page: all of it but styles, script and data.
fn body(profile: &Profile) -> String {
    let parts = [
        head::head(profile),
        "<main>\n".to_owned(),
        head::advice(profile),
        curve::section(profile),
        tables::flame_graph(profile),
        tables::call_sites(profile),
        tables::types(profile),
        processes::section(profile),
        processes::growth(profile),
        "</main>\n".to_owned(),
        head::foot(profile),
    ];
    parts.concat()
}

/// Lets the page's own style and script through, and nothing else.
fn policy() -> String {
    let hash = |text: &str| STANDARD.encode(Sha256::digest(text));
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; base-uri 'none'; \
         form-action 'none'",
        hash(SCRIPT),
        hash(STYLE)
    )
}

/// The class that gives something the colour of a cause.
fn cause_class(cause: CauseName) -> &'static str {
    match cause {
        CauseName::Other(_) => "c-other",
        CauseName::Refcount => "c-refcount",
        CauseName::Gc => "c-gc",
        CauseName::Allocator => "c-allocator",
        CauseName::Object => "c-object",
        CauseName::Data => "c-data",
        CauseName::Kernel => "c-kernel",
        CauseName::Remote => "c-remote",
        CauseName::Unknown => "c-unknown",
    }
}

/// A number of 0 to 100 for an attribute: short, and never one that is no number.
fn percentage(part: f64) -> f64 {
    if part.is_finite() {
        (part.clamp(0.0, 1.0) * 10_000.0).round() / 100.0
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests;
