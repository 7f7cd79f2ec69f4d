//! Files that appear when they are complete.

use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tempfile::NamedTempFile;

/// Has `fill` write the file at `path`: into a new file beside it, which takes its name at the end.
/// A symbolic link is replaced, not followed. What is there and is no regular file (a device, a
/// pipe) is written to as it is.
///
/// # Errors
///
/// When it cannot be written, or `fill` fails. Then what was at `path` is as before.
pub fn write(
    path: &Path,
    fill: &mut dyn FnMut(&mut dyn Write) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let failed = || format!("cannot write the report to '{}'", path.display());
    if is_special(path) {
        let mut out = BufWriter::new(
            File::options()
                .write(true)
                .open(path)
                .with_context(failed)?,
        );
        fill(&mut out).with_context(failed)?;
        return out.flush().with_context(failed);
    }
    let mut out = BufWriter::new(beside(path).with_context(failed)?);
    fill(&mut out).with_context(failed)?;
    let complete = out
        .into_inner()
        .map_err(io::IntoInnerError::into_error)
        .with_context(failed)?;
    complete
        .persist(path)
        .map_err(|error| error.error)
        .with_context(failed)?;
    Ok(())
}

/// Finds out whether a report could be written to `path`, before a trace is run in vain. Leaves
/// nothing behind.
///
/// # Errors
///
/// Why not: there is no such directory, it is read-only, or `path` is a directory.
pub fn check_writable(path: &Path) -> io::Result<()> {
    if is_special(path) {
        // Opening a pipe could wait for its reader.
        return Ok(());
    }
    if path.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    beside(path).map(drop)
}

/// A new temporary file in the directory of `path`, with the permissions that a file made there
/// in the ordinary way would have.
fn beside(path: &Path) -> io::Result<NamedTempFile> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    tempfile::Builder::new()
        .prefix(".memtrace-")
        // Less what the umask takes away.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(directory)
}

/// Whether there is something at `path` that can be written to but not replaced by a file.
fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use anyhow::bail;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_file_appears_whole_with_ordinary_permissions() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.txt");
        fs::write(&path, "old").unwrap();
        write(&path, &mut |out| Ok(out.write_all(b"new")?)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(names(dir.path()), ["report.txt"]);
        let plain = dir.path().join("plain");
        File::create(&plain).unwrap();
        let mode = |path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&path), mode(&plain));
    }

    #[test]
    fn a_failure_leaves_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.txt");
        fs::write(&path, "old").unwrap();
        let error = write(&path, &mut |out| {
            out.write_all(b"half")?;
            bail!("no more")
        });
        assert!(format!("{:#}", error.unwrap_err()).ends_with("report.txt': no more"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(names(dir.path()), ["report.txt"]);
    }

    #[test]
    fn a_link_is_replaced_and_a_device_is_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let (link, target) = (dir.path().join("link"), dir.path().join("target"));
        fs::write(&target, "mine").unwrap();
        symlink(&target, &link).unwrap();
        write(&link, &mut |out| Ok(out.write_all(b"report")?)).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "mine");
        assert!(fs::symlink_metadata(&link).unwrap().is_file());

        write(Path::new("/dev/null"), &mut |out| {
            Ok(out.write_all(b"report")?)
        })
        .unwrap();
        assert!(is_special(Path::new("/dev/null")));
    }

    #[test]
    fn what_cannot_be_written_is_known_beforehand() {
        let dir = tempfile::tempdir().unwrap();
        check_writable(&dir.path().join("report.txt")).unwrap();
        check_writable(Path::new("/dev/null")).unwrap();
        assert_eq!(names(dir.path()), Vec::<String>::new());
        let kind = |path: &Path| check_writable(path).unwrap_err().kind();
        assert_eq!(
            kind(&dir.path().join("no/report.txt")),
            io::ErrorKind::NotFound
        );
        assert_eq!(kind(dir.path()), io::ErrorKind::IsADirectory);
    }
}
