//! The processes that look into foreign files, and what each of them answers.

use std::io;
use std::process::ExitCode;

use crate::cause;
pub use crate::process::inspector::Kind;
use crate::process::inspector::Server;
use crate::process::modules;
use crate::process::sandbox::{self, Limits, Sandbox};
use crate::symbolize::engine::{Engine, Memory};
use crate::symbolize::helper;
use crate::unwind::builder::maker;

/// All kinds.
const KINDS: [&Kind; 4] = [
    &modules::INSPECTOR,
    &maker::INSPECTOR,
    &helper::INSPECTOR,
    &cause::INSPECTOR,
];

/// Which of these processes this one was started to be, if any. Must be asked before anything else.
#[must_use]
pub fn requested() -> Option<&'static Kind> {
    KINDS.into_iter().find(|kind| kind.is_requested())
}

/// Answers questions on standard input until it is closed.
#[must_use]
pub fn serve(kind: &'static Kind) -> ExitCode {
    match serve_in(kind, sandbox::enter) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(2),
    }
}

/// Answers, in what `enter` makes of this process.
pub(crate) fn serve_in(
    kind: &'static Kind,
    enter: impl FnOnce(Limits) -> Sandbox,
) -> io::Result<()> {
    let server = Server::begin(kind)?;
    // In the sandbox it could not be opened.
    let memory = Memory::of_this_process();
    let sandbox = enter(server.limits());
    let mut answerers = vec![modules::answerer()];
    answerers.extend(maker::answerers());
    answerers.extend(cause::answerers());
    let engine = Engine::new(memory, sandbox.descriptors.to_owned());
    answerers.push(helper::answerer(engine));
    server.serve(sandbox, answerers)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::process::Command;
    use std::time::Duration;

    use super::*;
    use crate::elf::Wanted;
    use crate::process::inspector::{Asked, Inspector};
    use crate::unwind::builder::maker::{Allowance, Build, Look};

    #[test]
    fn kinds_are_told_by_what_no_user_gives() {
        let mut arguments: Vec<_> = KINDS.map(|kind| kind.argument).into();
        assert!(arguments.iter().all(|argument| argument.starts_with("__")));
        arguments.sort_unstable();
        arguments.dedup();
        assert_eq!(arguments.len(), KINDS.len());
    }

    #[test]
    #[ignore = "not a test: the process that the one below starts"]
    fn serves_the_other() {
        let stdin = std::fs::read_link("/proc/self/fd/0").unwrap();
        if stdin.to_string_lossy().starts_with("socket:") {
            let _ = serve(&maker::INSPECTOR);
        }
    }

    /// Whatever is asked, the sandbox permits what it takes to answer: a call that it does not
    /// permit would end the process.
    #[test]
    fn every_question_is_answered_in_the_sandbox() {
        let mut inspector = Inspector::command(&maker::INSPECTOR, || {
            let mut command = Command::new("/proc/self/exe");
            let test = "inspection::tests::serves_the_other";
            command.args(["--ignored", "--exact", test]);
            command
        });
        let own = File::open("/proc/self/exe").unwrap();
        let asked = [Asked { key: 1, file: &own }];
        let wanted = Wanted::symbols(["main"]).and(Wanted::sections([".eh_frame"]));
        let facts = inspector.ask(&wanted, &asked).unwrap();
        assert!(facts.layout.is_some() && facts.section_size(".eh_frame") > 1000);
        let allowance = Allowance {
            time: Duration::from_mins(1),
            bytes: 256 << 20,
        };
        let looked = inspector.ask(&Look(allowance), &asked).unwrap();
        let (identity, size) = looked.found.unwrap();
        assert!(size > 1000 && looked.spent >= size);
        let build = Build {
            identity,
            allowance,
        };
        for _ in 0..2 {
            // What was read is kept for one table, and read again for another.
            let made = inspector.ask(&build, &asked).unwrap().unwrap();
            assert!(made.bytes.len() > 1000);
        }
        cause::ask_everything(&mut inspector, asked[0]);
    }
}
