//! What policy needs to know of one pod, from its API object and from this node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus};

use super::rules::PortName;
use crate::image::{LocalInterface, Protocol};
use crate::model::labels::{self, Labels};
use crate::model::{NodeView, ObjectKey, PodUid, World};

/// The label that every namespace has, whatever its object says (C6).
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PodFacts {
    pub key: ObjectKey,
    /// Some pod object told the labels. Without that the pod is closed (C16).
    pub known: bool,
    pub labels: Labels,
    /// Container ports by name; the first container that declares a name wins (C10).
    pub ports: BTreeMap<PortName, u16>,
    /// Addresses that the pod has now. None for hostNetwork pods and for ended ones.
    pub claims: BTreeSet<IpAddr>,
    /// Its interface, if it is attached to this node.
    pub local: Option<LocalInterface>,
    pub running: bool,
    pub terminating: bool,
    /// creationTimestamp in Unix milliseconds; 0 when there is none.
    pub created_ms: i64,
}

/// UID of a pod object; one that has none (it never passed an API server) goes by its name.
pub fn uid_of(key: &ObjectKey, pod: &Pod) -> PodUid {
    match &pod.metadata.uid {
        Some(uid) => PodUid::new(uid.as_str()),
        None => PodUid::new(key.to_string()),
    }
}

/// The facts of `uid`, or `None` when nothing of it is left. `before`: the facts of the last time,
/// which stay in force while the pod's object is gone and its interface is not (C16, F54).
pub fn read(
    world: &World,
    node: &NodeView,
    key: &ObjectKey,
    uid: &PodUid,
    before: Option<&PodFacts>,
) -> Option<PodFacts> {
    let object = world.pods.get(key).filter(|pod| uid_of(key, pod) == *uid);
    let local = world.local.get(uid);
    let attachment = local.and_then(|local| local.attachment.as_ref());
    let mut facts = match (object, attachment, before) {
        (Some(pod), _, _) => of_object(node, key, pod),
        (None, None, _) => return None,
        (None, Some(_), Some(before)) => PodFacts { terminating: true, ..before.clone() },
        (None, Some(_), None) => unknown(key),
    };
    if let Some(attachment) = attachment {
        facts.claims = BTreeSet::from([attachment.ip]);
        facts.local = Some(LocalInterface { ifindex: attachment.ifindex, mac: attachment.mac });
    } else {
        facts.local = None;
    }
    let ended_here = local.is_some_and(|local| ended(Some(&local.status)));
    if ended_here || object.is_some_and(|pod| ended(pod.status.as_ref()) || host_network(pod)) {
        facts.claims.clear();
        facts.local = None;
    }
    Some(facts)
}

fn of_object(node: &NodeView, key: &ObjectKey, pod: &Pod) -> PodFacts {
    let spec = pod.spec.as_ref();
    let status = pod.status.as_ref();
    let here = spec.and_then(|spec| spec.node_name.as_deref()) == Some(node.name.as_str());
    // This node's own pods have the address of their interface, not what a status says.
    let claims = if here { BTreeSet::new() } else { status.map(addresses).unwrap_or_default() };
    PodFacts {
        key: key.clone(),
        known: true,
        labels: labels::of(&pod.metadata).clone(),
        ports: spec.map(ports).unwrap_or_default(),
        claims,
        local: None,
        running: status.and_then(|status| status.phase.as_deref()) == Some("Running"),
        terminating: pod.metadata.deletion_timestamp.is_some(),
        created_ms: pod
            .metadata
            .creation_timestamp
            .as_ref()
            .map_or(0, |time| crate::model::Time::from_api(time).unix_ms()),
    }
}

fn unknown(key: &ObjectKey) -> PodFacts {
    PodFacts {
        key: key.clone(),
        known: false,
        labels: Labels::new(),
        ports: BTreeMap::new(),
        claims: BTreeSet::new(),
        local: None,
        running: false,
        terminating: true,
        created_ms: 0,
    }
}

fn host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false)
}

fn ended(status: Option<&PodStatus>) -> bool {
    let phase = status.and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn addresses(status: &PodStatus) -> BTreeSet<IpAddr> {
    let list = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    list.chain(status.pod_ip.as_deref()).filter_map(|ip| ip.parse().ok()).collect()
}

fn ports(spec: &PodSpec) -> BTreeMap<PortName, u16> {
    let sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(sidecar);
    let mut ports = BTreeMap::new();
    for port in spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten()) {
        let proto = match port.protocol.as_deref() {
            None | Some("TCP") => Protocol::Tcp,
            Some("UDP") => Protocol::Udp,
            Some("SCTP") => Protocol::Sctp,
            Some(_) => continue,
        };
        if let (Some(name), Ok(number)) = (&port.name, u16::try_from(port.container_port)) {
            ports.entry((name.clone(), proto)).or_insert(number);
        }
    }
    ports
}

/// Labels of a namespace as selectors see them; also of one without an object.
pub fn namespace_labels(world: &World, name: &str) -> Labels {
    let object = world.namespaces.get(&ObjectKey::new("", name));
    let mut labels = object.map(|object| labels::of(&object.metadata).clone()).unwrap_or_default();
    labels.insert(NAMESPACE_NAME.to_owned(), name.to_owned());
    labels
}

/// The key that the facts of a local pod go by. A pod of which not even a name is known gets one
/// that no object has: a row without a pod would be the node's.
pub fn local_key(world: &World, uid: &PodUid) -> ObjectKey {
    let key = world.local.get(uid).and_then(|local| local.key.clone());
    key.unwrap_or_else(|| ObjectKey::new("", uid.as_str()))
}
