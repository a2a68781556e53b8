//! Mounts that the dataplane needs.

use std::io;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, statfs};

/// Mounts a bpffs on `dir`, which exists, unless one is there: never one over another.
///
/// # Errors
/// `statfs` or `mount` failed.
pub fn mount_bpffs(dir: &Path) -> io::Result<()> {
    if is_bpffs(dir)? {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), dir, Some("bpf"), flags, Some("mode=0700"))?;
    Ok(())
}

/// Takes the bpffs on `dir` away; its objects live on while something else holds them.
///
/// # Errors
/// `umount` failed.
pub fn unmount(dir: &Path) -> io::Result<()> {
    umount2(dir, MntFlags::MNT_DETACH)?;
    Ok(())
}

/// # Errors
/// `statfs` failed.
pub fn is_bpffs(dir: &Path) -> io::Result<bool> {
    Ok(statfs(dir)?.filesystem_type() == BPF_FS_MAGIC)
}

/// # Errors
/// `statfs` failed.
pub fn is_cgroup2(dir: &Path) -> io::Result<bool> {
    Ok(statfs(dir)?.filesystem_type() == CGROUP2_SUPER_MAGIC)
}
