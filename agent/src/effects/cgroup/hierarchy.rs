//! One mounted hierarchy: a v1 controller (or a few), or the v2 tree.
//!
//! cgroups-rs writes the values. Directories, delegation of v2 controllers, kill and removal are
//! plain file calls: its own detection knows one layout per machine (all v1 or all v2), panics on
//! paths that are not UTF-8, and unwraps in `copy_from_parent`; here a machine may have both.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cgroups_rs::fs::MaxValue;
use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::error::Error;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{CgroupError, io_at};
use crate::sys::mount::{Mount, mounts};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    V1,
    V2,
}

/// Controllers that pods use; the others of a v2 tree are left as they are.
const DELEGATED: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];
/// Rounds of SIGKILL before a cgroup is called busy, and the pause between them.
const KILL_ROUNDS: u32 = 50;
const KILL_PAUSE: Duration = Duration::from_millis(20);

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hierarchy {
    pub version: Version,
    /// Where it is mounted.
    pub root: PathBuf,
    /// v1: of the mount; v2: `cgroup.controllers` of its root.
    pub controllers: Vec<String>,
}

/// Everything that is mounted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    pub hierarchies: Vec<Hierarchy>,
}

impl Layout {
    pub fn read() -> io::Result<Self> {
        Ok(Self::from_mounts(&mounts()?))
    }

    pub(super) fn from_mounts(mounts: &[Mount]) -> Self {
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        for mount in mounts {
            let hierarchy = match mount.fs_type.as_str() {
                "cgroup" => Hierarchy {
                    version: Version::V1,
                    root: mount.at.clone(),
                    controllers: v1_controllers(&mount.options),
                },
                "cgroup2" => Hierarchy {
                    version: Version::V2,
                    root: mount.at.clone(),
                    controllers: words(&mount.at.join("cgroup.controllers")),
                },
                _ => continue,
            };
            // Bind mounts show the same hierarchy again (containers, chroots): the first counts.
            let known = hierarchies.iter().any(|other| {
                other.version == hierarchy.version
                    && (hierarchy.version == Version::V2
                        || other.controllers == hierarchy.controllers)
            });
            if !known {
                hierarchies.push(hierarchy);
            }
        }
        Self { hierarchies }
    }

    /// The hierarchy that has `controller`.
    pub fn controller(&self, controller: &str) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|h| h.controllers.iter().any(|name| name == controller))
    }

    pub fn v2(&self) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|hierarchy| hierarchy.version == Version::V2)
    }
}

/// Of a superblock's options: everything that is not a flag of the mount.
fn v1_controllers(options: &str) -> Vec<String> {
    let flags = ["rw", "ro", "noprefix", "xattr", "clone_children", "cpuset_v2_mode", "none"];
    let mut names: Vec<String> = options
        .split(',')
        .filter(|name| !flags.contains(name) && !name.starts_with("release_agent="))
        .map(str::to_owned)
        .collect();
    names.sort();
    names
}

