//! Pod and QoS cgroups (A146, A147), with the back-end chosen per controller: v1 or v2.
//!
//! Works only below the daemon's cgroup root; what it writes elsewhere is the delegation of v2
//! controllers down to it. Deliberately absent: containers' own cgroups (the runtime makes them)
//! and systemd slices.

mod hierarchy;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

use longshore_core::pod::action::CgroupPlan;

pub use hierarchy::{Hierarchy, Layout, Version};

/// What went wrong, with what to do.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("cgroup {path} is not below {root}: this is an error of Longshore, please report it")]
    Outside { path: String, root: String },
    #[error(
        "{path}: systemd slices cannot be made yet; set cgroupDriver: cgroupfs here and \
         SystemdCgroup = false in the runtime"
    )]
    Systemd { path: String },
    #[error("{}: {source}{}", path.display(), advice(source))]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: {text}", path.display())]
    Write { path: PathBuf, text: String },
    #[error("processes {pids:?} in {} do not end", path.display())]
    Busy { path: PathBuf, pids: Vec<i32> },
    #[error("no cgroup file system is mounted at {0}; mount cgroup2 there")]
    None(PathBuf),
}

fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(nix::errno::Errno::from_raw) {
        Some(nix::errno::Errno::EROFS) => "; cgroups are mounted read-only here",
        Some(nix::errno::Errno::EBUSY) => {
            "; a cgroup v2 with processes cannot have controllers below"
        }
        Some(nix::errno::Errno::ENOSPC) => "; too many cgroups (cgroup.max.descendants)",
        Some(nix::errno::Errno::EACCES | nix::errno::Errno::EPERM) => "; run as root",
        _ => "",
    }
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.to_owned();
    move |source| CgroupError::Io { path, source }
}

/// What the executor needs of cgroups; the tests of workers have a fake one.
pub trait Cgroups: Send + Sync {
    /// Makes the pod's cgroup and its QoS parents, with their values. Writes only what differs.
    ///
    /// # Errors
    /// See [`CgroupError`].
    fn ensure(&self, plan: &CgroupPlan) -> Result<(), CgroupError>;

    /// Kills what is left inside the pod's cgroup, then removes it everywhere.
    ///
    /// # Errors
    /// See [`CgroupError`].
    fn remove(&self, plan: &CgroupPlan) -> Result<(), CgroupError>;

    /// The pod's cgroup exists in any hierarchy.
    fn exists(&self, plan: &CgroupPlan) -> bool;

    /// Pod cgroups that exist, as paths like [`CgroupPlan::path`]: orphans are among them (A37).
    fn pods(&self) -> Vec<String>;
}

/// Facts for [`longshore_core::model::NodeView`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeFacts {
    /// All controllers that pods need are on v2.
    pub cgroup_v2: bool,
    pub cpu: Option<Version>,
    pub memory: Option<Version>,
    pub pids: Option<Version>,
    pub cpuset: Option<Version>,
    /// Root of the v2 tree, for cgroup-BPF.
    pub v2_root: Option<PathBuf>,
}

/// The kernel's cgroups below one root.
pub struct KernelCgroups {
    layout: Layout,
    /// `/longshore-demo`; `/` is the machine's root.
    root: String,
    /// `/longshore-demo/kubepods`.
    kubepods: String,
    /// Of all pods together (A150); `None`: they are only removed.
    all_pods: Option<CgroupPlan>,
}

impl KernelCgroups {
    /// Finds the hierarchies of the machine. `kubepods` is `NodeView::kubepods_cgroup`, below
    /// `root` (`--cgroup-root`).
    ///
    /// # Errors
    /// Cgroups are not mounted, or the paths are not as said.
    pub fn new(root: &str, kubepods: &str) -> Result<Self, CgroupError> {
        let layout = Layout::read().map_err(io_at(Path::new("/proc/self/mountinfo")))?;
        if layout.hierarchies.is_empty() {
            return Err(CgroupError::None("/sys/fs/cgroup".into()));
        }
        let this = Self {
            layout,
            root: format!("/{}", root.trim_matches('/')),
            kubepods: kubepods.trim_end_matches('/').to_owned(),
            all_pods: None,
        };
        this.check(&format!("{}/x", this.kubepods))?;
        Ok(this)
    }

