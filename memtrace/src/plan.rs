//! How a trace will be made: what was asked for, as far as this machine permits it.
//!
//! Every choice is made here, once, from the options and the [`Facts`]; each says why it is not a
//! better one. What follows ([`probe`](crate::probe), [`session`](crate::session),
//! [`summarize`](crate::summarize)) asks the plan and never the machine.

use log::Level;
use memtrace_common::interpreter::Kind;

use crate::interpreter::{self, Loader};
use crate::options::{self, Python, TraceOptions, Unwind};
use crate::preflight::{Facts, Problem};
use crate::probe::Settings;
use crate::probe::backend::{self, Backend};

/// What was chosen.
#[derive(Clone, Debug)]
pub struct Choice<T> {
    /// The choice.
    pub value: T,
    /// Why it is not what was asked for, or not the best there is; `None` where it is.
    pub why: Option<String>,
}

impl<T> Choice<T> {
    /// What was asked for.
    fn asked(value: T) -> Self {
        Self { value, why: None }
    }
}

/// How a trace will be made.
#[derive(Clone)]
pub struct Plan {
    /// How copies are seen.
    pub backend: Choice<&'static dyn Backend>,
    /// How native stacks are taken.
    pub unwind: Choice<Unwind>,
    /// Whether CPython is looked for.
    pub python: Choice<Python>,
    /// What the BPF side logs; `None` is nothing.
    log: Option<Level>,
    /// Whether the kernel has the helper `bpf_loop`.
    has_loop: bool,
}

impl Plan {
    /// Makes a plan. `verbosity` is how often -v was given.
    ///
    /// # Errors
    /// What is missing for the backend that was asked for; for `auto`, what is missing for the one
    /// that needs least.
    pub fn of(options: &TraceOptions, verbosity: u8, facts: &Facts) -> Result<Self, Vec<Problem>> {
        let (unwind, python) = if facts.has_loop {
            (Choice::asked(options.unwind), Choice::asked(options.python))
        } else {
            (
                unwind_without_loop(options.unwind),
                python_without_loop(options.python),
            )
        };
        Ok(Self {
            backend: choose_backend(backend::ALL, options.backend, facts)?,
            unwind,
            python,
            log: match verbosity {
                0 | 1 => None,
                2 => Some(Level::Debug),
                _ => Some(Level::Trace),
            },
            has_loop: facts.has_loop,
        })
    }

    /// The loaders of the interpreters that are wanted.
    #[must_use]
    pub fn loaders(&self) -> Vec<&'static dyn Loader> {
        interpreter::loaders(|kind| match kind {
            Kind::Python => self.python.value == Python::Auto,
        })
    }

    /// How the BPF side must work, with room for `rows` rows of unwind tables.
    #[must_use]
    pub fn settings(&self, options: &TraceOptions, rows: u32) -> Settings {
        Settings {
            backend: self.backend.value,
            has_loop: self.has_loop,
            follow: options.follow,
            unchanged: options.unchanged,
            unwind: self.unwind.value,
            rows,
            python: self.python.value,
            log: self.log,
        }
    }
}

/// The backend that was asked for, or the first of `all` that lacks nothing.
fn choose_backend(
    all: &[&'static dyn Backend],
    asked: options::Backend,
    facts: &Facts,
) -> Result<Choice<&'static dyn Backend>, Vec<Problem>> {
    let mut better = Vec::new();
    let mut missing = Vec::new();
    for &backend in all {
        if asked.name().is_some_and(|asked| asked != backend.name()) {
            continue;
        }
        missing = backend.missing(facts);
        let Some(first) = missing.first() else {
            return Ok(Choice {
                value: backend,
                why: (!better.is_empty()).then(|| better.join("; ")),
            });
        };
        better.push(format!("{}: {}", backend.name(), first.what));
    }
    Err(missing)
}

/// How stacks are taken on a kernel without `bpf_loop`.
fn unwind_without_loop(asked: Unwind) -> Choice<Unwind> {
    match asked {
        Unwind::Auto | Unwind::Dwarf => {
            let why = "this kernel has no bpf_loop (Linux 5.17 has), which unwinding by tables and \
                       taking Python frames need; frame pointers were followed";
            Choice {
                value: Unwind::FramePointers,
                why: Some(why.to_owned()),
            }
        }
        Unwind::FramePointers | Unwind::Off => Choice::asked(asked),
    }
}

fn python_without_loop(asked: Python) -> Choice<Python> {
    match asked {
        Python::Auto => Choice {
            value: Python::Off,
            why: Some("this kernel has no bpf_loop (Linux 5.17 has)".to_owned()),
        },
        Python::Off => Choice::asked(asked),
    }
}

#[cfg(test)]
mod tests;
