//! What runs below a cgroup root, counted by the kernel and not by a runtime's list.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::process::kill_all;

/// The mount points of all cgroup hierarchies: v2, and the controllers of v1.
pub fn hierarchies() -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let at = words.next()?;
            matches!(words.next()?, "cgroup" | "cgroup2").then(|| PathBuf::from(at))
        })
        .collect()
}

/// The v2 hierarchy, where the kernel's socket hooks attach.
pub fn v2() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let at = words.next()?;
        (words.next()? == "cgroup2").then(|| PathBuf::from(at))
    })
}

/// Every cgroup directory below `root` (`/demo`) in every hierarchy, deepest first.
pub fn below(root: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for hierarchy in hierarchies() {
        walk(&hierarchy.join(root.trim_start_matches('/')), &mut found);
    }
    found
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), found);
        }
    }
    found.push(dir.to_owned());
}

/// Makes `root` in every hierarchy, as whoever sets a node up does for a kubelet with a `cgroupRoot`.
///
/// # Errors
/// No root.
pub fn make(root: &str) -> std::io::Result<()> {
    for hierarchy in hierarchies() {
        let dir = hierarchy.join(root.trim_start_matches('/'));
        std::fs::create_dir_all(&dir)?;
        // In v1 a cpuset has no processors at first, and takes no process.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let Ok(value) = std::fs::read_to_string(dir.join(file)) else { continue };
            let unified = dir.join("cgroup.controllers").exists();
            if value.trim().is_empty() && !unified {
                std::fs::write(dir.join(file), std::fs::read(hierarchy.join(file))?)?;
            }
        }
    }
    Ok(())
}

/// Processes below `root`: pid → its innermost cgroup path there (the longest over hierarchies).
pub fn processes(root: &str) -> BTreeMap<i32, PathBuf> {
    let mut found: BTreeMap<i32, PathBuf> = BTreeMap::new();
    for dir in below(root) {
        let procs = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        for pid in procs.lines().filter_map(|line| line.parse().ok()) {
            let longer = found
                .get(&pid)
                .is_none_or(|known| known.components().count() < dir.components().count());
            if longer {
                found.insert(pid, dir.clone());
            }
        }
    }
    found
}

/// Live containers below `root`: the leaf cgroup's name (the container's id) → the command line of
/// its first process. Two leaves of one pod with the same command line are a duplicate (I2).
pub fn containers(root: &str) -> BTreeMap<String, LiveContainer> {
    let mut found: BTreeMap<String, LiveContainer> = BTreeMap::new();
    for (pid, dir) in processes(root) {
        let name = |path: Option<&Path>| {
            path.and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned()
        };
        let id = name(Some(&dir));
        let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&bytes).replace('\0', " ").trim_end().to_owned();
        // Pids come in order, so the first one of a container is its init unless pids wrapped.
        found.entry(id).or_insert(LiveContainer { pod: name(dir.parent()), pid, command });
    }
    found
}

/// A container as the kernel sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LiveContainer {
    /// The pod cgroup's name: `pod<uid>`.
    pub pod: String,
    pub pid: i32,
    pub command: String,
}

/// Kills what runs below `root` and removes its directories: the end of a lab, never of a test.
pub fn remove(root: &str) {
    for _ in 0..50 {
        let running = processes(root);
        if running.is_empty() {
            break;
        }
        kill_all(running.into_keys());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    for dir in below(root) {
        let _ = std::fs::remove_dir(dir);
    }
}
