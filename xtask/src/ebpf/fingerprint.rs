//! What the committed BPF object was made from.
//!
//! The record is beside the object. Comparing it with the sources needs no BPF toolchain, so
//! every test run notices an object that was not rebuilt.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Packages whose sources are the object's own.
const PACKAGES: [&str; 2] = ["memtrace-ebpf", "memtrace-common"];

/// Everything that decides what is in the object. Hashes are SHA-256 in hex.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// The object itself.
    pub object: String,
    /// Path from the project's top, to the file's hash.
    pub sources: BTreeMap<String, String>,
    /// "name version" of every dependency, to the checksum in `Cargo.lock`.
    pub dependencies: BTreeMap<String, String>,
    /// What the workspace's manifest says about our packages and their dependencies.
    pub manifest: BTreeMap<String, String>,
    /// What the compiler is told, except for paths.
    pub flags: Vec<String>,
    /// "rustc", "cargo" and "bpf-linker", to what each says of its version.
    pub toolchain: BTreeMap<String, String>,
}

impl Fingerprint {
    /// The record of the sources under `project`; `object` and `toolchain` are left empty.
    pub fn of_sources(project: &Path, flags: Vec<String>) -> Result<Self> {
        let mut sources = BTreeMap::new();
        for package in PACKAGES {
            let dir = project.join(package);
            hash_file(project, &dir.join("Cargo.toml"), &mut sources)?;
            hash_tree(project, &dir.join("src"), &mut sources)?;
        }
        let lock = read_toml(&project.join("Cargo.lock"))?;
        Ok(Self {
            sources,
            dependencies: dependencies(&lock),
            manifest: manifest(project)?,
            flags,
            ..Self::default()
        })
    }

    /// The record at `path`.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("cannot read {}", path.display()))
    }

    /// As it is written.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        Ok(text)
    }

    /// One line for each difference between the sources that `self` records and those of `now`.
    pub fn source_changes(&self, now: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        compare(&self.sources, &now.sources, "", &mut changes);
        compare(
            &self.dependencies,
            &now.dependencies,
            "Cargo.lock: ",
            &mut changes,
        );
        compare(&self.manifest, &now.manifest, "Cargo.toml: ", &mut changes);
        if self.flags != now.flags {
            changes.push("the compiler's flags in xtask changed".into());
        }
        changes
    }

    /// One line for each difference between the toolchains of `self` and `now`.
    pub fn toolchain_changes(&self, now: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        for name in self
            .toolchain
            .keys()
            .chain(now.toolchain.keys())
            .collect::<BTreeSet<_>>()
        {
            let (old, new) = (self.toolchain.get(name), now.toolchain.get(name));
            if old != new {
                let (old, new) = (
                    old.map_or("nothing", |text| first_line(text)),
                    new.map_or("nothing", |text| first_line(text)),
                );
                changes.push(format!("{name}: recorded {old}, here {new}"));
            }
        }
        changes
    }
}

/// SHA-256 of `bytes`, in hex.
pub fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |mut hex, byte| {
            // Writing to a String cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
}

/// Names in `first_line` order are for people: the rest of `rustc -vV` is in the record.
fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn compare(
    old: &BTreeMap<String, String>,
    new: &BTreeMap<String, String>,
    prefix: &str,
    changes: &mut Vec<String>,
) {
    for name in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
        let what = match (old.get(name), new.get(name)) {
            (Some(old), Some(new)) if old == new => continue,
            (Some(_), Some(_)) => "changed",
            (None, _) => "is new",
            (_, None) => "is gone",
        };
        changes.push(format!("{prefix}{name} {what}"));
    }
}

/// Hashes every `.rs` file under `dir`; editors' leavings are not sources.
fn hash_tree(project: &Path, dir: &Path, sources: &mut BTreeMap<String, String>) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            hash_tree(project, &path, sources)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            hash_file(project, &path, sources)?;
        }
    }
    Ok(())
}

fn hash_file(project: &Path, file: &Path, sources: &mut BTreeMap<String, String>) -> Result<()> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let name = file.strip_prefix(project).unwrap_or(file);
    sources.insert(name.to_string_lossy().into_owned(), sha256(&bytes));
    Ok(())
}

fn read_toml(path: &Path) -> Result<toml::Table> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    text.parse()
        .with_context(|| format!("{} is not TOML", path.display()))
}

