//! Being nobody, who may do nothing.

use std::io;

use rustix::io::Errno;
use rustix::process::{Gid, Uid, geteuid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

/// The user and the group that own nothing.
const NOBODY: u32 = 65534;

/// Becomes nobody, if this is root. Capabilities that cannot be had again must go first.
pub(super) fn become_nobody() -> io::Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    if capabilities(None)?
        .effective
        .contains(CapabilitySet::SETPCAP)
    {
        forget_capabilities()?;
    }
    set_thread_groups(&[])?;
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    set_thread_res_gid(group, group, group)?;
    Ok(set_thread_res_uid(user, user, user)?)
}

/// Empties the set of capabilities that a program may ever get.
fn forget_capabilities() -> io::Result<()> {
    for number in 0..u64::BITS {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            // There are fewer.
            Err(Errno::INVAL) => break,
            done => done?,
        }
    }
    Ok(())
}

/// Gives up every capability that this process has. It runs no other program, and after it has said
/// that it wants no new privileges it could not get any by that.
pub(super) fn drop_capabilities() -> io::Result<()> {
    clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets {
        effective: none,
        permitted: none,
        inheritable: none,
    };
    Ok(set_capabilities(None, sets)?)
}
