//! The file format of speedscope, a viewer of flame graphs: two profiles of the same stacks,
//! weighted by bytes and by pages. The cause is the last frame.

use std::io::{self, Write};

use anyhow::Context as _;
use serde::Serialize;

use super::merged::{Merged, merged};
use super::samples::{Frames, name_of};
use super::{Format, Report};
use crate::profile::Profile;

pub(super) const FORMAT: Format = Format {
    name: "speedscope",
    extension: "speedscope.json",
    audience: "For speedscope",
    remark: "stacks by bytes and by pages",
    is_binary: false,
    make: |output, _| {
        Box::new(Speedscope {
            frames: output.frames,
        })
    },
};

const SCHEMA: &str = "https://www.speedscope.app/file-format-schema.json";

/// Writes a file for speedscope.
#[derive(Clone, Copy, Debug)]
pub struct Speedscope {
    /// Which frames.
    pub frames: Frames,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(rename = "$schema")]
    schema: &'static str,
    name: String,
    exporter: String,
    active_profile_index: usize,
    shared: Shared,
    profiles: [Weighted; 2],
}

#[derive(Serialize)]
struct Shared {
    frames: Vec<Frame>,
}

#[derive(Serialize)]
struct Frame {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Weighted {
    r#type: &'static str,
    name: &'static str,
    unit: &'static str,
    start_value: u64,
    end_value: u64,
    /// Frames of each sample by their places in [`Shared::frames`], root first.
    samples: Vec<Vec<usize>>,
    weights: Vec<u64>,
}

impl Weighted {
    fn of(name: &'static str, unit: &'static str, samples: Vec<Vec<usize>>) -> Self {
        Self {
            r#type: "sampled",
            name,
            unit,
            start_value: 0,
            end_value: 0,
            samples,
            weights: Vec::new(),
        }
    }

    fn weigh(mut self, weights: Vec<u64>) -> Self {
        let all = weights.iter();
        self.end_value = all.fold(0, |sum, weight| sum.saturating_add(*weight));
        self.weights = weights;
        self
    }
}

fn file(profile: &Profile, frames: Frames) -> File {
    let Merged {
        keys,
        stacks,
        pages,
        bytes,
    } = merged(profile, frames);
    let frames = keys.iter().map(|key| Frame {
        name: key.name(),
        file: key.place(),
        line: key.line(),
    });
    File {
        schema: SCHEMA,
        name: format!("copied on write, {}", name_of(&profile.started_at)),
        exporter: format!("memtrace {}", name_of(&profile.memtrace)),
        active_profile_index: 0,
        shared: Shared {
            frames: frames.collect(),
        },
        profiles: [
            Weighted::of("copied bytes", "bytes", stacks.clone()).weigh(bytes),
            Weighted::of("copied pages", "none", stacks).weigh(pages),
        ],
    }
}

impl Report for Speedscope {
    fn write(&self, profile: &Profile, out: &mut dyn Write) -> anyhow::Result<()> {
        let mut out = out;
        // As an I/O error it keeps its kind, so that a closed pipe is recognised.
        serde_json::to_writer(&mut out, &file(profile, self.frames))
            .map_err(io::Error::from)
            .context("cannot write the report for speedscope")?;
        out.write_all(b"\n")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::profile::sample::sample;
    use crate::report::samples::tests::{ALL_FRAMES, profiles};

    fn written(profile: &Profile, frames: Frames) -> Value {
        let mut bytes = Vec::new();
        Speedscope { frames }.write(profile, &mut bytes).unwrap();
        assert!(!bytes.contains(&0x1b) && bytes.ends_with(b"\n"));
        serde_json::from_slice(&bytes).unwrap()
    }

    #[test]
    fn two_profiles_share_their_frames() {
        let mut profile = sample();
        profile.call_sites.truncate(1);
        let value = written(&profile, Frames::Site);
        insta::assert_snapshot!(serde_json::to_string_pretty(&value).unwrap(), @r#"
        {
          "$schema": "https://www.speedscope.app/file-format-schema.json",
          "activeProfileIndex": 0,
          "exporter": "memtrace 0.1.0",
          "name": "copied on write, 2026-03-14T15:09:26Z",
          "profiles": [
            {
              "endValue": 10240000,
              "name": "copied bytes",
              "samples": [
                [
                  0,
                  1
                ]
              ],
              "startValue": 0,
              "type": "sampled",
              "unit": "bytes",
              "weights": [
                10240000
              ]
            },
            {
              "endValue": 2500,
              "name": "copied pages",
              "samples": [
                [
                  0,
                  1
                ]
              ],
              "startValue": 0,
              "type": "sampled",
              "unit": "none",
              "weights": [
                2500
              ]
            }
          ],
          "shared": {
            "frames": [
              {
                "file": "/srv/shop/app/catalog.py",
                "line": 212,
                "name": "Catalog.render (catalog.py:212)"
              },
              {
                "name": "[refcount]"
              }
            ]
          }
        }
        "#);
    }

    #[test]
    fn the_weights_add_up_to_all_copies() {
        for (name, profile) in profiles() {
            for frames in ALL_FRAMES {
                let value = written(&profile, frames);
                let totals = [profile.totals.copied_bytes, profile.totals.copied_pages];
                for (weighted, total) in value["profiles"].as_array().unwrap().iter().zip(totals) {
                    let weights = weighted["weights"].as_array().unwrap();
                    let sum: u64 = weights.iter().map(|it| it.as_u64().unwrap()).sum();
                    assert_eq!(sum, total, "{name}, {frames:?}");
                    assert_eq!(weighted["endValue"], total);
                    let samples = weighted["samples"].as_array().unwrap();
                    assert_eq!(samples.len(), weights.len());
                    let frames = value["shared"]["frames"].as_array().unwrap().len() as u64;
                    let used = samples.iter().flat_map(|it| it.as_array().unwrap());
                    assert!(used.clone().all(|at| at.as_u64().unwrap() < frames));
                }
            }
        }
    }
}
