//! uWSGI with the service, and requests to it.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::tools;

/// Workers, and clients.
const WORKERS: usize = 4;

/// How long the service may take to start, and to answer.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running uWSGI.
pub struct Server {
    child: Child,
    port: u16,
    /// The pid of the master, which has forked the workers.
    pub master: u32,
}

impl Server {
    /// Starts the service that is in a folder, and waits until it answers.
    pub fn start(place: &Path) -> Result<Self> {
        let uwsgi = tools::program("uwsgi").context("uWSGI is not installed")?;
        let port = free_port()?;
        let log = std::fs::File::create(place.join("uwsgi.log"))?;
        let child = Command::new(uwsgi)
            .current_dir(place)
            .args(["--http-socket", &format!("127.0.0.1:{port}")])
            .args(["--master", "--processes", &WORKERS.to_string()])
            .args([
                "--need-app",
                "--die-on-term",
                "--no-orphans",
                "--disable-logging",
            ])
            // Its files are called by where they are in the folder.
            .args(["--pythonpath", ".", "--module", "shop.wsgi"])
            .arg("--virtualenv")
            .arg(tools::folder()?)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot run uWSGI")?;
        let mut server = Self {
            master: child.id(),
            child,
            port,
        };
        let began = Instant::now();
        while server.workers()?.len() < WORKERS || server.ask("/product/1").is_err() {
            let ended = server.child.try_wait()?;
            ensure!(
                ended.is_none() && began.elapsed() < PATIENCE,
                "the service does not start: {}",
                std::fs::read_to_string(place.join("uwsgi.log"))?
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(server)
    }

    fn workers(&self) -> Result<Vec<u32>> {
        let path = format!("/proc/{0}/task/{0}/children", self.master);
        let children = std::fs::read_to_string(path)?;
        children
            .split_whitespace()
            .map(|pid| Ok(pid.parse()?))
            .collect()
    }

    /// What the workers have that nobody else maps, in MiB.
    pub fn private(&self) -> Result<f64> {
        let mut kib = 0;
        for pid in self.workers()? {
            let sizes = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
            let private = sizes.lines().filter(|line| line.starts_with("Private_"));
            for line in private {
                let amount = line.split_whitespace().nth(1);
                kib += amount
                    .context("smaps_rollup has an amount")?
                    .parse::<u64>()?;
            }
        }
        Ok(kib as f64 / 1024.0)
    }

    /// Asks so many times, as many at a time as there are workers; how long that takes.
    pub fn load(&self, requests: u32) -> Result<Duration> {
        let began = Instant::now();
        let next = AtomicU32::new(0);
        let client = || -> Result<()> {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= requests {
                    return Ok(());
                }
                self.ask(&path(number))?;
            }
        };
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..WORKERS).map(|_| scope.spawn(client)).collect();
            let mut ends = clients.into_iter().map(std::thread::ScopedJoinHandle::join);
            ends.try_for_each(|end| end.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })?;
        Ok(began.elapsed())
    }

    fn ask(&self, path: &str) -> Result<()> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{}\r\n\r\n",
            self.port
        )?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let status = answer.split(|byte| *byte == b'\r').next().unwrap_or(&[]);
        ensure!(
            status.ends_with(b" 200 OK"),
            "{path} was answered with {}",
            String::from_utf8_lossy(status)
        );
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SAFETY: only sends a signal to a child that has not been waited for.
        unsafe { libc::kill(self.child.id().cast_signed(), libc::SIGTERM) };
        let _ = self.child.wait();
    }
}

/// What is asked for: mostly searches, at prices that differ, and every fourth time one product.
fn path(number: u32) -> String {
    if number % 4 == 3 {
        format!("/product/{}", number * 7919 % 60_000)
    } else {
        format!("/search?under={}", 20 + number % 200)
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

#[cfg(test)]
mod tests {
    use super::path;

    #[test]
    fn most_requests_search() {
        let searches = (0..100).filter(|&number| path(number).starts_with("/search?under="));
        assert_eq!(searches.count(), 75);
        assert_eq!(path(3), "/product/23757");
    }
}
