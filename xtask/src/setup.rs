//! What tests need of a machine: what of it is missing, what can be had, and getting it.
//!
//! A [`Plan`] follows from [`Facts`] alone, so that what would be done can be shown and tested
//! without doing it. What cannot be had does not stop the tests: those that need it skip
//! themselves, and say so.

use std::path::Path;

use anyhow::Result;

use crate::formats::{npm, promtool};
use crate::install::{self, Access};
use crate::progress::{Log, Progress};
use crate::pythons::free_threaded;
use crate::pythons::suite::{self, SUITES, Suite};
use crate::{host, tools};

/// The programs that tests run; the tests read the same list.
const PROGRAMS: &str = include_str!("../../memtrace/tests/programs.txt");

/// Those that checks of formats run.
const FOR_FORMATS: &str = include_str!("formats/programs.txt");

/// Those that tests without root run, too.
const WITHOUT_ROOT: [&str; 4] = ["cc", "gcc", "g++", "python3"];

/// What a test makes an environment of its own with; Debian has it apart from python3.
const VENV: Program = Program {
    name: "Python's venv",
    package: "python3-venv",
    other_name: None,
};

/// The file of the target directory that keeps what the installing commands print.
const LOG: &str = "install";

/// Whether what is missing is installed.
#[derive(clap::Args)]
pub struct Choice {
    /// Install nothing: tests whose programs are missing skip themselves
    #[arg(long)]
    pub no_install: bool,
    /// Say what would be installed, and do nothing
    #[arg(long, conflicts_with = "no_install")]
    pub dry_run: bool,
    #[command(flatten)]
    _former: Former,
}

impl Choice {
    /// Shows what would be installed, where nothing else is asked for; returns whether that is so.
    pub fn shows(&self, wanted: Wanted) -> Result<bool> {
        if self.dry_run {
            println!("{}", Plan::find(wanted)?.shown());
        }
        Ok(self.dry_run)
    }

    /// Installs what is missing, unless that is not wanted. What needs something that could not be had
    /// skips itself, or fails in CI; so what stood in the way is only said.
    pub fn install_or_say(&self, wanted: Wanted) {
        if !self.no_install
            && let Err(error) = Plan::find(wanted).and_then(Plan::carry_out)
        {
            eprintln!("xtask: {error:#}");
        }
    }
}

/// What had to be asked for once, and is done without being asked for.
#[derive(clap::Args)]
struct Former {
    #[arg(long, hide = true, conflicts_with = "no_install")]
    install: bool,
    #[arg(long, hide = true)]
    free_threaded: bool,
}

/// A program that tests run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Program {
    name: &'static str,
    /// Debian's package.
    package: &'static str,
    /// What the same program is called, too.
    other_name: Option<&'static str>,
}

/// What somebody wants to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// What all tests need.
    Tests,
    /// What the tests without root need.
    UnprivilegedTests,
    /// Interpreters and Python programs.
    Pythons,
    /// The tools that read reports.
    Formats,
}

/// What of the wanted things is not here, and what this machine can do about it.
#[derive(Debug)]
struct Facts {
    programs: Vec<Program>,
    has_apt: bool,
    access: Access,
    /// Python programs are missing: what their interpreter needs first, as packages of Debian.
    tools: Option<Vec<&'static str>>,
    /// Packages of npm are missing.
    npm: bool,
    /// promtool is missing.
    promtool: bool,
    /// Suites of Debian whose interpreter is missing.
    suites: Vec<&'static Suite>,
    /// CPython without the GIL is missing, which is built from Debian's source: what the build
    /// needs first, as packages of Debian.
    free_threaded: Option<Vec<&'static str>>,
    /// Why nothing can be had of Debian's suites, if so.
    no_suites: Option<String>,
}

/// What is done to get what is missing.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    /// Packages of Debian; they come first, since the rest may need them.
    packages: Vec<&'static str>,
    parts: Vec<Part>,
    /// What stays missing and why, a line each.
    left: Vec<String>,
    access: Access,
}

/// What is got besides packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Tools,
    Npm,
    Promtool,
    Suite(&'static Suite),
    FreeThreaded,
}

impl Plan {
    /// What has to be done on this machine.
    pub fn find(wanted: Wanted) -> Result<Self> {
        let facts = Facts::find(wanted)?;
        let mut plan = Self::of(&facts);
        if facts.has_apt {
            plan.packages = install::missing_packages(&plan.packages)?;
        }
        Ok(plan)
    }

