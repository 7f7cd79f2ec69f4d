//! What `go tool pprof` says.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

use super::Written;
use super::readers::PATIENCE;
use crate::host;

/// Reads a report in every way that formats.md has, and compares.
pub(super) fn check(go: &Path, written: &Written) -> Result<String> {
    let file = written.file("pb.gz");
    let ask = |options: &[&str]| {
        let mut command = Command::new(go);
        command
            .args(["tool", "pprof"])
            .args(options)
            .arg(&file)
            .env("PPROF_TMPDIR", &written.folder);
        host::quietly(&mut command)
    };
    let mut ways = Vec::new();
    for (counted, unit, sum) in [("bytes", "B", written.bytes), ("pages", "", written.pages)] {
        let index = format!("-sample_index={counted}");
        let unit = format!("-unit={unit}");
        for more in ["", "-tagroot=cause", "-lines"] {
            let mut options = vec!["-top", "-nodefraction=0", &index];
            if unit.len() > "-unit=".len() {
                options.push(&unit);
            }
            if !more.is_empty() {
                options.push(more);
            }
            let said = ask(&options)?;
            let total = total(&said);
            ensure!(
                total == Some(sum),
                "{options:?}: {total:?} and not {sum}:\n{}",
                said.lines().take(8).collect::<Vec<_>>().join("\n")
            );
        }
        ways.push(counted);
    }
    let traces = ask(&["-traces", "-sample_index=pages"])?;
    let sum = sum_of_traces(&traces);
    ensure!(
        sum == written.pages,
        "-traces: {sum} pages and not {}",
        written.pages
    );
    let base = format!("-diff_base={}", file.display());
    let said = ask(&["-top", &base, "-unit=B"])?;
    if written.bytes > 0 {
        ensure!(
            said.contains("Showing nodes accounting for 0,"),
            "a report differs from itself:\n{said}"
        );
    }
    if written.bytes > 0 {
        let length = served(go, &file, &written.folder)?;
        ways.push("http");
        ensure!(length > 1_000, "its page has {length} bytes only");
    }
    Ok(ways.join(", "))
}

/// The total of `-top`: "Showing nodes accounting for 5B, 100% of 5B total".
fn total(said: &str) -> Option<u64> {
    let line = said.lines().find(|line| line.starts_with("Showing nodes"));
    let Some(line) = line else {
        // Of nothing it shows no such line.
        return Some(0);
    };
    let total = line.split(" of ").nth(1)?.strip_suffix(" total")?;
    total.trim_end_matches('B').parse().ok()
}

/// The sum over all stacks of `-traces`: each begins with its value.
fn sum_of_traces(said: &str) -> u64 {
    let mut sum = 0;
    let mut is_new = false;
    for line in said.lines() {
        if line.starts_with("-----------+") {
            is_new = true;
            continue;
        }
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        // Labels come before the value.
        if is_new && !first.ends_with(':') {
            sum += first.parse().unwrap_or(0);
            is_new = false;
        }
    }
    sum
}

/// The bytes of the flame graph that pprof serves.
fn served(go: &Path, file: &Path, scratch: &Path) -> Result<usize> {
    // A port that is free now. Nobody else but a test asks for one here.
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port();
    // The tool itself and not `go`, whose end would leave it running.
    let tool = host::capture(Command::new(go).args(["tool", "-n", "pprof"]))?;
    let child = Command::new(tool.trim())
        .args(["-no_browser", &format!("-http=127.0.0.1:{port}")])
        .arg(file)
        .env("PPROF_TMPDIR", scratch)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot run pprof")?;
    let _ended = Ended(child);
    let begin = Instant::now();
    let mut stream = loop {
        match TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
            Ok(stream) => break stream,
            Err(_) if begin.elapsed() < PATIENCE => {
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            Err(error) => return Err(error).context("pprof does not serve"),
        }
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET /ui/flamegraph HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        bail!("pprof answers nothing");
    };
    ensure!(head.contains(" 200 "), "pprof answers: {head}");
    Ok(body.len())
}

/// A process that ends with this.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_what_is_after_of() {
        let said = "File: x\nShowing nodes accounting for 4B, 40% of 10B total\n  flat\n";
        assert_eq!(total(said), Some(10));
        let said = "Showing nodes accounting for 4, 40% of 10 total\n";
        assert_eq!(total(said), Some(10));
        assert_eq!(total("File: x\n"), Some(0));
    }

    #[test]
    fn each_trace_begins_with_its_value() {
        let said = "File: x\n-----------+-----\n    cause:  gc\n      7   f\n          3\n\
            -----------+-----\n     11   g\n-----------+-----\n";
        assert_eq!(sum_of_traces(said), 18);
    }
}
