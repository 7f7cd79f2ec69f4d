//! The object's programs: finding, loading and attaching them.

use std::time::Instant;

use anyhow::{Context as _, Result};
use aya::programs::{BtfTracePoint, Program, ProgramError};
use aya::{Btf, Ebpf};
use log::debug;

use crate::clock;
use crate::signals;

/// Loads programs for the tracepoints of these names, which are also the programs' own.
pub fn load_tracepoints(ebpf: &mut Ebpf, btf: &Btf, names: &[&str]) -> Result<()> {
    for name in names {
        signals::check()?;
        let program: &mut BtfTracePoint = program(ebpf, name)?;
        timed(name, || program.load(name, btf))?;
    }
    Ok(())
}

/// Attaches what [`load_tracepoints`] has loaded.
pub fn attach_tracepoints(ebpf: &mut Ebpf, names: &[&str]) -> Result<()> {
    for name in names {
        signals::check()?;
        let program: &mut BtfTracePoint = program(ebpf, name)?;
        program
            .attach()
            .with_context(|| format!("cannot attach `{name}`"))?;
    }
    Ok(())
}

/// Loads a program, and says in the log how long the kernel took to check it.
pub fn timed(name: &str, load: impl FnOnce() -> Result<(), ProgramError>) -> Result<()> {
    let (start, cpu) = (Instant::now(), clock::thread_cpu());
    load().map_err(|error| refused(name, error))?;
    let cpu = clock::thread_cpu().saturating_sub(cpu);
    debug!(
        "loaded `{name}` in {:?}, {cpu:?} of CPU time",
        start.elapsed()
    );
    Ok(())
}

/// The error for a program that the kernel refuses. The verifier's reasons are only logged.
fn refused(name: &str, error: ProgramError) -> anyhow::Error {
    let error = match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => {
            debug!("the verifier on `{name}`: {verifier_log}");
            anyhow::Error::new(io_error)
        }
        other => other.into(),
    };
    error.context(format!("the kernel refuses the BPF program `{name}`"))
}

/// A program of the object, by name.
pub fn program<'a, T>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut T>
where
    &'a mut T: TryFrom<&'a mut Program, Error: std::error::Error + Send + Sync + 'static>,
{
    let program = ebpf.program_mut(name);
    Ok(program
        .with_context(|| format!("the BPF object has no program `{name}`"))?
        .try_into()?)
}
