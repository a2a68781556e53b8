//! What is kept of an object: fields that nobody here reads cost memory, and their changes wake
//! workers for nothing.

use k8s_openapi::api::core::v1::{Container, Node, NodeSpec, NodeStatus, Pod, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The bookkeeping of field owners, which is often larger than the object.
pub fn metadata(metadata: &mut ObjectMeta) {
    metadata.managed_fields = None;
    metadata.self_link = None;
}

/// Also without what changes when nothing else does.
pub fn plain_metadata(meta: &mut ObjectMeta) {
    metadata(meta);
    meta.resource_version = None;
}

/// A pod of another node: labels, addresses, named ports.
pub fn other_pod(pod: Pod) -> Pod {
    let container = |c: Container| Container {
        name: c.name,
        ports: c.ports,
        restart_policy: c.restart_policy,
        ..Container::default()
    };
    let meta = pod.metadata;
    let spec = pod.spec.map(|spec| PodSpec {
        node_name: spec.node_name,
        host_network: spec.host_network,
        init_containers: spec.init_containers.map(|all| all.into_iter().map(container).collect()),
        containers: spec.containers.into_iter().map(container).collect(),
        ..PodSpec::default()
    });
    let status = pod.status.map(|status| PodStatus {
        phase: status.phase,
        pod_ip: status.pod_ip,
        pod_ips: status.pod_ips,
        ..PodStatus::default()
    });
    let metadata = ObjectMeta {
        name: meta.name,
        namespace: meta.namespace,
        uid: meta.uid,
        labels: meta.labels,
        deletion_timestamp: meta.deletion_timestamp,
        ..ObjectMeta::default()
    };
    Pod { metadata, spec, status }
}

/// Another node: addresses, pod ranges, labels (zone).
pub fn other_node(node: Node) -> Node {
    let meta = node.metadata;
    let spec = node.spec.map(|spec| NodeSpec {
        pod_cidr: spec.pod_cidr,
        pod_cidrs: spec.pod_cidrs,
        ..NodeSpec::default()
    });
    let status = node
        .status
        .map(|status| NodeStatus { addresses: status.addresses, ..NodeStatus::default() });
    let metadata = ObjectMeta {
        name: meta.name,
        uid: meta.uid,
        labels: meta.labels,
        annotations: meta.annotations,
        ..ObjectMeta::default()
    };
    Node { metadata, spec, status }
}
