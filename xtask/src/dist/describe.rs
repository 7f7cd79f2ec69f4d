//! What follows from the definition of the command line alone.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap_complete::Shell;

use super::manual;

/// The shells that have completions, and the program that reads them.
pub const SHELLS: [(Shell, &str); 3] = [
    (Shell::Bash, "bash"),
    (Shell::Zsh, "zsh"),
    (Shell::Fish, "fish"),
];

/// A file for each shell, with the program that reads it.
pub type Completions = Vec<(&'static str, PathBuf)>;

/// Writes a file for each shell into `folder`.
pub fn completions(folder: &Path) -> Result<Completions> {
    let folder = make(folder, "completions")?;
    let mut written = Vec::new();
    for (shell, program) in SHELLS {
        let mut command = memtrace::cli::command();
        let name = command.get_name().to_owned();
        let path = clap_complete::generate_to(shell, &mut command, name, &folder)
            .with_context(|| format!("cannot write the completions of {program}"))?;
        let text = fs::read_to_string(&path)?;
        fs::write(&path, with_pids(shell, &text))?;
        written.push((program, path));
    }
    Ok(written)
}

/// Completions that offer running processes, by what each shell has for that. clap has no hint for
/// it.
fn with_pids(shell: Shell, text: &str) -> String {
    match shell {
        Shell::Zsh => text.replace(":PID:'", ":PID:_pids'"),
        Shell::Fish => {
            let mut offered = String::new();
            for line in text.lines() {
                offered.push_str(line);
                if line.contains(" -l pid ") {
                    offered.push_str(" -xa '(__fish_complete_pids)'");
                }
                offered.push('\n');
            }
            offered
        }
        _ => text.to_owned(),
    }
}

/// Writes a page for memtrace and for each of its tasks into `folder`.
pub fn manual(folder: &Path) -> Result<Vec<PathBuf>> {
    let folder = make(folder, "man")?;
    let mut written = Vec::new();
    for (name, text) in manual::pages(&memtrace::cli::command())? {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        written.push(path);
    }
    Ok(written)
}

fn make(folder: &Path, name: &str) -> Result<PathBuf> {
    let folder = folder.join(name);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_know_files_commands_and_formats() {
        let folder = tempfile::tempdir().unwrap();
        let written = completions(folder.path()).unwrap();
        assert_eq!(written.len(), SHELLS.len());
        for (program, path) in written {
            let text = fs::read_to_string(path).unwrap();
            for part in ["fail-over", "speedscope", "diff"] {
                assert!(text.contains(part), "{program}: no {part}");
            }
            // What is hidden is not offered.
            assert!(!text.contains("fentry"), "{program}");
            if program == "fish" {
                assert!(text.contains("(__fish_complete_pids)"), "{text}");
            }
            if program == "zsh" {
                assert!(text.contains("PID:_pids"), "{text}");
                assert!(text.contains("FILE:_files"), "{text}");
                assert!(text.contains("_cmdambivalent"), "{text}");
                assert!(text.contains("USER:_users"), "{text}");
            }
        }
    }
}
