//! Which Python functions are of a library, by the path of their file.

/// Directories that packages are installed in.
const PACKAGES: [&str; 2] = ["site-packages", "dist-packages"];

/// Directories that have the standard library in a directory of their own.
const PARENTS: [&str; 2] = ["lib", "lib64"];

/// Whether a function is of the standard library, or of a package that was installed, rather than
/// of the application; by its file as its code object has it.
///
/// It is when the file
///
/// - is a frozen module, `<frozen importlib._bootstrap>`;
/// - is below a directory `site-packages` or `dist-packages`, or below an egg (`NAME.egg`);
/// - is below `lib/python3.11`, `lib64/python3.13t` or the like, where every installation has
///   `os.py` and its other modules, or in their archive, `lib/python311.zip`.
///
/// Nothing but the path is looked at. So it is not recognised where the standard library is run
/// from a source tree (`Lib/os.py`) or out of a program that was packed into one file, which have
/// relative paths (`os.py`), nor a package that was installed for development, whose files are
/// wherever its author has them. Code that was made at run time (`<string>`) may be anybody's, and
/// counts as the application's, as does what is given with `-c`. Scripts of packages are told apart
/// by [`script_of`]. An application that is itself
/// installed as a package is a library by this rule; it then has no frame of its own.
#[must_use]
pub fn is_library(file: &str) -> bool {
    if file.starts_with("<frozen ") {
        return true;
    }
    let Some((directory, _)) = file.rsplit_once('/') else {
        return false;
    };
    let mut parent = "";
    directory.split('/').any(|name| {
        let in_library = PACKAGES.contains(&name)
            || name
                .strip_suffix(".egg")
                .is_some_and(|name| !name.is_empty())
            || PARENTS.contains(&parent) && is_standard(name);
        parent = name;
        in_library
    })
}

/// The root of the environment that a library is installed in: what its path has before the first
/// `lib`.
#[must_use]
pub fn environment(file: &str) -> Option<&str> {
    let mut at = 0;
    for name in file.split('/') {
        if PARENTS.contains(&name) {
            return file[..at].strip_suffix('/').filter(|_| is_library(file));
        }
        at += name.len() + 1;
    }
    None
}

/// The root of the environment that a program is a script of, if it is: what begins a package's
/// program, such as `/usr/bin/gunicorn`, is beside the package.
#[must_use]
pub fn script_of(file: &str) -> Option<&str> {
    let (directory, _) = file.rsplit_once('/')?;
    directory.strip_suffix("/bin")
}

/// `python3.11`, `python3.13t`, `python311.zip`.
fn is_standard(directory: &str) -> bool {
    let Some(version) = directory.strip_prefix("python3") else {
        return false;
    };
    let minor = match version.strip_prefix('.') {
        Some(minor) => minor.strip_suffix('t').unwrap_or(minor),
        None => version.strip_suffix(".zip").unwrap_or_default(),
    };
    !minor.is_empty() && minor.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_known_by_where_they_are() {
        for file in [
            "/usr/lib/python3.11/socketserver.py",
            "/usr/local/lib/python3.13t/concurrent/futures/thread.py",
            "/root/.pyenv/versions/3.8.18/lib/python3.8/json/decoder.py",
            "/opt/python/lib64/python3.9/os.py",
            "/usr/lib/python311.zip/os.py",
            "/srv/venv/lib/python3.12/site-packages/pandas/core/frame.py",
            "/usr/lib/python3/dist-packages/yaml/__init__.py",
            "/srv/eggs/Zope-5.8-py3.11.egg/Zope2/App/startup.py",
            "<frozen importlib._bootstrap>",
            "<frozen runpy>",
        ] {
            assert!(is_library(file), "{file}");
        }
    }

    #[test]
    fn scripts_are_beside_the_packages_that_they_begin() {
        for (file, expected) in [
            (
                "/usr/lib/python3/dist-packages/gunicorn/app/base.py",
                Some("/usr"),
            ),
            (
                "/srv/venv/lib64/python3.12/site-packages/x.py",
                Some("/srv/venv"),
            ),
            ("/usr/lib/python3.11/os.py", Some("/usr")),
            ("/lib/python3.11/os.py", Some("")),
            ("/srv/lib/views.py", None),
            ("<frozen runpy>", None),
            ("lib/python3.11/os.py", None),
        ] {
            assert_eq!(environment(file), expected, "{file}");
        }
        assert_eq!(script_of("/srv/venv/bin/gunicorn"), Some("/srv/venv"));
        assert_eq!(script_of("/bin/gunicorn"), Some(""));
        assert_eq!(script_of("/srv/bin/tools/run.py"), None);
        assert_eq!(script_of("gunicorn"), None);
    }

    #[test]
    fn everything_else_is_the_applications() {
        for file in [
            "/srv/shop/app/views.py",
            "/srv/shop/lib/flask/app.py",
            "/srv/lib/python/views.py",
            "/srv/lib/python3/views.py",
            "/srv/lib/python3.x/views.py",
            "/srv/python3.11/views.py",
            "/srv/site-packages.py",
            "/srv/.egg/views.py",
            "site-packages",
            "manage.py",
            "<string>",
            "<stdin>",
            "",
        ] {
            assert!(!is_library(file), "{file}");
        }
    }
}
