//! Where things of a pod are on the node, and the only place where a name becomes a path.
//!
//! Deliberately absent: `..`, separators and anything that a name may not contain (CVE row 22):
//! such a name has no path.

use std::collections::BTreeMap;

use crate::model::{ContainerState, NodeView, ObjectKey, ObservedContainer, PodUid};

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

/// Where the links to logs are: `containers` beside `podLogsDir`, so `/var/log/containers` by
/// default (A206).
pub fn log_links_dir(pod_logs_dir: &str) -> String {
    let parent = pod_logs_dir.trim_end_matches('/').rsplit_once('/').map_or("", |(dir, _)| dir);
    format!("{parent}/containers")
}

/// The links that the pod's containers should have, and where they point (A206):
/// `<pod>_<namespace>_<container>-<id>.log`, cut to a file name's 255 bytes. A container that was
/// never started has no log yet.
pub fn log_links(
    node: &NodeView,
    key: &ObjectKey,
    uid: &PodUid,
    containers: &[ObservedContainer],
) -> BTreeMap<String, String> {
    const ENDING: &str = ".log";
    let directory = log_dir(node, key, uid);
    let started = containers.iter().filter(|c| c.state != ContainerState::Created);
    let named = started.filter(|c| is_path_name(&c.name) && is_path_name(&c.id));
    named
        .map(|c| {
            let mut name = format!("{}_{}_{}-{}", key.name, key.namespace, c.name, c.id);
            // All of it is ASCII: every name was checked.
            name.truncate(255 - ENDING.len());
            name.push_str(ENDING);
            (name, format!("{directory}/{}", log_path(&c.name, c.attempt)))
        })
        .collect()
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
    fn a206_links_name_pod_namespace_container_and_id() {
        assert_eq!(log_links_dir("/var/log/pods"), "/var/log/containers");
        assert_eq!(log_links_dir("/state/logs/"), "/state/containers");
        let container = |id: &str, attempt, state| ObservedContainer {
            user: None,
            id: id.into(),
            name: "app".into(),
            sandbox_id: "s".into(),
            attempt,
            state,
            created_at: crate::model::Time(0),
            image: String::new(),
            image_ref: String::new(),
            hash: String::new(),
            termination_message: String::new(),
            grace_s: None,
        };
        let running = ContainerState::Running { started_at: crate::model::Time(0) };
        let all = [
            container("c1", 0, ContainerState::Unknown),
            container("c2", 1, running.clone()),
            container("c3", 2, ContainerState::Created),
            container("../c4", 3, running.clone()),
        ];
        let (node, uid) = (crate::pod::testing::node(), PodUid::new("u"));
        let links = log_links(&node, &ObjectKey::new("ns", "web"), &uid, &all);
        let want = [
            ("web_ns_app-c1.log", "/var/log/pods/ns_web_u/app/0.log"),
            ("web_ns_app-c2.log", "/var/log/pods/ns_web_u/app/1.log"),
        ];
        assert_eq!(links, want.map(|(name, to)| (name.to_owned(), to.to_owned())).into());
        let long = ObjectKey::new("ns", "w".repeat(253));
        let links = log_links(&node, &long, &uid, &[container("c1", 0, running)]);
        let name = links.keys().next().unwrap();
        assert!(name.len() == 255 && name.ends_with(".log"), "{name}");
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