fn words(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

impl Hierarchy {
    /// The directory of a cgroup path.
    pub fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }

    /// Makes each level, and what a new level needs before processes can be in it.
    pub fn make(&self, levels: &[String]) -> Result<(), CgroupError> {
        if self.version == Version::V2
            && let Some((_, parents)) = levels.split_last()
        {
            self.delegate(Path::new("/"))?;
            for parent in parents {
                self.make_one(parent)?;
                self.delegate(Path::new(parent))?;
            }
        }
        for level in levels {
            self.make_one(level)?;
            if self.version == Version::V1 && self.has("cpuset") {
                self.fill_cpuset(level)?;
            }
        }
        Ok(())
    }

    fn make_one(&self, level: &str) -> Result<(), CgroupError> {
        let path = self.at(level);
        match std::fs::create_dir(&path) {
            // A --cgroup-root of several parts.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                std::fs::create_dir_all(&path).map_err(io_at(&path))
            }
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(io_at(&path)(error)),
            _ => Ok(()),
        }
    }

    /// A new cpuset of v1 is empty, and no process can enter it until it has CPUs and memory nodes.
    fn fill_cpuset(&self, level: &str) -> Result<(), CgroupError> {
        let at = self.at(level);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let missing: Vec<&Path> = at
                .ancestors()
                .take_while(|dir| dir.starts_with(&self.root))
                .take_while(|dir| words(&dir.join(file)).is_empty())
                .collect();
            for dir in missing.into_iter().rev() {
                let Some(parent) = dir.parent() else { continue };
                let value = words(&parent.join(file)).concat();
                write(&dir.join(file), &value)?;
            }
        }
        Ok(())
    }

    /// Lets the children of `level` have the controllers that pods use.
    fn delegate(&self, level: &Path) -> Result<(), CgroupError> {
        let dir = self.at(&level.to_string_lossy());
        let available = words(&dir.join("cgroup.controllers"));
        let file = dir.join("cgroup.subtree_control");
        let given = words(&file);
        for name in DELEGATED {
            let has = |list: &[String]| list.iter().any(|word| word == name);
            if has(&available) && !has(&given) {
                write(&file, &format!("+{name}"))?;
            }
        }
        Ok(())
    }

    /// CPU shares in v1's unit (1024 = one CPU), 0 where there is none.
    pub fn cpu_shares(&self, path: &str) -> u64 {
        let value = self.cpu(path).shares().unwrap_or(0);
        if self.version == Version::V2 { shares_of_weight(value) } else { value }
    }

    pub fn set_cpu_shares(&self, path: &str, shares: u64) -> Result<(), CgroupError> {
        let cpu = self.cpu(path);
        let value = if self.version == Version::V2 { weight_of_shares(shares) } else { shares };
        if cpu.shares().ok() == Some(value) || shares == 0 {
            return Ok(());
        }
        cpu.set_shares(value).map_err(|error| self.failed(path, &error))
    }

    pub fn set_cpu_quota(
        &self,
        path: &str,
        quota_us: Option<i64>,
        period_us: u64,
    ) -> Result<(), CgroupError> {
        let cpu = self.cpu(path);
        let quota = quota_us.unwrap_or(-1);
        let period = if period_us == 0 { 100_000 } else { period_us };
        let same =
            cpu.cfs_quota().ok().map(|now| if now < 0 || now == i64::MAX { -1 } else { now })
                == Some(quota)
                && cpu.cfs_period().ok() == Some(period);
        if same {
            return Ok(());
        }
        let result = if self.version == Version::V2 {
            cpu.set_cfs_quota_and_period(Some(quota), Some(period))
        } else {
            // The period first: a quota is checked against it (and cgroups-rs sets it last).
            cpu.set_cfs_period(period).and_then(|()| cpu.set_cfs_quota(quota))
        };
        result.map_err(|error| self.failed(path, &error))
    }

    pub fn set_memory_max(&self, path: &str, bytes: Option<i64>) -> Result<(), CgroupError> {
        let file = if self.version == Version::V2 { "memory.max" } else { "memory.limit_in_bytes" };
        let now = words(&self.at(path).join(file)).concat();
        let same = match (bytes, now.parse::<i64>()) {
            (Some(bytes), Ok(now)) => bytes / PAGE == now / PAGE,
            // v1 says "no limit" by a number near the top.
            (None, Ok(now)) => now > i64::MAX / 2,
            (None, Err(_)) => now == "max",
            (Some(_), Err(_)) => false,
        };
        if same {
            return Ok(());
        }
        let memory = MemController::new(self.at(path), self.root.clone(), self.is_v2());
        memory.set_limit(bytes.unwrap_or(-1)).map_err(|error| self.failed(path, &error))
    }

    pub fn set_pids_max(&self, path: &str, max: Option<i64>) -> Result<(), CgroupError> {
        let pids = PidController::new(self.at(path), self.root.clone(), self.is_v2());
        let wanted = max.map_or(MaxValue::Max, MaxValue::Value);
        if pids.get_pid_max().ok() == Some(wanted) {
            return Ok(());
        }
        pids.set_pid_max(wanted).map_err(|error| self.failed(path, &error))
    }

    /// Cgroup paths directly below `path`.
    pub fn children(&self, path: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.at(path)) else { return Vec::new() };
        entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| format!("{path}/{}", entry.file_name().to_string_lossy()))
            .collect()
    }

    /// Ends every process in the cgroup and below it.
    pub fn kill(&self, path: &str) -> Result<(), CgroupError> {
        let at = self.at(path);
        if !at.exists() {
            return Ok(());
        }
        let mut left = Vec::new();
        for round in 0..KILL_ROUNDS {
            left = self.processes(path);
            if left.is_empty() {
                return Ok(());
            }
            if self.version == Version::V2 && at.join("cgroup.kill").exists() {
                write(&at.join("cgroup.kill"), "1")?;
            } else {
                for pid in &left {
                    // It may have ended meanwhile; who is left is seen in the next round.
                    let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
                }
            }
            if round > 0 {
                std::thread::sleep(KILL_PAUSE);
            }
        }
        Err(CgroupError::Busy { path: at, pids: left })
    }

    fn processes(&self, path: &str) -> Vec<i32> {
        let mut pids: Vec<i32> = words(&self.at(path).join("cgroup.procs"))
            .iter()
            // 0 is a process of another pid namespace: not ours to name.
            .filter_map(|word| word.parse().ok().filter(|pid| *pid > 0))
            .collect();
        for child in self.children(path) {
            pids.extend(self.processes(&child));
        }
        pids
    }

    /// Removes the cgroup, children first.
    pub fn remove(&self, path: &str) -> Result<(), CgroupError> {
        for child in self.children(path) {
            self.remove(&child)?;
        }
        let at = self.at(path);
        for _ in 0..KILL_ROUNDS {
            match std::fs::remove_dir(&at) {
                // The last process is still on its way out.
                Err(error) if error.raw_os_error() == Some(nix::libc::EBUSY) => {
                    std::thread::sleep(KILL_PAUSE);
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(io_at(&at)(error));
                }
                _ => return Ok(()),
            }
        }
        Err(CgroupError::Busy { pids: self.processes(path), path: at })
    }

    fn is_v2(&self) -> bool {
        self.version == Version::V2
    }

    fn cpu(&self, path: &str) -> CpuController {
        CpuController::new(self.at(path), self.root.clone(), self.is_v2())
    }

    fn failed(&self, path: &str, error: &Error) -> CgroupError {
        let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
        let text = format!("{error}{}", cause.unwrap_or_default());
        CgroupError::Write { path: self.at(path), text }
    }
}

const PAGE: i64 = 4096;

fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    std::fs::write(path, value).map_err(io_at(path))
}

/// `cpu.weight` for CPU shares: the quadratic rule of today's OCI runtimes, where 1024 is 100
/// (A140).
pub(super) fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            10f64.powf(exponent).ceil() as u64
        }
    }
}

/// The other way round, to the precision that a weight has.
pub(super) fn shares_of_weight(weight: u64) -> u64 {
    match weight {
        0 => 0,
        1 => 2,
        10_000.. => 262_144,
        _ => {
            let exponent = (weight as f64).log10() + 7.0 / 34.0;
            let log = (-125.0 + (125.0f64 * 125.0 + 4.0 * 612.0 * exponent).sqrt()) / 2.0;
            log.exp2().floor() as u64
        }
    }
}