    /// With what all pods may use together.
    #[must_use]
    pub fn with_all_pods(self, plan: CgroupPlan) -> Self {
        Self { all_pods: Some(plan), ..self }
    }

    pub fn node_facts(&self) -> NodeFacts {
        let version = |name| self.layout.controller(name).map(|hierarchy| hierarchy.version);
        let [cpu, memory, pids, cpuset] = ["cpu", "memory", "pids", "cpuset"].map(version);
        NodeFacts {
            cgroup_v2: cpu == Some(Version::V2) && memory == Some(Version::V2),
            cpu,
            memory,
            pids,
            cpuset,
            v2_root: self.layout.v2().map(|hierarchy| hierarchy.root.clone()),
        }
    }

    /// Refuses every path that is not strictly below the root and below kubepods.
    fn check<'a>(&self, path: &'a str) -> Result<&'a str, CgroupError> {
        let root = self.root.trim_end_matches('/');
        let inside = path.strip_prefix(&self.kubepods).and_then(|rest| rest.strip_prefix('/'));
        let plain = |rest: &str| {
            !rest.is_empty() && rest.split('/').all(|part| !matches!(part, "" | "." | ".."))
        };
        let below_root = self.kubepods.strip_prefix(root).is_some_and(|r| r.starts_with('/'));
        if !below_root || !inside.is_some_and(plain) || self.kubepods.contains("..") {
            return Err(CgroupError::Outside { path: path.into(), root: self.root.clone() });
        }
        if path.contains(".slice") {
            return Err(CgroupError::Systemd { path: path.into() });
        }
        Ok(path)
    }

    /// Makes kubepods and its QoS levels, as the kubelet does at its start: they stay while the
    /// daemon's pods come and go (A146).
    ///
    /// # Errors
    /// See [`CgroupError`].
    pub fn ensure_levels(&self) -> Result<(), CgroupError> {
        for qos in ["burstable", "besteffort"] {
            let levels = self.levels(&format!("{}/{qos}", self.kubepods));
            for hierarchy in &self.layout.hierarchies {
                hierarchy.make(&levels)?;
            }
        }
        Ok(())
    }

    /// Limits all pods together (A150). Writes only what differs.
    ///
    /// # Errors
    /// See [`CgroupError`]; on cgroup v1 also that they already use more.
    pub fn limit_all_pods(&self) -> Result<(), CgroupError> {
        self.ensure_levels()?;
        let Some(plan) = &self.all_pods else { return Ok(()) };
        if let Some(cpu) = self.layout.controller("cpu") {
            cpu.set_cpu_shares(&self.kubepods, plan.cpu_shares)?;
        }
        if let Some(memory) = self.layout.controller("memory") {
            memory.set_memory_max(&self.kubepods, plan.memory_bytes)?;
        }
        if let Some(pids) = self.layout.controller("pids") {
            pids.set_pids_max(&self.kubepods, plan.pids)?;
        }
        Ok(())
    }

    /// Removes the cgroups of the pods `uids`, and then the levels above them where nothing else is
    /// left: another agent of the machine may use the same kubepods. For `longshore cleanup`.
    ///
    /// # Errors
    /// See [`CgroupError`].
    pub fn remove_pods(&self, uids: &[String]) -> Result<(), CgroupError> {
        let own = |path: &str| {
            path.rsplit('/').next().is_some_and(|name| {
                name.strip_prefix("pod").is_some_and(|uid| uids.iter().any(|own| own == uid))
            })
        };
        for path in self.pods().into_iter().filter(|path| own(path)) {
            self.remove(&CgroupPlan { path, ..CgroupPlan::default() })?;
        }
        let kubepods = &self.kubepods;
        for level in
            [format!("{kubepods}/burstable"), format!("{kubepods}/besteffort"), kubepods.clone()]
        {
            for hierarchy in &self.layout.hierarchies {
                // Not empty or not there: not ours to remove, or removed already.
                let _ = std::fs::remove_dir(hierarchy.at(&level));
            }
        }
        Ok(())
    }

    /// Levels from the root's child down to the pod.
    fn levels(&self, path: &str) -> Vec<String> {
        let below = path.strip_prefix(self.root.trim_end_matches('/')).unwrap_or(path);
        let mut at = self.root.trim_end_matches('/').to_owned();
        let parts = below.split('/').filter(|part| !part.is_empty());
        let levels: Vec<String> = parts
            .map(|part| {
                at = format!("{at}/{part}");
                at.clone()
            })
            .collect();
        // The root itself is made where it is missing; its values are its owner's.
        if self.root == "/" { levels } else { [vec![self.root.clone()], levels].concat() }
    }

    /// Values of the QoS levels: besteffort has the least weight, burstable what its pods ask for
    /// together, kubepods the node (A147).
    fn set_qos(&self, path: &str) -> Result<(), CgroupError> {
        let Some(cpu) = self.layout.controller("cpu") else { return Ok(()) };
        if let Some(all) = &self.all_pods {
            cpu.set_cpu_shares(&self.kubepods, all.cpu_shares)?;
        }
        let Some((qos, _)) = path.rsplit_once('/') else { return Ok(()) };
        match qos.strip_prefix(&self.kubepods) {
            Some("/besteffort") => cpu.set_cpu_shares(qos, 2),
            Some("/burstable") => {
                let asked: u64 = cpu.children(qos).iter().map(|pod| cpu.cpu_shares(pod)).sum();
                cpu.set_cpu_shares(qos, asked.clamp(2, 262_144))
            }
            _ => Ok(()),
        }
    }
}

