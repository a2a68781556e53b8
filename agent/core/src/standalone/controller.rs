//! Manifests, memory and what is live → the objects that a control plane would have made.
//!
//! Called after every change; the same inputs give the same objects, and a second call on its own
//! result changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::catalog::Identity;
use super::manifest::{Located, Manifest, Object};
use super::state::State;
use super::{deployments, pods, services, slices};
use crate::model::hash::uid_of;
use crate::model::{Kind, LocalPod, NodeView, ObjectKey, PodUid, Time};

/// What the controllers need to know of the node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    pub node_name: String,
    /// Addresses of hostNetwork pods, in family order.
    pub node_ips: Vec<IpAddr>,
    /// ClusterIPs come from here.
    pub service_cidr: IpNet,
}

impl Settings {
    pub fn of(node: &NodeView) -> Self {
        Self {
            node_name: node.name.clone(),
            node_ips: node.ips.clone(),
            service_cidr: node.service_cidr,
        }
    }
}

/// Everything a decision reads but its memory.
pub struct Inputs<'a> {
    /// [`super::Catalog::settle`].
    pub manifests: &'a BTreeMap<Identity, Manifest>,
    pub settings: &'a Settings,
    /// [`crate::model::World::local`].
    pub live: &'a OrdMap<PodUid, Arc<LocalPod>>,
    pub now: Time,
}

impl Inputs<'_> {
    pub(super) fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Manifest> {
        let of_kind = move |((other, _), _): &(&Identity, &Manifest)| *other == kind;
        self.manifests.iter().filter(of_kind).map(|(_, manifest)| manifest)
    }

    pub(super) fn manifest(&self, kind: Kind, key: &ObjectKey) -> Option<&Manifest> {
        self.manifests.get(&(kind, key.clone()))
    }
}

/// The world as it should be: what [`crate::model::World`] gets from a directory.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Desired {
    pub pods: BTreeMap<ObjectKey, Arc<Pod>>,
    pub services: BTreeMap<ObjectKey, Arc<Service>>,
    pub endpoint_slices: BTreeMap<ObjectKey, Arc<EndpointSlice>>,
    pub policies: BTreeMap<ObjectKey, Arc<NetworkPolicy>>,
    pub namespaces: BTreeMap<ObjectKey, Arc<Namespace>>,
    pub config_maps: BTreeMap<ObjectKey, Arc<ConfigMap>>,
    pub secrets: BTreeMap<ObjectKey, Arc<Secret>>,
}

/// The answer of [`reconcile`].
#[derive(Clone, PartialEq, Debug)]
pub struct Outcome {
    pub desired: Desired,
    /// To be on disk before `desired` has an effect: UIDs and addresses are given once.
    pub state: State,
    pub problems: Vec<Located>,
    /// Look again then, even if nothing changes.
    pub wake_at: Option<Time>,
}

/// Collects what a step finds beside its objects.
#[derive(Default)]
pub(super) struct Notes {
    pub problems: Vec<Located>,
    pub wake_at: Option<Time>,
}

impl Notes {
    pub fn wake(&mut self, at: Time) {
        self.wake_at = Some(self.wake_at.map_or(at, |old| old.min(at)));
    }
}

/// Decides all objects of the directory.
pub fn reconcile(inputs: &Inputs, state: &State) -> Outcome {
    let mut state = state.clone();
    let mut notes = Notes::default();
    pods::reconcile(inputs, &mut state, &mut notes);
    deployments::reconcile(inputs, &mut state, &mut notes);
    services::reconcile(inputs, &mut state, &mut notes);
    let mut desired = Desired {
        pods: state.pods.iter().map(|(key, owned)| (key.clone(), owned.pod.clone())).collect(),
        services: state.services.clone(),
        ..Desired::default()
    };
    for manifest in inputs.manifests.values() {
        let key = manifest.object.key();
        match &manifest.object {
            Object::NetworkPolicy(object) => {
                desired.policies.insert(key.clone(), with_uid(object, "NetworkPolicy", &key));
            }
            Object::ConfigMap(object) => {
                desired.config_maps.insert(key.clone(), with_uid(object, "ConfigMap", &key));
            }
            Object::Secret(object) => {
                desired.secrets.insert(key.clone(), with_uid(object, "Secret", &key));
            }
            _ => {}
        }
    }
    desired.namespaces = namespaces(inputs, &desired);
    desired.endpoint_slices = slices::slices(inputs, &desired);
    notes.problems.sort();
    Outcome { desired, state, problems: notes.problems, wake_at: notes.wake_at }
}

/// The pod worker has removed everything of this pod (A62): its name is free.
pub fn finished(state: &mut State, key: &ObjectKey, uid: &PodUid) -> bool {
    let ours = state.pods.get(key).is_some_and(|owned| owned.uid() == *uid && owned.deleting());
    if ours {
        state.pods.remove(key);
    }
    ours
}

fn with_uid<T>(object: &Arc<T>, kind: &str, key: &ObjectKey) -> Arc<T>
where
    T: Clone + k8s_openapi::Metadata<Ty = ObjectMeta>,
{
    let mut object = T::clone(object);
    object.metadata_mut().uid = Some(stable_uid(kind, key));
    Arc::new(object)
}

/// UID of an object that nothing distinguishes from the next of its name.
pub(super) fn stable_uid(kind: &str, key: &ObjectKey) -> String {
    uid_of(&[kind, &key.namespace, &key.name])
}

/// Namespaces exist because something is in them, with the label of their name (C6).
fn namespaces(inputs: &Inputs, desired: &Desired) -> BTreeMap<ObjectKey, Arc<Namespace>> {
    let named = inputs.manifests.keys().map(|(kind, key)| match kind {
        Kind::Namespace => key.name.clone(),
        _ => key.namespace.clone(),
    });
    let of_pods = desired.pods.keys().map(|key| key.namespace.clone());
    let names: BTreeSet<Arc<str>> =
        named.chain(of_pods).chain(std::iter::once(Arc::from("default"))).collect();
    let namespace = |name: Arc<str>| {
        let key = ObjectKey::new("", name.clone());
        let mut namespace = match inputs.manifest(Kind::Namespace, &key).map(|m| &m.object) {
            Some(Object::Namespace(object)) => Namespace::clone(object),
            _ => Namespace::default(),
        };
        let metadata = &mut namespace.metadata;
        metadata.name = Some(name.to_string());
        metadata.uid = Some(stable_uid("Namespace", &key));
        let labels = metadata.labels.get_or_insert_default();
        labels.insert("kubernetes.io/metadata.name".to_owned(), name.to_string());
        (key, Arc::new(namespace))
    };
    names.into_iter().map(namespace).collect()
}

#[cfg(test)]
mod tests;
