//! EndpointSlices from selectors and readiness, as the EndpointSlice controller derives them (B27, B28).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, Pod, PodSpec, Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::controller::{Desired, Inputs, Settings, stable_uid};
use super::deployments::is_terminal;
use crate::model::hash::safe_suffix;
use crate::model::labels::{self, Labels};
use crate::model::{LocalPod, ObjectKey, PodUid};

/// Endpoints of one slice.
const ENDPOINTS_MAX: usize = 100;

/// Resolved ports in the order of the Service: name, number, protocol, application protocol. Pods
/// whose named ports differ are in different slices (C10).
type Ports = Vec<(String, i32, String, Option<String>)>;

pub(super) fn slices(
    inputs: &Inputs,
    desired: &Desired,
) -> BTreeMap<ObjectKey, Arc<EndpointSlice>> {
    let services = desired.services.iter();
    services.flat_map(|(key, service)| of_service(inputs, desired, key, service)).collect()
}

fn of_service(
    inputs: &Inputs,
    desired: &Desired,
    key: &ObjectKey,
    service: &Service,
) -> Vec<(ObjectKey, Arc<EndpointSlice>)> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let Some(selector) = spec.selector.as_ref().filter(|selector| !selector.is_empty()) else {
        return Vec::new();
    };
    if spec.type_.as_deref() == Some("ExternalName") {
        return Vec::new();
    }
    let v6 = spec
        .ip_families
        .as_ref()
        .is_some_and(|families| families.first().is_some_and(|f| f == "IPv6"));
    let mut groups: BTreeMap<Ports, Vec<Endpoint>> = BTreeMap::new();
    for (pod_key, pod) in &desired.pods {
        let selected =
            pod_key.namespace == key.namespace && selects(selector, labels::of(&pod.metadata));
        if !selected {
            continue;
        }
        let uid = PodUid::new(pod.metadata.uid.as_deref().unwrap_or_default());
        let Some(live) = inputs.live.get(&uid).filter(|live| !is_terminal(live)) else { continue };
        let Some(pod_spec) = &pod.spec else { continue };
        let Some(ip) = address(live, pod_spec, inputs.settings, v6) else { continue };
        let endpoint = endpoint(inputs.settings, key, spec, (pod_key, pod), live, ip);
        groups.entry(ports(spec, pod_spec)).or_default().push(endpoint);
    }
    let chunks = groups.into_iter().flat_map(|(ports, endpoints)| {
        let chunks: Vec<Vec<Endpoint>> =
            endpoints.chunks(ENDPOINTS_MAX).map(<[_]>::to_vec).collect();
        chunks.into_iter().map(move |chunk| (ports.clone(), chunk))
    });
    let chunks = chunks.enumerate();
    chunks
        .map(|(index, (ports, endpoints))| slice(key, service, index, ports, endpoints, v6))
        .collect()
}

fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// The pod's address of the family: what the network gave it, or the node's for hostNetwork.
fn address(live: &LocalPod, spec: &PodSpec, settings: &Settings, v6: bool) -> Option<IpAddr> {
    let fits = |ip: &IpAddr| ip.is_ipv6() == v6;
    if spec.host_network == Some(true) {
        return settings.node_ips.iter().copied().find(fits);
    }
    let reported = live.status.pod_ips.iter().flatten().filter_map(|ip| ip.ip.parse().ok());
    let single = live.status.pod_ip.iter().filter_map(|ip| ip.parse().ok());
    let attached = live.attachment.iter().map(|attachment| attachment.ip);
    attached.chain(reported).chain(single).find(fits)
}

/// Ports of the Service as they are on this pod; a named port that the pod does not have is left out.
fn ports(service: &ServiceSpec, pod: &PodSpec) -> Ports {
    let mut ports = Ports::new();
    for port in service.ports.iter().flatten() {
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
        let number = match &port.target_port {
            None => Some(port.port),
            Some(IntOrString::Int(number)) => Some(*number),
            Some(IntOrString::String(name)) => named_port(pod, name, &protocol),
        };
        if let Some(number) = number {
            ports.push((
                port.name.clone().unwrap_or_default(),
                number,
                protocol,
                port.app_protocol.clone(),
            ));
        }
    }
    ports
}

/// Containers first, then sidecars (init containers that keep running).
fn named_port(pod: &PodSpec, name: &str, protocol: &str) -> Option<i32> {
    let sidecars = pod
        .init_containers
        .iter()
        .flatten()
        .filter(|init| init.restart_policy.as_deref() == Some("Always"));
    let ports = pod
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten());
    ports
        .into_iter()
        .find(|port| {
            port.name.as_deref() == Some(name)
                && port.protocol.as_deref().unwrap_or("TCP") == protocol
        })
        .map(|port| port.container_port)
}

fn endpoint(
    settings: &Settings,
    service: &ObjectKey,
    spec: &ServiceSpec,
    (pod_key, pod): (&ObjectKey, &Pod),
    live: &LocalPod,
    ip: IpAddr,
) -> Endpoint {
    let terminating = pod.metadata.deletion_timestamp.is_some() || live.terminating;
    let serving = live.ready;
    let ready = spec.publish_not_ready_addresses == Some(true) || (serving && !terminating);
    let pod_spec = pod.spec.as_ref();
    let named = pod_spec.and_then(|spec| spec.subdomain.as_deref()) == Some(&*service.name);
    Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: pod_spec.and_then(|spec| spec.hostname.clone()).filter(|_| named),
        node_name: Some(settings.node_name.clone()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: Some(pod_key.namespace.to_string()),
            name: Some(pod_key.name.to_string()),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    }
}

fn slice(
    service: &ObjectKey,
    object: &Service,
    index: usize,
    ports: Ports,
    endpoints: Vec<Endpoint>,
    v6: bool,
) -> (ObjectKey, Arc<EndpointSlice>) {
    let name = format!("{}-{}", service.name, safe_suffix(&format!("{service}/{index}"), 5));
    let key = ObjectKey::new(service.namespace.clone(), name.as_str());
    let mut labels = labels::of(&object.metadata).clone();
    labels.insert("kubernetes.io/service-name".to_owned(), service.name.to_string());
    labels.insert("endpointslice.kubernetes.io/managed-by".to_owned(), "longshore".to_owned());
    if object.spec.as_ref().is_some_and(|spec| spec.cluster_ip.as_deref() == Some("None")) {
        labels.insert("service.kubernetes.io/headless".to_owned(), String::new());
    }
    let slice = EndpointSlice {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(service.namespace.to_string()),
            uid: Some(stable_uid("EndpointSlice", &key)),
            labels: Some(labels),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Service".to_owned(),
                name: service.name.to_string(),
                uid: stable_uid("Service", service),
                controller: Some(true),
                block_owner_deletion: Some(true),
            }]),
            ..ObjectMeta::default()
        },
        address_type: if v6 { "IPv6" } else { "IPv4" }.to_owned(),
        endpoints: Some(endpoints),
        ports: Some(
            ports
                .into_iter()
                .map(|(name, port, protocol, app_protocol)| EndpointPort {
                    name: Some(name),
                    port: Some(port),
                    protocol: Some(protocol),
                    app_protocol,
                })
                .collect(),
        ),
    };
    (key, Arc::new(slice))
}
