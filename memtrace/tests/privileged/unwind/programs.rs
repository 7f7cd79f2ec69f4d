//! Compiles the programs of `tests/unwind`.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// How programs are compiled: as distributions do it.
const OPTIONS: &[&str] = &["-O2", "-fomit-frame-pointer", "-pthread", "-Wl,-z,lazy"];

/// The options of C and C++.
pub fn without_frame_pointers() -> &'static [&'static str] {
    OPTIONS
}

/// Where the sources are.
pub fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/unwind")
}

/// A temporary folder of programs.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(TempDir::new().expect("a temporary folder"))
    }

    /// Compiles a source to a program of its name.
    pub fn compile(&self, compiler: &str, source: &str, options: &[&str]) -> PathBuf {
        let folder = self.0.path();
        let name = source.split('.').next().expect("a name");
        let program = folder.join(name);
        let mut command = Command::new(compiler);
        if compiler == "rustc" {
            command.args(["-O", "-C", "force-frame-pointers=no", "--edition", "2024"]);
        } else {
            command.args(OPTIONS);
        }
        command.arg(sources().join(source)).arg("-o").arg(&program);
        if compiler != "rustc" {
            command.arg("-L").arg(folder);
            command.arg(format!("-Wl,-rpath,{}", folder.display()));
        }
        run(command.args(options));
        program
    }

    /// Compiles `library.c` to a library.
    pub fn library(&self) -> PathBuf {
        let library = self.0.path().join("liblibrary.so");
        let mut command = Command::new("gcc");
        command.args(OPTIONS).args(["-fPIC", "-shared", "-o"]);
        run(command.arg(&library).arg(sources().join("library.c")));
        library
    }
}

fn run(command: &mut Command) {
    let status = command.status().expect("the compiler runs");
    assert!(status.success(), "{command:?}");
}
