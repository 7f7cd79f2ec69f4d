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
    use super::*;

    #[test]
    fn kinds_are_told_by_what_no_user_gives() {
        let mut arguments: Vec<_> = KINDS.map(|kind| kind.argument).into();
        assert!(arguments.iter().all(|argument| argument.starts_with("__")));
        arguments.sort_unstable();
        arguments.dedup();
        assert_eq!(arguments.len(), KINDS.len());
    }
}