    fn of(facts: &Facts) -> Self {
        let mut plan = Self {
            packages: Vec::new(),
            parts: Vec::new(),
            left: Vec::new(),
            access: facts.access,
        };
        let installs = facts.has_apt && facts.access != Access::Not;
        for program in &facts.programs {
            if installs {
                plan.packages.push(program.package);
            } else {
                let Program { name, package, .. } = program;
                plan.left.push(format!(
                    "{name} is not installed (apt-get install {package})"
                ));
            }
        }
        if let Some(needed) = &facts.tools {
            plan.get_or_leave(Part::Tools, needed, None, installs);
        }
        if facts.npm {
            plan.get_or_leave(Part::Npm, &[], None, installs);
        }
        if facts.promtool {
            let why = (!facts.has_apt).then(|| "it needs apt-get".to_owned());
            plan.get_or_leave(Part::Promtool, &[], why, installs);
        }
        for suite in &facts.suites {
            let why = facts.no_suites.clone().or_else(|| {
                (facts.access == Access::Not)
                    .then(|| "it needs root, and there is not a sudo that works here".to_owned())
            });
            plan.get_or_leave(Part::Suite(suite), &[], why, installs);
        }
        if let Some(needed) = &facts.free_threaded {
            let (part, why) = (Part::FreeThreaded, facts.no_suites.clone());
            plan.get_or_leave(part, needed, why, installs);
        }
        plan
    }

    /// Adds a part and the packages that it needs, or says why it is left.
    fn get_or_leave(
        &mut self,
        part: Part,
        packages: &[&'static str],
        why_not: Option<String>,
        installs: bool,
    ) {
        let why = why_not.or_else(|| {
            (!installs && !packages.is_empty()).then(|| {
                let packages = packages.join(" ");
                format!("it needs packages that cannot be installed here ({packages})")
            })
        });
        if let Some(why) = why {
            self.left.push(format!("{}: {why}", part.name()));
            return;
        }
        self.packages.extend(packages);
        self.parts.push(part);
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.packages.is_empty() && self.parts.is_empty()
    }

    /// What would be done and what stays missing, a line each, as somebody reads it.
    pub fn shown(&self) -> String {
        let mut lines = Vec::new();
        if !self.is_empty() {
            lines.push("xtask: missing here, and installed by this command:".to_owned());
        }
        if !self.packages.is_empty() {
            lines.push(format!("  {}", install::count_of(&self.packages)));
            lines.push(install::show_steps(&install::steps_for(&self.packages)));
        }
        lines.extend(self.parts.iter().map(|part| format!("  {}", part.name())));
        if !self.left.is_empty() {
            lines.push("xtask: missing here, and not to be had by this command:".to_owned());
            lines.extend(self.left.iter().map(|left| format!("  {left}")));
        }
        if lines.is_empty() {
            lines.push("xtask: nothing is missing here".to_owned());
        }
        lines.join("\n")
    }

    /// Says what will be done, and does it; whether all of it could be done. What could not is
    /// said.
    pub fn carry_out(self) -> Result<bool> {
        if !self.is_empty() || !self.left.is_empty() {
            eprintln!("{}", self.shown());
        }
        if self.is_empty() {
            return Ok(self.left.is_empty());
        }
        if !self.packages.is_empty() {
            self.access.ask()?;
        }
        let steps = usize::from(!self.packages.is_empty()) + self.parts.len();
        let mut progress = Progress::new(LOG, steps)?;
        let mut complete = self.left.is_empty();
        if !self.packages.is_empty() {
            let what = format!("installing {}", install::count_of(&self.packages));
            let work = |log: &mut Log| install_packages(&self.packages, log);
            complete &= progress.step_or_say(&what, work);
        }
        for part in self.parts {
            complete &= progress.step_or_say(&part.doing(), |log| part.get(log));
        }
        Ok(complete)
    }
}

impl Part {
    /// As somebody reads it in a list.
    fn name(self) -> String {
        match self {
            Self::Tools => format!("Python programs in a folder of target/: {}", tools::names()),
            Self::Npm => format!("packages of npm in a folder of target/: {}", npm::NAMES),
            Self::Promtool => "promtool in a folder of target/".to_owned(),
            Self::Suite(suite) => format!(
                "{} of Debian {} in a folder of target/",
                suite.package, suite.name
            ),
            Self::FreeThreaded => {
                "CPython without the GIL, built from source in some minutes".to_owned()
            }
        }
    }

    /// As somebody reads it while it runs.
    fn doing(self) -> String {
        match self {
            Self::Tools => format!("installing Python programs: {}", tools::names()),
            Self::Npm => format!("installing packages of npm: {}", npm::NAMES),
            Self::Promtool => "fetching promtool".to_owned(),
            Self::Suite(suite) => format!("fetching {} of Debian {}", suite.package, suite.name),
            Self::FreeThreaded => "building CPython without the GIL".to_owned(),
        }
    }

