//! memtrace as a user who is not root, with the capabilities that docs/containers.md names, and with
//! one of them missing.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs::Permissions;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use memtrace::profile::CauseName;

use crate::support::{Report, Trace, Why, copy_program, privileged, requires, tool};

/// All that are named.
const NAMED: [&str; 5] = [
    "bpf",
    "perfmon",
    "sys_ptrace",
    "checkpoint_restore",
    "dac_read_search",
];

/// Workers that read objects and write data, and how many pages of each.
const WORKLOAD: &str = r"
import gc, os, sys
gc.disable()
objects = [[] for _ in range(100_000)]
data = bytearray(400 * 4096)

def read_objects():
    for each in objects:
        pass

def fill_data():
    for at in range(0, len(data), 4096):
        data[at] = 1

print('ready', flush=True)
sys.stdin.readline()
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        read_objects()
        fill_data()
        os._exit(0)
    os.waitpid(pid, 0)
print('done', flush=True)
sys.stdin.readline()
";

/// Root's Python in a folder that only root may enter.
struct Private {
    python: Child,
    said: BufReader<std::process::ChildStdout>,
    program: PathBuf,
    _folder: tempfile::TempDir,
}

impl Private {
    fn start() -> Result<Self, Why> {
        let system = PathBuf::from("/usr/bin/python3");
        if !system.exists() {
            let why = "there is no /usr/bin/python3 here (apt-get install python3)";
            return Err(Why::Unavailable(why.into()));
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let program = folder.path().join("python3");
        copy_program(&system, &program);
        let (entered, run) = (Permissions::from_mode(0o700), Permissions::from_mode(0o755));
        std::fs::set_permissions(&program, run).expect("it is the test's");
        std::fs::set_permissions(folder.path(), entered).expect("it is the test's");
        let mut python = Command::new(&program)
            .args(["-I", "-c", WORKLOAD])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Python runs");
        let said = BufReader::new(python.stdout.take().expect("it is piped"));
        let mut private = Self {
            python,
            said,
            program,
            _folder: folder,
        };
        private.hears("ready");
        Ok(private)
    }

    fn hears(&mut self, word: &str) {
        let mut line = String::new();
        self.said
            .read_line(&mut line)
            .expect("Python says something");
        assert_eq!(line.trim_end(), word);
    }

    fn tell(&mut self) {
        let orders = self.python.stdin.as_mut().expect("it is piped");
        orders.write_all(b"go\n").expect("Python listens");
    }

    /// Lets the workers run under a trace, and reads its report.
    fn run(mut self, trace: Trace) -> Report {
        self.tell();
        self.hears("done");
        let report = trace.finish();
        self.tell();
        report
    }

    fn pid(&self) -> String {
        self.python.id().to_string()
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let _ = self.python.kill();
        let _ = self.python.wait();
    }
}

/// Pages by cause, and by function and cause.
type Pages = (BTreeMap<String, u64>, BTreeMap<(String, String), u64>);

fn pages(report: &Report) -> Pages {
    let (mut causes, mut functions) = (BTreeMap::new(), BTreeMap::new());
    for site in &report.0.call_sites {
        let cause = site.cause.name().to_owned();
        *causes.entry(cause.clone()).or_default() += site.pages;
        let function = site.site.function.to_string();
        *functions.entry((function, cause)).or_default() += site.pages;
    }
    (causes, functions)
}

#[test]
fn with_the_named_capabilities_a_report_is_roots() {
    requires!(privileged());
    let setpriv = requires!(tool("setpriv"));
    let private = requires!(Private::start());
    let trace = Trace::with(["--pid", &private.pid()]);
    let root = private.run(trace);
    let private = requires!(Private::start());
    let trace = Trace::as_nobody(setpriv, &NAMED, ["--pid", &private.pid()]);
    let nobody = private.run(trace);
    // On a busy machine tables may not be built in time.
    let told = |report: &Report| {
        let warnings = report.0.warnings.iter().cloned();
        warnings
            .filter(|warning| !warning.contains("unwind tables"))
            .collect::<Vec<_>>()
    };
    assert_eq!(told(&nobody), told(&root));
    let ((causes, functions), (roots, roots_functions)) = (pages(&nobody), pages(&root));
    assert!(roots[CauseName::Refcount.name()] > 1000, "{roots:?}");
    let read = ("read_objects".to_owned(), "refcount".to_owned());
    assert!(functions.contains_key(&read), "{functions:?}");
    are_alike(&causes, &roots, 12);
    are_alike(&functions, &roots_functions, 24);
}

/// Both have the same pages everywhere, but for a `few`, or a fiftieth.
fn are_alike<K: Ord + Debug>(here: &BTreeMap<K, u64>, there: &BTreeMap<K, u64>, few: u64) {
    for key in here.keys().chain(there.keys()) {
        let [one, other] = [here, there].map(|of| of.get(key).copied().unwrap_or_default());
        let most = few.max(one.max(other) / 50);
        assert!(one.abs_diff(other) <= most, "{key:?}: {here:?} {there:?}");
    }
}

#[test]
fn what_may_not_be_opened_is_said_and_nothing_is_claimed_of_it() {
    requires!(privileged());
    let setpriv = requires!(tool("setpriv"));
    let private = requires!(Private::start());
    let program = private.program.clone();
    let all = Permissions::from_mode(0o777);
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::set_permissions(folder.path(), all).expect("it is the test's");
    let path = folder.path().join("report.txt");
    let without = NAMED.into_iter().filter(|name| *name != "dac_read_search");
    let output = path.display().to_string();
    let arguments = ["--output", &output, "--pid", &private.pid()].map(str::to_owned);
    let trace = Trace::as_nobody(setpriv, &without.collect::<Vec<_>>(), arguments);
    let report = private.run(trace);
    let said = format!("cannot open {}: permission denied (13)", program.display());
    let warnings = report.0.warnings.join("\n");
    assert!(warnings.contains(&said), "{warnings}");
    let copied = report.0.processes.iter().filter(|it| it.copied_pages > 100);
    for process in copied {
        assert_eq!(process.unopened.len(), 1, "{process:?}");
    }
    let text = std::fs::read_to_string(path).expect("the text was written");
    // Lines of the head are broken where they are full.
    let head = text.split("What was written").next().unwrap_or_default();
    let head = head.split_whitespace().collect::<Vec<_>>().join(" ");
    for claim in [
        "of what was copied was only read",
        "was data",
        "was written to",
    ] {
        assert!(!head.contains(claim), "{claim:?} in\n{text}");
    }
    let sentence = "was copied by processes of which not all could be looked at";
    assert!(head.contains(sentence), "{text}");
    assert!(head.contains(&said), "{text}");
}
