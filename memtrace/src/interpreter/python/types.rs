//! stub
use crate::process::memory::ReadMemory;
use memtrace_common::interpreter::Interpreter;
/// x
pub fn type_name(a: u64, l: &Interpreter, m: &dyn ReadMemory) -> Result<String, ()> {
    let n = m.word(a + u64::from(l.type_name)).ok_or(())?;
    Ok(String::from_utf8_lossy(&m.c_string(n, 100).ok_or(())?).into_owned())
}