impl Cgroups for KernelCgroups {
    fn ensure(&self, plan: &CgroupPlan) -> Result<(), CgroupError> {
        let path = self.check(&plan.path)?;
        let levels = self.levels(path);
        for hierarchy in &self.layout.hierarchies {
            hierarchy.make(&levels)?;
        }
        if let Some(cpu) = self.layout.controller("cpu") {
            cpu.set_cpu_shares(path, plan.cpu_shares)?;
            cpu.set_cpu_quota(path, plan.cpu_quota_us, plan.cpu_period_us)?;
        }
        if let Some(memory) = self.layout.controller("memory") {
            memory.set_memory_max(path, plan.memory_bytes)?;
        }
        if let Some(pids) = self.layout.controller("pids") {
            pids.set_pids_max(path, plan.pids)?;
        }
        self.set_qos(path)
    }

    fn remove(&self, plan: &CgroupPlan) -> Result<(), CgroupError> {
        let path = self.check(&plan.path)?;
        // A pod's own directory and nothing above it: `remove` of a QoS level would kill its pods.
        let own = path.rsplit('/').next().is_some_and(|name| name.starts_with("pod"));
        if !own {
            return Err(CgroupError::Outside { path: path.into(), root: self.root.clone() });
        }
        // Of an orphan nobody knows the QoS class: its UID finds it on every level.
        let name = path.rsplit('/').next().unwrap_or_default().to_owned();
        let mut paths: Vec<String> = self.pods();
        paths.retain(|found| found.rsplit('/').next() == Some(name.as_str()));
        for path in &paths {
            for hierarchy in &self.layout.hierarchies {
                hierarchy.kill(path)?;
            }
            for hierarchy in &self.layout.hierarchies {
                hierarchy.remove(path)?;
            }
            self.set_qos(path)?;
        }
        Ok(())
    }

    fn exists(&self, plan: &CgroupPlan) -> bool {
        self.layout.hierarchies.iter().any(|hierarchy| hierarchy.at(&plan.path).exists())
    }

    fn pods(&self) -> Vec<String> {
        let kubepods = &self.kubepods;
        let levels =
            [kubepods.clone(), format!("{kubepods}/burstable"), format!("{kubepods}/besteffort")];
        let mut found: Vec<String> = self
            .layout
            .hierarchies
            .iter()
            .flat_map(|hierarchy| levels.iter().flat_map(|level| hierarchy.children(level)))
            .filter(|path| path.rsplit('/').next().is_some_and(|name| name.starts_with("pod")))
            .collect();
        found.sort();
        found.dedup();
        found
    }
}
