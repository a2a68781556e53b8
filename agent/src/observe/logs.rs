//! Opens a container's log (A206), whose directory a pod may have in its hands: beneath the log
//! root, through no link, and only a regular file (CVE row 21).
//!
//! Deliberately absent: what stands in it.

use std::fs::File;
use std::io;
use std::path::{Component, Path};

use crate::sys::dir::Dir;

/// Opens `<root>/<path>` for reading.
///
/// # Errors
/// It is missing, no regular file, or a link is on the way.
pub fn open(root: &Path, path: &Path) -> io::Result<File> {
    if !path.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(io::Error::other(format!("{} is not below the log root", path.display())));
    }
    Dir::open(root)?.file(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a206_a_log_is_never_opened_through_a_link_or_a_device() {
        let root = std::env::temp_dir().join(format!("longshore-open-log-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        std::fs::create_dir_all(root.join("pod/app")).unwrap();
        std::fs::write(root.join("pod/app/0.log"), "x").unwrap();
        symlink("0.log", root.join("pod/app/link")).unwrap();
        symlink("/etc", root.join("pod/etc")).unwrap();
        nix::unistd::mkfifo(&root.join("pod/app/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(open(&root, Path::new("pod/app/0.log")).is_ok());
        for bad in
            ["pod/app/link", "pod/etc/hostname", "pod/app/fifo", "pod/app", "../etc/hostname"]
        {
            assert!(open(&root, Path::new(bad)).is_err(), "{bad}");
        }
        assert!(open(&root, Path::new("/etc/hostname")).is_err());
        std::fs::remove_dir_all(&root).unwrap();
    }
}
