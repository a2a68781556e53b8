//! Endpoints of one Service port out of its slices: ports by name, copies of one address merged,
//! and what this node knows first of its own pods.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use imbl::OrdMap;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::view::{self, HEADLESS, PROXY_NAME};
use crate::image::Protocol;
use crate::model::{Kind, LocalPod, NodeView, ObjectKey, PodUid, Problem, Severity, labels};

/// What is known of one address and port, defaults resolved (B27).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Candidate {
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    /// On this node, by the endpoint's nodeName (B23: also for hostNetwork pods).
    pub local: bool,
    pub node_hints: BTreeSet<String>,
    pub zone_hints: BTreeSet<String>,
}

impl Candidate {
    /// Of two copies of an address the one that does not terminate wins (B5), then the better one.
    fn rank(&self) -> (bool, bool, bool, bool) {
        (!self.terminating, self.ready, self.serving, self.local)
    }
}

pub(super) type Candidates = BTreeMap<(IpAddr, u16), Candidate>;

/// Pods of this node by address, from the CNI ADD of each until its DEL.
#[derive(Clone, Debug, Default)]
pub(super) struct Locals {
    by_ip: BTreeMap<IpAddr, BTreeSet<PodUid>>,
    ip_of: BTreeMap<PodUid, IpAddr>,
}

impl Locals {
    pub fn of(local: &OrdMap<PodUid, std::sync::Arc<LocalPod>>) -> Self {
        let mut this = Self::default();
        for (uid, pod) in local {
            this.set(uid, Some(pod));
        }
        this
    }

    /// Addresses that the pod had and has.
    pub fn set(&mut self, uid: &PodUid, pod: Option<&LocalPod>) -> BTreeSet<IpAddr> {
        let new = pod.and_then(|pod| pod.attachment.as_ref()).map(|attachment| attachment.ip);
        let old = match new {
            Some(ip) => self.ip_of.insert(uid.clone(), ip),
            None => self.ip_of.remove(uid),
        };
        if let Some(ip) = old {
            let uids = self.by_ip.entry(ip).or_default();
            uids.remove(uid);
            if uids.is_empty() {
                self.by_ip.remove(&ip);
            }
        }
        if let Some(ip) = new {
            self.by_ip.entry(ip).or_default().insert(uid.clone());
        }
        old.into_iter().chain(new).collect()
    }

    fn at(&self, ip: IpAddr) -> impl Iterator<Item = &PodUid> {
        self.by_ip.get(&ip).into_iter().flatten()
    }
}

/// What is around a Service and is not of it.
pub(super) struct Around<'a> {
    pub node: &'a NodeView,
    /// The node's, empty where it has none.
    pub zone: &'a str,
    pub locals: &'a Locals,
    pub pods: &'a OrdMap<PodUid, std::sync::Arc<LocalPod>>,
    /// B22: readiness counts for nothing.
    pub publish_not_ready: bool,
}

/// Slices that the default proxy reads: IPv4, not headless, not another proxy's (B2, B4, B5).
pub(super) fn is_ours(slice: &EndpointSlice) -> bool {
    let labels = labels::of(&slice.metadata);
    !labels.contains_key(HEADLESS) && !labels.contains_key(PROXY_NAME)
}

/// Endpoints of the port `name` of `proto` in all slices; the slices in key order.
pub(super) fn candidates<'a>(
    slices: impl Iterator<Item = &'a EndpointSlice>,
    name: &str,
    proto: Protocol,
    around: &Around,
) -> Candidates {
    let mut found = Candidates::new();
    for slice in slices.filter(|slice| slice.address_type == "IPv4") {
        let ports = slice.ports.iter().flatten();
        let ours = ports.filter(|port| {
            port.name.as_deref().unwrap_or("") == name
                && view::protocol(port.protocol.as_deref()) == Some(proto)
        });
        for number in ours.filter_map(|port| port.port.and_then(view::port)) {
            for endpoint in slice.endpoints.iter().flatten() {
                let Some(ip) = address(endpoint) else { continue };
                let candidate = narrowed(candidate_of(endpoint, around.node), ip, endpoint, around);
                let known = found.entry((ip, number)).or_insert_with(|| candidate.clone());
                if candidate.rank() > known.rank() {
                    *known = candidate;
                }
            }
        }
    }
    found
}

/// The first address is the endpoint's; others are not for consumers (B5).
pub(super) fn address(endpoint: &Endpoint) -> Option<IpAddr> {
    endpoint.addresses.first()?.parse().ok().filter(IpAddr::is_ipv4)
}

