//! `longshore status` as data: what `-o json` prints and the tables are made from.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use longshore_core::model::{LocalPod, ObjectKey, PodUid, Severity, Time, World, labels};
use serde::{Deserialize, Serialize};

use super::protocol::EventRow;
use super::words::pod_word;
use super::{NodeFacts, Views};

/// Events that `status` shows.
const EVENTS: usize = 10;

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub node: NodeRow,
    pub pods: Vec<PodRow>,
    pub services: Vec<ServiceRow>,
    pub policies: Vec<PolicyRow>,
    /// `file:line: what`.
    pub problems: Vec<String>,
    pub events: Vec<EventRow>,
    /// Nothing is wrong and every pod is ready or done.
    pub healthy: bool,
    pub now_unix_ms: i64,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRow {
    pub name: String,
    pub role: String,
    pub ips: Vec<String>,
    pub version: String,
    pub runtime: String,
    pub started_unix_ms: i64,
    pub revision: u64,
    /// Every source of the world has been read.
    pub synced: bool,
    /// Connections that a NetworkPolicy made the kernel track, when they were last counted.
    #[serde(default)]
    pub flows: Option<usize>,
    pub degraded: Vec<String>,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRow {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub containers_ready: usize,
    pub containers: usize,
    /// As `kubectl get pods` says it.
    pub status: String,
    pub restarts: i64,
    pub created_unix_ms: i64,
    pub ip: String,
    /// Why it waits, when it does.
    pub message: String,
    pub ready: bool,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRow {
    pub namespace: String,
    pub name: String,
    pub kind: String,
    pub cluster_ip: String,
    pub ports: String,
    pub endpoints_ready: usize,
    pub endpoints: usize,
    pub addresses: Vec<String>,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyRow {
    pub namespace: String,
    pub name: String,
    pub directions: String,
    pub pods: usize,
}

impl Status {
    pub fn of(views: &dyn Views) -> Self {
        let problems = views.problems();
        let mut status = Self::of_world(&views.world(), views.node(), views.now());
        status.healthy &= problems.iter().all(|one| one.problem.severity != Severity::Error);
        status.problems = problems.iter().map(ToString::to_string).collect();
        status.events = views.events(EVENTS);
        status
    }

    fn of_world(world: &World, node: NodeFacts, now: Time) -> Self {
        let pods: Vec<PodRow> =
            world.pods.iter().map(|(key, pod)| pod_row(world, key, pod)).collect();
        let healthy = world.synced
            && node.degraded.is_empty()
            && pods
                .iter()
                .all(|pod| pod.ready || matches!(pod.status.as_str(), "Completed" | "Terminating"));
        Self {
            node: NodeRow {
                name: node.name,
                role: node.role,
                ips: node.ips,
                version: node.version,
                runtime: node.runtime,
                started_unix_ms: node.started_at.unix_ms(),
                revision: world.revision,
                synced: world.synced,
                flows: node.flows,
                degraded: node.degraded,
            },
            pods,
            services: world
                .services
                .iter()
                .map(|(key, service)| service_row(world, key, service))
                .collect(),
            policies: world
                .policies
                .iter()
                .map(|(key, policy)| policy_row(world, key, policy))
                .collect(),
            healthy,
            now_unix_ms: now.unix_ms(),
            ..Self::default()
        }
    }
}

fn pod_row(world: &World, key: &ObjectKey, pod: &Pod) -> PodRow {
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let live = world.local.get(&PodUid::new(uid.as_str()));
    let nothing = LocalPod::default();
    let live = live.map_or(&nothing, |live| &**live);
    let status = &live.status;
    let containers = status.container_statuses.as_deref().unwrap_or_default();
    let init = status.init_container_statuses.as_deref().unwrap_or_default();
    let waiting = containers
        .iter()
        .chain(init)
        .find_map(|one| one.state.as_ref()?.waiting.as_ref()?.message.clone());
    let spec = pod.spec.as_ref();
    PodRow {
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        uid,
        containers_ready: containers.iter().filter(|one| one.ready).count(),
        containers: spec.map_or(0, |spec| spec.containers.len()),
        status: pod_word(pod, status),
        restarts: containers.iter().map(|one| i64::from(one.restart_count)).sum(),
        created_unix_ms: pod
            .metadata
            .creation_timestamp
            .as_ref()
            .map_or(0, |at| Time::from_api(at).unix_ms()),
        ip: status
            .pod_ip
            .clone()
            .or_else(|| live.attachment.as_ref().map(|attachment| attachment.ip.to_string()))
            .unwrap_or_default(),
        message: waiting.or_else(|| status.message.clone()).unwrap_or_default(),
        ready: live.ready,
    }
}

fn service_row(world: &World, key: &ObjectKey, service: &Service) -> ServiceRow {
    let spec = service.spec.clone().unwrap_or_default();
    let of_service = world.endpoint_slices.iter().filter(|(name, slice)| {
        name.namespace == key.namespace
            && labels::of(&slice.metadata)
                .get("kubernetes.io/service-name")
                .is_some_and(|name| **name == *key.name)
    });
    let endpoints: Vec<_> =
        of_service.flat_map(|(_, slice)| slice.endpoints.clone().unwrap_or_default()).collect();
    let ready = endpoints
        .iter()
        .filter(|one| one.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true));
    let ports = spec.ports.iter().flatten();
    let port = |port: &k8s_openapi::api::core::v1::ServicePort| {
        format!("{}/{}", port.port, port.protocol.as_deref().unwrap_or("TCP"))
    };
    let mut addresses: Vec<String> =
        endpoints.iter().flat_map(|one| one.addresses.clone()).collect();
    addresses.sort_by_key(|text| text.parse::<IpAddr>().ok());
    ServiceRow {
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        kind: spec.type_.clone().unwrap_or_default(),
        cluster_ip: spec.cluster_ip.clone().unwrap_or_default(),
        ports: ports.map(port).collect::<Vec<_>>().join(","),
        endpoints_ready: ready.count(),
        endpoints: endpoints.len(),
        addresses,
    }
}

fn policy_row(world: &World, key: &ObjectKey, policy: &NetworkPolicy) -> PolicyRow {
    let spec = policy.spec.clone().unwrap_or_default();
    let selector = labels::parse(&spec.pod_selector.unwrap_or_default()).ok();
    let selected = world.pods.iter().filter(|(name, pod)| {
        let host = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
        let matches = selector
            .as_ref()
            .is_some_and(|selector| labels::matches(selector, labels::of(&pod.metadata)));
        name.namespace == key.namespace && matches && !host
    });
    PolicyRow {
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        directions: spec.policy_types.unwrap_or_default().join(","),
        pods: selected.count(),
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
pub(super) mod tests;
