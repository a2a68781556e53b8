//! What a pod worker can be told to do. Each action is idempotent: done twice is done once, and
//! after any crash the next decision starts from what is observed.

use std::collections::BTreeMap;

use longshore_proto::cri;

use crate::model::Time;

/// One step. The worker executes the actions of a decision in order and stops at the first that
/// fails; then it observes again.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// Create or correct the QoS and the pod cgroup.
    EnsureCgroup(CgroupPlan),
    /// Make the pod's directories, files and mounts what the plan says (A99–A105, A199).
    EnsureVolumes(VolumePlan),
    /// Pull unless it is on its way already. The result is an [`crate::model::ImageState`].
    PullImage {
        image: String,
        container: String,
    },
    /// RunPodSandbox. Below it the runtime calls our CNI plugin.
    RunSandbox {
        config: Box<cri::PodSandboxConfig>,
        runtime_handler: String,
    },
    CreateContainer {
        sandbox_id: String,
        config: Box<cri::ContainerConfig>,
        sandbox_config: Box<cri::PodSandboxConfig>,
    },
    /// `id`: `None` is the one that this decision's CreateContainer of that name makes.
    StartContainer {
        id: Option<String>,
        name: String,
    },
    /// SIGTERM (or the image's signal), `grace_s` seconds, SIGKILL (A58). Returns at once; the end is observed.
    StopContainer {
        id: String,
        name: String,
        grace_s: i64,
        why: String,
    },
    RemoveContainer {
        id: String,
        name: String,
    },
    StopSandbox {
        id: String,
    },
    RemoveSandbox {
        id: String,
    },
    /// Unmount and remove everything below the pod's directory.
    RemoveVolumes {
        pod_dir: String,
    },
    RemoveCgroup(CgroupPlan),
    /// Remove the pod's log directory.
    RemoveLogs {
        directory: String,
    },
    /// The pod is gone: delete the API object (or forget it, standalone) (A62).
    Finish,
    /// Record an event (A194).
    Event {
        warning: bool,
        reason: &'static str,
        message: String,
        container: Option<String>,
        /// It is remembered as told, so that it is not told again for the same.
        once: Option<Once>,
    },
}

impl Action {
    /// With the ID of the container that is to be started, from those that this decision's
    /// CreateContainer made, by name.
    #[must_use]
    pub fn with_created(mut self, created: &BTreeMap<String, String>) -> Self {
        if let Self::StartContainer { id, name } = &mut self
            && id.is_none()
        {
            *id = created.get(name).cloned();
        }
        self
    }
}

/// What an event is told once for: again only when `mark` changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Once {
    pub subject: String,
    pub mark: String,
}

/// The answer to "what now?". Printing it is enough to understand a pod.
#[derive(Clone, PartialEq, Debug)]
pub struct Decision {
    pub actions: Vec<Action>,
    pub status: k8s_openapi::api::core::v1::PodStatus,
    pub memory: super::Memory,
    /// Look again at this time even if nothing changes (back-off, grace, deadline).
    pub wake_at: Option<Time>,
    /// For `longshore explain pod`: one line each, newest decision only.
    pub why: Vec<String>,
    /// Probes that should be running now, by container instance.
    pub probes: Vec<ProbeTarget>,
}

/// A probe to run against a running container.
#[derive(Clone, PartialEq, Debug)]
pub struct ProbeTarget {
    pub container: String,
    pub container_id: String,
    pub kind: crate::model::ProbeKind,
    pub started_at: Time,
    pub probe: k8s_openapi::api::core::v1::Probe,
    /// Default host of HTTP and TCP probes: the pod IP.
    pub host: String,
    /// Named ports of the container.
    pub ports: BTreeMap<String, u16>,
}

/// The pod cgroup and its QoS parent, relative to the cgroup root (A142, A146, A147).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CgroupPlan {
    /// e.g. `/node-a/kubepods/burstable/pod<uid>`; for systemd the slice path.
    pub path: String,
    pub cpu_shares: u64,
    /// Microseconds per `cpu_period_us`; `None`: no limit.
    pub cpu_quota_us: Option<i64>,
    pub cpu_period_us: u64,
    /// Bytes; `None`: no limit.
    pub memory_bytes: Option<i64>,
    /// `None`: no limit (podPidsLimit).
    pub pids: Option<i64>,
}

/// Everything of the pod below its directory.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct VolumePlan {
    /// `<pods_dir>/<uid>`.
    pub pod_dir: String,
    /// `<pod_logs_dir>/<namespace>_<name>_<uid>` (A206).
    pub log_dir: String,
    /// By volume name.
    pub volumes: BTreeMap<String, PlannedVolume>,
    /// Files the daemon owns, by path below `pod_dir` (`etc-hosts`), with mode.
    pub files: BTreeMap<String, FileContent>,
    /// fsGroup: volumes that support it get this gid and g+rwX, setgid on directories (A115).
    pub fs_group: Option<i64>,
    /// Directories of the containers' logs, below `log_dir`.
    pub log_directories: Vec<String>,
    /// Empty files for termination messages, by path below `pod_dir` (A71).
    pub termination_files: Vec<String>,
}

/// A volume and where containers mount it from:
/// `<pod_dir>/volumes/kubernetes.io~<empty-dir|configmap|secret|downward-api|projected>/<name>`,
/// or the host's own path.
#[derive(Clone, PartialEq, Debug)]
pub struct PlannedVolume {
    pub path: String,
    pub volume: Volume,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Volume {
    /// mode 0777 (A99).
    EmptyDir,
    /// tmpfs (A100).
    EmptyDirMemory { size_bytes: Option<i64> },
    /// HugePages media are held Pending by the decision, never planned.
    HostPath { path: String, kind: HostPathKind },
    /// configMap, secret, downwardAPI, projected: files below an atomically swapped `..data` (A103).
    Files { entries: BTreeMap<String, FileContent>, tmpfs: bool },
    /// The same, with the files that it has: what should be in it is not known now (I10).
    Kept,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostPathKind {
    Unchecked,
    DirectoryOrCreate,
    Directory,
    FileOrCreate,
    File,
    Socket,
    CharDevice,
    BlockDevice,
}

/// A file's bytes. Never printed: it may hold a secret.
#[derive(Clone, PartialEq)]
pub struct FileContent {
    pub data: Vec<u8>,
    pub mode: u32,
    /// `None`: the daemon's own user.
    pub uid: Option<u32>,
}

impl std::fmt::Debug for FileContent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes, mode {:04o}", self.data.len(), self.mode)
    }
}
