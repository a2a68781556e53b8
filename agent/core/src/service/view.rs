//! One Service as its frontends: which it has, and which of its fields are not served.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::choose;
use super::endpoints::{self, Around};
use crate::image::{Frontend, Protocol, ServiceEntry, View};
use crate::model::{Kind, ObjectKey, Problem, Severity, labels};

/// Any value: another proxy serves the Service (B4).
pub(super) const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Slices of headless Services (B2).
pub(super) const HEADLESS: &str = "service.kubernetes.io/headless";

/// One Service compiled.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Compiled {
    pub entries: BTreeMap<Frontend, ServiceEntry>,
    pub problems: Vec<Problem>,
}

/// The API's number as a port.
pub(super) fn port(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port != 0)
}

/// TCP when none is given.
pub(super) fn protocol(name: Option<&str>) -> Option<Protocol> {
    match name {
        None | Some("" | "TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some("SCTP") => Some(Protocol::Sctp),
        Some(_) => None,
    }
}

/// `slices` are the Service's own, in key order.
pub(super) fn compile(
    key: &ObjectKey,
    service: &Service,
    slices: &[(&ObjectKey, &EndpointSlice)],
    around: &Around,
) -> Compiled {
    let mut compiled = Compiled::default();
    let Some(spec) = service.spec.as_ref().filter(|spec| is_proxied(service, spec)) else {
        return compiled;
    };
    let mut tell = Teller { key, problems: &mut compiled.problems };
    let addresses = addresses_of(spec, &mut tell);
    warn_of_range(&addresses, around.node.service_cidr, &mut tell);
    warn_of_faces(spec, &mut tell);
    let local_only = is_local_only(spec, &mut tell);
    let ours = || slices.iter().filter(|(_, slice)| endpoints::is_ours(slice));
    for (index, port_spec) in spec.ports.iter().flatten().enumerate() {
        let Some((port, proto)) = port_of(index, port_spec, &mut tell) else { continue };
        let port_name = port_spec.name.clone().unwrap_or_default();
        let of_port =
            endpoints::candidates(ours().map(|(_, slice)| *slice), &port_name, proto, around);
        let backends = match local_only {
            true => choose::local(&of_port),
            false => choose::cluster(&of_port, &around.node.name, around.zone),
        };
        for addr in &addresses {
            let at = Frontend { addr: *addr, port, proto, view: View::Internal };
            let entry = ServiceEntry {
                service: key.clone(),
                port_name: port_name.clone(),
                backends: backends.clone(),
                local_only,
                affinity_s: None,
            };
            if let Entry::Vacant(free) = compiled.entries.entry(at) {
                free.insert(entry);
            } else {
                let message = format!("{proto}/{port} is used by an earlier port of this Service");
                tell.error("Duplicate", format!("spec.ports[{index}].port"), message);
            }
        }
    }
    for (key, slice) in ours() {
        compiled.problems.extend(endpoints::problems_of(key, slice));
    }
    compiled
}

/// Collects what is wrong with one Service.
struct Teller<'a> {
    key: &'a ObjectKey,
    problems: &'a mut Vec<Problem>,
}

impl Teller<'_> {
    fn tell(&mut self, severity: Severity, reason: &'static str, field: String, message: String) {
        let (kind, key) = (Kind::Service, self.key.clone());
        self.problems.push(Problem { kind, key, severity, reason, field, message });
    }

    fn error(&mut self, reason: &'static str, field: String, message: String) {
        self.tell(Severity::Error, reason, field, message);
    }

    fn not_yet(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.tell(Severity::Warning, "NotSupported", field.into(), message.into());
    }
}

/// B1–B4: headless Services, names and other proxies' Services have no frontend, and that is right.
fn is_proxied(service: &Service, spec: &ServiceSpec) -> bool {
    let first = spec.cluster_ips.as_ref().and_then(|ips| ips.first()).or(spec.cluster_ip.as_ref());
    !labels::of(&service.metadata).contains_key(PROXY_NAME)
        && spec.type_.as_deref() != Some("ExternalName")
        && first.map(String::as_str) != Some("None")
}

