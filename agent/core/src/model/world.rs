//! What should be: every object that this node needs, as one immutable snapshot.

use std::sync::Arc;

use imbl::OrdMap;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;

use super::{LocalPod, ObjectKey, PodUid};

/// A snapshot. Cloning shares everything: maps are persistent and objects are behind `Arc`, so one
/// event costs O(log n) whatever the size of the cluster.
///
/// Where it comes from differs by role (API server, files); who reads it never does.
#[derive(Clone, Default)]
pub struct World {
    /// Grows with every change.
    pub revision: u64,
    /// Every source has delivered a complete list. Before that nothing is deleted (A38, B9).
    pub synced: bool,
    /// All pods that matter here: this node's own, and for policy those of other nodes. A pod whose
    /// `metadata.deletionTimestamp` is set is being deleted.
    pub pods: OrdMap<ObjectKey, Arc<Pod>>,
    pub services: OrdMap<ObjectKey, Arc<Service>>,
    pub endpoint_slices: OrdMap<ObjectKey, Arc<EndpointSlice>>,
    pub policies: OrdMap<ObjectKey, Arc<NetworkPolicy>>,
    /// By name; `namespace` of the key is empty.
    pub namespaces: OrdMap<ObjectKey, Arc<Namespace>>,
    pub config_maps: OrdMap<ObjectKey, Arc<ConfigMap>>,
    pub secrets: OrdMap<ObjectKey, Arc<Secret>>,
    /// What this node knows first of its own pods: address, interface, readiness.
    pub local: OrdMap<PodUid, Arc<LocalPod>>,
}

/// Which key of the world changed: what wakes a worker and what a compiler recompiles.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Change {
    Pod(ObjectKey),
    Service(ObjectKey),
    EndpointSlice(ObjectKey),
    Policy(ObjectKey),
    Namespace(ObjectKey),
    ConfigMap(ObjectKey),
    Secret(ObjectKey),
    /// [`World::local`] of this pod.
    Local(PodUid),
    /// [`World::synced`] became true.
    Synced,
}

impl World {
    /// The pod of `key`, if its UID is `uid`.
    pub fn pod_of(&self, key: &ObjectKey, uid: &PodUid) -> Option<&Arc<Pod>> {
        self.pods.get(key).filter(|pod| pod.metadata.uid.as_deref() == Some(uid.as_str()))
    }
}
