//! What a cluster may leave behind: how it is found, and how it is removed.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::Cluster;
use super::options::{ClusterOptions, MAX_NODES};
use super::state::State;
use crate::cgroup;
use crate::containerd::{self, unmount_below};
use crate::netns::Netns;
use crate::pid::Identity;
use crate::process::{kill_all, processes};

/// Ends and removes a cluster of the same name that a killed run left.
///
/// # Errors
/// Its directory cannot be removed.
pub(super) fn remove(options: &ClusterOptions) -> Result<()> {
    let dir = options.dir();
    // Before the files go: a containerd that was killed before the cluster's own file had it, and a
    // client of a program that was killed, which ends with nobody.
    let places = (1..=MAX_NODES).map(|number| containerd::record(&place(&dir, number)));
    let recorded: Vec<Identity> =
        places.chain([clients(&dir)]).flat_map(|file| Identity::recorded(&file)).collect();
    if let Ok(cluster) = Cluster::attach(&dir) {
        drop(cluster);
    }
    end(&recorded);
    for number in 1..=MAX_NODES {
        // containerd started these, so nobody has their numbers; but they name its socket.
        kill_all(containerd::shims(&place(&dir, number)).into_iter().map(|(pid, _)| pid));
        let root = cgroup_root(options, number);
        if !cgroup::below(&root).is_empty() {
            cgroup::remove(&root);
        }
    }
    for name in namespaces(options) {
        drop(Netns::owned(&name));
    }
    if dir.exists() {
        unmount_below(&dir);
        std::fs::remove_dir_all(&dir)
            .with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    Ok(())
}

/// The file with the kubectls that a program left running.
pub(super) fn clients(dir: &Path) -> PathBuf {
    dir.join("clients")
}

/// A node's containerd.
fn place(dir: &Path, number: usize) -> PathBuf {
    dir.join(format!("n{number}/containerd"))
}

/// Those of them that still run.
pub(super) fn end(recorded: &[Identity]) {
    for process in recorded {
        process.signal(Signal::SIGKILL);
    }
}

/// One line for each thing that is still there.
pub(super) fn find(options: &ClusterOptions, state: &State) -> Vec<String> {
    let dir = options.dir();
    let mut left: Vec<String> = Vec::new();
    left.extend(namespaces(options).into_iter().map(|name| format!("network namespace {name}")));
    // A bpffs is a mount, too.
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let below = |at: &&str| Path::new(at).starts_with(&dir);
    left.extend(
        mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(1))
            .filter(below)
            .map(|at| format!("mount {at}")),
    );
    for number in 1..=MAX_NODES {
        let found = cgroup::below(&cgroup_root(options, number));
        left.extend(found.iter().map(|path| format!("cgroup {}", path.display())));
    }
    let recorded = state.processes().into_iter().filter(|(_, process)| process.alive());
    left.extend(recorded.map(|(role, process)| format!("process {} ({role})", process.pid)));
    let marker = format!("{}/", dir.display());
    let found = processes(|line| line.contains(&marker) && line.contains("containerd"));
    left.extend(found.into_iter().map(|(pid, line)| format!("process {pid} ({line})")));
    if dir.exists() {
        left.push(format!("directory {}", dir.display()));
    }
    left
}

fn cgroup_root(options: &ClusterOptions, number: usize) -> String {
    format!("/{}-n{number}", options.full_name())
}

/// Those of the control plane and of any node that exist.
fn namespaces(options: &ClusterOptions) -> Vec<String> {
    let all = (1..=MAX_NODES).map(|number| format!("n{number}")).chain(["cp".to_owned()]);
    all.map(|part| format!("{}-{part}", options.full_name()))
        .filter(|name| Path::new("/run/netns").join(name).exists())
        .collect()
}

/// Files in places that containerd shares between its instances: shims' sockets, which are not
/// removed when a shim is killed, and libcni's memory of a sandbox that was never deleted.
pub(super) fn remove_runtime_files(place: &Path) {
    let bundles = place.join("state/io.containerd.runtime.v2.task/k8s.io");
    for bundle in std::fs::read_dir(bundles).into_iter().flatten().flatten() {
        for file in ["address", "bootstrap.json"] {
            let text = std::fs::read_to_string(bundle.path().join(file)).unwrap_or_default();
            if let Some(socket) = shim_socket(&text) {
                let _ = std::fs::remove_file(socket);
            }
        }
        let id = bundle.file_name().to_string_lossy().into_owned();
        for result in std::fs::read_dir("/var/lib/cni/results").into_iter().flatten().flatten() {
            if result.file_name().to_string_lossy().contains(&id) {
                let _ = std::fs::remove_file(result.path());
            }
        }
    }
}

/// `unix:///run/containerd/s/0f…` in a shim's address file, of either kind.
fn shim_socket(text: &str) -> Option<&str> {
    let start = text.find("/run/containerd/s/")?;
    let end = text[start..].find(['"', '\n', ' ']).map_or(text.len(), |length| start + length);
    Some(&text[start..end])
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_shims_socket_is_found_in_both_kinds_of_file() {
        for text in [
            "unix:///run/containerd/s/0f1e",
            "{\"version\":3,\"address\":\"unix:///run/containerd/s/0f1e\",\"protocol\":\"ttrpc\"}",
        ] {
            assert_eq!(super::shim_socket(text), Some("/run/containerd/s/0f1e"));
        }
        assert_eq!(super::shim_socket(""), None);
    }
}