fn candidate_of(endpoint: &Endpoint, node: &NodeView) -> Candidate {
    let conditions = endpoint.conditions.as_ref();
    let hints = endpoint.hints.as_ref();
    let nodes = hints.and_then(|hints| hints.for_nodes.as_ref()).into_iter().flatten();
    let zones = hints.and_then(|hints| hints.for_zones.as_ref()).into_iter().flatten();
    Candidate {
        ready: conditions.and_then(|c| c.ready).unwrap_or(true),
        serving: conditions.and_then(|c| c.serving).unwrap_or(true),
        terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
        local: endpoint.node_name.as_deref() == Some(node.name.as_str()),
        node_hints: nodes.map(|hint| hint.name.clone()).collect(),
        zone_hints: zones.map(|hint| hint.name.clone()).collect(),
    }
}

/// The local overlay: what this node knows of its pod at `ip` before the slice says it. It only
/// takes conditions away, and says nothing once the pod's attachment is gone.
fn narrowed(candidate: Candidate, ip: IpAddr, endpoint: &Endpoint, around: &Around) -> Candidate {
    let here: Vec<&LocalPod> =
        around.locals.at(ip).filter_map(|uid| around.pods.get(uid)).map(|pod| &**pod).collect();
    if here.is_empty() {
        return candidate;
    }
    let target = endpoint.target_ref.as_ref().and_then(pod_of);
    let is_it = |pod: &&LocalPod| match (&target, &pod.key) {
        (Some((namespace, name)), Some(key)) => {
            namespace.as_ref().is_none_or(|namespace| **namespace == *key.namespace)
                && **name == *key.name
        }
        _ => true,
    };
    // Of two instances of a name the better one: an old one may wait for its DEL.
    let best = here.into_iter().filter(is_it).max_by_key(|pod| (!pod.terminating, pod.ready));
    let Some(pod) = best else {
        // Another pod has the address: what the slice speaks of is gone.
        return Candidate { ready: false, serving: false, terminating: true, ..candidate };
    };
    if around.publish_not_ready {
        return candidate;
    }
    Candidate {
        ready: candidate.ready && pod.ready && !pod.terminating,
        serving: candidate.serving && pod.ready,
        terminating: candidate.terminating || pod.terminating,
        ..candidate
    }
}

/// Namespace (if given) and name of the pod behind an endpoint. Names, not UIDs: a static pod's UID
/// here is not the one of its mirror in the API.
fn pod_of(target: &ObjectReference) -> Option<(Option<&String>, &String)> {
    match target.kind.as_deref() {
        Some("Pod") => Some((target.namespace.as_ref(), target.name.as_ref()?)),
        _ => None,
    }
}

/// What a slice holds that is left out.
pub(super) fn problems_of(key: &ObjectKey, slice: &EndpointSlice) -> Vec<Problem> {
    let problem = |severity, reason, field: String, message| Problem {
        kind: Kind::EndpointSlice,
        key: key.clone(),
        severity,
        reason,
        field,
        message,
    };
    // Slices of the other family are no problem of a Service: its clusterIPs decide.
    match slice.address_type.as_str() {
        "IPv4" => {}
        "IPv6" => return Vec::new(),
        other => {
            let message = format!("{other} endpoints are not proxied; use IPv4 addresses");
            return vec![problem(
                Severity::Warning,
                "NotSupported",
                "addressType".to_owned(),
                message,
            )];
        }
    }
    let endpoints = slice.endpoints.iter().flatten().enumerate();
    let bad = endpoints.filter(|(_, endpoint)| address(endpoint).is_none());
    let addresses = bad.map(|(index, endpoint)| {
        let text = endpoint.addresses.first().map_or("", String::as_str);
        problem(
            Severity::Error,
            "InvalidEndpoint",
            format!("endpoints[{index}].addresses[0]"),
            format!("{text:?} is not an IPv4 address; the endpoint is left out"),
        )
    });
    let ports = slice.ports.iter().flatten().enumerate();
    let bad = ports.filter(|(_, port)| port.port.and_then(view::port).is_none());
    let ports = bad.map(|(index, _)| {
        problem(
            Severity::Warning,
            "InvalidEndpoint",
            format!("ports[{index}].port"),
            "a port from 1 to 65535 is needed; the port is left out".to_owned(),
        )
    });
    addresses.chain(ports).collect()
}
