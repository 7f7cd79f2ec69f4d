//! Shows what unwind tables files have, or damages them for a while to see that nothing breaks.
//!
//! ```text
//! cargo run --release -p memtrace --example unwind_tables -- /usr/bin/python3 /lib/*/libc.so.6
//! cargo run --release -p memtrace --example unwind_tables -- --damage 60 /usr/bin/python3
//! ```

use std::fs::{self, File};
use std::io::{Seek as _, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use memtrace::unwind_tables::table_of;
use memtrace_common::unwind::{CFA_KIND, CFA_RULE, CFA_UNSUPPORTED};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments
        .next_if(|argument| argument == "--damage")
        .is_some()
    {
        let seconds = arguments.next().and_then(|text| text.parse().ok());
        let Some(seconds) = seconds else {
            eprintln!("--damage needs a number of seconds");
            return ExitCode::from(2);
        };
        let files: Vec<_> = arguments.filter_map(|path| fs::read(path).ok()).collect();
        return damage(&files, Duration::from_secs(seconds));
    }
    let (mut all, mut whole) = (0, Duration::ZERO);
    for path in arguments {
        match show(&path) {
            Ok((rows, took)) => {
                all += rows;
                whole += took;
            }
            Err(why) => println!("{path}: {why}"),
        }
    }
    println!("{all} rows in {whole:.1?}");
    ExitCode::SUCCESS
}

fn show(path: &str) -> Result<(usize, Duration), String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let start = Instant::now();
    let table = table_of(&file).map_err(|why| why.0)?;
    let took = start.elapsed();
    let rows = &table.rows;
    let of_kind = |kind| rows.iter().filter(|row| row.cfa & CFA_KIND == kind).count();
    println!(
        "{path}: {} rows of 8 bytes and {} rules from {:?} in {took:.1?}; {} rows by rule, {} not \
         supported, {} damaged functions",
        rows.len(),
        table.rules.len(),
        table.source,
        of_kind(CFA_RULE),
        of_kind(CFA_UNSUPPORTED),
        table.damaged,
    );
    Ok((rows.len(), took))
}

/// Changes bytes of files at random and builds their tables.
fn damage(files: &[Vec<u8>], time: Duration) -> ExitCode {
    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ u64::from(std::process::id()));
    let end = Instant::now() + time;
    let (mut built, mut refused, mut longest) = (0_u64, 0_u64, Duration::ZERO);
    let Ok(mut file) = tempfile::tempfile() else {
        eprintln!("cannot make a temporary file");
        return ExitCode::from(2);
    };
    while Instant::now() < end && !files.is_empty() {
        let mut bytes = files[random.below(files.len())].clone();
        let near = [64, 1024, bytes.len()][random.below(3)];
        for _ in 0..=random.below(64) {
            let place = random.below(near.min(bytes.len()));
            bytes[place] = random.next() as u8;
        }
        if random.below(4) == 0 {
            bytes.truncate(random.below(bytes.len()) + 1);
        }
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(&bytes));
        if written.is_err() {
            eprintln!("cannot write a temporary file");
            return ExitCode::from(2);
        }
        let start = Instant::now();
        match table_of(&file) {
            Ok(_) => built += 1,
            Err(_) => refused += 1,
        }
        longest = longest.max(start.elapsed());
    }
    println!("{built} tables built, {refused} files refused; the longest took {longest:.1?}");
    ExitCode::SUCCESS
}

/// xorshift: any will do.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, most: usize) -> usize {
        (self.next() % most.max(1) as u64) as usize
    }
}
