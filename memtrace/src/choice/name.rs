//! What a process is called: by the kernel, by its first argument, and by the script that it runs.
//!
//! A person thinks of `gunicorn`, and what runs is `/usr/bin/python3 /srv/venv/bin/gunicorn app:app`;
//! or a server has written into its arguments what it is doing, `gunicorn: master [app:app]`.

use std::collections::BTreeSet;

use super::snapshot::Process;

/// Bytes of a name that the kernel keeps.
const COMM_BYTES: usize = 15;

/// Names that are shown where none is right.
const NEAREST: usize = 5;

/// Bytes of a name that are compared letter by letter.
const MAX_COMPARED: usize = 64;

/// An interpreter, by its name without a version: `python3.11`.
struct Interpreter {
    names: &'static [&'static str],
    /// Short options with a value, which may be in the next argument.
    valued: &'static [u8],
    /// Long ones.
    long: &'static [&'static str],
    /// The short option that names the program in place of a file; `-c 'print()'`.
    code: &'static [u8],
    /// The short option that names a module to run.
    module: Option<u8>,
}

const INTERPRETERS: [Interpreter; 6] = [
    Interpreter {
        names: &["python", "pypy"],
        valued: b"WX",
        long: &["--check-hash-based-pycs"],
        code: b"c",
        module: Some(b'm'),
    },
    Interpreter {
        names: &["ruby"],
        valued: b"rICE",
        long: &[],
        code: b"e",
        module: None,
    },
    Interpreter {
        names: &["perl"],
        valued: b"I",
        long: &[],
        code: b"eE",
        module: None,
    },
    Interpreter {
        names: &["php"],
        valued: b"dcz",
        long: &[],
        code: b"rBRES",
        module: None,
    },
    Interpreter {
        names: &["node", "nodejs"],
        valued: b"rC",
        long: &["--require", "--import", "--loader", "--conditions"],
        code: b"ep",
        module: None,
    },
    Interpreter {
        names: &["sh", "bash", "dash"],
        valued: b"oO",
        long: &["--rcfile", "--init-file"],
        code: b"c",
        module: None,
    },
];

/// Whether a process is called so.
#[must_use]
pub fn is_called(process: &Process, name: &[u8]) -> bool {
    let by_arguments = by_arguments(&process.arguments);
    if by_arguments.iter().any(|it| it == name) {
        return true;
    }
    let comm = &process.comm[..];
    // Of a longer name the arguments may have the rest, and that may be another one.
    let is_cut = || !by_arguments.iter().any(|it| it.starts_with(comm));
    comm == name || name.len() > COMM_BYTES && comm == &name[..COMM_BYTES] && is_cut()
}

/// The names of `processes` that are nearest to `name`, the nearest first; none where nothing is near.
#[must_use]
pub fn nearest<'a>(name: &[u8], processes: impl Iterator<Item = &'a Process>) -> Vec<Vec<u8>> {
    let names: BTreeSet<Vec<u8>> = processes
        .flat_map(|process| {
            let mut names = by_arguments(&process.arguments);
            names.push(process.comm.clone());
            names
        })
        // What a server says of itself is no name.
        .filter(|name| !name.iter().any(u8::is_ascii_whitespace))
        .collect();
    let mut near: Vec<(usize, Vec<u8>)> = names
        .into_iter()
        .filter_map(|other| Some((how_near(name, &other)?, other)))
        .collect();
    near.sort();
    near.truncate(NEAREST);
    near.into_iter().map(|(_, name)| name).collect()
}

/// How many letters differ; `None` where that is too many to have been meant.
fn how_near(name: &[u8], other: &[u8]) -> Option<usize> {
    let (name, other) = (name.to_ascii_lowercase(), other.to_ascii_lowercase());
    if name.is_empty() || other.is_empty() || name.len().max(other.len()) > MAX_COMPARED {
        return None;
    }
    let letters = distance(&name, &other);
    let shorter = name.len().min(other.len());
    let is_part = |whole: &[u8], part: &[u8]| whole.windows(part.len()).any(|it| it == part);
    let is_part = shorter >= 3 && (is_part(&name, &other) || is_part(&other, &name));
    (is_part || letters <= shorter.div_ceil(3)).then_some(letters)
}

