//! The status of a node, computed anew from what is measured (A6–A18).

use k8s_openapi::api::core::v1::{
    DaemonEndpoint, NodeAddress, NodeDaemonEndpoints, NodeFeatures, NodeRuntimeHandler,
    NodeRuntimeHandlerFeatures, NodeStatus, NodeSwapStatus, NodeSystemInfo,
};

use super::{Identity, NodeInputs, allocatable, capacity, conditions, images};
use crate::model::{RuntimeFacts, Time};

/// The kubelet that this daemon stands for, and its own version (A8).
pub const KUBELET_VERSION: &str = concat!("v1.37.1+longshore.", env!("CARGO_PKG_VERSION"));

/// What the status should be. `previous` is what the API server has: fields of others stay
/// (`volumesAttached`, foreign conditions, extended resources), and what the runtime did not answer
/// about stays as it was.
///
/// `declaredFeatures` (A17) is empty: no feature that is told there is claimed yet.
pub fn status(inputs: &NodeInputs<'_>, previous: &NodeStatus, now: Time) -> NodeStatus {
    let node = &inputs.config.node;
    let none = std::collections::BTreeMap::new();
    let capacity = capacity(inputs.machine, node, previous.capacity.as_ref().unwrap_or(&none));
    let known = previous.conditions.as_deref().unwrap_or_default();
    let conditions = conditions::conditions(inputs, &capacity, known, now);
    let runtime = inputs.runtime;
    let images = match &runtime.images {
        Some(known) => Some(images::images(known, node.status_max_images)),
        None => previous.images.clone(),
    };
    let port = DaemonEndpoint { port: i32::from(node.server.port) };
    NodeStatus {
        addresses: match inputs.identity.external_cloud {
            true => previous.addresses.clone(),
            false => Some(addresses(inputs.identity)),
        },
        allocatable: Some(allocatable(&capacity, node)),
        capacity: Some(capacity),
        conditions: Some(conditions),
        daemon_endpoints: Some(NodeDaemonEndpoints { kubelet_endpoint: Some(port) }),
        declared_features: None,
        features: features(runtime, previous),
        images: images.filter(|images| !images.is_empty()),
        node_info: Some(node_info(inputs, previous)),
        runtime_handlers: handlers(runtime, previous),
        ..previous.clone()
    }
}

/// At most one InternalIP of each family, then the Hostname (A9).
fn addresses(identity: &Identity) -> Vec<NodeAddress> {
    let address = |kind: &str, address: String| NodeAddress { type_: kind.into(), address };
    let first = identity.ips.first();
    let other =
        first.and_then(|first| identity.ips.iter().find(|ip| ip.is_ipv4() != first.is_ipv4()));
    let mut addresses: Vec<NodeAddress> =
        first.into_iter().chain(other).map(|ip| address("InternalIP", ip.to_string())).collect();
    addresses.push(address("Hostname", identity.hostname.clone()));
    addresses
}

/// A8. `kubeProxyVersion` is empty, as the kubelet's is since 1.33.
fn node_info(inputs: &NodeInputs<'_>, previous: &NodeStatus) -> NodeSystemInfo {
    let machine = inputs.machine;
    let runtime = inputs.runtime.version.clone();
    let known = previous.node_info.as_ref().map(|info| info.container_runtime_version.clone());
    NodeSystemInfo {
        architecture: inputs.identity.architecture.clone(),
        boot_id: machine.boot_id.clone(),
        container_runtime_version: runtime.or(known).unwrap_or_default(),
        kernel_version: machine.kernel_version.clone(),
        kube_proxy_version: String::new(),
        kubelet_version: KUBELET_VERSION.into(),
        machine_id: machine.machine_id.clone(),
        operating_system: "linux".into(),
        os_image: machine.os_image.clone(),
        running_in_user_namespace: machine.in_user_namespace,
        swap: (machine.swap_bytes > 0)
            .then_some(NodeSwapStatus { capacity: Some(machine.swap_bytes) }),
        system_uuid: machine.system_uuid.clone(),
    }
}

fn features(runtime: &RuntimeFacts, previous: &NodeStatus) -> Option<NodeFeatures> {
    match runtime.supplemental_groups_policy {
        Some(policy) => Some(NodeFeatures { supplemental_groups_policy: Some(policy) }),
        None => previous.features.clone(),
    }
}

fn handlers(runtime: &RuntimeFacts, previous: &NodeStatus) -> Option<Vec<NodeRuntimeHandler>> {
    let Some(known) = &runtime.handlers else { return previous.runtime_handlers.clone() };
    let mut sorted = known.clone();
    sorted.sort();
    let handlers: Vec<NodeRuntimeHandler> = sorted
        .into_iter()
        .map(|handler| {
            let told =
                handler.recursive_read_only_mounts.is_some() || handler.user_namespaces.is_some();
            NodeRuntimeHandler {
                name: Some(handler.name).filter(|name| !name.is_empty()),
                features: told.then_some(NodeRuntimeHandlerFeatures {
                    recursive_read_only_mounts: handler.recursive_read_only_mounts,
                    user_namespaces: handler.user_namespaces,
                }),
            }
        })
        .collect();
    Some(handlers).filter(|handlers| !handlers.is_empty())
}
