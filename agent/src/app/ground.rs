//! What must be there before anything is decided: root, directories, one daemon per state
//! directory, cgroup v2.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use crate::effects::cgroup::Layout;

/// Refuses to run without root: namespaces, cgroups and eBPF need it.
pub fn require_root() -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    bail!(
        "longshore needs root (namespaces, cgroups and eBPF): run it with sudo or as a systemd unit"
    )
}

/// Makes a directory that only root can read, and those above it.
pub fn make_private(path: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(|| {
        format!("cannot make {}; give a writable place with --state-dir", path.display())
    })
}

/// Everything below `--state-dir`.
#[derive(Clone, Debug)]
pub struct StateDir {
    pub root: PathBuf,
}

impl StateDir {
    /// Makes the directory, readable for root only.
    pub fn create(root: &Path) -> Result<Self> {
        make_private(root)?;
        let root = root.canonicalize().with_context(|| format!("resolve {}", root.display()))?;
        let state = Self { root };
        make_private(&state.bpffs())?;
        if fs::metadata(&state.root)?.uid() != 0 {
            bail!("{} belongs to another user; it holds what root executes", state.root.display());
        }
        Ok(state)
    }

    pub fn bpffs(&self) -> PathBuf {
        self.root.join("bpf")
    }

    pub fn cni_socket(&self) -> PathBuf {
        self.root.join("cni.sock")
    }

    pub fn ledger(&self) -> PathBuf {
        self.root.join("network.json")
    }

    /// Held for the life of the daemon: two on one state directory would undo each other (F09).
    pub fn lock(&self) -> Result<Flock<fs::File>> {
        let path = self.root.join("lock");
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))?;
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, _)| {
            anyhow::anyhow!(
                "another longshore runs on {}; stop it first, or give this one a --state-dir of \
                 its own",
                self.root.display()
            )
        })
    }
}

/// Whether a `/proc/swaps` text names a swap area; its first line is the head.
pub fn has_swap(swaps: &str) -> bool {
    swaps.lines().skip(1).any(|line| !line.trim().is_empty())
}

/// Where cgroup v2 is mounted, and whether it carries the resource controllers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CgroupV2 {
    pub root: PathBuf,
    pub has_controllers: bool,
}

impl CgroupV2 {
    pub fn find() -> Result<Self> {
        let layout = Layout::read().context("read the mount table")?;
        let v2 = layout.v2().context(
            "cgroup v2 is not mounted: Services need it to see sockets. Mount it \
             (mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified), or boot with systemd's unified or \
             hybrid hierarchy",
        )?;
        let has_controllers = v2.controllers.iter().any(|name| name == "memory");
        Ok(Self { root: v2.root.clone(), has_controllers })
    }

    /// The v2 directory of `--cgroup-root`.
    pub fn directory(&self, cgroup_root: &str) -> PathBuf {
        self.root.join(cgroup_root.trim_start_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a154_swap_is_found() {
        let head = "Filename\tType\tSize\tUsed\tPriority\n";
        assert!(!has_swap("") && !has_swap(head));
        assert!(has_swap(&format!("{head}/swapfile file 1048572 0 -2\n")));
    }
}
