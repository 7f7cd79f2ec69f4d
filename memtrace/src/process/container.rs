//! The container that a process runs in, as the path of its control group names it.
//!
//! Container engines put each container into a control group of its own and its id into that
//! group's name, and a Kubernetes node puts the uid of the pod into a name above it. The paths look
//! different for each engine, each driver of control groups, and each version of these:
//!
//! ```text
//! /docker/ID                                        Docker, without systemd
//! /system.slice/docker-ID.scope                     Docker, with systemd
//! /machine.slice/libpod-ID.scope/container          Podman
//! /kubepods/burstable/podUID/ID                     Kubernetes, without systemd
//! /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID.slice/cri-containerd-ID.scope
//! /system.slice/containerd.service/kubepods-besteffort-podUID.slice:cri-containerd:ID
//! ```
//!
//! What the process itself, or whoever started it, calls a control group is foreign: nothing is
//! taken from there but hexadecimal digits.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// Digits of a container's id.
const ID_DIGITS: usize = 64;

/// Digits of a pod's uid; they stand in five groups, but for pods that no API server knows.
const UID_DIGITS: usize = 32;

/// What engines write before an id. Their monitors, such as `crio-conmon-ID`, are outside of the
/// container.
const ENGINES: [&str; 4] = ["docker-", "cri-containerd-", "libpod-", "crio-"];

/// Bytes of /proc/PID/cgroup that are read: a path has 4096 at most, in each of a dozen hierarchies.
const MAX_BYTES: u64 = 64 * 1024;

/// A container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its id, 64 hexadecimal digits.
    pub id: String,
    /// The uid of its Kubernetes pod; `None` where it is in none.
    pub pod: Option<String>,
}

impl Container {
    /// The one that process `pid` runs in; `None` where it runs in none, or that cannot be read.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        Self::in_groups(&read_groups(Path::new("/proc"), pid)?)
    }

    /// The one that the text of a /proc/PID/cgroup names. Of containers within each other, the
    /// innermost.
    #[must_use]
    pub fn in_groups(text: &[u8]) -> Option<Self> {
        text.split(|&byte| byte == b'\n')
            .find_map(|line| Self::in_path(path_of(line)?))
    }

    /// The one that the path of a control group names.
    #[must_use]
    pub fn in_path(path: &[u8]) -> Option<Self> {
        let path = std::str::from_utf8(path).ok()?;
        let names: Vec<&str> = path.split(['/', ':']).collect();
        let at = names.iter().rposition(|name| id(name).is_some())?;
        Some(Self {
            id: id(names[at])?.to_owned(),
            pod: names[..at].iter().rev().find_map(|name| pod(name)),
        })
    }
}

/// The text of a process's `cgroup` file below `proc`.
#[must_use]
pub fn read_groups(proc: &Path, pid: u32) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    let file = File::open(proc.join(pid.to_string()).join("cgroup")).ok()?;
    file.take(MAX_BYTES).read_to_end(&mut text).ok()?;
    Some(text)
}

/// The path in a line `HIERARCHY:CONTROLLERS:PATH`.
fn path_of(line: &[u8]) -> Option<&[u8]> {
    line.splitn(3, |&byte| byte == b':').nth(2)
}

/// The container's id in the name of its control group.
fn id(name: &str) -> Option<&str> {
    let name = name.strip_suffix(".scope").unwrap_or(name);
    let engine = ENGINES.iter().find_map(|engine| name.strip_prefix(engine));
    let id = engine.unwrap_or(name);
    (id.len() == ID_DIGITS && id.bytes().all(is_digit)).then_some(id)
}

/// The pod's uid in the name of its control group: `podUID`, `kubepods-podUID.slice` or
/// `kubepods-burstable-podUID.slice`. systemd has other plans for dashes, so there it is written
/// with underscores.
fn pod(name: &str) -> Option<String> {
    let name = name.strip_suffix(".slice").unwrap_or(name);
    let uid = match name.strip_prefix("pod") {
        Some(uid) => uid,
        None => name.strip_prefix("kubepods")?.rsplit_once("-pod")?.1,
    };
    let digits = uid.bytes().filter(|&byte| is_digit(byte)).count();
    let is_uid = |byte| is_digit(byte) || matches!(byte, b'-' | b'_');
    let has_length = uid.len() == UID_DIGITS || uid.len() == UID_DIGITS + 4;
    (digits == UID_DIGITS && has_length && uid.bytes().all(is_uid)).then(|| uid.replace('_', "-"))
}

