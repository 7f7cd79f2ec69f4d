//! A report that could not be written where it should be is saved beside, whole.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::Report as _;
use super::file::{self, Existing};
use super::json_gz::JsonGz;
use crate::profile::Profile;

/// Names that are tried in one directory: an earlier rescue is not overwritten.
const NAMES: u32 = 10;

/// Saves `profile` as `memtrace-PID.json.gz` in the first of `directories` that takes it; returns
/// where it is.
///
/// # Errors
///
/// Why the last directory did not take it.
pub fn save(profile: &Profile, directories: &[&Path]) -> anyhow::Result<PathBuf> {
    let mut result = Err(anyhow::anyhow!("there is no directory to save it in"));
    for directory in directories {
        result = save_in(profile, directory);
        if result.is_ok() {
            break;
        }
    }
    result
}

fn save_in(profile: &Profile, directory: &Path) -> anyhow::Result<PathBuf> {
    let pid = std::process::id();
    for attempt in 1..=NAMES {
        let name = match attempt {
            1 => format!("memtrace-{pid}.json.gz"),
            more => format!("memtrace-{pid}-{more}.json.gz"),
        };
        let path = directory.join(name);
        let written = file::write(&path, Existing::Kept, &mut |out| JsonGz.write(profile, out));
        match written {
            Ok(()) => return Ok(std::path::absolute(&path).unwrap_or(path)),
            Err(error) if is_taken(&error) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("'{}'", directory.display()));
            }
        }
    }
    anyhow::bail!("'{}' has {NAMES} of them already", directory.display())
}

fn is_taken(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::AlreadyExists)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::profile::read;
    use crate::profile::sample::sample;

    #[test]
    fn a_profile_is_saved_whole_in_the_first_directory_that_takes_it() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        let directories = [missing.as_path(), dir.path(), Path::new("/")];
        let path = save(&sample(), &directories).unwrap();
        assert!(path.is_absolute());
        let name = format!("memtrace-{}.json.gz", std::process::id());
        assert_eq!(path, dir.path().join(name));
        let saved = read(fs::File::open(&path).unwrap()).unwrap();
        assert_eq!(saved.totals, sample().totals);

        // What was saved before is not overwritten.
        fs::write(&path, "earlier").unwrap();
        let second = save(&sample(), &directories).unwrap();
        assert_ne!(second, path);
        assert_eq!(fs::read_to_string(&path).unwrap(), "earlier");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn where_nothing_takes_it_the_reason_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        let error = format!("{:#}", save(&sample(), &[&missing]).unwrap_err());
        assert!(error.contains("missing': No such file"), "{error}");
    }
}