/// The IPv4 ClusterIPs.
fn addresses_of(spec: &ServiceSpec, tell: &mut Teller) -> Vec<IpAddr> {
    let listed = spec.cluster_ips.iter().flatten();
    let texts: Vec<(String, &String)> = match &spec.cluster_ips {
        Some(ips) if !ips.is_empty() => (0..)
            .zip(listed)
            .map(|(n, ip): (u32, _)| (format!("spec.clusterIPs[{n}]"), ip))
            .collect(),
        _ => spec.cluster_ip.iter().map(|ip| ("spec.clusterIP".to_owned(), ip)).collect(),
    };
    let mut addresses = Vec::new();
    for (field, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
        match text.parse::<IpAddr>() {
            Ok(ip) if ip.is_ipv4() => addresses.push(ip),
            Ok(_) => tell.not_yet(field, "IPv6 ClusterIPs are not served yet; IPv4 ones are"),
            Err(_) => {
                let message = format!("{text:?} is not an IP address; give an IPv4 address");
                tell.error("InvalidClusterIP", field, message);
            }
        }
    }
    if addresses.is_empty() && tell.problems.is_empty() {
        let message = "the Service has no ClusterIP yet and answers nowhere";
        let field = "spec.clusterIP".to_owned();
        tell.tell(Severity::Warning, "ClusterIPNotAllocated", field, message.to_owned());
    }
    addresses
}

/// Packets to a ClusterIP that no hook has translated are dropped by the range (I9).
fn warn_of_range(addresses: &[IpAddr], range: IpNet, tell: &mut Teller) {
    for ip in addresses.iter().filter(|ip| !range.contains(*ip)) {
        let message = format!(
            "{ip} is not in --service-cidr {range}: start longshore with the range of the API server's \
             --service-cluster-ip-range, or packets to a Service without endpoints leave the node"
        );
        tell.tell(Severity::Warning, "ClusterIPOutOfRange", "spec.clusterIP".to_owned(), message);
    }
}

/// Faces of a Service beside its ClusterIP, and how it keeps clients: later issues.
fn warn_of_faces(spec: &ServiceSpec, tell: &mut Teller) {
    if let Some(kind @ ("NodePort" | "LoadBalancer")) = spec.type_.as_deref() {
        tell.not_yet("spec.type", format!("{kind} is not served yet; the ClusterIP is"));
    }
    if spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty()) {
        tell.not_yet("spec.externalIPs", "external addresses are not served yet; the ClusterIP is");
    }
    if spec.session_affinity.as_deref() == Some("ClientIP") {
        let message = "affinity to a client's address is not kept yet; each connection is balanced";
        tell.not_yet("spec.sessionAffinity", message);
    }
}

fn is_local_only(spec: &ServiceSpec, tell: &mut Teller) -> bool {
    match spec.internal_traffic_policy.as_deref() {
        Some("Local") => true,
        None | Some("" | "Cluster") => false,
        Some(other) => {
            let message = format!("{other:?} is neither Cluster nor Local; Cluster is used");
            tell.error("Invalid", "spec.internalTrafficPolicy".to_owned(), message);
            false
        }
    }
}

fn port_of(
    index: usize,
    port_spec: &k8s_openapi::api::core::v1::ServicePort,
    tell: &mut Teller,
) -> Option<(u16, Protocol)> {
    let Some(number) = port(port_spec.port) else {
        let message = format!("{} is not a port from 1 to 65535", port_spec.port);
        tell.error("Invalid", format!("spec.ports[{index}].port"), message);
        return None;
    };
    let field = format!("spec.ports[{index}].protocol");
    match protocol(port_spec.protocol.as_deref()) {
        Some(Protocol::Sctp) => {
            tell.not_yet(field, "SCTP ports of Services are not served yet; TCP and UDP ones are");
            None
        }
        Some(proto) => Some((number, proto)),
        None => {
            let given = port_spec.protocol.as_deref().unwrap_or("");
            tell.error("Invalid", field, format!("{given:?} is not TCP, UDP or SCTP"));
            None
        }
    }
}
