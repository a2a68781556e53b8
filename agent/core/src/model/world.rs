//! What should be: every object that this node needs, as one immutable snapshot.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;

use super::token::{Token, TokenRequest};
use super::{Kind, LocalPod, ObjectKey, PodUid};

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
    /// By name; `namespace` of the key is empty. This node, and for routes and masquerade the
    /// others. Empty when there is no control plane.
    pub nodes: OrdMap<ObjectKey, Arc<Node>>,
    /// Copies of this node's static pods that the API server has (A31); never pods to run.
    pub mirrors: OrdMap<ObjectKey, Arc<Pod>>,
    /// Tokens that this node's pods asked for (A106), as the API server issued them.
    pub tokens: OrdMap<TokenRequest, Arc<Token>>,
    /// ConfigMaps and Secrets of which it is known whether they exist. `None`: all of them, because
    /// the source always delivers everything (files).
    pub known: Option<OrdSet<(Kind, ObjectKey)>>,
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
    Node(ObjectKey),
    /// [`World::mirrors`] at this key.
    Mirror(ObjectKey),
    /// [`World::tokens`] of this pod.
    Token(PodUid),
    /// [`World::local`] of this pod.
    Local(PodUid),
    /// [`World::synced`] became true.
    Synced,
}

impl World {
    /// Whether it is known if this object exists: its absence from the maps means that it does not.
    pub fn is_known(&self, kind: Kind, key: &ObjectKey) -> bool {
        self.known.as_ref().is_none_or(|known| known.contains(&(kind, key.clone())))
    }

    /// The pod of `key`, if its UID is `uid`.
    pub fn pod_of(&self, key: &ObjectKey, uid: &PodUid) -> Option<&Arc<Pod>> {
        self.pods.get(key).filter(|pod| pod.metadata.uid.as_deref() == Some(uid.as_str()))
    }
}
