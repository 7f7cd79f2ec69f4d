//! A running Redis.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::eventually;

/// Its log, in its folder.
const LOG: &str = "redis.log";

/// A Redis with data, that is ended with this.
pub struct Redis {
    server: Child,
    client: TcpStream,
    folder: tempfile::TempDir,
}

impl Redis {
    /// Starts it on a free port of 127.0.0.1, and waits until it listens.
    pub fn start(mut redis: Command) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let server = redis
            .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
            .args(["--save", "", "--daemonize", "no"])
            .args(["--enable-debug-command", "local", "--dir"])
            .arg(folder.path())
            .arg("--logfile")
            .arg(folder.path().join(LOG))
            .stdout(Stdio::null())
            .spawn()
            .expect("it runs");
        let client = eventually("redis listens", || {
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        let patience = Some(Duration::from_mins(1));
        client.set_read_timeout(patience).expect("a timeout");
        Self {
            server,
            client,
            folder,
        }
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.server.id()
    }

    /// What it has written to its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join(LOG)).unwrap_or_default()
    }

    /// Sends a command; its answer must begin with `expected`.
    pub fn ask(&mut self, command: &str, expected: &str) {
        // Sent in one piece, or the second piece waits.
        let line = format!("{command}\r\n");
        self.client.write_all(line.as_bytes()).expect("it listens");
        let mut answer = [0; 256];
        let size = self.client.read(&mut answer).expect("an answer");
        let answer = String::from_utf8_lossy(&answer[..size]);
        assert!(answer.starts_with(expected), "{command}: {answer}");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
