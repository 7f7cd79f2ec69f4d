//! scratch
use memtrace::{options::Unwind, probe::*};
fn main() -> anyhow::Result<()> {
    env_logger::init();
    let pid: u32 = std::env::args().nth(1).unwrap().parse()?;
    let off = std::env::args().nth(2).is_some();
    let mut p = Probe::attach(Settings { follow: true, unwind: if off {Unwind::Off} else {Unwind::FramePointers}, log: None })?;
    let mut ring = p.events()?;
    println!("tracing {} processes", p.trace(&[pid])?);
    let mut n = [0u64; 8];
    let t = std::time::Instant::now();
    while t.elapsed().as_secs() < 20 && std::path::Path::new(&format!("/proc/{pid}/stat")).exists() {
        while let Some(r) = ring.next() { n[r[0] as usize] += 1; }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    println!("{n:?} {:?}", p.health());
    for s in 0..16384u32 { if p.processes.is_used(s) { let x = p.processes.read(s as usize).unwrap(); if x.counters.copied != [0;4] {println!("{} {} {:?} {}", x.pid, x.parent_pid, x.counters, x.state); }} }
    Ok(())
}
