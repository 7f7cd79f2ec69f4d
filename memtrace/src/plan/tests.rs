use super::*;
use crate::options::{Backend as Asked, Target};
use crate::preflight::problem;
use crate::probe::backend::{Sees, tracepoint};
use crate::profile::BackendName;

fn options() -> TraceOptions {
    TraceOptions {
        target: Target::Attach {
            pids: vec![1],
            load: None,
        },
        follow: true,
        duration: None,
        backend: Asked::Auto,
        unwind: Unwind::Auto,
        python: Python::Auto,
        user: None,
        arguments: true,
        talk: options::Talk::Progress,
        unchanged: true,
        memory: None,
    }
}

fn facts() -> Facts {
    Facts {
        arch: "x86_64".to_owned(),
        kernel: "6.18.5".to_owned(),
        has_loop: true,
        ..Facts::default()
    }
}

/// A backend that lacks something wherever it is.
struct Lacking;

impl Backend for Lacking {
    fn name(&self) -> BackendName {
        BackendName::Tracepoint
    }

    fn missing(&self, _: &Facts) -> Vec<Problem> {
        vec![problem(
            "it is never there",
            "nothing",
            "nothing",
            "nothing",
        )]
    }

    fn sees(&self) -> Sees {
        Sees::default()
    }

    fn blind_spots(&self) -> &'static [&'static str] {
        &[]
    }

    fn check_kernel(&self, _: &crate::probe::KernelTypes) -> anyhow::Result<()> {
        Ok(())
    }

    fn attach(&self, _: &mut aya::Ebpf, _: &aya::Btf) -> anyhow::Result<()> {
        Ok(())
    }
}

#[test]
fn a_machine_with_everything_gets_what_was_asked_for() {
    let plan = Plan::of(&options(), 0, &facts()).ok().unwrap();
    assert_eq!(plan.unwind.value, Unwind::Auto);
    assert!(plan.unwind.why.is_none() && plan.python.why.is_none());
    assert!(plan.backend.why.is_none() && !plan.loaders().is_empty());
}

#[test]
fn a_kernel_without_bpf_loop_follows_frame_pointers_and_says_why() {
    let facts = Facts {
        has_loop: false,
        ..facts()
    };
    let plan = Plan::of(&options(), 0, &facts).ok().unwrap();
    assert_eq!(plan.unwind.value, Unwind::FramePointers);
    assert!(plan.unwind.why.unwrap().contains("bpf_loop"));
    assert_eq!(plan.python.value, Python::Off);
    assert!(plan.python.why.is_some());
    let asked = TraceOptions {
        unwind: Unwind::Off,
        python: Python::Off,
        ..options()
    };
    let plan = Plan::of(&asked, 0, &facts).ok().unwrap();
    assert!(plan.unwind.why.is_none() && plan.python.why.is_none());
}

#[test]
fn a_backend_that_lacks_something_is_passed_over_with_the_reason() {
    let all: [&'static dyn Backend; 2] = [&Lacking, &tracepoint::Tracepoint];
    let chosen = choose_backend(&all, Asked::Auto, &facts()).ok().unwrap();
    let why = chosen.why.unwrap();
    assert_eq!(why, "tracepoint: it is never there");
    assert!(chosen.value.missing(&facts()).is_empty());
}

#[test]
fn without_a_backend_all_that_is_missing_is_said() {
    let facts = Facts {
        arch: "aarch64".to_owned(),
        kernel: "5.10.0".to_owned(),
        ..facts()
    };
    let Err(problems) = Plan::of(&options(), 0, &facts) else {
        panic!("there is no backend for this machine")
    };
    let what: Vec<_> = problems.iter().map(|problem| &*problem.what).collect();
    assert_eq!(
        what,
        [
            "this machine's architecture is not supported",
            "this kernel is too old"
        ]
    );
}
