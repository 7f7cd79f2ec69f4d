//! What memtrace's developers run: `cargo xtask ...`.
fn main() {}
