//! The loops: observe, ask the core, execute. One worker per pod, and who wakes it.
//!
//! Deliberately absent: decisions (core) and how a thing is done (effects).

pub mod allocatable;
pub mod dataplane;
pub mod execute;
pub mod flows;
pub mod heartbeat;
pub mod jobs;
pub mod mirrors;
pub mod node;
pub mod pod;
pub mod pod_status;
pub mod pods;
pub mod probes;
pub mod routes;
pub mod status_file;
#[cfg(test)]
mod tests;
pub mod tokens;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use longshore_core::config::KubeletConfig;
use longshore_core::model::{Kind, NodeView, ObjectKey, PodUid, World};
use tokio::sync::watch;

use crate::effects::cgroup::Cgroups;
use crate::effects::cri::Cri;
use crate::effects::events::{Event, Recorder};
use crate::effects::images::Images;
use crate::observe::Observer;
use crate::supervise::Scope;
use crate::world::Store;
use heartbeat::Heartbeat;

/// How long a container's end waits for the dataplane: a kernel that refuses writes must not keep
/// pods alive.
const PATIENCE: Duration = Duration::from_millis(200);

/// How long a step of a pod on the disk may take before its event tells of it; and one in the
/// runtime that prepares a pod which was deleted meanwhile, before it is given up.
pub const STEP_PATIENCE: Duration = Duration::from_secs(10);

/// Pods whose endpoint row in the kernel is open: their policy is in force (C16); and which revision
/// of the World the kernel's maps mean. The dataplane worker fills it; clones share it.
#[derive(Clone)]
pub struct Programmed {
    uids: Arc<watch::Sender<BTreeSet<PodUid>>>,
    revision: Arc<watch::Sender<u64>>,
    patience: Duration,
}

impl Default for Programmed {
    fn default() -> Self {
        Self::with_patience(PATIENCE)
    }
}

impl Programmed {
    /// `patience`: how long [`Programmed::taken_in`] waits.
    pub fn with_patience(patience: Duration) -> Self {
        let (uids, revision) = (watch::channel(BTreeSet::new()).0, watch::channel(0).0);
        Self { uids: Arc::new(uids), revision: Arc::new(revision), patience }
    }

    /// The maps mean the World of `revision`.
    pub fn reach(&self, revision: u64) {
        self.revision.send_if_modified(|now| {
            let newer = revision > *now;
            *now = revision.max(*now);
            newer
        });
    }

    /// Waits until the maps mean the World of `revision` or a newer one, but not for long: what is
    /// published before a container's SIGTERM leaves the choice of Services before it.
    pub async fn taken_in(&self, revision: u64) {
        let mut reached = self.revision.subscribe();
        let wait = reached.wait_for(|now| *now >= revision);
        if tokio::time::timeout(self.patience, wait).await.is_err() {
            tracing::debug!(revision, "the dataplane has not taken in this World yet; going on");
        }
    }

    /// Replaces the set, after the kernel was read back.
    pub fn set(&self, uids: BTreeSet<PodUid>) {
        self.uids.send_if_modified(|now| {
            let changed = *now != uids;
            *now = uids;
            changed
        });
    }

    pub fn contains(&self, uid: &PodUid) -> bool {
        self.uids.borrow().contains(uid)
    }

    pub fn subscribe(&self) -> watch::Receiver<BTreeSet<PodUid>> {
        self.uids.subscribe()
    }
}

/// Who is told that a pod has ended and nothing of it is left: the source of pods (A62).
pub trait PodSink: Send + Sync {
    fn finished(&self, key: &ObjectKey, uid: &PodUid);

    /// Whether the pod's stored status must outlive it: its end is not told yet. Who says so forgets
    /// it afterwards.
    fn keeps(&self, _key: &ObjectKey, _uid: &PodUid) -> bool {
        false
    }
}

/// Lines for a pod's /etc/hosts beside its own: what standalone has instead of cluster DNS.
pub type ExtraHosts = dyn Fn(&World, &ObjectKey) -> Vec<(IpAddr, Vec<String>)> + Send + Sync;

/// Whether the kernel is sure not to have the interface of a sandbox, by its id.
pub type InterfaceLost = dyn Fn(&str) -> Pin<Box<dyn Future<Output = bool> + Send>> + Send + Sync;

/// Reasons of the newest decision about each pod, for `explain pod`.
#[derive(Clone, Default)]
pub struct Explanations {
    why: Arc<Mutex<BTreeMap<PodUid, Vec<String>>>>,
}

impl Explanations {
    pub fn of(&self, uid: &PodUid) -> Vec<String> {
        let why = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        why.get(uid).cloned().unwrap_or_default()
    }

    fn set(&self, uid: &PodUid, lines: Option<Vec<String>>) {
        let mut why = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        match lines {
            Some(lines) => why.insert(uid.clone(), lines),
            None => why.remove(uid),
        };
    }
}

/// What all pod workers share.
pub struct Shared {
    pub store: Store,
    pub scope: Scope,
    pub node: Arc<NodeView>,
    pub config: Arc<KubeletConfig>,
    pub cri: Cri,
    pub cgroups: Arc<dyn Cgroups>,
    pub images: Images,
    pub recorder: Recorder,
    pub observer: Observer,
    pub programmed: Programmed,
    pub sink: Arc<dyn PodSink>,
    pub extra_hosts: Arc<ExtraHosts>,
    pub interface_lost: Arc<InterfaceLost>,
    /// How long a step may take before it counts as hanging.
    pub patience: Duration,
    /// `runtime_name` of the Version reply.
    pub runtime_name: String,
    pub explanations: Explanations,
    /// Of the loop over all pods.
    pub heartbeat: Heartbeat,
}

impl Shared {
    fn pods_dir(&self) -> PathBuf {
        PathBuf::from(&self.node.pods_dir)
    }

    fn event(
        &self,
        key: &ObjectKey,
        uid: &PodUid,
        container: Option<&str>,
        warning: bool,
        reason: &str,
        message: String,
    ) {
        let now = crate::clock::now();
        let event = Event {
            kind: Kind::Pod,
            key: key.clone(),
            uid: uid.to_string(),
            container: container.map(str::to_owned),
            warning,
            reason: reason.to_owned(),
            message,
            first: now,
            last: now,
            count: 1,
        };
        self.recorder.record(event, now);
    }
}
