//! Where things of a pod are on the node, and the only place where a name becomes a path.
//!
//! Deliberately absent: `..`, separators and anything that a name may not contain (CVE row 22):
//! such a name has no path.

use crate::model::{NodeView, ObjectKey, PodUid};

/// `name` can be one element of a path: letters, digits, `-`, `_`, `.`, not `.` or `..`, at most
/// 253 bytes.
pub fn is_path_name(name: &str) -> bool {
    (1..=253).contains(&name.len())
        && name != "."
        && name != ".."
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// `<pods_dir>/<uid>`.
pub fn pod_dir(node: &NodeView, uid: &PodUid) -> String {
    format!("{}/{uid}", node.pods_dir)
}

/// `<pod_dir>/volumes/kubernetes.io~<kind>/<name>`; for a hostPath its own path.
pub fn volume(pod_dir: &str, kind: &str, name: &str) -> String {
    format!("{pod_dir}/volumes/kubernetes.io~{kind}/{name}")
}

/// Below the pod's directory.
pub const HOSTS_FILE: &str = "etc-hosts";

/// Below the pod's directory: `containers/<container>/termination-<attempt>` (A71).
pub fn termination_file(container: &str, attempt: u32) -> String {
    format!("containers/{container}/termination-{attempt}")
}

/// `<pod_logs_dir>/<namespace>_<name>_<uid>` (A206).
pub fn log_dir(node: &NodeView, key: &ObjectKey, uid: &PodUid) -> String {
    format!("{}/{}_{}_{uid}", node.pod_logs_dir, key.namespace, key.name)
}

/// `<container>/<attempt>.log`, below the log directory (A206).
pub fn log_path(container: &str, attempt: u32) -> String {
    format!("{container}/{attempt}.log")
}

/// `<state-dir>/seccomp/<profile>` (A134); `None` for a path that leaves the directory.
pub fn seccomp_profile(node: &NodeView, profile: &str) -> Option<String> {
    let inside = !profile.is_empty() && profile.split('/').all(is_path_name);
    let state_dir = node.pods_dir.rsplit_once('/').map_or("", |(parent, _)| parent);
    inside.then(|| format!("{state_dir}/seccomp/{profile}"))
}

/// Every name of the pod that becomes part of a path can be one.
pub fn check(key: &ObjectKey, uid: &PodUid) -> Result<(), String> {
    for (what, name) in
        [("namespace", &*key.namespace), ("name", &*key.name), ("uid", uid.as_str())]
    {
        if !is_path_name(name) {
            return Err(format!(
                "metadata.{what} {name:?} cannot be part of a path: use letters, digits, '-', '_' and '.'"
            ));
        }
    }
    Ok(())
}

/// `container_path` of a mount is absolute and has no `..`.
pub fn is_mount_path(path: &str) -> bool {
    !path.is_empty()
        && !path.contains(['\0', '\n'])
        && !path.contains(':')
        && path.split('/').all(|part| part != "..")
}

/// A path of a file inside a volume (`items[].path`): relative, no `..`, not starting with `..`.
pub fn is_item_path(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= 4096
        && !path.starts_with('/')
        && !path.starts_with("..")
        && !path.contains('\0')
        && path.split('/').all(|part| !matches!(part, "" | "." | "..") && part.len() <= 255)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cve22_a_name_that_is_not_one_path_element_has_no_path() {
        for name in ["", ".", "..", "a/b", "../x", "a\0b", "a\nb", "a b", "\u{202e}x", "é"] {
            assert!(!is_path_name(name), "{name:?}");
        }
        assert!(!is_path_name(&"a".repeat(254)));
        for name in ["web", "web-0.x", "A_b", "...", &"a".repeat(253)] {
            assert!(is_path_name(name), "{name:?}");
        }
        assert!(check(&ObjectKey::new("default", "a/../b"), &PodUid::new("u")).is_err());
    }

    #[test]
    fn a103_item_paths_stay_inside_the_volume() {
        for path in ["", "/a", "../a", "a/../b", "..data", "a//b", "a/", "./a"] {
            assert!(!is_item_path(path), "{path:?}");
        }
        for path in ["a", "a/b.txt", ".hidden", "a/..b"] {
            assert!(is_item_path(path), "{path:?}");
        }
    }
}
