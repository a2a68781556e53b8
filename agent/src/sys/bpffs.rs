//! The mount that pins live in, and what kind a mount is.

use std::io;
use std::path::Path;

use nix::mount::{MsFlags, mount};
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
