//! The machine that xtask runs on: where the project is, which programs there are, who we are.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// The project's top directory.
pub fn project() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// The cargo that runs this program, so that what it builds comes from the same toolchain.
pub fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(project());
    // `.cargo/config.toml` asks for frame pointers, which stacks in tests and measurements need;
    // this variable would hide that.
    if let Some(flags) = std::env::var_os("RUSTFLAGS") {
        let mut flags = flags;
        flags.push(" -Cforce-frame-pointers=yes");
        command.env("RUSTFLAGS", flags);
    }
    command
}

/// Whether this process is root.
pub fn is_root() -> bool {
    // SAFETY: geteuid takes nothing, touches no memory of ours and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// `program`, run as root: through sudo when this process is not root.
pub fn as_root(program: impl AsRef<OsStr>) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg(program);
    command
}

/// Where programs are that only root runs.
pub const ROOTS_FOLDERS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// The first executable file called `name` in `PATH`.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| is_executable(file))
}

/// Whether `file` is a file that somebody may execute.
pub fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// What a package builds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Artifact {
    /// The binary of this name.
    Binary(&'static str),
    /// The integration test of this name.
    IntegrationTest(&'static str),
}

/// Runs the cargo command `build`, with its diagnostics shown, and returns the executable that was
/// wanted.
pub fn build(build: &mut Command, wanted: Artifact) -> Result<PathBuf> {
    build.arg("--message-format=json-render-diagnostics");
    let messages = capture(build)?;
    let (kind, name) = match wanted {
        Artifact::Binary(name) => ("bin", name),
        Artifact::IntegrationTest(name) => ("test", name),
    };
    let executable = messages.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let target = &message["target"];
        let fits = target["name"] == name && target["kind"][0] == kind;
        message["executable"]
            .as_str()
            .filter(|_| fits)
            .map(PathBuf::from)
    });
    executable.with_context(|| format!("cargo did not say where it put {name}"))
}

/// Builds memtrace with optimization.
pub fn build_memtrace() -> Result<PathBuf> {
    let mut command = cargo();
    command.args([
        "build",
        "--release",
        "--package",
        "memtrace",
        "--bin",
        "memtrace",
    ]);
    build(&mut command, Artifact::Binary("memtrace"))
}

/// Builds the program that tests and benches trace, with optimization, but not across its modules:
/// its call chains must be as they are written.
pub fn build_fixture() -> Result<PathBuf> {
    const NAME: &str = "memtrace-fixture";
    let mut command = cargo();
    command
        .args([
            "build",
            "--release",
            "--package",
            NAME,
            "--config",
            "profile.release.lto=\"off\"",
        ])
        // A folder of its own: the other profile would rebuild its dependencies back and forth.
        .arg("--target-dir")
        .arg(target_directory()?.join("fixture"));
    build(&mut command, Artifact::Binary(NAME))
}

/// Where cargo puts what it builds.
pub fn target_directory() -> Result<PathBuf> {
    let metadata = metadata()?;
    let directory = metadata["target_directory"].as_str();
    directory
        .map(PathBuf::from)
        .context("cargo does not say where its target directory is")
}

/// What cargo says of the workspace's own packages.
pub fn metadata() -> Result<serde_json::Value> {
    let mut command = cargo();
    command.args(["metadata", "--format-version", "1", "--no-deps"]);
    serde_json::from_str(&capture(&mut command)?)
        .context("cannot read what `cargo metadata` prints")
}

/// Runs `command` with its output shown; an error names the command and its exit status.
pub fn run(command: &mut Command) -> Result<()> {
    let shown = show(command);
    let status = command
        .status()
        .with_context(|| format!("cannot run `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed: {status}");
    }
    Ok(())
}

/// Runs `command` and returns its standard output; what it says on standard error is shown.
pub fn capture(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run `{shown}`"))?;
    if !output.status.success() {
        bail!("`{shown}` failed: {}", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{shown}` did not print UTF-8"))
}

/// As [`capture`], but what it says on standard error is shown only where it fails.
pub fn quietly(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run `{shown}`"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{shown}` failed: {}\n{said}", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{shown}` did not print UTF-8"))
}

/// A command as somebody would type it.
pub fn show(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Replaces `path` with `bytes` as a whole: a reader sees the old file or the new one.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = path.parent().context("a file needs a directory")?;
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let mut file = tempfile::NamedTempFile::new_in(dir)
        .with_context(|| format!("cannot write into {}", dir.display()))?;
    file.write_all(bytes)
        .and_then(|()| {
            file.as_file()
                .set_permissions(fs::Permissions::from_mode(0o644))
        })
        .with_context(|| format!("cannot write {}", path.display()))?;
    file.persist(path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}