fn is_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "3f2a1b9c4d5e60718293a4b5c6d7e8f93f2a1b9c4d5e60718293a4b5c6d7e8f9";
    const OTHER: &str = "00000000000000000000000000000000000000000000000000000000000000aa";
    const UID: &str = "1b2c3d4e-5f60-7182-93a4-b5c6d7e8f901";

    fn found(path: &str) -> Option<(String, Option<String>)> {
        let text = format!("1:name=systemd:{path}\n0::{path}\n");
        let container = Container::in_groups(text.as_bytes())?;
        Some((container.id, container.pod))
    }

    #[test]
    fn containers_of_every_engine_are_recognised() {
        let alone = [
            format!("/docker/{ID}"),
            format!("/system.slice/docker-{ID}.scope"),
            format!("/machine.slice/libpod-{ID}.scope"),
            format!(
                "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/container"
            ),
            format!("/libpod_parent/libpod-{ID}"),
            format!("/ecs/task/{ID}"),
            // The ancestor of the reader's own control group.
            format!("/../../docker/{ID}"),
            // A unit in a container that runs systemd.
            format!("/docker/{ID}/system.slice/gunicorn.service"),
            // A container in a container.
            format!("/docker/{OTHER}/docker/{ID}"),
        ];
        for path in alone {
            assert_eq!(found(&path), Some((ID.to_owned(), None)), "{path}");
        }
    }

    #[test]
    fn pods_are_recognised_with_their_containers() {
        let slice = UID.replace('-', "_");
        let paths = [
            format!("/kubepods/burstable/pod{UID}/{ID}"),
            format!("/kubepods/pod{UID}/{ID}"),
            format!(
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{slice}.slice/\
                 cri-containerd-{ID}.scope"
            ),
            format!("/kubepods.slice/kubepods-pod{slice}.slice/crio-{ID}.scope"),
            format!(
                "/system.slice/containerd.service/kubepods-besteffort-pod{slice}.slice:\
                 cri-containerd:{ID}"
            ),
            format!("/docker/{OTHER}/kubelet/kubepods/besteffort/pod{UID}/{ID}"),
        ];
        for path in paths {
            let expected = Some((ID.to_owned(), Some(UID.to_owned())));
            assert_eq!(found(&path), expected, "{path}");
        }
        // A pod of the node's own has a hash for its uid.
        let hash = "0123456789abcdef0123456789abcdef";
        let found = found(&format!("/kubepods/burstable/pod{hash}/{ID}"));
        assert_eq!(found, Some((ID.to_owned(), Some(hash.to_owned()))));
    }

    #[test]
    fn what_is_no_container_is_not_taken_for_one() {
        let paths = [
            "/".to_owned(),
            "/system.slice/gunicorn.service".to_owned(),
            format!("/docker/{}", &ID[1..]),
            format!("/docker/{ID}0"),
            format!("/docker/{}", ID.to_uppercase()),
            // The monitors of containers.
            format!("/machine.slice/libpod-conmon-{ID}.scope"),
            format!("/system.slice/crio-conmon-{ID}.scope"),
            format!("/kubepods/burstable/pod{UID}"),
            format!("/system.slice/docker-{ID}.service"),
        ];
        for path in paths {
            assert_eq!(found(&path), None, "{path}");
        }
        assert_eq!(Container::in_groups(b""), None);
        assert_eq!(Container::in_groups(b"\n:\n::\n0::\xff/docker/"), None);
    }

    #[test]
    fn any_hierarchy_may_name_it() {
        let text = format!("12:cpuset:/\n4:memory:/docker/{ID}\n0::/\n");
        assert_eq!(Container::in_groups(text.as_bytes()).unwrap().id, ID);
    }

    #[test]
    fn this_process_can_be_asked() {
        // Tests may run in a container or not.
        let container = Container::of(std::process::id());
        assert!(container.is_none_or(|container| container.id.len() == ID_DIGITS));
        assert_eq!(Container::of(u32::MAX), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(text in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = Container::in_groups(&text);
        }

        #[test]
        fn nothing_but_digits_comes_out(
            parts in proptest::collection::vec(
                prop_oneof![
                    "[0-9a-f]{64}", "pod[-_0-9a-f]{32,36}", "docker-[0-9a-f]{64}.scope",
                    "kubepods-pod[-_0-9a-f]{36}.slice", ".{0,8}", "kubepods", "-pod", "é",
                ],
                0..8,
            ),
        ) {
            let path = parts.join("/");
            if let Some(Container { id, pod }) = Container::in_path(path.as_bytes()) {
                prop_assert!(id.len() == ID_DIGITS && id.bytes().all(is_digit));
                let is_uid = |uid: String| uid.bytes().all(|byte| is_digit(byte) || byte == b'-');
                prop_assert!(pod.is_none_or(is_uid));
            }
        }
    }
}
