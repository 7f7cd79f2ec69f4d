//! Who COMMAND runs as: a user of this machine, with the groups and the environment of one who has
//! logged in.

use std::ffi::{CStr, CString, OsString};
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::process::Command;
use std::str::FromStr;

/// Bytes of the first try for an entry of the user database, and of the last.
const ENTRY: (usize, usize) = (1024, 1 << 20);
/// Groups that a user may be in.
const MOST_GROUPS: libc::c_int = 65_536;

/// A user of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name to log in with.
    pub name: OsString,
    home: OsString,
    uid: libc::uid_t,
    gid: libc::gid_t,
    groups: Vec<libc::gid_t>,
}

impl FromStr for User {
    type Err = String;

    /// By name, or by number.
    fn from_str(text: &str) -> Result<Self, String> {
        let missing = || format!("this machine has no user {text:?}; see `getent passwd`");
        let name = CString::new(text).map_err(|_| missing())?;
        let by_name = find(|entry, buffer, size, found| {
            // SAFETY: all pointers are to memory of the caller's, as large as it says.
            unsafe { libc::getpwnam_r(name.as_ptr(), entry, buffer, size, found) }
        });
        match by_name {
            Ok(Some(user)) => return Ok(user),
            Ok(None) => {}
            Err(error) => return Err(format!("cannot look up the user {text:?}: {error}")),
        }
        let uid = text.parse().map_err(|_| missing())?;
        let by_number = find(|entry, buffer, size, found| {
            // SAFETY: as above.
            unsafe { libc::getpwuid_r(uid, entry, buffer, size, found) }
        });
        match by_number {
            Ok(Some(user)) => Ok(user),
            Ok(None) => Err(missing()),
            Err(error) => Err(format!("cannot look up the user {text:?}: {error}")),
        }
    }
}

impl User {
    /// Has `command` run as this user. Only root can do that for another one.
    pub fn runs(&self, command: &mut Command) {
        use std::os::unix::process::CommandExt as _;
        command
            .env("HOME", &self.home)
            .env("USER", &self.name)
            .env("LOGNAME", &self.name);
        let Self {
            uid, gid, groups, ..
        } = self.clone();
        // SAFETY: only system calls that may be made between fork and exec.
        unsafe { command.pre_exec(move || become_user(uid, gid, &groups)) };
    }

    /// Whether that is who memtrace runs as, so that nothing has to change.
    #[must_use]
    pub fn is_own(&self) -> bool {
        // SAFETY: only asks for a number.
        self.uid == unsafe { libc::geteuid() }
    }
}

/// Groups first: afterwards nobody may change them.
fn become_user(uid: libc::uid_t, gid: libc::gid_t, groups: &[libc::gid_t]) -> io::Result<()> {
    // SAFETY: system calls on numbers, and on a list that is as long as is said.
    let done = unsafe {
        libc::setgroups(groups.len(), groups.as_ptr()) == 0
            && libc::setgid(gid) == 0
            && libc::setuid(uid) == 0
    };
    if done {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

type Entry = libc::passwd;

/// Asks the user database; `None` when there is no such user.
fn find(
    ask: impl Fn(*mut Entry, *mut libc::c_char, usize, *mut *mut Entry) -> libc::c_int,
) -> io::Result<Option<User>> {
    let (mut size, most) = ENTRY;
    loop {
        let mut buffer: Vec<libc::c_char> = vec![0; size];
        // SAFETY: an entry of zeroes is one of null pointers, which are not followed.
        let mut entry: Entry = unsafe { std::mem::zeroed() };
        let mut found: *mut Entry = std::ptr::null_mut();
        match ask(&raw mut entry, buffer.as_mut_ptr(), size, &raw mut found) {
            0 if found.is_null() => return Ok(None),
            // SAFETY: the entry was filled, and its pointers are into the buffer, which is there.
            0 => return Ok(Some(unsafe { user(&entry) })),
            libc::ERANGE if size < most => size *= 2,
            libc::ENOENT | libc::ESRCH => return Ok(None),
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

/// # Safety
/// The entry's pointers are those of texts, or null.
unsafe fn user(entry: &Entry) -> User {
    let text = |start: *const libc::c_char| {
        if start.is_null() {
            return OsString::new();
        }
        // SAFETY: by the caller, it is a text.
        OsString::from_vec(unsafe { CStr::from_ptr(start) }.to_bytes().to_vec())
    };
    User {
        name: text(entry.pw_name),
        home: text(entry.pw_dir),
        uid: entry.pw_uid,
        gid: entry.pw_gid,
        groups: groups(entry.pw_name, entry.pw_gid),
    }
}

/// The groups of a user; at least the first.
fn groups(name: *const libc::c_char, first: libc::gid_t) -> Vec<libc::gid_t> {
    let mut count: libc::c_int = 64;
    loop {
        let mut groups: Vec<libc::gid_t> = vec![0; count as usize];
        let asked = count;
        // SAFETY: the name is a text, and there is room for as many groups as is said.
        let found = unsafe { libc::getgrouplist(name, first, groups.as_mut_ptr(), &raw mut count) };
        if found >= 0 {
            groups.truncate(count.max(0) as usize);
            return groups;
        }
        if count <= asked || count > MOST_GROUPS {
            return vec![first];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_known_by_name_and_by_number() {
        let root: User = "root".parse().unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert!(root.groups.contains(&0));
        assert_eq!("0".parse::<User>().unwrap(), root);
        let error = "no such user".parse::<User>().unwrap_err();
        assert_eq!(
            error,
            "this machine has no user \"no such user\"; see `getent passwd`"
        );
        assert!("4294967290".parse::<User>().is_err());
        assert!("a\0b".parse::<User>().is_err());
    }

    #[test]
    fn a_command_runs_as_somebody_else() {
        let Ok(nobody) = "nobody".parse::<User>() else {
            crate::skipped::skipped("this machine has no user nobody");
            return;
        };
        // SAFETY: only asks for a number.
        if unsafe { libc::geteuid() } != 0 {
            crate::skipped::skipped("not root");
            return;
        }
        let mut command = Command::new("sh");
        command.args(["-c", "id -un; id -gn; echo $USER $HOME"]);
        nobody.runs(&mut command);
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("nobody"));
        assert!(lines.next().is_some_and(|group| group != "root"), "{text}");
        assert!(
            lines
                .next()
                .is_some_and(|line| line.starts_with("nobody /")),
            "{text}"
        );
    }
}