/// Letters to be inserted, left out or replaced to make one of the other.
fn distance(one: &[u8], other: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, a) in one.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (to, b) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[to + 1];
            row[to + 1] = replaced.min(diagonal + 1).min(row[to] + 1);
        }
    }
    row[other.len()]
}

/// The names that the arguments of a process give it.
fn by_arguments(arguments: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let Some(first) = arguments.first() else {
        return Vec::new();
    };
    let mut names = vec![base(first).to_vec()];
    // A title: `nginx: master process /usr/sbin/nginx`, `[celeryd: celery@host:MainProcess]`.
    if let Some(word) = first.split(u8::is_ascii_whitespace).next()
        && word.len() < first.len()
    {
        let word = base(word.strip_suffix(b":").unwrap_or(word));
        let word = word.strip_prefix(b"[").unwrap_or(word);
        names.push(word.to_vec());
        // It is started as `celery`, and calls itself otherwise.
        names.extend((word == b"celeryd").then(|| b"celery".to_vec()));
    }
    if let Some(interpreter) = interpreter(base(first)) {
        names.extend(interpreter.script(&arguments[1..]));
    }
    names.retain(|name| !name.is_empty());
    names
}

/// What follows the last slash; a login shell has a dash before its name.
fn base(path: &[u8]) -> &[u8] {
    let base = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
    base.strip_prefix(b"-").unwrap_or(base)
}

fn interpreter(program: &[u8]) -> Option<&'static Interpreter> {
    let version = |byte: &&u8| byte.is_ascii_digit() || **byte == b'.';
    let digits = program.iter().rev().take_while(version).count();
    let name = &program[..program.len() - digits];
    let is_it = |interpreter: &&Interpreter| {
        let mut names = interpreter.names.iter();
        names.any(|it| it.as_bytes() == name)
    };
    INTERPRETERS.iter().find(is_it)
}

impl Interpreter {
    /// The names of what it runs: the script without its folders; of a module `gunicorn.app.wsgiapp`
    /// that, and its package `gunicorn`.
    fn script(&self, arguments: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let Some(options) = argument.strip_prefix(b"-").filter(|it| !it.is_empty()) else {
                return vec![base(argument).to_vec()];
            };
            if options == b"-" {
                let script = rest.next().map(|script| base(script).to_vec());
                return script.into_iter().collect();
            }
            if options[0] == b'-' {
                if self.long.iter().any(|long| long.as_bytes() == argument) {
                    rest.next();
                }
                continue;
            }
            // Several may be in one argument: `-Bm module`, `-Wignore`.
            for (at, option) in options.iter().enumerate() {
                let mut value = || match &options[at + 1..] {
                    [] => rest.next().cloned().unwrap_or_default(),
                    value => value.to_vec(),
                };
                if self.code.contains(option) {
                    return Vec::new();
                } else if self.module == Some(*option) {
                    let module = value();
                    let package = module.split(|&byte| byte == b'.').next();
                    let package = package.unwrap_or_default().to_vec();
                    return vec![module, package];
                } else if self.valued.contains(option) {
                    value();
                    break;
                }
            }
        }
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn process(comm: &str, arguments: &[&str]) -> Process {
        Process {
            pid: 1,
            parent: 0,
            started: 0,
            comm: comm.into(),
            arguments: arguments.iter().map(|it| it.as_bytes().to_vec()).collect(),
        }
    }

    fn called(comm: &str, arguments: &[&str], name: &str) -> bool {
        is_called(&process(comm, arguments), name.as_bytes())
    }

    #[test]
    fn a_process_is_called_by_its_program_or_what_it_calls_itself() {
        assert!(called("postgres", &[], "postgres"));
        assert!(called(
            "main",
            &["/usr/lib/postgresql/15/bin/postgres", "-D", "/x"],
            "postgres"
        ));
        assert!(called("bash", &["-bash"], "bash"));
        assert!(!called("postgres", &["postgres"], "postgre"));
        assert!(!called("postgres", &["postgres", "gunicorn"], "gunicorn"));
        assert!(called(
            "nginx",
            &["nginx: master process /usr/sbin/nginx"],
            "nginx"
        ));
        assert!(called(
            "gunicorn: maste",
            &["gunicorn: master [shop:app]"],
            "gunicorn"
        ));
        assert!(called(
            "[celeryd: celer",
            &["[celeryd: shop@h:MainProcess]"],
            "celery"
        ));
        assert!(called(
            "ruby",
            &["puma 5.6.5 (tcp://127.0.0.1:9292) [shop]"],
            "puma"
        ));
    }

