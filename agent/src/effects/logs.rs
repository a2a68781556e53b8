//! A pod's log directory (A206): made with its volumes, removed with the pod.
//!
//! Deliberately absent: rotation and reading.

use std::io;
use std::path::Path;

use crate::sys::dir::Dir;

/// Removes `<pod_logs_dir>/<namespace>_<name>_<uid>` and its files, following no link.
///
/// # Errors
/// `directory` is not below `pod_logs_dir`, or the file system refuses.
pub fn remove(pod_logs_dir: &Path, directory: &Path) -> io::Result<()> {
    let name = directory
        .strip_prefix(pod_logs_dir)
        .ok()
        .filter(|name| name.components().count() == 1)
        .and_then(|name| name.components().next())
        .ok_or_else(|| {
            io::Error::other(format!(
                "{} is not a pod's directory below {}",
                directory.display(),
                pod_logs_dir.display()
            ))
        })?;
    match Dir::open(pod_logs_dir) {
        Ok(dir) => dir.remove_tree(name.as_os_str()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a206_only_a_pod_directory_below_the_log_root_is_removed() {
        let root = std::env::temp_dir().join(format!("longshore-logs-{}", std::process::id()));
        let pod = root.join("ns_pod_uid");
        std::fs::create_dir_all(pod.join("app")).unwrap();
        std::fs::write(pod.join("app/0.log"), "x").unwrap();
        for bad in [root.clone(), root.join(".."), root.join("a/b"), "/etc".into()] {
            assert!(remove(&root, &bad).is_err(), "{}", bad.display());
        }
        remove(&root, &pod).unwrap();
        remove(&root, &pod).unwrap();
        assert!(!pod.exists() && root.exists());
        std::fs::remove_dir_all(&root).unwrap();
    }
}
