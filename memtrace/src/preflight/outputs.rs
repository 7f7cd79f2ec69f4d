//! COMMAND and reports: what keeps one from being run, or one of the others from being written.

use std::path::{Path, PathBuf};

use super::problem::{Problem, problem};
use crate::command::{self, CannotRun};
use crate::foreign::escaped;
use crate::options::Target;
use crate::report::Refusal;

/// What is in the way of COMMAND.
pub(super) fn command_problem(target: &Target) -> Option<Problem> {
    let program = target.command().first()?;
    let why = command::check(program).err()?;
    let (found, remedy) = match why {
        CannotRun::NotInPath => (
            "it is in no folder of PATH".to_owned(),
            "check its name, install it, or give its path: ./NAME for one in this folder",
        ),
        CannotRun::Missing => (
            "there is no such file".to_owned(),
            "check its name, or install it",
        ),
        CannotRun::NotAFile => ("it is not a file".to_owned(), "name a program"),
        CannotRun::NotExecutable => (
            "it may not be executed".to_owned(),
            "make it executable (chmod +x), or run it by its interpreter: -- python3 FILE",
        ),
        CannotRun::NoInterpreter(interpreter) => (
            format!(
                "its first line names {}, which cannot be run",
                shown(&interpreter)
            ),
            "install that interpreter, correct the line, or name another one: -- python3 FILE",
        ),
        CannotRun::Other(error) => (error.to_string(), "see whether it runs without memtrace"),
    };
    let effect = match target {
        Target::Launch { .. } => "there is nothing to trace",
        Target::Attach { .. } => "there is no load, which the trace would last for",
    };
    Some(problem(
        format!("`{}` cannot be run", shown(program.as_ref())),
        format!("{found}; needed: a program"),
        effect,
        remedy,
    ))
}

/// What is in the way of the report to `path`, or to standard output; and what would come of it.
pub(super) fn output_problem(
    path: Option<&PathBuf>,
    why: &Refusal,
    effect: &'static str,
) -> Problem {
    let (found, needed, remedy) = explained(why, path);
    let what = match path {
        Some(path) => format!("no report can be written to '{}'", shown(path)),
        None => "no report can be written to standard output".to_owned(),
    };
    problem(what, format!("{found}; needed: {needed}"), effect, remedy)
}

/// What was found, what is needed, and the remedy.
fn explained(why: &Refusal, path: Option<&PathBuf>) -> (String, &'static str, String) {
    let (found, needed, remedy) = match why {
        Refusal::NameTooLong(bytes) => (
            format!("the name has {bytes} bytes, more than the file system permits"),
            "a name of at most 255 bytes on most file systems",
            "shorten the name",
        ),
        Refusal::AcceptsNothing(error) => (
            format!("it accepts nothing: {error}"),
            "one that can be written to",
            match path {
                Some(_) => OTHER,
                None => "redirect standard output to a file or a pipe",
            },
        ),
        Refusal::Other(error) => (
            error.to_string(),
            DIRECTORY,
            "name another file, or make its directory writable",
        ),
        other => {
            let shown = path.map_or_else(|| "FILE".to_owned(), |path| shown(path));
            let (found, needed, remedy) = explained_by_kind(other, &shown);
            return (found.to_owned(), needed, remedy);
        }
    };
    (found, needed, remedy.to_owned())
}

const DIRECTORY: &str = "a directory that can be written to";
const REPLACEABLE: &str = "a file that may be replaced";
const WRITABLE: &str = "a file, a pipe or a device";
const OTHER: &str = "name another file";

/// [`explained`], of refusals that say no more than what there is at the path.
fn explained_by_kind(why: &Refusal, shown: &str) -> (&'static str, &'static str, String) {
    let or = |what: &str| format!("{OTHER}, or {what}");
    match why {
        Refusal::NoDirectory => (
            "there is no such directory",
            DIRECTORY,
            or("make its directory"),
        ),
        Refusal::NotADirectory => (
            "what should be its directory is a file",
            DIRECTORY,
            OTHER.to_owned(),
        ),
        Refusal::IsDirectory => (
            "it is a directory",
            "the name of a file",
            format!(
                "name a file in it: '{}/memtrace.json'",
                shown.trim_end_matches('/')
            ),
        ),
        Refusal::Immutable => (
            "the file is immutable",
            REPLACEABLE,
            or(&format!("remove the attribute: chattr -i '{shown}'")),
        ),
        Refusal::AppendOnly => (
            "the file is append-only",
            REPLACEABLE,
            or(&format!("remove the attribute: chattr -a '{shown}'")),
        ),
        Refusal::AppendOnlyDirectory => (
            "its directory is append-only, so nothing in it gets another name",
            "a directory in which files can be renamed",
            or("remove the directory's attribute: chattr -a"),
        ),
        Refusal::MountPoint => (
            "something is mounted there, so it cannot be replaced",
            REPLACEABLE,
            or("in a container, mount the directory instead of the file"),
        ),
        Refusal::NotOwned => (
            "the file is another user's, in a directory where only owners may replace files",
            REPLACEABLE,
            or("remove that one"),
        ),
        Refusal::NoReader => (
            "it is a pipe that nobody reads from",
            "a reader that is there before memtrace starts",
            format!("start the reader first: cat '{shown}' &"),
        ),
        Refusal::Socket => ("it is a socket", WRITABLE, OTHER.to_owned()),
        Refusal::Disk => (
            "it is a disk, whose contents a report would overwrite",
            WRITABLE,
            OTHER.to_owned(),
        ),
        Refusal::NameTooLong(_) | Refusal::AcceptsNothing(_) | Refusal::Other(_) => {
            ("it cannot be written", WRITABLE, OTHER.to_owned())
        }
    }
}

/// A path that is fit to be shown.
fn shown(path: &Path) -> String {
    escaped(path.as_os_str().as_encoded_bytes())
}
