//! Reports of a trace that goes on, written on a thread of their own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use anyhow::{Context as _, Result};

use crate::foreign::escape;
use crate::profile::{Profile, sums};
use crate::report::{self, Format, Output};

/// The formats that are written.
const FORMATS: [Format; 2] = [Format::HTML, Format::JSON_GZ];

/// Names that are tried within one second.
const NAMES: u32 = 10;

/// Writes reports, one at a time.
pub struct Writer {
    output: Arc<Output>,
    is_busy: Arc<AtomicBool>,
}

impl Writer {
    /// Reports look as `output` says.
    #[must_use]
    pub fn new(output: Output) -> Self {
        Self {
            output: Arc::new(output),
            is_busy: Arc::default(),
        }
    }

    /// Begins to write reports of `profile` into the current directory, and returns what to say
    /// meanwhile; `done` is told what came of it.
    pub fn write(
        &self,
        profile: Arc<Profile>,
        done: impl FnOnce(String) + Send + 'static,
    ) -> String {
        if self.is_busy.swap(true, Ordering::SeqCst) {
            return "still writing the report before".to_owned();
        }
        let (output, busy) = (Arc::clone(&self.output), Arc::clone(&self.is_busy));
        let started = std::thread::Builder::new()
            .name("report".to_owned())
            .spawn(move || {
                let said = said(write(&profile, &output, Path::new("."), &now()));
                busy.store(false, Ordering::SeqCst);
                done(said);
            });
        match started {
            Ok(_) => "writing a report".to_owned(),
            Err(error) => {
                self.is_busy.store(false, Ordering::SeqCst);
                format!("cannot write a report: no thread can be started ({error})")
            }
        }
    }
}

fn said(written: Result<String>) -> String {
    match written {
        Ok(name) => {
            let extensions = FORMATS.map(|format| format.with_dot());
            format!("wrote {name}{}", extensions.join(" and "))
        }
        Err(error) => format!("cannot write a report: {}", escape(&format!("{error:#}"))),
    }
}

/// Writes the reports into `folder`; returns what they are called, without their extensions.
fn write(profile: &Profile, output: &Output, folder: &Path, time: &str) -> Result<String> {
    sums::check(profile).context("memtrace has miscounted, which is a fault of its own")?;
    let pid = profile.processes.first().map_or(0, |root| root.pid);
    let name = format!("memtrace-{pid}-{time}");
    let names = (1..=NAMES).map(|nth| match nth {
        1 => name.clone(),
        nth => format!("{name}-{nth}"),
    });
    let path = |name: &str, format: Format| -> PathBuf {
        folder.join(format!("{name}{}", format.with_dot()))
    };
    let is_free = |name: &String| {
        let taken = |format: Format| path(name, format).symlink_metadata().is_ok();
        !FORMATS.into_iter().any(taken)
    };
    let name = names.into_iter().find(is_free);
    let name = name.context("there are many of this second already")?;
    for format in FORMATS {
        let path = path(&name, format);
        report::write_file(profile, &path, format, output)
            .with_context(|| path.display().to_string())?;
    }
    Ok(name)
}

/// The time now, as a part of a file's name: `20260314T150926Z`.
fn now() -> String {
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    now.replace(['-', ':'], "")
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;
    use crate::profile::read;
    use crate::profile::sample::sample;

    #[test]
    fn both_reports_are_written_and_none_replaces_another() {
        let dir = tempfile::tempdir().unwrap();
        let write = || write(&sample(), &Output::plain(), dir.path(), "20260314T150926Z").unwrap();
        let first = write();
        let second = write();
        assert_eq!(first, "memtrace-4242-20260314T150926Z");
        assert_eq!(second, "memtrace-4242-20260314T150926Z-2");
        for name in [first, second] {
            let html = fs::read_to_string(dir.path().join(format!("{name}.html"))).unwrap();
            assert!(html.starts_with("<!doctype html>") || html.starts_with("<!DOCTYPE html>"));
            let json = File::open(dir.path().join(format!("{name}.json.gz"))).unwrap();
            assert_eq!(read(json).unwrap().totals, sample().totals);
        }
    }

    #[test]
    fn what_came_of_it_is_said() {
        let missing = write(&sample(), &Output::plain(), Path::new("/proc/none"), "now");
        let text = said(missing);
        assert!(
            text.starts_with("cannot write a report: /proc/none/memtrace-4242-now.html: No such")
        );
        let text = said(Ok("memtrace-7-now".to_owned()));
        assert_eq!(text, "wrote memtrace-7-now.html and .json.gz");
    }

    #[test]
    fn the_time_can_be_a_part_of_a_name() {
        let now = now();
        assert_eq!(now.len(), "20260314T150926Z".len(), "{now}");
        assert!(now.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    }
}