/// The parts of the workspace's manifest that reach the object: the edition, and how the
/// dependencies of our packages are declared (version, features).
fn manifest(project: &Path) -> Result<BTreeMap<String, String>> {
    let root = read_toml(&project.join("Cargo.toml"))?;
    let workspace = |table: &str, key: &str| {
        let value = root.get("workspace")?.get(table)?.get(key)?;
        serde_json::to_string(value).ok()
    };
    let mut out = BTreeMap::new();
    if let Some(edition) = workspace("package", "edition") {
        out.insert("edition".into(), edition);
    }
    for package in PACKAGES {
        let manifest = read_toml(&project.join(package).join("Cargo.toml"))?;
        let Some(dependencies) = manifest.get("dependencies").and_then(toml::Value::as_table)
        else {
            continue;
        };
        for name in dependencies.keys() {
            if let Some(declared) = workspace("dependencies", name) {
                out.insert(format!("dependency {name}"), declared);
            }
        }
    }
    Ok(out)
}

/// Every package of the lock file that ours depend on, directly or not. The lock file does not
/// tell build-time packages apart; they shape the object through macros anyway.
fn dependencies(lock: &toml::Table) -> BTreeMap<String, String> {
    let packages: Vec<&toml::Table> = lock
        .get("package")
        .and_then(toml::Value::as_array)
        .map(|packages| packages.iter().filter_map(toml::Value::as_table).collect())
        .unwrap_or_default();
    let mut found = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut todo: Vec<String> = PACKAGES.iter().map(ToString::to_string).collect();
    while let Some(wanted) = todo.pop() {
        if !seen.insert(wanted.clone()) {
            continue;
        }
        // "name", or "name version" where the lock file holds several versions.
        let mut words = wanted.split(' ');
        let (name, version) = (words.next(), words.next());
        for package in &packages {
            let field = |key: &str| package.get(key).and_then(toml::Value::as_str);
            if field("name") != name || (version.is_some() && field("version") != version) {
                continue;
            }
            if let Some(checksum) = field("checksum") {
                let id = [name, field("version")]
                    .map(Option::unwrap_or_default)
                    .join(" ");
                found.insert(id, checksum.to_owned());
            }
            if let Some(needs) = package.get("dependencies").and_then(toml::Value::as_array) {
                todo.extend(
                    needs
                        .iter()
                        .filter_map(toml::Value::as_str)
                        .map(str::to_owned),
                );
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closure_follows_dependencies_and_tells_versions_apart() {
        let lock: toml::Table = r#"
            [[package]]
            name = "memtrace-ebpf"
            version = "0.1.0"
            dependencies = ["aya-ebpf", "syn 2.0.0"]
            [[package]]
            name = "aya-ebpf"
            version = "0.2.1"
            checksum = "aa"
            dependencies = ["cty"]
            [[package]]
            name = "cty"
            version = "1.0.0"
            checksum = "bb"
            [[package]]
            name = "syn"
            version = "2.0.0"
            checksum = "cc"
            [[package]]
            name = "syn"
            version = "3.0.0"
            checksum = "dd"
            [[package]]
            name = "tokio"
            version = "1.0.0"
            checksum = "ee"
        "#
        .parse()
        .unwrap();
        let found = dependencies(&lock);
        let found: Vec<_> = found
            .iter()
            .map(|(id, sum)| (id.as_str(), sum.as_str()))
            .collect();
        assert_eq!(
            found,
            [
                ("aya-ebpf 0.2.1", "aa"),
                ("cty 1.0.0", "bb"),
                ("syn 2.0.0", "cc")
            ]
        );
    }

    #[test]
    fn a_changed_a_new_and_a_missing_source_are_each_named() {
        let with = |files: &[(&str, &str)]| Fingerprint {
            sources: files
                .iter()
                .map(|(name, sum)| ((*name).into(), (*sum).into()))
                .collect(),
            ..Fingerprint::default()
        };
        let recorded = with(&[("a.rs", "1"), ("b.rs", "1"), ("c.rs", "1")]);
        let now = with(&[("a.rs", "1"), ("b.rs", "2"), ("d.rs", "1")]);
        assert_eq!(
            recorded.source_changes(&now),
            ["b.rs changed", "c.rs is gone", "d.rs is new"]
        );
    }

    #[test]
    fn hashes_are_sha_256() {
        assert_eq!(
            sha256(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