    fn get(self, log: &mut Log) -> Result<()> {
        match self {
            Self::Tools => tools::install(log),
            Self::Npm => npm::install(log),
            Self::Promtool => promtool::install(log),
            Self::Suite(suite) => suite.install(log),
            Self::FreeThreaded => free_threaded::install(log),
        }
    }
}

impl Facts {
    fn find(wanted: Wanted) -> Result<Self> {
        let access = Access::find();
        // Without root, those that need root do not run: what they need would be got for nothing.
        let wanted = match (wanted, access) {
            (Wanted::Tests, Access::Not) => Wanted::UnprivilegedTests,
            _ => wanted,
        };
        let is_wanted = |program: &Program| match wanted {
            Wanted::Tests | Wanted::Formats => true,
            Wanted::UnprivilegedTests => WITHOUT_ROOT.contains(&program.name),
            Wanted::Pythons => false,
        };
        let is_missing = |program: &Program| {
            let mut names = [Some(program.name), program.other_name].into_iter();
            !names.any(|name| name.is_some_and(is_here))
        };
        let formats = wanted == Wanted::Formats;
        let list = if formats { FOR_FORMATS } else { PROGRAMS };
        let mut missing: Vec<_> = programs(list)
            .filter(|it| is_wanted(it) && is_missing(it))
            .collect();
        if wanted != Wanted::Pythons && !tools::makes_environments(Path::new("python3")) {
            missing.push(VENV);
        }
        let interpreters = matches!(wanted, Wanted::Tests | Wanted::Pythons);
        let suites = SUITES.iter();
        let has_apt = install::has_apt();
        let mut free_threaded = None;
        if interpreters && !free_threaded::is_there() {
            free_threaded = Some(if has_apt {
                install::missing_packages(&free_threaded::BUILD)?
            } else {
                free_threaded::BUILD.to_vec()
            });
        }
        Ok(Self {
            programs: missing,
            has_apt,
            access,
            npm: formats && !npm::is_complete(),
            promtool: formats && promtool::program().is_none(),
            tools: ((interpreters || formats) && !tools::is_complete())
                .then(tools::packages_needed),
            suites: suites
                .filter(|suite| interpreters && !suite.is_there())
                .collect(),
            free_threaded,
            no_suites: suite::source().err().map(|why| format!("{why:#}")),
        })
    }
}

/// Whether a program is here. A user's `PATH` may lack the folders of programs for root, who runs
/// the tests that use those.
fn is_here(name: &str) -> bool {
    let for_root = host::ROOTS_FOLDERS.map(|folder| Path::new(folder).join(name));
    host::find_program(name).is_some() || for_root.iter().any(|file| host::is_executable(file))
}

/// Installs packages. Lists that are not up to date, for want of one source, may do.
fn install_packages(packages: &[&str], log: &mut Log) -> Result<()> {
    let mut result = Ok(());
    for step in install::steps_for(packages) {
        result = step.run(log);
    }
    result
}

/// The programs of a list, one a line.
fn programs(list: &'static str) -> impl Iterator<Item = Program> {
    list.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let name = words.next().filter(|name| !name.starts_with('#'))?;
        Some(Program {
            name,
            package: words.next()?,
            other_name: words.next(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GDB: Program = Program {
        name: "gdb",
        package: "gdb",
        other_name: None,
    };

    /// A machine with apt, without gdb and without any of the Pythons.
    fn bare() -> Facts {
        Facts {
            programs: vec![GDB],
            has_apt: true,
            access: Access::Root,
            tools: Some(vec!["python3-dev"]),
            npm: false,
            promtool: false,
            suites: SUITES.iter().collect(),
            free_threaded: Some(vec!["make"]),
            no_suites: None,
        }
    }

    #[test]
    fn everything_that_is_missing_is_got_on_debian_as_root() {
        let plan = Plan::of(&bare());
        assert_eq!(plan.packages, ["gdb", "python3-dev", "make"]);
        let mut parts = vec![Part::Tools];
        parts.extend(SUITES.iter().map(Part::Suite));
        parts.push(Part::FreeThreaded);
        assert_eq!(plan.parts, parts);
        assert_eq!(plan.left, [""; 0]);
    }

    #[test]
    fn what_cannot_be_got_is_left_with_the_reason() {
        let plan = Plan::of(&Facts {
            access: Access::Not,
            ..bare()
        });
        assert!(plan.is_empty(), "{plan:?}");
        let left = plan.left.join("\n");
        assert!(
            left.contains("gdb is not installed (apt-get install gdb)"),
            "{left}"
        );
        assert!(left.contains("python3-dev"), "{left}");
        assert_eq!(plan.left.len(), 3 + SUITES.len(), "{left}");
        assert!(plan.shown().contains("not to be had"), "{}", plan.shown());
    }

    #[test]
    fn what_needs_no_packages_is_got_without_root() {
        let plan = Plan::of(&Facts {
            access: Access::Not,
            tools: Some(Vec::new()),
            free_threaded: Some(Vec::new()),
            ..bare()
        });
        assert_eq!(plan.parts, [Part::Tools, Part::FreeThreaded]);
        assert_eq!(plan.packages, [""; 0]);
    }

    #[test]
    fn where_no_mirror_has_suites_the_rest_is_got() {
        let plan = Plan::of(&Facts {
            no_suites: Some("apt's sources name no mirror of Debian".into()),
            ..bare()
        });
        assert_eq!(plan.parts, [Part::Tools]);
        assert_eq!(plan.packages, ["gdb", "python3-dev"]);
        assert_eq!(plan.left.len(), 1 + SUITES.len());
        assert!(plan.left[0].contains("no mirror"), "{:?}", plan.left);
    }

    #[test]
    fn what_formats_need_is_got_in_folders_of_target() {
        let nothing_else = || Facts {
            programs: Vec::new(),
            tools: None,
            npm: true,
            promtool: true,
            suites: Vec::new(),
            free_threaded: None,
            ..bare()
        };
        let plan = Plan::of(&nothing_else());
        assert_eq!(plan.parts, [Part::Npm, Part::Promtool]);
        let plan = Plan::of(&Facts {
            has_apt: false,
            ..nothing_else()
        });
        assert_eq!(plan.parts, [Part::Npm]);
        assert_eq!(
            plan.left,
            ["promtool in a folder of target/: it needs apt-get"]
        );
        assert_eq!(programs(FOR_FORMATS).count(), 5);
    }

    #[derive(clap::Parser)]
    struct Alone {
        #[command(flatten)]
        choice: Choice,
    }

    fn parse(words: &[&str]) -> Result<Choice, clap::Error> {
        let words = ["xtask"].iter().chain(words);
        <Alone as clap::Parser>::try_parse_from(words).map(|alone| alone.choice)
    }

    #[test]
    fn what_is_missing_is_installed_unless_somebody_says_not_to() {
        assert!(!parse(&[]).unwrap().no_install);
        assert!(parse(&["--no-install"]).unwrap().no_install);
        // As scripts of before say it.
        assert!(!parse(&["--install", "--free-threaded"]).unwrap().no_install);
        assert!(parse(&["--install", "--no-install"]).is_err());
        assert!(parse(&["--dry-run", "--no-install"]).is_err());
    }

    #[test]
    fn a_machine_that_has_everything_is_left_alone() {
        let plan = Plan::of(&Facts {
            programs: Vec::new(),
            tools: None,
            suites: Vec::new(),
            free_threaded: None,
            ..bare()
        });
        assert!(plan.is_empty());
        assert_eq!(plan.shown(), "xtask: nothing is missing here");
    }

    #[test]
    fn what_would_be_installed_is_shown_as_somebody_would_type_it() {
        let shown = Plan::of(&bare()).shown();
        assert!(shown.contains("apt-get install"), "{shown}");
        assert!(shown.contains("python3.13 of Debian trixie"), "{shown}");
        assert!(shown.contains("gunicorn"), "{shown}");
    }

    #[test]
    fn the_list_of_programs_is_read() {
        let redis = programs(PROGRAMS).find(|program| program.name == "redis-server");
        let expected = Program {
            name: "redis-server",
            package: "redis-tools",
            other_name: Some("redis-check-rdb"),
        };
        assert_eq!(redis, Some(expected));
        assert_eq!(programs("# a comment\n\nname\n").count(), 0);
        for name in WITHOUT_ROOT {
            assert!(programs(PROGRAMS).any(|it| it.name == name), "{name}");
        }
    }

    #[test]
    fn every_program_that_a_test_asks_for_is_in_the_list() {
        let tests = host::project().join("memtrace/tests/privileged");
        let mut folders = vec![tests];
        let mut asked = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let text = std::fs::read_to_string(path).unwrap();
                let calls = text.split("tool(\"").skip(1);
                asked.extend(calls.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
            }
        }
        assert!(asked.len() >= 10, "{asked:?}");
        for name in asked {
            // Whoever runs the tests has the compiler that built them.
            let is_listed = programs(PROGRAMS).any(|program| program.name == name);
            assert!(is_listed || name == "rustc", "{name}");
        }
    }
}