    #[test]
    fn a_long_name_is_compared_as_far_as_the_kernel_keeps_it() {
        assert!(called(
            "gunicorn-worker",
            &[],
            "gunicorn-worker-of-the-shop"
        ));
        assert!(!called(
            "gunicorn-worke",
            &[],
            "gunicorn-worker-of-the-shop"
        ));
        assert!(!called(
            "gunicorn-worker",
            &["/bin/gunicorn-worker-2"],
            "gunicorn-worker-1"
        ));
        assert!(called(
            "gunicorn-worker",
            &["/bin/gunicorn-worker-1"],
            "gunicorn-worker-1"
        ));
    }

    #[test]
    fn a_script_is_found_behind_the_options_of_its_interpreter() {
        for arguments in [
            &["python3", "/srv/venv/bin/gunicorn", "shop:app"][..],
            &["/usr/bin/python3.11", "-u", "/srv/venv/bin/gunicorn"],
            &["python", "-B", "-W", "ignore", "-Xdev", "gunicorn"],
            &["python3", "-Wignore", "-m", "gunicorn", "shop:app"],
            &["python3", "-um", "gunicorn.app.wsgiapp"],
            &["python3", "-mgunicorn"],
            &["ruby3.1", "-I", "lib", "-r", "json", "bin/gunicorn"],
            &["perl", "-w", "-I/lib", "gunicorn"],
            &["php8.2", "-d", "a=b", "gunicorn"],
            &["node", "--require", "x", "--inspect", "gunicorn"],
            &["bash", "-eu", "-o", "pipefail", "--", "./gunicorn"],
        ] {
            assert!(called("x", arguments, "gunicorn"), "{arguments:?}");
        }
        for arguments in [
            &["python3", "-c", "gunicorn"][..],
            &["python3", "-uc", "gunicorn"],
            &["python3", "app.py", "gunicorn"],
            &["python3", "-W", "gunicorn"],
            &["sh", "-c", "gunicorn"],
            &["cat", "gunicorn"],
            &["python3", "-m"],
            &["python3", "--"],
        ] {
            assert!(!called("x", arguments, "gunicorn"), "{arguments:?}");
        }
    }

    #[test]
    fn the_nearest_names_come_first() {
        let processes = [
            process("gunicorn", &["python3", "/bin/gunicorn"]),
            process("gunicorn3", &[]),
            process("unicorn", &["unicorn master -D"]),
            process("sshd", &["sshd"]),
        ];
        let near = |name: &str| -> Vec<String> {
            let near = nearest(name.as_bytes(), processes.iter());
            let text = |name: Vec<u8>| String::from_utf8(name).unwrap();
            near.into_iter().map(text).collect()
        };
        assert_eq!(near("gunicron"), ["gunicorn", "gunicorn3", "unicorn"]);
        assert_eq!(near("Gunicorn"), ["gunicorn", "gunicorn3", "unicorn"]);
        assert_eq!(near("corn"), ["unicorn", "gunicorn", "gunicorn3"]);
        assert_eq!(near("redis-server"), [""; 0]);
        assert_eq!(near(""), [""; 0]);
        assert_eq!(distance(b"kitten", b"sitting"), 3);
        assert_eq!(distance(b"", b"abc"), 3);
    }

    proptest! {
        #[test]
        fn any_arguments_are_read(
            comm in proptest::collection::vec(any::<u8>(), 0..15),
            first in prop_oneof![
                Just(b"python3".to_vec()), Just(b"sh".to_vec()),
                proptest::collection::vec(any::<u8>(), 0..20),
            ],
            rest in proptest::collection::vec(
                prop_oneof!["-[-a-zA-Z]{0,4}", ".{0,8}"].prop_map(String::into_bytes), 0..6),
            name in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            let arguments: Arc<[Vec<u8>]> = std::iter::once(first).chain(rest).collect();
            let process = Process { pid: 1, parent: 0, started: 0, comm, arguments };
            let _ = is_called(&process, &name);
            let _ = nearest(&name, std::iter::once(&process));
        }
    }
}
