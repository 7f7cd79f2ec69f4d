//! An interpreter of another Debian suite, in a folder of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::host;
use crate::progress::Log;

/// A suite, and the interpreter that is taken from it.
#[derive(Debug, PartialEq, Eq)]
pub struct Suite {
    /// What tests and Debian call it.
    pub name: &'static str,
    /// The package, which is called as its program.
    pub package: &'static str,
}

/// Those whose interpreters the machine's own suite does not have.
pub const SUITES: [Suite; 2] = [
    Suite {
        name: "trixie",
        package: "python3.13",
    },
    Suite {
        name: "sid",
        package: "python3.14",
    },
];

/// Folders that a chroot needs: what is mounted there ends with the process that mounted it.
const MOUNTS: [&str; 3] = ["proc", "tmp", "workloads"];

/// Where apt's sources are, in either format.
const SOURCES: [&str; 2] = [
    "/etc/apt/sources.list.d/debian.sources",
    "/etc/apt/sources.list",
];

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

impl Suite {
    /// Whether it is there, whole.
    pub fn is_there(&self) -> bool {
        self.root()
            .is_ok_and(|root| host::is_executable(&root.join("usr/bin").join(self.package)))
    }

    fn root(&self) -> Result<PathBuf> {
        Ok(super::folder()?.join(self.name))
    }

    /// Fetches and unpacks it, unless it is there.
    pub fn install(&self, log: &mut Log) -> Result<()> {
        if self.is_there() {
            return Ok(());
        }
        let folder = super::folder()?;
        fs::create_dir_all(&folder)?;
        let scratch = tempfile::tempdir_in(&folder).context("cannot create a folder")?;
        let apt = Apt::new(scratch.path(), self.name)?;
        apt.update(log)?;
        apt.download(&[self.package], log)?;
        let root = scratch.path().join("root");
        apt.unpack(&root, log)?;
        for mount in MOUNTS {
            fs::create_dir_all(root.join(mount))?;
        }
        let mut ask = host::as_root("chroot");
        ask.arg(&root)
            .arg(Path::new("/usr/bin").join(self.package))
            .args(["-c", "import sys; print(sys.version)"]);
        log.run(&mut ask).context("it does not run here")?;
        // The whole at once: a root that was unpacked in part is never seen.
        let place = self.root()?;
        if place.exists() {
            fs::remove_dir_all(&place)?;
        }
        fs::rename(&root, &place)?;
        Ok(())
    }
}

/// apt, with lists, cache and status of our own.
pub struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// apt for one suite, of the mirror that the machine uses. Its files go into `folder`.
    pub fn new(folder: &Path, suite: &str) -> Result<Self> {
        let mirror = source()?;
        for part in ["lists/partial", "cache/archives/partial", "parts"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let lines = ["deb", "deb-src"]
            .map(|kind| format!("{kind} [signed-by={KEYRING}] {mirror} {suite} main\n"));
        fs::write(folder.join("sources.list"), lines.concat())?;
        fs::write(folder.join("status"), "")?;
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    /// The command, with all of the machine's own files replaced.
    pub fn command(&self) -> Command {
        let mut command = Command::new("apt-get");
        command.arg("-q").current_dir(&self.folder);
        for (name, file) in [
            ("Dir::State", ""),
            ("Dir::State::lists", "lists"),
            ("Dir::State::status", "status"),
            ("Dir::Cache", "cache"),
            ("Dir::Etc::sourcelist", "sources.list"),
            ("Dir::Etc::sourceparts", "parts"),
            ("Dir::Etc::preferences", "parts/none"),
            ("Dir::Etc::preferencesparts", "parts"),
        ] {
            let path = self.folder.join(file);
            command.args(["-o", &format!("{name}={}", path.display())]);
        }
        for option in [
            "Acquire::Languages=none",
            // Large, and wanted by apt-file alone.
            "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false",
            "Acquire::IndexTargets::deb-src::Contents-dsc::DefaultEnabled=false",
            // The user that apt would become cannot read our folder.
            "APT::Sandbox::User=root",
            "Debug::NoLocking=1",
        ] {
            command.args(["-o", option]);
        }
        command
    }

    /// Reads what the suite has.
    pub fn update(&self, log: &mut Log) -> Result<()> {
        log.run(self.command().arg("update"))
    }

    /// Fetches packages and all that they need.
    fn download(&self, packages: &[&str], log: &mut Log) -> Result<()> {
        let mut command = self.command();
        command
            .args([
                "install",
                "--download-only",
                "--yes",
                "--no-install-recommends",
            ])
            .args(packages);
        log.run(&mut command)
    }

    /// Unpacks what was fetched. Debian's merged /usr has to be made before.
    fn unpack(&self, root: &Path, log: &mut Log) -> Result<()> {
        for folder in ["bin", "sbin", "lib", "lib64"] {
            fs::create_dir_all(root.join("usr").join(folder))?;
            std::os::unix::fs::symlink(Path::new("usr").join(folder), root.join(folder))?;
        }
        for entry in fs::read_dir(self.folder.join("cache/archives"))?.flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                // Through tar, which follows the links of the merged /usr; dpkg-deb -x replaces
                // them.
                log.run(
                    Command::new("sh")
                        .args(["-c", "dpkg-deb --fsys-tarfile \"$1\" | tar -x --keep-directory-symlink -C \"$2\"", "sh"])
                        .args([path.as_path(), root]),
                )?;
            }
        }
        Ok(())
    }
}

/// Where packages of other suites come from: the mirror that the machine itself uses.
pub fn source() -> Result<String> {
    for program in ["apt-get", "dpkg-deb"] {
        if host::find_program(program).is_none() {
            bail!("there is no {program} here");
        }
    }
    if !Path::new(KEYRING).exists() {
        bail!("Debian's keys are not here (apt-get install debian-archive-keyring)");
    }
    SOURCES
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .find_map(|text| mirror(&text))
        .context("apt's sources name no mirror of Debian")
}

/// The first mirror of Debian's own packages in a file of apt's sources.
fn mirror(text: &str) -> Option<String> {
    let is_debian = |uri: &&str| uri.trim_end_matches('/').ends_with("/debian");
    text.lines()
        .map(str::trim)
        .filter(|line| line.starts_with("URIs:") || line.starts_with("deb "))
        .flat_map(str::split_whitespace)
        .find(is_debian)
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::mirror;

    #[test]
    fn the_mirror_is_found_in_both_formats() {
        let new = "Types: deb\n# URIs: http://old.example/debian\nURIs: http://a.example/debian/\n";
        assert_eq!(mirror(new).unwrap(), "http://a.example/debian/");
        let old = "deb http://a.example/debian-security x main\ndeb [arch=amd64] \
                   http://b.example/debian bookworm main\n";
        assert_eq!(mirror(old).unwrap(), "http://b.example/debian");
        assert_eq!(mirror("deb http://a.example/other x main\n"), None);
    }
}
