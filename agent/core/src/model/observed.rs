//! What is: facts read from the runtime, the kernel and the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::PodStatus;

use super::{ObjectKey, PodUid, Time};

/// All that was seen of one pod, newest first where order matters. Rebuilt from CRI labels and
/// annotations alone (A204): nothing in it is remembered by the daemon.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ObservedPod {
    /// By attempt, newest first.
    pub sandboxes: Vec<ObservedSandbox>,
    /// By creation, newest first.
    pub containers: Vec<ObservedContainer>,
    /// Images that the pod names and their state in the runtime.
    pub images: BTreeMap<String, ImageState>,
    /// The pod cgroup exists with the values that were asked for.
    pub cgroup_ready: bool,
    /// Names of the pod's volumes whose content on disk is the wanted one.
    pub volumes_ready: bool,
    /// Anything of the pod's directories, mounts or cgroup is still there.
    pub leftovers: bool,
    /// The pod's interface row in the kernel is open: its policy is in force (C16). True for
    /// hostNetwork pods.
    pub network_programmed: bool,
    /// Sandboxes whose interface the kernel does not have any more, whatever the runtime says of
    /// them.
    pub lost_interfaces: BTreeSet<String>,
    /// The runtime says that it can make pod networks (A41).
    pub network_ready: bool,
    /// By container name and probe.
    pub probes: BTreeMap<(String, ProbeKind), ProbeVerdict>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SandboxState {
    Ready,
    NotReady,
}

#[derive(Clone, PartialEq, Debug)]
pub struct ObservedSandbox {
    pub id: String,
    pub attempt: u32,
    pub state: SandboxState,
    pub created_at: Time,
    /// Empty for hostNetwork.
    pub ips: Vec<IpAddr>,
    pub host_network: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ContainerState {
    Created,
    Running {
        started_at: Time,
    },
    Exited {
        started_at: Time,
        finished_at: Time,
        exit_code: i32,
        reason: String,
        message: String,
    },
    /// The runtime does not know: counts as failed, never as success (I5).
    Unknown,
}

#[derive(Clone, PartialEq, Debug)]
pub struct ObservedContainer {
    pub id: String,
    pub name: String,
    pub sandbox_id: String,
    /// CRI attempt = restartCount of this instance.
    pub attempt: u32,
    pub state: ContainerState,
    pub created_at: Time,
    /// The image as it was asked for.
    pub image: String,
    /// Reference the runtime resolved it to (`imageID` of the status).
    pub image_ref: String,
    /// Annotation `io.kubernetes.container.hash`: changes when {name, image} change (A73).
    pub hash: String,
    /// Text of the termination message file or, by policy, of the log's end (A71).
    pub termination_message: String,
    /// Annotation `io.kubernetes.pod.terminationGracePeriod`: the grace of a pod that no source
    /// names any more (A204).
    pub grace_s: Option<i64>,
    /// Who its first process is; `None`: the runtime does not say (containerd 1).
    pub user: Option<ObservedUser>,
}

impl ObservedContainer {
    /// Its start was cut off before it had a process, because the daemon that asked for it died:
    /// containerd then gives it an end, and nothing of it ever ran (F01, I4).
    pub fn never_ran(&self) -> bool {
        let ContainerState::Exited { started_at, reason, message, .. } = &self.state else {
            return false;
        };
        started_at.unix_ms() <= 0
            && reason == "StartError"
            && message.contains("failed to create")
            && message.contains("context canceled")
    }
}

/// User and groups of a container's first process.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ObservedUser {
    pub uid: i64,
    pub gid: i64,
    pub supplemental_groups: Vec<i64>,
}

/// An image in the runtime, or what became of the last attempt to pull it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ImageState {
    /// Not in the runtime and not asked for yet.
    Absent,
    Present {
        /// Resolved reference.
        id: String,
        /// The image's own user, for runAsNonRoot (A128): numeric, or a name.
        uid: Option<i64>,
        username: String,
    },
    Pulling {
        since: Time,
    },
    /// The last pull failed.
    Failed {
        at: Time,
        reason: &'static str,
        message: String,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ProbeKind {
    Startup,
    Readiness,
    Liveness,
}

/// What a probe says of one container instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProbeVerdict {
    /// The instance that was probed; a verdict of another instance counts for nothing.
    pub container_id: String,
    /// The threshold was reached in this direction.
    pub success: bool,
    /// Of the last failure.
    pub message: String,
}

/// What this node knows of its own pod before anyone else does. Published into the World.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct LocalPod {
    pub key: Option<ObjectKey>,
    pub uid: Option<PodUid>,
    /// Address and host-side interface, from the CNI ADD until its DEL or the interface's end.
    pub attachment: Option<Attachment>,
    /// The Ready condition.
    pub ready: bool,
    pub terminating: bool,
    pub status: PodStatus,
}

/// A pod's place on the node's network.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Attachment {
    pub ip: IpAddr,
    pub ifindex: u32,
    pub ifname: String,
    /// Of the pod's own interface.
    pub mac: [u8; 6],
    /// The sandbox that owns it.
    pub sandbox_id: String,
}
