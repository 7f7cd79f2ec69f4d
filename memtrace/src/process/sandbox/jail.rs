//! A root directory with nothing in it but the process's own descriptors, and debug files.
//!
//! A path is needed to open a descriptor's file again, as the library that reads debug information
//! does. The directory of a process's descriptors has nothing else in it, so it can be the root; what
//! leads out of it are files that memtrace has sent, none of which is a directory.
//!
//! Debug files that have been made smaller together (by `dwz`) name another file beside them, which
//! the library opens by its path. Where debug files are installed, the root is a file system of its
//! own, that has their directory in it.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount, mount_change,
    move_mount, open_tree,
};
use rustix::process::{chdir, chroot, geteuid};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Where distributions put debug information that they split off.
const DEBUG_DIR: &str = "/usr/lib/debug";

/// The descriptors of whichever process looks.
const OWN: &str = "/proc/self/fd";

/// Enters it. Returns the directory of descriptors in it.
pub(super) fn enter() -> io::Result<&'static Path> {
    if !geteuid().is_root() {
        // Who is not root may do this in a user namespace only, which may not be permitted either.
        leave(UnshareFlags::NEWUSER)?;
    }
    if Path::new(DEBUG_DIR).is_dir() && with_debug_files().is_ok() {
        return Ok(Path::new("/fd"));
    }
    chroot(OWN)?;
    chdir("/")?;
    Ok(Path::new("/"))
}

/// A root with debug files. What it mounts is seen by nobody else, and goes with the process.
fn with_debug_files() -> io::Result<()> {
    leave(UnshareFlags::NEWNS)?;
    let all = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
    mount_change("/", all)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let debug = open_tree(CWD, DEBUG_DIR, flags | OpenTreeFlags::AT_RECURSIVE)?;
    let own = open_tree(CWD, OWN, flags)?;
    let harmless = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("none", DEBUG_DIR, "tmpfs", harmless, c"size=64k,mode=0755")?;
    for (tree, place) in [(debug, DEBUG_DIR), (own, "/fd")] {
        let place = format!("{DEBUG_DIR}{place}");
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&place)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(tree, "", CWD, place.as_str(), flags)?;
    }
    chroot(DEBUG_DIR)?;
    chdir("/")?;
    Ok(())
}

fn leave(what: UnshareFlags) -> io::Result<()> {
    // SAFETY: what is left is a user namespace or one of mounts, never the table of descriptors.
    Ok(unsafe { unshare_unsafe(what) }?)
}
