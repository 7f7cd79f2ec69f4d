//! A running server.

use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use crate::support::interpreters::workloads;
use crate::support::{Why, eventually};

/// A server that listens on loopback. It is in a process group of its own, which ends with it.
pub struct Server {
    child: Child,
    /// Its first process.
    pub pid: u32,
    /// Where it listens.
    pub port: u16,
}

impl Server {
    /// Starts one that is told its port, and waits until it listens.
    pub fn on_free_port(command: impl FnOnce(u16) -> Command) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("it is bound").port();
        drop(free);
        let mut server = Self::spawn(&mut command(port));
        server.port = port;
        eventually("the server listens", || {
            if let Ok(Some(status)) = server.child.try_wait() {
                panic!("the server ended: {status}");
            }
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        server
    }

    /// Starts one that prints its pid and port.
    pub fn that_says_its_port(command: &mut Command) -> Result<Self, Why> {
        let mut server = Self::spawn(command);
        let output = server.child.stdout.take().expect("it is piped");
        let mut line = String::new();
        BufReader::new(output)
            .read_line(&mut line)
            .expect("its output is UTF-8");
        let said: serde_json::Value = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("the server said {line:?}: {error}"));
        if let Some(why) = said["unavailable"].as_str() {
            return Err(Why::Unavailable(why.to_owned()));
        }
        server.pid = said["ready"]["pid"].as_u64().expect("a pid") as u32;
        server.port = said["ready"]["port"].as_u64().expect("a port") as u16;
        Ok(server)
    }

    fn spawn(command: &mut Command) -> Self {
        let child = command
            .current_dir(workloads())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self {
            pid: child.id(),
            child,
            port: 0,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SAFETY: only sends a signal; the group is that of our child, which was not waited for
        // unless the test fails, so its number is not another's.
        unsafe { libc::kill(-self.child.id().cast_signed(), libc::SIGKILL) };
        let _ = self.child.wait();
    }
}
