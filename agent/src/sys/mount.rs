//! Mounts that the daemon makes for volumes, and what is mounted where.
//!
//! Deliberately absent: mounts of containers; the runtime makes them.

use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// One line of `/proc/self/mountinfo`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mount {
    /// Where, octal escapes undone.
    pub at: PathBuf,
    pub fs_type: String,
    /// Options of the superblock (`rw,memory`).
    pub options: String,
}

/// All mounts of this mount namespace, in the order in which they were made.
///
/// # Errors
/// `/proc` is not readable.
pub fn mounts() -> io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read_to_string("/proc/self/mountinfo")?))
}

/// The mounts of a mountinfo text; a line that is none is left out.
pub fn parse(text: &str) -> Vec<Mount> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Mount> {
    let (head, tail) = line.split_once(" - ")?;
    let at = head.split(' ').nth(4)?;
    let mut tail = tail.split(' ');
    let fs_type = tail.next()?.to_owned();
    let options = tail.nth(1).unwrap_or_default().to_owned();
    Some(Mount { at: PathBuf::from(unescape(at)), fs_type, options })
}

/// `\040` and its like, as the kernel writes blanks in paths.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes.get(at + 1..at + 4).and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        match octal {
            Some(byte) if bytes[at] == b'\\' => {
                out.push(byte);
                at += 4;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Mounts a tmpfs at `at`: nosuid and nodev, root directory with `mode`.
///
/// # Errors
/// The kernel refuses.
pub fn tmpfs(at: &Path, size_bytes: Option<i64>, mode: u32, noswap: bool) -> io::Result<()> {
    let mut options = format!("mode={mode:o}");
    if let Some(size) = size_bytes {
        options.push_str(&format!(",size={size}"));
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let kind = Some("tmpfs");
    if noswap {
        let options = format!("{options},noswap");
        match mount(kind, at, kind, flags, Some(options.as_str())) {
            // Kernels before 6.4 do not know the option: secrets may then be swapped, as the
            // kubelet's may.
            Err(nix::errno::Errno::EINVAL) => {}
            result => return Ok(result?),
        }
    }
    Ok(mount(kind, at, kind, flags, Some(options.as_str()))?)
}

/// Unmounts `at`, without following a link there. `lazy`: also while somebody uses it; only after
/// the pod's containers are gone.
///
/// # Errors
/// It is busy, or the kernel refuses. "Not a mount point" is success.
pub fn unmount(at: &Path, lazy: bool) -> io::Result<()> {
    let mut flags = MntFlags::UMOUNT_NOFOLLOW;
    if lazy {
        flags |= MntFlags::MNT_DETACH;
    }
    match umount2(at, flags) {
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Mount points at or below `path`, deepest first.
///
/// # Errors
/// `/proc` is not readable.
pub fn below(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found: Vec<_> =
        mounts()?.into_iter().map(|mount| mount.at).filter(|at| at.starts_with(path)).collect();
    found.reverse();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_is_read_with_its_escapes() {
        let text = "\
36 35 98:0 / /a\\040b rw,noatime master:1 shared:2 - tmpfs none rw,size=64k
31 23 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
broken";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].at, Path::new("/a b"));
        assert_eq!(
            (mounts[1].fs_type.as_str(), mounts[1].options.as_str()),
            ("cgroup", "rw,memory")
        );
    }
}
