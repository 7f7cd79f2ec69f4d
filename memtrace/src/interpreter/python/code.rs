//! stub
use crate::collect::TakenCode;
use crate::process::memory::ReadMemory;
use memtrace_common::interpreter::Interpreter;
use std::sync::Arc;
/// x
pub struct Code {
    /// x
    pub name: Arc<str>,
    /// x
    pub file: Arc<str>,
    first: u32,
}
fn s(b: &[u8]) -> Arc<str> {
    let n = b
        .get(16..24)
        .map_or(0, |x| u64::from_le_bytes(x.try_into().unwrap()) as usize);
    String::from_utf8_lossy(
        b.get(48..48 + n.min(b.len().saturating_sub(48)))
            .unwrap_or(b"?"),
    )
    .into_owned()
    .into()
}
impl Code {
    /// x
    pub fn decode(t: &TakenCode, _: &Interpreter, _: &dyn ReadMemory) -> Option<Self> {
        Some(Self {
            name: s(&t.name.1),
            file: s(&t.filename.1),
            first: t.first_line,
        })
    }
    /// x
    pub fn line(&self, _: u64, _: u64, _: &Interpreter) -> Option<u32> {
        Some(self.first)
    }
}
